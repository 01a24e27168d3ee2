/*
 * Transport: registered memory, endpoints, one-sided operations, signals and control messages.
 *
 * One API over three backends: verbs (InfiniBand, RoCE, soft-RoCE), UCX, and shared memory between processes of one
 * host. WEIR_TRANSPORT chooses the network backend; peers of the same host talk through shared memory under every
 * setting unless WEIR_INTRANODE=off.
 *
 * Roles. The caller of an operation is its initiator; the process whose memory it names is the target. A target takes
 * no part in put, get and fetch_add, but it has to call weir_progress() (or any waiting call) from time to time so that
 * connections are accepted and, on transports without hardware support, operations are carried out. A program that uses
 * a context itself and waits in the bootstrap tells it so: weir_boot_attend(boot, weir_ctx_attend, ctx) after
 * weir_ctx_create(), weir_boot_unattend() before weir_ctx_destroy(). Otherwise a peer that connects to it, flushes or
 * gets while it waits there may run into WEIR_TIMEOUT.
 *
 * Threads. A context and all that was made from it is used by one thread at a time, unless it was created with
 * WEIR_CTX_MULTI: then every function here may be called by any number of threads at once, except the destroy and close
 * calls, which need the object to be out of use.
 *
 * Fork. Contexts, and all that was made from them, are not a child's after fork(). Every call that returns a weir_status
 * returns WEIR_ERR_INVALID there, the operations too; the destroy, close and free calls do nothing, weir_progress() returns
 * 0, so a child may also exit as its parent would. (Linux before 4.14 does not tell children; they must know.) Memory of the
 * user is as without Weir: the child has a copy, which it may read and write. (On Linux before 5.12 memory that the parent
 * has registered over verbs is not there in the child.) Memory of pools is shared: what a child writes there, the parent
 * and its peers see. A child may make a context of its own, except over UCX while the parent has one.
 *
 * Bounds. No call blocks longer than WEIR_TIMEOUT (default 30 s) or the bound it was given. An endpoint whose peer
 * stops answering fails within WEIR_TIMEOUT: its outstanding operations complete with an error.
 */
#ifndef WEIR_TRANSPORT_H
#define WEIR_TRANSPORT_H

#include <weir/exchange.h>
#include <weir/status.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct weir_ctx weir_ctx;   /* one process's use of the transports */
typedef struct weir_mem weir_mem;   /* a registered memory region */
typedef struct weir_pool weir_pool; /* registered memory to allocate from */
typedef struct weir_ep weir_ep;     /* endpoint: a connection to one peer, initiator to target */
typedef struct weir_rkey weir_rkey; /* the right to reach a range of a peer's memory through one endpoint */

/* ---- Completions ------------------------------------------------------------------------------------------------ */

/*
 * A completion counts operations: posting with it adds one to `pending`, the end of the operation takes one off. Many
 * operations may share it. It belongs to the caller, is initialised with WEIR_COMP_INIT, and must stay valid until
 * `pending` is zero or the endpoints of its operations are closed. Read it with weir_test() or weir_wait().
 * Careful with completions on the stack: after a wait that ran out of time the operations are still under way, so close
 * their endpoint before you return.
 */
typedef struct weir_comp {
    uint32_t pending; /* operations not yet ended */
    int32_t status;   /* first error of its operations (a weir_status), else WEIR_OK */
} weir_comp;

#define WEIR_COMP_INIT {0, 0}

/* ---- Context ---------------------------------------------------------------------------------------------------- */

#define WEIR_CTX_MULTI 1u /* several threads use the context at once */

#define WEIR_ADDRESS_MAX 1024u /* bytes a context's address can have at most */
#define WEIR_RKEY_MAX 768u     /* bytes an exported remote key can have at most */
#define WEIR_MSG_MAX 4096u     /* bytes of payload a control message can have at most */

typedef struct weir_ctx_params {
    size_t size;              /* sizeof(weir_ctx_params): lets the structure grow */
    uint64_t id;              /* what peers know this context by, e.g. the rank; shown in errors, given by weir_recv */
    unsigned flags;           /* WEIR_CTX_* */
    const char *transport;    /* "auto", "verbs", "ucx", "shm"; NULL: WEIR_TRANSPORT */
    const char *bind_address; /* numeric IP address to listen on, unless WEIR_INTERFACE is set; NULL: the backend's choice */
    uint32_t signals;         /* how many signals can exist at once; 0: 4096 */
    const weir_exchange *exchange; /* for WEIR_VERBS_CONNECT=store, e.g. weir_boot_exchange(); it stays the caller's, and
                                      valid until weir_ctx_destroy(); NULL: there is none */
} weir_ctx_params;

