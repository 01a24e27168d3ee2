/*
 * A server's part of a table: weights, and for each virtual shard what is needed to apply the workers' gradients. No
 * network, no locks: one thread owns a table.
 *
 * BSP. A shard counts the steps that were applied to it. Gradients of the running step are summed in the order of the
 * workers, whatever the order of arrival, so that the result is the same in each run: a part that comes in its turn is
 * added from where it lies, one that comes early is copied and added when its turn comes. A worker that has pushed may
 * push its next step before the others have pushed this one; it is kept until then.
 */
#ifndef WI_PS_TABLE_H
#define WI_PS_TABLE_H

#include "ps/shard_map.h"
#include "ps/wire.h"

/* A worker's gradient of one shard and one step, as far as it has come. */
struct wi_ps_part {
    float *kept;  /* copy, NULL: nothing is kept */
    uint64_t got; /* elements that came, always the first ones */
};

/* Somebody who waits for shards to reach a step. Embedded in what the server knows of a request. */
struct wi_ps_waiter {
    struct wi_ps_waiter *next;
    uint32_t shard, last; /* the shard it waits at, and the last one it needs */
    uint64_t step;
};

struct wi_ps_shard {
    uint64_t first; /* element of the table */
    uint64_t count;
    uint64_t step;           /* steps applied */
    uint32_t turn;           /* BSP: worker whose part is being added */
    float *sum;              /* BSP: of the parts of all workers before `turn` */
    struct wi_ps_part *part; /* BSP: [worker], the running step */
    struct wi_ps_part *next; /* BSP: [worker], the step after it */
    struct wi_ps_waiter *waiters;
};

struct wi_ps_store {
    struct wi_ps_open open;
    struct wi_ps_map map;
    struct wi_ps_run run;       /* what this server has */
    float *weights;             /* run.count of them; not owned */
    struct wi_ps_shard *shards; /* run.shards of them */
    struct wi_ps_part *parts;   /* behind the shards' part and next */
    float *sums;                /* behind the shards' sum */
    void *spare;                /* free copies, linked through their first bytes */
    uint64_t copy_size;         /* bytes of a copy: the longest shard */
    struct wi_ps_waiter *ready; /* waiters whose step was reached, in order */
    struct wi_ps_waiter **ready_end;
};

/* `weights` has room for the run's elements and outlives the store; they are cleared. Errors: WEIR_ERR_NO_MEMORY. */
weir_status wi_ps_store_init(struct wi_ps_store *store, const struct wi_ps_open *open, uint32_t server, float *weights);

/* Safe on a store of zeros. Waiters belong to the caller. */
void wi_ps_store_fini(struct wi_ps_store *store);

/* Bytes of weights a server needs for a table; 0: it has no part of it. */
uint64_t wi_ps_store_bytes(const struct wi_ps_open *open, uint32_t server);

/* Does this server have all of these elements? */
bool wi_ps_store_has(const struct wi_ps_store *store, uint64_t first, uint64_t count);

void wi_ps_store_set(struct wi_ps_store *store, uint64_t first, const float *weights, uint64_t count);

/*
 * A gradient of a worker arrives: `first` and `count` were checked. Applied at once, or under BSP taken into `step`.
 * WEIR_ERR_PROTOCOL: elements that came before, are missing, or belong to a step that cannot be.
 */
weir_status wi_ps_store_push(struct wi_ps_store *store, uint32_t worker, uint64_t step, uint64_t first,
                             const float *gradient, uint64_t count);

/*
 * True: all shards that hold [first, first + count) have applied `step`. Else the waiter is kept and comes out of
 * wi_ps_store_ready() when they have.
 */
bool wi_ps_store_wait(struct wi_ps_store *store, struct wi_ps_waiter *waiter, uint64_t first, uint64_t count,
                      uint64_t step);

/* The next waiter whose step was reached, NULL: none. */
struct wi_ps_waiter *wi_ps_store_ready(struct wi_ps_store *store);

#endif
