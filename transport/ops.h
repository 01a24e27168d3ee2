/*
 * The seam between the front (what users call) and the backends: one ops table a backend, and the structures that a
 * backend extends by embedding them as the first member.
 *
 * A context has one interface (wi_iface) a backend in use: the network's and, for peers of the same host, shared
 * memory's. The front checks arguments, key ranges and endpoint state, takes the context's lock under WEIR_CTX_MULTI, and
 * calls exactly one op. So no op ever runs concurrently with another one of the same context, and backends have no locks.
 */
#ifndef WI_TRANSPORT_OPS_H
#define WI_TRANSPORT_OPS_H

#include <weir/transport.h>

#include <stdbool.h>

/* A step of the hot path: written once and made anew for each operation, whose kind is a constant then and no call by pointer. */
#define WI_HOT static inline __attribute__((always_inline))

/* A function of the hot path that is called: the linker lays these side by side, on few pages. */
#define WI_NEAR __attribute__((hot))

struct wi_transport_ops;
struct wi_peer_stats; /* stats.h; the front's */

/* ---- Structures that backends extend ----------------------------------------------------------------------------- */

struct wi_iface_params {
    uint64_t id;              /* the context's id, told to peers when connecting */
    uint64_t host;            /* identifies host and namespace: peers with the same one can share memory */
    uint64_t network;         /* the same for the network: peers with the same one share loopback addresses */
    const char *bind_address; /* numeric address, or NULL: backend's choice */
    uint32_t signals;         /* size of the signal table */
    const weir_exchange *exchange; /* the caller's, or NULL */
    uint64_t *receives_low;   /* the front's count of times that few receives were left; for wi_count() */
};

/* A control message that arrived, owned by the interface's queue until the front has copied it out. */
struct wi_msg {
    struct wi_msg *next;
    uint64_t peer_id;
    uint32_t len;
    unsigned char data[];
};

struct wi_iface {
    const struct wi_transport_ops *ops;
    struct wi_iface_params params;
    uint64_t *signals;      /* params.signals counters, cleared, 64-byte aligned; made by the backend (it may need them in
                               shared or registered memory). Read with acquire order by the front. */
    bool wakes_on_signal;   /* false: a signal may arrive without an event on event_fd; the front then sleeps 1 ms at most */
    char device[64];        /* for weir_ctx_query */
};

struct weir_ep {
    struct weir_ctx *ctx;         /* set by the front */
    struct wi_iface *iface;       /* set by the front before ops->ep_create's return */
    const struct wi_transport_ops *ops;
    weir_status status;           /* WEIR_OK, or what ended the endpoint: set by the backend through wi_ep_fail() */
    bool started;                 /* connecting was asked for: set by the front */
    bool ready;                   /* connected: set by the backend */
    uint64_t peer_id;
    struct wi_peer_stats *stats;  /* the front's */
    char sentence[384];           /* why it ended */
    uint64_t ended;               /* as which one of the context's it ended */
    struct weir_ep *prev, *next;  /* the context's list; the front's */
};

struct weir_rkey {
    struct weir_ep *ep;
    uint64_t addr; /* first byte covered, in the target's address space */
    uint64_t len;
};

/* A backend's registration of a region; the backend embeds it in its own structure. */
struct wi_mr {
    struct wi_iface *iface;
};

/* A range of a region that was exported: what its key stands for here. The backend embeds it in its own structure. */
struct wi_export {
    struct wi_mr *mr; /* set by the front */
};

/* What the front tells a backend about memory to register. */
struct wi_mem_desc {
    void *addr;
    size_t len;
    int fd;           /* memfd that holds it (pool slabs), dma-buf (device memory), or -1: ordinary memory of the user */
    uint64_t fd_offset;
    void *reserved;   /* device memory: where the addresses begin that were made up for it, or NULL */
    uint64_t id;      /* never used twice in a context */
    struct wi_mr *made; /* the registration that came with it from mem_alloc(), or NULL */
};

/* More signals than this no context has: their numbers, which backends send beside other things, are below. */
enum { WI_SIGNALS_MAX = 1 << 20 };

/* For the front alone: no status that users see. */
#define WI_NEEDS_MR ((weir_status)1000)

/* ---- The ops table ----------------------------------------------------------------------------------------------- */

/* Names of the backends in addresses and keys; never changed. */
enum { WI_WIRE_SHM = 1, WI_WIRE_UCX = 2, WI_WIRE_VERBS = 3, WI_WIRE_SIM = 4 };