/*
 * Creates a context. `params` NULL takes all defaults. On success `*ctx` is owned by the caller (weir_ctx_destroy).
 * Under "auto" an unusable verbs backend is logged with its reason and UCX is taken; without that, shared memory alone.
 * Errors: WEIR_ERR_CONFIG (a bad WEIR_* value), WEIR_ERR_NO_DEVICE, WEIR_ERR_UNSUPPORTED (backend not built),
 * WEIR_ERR_LIMIT, WEIR_ERR_NO_MEMORY, WEIR_ERR_IO.
 */
weir_status weir_ctx_create(const weir_ctx_params *params, weir_ctx **ctx);

/*
 * Closes what is left open (endpoints, pools, regions made from it become invalid) and frees the context. Communicators,
 * clients and servers that use it must be gone. NULL is allowed. Does not wait for peers: a peer that still has operations under way with this context gets
 * WEIR_ERR_PEER_GONE, so let all ranks meet first, e.g. in weir_boot_barrier() after their last flush.
 */
void weir_ctx_destroy(weir_ctx *ctx);

/* What a context can do. `network` and `intranode` name the backends in use, "none" where there is none. */
typedef struct weir_ctx_attr {
    const char *network;   /* "verbs", "ucx" or "none" */
    const char *intranode; /* "shm" or "none" */
    char device[64];       /* e.g. "mlx5_0:1", "tcp", "posix"; what the network backend uses */
} weir_ctx_attr;

/* Describes the context in `*attr`. Strings live as long as the context. Never fails for a valid context. */
void weir_ctx_query(const weir_ctx *ctx, weir_ctx_attr *attr);

/*
 * Tells whether a backend ("verbs", "ucx", "shm") could be used in this process, without making a context. On any other
 * result than WEIR_OK `why` (size `why_size`) holds the reason in a sentence, e.g. "verbs: no RDMA device: /sys/class/
 * infiniband is empty". Errors: WEIR_ERR_INVALID (no such name), WEIR_ERR_UNSUPPORTED (not built), WEIR_ERR_NO_DEVICE.
 */
weir_status weir_transport_probe(const char *name, char *why, size_t why_size);

/*
 * Writes the context's address, to be given to peers by any channel, into `buf`. `*len` is the room on entry (at least
 * WEIR_ADDRESS_MAX is always enough) and the length on return. Errors: WEIR_ERR_RANGE (too little room).
 */
weir_status weir_ctx_address(weir_ctx *ctx, void *buf, size_t *len);

/*
 * Adds a descriptor of the caller that ends a sleep of this context when it becomes readable (e.g. weir_boot_fd). The
 * context never reads it. Errors: WEIR_ERR_INVALID, WEIR_ERR_IO.
 */
weir_status weir_ctx_watch(weir_ctx *ctx, int fd);

/* Takes a descriptor given to weir_ctx_watch() off again. */
void weir_ctx_unwatch(weir_ctx *ctx, int fd);

/* ---- Memory ----------------------------------------------------------------------------------------------------- */

/*
 * Registers `len` bytes at `addr` of the caller's memory with all backends of the context. The memory must stay mapped
 * until weir_mem_deregister(). Errors: WEIR_ERR_INVALID, WEIR_ERR_LIMIT (memlock: the sentence tells the limit and how
 * to raise it), WEIR_ERR_NO_MEMORY.
 */
weir_status weir_mem_register(weir_ctx *ctx, void *addr, size_t len, weir_mem **mem);

