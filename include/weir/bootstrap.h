/*
 * Bootstrap: who am I, who are my peers, and are they still there.
 *
 * Ranks find each other through a small TCP store that rank 0 serves. RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
 * MASTER_PORT are read as torchrun and others set them; WEIR_RANK and so on win. Without any of them the job has one
 * rank. The connection to the store is kept for the life of the job: the end of a process, or silence, is told to all
 * other ranks at once.
 *
 * Threads: one thread at a time uses a weir_boot, except weir_boot_check(), weir_boot_fail(), weir_boot_attend() and
 * weir_boot_unattend(), which any thread may call, and what weir_boot_exchange() returns.
 *
 * Fork: a child of a rank is none itself. The calls that return a weir_status return WEIR_ERR_INVALID there, the others
 * do nothing: what a child does, and its end, is no news to the job.
 */
#ifndef WEIR_BOOTSTRAP_H
#define WEIR_BOOTSTRAP_H

#include <weir/exchange.h>
#include <weir/status.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct weir_boot weir_boot;

#define WEIR_BOOT_VALUE_MAX 65536u /* bytes a value in the store can have at most */
#define WEIR_BOOT_KEY_MAX 255u     /* bytes a key can have at most, without the final zero */

typedef enum weir_role {
    WEIR_ROLE_WORKER = 0,
    WEIR_ROLE_SERVER = 1,
} weir_role;

typedef struct weir_boot_params {
    size_t size;             /* sizeof(weir_boot_params) */
    int rank;                /* -1: WEIR_RANK, RANK, else 0 */
    int world_size;          /* -1: WEIR_WORLD_SIZE, WORLD_SIZE, else 1 */
    int local_rank;          /* -1: WEIR_LOCAL_RANK, LOCAL_RANK, else the rank */
    const char *master_addr; /* NULL: WEIR_MASTER_ADDR, MASTER_ADDR, else 127.0.0.1; name or IPv4 or IPv6 address */
    int master_port;         /* -1: WEIR_MASTER_PORT, MASTER_PORT, else 29400; 0 is not allowed with several ranks */
    int servers;             /* -1: WEIR_SERVERS, else 0: the last `servers` ranks are parameter servers */
} weir_boot_params;

/*
 * Joins the job: connects to the store (rank 0 serves it in a thread) and waits until all ranks are there, at most
 * WEIR_TIMEOUT. `params` NULL takes all from the environment. The caller owns `*boot`.
 * Errors: WEIR_ERR_CONFIG, WEIR_ERR_TIMEOUT (the sentence names the missing ranks), WEIR_ERR_MISMATCH (another rank has
 * the same number, another world size or another WEIR_JOB_ID: it is named with its host and process),
 * WEIR_ERR_PEER_UNREACHABLE (no store at that address; on rank 0: its port is in use), WEIR_ERR_PROTOCOL (something else
 * listens there), WEIR_ERR_PEER_GONE (a rank died while others were awaited).
 */
weir_status weir_boot_create(const weir_boot_params *params, weir_boot **boot);

/*
 * Would weir_boot_create() take the secret of WEIR_SECRET_FILE? Reads it, joins nothing; none set is well too. `*exposed`
 * becomes 1 where everybody on this host may read the file, which is allowed, else 0. Any thread may call it.
 * Errors: WEIR_ERR_CONFIG (it cannot be read, is too short or too long, others may write to it).
 */
weir_status weir_boot_check_secret(int *exposed);

/*
 * Leaves the job in good order and frees the object. Rank 0 serves on until all others have left, at most WEIR_TIMEOUT,
 * so that their last calls succeed. Communicators, clients and servers that use it must be gone. NULL is allowed.
 */
void weir_boot_destroy(weir_boot *boot);

int weir_boot_rank(const weir_boot *boot);
int weir_boot_size(const weir_boot *boot);
int weir_boot_local_rank(const weir_boot *boot);

/* Servers are the last `weir_boot_servers()` ranks of the world; the others, from 0 on, are workers. */
int weir_boot_servers(const weir_boot *boot);
weir_role weir_boot_role(const weir_boot *boot);

/*
 * The numeric address of the local interface that leads to the store, for weir_ctx_params.bind_address; NULL in a job of
 * one rank. Lives as long as the object.
 */
