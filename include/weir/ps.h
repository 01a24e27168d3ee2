/*
 * Parameter server: tables of weights, split over server processes, to which workers push gradients and from which they
 * pull weights.
 *
 * A dense table is split into virtual shards (WEIR_PS_SHARDS of them, contiguous ranges of elements) and the shards are
 * spread over the servers. Requests are one-sided writes into a registered ring that each server keeps for each client;
 * replies are written straight into the client's registered memory.
 *
 * The servers of a job are its last weir_boot_servers() ranks; all other ranks are workers, each with one client.
 *
 * Memory. Gradients are read, and weights written, in place where the memory belongs to the context (weir_pool_alloc,
 * weir_mem_register); other memory goes through a copy. After a failed call servers may still write to the memory that
 * was to receive weights: keep it until weir_ps_client_destroy().
 *
 * Errors. A call that fails for another reason than its arguments or resources (WEIR_ERR_INVALID, MISMATCH, LIMIT,
 * NO_MEMORY) ends the client and fails the job (weir_boot_fail): all later calls give the same error, and only
 * weir_ps_client_destroy() is left. A dead rank fails the calls of all others within WEIR_TIMEOUT, with
 * WEIR_ERR_PEER_GONE or JOB_FAILED and its name. No call waits longer than WEIR_TIMEOUT for the next sign of life;
 * under BSP that includes the other workers' part of a step.
 *
 * Threads. A client and its tables may be used by any number of threads at once if the context was created with
 * WEIR_CTX_MULTI, else by one. At most 64 calls of a client are under way; further ones wait for them. As long as a
 * client or server exists, a wait in its weir_boot makes progress on its context (weir_boot_attend): for threads that is
 * a use of the context.
 */
#ifndef WEIR_PS_H
#define WEIR_PS_H

#include <weir/bootstrap.h>
#include <weir/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct weir_ps_server weir_ps_server;
typedef struct weir_ps_client weir_ps_client;
typedef struct weir_ps_table weir_ps_table;

/*
 * When do pushes take effect, and what do pulls see?
 *
 * ASYNC. A push is applied when it arrives, those of one worker in the order of the calls, and is acknowledged after it
 * was applied at every server. A pull gives what is there: all pushes that were acknowledged to anybody before it
 * began, and any part of those under way.
 *
 * BSP. The k-th push of a table by each worker belongs to step k. When all workers' gradients of a step have come to a
 * shard, their mean is applied to it; they are summed in the order of the workers' ranks, so a run is repeated bitwise.
 *  - push returns when the gradient has become part of the running step: at once when step k-1 has been applied, else
 *    when it has. So a worker is never more than one step ahead.
 *  - pull waits until the step of this worker's last finished push has been applied and gives the weights after exactly
 *    this step, as the next one cannot end without this worker. It waits for nothing before the first push.
 *  - push_pull gives the weights after the step of this push.
 *  - Threads of one worker that push the same table take their turns; pushes and pulls of one table by several threads
 *    at once may see weights of two neighbouring steps. Different tables are independent of each other: workers need
 *    not push them in the same order.
 */
typedef enum weir_ps_consistency {
    WEIR_PS_ASYNC = 0,
    WEIR_PS_BSP = 1,
} weir_ps_consistency;

typedef enum weir_ps_optimizer {
    WEIR_PS_SGD = 0, /* w -= learning_rate * gradient; under BSP gradient = sum of the workers' * (1 / workers) */
} weir_ps_optimizer;

typedef struct weir_ps_table_params {
    size_t size;      /* sizeof(weir_ps_table_params) */
    const char *name; /* up to 63 bytes; the same on all workers */
    uint64_t count;   /* elements (f32), at least 1 */
    weir_ps_consistency consistency;
    weir_ps_optimizer optimizer;
    float learning_rate;
} weir_ps_table_params;

/*
 * Makes a server in a process of role WEIR_ROLE_SERVER and connects it to all clients: it returns when all workers have
 * called weir_ps_client_create(), or after WEIR_TIMEOUT. `ctx` must have the process's rank as its id; `ctx` and `boot`
 * must outlive the server. One server a process and job. The caller owns `*server`.
 * Errors: WEIR_ERR_INVALID (not a server's rank, no workers), as weir_boot_get(), weir_ep_create(), weir_pool_alloc().
 */
weir_status weir_ps_server_create(weir_ctx *ctx, weir_boot *boot, weir_ps_server **server);

/*
 * Serves until every worker has destroyed its client (WEIR_OK), or a worker or another server died (WEIR_ERR_PEER_GONE,
 * JOB_FAILED). Runs in the calling thread and sleeps when there is nothing to do. A client that writes what cannot be
 * right is cut off: WEIR_ERR_PROTOCOL, and the job is failed with a sentence that names it (weir_boot_fail).
 */
weir_status weir_ps_server_run(weir_ps_server *server);

/* Closes the connections and frees the server with its tables. NULL is allowed. */
void weir_ps_server_destroy(weir_ps_server *server);

/*
 * Makes the client of this worker and connects it to all servers. The context must have been created with
 * WEIR_CTX_MULTI if several threads will use the client, or anything else of that context, at once. One client a
 * process and job. The caller owns `*client`.
 * Errors: WEIR_ERR_INVALID (the job has no servers, this rank is one), as weir_boot_get() and weir_ep_create().
 */
weir_status weir_ps_client_create(weir_ctx *ctx, weir_boot *boot, weir_ps_client **client);

/*
 * Ends this worker's part: the servers return from weir_ps_server_run() when all have. Frees the client and its tables.
 * The keys of memory that servers were given are taken back, as by weir_mem_unexport(). No thread may be in a call. NULL is
 * allowed.
 */
void weir_ps_client_destroy(weir_ps_client *client);

/*
 * Opens a table, creating it at the servers when it is new (all weights zero). All workers open it with the same
 * parameters (and WEIR_PS_SHARDS); a worker that differs from the one that opened it first gets WEIR_ERR_MISMATCH with
 * both values. Opening it again gives the same object. `*table` belongs to the client.
 */
weir_status weir_ps_table_open(weir_ps_client *client, const weir_ps_table_params *params, weir_ps_table **table);

/* Sets all weights (count f32 values). To be called by one worker, before the first push; others wait on a barrier. */
weir_status weir_ps_init(weir_ps_table *table, const float *weights);

/* Pushes a gradient (count values). Returns when it is acknowledged by every server: see weir_ps_consistency. */
weir_status weir_ps_push(weir_ps_table *table, const float *gradient);

/* Reads all weights into `weights` (count values). */
weir_status weir_ps_pull(weir_ps_table *table, float *weights);

/* Push and pull in one request: `weights` are those after this push (BSP: after this step). Both may be one memory. */
weir_status weir_ps_push_pull(weir_ps_table *table, const float *gradient, float *weights);

/* Returns when all workers have called it. */
weir_status weir_ps_barrier(weir_ps_client *client);

typedef struct weir_ps_stats {
    uint64_t requests;       /* calls completed */
    uint64_t bytes_sent;     /* payload bytes written to servers */
    uint64_t bytes_received; /* payload bytes written by servers */
    uint64_t time_ns;        /* time spent inside of calls */
} weir_ps_stats;

/* Counters since the client was made. */
void weir_ps_client_query(weir_ps_client *client, weir_ps_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