/*
 * Registers `len` bytes of a device's memory (a GPU's, say) from byte `offset` of the dma-buf `fd` on, which the device's
 * library exports; `fd` stays the caller's and may be closed afterwards. `addr` is how operations and keys name the memory:
 * the device pointer, or NULL for addresses that Weir makes up (weir_mem_range() tells them); it lies as far into a page as
 * `offset`. Nothing is read or written at `addr` by this process: network adapters go to the memory themselves. The region
 * is used as any other by weir_put(), weir_get(), weir_put_signal(), weir_fetch_add(), weir_mem_export() and by peers'
 * operations; weir_send(), collectives and the parameter server need host memory, and refuse it. Ordering between what a
 * device computes and what is sent of it is the program's: wait for the device before a put.
 * Only verbs reaches device memory, with an adapter and driver that have ibv_reg_dmabuf_mr(); keys have no part for shared
 * memory, so peers of the same host need WEIR_INTRANODE=off. The caller owns `*mem` (weir_mem_deregister()). Thread-safe as
 * the context is. Errors: WEIR_ERR_UNSUPPORTED (backend, adapter or driver cannot; the sentence says which),
 * WEIR_ERR_INVALID (no dma-buf, `addr` that does not fit or is another region's), WEIR_ERR_RANGE (past the dma-buf's end),
 * WEIR_ERR_LIMIT, WEIR_ERR_NO_MEMORY, WEIR_ERR_IO.
 */
weir_status weir_mem_register_dmabuf(weir_ctx *ctx, int fd, uint64_t offset, size_t len, void *addr, weir_mem **mem);

/* Is there device memory of the context among [addr, addr + len), which the CPU must not touch? Nonzero: yes. */
int weir_mem_is_device(weir_ctx *ctx, const void *addr, size_t len);

/*
 * Ends a registration made by weir_mem_register() or weir_mem_register_dmabuf(). Keys exported from it are revoked: later
 * use by a peer fails there with WEIR_ERR_KEY. NULL is allowed.
 */
void weir_mem_deregister(weir_mem *mem);

/*
 * Finds the region, registered or of a pool, that holds all of [addr, addr + len). `*mem` stays owned by whom it was.
 * Errors: WEIR_ERR_KEY (no region holds it).
 */
weir_status weir_mem_find(weir_ctx *ctx, const void *addr, size_t len, weir_mem **mem);

/*
 * Registers [addr, addr + len) for as long as the caller needs it, by the page, through the cache of registrations that
 * the context keeps (WEIR_REG_CACHE); memory of a region or pool of the context gives that region. For libraries that are
 * handed buffers of their users: to send from them, or to export them. The memory must stay mapped until
 * weir_mem_release(). Errors: as weir_mem_register().
 */
weir_status weir_mem_acquire(weir_ctx *ctx, void *addr, size_t len, weir_mem **mem);

/* Ends a use begun by weir_mem_acquire(); keys exported from it must not be used any more. NULL is allowed. */
void weir_mem_release(weir_mem *mem);

/* What the cache of registrations has done; all zero while nobody needed it. */
typedef struct weir_mem_cache_attr {
    uint64_t hits, misses;   /* uses that found a registration, and those that made one */
    uint64_t evictions;      /* given up for the budget (WEIR_REG_CACHE), or for the system's limit */
    uint64_t invalidations;  /* given up because the memory was unmapped */
    size_t entries, bytes;   /* registered now, with those in use */
} weir_mem_cache_attr;

/* Describes the cache in `*attr`. */
void weir_mem_cache_query(weir_ctx *ctx, weir_mem_cache_attr *attr);

/* A number that names the region in its context and is never used again, for caches of what was exported. */
uint64_t weir_mem_id(const weir_mem *mem);

/* First address and length of a region. Either pointer may be NULL. */
void weir_mem_range(const weir_mem *mem, void **addr, size_t *len);

/*
 * Creates a pool of registered memory, in slabs of `slab_size` bytes (0: WEIR_POOL_SLAB) that grow as needed, on huge
 * pages where there are any. Slabs can be mapped by peers of the same host. The caller owns `*pool`.
 */
weir_status weir_pool_create(weir_ctx *ctx, size_t slab_size, weir_pool **pool);

/* How a pool is made. */
typedef struct weir_pool_params {
    size_t size;            /* sizeof(weir_pool_params): lets the structure grow */
    size_t slab_size;       /* bytes it grows by, rounded up to 2 MiB; 0: WEIR_POOL_SLAB */
    const char *huge_pages; /* "auto", "off" or "require"; NULL: WEIR_HUGE_PAGES */
    const char *numa;       /* "auto", "off" or the number of a node; NULL: WEIR_NUMA */
} weir_pool_params;