const char *weir_boot_local_address(const weir_boot *boot);

/* Stores a value under a key for all ranks; a value is written once. Errors: WEIR_ERR_RANGE, WEIR_ERR_MISMATCH (the key is taken). */
weir_status weir_boot_put(weir_boot *boot, const char *key, const void *value, size_t len);

/*
 * Reads the value of a key, waiting until somebody stores it, at most `timeout_ms` (-1: WEIR_TIMEOUT). `*len` is the
 * room on entry and the length on return. Errors: WEIR_ERR_TIMEOUT, WEIR_ERR_RANGE (too little room),
 * WEIR_ERR_PEER_GONE and WEIR_ERR_JOB_FAILED as in weir_boot_check().
 */
weir_status weir_boot_get(weir_boot *boot, const char *key, void *value, size_t *len, int timeout_ms);

/*
 * All ranks in `ranks` (count `n`; NULL: the whole world) give `len` bytes and get everybody's, in the order of `ranks`:
 * `all` has room for n * len bytes. `name` must be the same on these ranks and used once in the job.
 */
weir_status weir_boot_allgather(weir_boot *boot, const char *name, const int *ranks, int n, const void *mine, size_t len,
                                void *all);

/* Returns when all ranks in `ranks` (NULL: the whole world) have called it with this `name`, at most WEIR_TIMEOUT. */
weir_status weir_boot_barrier(weir_boot *boot, const char *name, const int *ranks, int n);

/*
 * The store as an exchange, for weir_ctx_params.exchange: verbs connections are made through it when
 * WEIR_VERBS_CONNECT=store. Never NULL; lives as long as the object, so contexts that have it are destroyed before. Any
 * thread may use it, also while a call of this object waits. Its keys stay in the store until the job ends, less than
 * 1 KiB a connection.
 */
const weir_exchange *weir_boot_exchange(weir_boot *boot);

/*
 * Who is called while a call of a weir_boot waits. It does for `arg` what is to be done by now. Then it may sleep until
 * there is more to do or the descriptor `fd` is readable, at most `timeout_ms`, and return nonzero; `fd` is -1 where it
 * must not. Zero: it has not slept, and wants to be called again in a millisecond.
 */
typedef int weir_attend_fn(void *arg, int fd, int timeout_ms);

/*
 * Has `attend` called while a call of this weir_boot waits (get, allgather, barrier), in the thread that waits: peers may
 * need this process's progress meanwhile. For a context it is weir_boot_attend(boot, weir_ctx_attend, ctx), and the wait
 * sleeps until the store or a peer has something for it; with several contexts, one a thread for instance, each is called
 * every millisecond. Communicators, clients and servers do it for theirs as long as they exist. What waits here then uses
 * the context, so a context that another thread uses at that time needs WEIR_CTX_MULTI. `attend` may call nothing of this
 * object but weir_boot_check() and weir_boot_fail(). The same pair may be added several times. weir_boot_destroy() calls
 * nobody: contexts are usually gone by then. Errors: WEIR_ERR_INVALID, WEIR_ERR_NO_MEMORY.
 */
weir_status weir_boot_attend(weir_boot *boot, weir_attend_fn *attend, void *arg);

/*
 * Takes back one weir_boot_attend(); after the last one of a pair it is not called any more. To be called before `arg`
 * becomes invalid, that is before weir_ctx_destroy(). A pair that is not there is ignored.
 */
void weir_boot_unattend(weir_boot *boot, weir_attend_fn *attend, void *arg);

/*
 * Is the job whole? Nonblocking and cheap enough to call every millisecond. WEIR_ERR_PEER_GONE: a rank ended without
 * weir_boot_destroy() or fell silent, it is named; WEIR_ERR_JOB_FAILED or the status given there: a rank called
 * weir_boot_fail(). Once failed, it stays failed. Ranks that left in good order are no failure.
 */
weir_status weir_boot_check(weir_boot *boot);

/* A descriptor that becomes readable when weir_boot_check() has something to tell; -1 in a job of one rank. */
int weir_boot_fd(const weir_boot *boot);

/* Tells all ranks that the job has failed, with a status and a sentence. Their weir_boot_check() gives both. */
void weir_boot_fail(weir_boot *boot, weir_status status, const char *sentence);

#ifdef __cplusplus
}
#endif
#endif