struct wi_transport_ops {
    const char *name;
    unsigned char wire_id; /* WI_WIRE_* */

    /* Could open() succeed here? Quick, without side effects; on failure the sentence is set. May block briefly. */
    weir_status (*probe)(void);

    /* Makes an interface that listens for peers. `*iface` is owned by the front, ended by close(). */
    weir_status (*open)(const struct wi_iface_params *params, struct wi_iface **iface);

    /* Frees it, with all still attached to it. All endpoints, keys and regions were ended before. Never blocks long. */
    void (*close)(struct wi_iface *iface);

    /* Writes this interface's part of the address; at most 400 bytes. `*len` is room on entry, length on return. */
    weir_status (*address)(struct wi_iface *iface, void *buf, size_t *len);

    /* -- memory -- */
    weir_status (*mem_register)(struct wi_iface *iface, const struct wi_mem_desc *desc, struct wi_mr **mr);
    void (*mem_deregister)(struct wi_mr *mr);

    /* Registers memory of a device, of which `fd` is the dma-buf: from fd_offset on, under the name `addr`, at which nothing
     * may be read or written. `fd` is the caller's and may be closed afterwards. NULL in the table: unsupported; the region
     * then has no registration with this interface, and no operation of its endpoints is given such memory. */
    weir_status (*mem_register_dmabuf)(struct wi_iface *iface, const struct wi_mem_desc *desc, struct wi_mr **mr);

    /* Makes and registers memory for a pool's slab that peers of this host can map; mem_deregister() frees it. Asked where
     * the context has no other interface. NULL in the table, or WEIR_ERR_UNSUPPORTED: the front makes a memfd. */
    weir_status (*mem_alloc)(struct wi_iface *iface, size_t len, void **addr, struct wi_mr **mr);

    /* Makes a key for [addr, addr+len) within the region: the backend's part of its blob, at most 300 bytes, to which the
     * front adds the range and a checksum. `*export` is ended by mem_unexport(), at the latest before mem_deregister().
     * No two exports of one range are there at a time. */
    weir_status (*mem_export)(struct wi_mr *mr, const void *addr, size_t len, void *blob, size_t *blob_len,
                              struct wi_export **export);

    /* Takes the key back, as weir_mem_unexport() says, and frees the export. False: peers may go on to use the key until
     * the region is deregistered. */
    bool (*mem_unexport)(struct wi_export *export);

    /* The front has checked length, checksum and range fields and sets them in the key after return. Contents still
     * come from outside: check them. */
    weir_status (*rkey_import)(struct weir_ep *ep, const void *blob, size_t blob_len, uint64_t addr, uint64_t len,
                               struct weir_rkey **rkey);
    void (*rkey_destroy)(struct weir_rkey *rkey);

    /* As weir_mem_map_peer(). NULL in the table means unsupported. */
    weir_status (*rkey_map)(struct weir_rkey *rkey, uint64_t remote_addr, size_t len, void **ptr);

    /* -- endpoints -- */

    /* Makes an endpoint to an address part written by the same backend at the peer (untrusted bytes). Sends nothing and
     * takes no resource of the network: that is for ep_connect(). Keys can be imported from now on. A backend without
     * connections may look for the peer here, so that another one is tried where it is not found. */
    weir_status (*ep_create)(struct wi_iface *iface, const void *address, size_t len, struct weir_ep **ep);

    /* Starts connecting. Nonblocking. Sets ready at once, or later from progress(); failure later goes through
     * wi_ep_fail(), which the front calls where this returns an error. Called at the first use, and after ep_reset(). */
    weir_status (*ep_connect)(struct weir_ep *ep);

    /* Brings an endpoint that has ended (status is its error) back to where ep_create() left it, for another ep_connect():
     * ends what is outstanding and lets the connection go, but keeps the imported keys usable. The target must not mix
     * what arrived over the old connection with what comes over the next one. Bounded, short. NULL in the table means
     * unsupported. The front clears status, started and ready afterwards. */
    weir_status (*ep_reset)(struct weir_ep *ep);
    void (*ep_query)(const struct weir_ep *ep, weir_ep_attr *attr); /* fills the backend's facts; peer_id is the front's */

    /* As weir_ep_path(), of a connected endpoint. NULL in the table: the interface's device is all there is to say. */
    void (*ep_path)(const struct weir_ep *ep, char *text, size_t size);

