/* What the files of the front share: the context, its regions and its lock. Backends do not see it. */
#ifndef WI_TRANSPORT_CONTEXT_H
#define WI_TRANSPORT_CONTEXT_H

#include "core/clock.h"
#include "core/config.h"
#include "transport/ops.h"
#include "transport/process.h"
#include "transport/ranges.h"
#include "transport/regcache.h"
#include "transport/stats.h"
#include "transport/unmap.h"

#include <pthread.h>

#define WI_IFACE_MAX 2

enum wi_mem_kind {
    WI_MEM_USER,
    WI_MEM_POOL,     /* a slab: not for weir_mem_deregister() */
    WI_MEM_DEVICE,   /* a dma-buf's, see device_memory.c */
    WI_MEM_BORROWED, /* found through the registration cache alone, see borrow.c */
};

/* The exported ranges of a region, by range; see export.c. */
struct wi_exports {
    struct wi_mem_export **buckets;
    size_t count, room; /* room: how many buckets, a power of two or 0 */
};

struct weir_mem {
    struct weir_ctx *ctx;
    struct wi_mem_desc desc;
    enum wi_mem_kind kind;
    struct wi_regcache_entry *entry; /* of a borrowed one that is kept; NULL: it is not */
    struct wi_mr *mr[WI_IFACE_MAX];  /* by index of the interface; NULL: of device memory, where it has none */
    struct wi_exports exports;
};

struct weir_ctx {
    struct wi_iface *iface[WI_IFACE_MAX];
    int iface_count;
    bool multi;
    unsigned char *ours; /* a mark, WI_OURS_*; zero in a child after fork(), see wi_mark() */
    pthread_mutex_t lock;      /* taken only when `multi` */
    uint64_t id;
    uint64_t host;
    char interface[64]; /* numeric address of WEIR_INTERFACE, where that is set */
    uint64_t timeout_ns;
    uint64_t spin_ns;

    struct wi_ranges mems; /* regions, but for borrowed ones */
    uint32_t device_regions;      /* of device memory */
    struct wi_regcache *regcache; /* NULL: not needed so far, or nothing is kept */
    bool regcache_tried;
    struct wi_unmap unmap;
    struct wi_loan *loans;       /* operations under way on borrowed registrations */
    struct wi_loan *spare_loans;
    uint64_t next_mem_id;

    struct weir_ep *eps;       /* all endpoints */
    uint64_t ep_failures;      /* how many have ended with an error so far */
    struct weir_pool *pools;
    unsigned char *signal_used; /* one byte a signal */
    uint32_t signal_count;

    struct wi_stats stats;
    struct wi_exporter *exporter; /* NULL: nobody wants to see them */

    /* Sleeping; see sleep.c. */
    int epoll_fd;
    int wake_fd;               /* eventfd: another thread wakes the one that sleeps on epoll */
    int sleep_max_ms;          /* bound of one sleep; the tests of waking raise it */
    bool armed;
    uint32_t watched;          /* descriptors of the user's in epoll_fd */
    bool asleep;               /* a thread sleeps on epoll, or as the only interface does it by itself */
    bool on_memory;            /* the latter */
    bool woken;                /* it was told to wake */
    bool stirred;              /* something was handled that others may wait for: they are to look again */
    uint64_t arming;           /* number of the latest arming */
    uint64_t seen_arming;      /* without `multi`: the one during which the caller has looked at its condition */
    pthread_cond_t roused;
    uint32_t waiters_beside;   /* threads that wait on `roused` */
    uint64_t sleeps;           /* how many there were, for tests */
    uint64_t idle_since_ns;
    uint64_t last_block_ns;
};

static inline void wi_ctx_lock(struct weir_ctx *ctx)
{
    if (ctx->multi)
        pthread_mutex_lock(&ctx->lock);
}

/* With the lock held: has all who wait look at their conditions again (sleep.c). */
void wi_ctx_rouse(struct weir_ctx *ctx);

