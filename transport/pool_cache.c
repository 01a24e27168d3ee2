/*
 * What threads keep of pools under WEIR_CTX_MULTI. A cache belongs to its thread, which alone uses and frees it; a pool
 * that is destroyed only lets go of it, and the thread notices later. The registry's lock is taken when a cache is made,
 * when a thread ends and when a pool is destroyed; it comes before the context's.
 *
 * These are the only variables of the transport that are not in a context: a thread that ends is told no context.
 */
#include "transport/pool.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Thread_local struct wi_pool_cache *wi_pool_near[WI_POOL_NEAR_CACHES];

static struct {
    pthread_mutex_t lock;
    pthread_once_t once;
    pthread_key_t key; /* its destructor tells that a thread ends; its value is the list of the thread's caches */
    bool has_key;
    pid_t pid;
    uint64_t pools;
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER, .once = PTHREAD_ONCE_INIT};

uint64_t wi_pool_next_id(void)
{
    return __atomic_add_fetch(&registry.pools, 1, __ATOMIC_RELAXED);
}

void wi_pool_cache_fini(struct wi_pool_cache *cache)
{
    for (int i = 0; i <= WI_POOL_CLASS_MAX; i++)
        free(cache->stack[i].items);
}

static void unlink_from_pool(struct wi_pool_cache *cache)
{
    if (cache->pool_prev)
        cache->pool_prev->pool_next = cache->pool_next;
    else
        cache->pool->caches = cache->pool_next;
    if (cache->pool_next)
        cache->pool_next->pool_prev = cache->pool_prev;
    cache->pool = NULL;
}

static void cache_free(struct wi_pool_cache *cache)
{
    size_t slot = cache->pool_id % WI_POOL_NEAR_CACHES;
    if (wi_pool_near[slot] == cache)
        wi_pool_near[slot] = NULL;
    wi_pool_cache_fini(cache);
    free(cache);
}

/* Frees the caches in a list of this thread's whose pool is gone, or all. With the registry's lock held. */
static struct wi_pool_cache *sweep(struct wi_pool_cache *first, bool all)
{
    struct wi_pool_cache **link = &first;
    while (*link) {
        struct wi_pool_cache *cache = *link;
        if (cache->pool && !all) {
            link = &cache->next;
            continue;
        }
        *link = cache->next;
        if (cache->pool) {
            wi_pool_cache_empty(cache->pool, cache);
            unlink_from_pool(cache);
        }
        cache_free(cache);
    }
    return first;
}

static void thread_ends(void *first)
{
    if (registry.pid != getpid())
        return; /* after a fork another thread, which does not exist here, may hold the lock for ever */
    pthread_mutex_lock(&registry.lock);
    sweep(first, true);
    pthread_mutex_unlock(&registry.lock);
}

static void make_key(void)
{
    registry.pid = getpid();
    registry.has_key = pthread_key_create(&registry.key, thread_ends) == 0;
}

static struct wi_pool_cache *cache_new(struct weir_pool *pool)
{
    struct wi_pool_cache *cache = calloc(1, sizeof(*cache));
    if (!cache)
        return NULL;
    cache->pool_id = pool->id;
    pthread_mutex_lock(&registry.lock);
    cache->next = sweep(pthread_getspecific(registry.key), false);
    bool kept = pthread_setspecific(registry.key, cache) == 0;
    if (kept) {
        cache->pool = pool;
        cache->pool_next = pool->caches;
        if (pool->caches)
            pool->caches->pool_prev = cache;
        pool->caches = cache;
    } else {
        pthread_setspecific(registry.key, cache->next); /* has room: it held a value already, or that is NULL */
    }
    pthread_mutex_unlock(&registry.lock);
    if (kept)
        return cache;
    free(cache);
    return NULL;
}

struct wi_pool_cache *wi_pool_cache_find(struct weir_pool *pool)
{
    pthread_once(&registry.once, make_key);
    if (!registry.has_key)
        return NULL;
    struct wi_pool_cache *cache = pthread_getspecific(registry.key);
    while (cache && cache->pool_id != pool->id)
        cache = cache->next;
    if (!cache)
        cache = cache_new(pool);
    if (cache)
        wi_pool_near[pool->id % WI_POOL_NEAR_CACHES] = cache;
    return cache;
}

void wi_pool_caches_detach(struct weir_pool *pool)
{
    pthread_mutex_lock(&registry.lock);
    while (pool->caches)
        unlink_from_pool(pool->caches);
    pthread_mutex_unlock(&registry.lock);
}