/*
 * weir_pool_create() with more to say. Pages of 1 GiB are tried for slabs that are a multiple of that, then pages of
 * 2 MiB. "require" makes WEIR_ERR_LIMIT of the allocation that finds too few of them free. A node is preferred: when it
 * is full, memory comes from others. Errors: WEIR_ERR_INVALID, WEIR_ERR_CONFIG (no such node), WEIR_ERR_NO_MEMORY.
 */
weir_status weir_pool_create_with(weir_ctx *ctx, const weir_pool_params *params, weir_pool **pool);

/* What a pool has become. */
typedef struct weir_pool_attr {
    size_t slab_size;  /* bytes it grows by */
    size_t slabs;      /* how many there are */
    size_t bytes;      /* of all slabs: what is registered */
    size_t huge_bytes; /* of these on reserved huge pages */
    size_t page_size;  /* the smallest in use; 0: the kernel's choice, transparent huge pages are advised */
    int numa_node;     /* where pages are preferred; -1: where the thread runs, or no choice */
} weir_pool_attr;

/* Describes the pool in `*attr`. */
void weir_pool_query(weir_pool *pool, weir_pool_attr *attr);

/*
 * Frees the pool and all memory allocated from it, also what threads keep of it (see weir_pool_alloc()). NULL is
 * allowed.
 */
void weir_pool_destroy(weir_pool *pool);

/*
 * Allocates `size` bytes, aligned to 64 bytes (4 KiB from 4 KiB on), from size classes in O(1). `*mem` (may be NULL) is
 * the region it lies in, owned by the pool. The content is undefined. Under WEIR_CTX_MULTI each thread keeps some free
 * memory of each size for itself (WEIR_POOL_CACHE), so that it seldom takes a lock, and gives it back when it ends.
 * Errors: WEIR_ERR_NO_MEMORY, WEIR_ERR_LIMIT.
 */
weir_status weir_pool_alloc(weir_pool *pool, size_t size, void **ptr, weir_mem **mem);

/*
 * Gives memory back to the pool, from any thread. NULL is allowed. What is not the start of an allocated object of this
 * pool, or was given back before, is left alone, with a warning in the log.
 */
void weir_pool_free(weir_pool *pool, void *ptr);

/*
 * Exports the right to reach `len` bytes at `addr` within the region as a blob for a peer. `*blob_len` is the room on
 * entry (WEIR_RKEY_MAX is always enough) and the length on return. The same range of a region gives the same blob, until
 * that is taken back. The right ends with the region, or by weir_mem_unexport(). Errors: WEIR_ERR_RANGE (outside of the
 * region, or too little room), WEIR_ERR_LIMIT, WEIR_ERR_NO_MEMORY.
 */
weir_status weir_mem_export(weir_mem *mem, const void *addr, size_t len, void *blob, size_t *blob_len);

/*
 * Takes one export back, known by its blob as weir_mem_export() wrote it: for all peers that have it, while other exports
 * of the region, of overlapping ranges too, stay. To be told to peers before, by what means the program has:
 * - What they post with the key from the return on is refused with WEIR_ERR_KEY, and the memory stays as it is. What they
 *   have under way at that moment is carried out, or refused as a whole or from some byte on. Over verbs the device
 *   refuses, which ends their endpoint; after weir_ep_reconnect() other keys go on working. A key that is imported later
 *   is refused without harm to the endpoint, where it is a window (WEIR_VERBS_WINDOWS).
 * - A copy of shared memory that a peer has begun at that moment is carried to its end, shortly after the return; and what a
 *   peer has mapped (weir_mem_map_peer()) it can use as long as it keeps the mapping.
 * - Over RDMA lanes of UCX (rc, dc) devices know the region's key alone: if a peer has come through such, the result is
 *   WEIR_ERR_UNSUPPORTED, and peers that have the key can use it until the region is deregistered.
 * Waits for the device where it is binding a window at that moment, at most 0.1 s. Errors: WEIR_ERR_KEY (no key of
 * this region, or taken back before), WEIR_ERR_UNSUPPORTED (see above), WEIR_ERR_INVALID (in a forked child).
 */
