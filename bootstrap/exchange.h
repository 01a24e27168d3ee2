/*
 * The job's store as a weir_exchange: requests that nobody waits for, over the connection that the rank has anyway. Their
 * numbers have the uppermost bit set, so their answers never mix with those of calls that wait. Any thread may use it,
 * also one that is called while another call waits (weir_boot_attend).
 */
#ifndef WI_BOOTSTRAP_EXCHANGE_H
#define WI_BOOTSTRAP_EXCHANGE_H

#include "bootstrap/wire.h"

#include <weir/exchange.h>

struct weir_boot;
struct wi_exchange_entry;

enum { WI_EXCHANGE_BUCKETS = 1024 }; /* a power of two */

struct wi_exchange {
    weir_exchange face;
    struct weir_boot *boot;
    int news; /* eventfd: an answer has come */
    uint32_t serial, looks; /* numbers of requests, and looks at the connection */
    struct wi_exchange_entry *buckets[WI_EXCHANGE_BUCKETS]; /* requests under way, by key; guarded by the client's lock */
};

/* In place; the client is there already. Errors: WEIR_ERR_LIMIT (descriptors). */
weir_status wi_exchange_init(struct wi_exchange *exchange, struct weir_boot *boot);

/* Safe on one that was zeroed, or made by half. */
void wi_exchange_fini(struct wi_exchange *exchange);

#endif
