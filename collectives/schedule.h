/*
 * Schedules: what one rank sends and receives in a collective, as pure functions of an index.
 *
 * A schedule is plain data made from (kind, ranks, rank, root, count, element size, chunk) and nothing else. Send `i`
 * and receive `j` are computed when they are asked for, so a schedule has the same few words at any count. The engine
 * runs sends in order of their index and receives in order of theirs; what orders the two is a send's `after`. Messages
 * of a link arrive in the order in which the sender posts them.
 *
 * Links: link k leads to the rank 2^k places to the right. Link 0 is the ring.
 *
 *  - Rounds (barrier, small broadcast, all-reduce of nothing): in round k everybody tells link k that all it heard of
 *    agrees; after log2(ranks) rounds everybody has heard of everybody (dissemination barrier: Hensgen, Finkel, Manber,
 *    IJPP 1988). The links of a binomial broadcast tree are among these, so the data of a small broadcast rides along.
 *  - Chain (large broadcast): the rounds, then pieces from rank to rank along the ring, pipelined.
 *  - Ring (all-reduce): the elements are cut into groups, a group into a slice for each rank, a slice into lanes, the
 *    pieces of the pipeline. In each group `ranks - 1` steps sum a slice around the ring (reduce-scatter), another
 *    `ranks - 1` carry the sums around (all-gather); every step moves all lanes. Send `i` carries on receive `i -
 * lanes`.
 */
#ifndef WI_COLLECTIVES_SCHEDULE_H
#define WI_COLLECTIVES_SCHEDULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WI_LINKS_MAX 16u   /* links a rank can have: 2^16 ranks */
#define WI_EAGER_MAX 4096u /* bytes up to which a piece is copied rather than sent from where it lies */
#define WI_LANES_MAX 8u

enum wi_kind {
    WI_BARRIER = 1,
    WI_BROADCAST = 2,
    WI_ALLREDUCE = 3,
    WI_OPEN = 4,  /* the barrier that ends the creation of a communicator */
    WI_CLOSE = 5, /* the barrier before its end */
};
enum wi_pattern { WI_ROUNDS, WI_CHAIN, WI_RING };

struct wi_schedule {
    enum wi_pattern pattern;
    uint32_t ranks, rank;
    uint32_t place;  /* ranks to the right of the root, which has place 0 */
    uint32_t rounds; /* messages in front that only agree, or carry a small broadcast */
    uint32_t elem;   /* bytes of an element */
    uint32_t lanes;
    uint64_t count;  /* elements */
    uint64_t groups; /* ring: groups; chain: pieces */
    uint64_t sends, receives;
    bool large;  /* pieces are longer than WI_EAGER_MAX, results may be written straight into the neighbour's buffer */
    bool offers; /* the left neighbour has direct sends for us: it wants to know our result buffer */
    bool wants;  /* we have direct sends for the right neighbour: we want to know its result buffer */
};

/* What a message carries. */
enum wi_source {
    WI_FROM_NOTHING, /* it only announces */
    WI_FROM_INPUT,   /* the caller's input, as it was at the start */
    WI_FROM_RESULT,  /* the caller's result buffer */
    WI_FROM_PARTIAL, /* what an earlier receive made of its data by WI_REDUCE: it is in the slot it came in */
    WI_FROM_KEPT,    /* what an earlier receive kept, now result; data not sent on from there is still in its slot */
};

struct wi_send {
    uint32_t link;
    enum wi_source source;
    bool direct;     /* goes to the neighbour's result buffer if that can be written to, else into its window */
    uint64_t offset; /* bytes from the start of the buffers */
    uint64_t len;    /* bytes */
    uint64_t after;  /* receives that must be done before */
};

/* What becomes of a message's data. */
enum wi_action {
    WI_DROP,        /* there is none */
    WI_KEEP,        /* it is result */
    WI_REDUCE,      /* add the input to it and send it on; not yet result */
    WI_REDUCE_KEEP, /* add the input to it: that is result */
};

struct wi_receive {
    uint32_t link;
    enum wi_action action;
    bool direct;  /* as in wi_send */
    bool forward; /* a later send carries it on; these sends come in the order of their receives */
    uint64_t offset;
    uint64_t len;
};

struct wi_schedule_params {
    enum wi_kind kind;
    uint32_t ranks, rank, root;
    uint32_t elem;  /* bytes of an element; of no meaning without any */
    uint64_t count; /* elements */
    uint64_t chunk; /* bytes a piece has at most, at least `elem` */
    uint32_t lanes; /* pieces of a slice at most, 1 to WI_LANES_MAX */
};

void wi_schedule_init(struct wi_schedule *schedule, const struct wi_schedule_params *params);
void wi_schedule_send(const struct wi_schedule *schedule, uint64_t index, struct wi_send *send);
void wi_schedule_receive(const struct wi_schedule *schedule, uint64_t index, struct wi_receive *receive);

/* How many links a rank has among so many: the rounds of a barrier. */
uint32_t wi_links(uint32_t ranks);

#endif