weir_status weir_mem_unexport(weir_mem *mem, const void *blob, size_t blob_len);

/*
 * Turns a peer's blob into a key for operations through `ep`, which must lead to the context that exported it. The blob
 * is checked: damage gives WEIR_ERR_KEY. Over verbs the target grants the key (a memory window, see WEIR_VERBS_WINDOWS)
 * when it makes progress; the first operation with it waits for that, at most WEIR_TIMEOUT, and gives WEIR_ERR_KEY where
 * the target refuses: the export was taken back, the memory deregistered, or such a range never exported. The caller
 * owns `*rkey` and destroys it before the endpoint is closed.
 */
weir_status weir_rkey_import(weir_ep *ep, const void *blob, size_t blob_len, weir_rkey **rkey);

/* Frees a key. Operations that use it must have ended. NULL is allowed. */
void weir_rkey_destroy(weir_rkey *rkey);

/* First address and length of what the key covers, in the target's address space. Either pointer may be NULL. */
void weir_rkey_range(const weir_rkey *rkey, uint64_t *addr, uint64_t *len);

/*
 * Maps a peer's memory into this process where the backend can: memory of a pool, over shm, and over UCX where it
 * reaches the peer through shared memory, once the endpoint is connected (before that: WEIR_ERR_AGAIN). `*ptr` then addresses the byte
 * `remote_addr` and stays valid until the key is destroyed. Errors: WEIR_ERR_UNSUPPORTED, WEIR_ERR_RANGE, WEIR_ERR_KEY.
 */
weir_status weir_mem_map_peer(weir_rkey *rkey, uint64_t remote_addr, size_t len, void **ptr);

/* ---- Endpoints -------------------------------------------------------------------------------------------------- */

/*
 * Makes an endpoint to the context with the given address (copied). No connection is made yet: an endpoint that is never
 * used costs a little memory here and nothing at the peer. The first operation connects it, or weir_ep_connect() or
 * weir_ep_wait_ready() before. Keys can be imported right away. The caller owns `*ep`. Errors: WEIR_ERR_PROTOCOL (not an
 * address of Weir), WEIR_ERR_PEER_UNREACHABLE (no backend in common: the sentence lists both sides'), WEIR_ERR_LIMIT.
 */
weir_status weir_ep_create(weir_ctx *ctx, const void *address, size_t len, weir_ep **ep);

/*
 * Starts to connect, if that was not done before, and returns at once. Operations may be posted right away and wait for
 * the connection, which needs the peer's progress (Roles, above). Use it where many endpoints are to connect at the same
 * time. An error is the endpoint's end, as weir_ep_status() then gives it.
 */
weir_status weir_ep_connect(weir_ep *ep);

/*
 * Connects, and waits until that is done, at most `timeout_ms` (-1: WEIR_TIMEOUT). Gives the endpoint's error if it
 * failed.
 */
weir_status weir_ep_wait_ready(weir_ep *ep, int timeout_ms);

/* WEIR_OK while the endpoint is new, connecting or connected, else the error that ended it. Cheap; no system call. */
weir_status weir_ep_status(const weir_ep *ep);

/*
 * Connects an endpoint that has ended with an error once more to the same context, and returns at once, as
 * weir_ep_connect() does. Everything that was outstanding has completed by then, with the error where it was not known
 * to have arrived, and nothing of it is sent again: what the target has of it is for the program to find out. Keys
 * imported for the endpoint stay valid. Messages that arrived before the cut are still received, each once and before
 * those of the new connection. Where the peer's process has ended, or has closed that context, the result (here or in the
 * next weir_ep_wait_ready()) is WEIR_ERR_PEER_UNREACHABLE: a new process has an address of its own. On a healthy endpoint
 * the call does nothing. Errors: as weir_ep_connect().
 */
weir_status weir_ep_reconnect(weir_ep *ep);

/* What is known of an endpoint. */
typedef struct weir_ep_attr {
    const char *transport;  /* "verbs", "ucx" or "shm" */
    uint64_t peer_id;       /* the peer's weir_ctx_params.id */
    size_t max_inline;      /* puts up to this length need no registered local memory; 0 before it has connected */
    int ordered_writes;     /* nonzero: writes of this endpoint land in the order of posting, and of each one
                               its last byte last; of a connected endpoint */
    int native_signal;      /* nonzero: put_signal is one operation of the hardware */
    int maps_peer;          /* nonzero: weir_mem_map_peer() works for memory of the peer's pools */
} weir_ep_attr;

