/* Agreement: what a rank called, and how it tells its neighbours. */
#ifndef WI_COLLECTIVES_MATCH_H
#define WI_COLLECTIVES_MATCH_H

#include "collectives/schedule.h"

#include <weir/collectives.h>

#define WI_HEAD_SIZE 64u

struct weir_comm;

/* What was called, as far as all ranks have to agree. */
struct wi_call {
    enum wi_kind kind;
    weir_dtype dtype;
    weir_redop op;
    uint32_t root;
    uint64_t count;
};

/* Goes in front of a collective's first message on each link. */
struct wi_head {
    uint32_t magic;
    uint8_t kind, dtype, op, reserved;
    uint64_t seq;
    uint64_t count;
    uint32_t root;
    uint32_t reserved_words[9];
};

_Static_assert(sizeof(struct wi_head) == WI_HEAD_SIZE, "the head has its place in a slot");

void wi_head_fill(struct wi_head *head, const struct wi_call *call, uint64_t seq);

/* Compares a neighbour's head with our own call. WEIR_ERR_MISMATCH names both; WEIR_ERR_PROTOCOL: not a head. */
weir_status wi_head_check(const struct weir_comm *comm, const struct wi_head *head, uint32_t sender);

/* Writes a call as a phrase, e.g. "an all-reduce of 100 f32 (sum)". Returns `text`. */
const char *wi_call_text(const struct wi_call *call, char *text, size_t size);

#endif
