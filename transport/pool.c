/*
 * Pools: registered slabs, cut into objects of size classes. Allocating and freeing move one pointer on a stack of the
 * thread's own (pool_cache.c), which is filled from and emptied into the pool's by the half, under the context's lock.
 *
 * A slab is carved, from its start on, into runs: one run holds objects of one class. All bookkeeping lives outside of
 * the slab, since peers can write there: a tag for each place where an object can begin says of which class it is and
 * whether it is handed out, so what is given back twice, or was never handed out, is found out. Classes grow by a
 * quarter, so at most a fifth of an object is unused. Objects above a quarter of the slab size get a slab of their own,
 * which goes when they do.
 */
#include "transport/pool.h"

#include "core/error.h"
#include "core/log.h"
#include "transport/numa.h"

#include <stdlib.h>
#include <string.h>

enum {
    RUN_MIN = 64 << 10, /* bytes carved at once for small objects */
    KEPT_MAX = 256,     /* objects of a class that a cache keeps at most */
};

static size_t round_up(size_t value, size_t to)
{
    return (value + to - 1) / to * to;
}

/* ---- Classes ----------------------------------------------------------------------------------------------------- */

/* Sizes up to (4 + slot % 4) * 2^(slot / 4 + 4) bytes have this slot: quarters between powers of two, 64 is slot 0. */
static inline unsigned slot_of(size_t size)
{
    size_t last = (size ? size - 1 : 0) | (WI_POOL_GRAIN - 1);
    unsigned log2 = 63 - (unsigned)__builtin_clzll(last);
    return 4 * (log2 - 5) + (unsigned)(last >> (log2 - 2) & 3) - 3;
}

static void init_classes(struct weir_pool *pool)
{
    size_t limit = pool->slab_size / 4;
    unsigned slots = sizeof(pool->class_at);
    for (unsigned slot = 0; slot < slots; slot++) {
        int last = pool->class_count - 1;
        size_t size = slot / 4 < 56 ? (size_t)(4 + slot % 4) << (slot / 4 + 4) : SIZE_MAX / 2;
        size = round_up(size, size >= WI_POOL_PAGE ? WI_POOL_PAGE : WI_POOL_GRAIN);
        if (size <= limit && pool->class_count < WI_POOL_CLASS_MAX && (last < 0 || pool->class_size[last] < size))
            pool->class_size[pool->class_count++] = size;
        /* Above the largest class: a slab of its own. */
        last = pool->class_count - 1;
        pool->class_at[slot] = (unsigned char)(pool->class_size[last] >= size ? last : WI_POOL_CLASS_MAX);
    }
}

/* Smallest class that fits; WI_POOL_CLASS_MAX if none does. */
static inline unsigned class_of(const struct weir_pool *pool, size_t size)
{
    return pool->class_at[slot_of(size)];
}

/* ---- The pool's own stacks: with the context's lock held ---------------------------------------------------------- */

/* Carves a run for a class and puts its objects on the class's stack. */
static weir_status grow_class(struct weir_pool *pool, unsigned index)
{
    struct wi_stack *stack = &pool->free[index];
    size_t size = pool->class_size[index], run = size >= RUN_MIN ? size : RUN_MIN, objects = run / size;
    if (!pool->current || pool->current->len - pool->current->carved < run) {
        weir_status status = wi_slab_new(pool, pool->slab_size, pool->slab_size, &pool->current);
        if (status != WEIR_OK)
            return status;
    }
    void **items = realloc(stack->items, (pool->object_count[index] + objects) * sizeof(void *));
    if (!items)
        return wi_error(WEIR_ERR_NO_MEMORY, "pool: out of memory");
    stack->items = items;
    pool->object_count[index] += objects;
    struct wi_slab *slab = pool->current;
    for (size_t i = objects; i-- > 0;) {
        size_t at = slab->carved + i * size;
        slab->tags[at / WI_POOL_GRAIN] = (unsigned char)(index + 1);
        stack->items[stack->count++] = slab->addr + at;
    }
    slab->carved += round_up(run, WI_POOL_PAGE);
    return WEIR_OK;
}

static void move(struct wi_stack *from, struct wi_stack *to, size_t count)
{
    memcpy(to->items + to->count, from->items + from->count - count, count * sizeof(void *));
    to->count += count;
    from->count -= count;
}

void wi_pool_cache_empty(struct weir_pool *pool, struct wi_pool_cache *cache)
{
    wi_ctx_lock(pool->ctx);
    for (int i = 0; i < pool->class_count; i++)
        if (cache->stack[i].count > 0)
            move(&cache->stack[i], &pool->free[i], cache->stack[i].count);
    wi_ctx_unlock(pool->ctx);
}

