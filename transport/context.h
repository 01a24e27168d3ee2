/* What the files of the front share: the context, its regions and its lock. Backends do not see it. */
#ifndef WI_TRANSPORT_CONTEXT_H
#define WI_TRANSPORT_CONTEXT_H

#include "core/config.h"
#include "transport/ops.h"

#include <pthread.h>

#define WI_IFACE_MAX 2

struct weir_mem {
    struct weir_ctx *ctx;
    struct wi_mem_desc desc;
    bool pooled;                     /* belongs to a pool: not for weir_mem_deregister() */
    struct wi_mr *mr[WI_IFACE_MAX];  /* by index of the interface */
};

struct weir_ctx {
    struct wi_iface *iface[WI_IFACE_MAX];
    int iface_count;
    bool multi;
    pthread_mutex_t lock;      /* taken only when `multi` */
    uint64_t id;
    uint64_t host;
    char interface[64]; /* numeric address of WEIR_INTERFACE, where that is set */
    uint64_t timeout_ns;
    uint64_t spin_ns;

    /* Regions, ordered by address for weir_mem_find(). They may overlap. */
    struct weir_mem **mems;
    size_t mem_count, mem_room;
    uint64_t next_mem_id;

    struct weir_ep *eps;       /* all endpoints */
    uint64_t ep_failures;      /* how many have ended with an error so far */
    struct weir_pool *pools;
    unsigned char *signal_used; /* one byte a signal */
    uint32_t signal_count;

    /* Sleeping; see wait.c. */
    int epoll_fd;
    int wake_fd;               /* eventfd: another thread made progress */
    bool armed;
    bool asleep;               /* a thread sleeps on epoll */
    bool woken;                /* it was told to wake */
    pthread_t armed_by;
    pthread_cond_t progressed;
    uint32_t other_waiters;
    uint64_t idle_since_ns;
    uint64_t last_block_ns;
};

static inline void wi_ctx_lock(struct weir_ctx *ctx)
{
    if (ctx->multi)
        pthread_mutex_lock(&ctx->lock);
}

static inline void wi_ctx_unlock(struct weir_ctx *ctx)
{
    if (ctx->multi)
        pthread_mutex_unlock(&ctx->lock);
}

/* Index of an interface in its context. */
static inline int wi_iface_index(const struct weir_ctx *ctx, const struct wi_iface *iface)
{
    return ctx->iface[0] == iface ? 0 : 1;
}

/* Identifies this host and the namespaces that shared memory needs in common (host.c). */
uint64_t wi_host_id(void);

/*
 * The numeric address that WEIR_INTERFACE (a name or a numeric address) stands for (interface.c). `size` is at least
 * INET6_ADDRSTRLEN. WEIR_ERR_CONFIG: there is no such interface, or it has no usable address.
 */
weir_status wi_interface_address(const char *text, char *address, size_t size);

/* Opens the interfaces that the configuration and `params` ask for (select.c). */
weir_status wi_ctx_open_ifaces(struct weir_ctx *ctx, const weir_ctx_params *params, const struct wi_config *config);

/* All below: with the context's lock held. */

unsigned wi_ctx_progress(struct weir_ctx *ctx);                          /* wait.c */
weir_status wi_wait_init(struct weir_ctx *ctx);                          /* wait.c */
void wi_wait_fini(struct weir_ctx *ctx);                                 /* wait.c */
weir_status wi_mem_add(struct weir_ctx *ctx, const struct wi_mem_desc *desc, bool pooled, struct weir_mem **mem);
void wi_mem_remove(struct weir_mem *mem);                                /* memory.c */
struct weir_mem *wi_mem_lookup(struct weir_ctx *ctx, const void *addr, size_t len); /* memory.c */
void wi_ep_close(struct weir_ep *ep);                                    /* endpoint.c */
weir_status wi_ep_start(struct weir_ep *ep);                             /* connect.c: connects if nobody did so far */

#endif
