/* The inside of weir_boot, for the files that make it up. */
#ifndef WI_BOOTSTRAP_BOOT_H
#define WI_BOOTSTRAP_BOOT_H

#include "bootstrap/client.h"
#include "bootstrap/exchange.h"
#include "bootstrap/server.h"
#include "bootstrap/store.h"

#include <sys/types.h>

struct weir_boot {
    pid_t pid; /* whose it is: not a child's after fork() */
    int rank;
    int world;
    int local_rank;
    int servers;
    uint64_t timeout_ns;
    struct wi_secret secret;
    struct wi_attendants attendants;
    struct wi_boot_server *server; /* rank 0 of several */
    struct wi_client client;       /* several ranks */
    struct wi_exchange exchange;
    struct wi_store alone;         /* one rank: what is below */
    pthread_mutex_t alone_lock;
    weir_status alone_failure;
    char alone_text[WI_WIRE_TEXT_MAX + 1];
};

/*
 * WEIR_ERR_INVALID, with a sentence, in a child after fork(): it shares the parent's connection to the store, and locks
 * may be held there by threads that do not exist. `what` is the function called.
 */
weir_status wi_boot_process_check(const struct weir_boot *boot, const char *what);

#endif