/* ---- Allocating -------------------------------------------------------------------------------------------------- */

/* The slab that an object of a class lies in, by the cache alone; NULL: the pool must be asked. */
static inline struct wi_slab *near_slab(const struct weir_pool *pool, const struct wi_pool_cache *cache,
                                        const void *ptr)
{
    struct wi_slab *slab = cache->near[(uintptr_t)ptr >> pool->slab_shift & (WI_POOL_NEAR_SLABS - 1)];
    return slab && (uintptr_t)ptr - (uintptr_t)slab->addr < slab->len ? slab : NULL;
}

static void remember_slab(const struct weir_pool *pool, struct wi_pool_cache *cache, const void *ptr,
                          struct wi_slab *slab)
{
    if (cache)
        cache->near[(uintptr_t)ptr >> pool->slab_shift & (WI_POOL_NEAR_SLABS - 1)] = slab;
}

static inline unsigned char *tag_of(const struct wi_slab *slab, const void *ptr)
{
    return &slab->tags[(size_t)((const unsigned char *)ptr - slab->addr) / WI_POOL_GRAIN];
}

/* Room in a cache for its share of a class; false: the class is too large for caches, or memory is short. */
static bool has_room(const struct weir_pool *pool, struct wi_stack *stack, unsigned index)
{
    if (stack->room > 0 || pool->class_size[index] > pool->cache_bytes / 2)
        return stack->room > 0;
    size_t room = pool->cache_bytes / pool->class_size[index];
    room = room < KEPT_MAX ? room : KEPT_MAX;
    stack->items = malloc(room * sizeof(void *));
    stack->room = stack->items ? room : 0;
    return stack->room > 0;
}

static weir_status alloc_own_slab(struct weir_pool *pool, size_t size, void **ptr, struct weir_mem **mem)
{
    struct wi_slab *slab;
    if (size > SIZE_MAX / 2)
        return wi_error(WEIR_ERR_NO_MEMORY, "pool: %zu bytes cannot be allocated", size);
    weir_status status = wi_slab_new(pool, round_up(size, WI_HUGE_2M), WI_POOL_GRAIN, &slab);
    if (status != WEIR_OK)
        return status;
    slab->single = true;
    slab->carved = slab->len;
    *ptr = slab->addr;
    *mem = slab->mem;
    return WEIR_OK;
}

/* The cache cannot serve it: takes one from the pool, and fills half of the cache's share from what is free. */
static weir_status alloc_slowly(struct weir_pool *pool, struct wi_pool_cache *cache, unsigned index, size_t size,
                                void **ptr, struct weir_mem **mem)
{
    if (index == WI_POOL_CLASS_MAX)
        return alloc_own_slab(pool, size, ptr, mem);
    struct wi_stack *free = &pool->free[index], *kept = cache ? &cache->stack[index] : NULL;
    struct wi_stack *source = kept && kept->count > 0 ? kept : free; /* it is kept, but its slab was not near */
    weir_status status = source->count > 0 ? WEIR_OK : grow_class(pool, index);
    if (status != WEIR_OK)
        return status;
    *ptr = source->items[--source->count];
    struct wi_slab *slab = wi_slab_find(pool, *ptr);
    remember_slab(pool, cache, *ptr, slab);
    __atomic_store_n(tag_of(slab, *ptr), index + 1 + WI_TAG_TAKEN, __ATOMIC_RELAXED);
    *mem = slab->mem;
    if (kept && kept->count == 0 && has_room(pool, kept, index))
        move(free, kept, free->count < kept->room / 2 ? free->count : kept->room / 2);
    return WEIR_OK;
}

weir_status weir_pool_alloc(weir_pool *pool, size_t size, void **ptr, weir_mem **mem)
{
    if (wi_in_child(pool->ctx))
        return wi_process_check(pool->ctx, "weir_pool_alloc");
    unsigned index = class_of(pool, size);
    struct wi_pool_cache *cache = wi_pool_cache(pool);
    struct wi_stack *kept = cache ? &cache->stack[index] : NULL;
    if (__builtin_expect(kept && kept->count > 0, 1)) {
        void *object = kept->items[kept->count - 1];
        struct wi_slab *slab = near_slab(pool, cache, object);
        if (__builtin_expect(slab != NULL, 1)) {
            kept->count--;
            __atomic_store_n(tag_of(slab, object), (unsigned char)(index + 1 + WI_TAG_TAKEN), __ATOMIC_RELAXED);
            *ptr = object;
            if (mem)
                *mem = slab->mem;
            return WEIR_OK;
        }
    }
    struct weir_mem *region = NULL;
    wi_ctx_lock(pool->ctx);
    weir_status status = alloc_slowly(pool, cache, index, size, ptr, &region);
    wi_ctx_unlock(pool->ctx);
    if (status == WEIR_OK && mem)
        *mem = region;
    return status;
}

