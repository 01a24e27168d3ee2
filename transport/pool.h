/*
 * What the files of the pools share: pool.c (sizes, allocating, freeing), slab.c (memory from the system),
 * pool_cache.c (what a thread keeps for itself).
 */
#ifndef WI_TRANSPORT_POOL_H
#define WI_TRANSPORT_POOL_H

#include "transport/context.h"

enum {
    WI_POOL_GRAIN = 64,      /* objects begin at multiples of this */
    WI_POOL_PAGE = 4096,     /* objects of a page and more at multiples of this */
    WI_POOL_CLASS_MAX = 126, /* sizes; class numbers fit a tag beside WI_TAG_TAKEN */
    WI_POOL_NEAR_SLABS = 64, /* slabs that a cache finds without asking the pool */
};

#define WI_HUGE_2M ((size_t)2 << 20)
#define WI_HUGE_1G ((size_t)1 << 30)

/* A tag stands for each grain of a slab: 0 where no object begins, else its class + 1, and whether it is handed out. */
#define WI_TAG_TAKEN 0x80u

struct wi_slab {
    unsigned char *addr;
    size_t len;
    size_t carved; /* bytes already given to runs */
    int fd;
    bool single;   /* holds one object */
    bool lent;     /* made by a backend: goes with its registration */
    size_t page_size; /* 0: the kernel may use transparent huge pages */
    struct weir_mem *mem;
    unsigned char *tags; /* lives outside of the slab: peers can write there */
};

/* Free objects of one class. */
struct wi_stack {
    void **items;
    size_t count, room;
};

/* What one thread keeps of a pool: nobody else touches it but for `pool` and the pool's list. */
struct wi_pool_cache {
    uint64_t pool_id;
    struct wi_slab *near[WI_POOL_NEAR_SLABS]; /* by address; slabs of one object are never here, they may go */
    struct wi_stack stack[WI_POOL_CLASS_MAX + 1];
    struct wi_pool_cache *next;       /* of the thread */
    struct weir_pool *pool;           /* NULL: it was destroyed; under the registry's lock */
    struct wi_pool_cache *pool_next, *pool_prev;
};

struct weir_pool {
    struct weir_ctx *ctx;
    struct weir_pool *next;
    uint64_t id; /* never used twice in a process */
    size_t slab_size;
    size_t cache_bytes; /* of each class that a cache keeps at most */
    int huge_pages;     /* WI_HUGE_PAGES_* */
    int node;           /* see numa.h */
    unsigned slab_shift; /* slabs in a cache are told apart by the address without these bits */
    struct wi_slab **slabs; /* ordered by address */
    size_t slab_count, slab_room;
    struct wi_slab *current; /* the one that runs are carved from */
    int class_count;
    size_t class_size[WI_POOL_CLASS_MAX + 1];
    size_t object_count[WI_POOL_CLASS_MAX]; /* how many exist */
    struct wi_stack free[WI_POOL_CLASS_MAX]; /* with room for all that exist */
    unsigned char class_at[4 * 64];          /* smallest class for sizes up to each quarter of a power of two */
    struct wi_pool_cache solo;               /* the only one, unless several threads use the context */
    struct wi_pool_cache *caches;            /* under the registry's lock */
};

/* ---- slab.c: with the context's lock held ---- */

/* Maps, places, registers and enters into the pool's table. `tag_bytes`: how much of it objects can begin in. */
weir_status wi_slab_new(struct weir_pool *pool, size_t len, size_t tag_bytes, struct wi_slab **slab);
void wi_slab_free(struct wi_slab *slab);
void wi_slab_remove(struct weir_pool *pool, struct wi_slab *slab); /* takes it off the table as well */
struct wi_slab *wi_slab_find(const struct weir_pool *pool, const void *ptr);

/* ---- pool_cache.c ---- */

/* Caches of the thread that runs, by the number of their pool. */
enum { WI_POOL_NEAR_CACHES = 8 };
extern _Thread_local struct wi_pool_cache *wi_pool_near[WI_POOL_NEAR_CACHES] __attribute__((tls_model("initial-exec")));

/* The calling thread's cache, made at the first use; NULL: out of memory. Takes the registry's lock to make one. */
struct wi_pool_cache *wi_pool_cache_find(struct weir_pool *pool);

/* Takes all caches away from a pool that is going to be destroyed; not with the context's lock held. */
void wi_pool_caches_detach(struct weir_pool *pool);
void wi_pool_cache_fini(struct wi_pool_cache *cache); /* frees its stacks */

/* The number of a new pool. */
uint64_t wi_pool_next_id(void);

static inline struct wi_pool_cache *wi_pool_cache(struct weir_pool *pool)
{
    if (!pool->ctx->multi)
        return &pool->solo;
    struct wi_pool_cache *cache = wi_pool_near[pool->id % WI_POOL_NEAR_CACHES];
    return __builtin_expect(cache && cache->pool_id == pool->id, 1) ? cache : wi_pool_cache_find(pool);
}

/* ---- pool.c ---- */

/* Gives back what a cache of `pool` holds; takes the context's lock. */
void wi_pool_cache_empty(struct weir_pool *pool, struct wi_pool_cache *cache);

#endif
