/*
 * A communicator: who its ranks are, the links to the neighbours, and the collective that is under way.
 *
 * Memory. Each rank has one block of pool memory that its neighbours write to: a window of `slots` slots for each link
 * that leads to it, and two places for the right neighbour's offers. A second block of the same form, the stage, holds
 * what this rank sends from a copy: the message for slot s of a window is staged in slot s of the stage, and that slot
 * is free again when the window's is. A slot is a head of WI_HEAD_SIZE bytes and room for a piece.
 *
 * Counting. A message is announced by one signal. Slots are used in turn and given back in turn; one signal gives back
 * `batch` of them. All counts run on over the communicator's life.
 *
 * Order. No collective ends on a rank before every rank has begun it and agreed. So ranks are at most one collective
 * apart, and two places for offers, used in turn, are enough.
 */
#ifndef WI_COLLECTIVES_COMM_H
#define WI_COLLECTIVES_COMM_H

#include "collectives/match.h"
#include "collectives/offer.h"
#include "collectives/reduce.h"
#include "collectives/schedule.h"
#include "transport/lend.h"

#include <weir/collectives.h>

#define WI_SLOTS_MAX (2u * WI_LANES_MAX)
#define WI_PEERS_MAX (2u * WI_LINKS_MAX)

/* A rank that this one has an endpoint to. */
struct wi_peer {
    uint32_t rank; /* in the communicator */
    weir_ep *ep;
    weir_rkey *rkey; /* of its block */
    uint64_t block;  /* address of its block */
    size_t max_inline;
    bool maps; /* shared memory: either can map the pools of the other */
    uint32_t arrivals[WI_LINKS_MAX]; /* its signals, by link: messages for it */
    uint32_t credits[WI_LINKS_MAX];  /* slots given back to it */
    uint32_t offers;                 /* offers for it */
};

struct wi_link {
    size_t stride; /* bytes of a slot */

    /* To the rank 2^k places to the right. */
    struct wi_peer *to;
    uint64_t slots_at; /* address of its window */
    unsigned char *stage;
    uint32_t credits; /* our signal */
    uint64_t posted;  /* slots used */
    uint64_t out_seq; /* last collective that sent something: the first message of each has a head */

    /* From the rank 2^k places to the left. */
    struct wi_peer *from;
    unsigned char *window;
    uint32_t arrivals; /* our signal */
    uint64_t seen;     /* its last known count */
    uint64_t messages; /* taken */
    uint64_t taken;    /* slots taken */
    uint64_t forward;  /* no slot before this one is still to be sent on */
    uint64_t released; /* slots free again */
    uint64_t credited; /* of these: told the sender */
    uint64_t in_seq;
    bool held[WI_SLOTS_MAX];         /* still to be sent on */
    weir_comp sent_on[WI_SLOTS_MAX]; /* being sent on */
};

/* The collective under way. */
struct wi_run {
    struct wi_schedule schedule;
    struct wi_call call;
    const unsigned char *input;
    unsigned char *result;
    weir_mem *input_mem, *result_mem; /* regions these lie in, where that matters and there are any; perhaps acquired */
    bool input_sendable;              /* messages can be sent from where the input lies */
    bool result_sendable;
    bool offered;            /* the left neighbour writes results straight into `result` */
    struct wi_target target; /* where we write results at the right neighbour */
    wi_reduce_fn *reduce;
    wi_divide_fn *divide; /* of an average, else NULL */
    uint64_t sent, received; /* messages */
    struct wi_send send;     /* the next of each, where there is one */
    struct wi_receive receive;
    uint32_t staged;                                /* direct sends from the stage since `comp` was last found ended */
    weir_comp comp;                                 /* sends from the caller's buffers */
    uint64_t idle_turns, idle_since_ns, checked_ns; /* since something moved last */
};

struct weir_comm {
    weir_ctx *ctx;
    weir_boot *boot;
    char name[96];
    int *world; /* world ranks, by rank */
    uint32_t ranks, rank;
    uint64_t chunk;
    uint32_t lanes, slots, batch;
    unsigned reduce_level; /* of the kernels, the widest that this processor runs */
    uint64_t timeout_ns;
    int watched_fd; /* -1: none */
    bool copies; /* acquires no registrations; for tests (buffers.c) */

    uint32_t links;
    struct wi_link link[WI_LINKS_MAX];
    struct wi_peer peers[WI_PEERS_MAX];
    uint32_t peer_count;

    weir_pool *pool;
    unsigned char *block, *stage;
    weir_mem *block_mem, *stage_mem;
    struct wi_offers offers;
    struct wi_lender lender; /* of keys of result buffers that were offered */
    uint32_t signals[2 * WI_LINKS_MAX + 1]; /* all that were made */
    uint32_t signal_count;

    uint64_t seq;      /* collectives begun */
    bool closing;      /* nothing is given back any more: nobody will need it */
    weir_comp flushed; /* flushes; lives as long as the endpoints, which end those that never come back */
    struct wi_run run;
    weir_comm_stats stats;

    weir_status status; /* not WEIR_OK: failed for good */
    char sentence[512];
};

/* Runs a collective to its end. `input` and `result` are the same for in-place and for broadcasts. */
weir_status wi_run(struct weir_comm *comm, const struct wi_call *call, const void *input, void *result);

/* Finds the regions of the caller's buffers, for the collective under way, and gives them back (buffers.c). */
void wi_buffers_find(struct weir_comm *comm);
void wi_buffers_leave(struct weir_comm *comm);

/*
 * Ends the communicator after an error: tells the job, closes the endpoints and takes back the keys of the caller's
 * buffers, so that nothing touches these any more, and keeps the status, which it returns. An operation that failed (peer
 * gone, key revoked) often did so because of an error elsewhere that the job will tell within a moment: that one is waited
 * for and preferred.
 */
weir_status wi_comm_fail(struct weir_comm *comm, weir_status status);

/* Exchanges addresses and keys through the store and connects the links (connect.c). */
weir_status wi_connect(struct weir_comm *comm, const char *name);
void wi_disconnect(struct weir_comm *comm);

#endif