    /* Ends all outstanding operations with WEIR_ERR_CANCELED (or their own error) and frees the endpoint, which may never
     * have been connected. Bounded, short. */
    void (*ep_close)(struct weir_ep *ep);

    /* -- operations: the endpoint is ready and healthy, the range is checked, len > 0 except for put_signal.
     * They return WEIR_ERR_AGAIN, with nothing posted, when the queue is full: the front makes progress and tries again.
     * `mr` is the registration of the local memory or NULL where the front found none: a backend that cannot do without
     * it returns WI_NEEDS_MR, with nothing posted, and the front comes again with one or makes the error.
     * A comp that is not NULL: wi_comp_start() when posted, wi_comp_end() once, from the op itself or from progress(). */
    weir_status (*put)(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *rkey, weir_comp *comp);
    weir_status (*get)(struct weir_ep *ep, void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *rkey, weir_comp *comp);
    weir_status (*put_signal)(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len,
                              uint64_t remote_addr, struct weir_rkey *rkey, uint32_t signal, weir_comp *comp);
    weir_status (*fetch_add)(struct weir_ep *ep, uint64_t value, uint64_t *result, struct wi_mr *mr,
                             uint64_t remote_addr, struct weir_rkey *rkey, weir_comp *comp);
    weir_status (*send)(struct weir_ep *ep, const void *data, size_t len);
    weir_status (*flush)(struct weir_ep *ep, weir_comp *comp);

    /* -- progress -- */

    /* Handles what has happened: completions, connections, arrivals, dead peers. Returns how many. Cheap when idle: no
     * system call on most calls (slow checks at most every few ms, by wi_now_ns() or a counter). */
    unsigned (*progress)(struct wi_iface *iface);

    /* First message in arrival order, or NULL; stays at the front of the queue until msg_pop(). */
    struct wi_msg *(*msg_peek)(struct wi_iface *iface);
    void (*msg_pop)(struct wi_iface *iface);

    /* -- sleeping -- */

    /* Descriptor that becomes readable on an event after arm(); -1: none. */
    int (*event_fd)(struct wi_iface *iface);
    /* Prepares to sleep: whatever arrives after this has returned WEIR_OK (message, signal, completion, connection)
     * makes the descriptor readable, at once or on its way here already, and it stays so until disarm(). WEIR_ERR_AGAIN:
     * something is there that progress() has not seen, call that instead of sleeping. Signals that are there already
     * are the caller's to look at, after this. */
    weir_status (*arm)(struct wi_iface *iface);
    /* After the sleep: clears what was readable. */
    void (*disarm)(struct wi_iface *iface);

    /* Where a context has nothing else to watch: sleeps at most `timeout_ms` on memory instead of the descriptor, which
     * costs less. Between arm() and disarm(); the only op without the context's lock. rouse() ends it from another
     * thread. NULL: there is no such way. */
    void (*sleep)(struct wi_iface *iface, int timeout_ms);
    void (*rouse)(struct wi_iface *iface);
};

extern const struct wi_transport_ops wi_shm_ops;
extern const struct wi_transport_ops wi_ucx_ops;   /* built with WEIR_WITH_UCX */
extern const struct wi_transport_ops wi_verbs_ops; /* built with WEIR_WITH_VERBS */

/* In programs that link the simulator, which is for tests and no part of the library; else its address is NULL. */
extern const struct wi_transport_ops wi_sim_ops __attribute__((weak, visibility("hidden")));

/* ---- Helpers for backends ---------------------------------------------------------------------------------------- */

static inline void wi_comp_start(weir_comp *comp)
{
    if (comp)
        __atomic_fetch_add(&comp->pending, 1, __ATOMIC_RELAXED);
}

static inline void wi_comp_end(weir_comp *comp, weir_status status)
{
    if (!comp)
        return;
    if (__builtin_expect(status != WEIR_OK, 0)) {
        int32_t none = WEIR_OK;
        __atomic_compare_exchange_n(&comp->status, &none, (int32_t)status, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }
    __atomic_fetch_sub(&comp->pending, 1, __ATOMIC_RELEASE);
}

/* Adds one to a counter that other threads read. */
static inline void wi_count(uint64_t *counter)
{
    if (counter)
        __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* Ends an endpoint: keeps the first status and sentence, logs it at info level. The caller fails what is outstanding. */
void wi_ep_fail(struct weir_ep *ep, weir_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