/* ---- Freeing ----------------------------------------------------------------------------------------------------- */

static void refuse(const void *ptr, unsigned tag)
{
    wi_warn("pool: %p was given back%s; ignored", ptr,
            tag == 0 ? ", but is not the start of an object of this pool" : " twice");
}

/* Marks an object as free; returns what its tag was. Of two threads that free it at once one alone sees it taken. */
static inline unsigned take_tag(const struct weir_pool *pool, const struct wi_slab *slab, const void *ptr)
{
    unsigned char *tag = tag_of(slab, ptr);
    if ((uintptr_t)ptr % WI_POOL_GRAIN != 0)
        return 0;
    unsigned char now = __atomic_load_n(tag, __ATOMIC_RELAXED);
    if (!(now & WI_TAG_TAKEN))
        return now;
    unsigned char free_tag = (unsigned char)(now & ~WI_TAG_TAKEN);
    if (!pool->ctx->multi) {
        *tag = free_tag;
        return now;
    }
    __atomic_compare_exchange_n(tag, &now, free_tag, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return now; /* as it was: not taken, if another thread came first */
}

/* The cache is full, or keeps none of this class. */
static void give_slowly(struct weir_pool *pool, struct wi_stack *kept, unsigned index, void *ptr)
{
    struct wi_stack *free = &pool->free[index];
    bool keeps = kept && has_room(pool, kept, index);
    if (keeps && kept->count < kept->room) {
        kept->items[kept->count++] = ptr;
        return;
    }
    wi_ctx_lock(pool->ctx);
    if (keeps)
        move(kept, free, kept->room / 2);
    free->items[free->count++] = ptr;
    wi_ctx_unlock(pool->ctx);
}

/* Finds the slab through the pool. An object that has a slab to itself is freed at once: then there is none left. */
static struct wi_slab *find_or_free_slab(struct weir_pool *pool, struct wi_pool_cache *cache, void *ptr)
{
    wi_ctx_lock(pool->ctx);
    struct wi_slab *slab = wi_slab_find(pool, ptr);
    bool single = slab && slab->single;
    if (slab && !single)
        remember_slab(pool, cache, ptr, slab);
    else if (single && ptr == slab->addr)
        wi_slab_remove(pool, slab);
    else
        refuse(ptr, 0);
    wi_ctx_unlock(pool->ctx);
    return single ? NULL : slab;
}

void weir_pool_free(weir_pool *pool, void *ptr)
{
    if (__builtin_expect(!ptr, 0) || wi_in_child(pool->ctx))
        return;
    struct wi_pool_cache *cache = wi_pool_cache(pool);
    struct wi_slab *slab = cache ? near_slab(pool, cache, ptr) : NULL;
    if (__builtin_expect(!slab, 0) && !(slab = find_or_free_slab(pool, cache, ptr)))
        return;
    unsigned tag = take_tag(pool, slab, ptr);
    if (__builtin_expect(!(tag & WI_TAG_TAKEN), 0)) {
        refuse(ptr, tag);
        return;
    }
    unsigned index = (tag & ~WI_TAG_TAKEN) - 1;
    struct wi_stack *kept = cache ? &cache->stack[index] : NULL;
    if (__builtin_expect(kept && kept->count < kept->room, 1))
        kept->items[kept->count++] = ptr;
    else
        give_slowly(pool, kept, index, ptr);
}

/* ---- Making and ending ------------------------------------------------------------------------------------------- */

static const char *const huge_pages_words[] = {"auto", "off", "require"};

static weir_status choose_huge_pages(const char *text, int *choice)
{
    *choice = (int)wi_config()->huge_pages;
    for (int i = 0; text && i < 3; i++) {
        if (strcmp(text, huge_pages_words[i]) == 0) {
            *choice = i;
            return WEIR_OK;
        }
    }
    return text ? wi_error(WEIR_ERR_INVALID, "weir_pool_params.huge_pages is '%s'; use auto, off or require", text)
                : WEIR_OK;
}

/* The network device whose node is the nearest to what will move the memory. */
static const char *device_of(const struct weir_ctx *ctx)
{
    for (int i = 0; i < ctx->iface_count; i++)
        if (ctx->iface[i]->ops->wire_id != WI_WIRE_SHM)
            return ctx->iface[i]->device;
    return NULL;
}

/* The caller's structure may be shorter than ours (an older program) or longer (a newer one): take what both know. */
static weir_status copy_params(weir_ctx *ctx, const weir_pool_params *user, weir_pool **pool,
                               weir_pool_params *params)
{
    *params = (weir_pool_params){.size = sizeof(*params)};
    if (!ctx || !pool)
        return wi_error(WEIR_ERR_INVALID, "weir_pool_create: context and result must be given");
    if (user && user->size < offsetof(weir_pool_params, huge_pages))
        return wi_error(WEIR_ERR_INVALID, "weir_pool_params.size is %zu; set it to sizeof(weir_pool_params)",
                        user->size);
    if (user)
        memcpy(params, user, user->size < sizeof(*params) ? user->size : sizeof(*params));
    if (params->slab_size > SIZE_MAX / 2)
        return wi_error(WEIR_ERR_INVALID, "weir_pool_create: slabs of %zu bytes", params->slab_size);
    return WEIR_OK;
}

static void init_pool(struct weir_pool *pool, size_t slab_size)
{
    pool->id = wi_pool_next_id();
    pool->cache_bytes = wi_config()->pool_cache;
    pool->slab_size = round_up(slab_size < WI_HUGE_2M ? WI_HUGE_2M : slab_size, WI_HUGE_2M);
    pool->slab_shift = 63 - (unsigned)__builtin_clzll(pool->slab_size);
    init_classes(pool);
}

weir_status weir_pool_create_with(weir_ctx *ctx, const weir_pool_params *user, weir_pool **out)
{
    weir_pool_params params;
    weir_status status = copy_params(ctx, user, out, &params);
    if (status == WEIR_OK)
        status = wi_process_check(ctx, "weir_pool_create");
    if (status != WEIR_OK)
        return status;
    struct weir_pool *pool = calloc(1, sizeof(*pool));
    if (!pool)
        return wi_error(WEIR_ERR_NO_MEMORY, "pool: out of memory");
    pool->ctx = ctx;
    init_pool(pool, params.slab_size ? params.slab_size : wi_config()->pool_slab);
    status = choose_huge_pages(params.huge_pages, &pool->huge_pages);
    if (status == WEIR_OK)
        status = wi_numa_choose(params.numa ? params.numa : wi_config()->numa, device_of(ctx), &pool->node);
    if (status != WEIR_OK) {
        free(pool);
        return status;
    }
    wi_ctx_lock(ctx);
    pool->next = ctx->pools;
    ctx->pools = pool;
    wi_ctx_unlock(ctx);
    *out = pool;
    return WEIR_OK;
}

weir_status weir_pool_create(weir_ctx *ctx, size_t slab_size, weir_pool **pool)
{
    weir_pool_params params = {.size = sizeof(params), .slab_size = slab_size};
    return weir_pool_create_with(ctx, &params, pool);
}

void weir_pool_query(weir_pool *pool, weir_pool_attr *attr)
{
    *attr = (weir_pool_attr){.slab_size = pool->slab_size, .numa_node = pool->node >= 0 ? pool->node : -1};
    if (wi_in_child(pool->ctx))
        return;
    wi_ctx_lock(pool->ctx);
    attr->slabs = pool->slab_count;
    for (size_t i = 0; i < pool->slab_count; i++) {
        const struct wi_slab *slab = pool->slabs[i];
        attr->bytes += slab->len;
        if (slab->page_size >= WI_HUGE_2M)
            attr->huge_bytes += slab->len;
        if (i == 0 || slab->page_size < attr->page_size)
            attr->page_size = slab->page_size;
    }
    wi_ctx_unlock(pool->ctx);
}

void weir_pool_destroy(weir_pool *pool)
{
    if (!pool || wi_in_child(pool->ctx))
        return;
    struct weir_ctx *ctx = pool->ctx;
    wi_pool_caches_detach(pool);
    wi_ctx_lock(ctx);
    struct weir_pool **link = &ctx->pools;
    while (*link != pool)
        link = &(*link)->next;
    *link = pool->next;
    for (size_t i = 0; i < pool->slab_count; i++)
        wi_slab_free(pool->slabs[i]);
    wi_ctx_unlock(ctx);
    for (int i = 0; i < pool->class_count; i++)
        free(pool->free[i].items);
    wi_pool_cache_fini(&pool->solo);
    free(pool->slabs);
    free(pool);
}