static inline void wi_ctx_unlock(struct weir_ctx *ctx)
{
    if (!ctx->multi)
        return;
    if (__builtin_expect(ctx->stirred, 0))
        wi_ctx_rouse(ctx);
    pthread_mutex_unlock(&ctx->lock);
}

/* What the mark of a context is in the process that made it. */
enum {
    WI_OURS = 1,
    WI_OURS_PLAIN = 2, /* by one thread, and nobody times its operations */
};

/*
 * The mark as it is now. An atomic load, although nobody writes it later: the kernel gives a page that one thread unmaps
 * to the next at once, which ThreadSanitizer takes for a race between their contexts.
 */
static inline unsigned char wi_mark(const struct weir_ctx *ctx)
{
    return __atomic_load_n(ctx->ours, __ATOMIC_RELAXED);
}

/* Is this a child after fork() that has a copy of its parent's context? */
static inline bool wi_in_child(const struct weir_ctx *ctx)
{
    return __builtin_expect(wi_mark(ctx) == 0, 0);
}

weir_status wi_process_init(struct weir_ctx *ctx);
void wi_process_fini(struct weir_ctx *ctx);

/* Index of an interface in its context. */
static inline int wi_iface_index(const struct weir_ctx *ctx, const struct wi_iface *iface)
{
    return ctx->iface[0] == iface ? 0 : 1;
}

/* Identifies this host and the namespaces that shared memory needs in common (host.c). */
uint64_t wi_host_id(void);

/* Identifies this host and network namespace: processes with the same one reach each other's loopback addresses. */
uint64_t wi_network_id(void);

/*
 * The numeric address that WEIR_INTERFACE (a name or a numeric address) stands for (interface.c). `size` is at least
 * INET6_ADDRSTRLEN. WEIR_ERR_CONFIG: there is no such interface, it has no usable address, or it is not an
 * address of this host.
 */
weir_status wi_interface_address(const char *text, char *address, size_t size);

/* Opens the interfaces that the configuration and `params` ask for (select.c). */
weir_status wi_ctx_open_ifaces(struct weir_ctx *ctx, const weir_ctx_params *params, const struct wi_config *config);

/* After a wait of our own that called weir_ctx_block(): takes the lock (sleep.c). */
void wi_ctx_wait_end(struct weir_ctx *ctx);

/* Gives back the addresses that were made up for device memory, if they were (device_memory.c). */
void wi_device_addresses_free(const struct wi_mem_desc *desc);

/* All below: with the context's lock held. */

unsigned wi_ctx_progress(struct weir_ctx *ctx);                          /* sleep.c */
weir_status wi_sleep_init(struct weir_ctx *ctx);                         /* sleep.c */
void wi_sleep_fini(struct weir_ctx *ctx);                                /* sleep.c */
/* memory.c. Where a limit is met, what the registration cache holds unused gives way. */
weir_status wi_mem_add(struct weir_ctx *ctx, const struct wi_mem_desc *desc, enum wi_mem_kind kind,
                       struct weir_mem **mem);
void wi_mem_remove(struct weir_mem *mem);                                /* memory.c */
void wi_exports_end(struct weir_mem *mem);                               /* export.c: takes all keys back */
struct weir_mem *wi_mem_lookup(struct weir_ctx *ctx, const void *addr, size_t len); /* memory.c */
weir_status wi_mem_borrow(struct weir_ctx *ctx, void *addr, size_t len, struct weir_mem **mem); /* borrow.c */
void wi_mem_return(struct weir_mem *mem);                                /* borrow.c */
void wi_borrow_fini(struct weir_ctx *ctx);                               /* borrow.c: ends the cache */
void wi_ep_close(struct weir_ep *ep);                                    /* endpoint.c */
weir_status wi_ep_start(struct weir_ep *ep);                             /* connect.c: connects if nobody did so far */

/* One turn of polling, without the lock. */
static inline unsigned wi_ctx_turn(struct weir_ctx *ctx)
{
    wi_ctx_lock(ctx);
    unsigned events = wi_ctx_progress(ctx);
    wi_ctx_unlock(ctx);
    wi_turn();
    return events;
}

#endif