void weir_ep_query(const weir_ep *ep, weir_ep_attr *attr);

/*
 * Says for people which way the endpoint's connection takes, e.g. "rxe0:1, GID 1 10.77.0.1, MTU 4096", "tcp/eth0.0"; only
 * the device before it has connected. `text` has `size` bytes, 128 are enough. May make system calls.
 */
void weir_ep_path(const weir_ep *ep, char *text, size_t size);

/*
 * Closes the endpoint without waiting for the peer and frees it. Operations still outstanding complete with
 * WEIR_ERR_CANCELED before the call returns; their buffers are free to use from then on. Use weir_flush() first where
 * the data must arrive. NULL is allowed.
 */
void weir_ep_close(weir_ep *ep);

/* ---- Operations -------------------------------------------------------------------------------------------------
 *
 * All are nonblocking: they return when the operation is posted. If the send queue is full or the endpoint is still
 * connecting they make progress until there is room, at most WEIR_TIMEOUT. A returned error means that the operation
 * was not posted and `comp` is as it was. `comp` may be NULL: then only weir_flush() tells of the end.
 *
 * Of many puts, gets and fetch_adds that follow each other without progress being made, some may be held back for a
 * moment, to be given to the device together. They go with the next put_signal, weir_send() or weir_flush(), and with
 * any call that makes progress: who polls memory for a peer's answer calls weir_progress() meanwhile.
 *
 * Order: data is in the target's memory when the target sees the signal or message that was posted behind it, and when a
 * flush behind it has ended. Without these two writes may land in any order, and one write's bytes too: who polls memory
 * needs an endpoint of which weir_ep_query() says ordered_writes (not so over several devices, or with
 * WEIR_VERBS_RELAXED=on at the target), and only then may write the same bytes twice without one of them in between.
 *
 * Local memory (`local`, `mem`): `mem` is the region that holds it; NULL lets the context look it up among its own
 * regions. Where there is none and the backend needs one (verbs, above max_inline), the memory is registered through a
 * cache (WEIR_REG_CACHE; with 0 it is WEIR_ERR_KEY). It may be unmapped when the operation has ended: the cache notices,
 * unless it is done by a system call that passes the C library by.
 * Remote memory: `remote_addr` is an address of the target's, which the key must cover from first to last byte; otherwise
 * WEIR_ERR_RANGE. `len` may be 0 and any alignment is allowed unless said otherwise.
 *
 * Errors of all: WEIR_ERR_KEY, WEIR_ERR_RANGE, WEIR_ERR_INVALID, WEIR_ERR_PEER_GONE, WEIR_ERR_PEER_UNREACHABLE,
 * WEIR_ERR_TIMEOUT.
 */

/* Writes `len` bytes from `local` to the target. `comp` ends when `local` may be reused. */
weir_status weir_put(weir_ep *ep, const void *local, weir_mem *mem, size_t len, uint64_t remote_addr, weir_rkey *rkey,
                     weir_comp *comp);

/* Reads `len` bytes of the target into `local`. `comp` ends when the data is there. */
weir_status weir_get(weir_ep *ep, void *local, weir_mem *mem, size_t len, uint64_t remote_addr, weir_rkey *rkey,
                     weir_comp *comp);

/*
 * Writes like weir_put(), then adds one to the target's signal `signal` (see weir_signal_create). The target sees the
 * new count only after the data of this and of all earlier put and put_signal operations of this endpoint. With `len` 0
 * `rkey` may be NULL and only the signal is sent. `comp` ends when `local` may be reused. A number that no signal can have
 * is WEIR_ERR_RANGE; one that the target has not made is refused likewise, or counted nowhere.
 */
weir_status weir_put_signal(weir_ep *ep, const void *local, weir_mem *mem, size_t len, uint64_t remote_addr,
                            weir_rkey *rkey, uint32_t signal, weir_comp *comp);

/*
 * Adds `value` to the 64-bit integer at `remote_addr` (aligned to 8 bytes) and stores what was there before in
 * `*result` (aligned to 8 bytes, registered like any local memory where the backend needs it). `comp` ends when the
 * result is there. Atomic with respect to operations of the same backend; the target's own CPU, or peers that reach
 * the same word over another backend, are not excluded.
 */
