/*
 * Collectives: operations that all ranks of a communicator call together, in the same order.
 *
 * A rank that calls with another operation, count, type or root makes every rank fail with WEIR_ERR_MISMATCH; a dead
 * rank makes every other one fail with WEIR_ERR_PEER_GONE within WEIR_TIMEOUT. After an error a communicator is only
 * good for weir_comm_destroy(). Results are bitwise the same on every rank and from run to run.
 *
 * Threads: one thread at a time uses a communicator. As long as it exists, a wait in its weir_boot makes progress on its
 * context (weir_boot_attend): for threads that is a use of the context.
 */
#ifndef WEIR_COLLECTIVES_H
#define WEIR_COLLECTIVES_H

#include <weir/bootstrap.h>
#include <weir/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct weir_comm weir_comm;

/* Types of elements. f16 is IEEE 754's binary16, bf16 the upper half of a binary32 (bfloat16). */
typedef enum weir_dtype {
    WEIR_F32 = 0,
    WEIR_F64 = 1,
    WEIR_F16 = 2,
    WEIR_BF16 = 3,
    WEIR_I8 = 4,
    WEIR_I16 = 5,
    WEIR_I32 = 6,
    WEIR_I64 = 7,
    WEIR_U8 = 8,
    WEIR_U16 = 9,
    WEIR_U32 = 10,
    WEIR_U64 = 11,
    WEIR_DTYPES = 12, /* how many there are */
} weir_dtype;

/*
 * What a reduction does with the elements of all ranks. Two at a time, in an order that is the same each time; f16 and bf16 as
 * f32, each result rounded to the type (to nearest, ties to even). Integers wrap round. The least and the greatest of numbers
 * with a NaN among them is a NaN.
 */
typedef enum weir_redop {
    WEIR_SUM = 0,
    WEIR_PROD = 1,
    WEIR_MIN = 2,
    WEIR_MAX = 3,
    WEIR_AVG = 4, /* the sum, which must not overflow, divided by the number of ranks; of integers without the fraction */
    WEIR_REDOPS = 5,
} weir_redop;

/* Bytes of one element, 0 for an unknown type. */
size_t weir_dtype_size(weir_dtype dtype);

/* "f32", "bf16", "u8", ...; and "sum", "avg", .... NULL for an unknown one. Never freed. */
const char *weir_dtype_name(weir_dtype dtype);
const char *weir_redop_name(weir_redop op);

typedef struct weir_comm_params {
    size_t size;        /* sizeof(weir_comm_params) */
    const char *name;   /* the same on all its ranks, one use a job; NULL: a name made from a count of communicators */
    const int *ranks;   /* world ranks that take part, in the order of their rank in it; NULL: the whole world */
    int nranks;
    size_t chunk;       /* bytes of a pipeline step; 0: WEIR_CHUNK. The same on all ranks */
} weir_comm_params;

/*
 * Makes a communicator; all its ranks call it together. It uses `ctx` and `boot`, which must outlive it; `ctx` must
 * have been created with this process's rank as its id. The caller owns `*comm`.
 * Errors: as weir_ep_create(), weir_boot_get(); WEIR_ERR_INVALID (this rank is not in `ranks`), WEIR_ERR_MISMATCH.
 */
weir_status weir_comm_create(weir_ctx *ctx, weir_boot *boot, const weir_comm_params *params, weir_comm **comm);

/*
 * Frees the communicator, after what others still want from it has been sent, bounded by WEIR_TIMEOUT. The keys of result
 * buffers that neighbours were given are taken back, as by weir_mem_unexport(). NULL is allowed.
 */
void weir_comm_destroy(weir_comm *comm);

int weir_comm_rank(const weir_comm *comm);
int weir_comm_size(const weir_comm *comm);

/* Returns when all ranks have called it. */
weir_status weir_barrier(weir_comm *comm);

/* Copies `count` elements of `root`'s `buf` into the `buf` of all others. `count` may be 0. */
weir_status weir_broadcast(weir_comm *comm, void *buf, size_t count, weir_dtype dtype, int root);

/*
 * Element-wise reduction of `count` elements of all ranks' `send` into everybody's `recv`; `send` == `recv` works in place,
 * other overlaps are not allowed. `count` is any number, 0 included. Memory from weir_pool_alloc() or
 * weir_mem_register() is written to directly by the neighbour; ordinary memory goes through one more copy.
 * Algorithm: ring of reduce-scatter and all-gather, chunked and pipelined (Patarasuk and Yuan, "Bandwidth optimal
 * all-reduce algorithms for clusters of workstations", JPDC 2009).
 */
weir_status weir_allreduce(weir_comm *comm, const void *send, void *recv, size_t count, weir_dtype dtype,
                           weir_redop op);

typedef struct weir_comm_stats {
    uint64_t operations; /* collectives completed */
    uint64_t bytes_sent; /* payload bytes this rank put to peers */
    uint64_t time_ns;    /* time spent inside of collectives */
} weir_comm_stats;

/* Counters since the communicator was made. */
void weir_comm_query(const weir_comm *comm, weir_comm_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