weir_status weir_fetch_add(weir_ep *ep, uint64_t value, uint64_t *result, weir_mem *mem, uint64_t remote_addr,
                           weir_rkey *rkey, weir_comp *comp);

/*
 * Sends a control message of up to WEIR_MSG_MAX bytes; the data is copied before the call returns. Messages of one
 * endpoint arrive once, whole and in order. When the target does not take its messages the call waits for room, at most
 * WEIR_TIMEOUT.
 */
weir_status weir_send(weir_ep *ep, const void *data, size_t len);

/*
 * Takes the next control message that arrived at the context, from any peer. `*len` is the room on entry, the length on
 * return; `*peer_id` (may be NULL) is the sender's id. Makes progress itself. WEIR_ERR_AGAIN: there is none;
 * WEIR_ERR_RANGE: too little room, the message stays.
 */
weir_status weir_recv(weir_ctx *ctx, void *buf, size_t *len, uint64_t *peer_id);

/* `comp` (not NULL) ends when all operations posted to the endpoint before this call are complete at the target. */
weir_status weir_flush(weir_ep *ep, weir_comp *comp);

/* ---- Progress and waiting --------------------------------------------------------------------------------------- */

/* Carries operations forward without blocking. Returns the number of events handled; zero: nothing happened. */
unsigned weir_progress(weir_ctx *ctx);

/*
 * What weir_boot_attend() has called for a weir_ctx: makes progress; with a descriptor it then sleeps, as weir_ctx_block()
 * does but without spinning, until that is readable or something arrives, and returns 1.
 */
int weir_ctx_attend(void *ctx, int fd, int timeout_ms);

/* WEIR_ERR_AGAIN while operations are pending (no progress is made here), then their first error or WEIR_OK. */
weir_status weir_test(const weir_comp *comp);

/*
 * Makes progress until the completion has nothing pending, at most `timeout_ms` (-1: WEIR_TIMEOUT); spins for WEIR_SPIN,
 * then sleeps. Returns the completion's first error, or WEIR_ERR_TIMEOUT with the operations still pending.
 */
weir_status weir_wait(weir_ctx *ctx, weir_comp *comp, int timeout_ms);

/*
 * Sleeps until something may have happened (operation, signal, message, connection, watched descriptor), at most
 * `timeout_ms`; may return early. Makes progress before and after. For loops that wait on a condition of their own:
 * check, and while it is false call this. Never misses an event that came after the last weir_progress().
 */
void weir_ctx_block(weir_ctx *ctx, int timeout_ms);

/*
 * Tells that a new wait begins: the next calls of weir_ctx_block() poll for WEIR_SPIN again before one sleeps. To be
 * called once in front of such a loop; without it, waits that follow each other within 20 us count as one long wait.
 */
void weir_ctx_wait_begin(weir_ctx *ctx);

/* ---- Signals ----------------------------------------------------------------------------------------------------
 *
 * A signal is a 64-bit counter of a context, known to peers by its number, that counts the put_signal operations that
 * arrived. It starts at zero.
 */

/* Makes a signal and gives its number, which is valid at every peer. Errors: WEIR_ERR_LIMIT (all are in use). */
weir_status weir_signal_create(weir_ctx *ctx, uint32_t *signal);

/* Frees a signal; no peer may use its number any more. */
void weir_signal_destroy(weir_ctx *ctx, uint32_t signal);

/* The signal's count, with acquire order: the data that it announces is visible. No progress is made here. */
uint64_t weir_signal_read(weir_ctx *ctx, uint32_t signal);

/*
 * Waits until the signal's count is at least `count`, at most `timeout_ms` (-1: WEIR_TIMEOUT). Ends early with the error of
 * an endpoint of the context that fails meanwhile, since the signal may be that peer's. Errors: WEIR_ERR_TIMEOUT,
 * WEIR_ERR_PEER_GONE, WEIR_ERR_INVALID.
 */
weir_status weir_signal_wait(weir_ctx *ctx, uint32_t signal, uint64_t count, int timeout_ms);

#ifdef __cplusplus
}
#endif
#endif
