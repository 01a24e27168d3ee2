#include "transport/regcache.h"

#include "core/error.h"
#include "transport/ranges.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

struct entry {
    struct wi_regcache_entry base;
    uintptr_t start, end;
    uint32_t users;
    bool found; /* by its address; otherwise it goes with its last user */
    struct entry *next, *prev; /* all, the one used last in front */
    struct entry *next_dead;
};

struct wi_regcache {
    const struct wi_regcache_ops *ops;
    void *owner;
    size_t budget, page;
    pthread_mutex_t lock;
    struct wi_ranges index; /* entries that can be found */
    struct entry *first, *last;
    struct entry *dead; /* unused and not found any more: to be deregistered at the next occasion */
    struct wi_regcache_stats stats;
};

/* ---- With the lock held ------------------------------------------------------------------------------------------ */

static void list_remove(struct wi_regcache *cache, struct entry *entry)
{
    *(entry->prev ? &entry->prev->next : &cache->first) = entry->next;
    *(entry->next ? &entry->next->prev : &cache->last) = entry->prev;
}

static void list_push(struct wi_regcache *cache, struct entry *entry)
{
    entry->prev = NULL;
    entry->next = cache->first;
    *(cache->first ? &cache->first->prev : &cache->last) = entry;
    cache->first = entry;
}

static void bury(struct wi_regcache *cache, struct entry *entry)
{
    list_remove(cache, entry);
    entry->next_dead = cache->dead;
    cache->dead = entry;
    cache->stats.entries--;
    cache->stats.bytes -= entry->end - entry->start;
}

/* Takes it out of the index; it goes now, or with its last user. */
static void retire(struct wi_regcache *cache, struct entry *entry)
{
    wi_ranges_remove(&cache->index, entry->start, entry);
    entry->found = false;
    if (entry->users == 0)
        bury(cache, entry);
}

/* Retires unused entries, those used longest ago first, until `bytes` are free of the budget's or they were so many. */
static size_t retire_oldest(struct wi_regcache *cache, size_t bytes)
{
    size_t retired = 0;
    for (struct entry *entry = cache->last, *before; entry && retired < bytes; entry = before) {
        before = entry->prev;
        if (entry->users > 0)
            continue;
        retired += entry->end - entry->start;
        cache->stats.evictions++;
        retire(cache, entry);
    }
    return retired;
}

static void keep_budget(struct wi_regcache *cache, size_t more)
{
    size_t wanted = cache->stats.bytes + more;
    if (wanted > cache->budget)
        retire_oldest(cache, wanted - cache->budget);
}

/* ---- Without it -------------------------------------------------------------------------------------------------- */

static void deregister_dead(struct wi_regcache *cache)
{
    pthread_mutex_lock(&cache->lock);
    struct entry *dead = cache->dead;
    cache->dead = NULL;
    pthread_mutex_unlock(&cache->lock);
    while (dead) {
        struct entry *entry = dead;
        dead = entry->next_dead;
        cache->ops->dereg(cache->owner, entry->base.handle);
        free(entry);
    }
}

weir_status wi_regcache_create(const struct wi_regcache_ops *ops, void *owner, size_t budget, struct wi_regcache **out)
{
    struct wi_regcache *cache = calloc(1, sizeof(*cache));
    if (!cache)
        return wi_error(WEIR_ERR_NO_MEMORY, "registration cache: out of memory");
    cache->ops = ops;
    cache->owner = owner;
    cache->budget = budget;
    cache->page = (size_t)sysconf(_SC_PAGESIZE);
    pthread_mutex_init(&cache->lock, NULL);
    *out = cache;
    return WEIR_OK;
}

void wi_regcache_destroy(struct wi_regcache *cache)
{
    if (!cache)
        return;
    pthread_mutex_lock(&cache->lock);
    while (cache->first) {
        cache->first->users = 0;
        retire(cache, cache->first);
    }
    pthread_mutex_unlock(&cache->lock);
    deregister_dead(cache);
    pthread_mutex_destroy(&cache->lock);
    wi_ranges_fini(&cache->index);
    free(cache);
}

/* Room in the index is made outside of the lock, since allocating may unmap; only the owner changes the room. */
static weir_status reserve(struct wi_regcache *cache)
{
    struct wi_ranges larger = {0}, old;
    pthread_mutex_lock(&cache->lock);
    size_t room = cache->index.room;
    bool enough = cache->index.count < room;
    pthread_mutex_unlock(&cache->lock);
    if (enough)
        return WEIR_OK;
    larger.room = room ? 2 * room : 64;
    larger.at = malloc(larger.room * sizeof(*larger.at));
    if (!larger.at)
        return wi_error(WEIR_ERR_NO_MEMORY, "registration cache: out of memory");
    pthread_mutex_lock(&cache->lock);
    old = cache->index;
    for (larger.count = 0; larger.count < old.count; larger.count++)
        larger.at[larger.count] = old.at[larger.count];
    cache->index = larger;
    pthread_mutex_unlock(&cache->lock);
    wi_ranges_fini(&old);
    return WEIR_OK;
}

static void enter(struct wi_regcache *cache, struct entry *entry)
{
    struct entry *inner;
    while ((inner = wi_ranges_within(&cache->index, entry->start, entry->end)))
        retire(cache, inner);
    wi_ranges_insert(&cache->index, entry->start, entry->end, entry);
    entry->found = true;
    list_push(cache, entry);
    cache->stats.entries++;
    cache->stats.bytes += entry->end - entry->start;
}

static weir_status make_entry(struct wi_regcache *cache, uintptr_t start, uintptr_t end, struct entry **out)
{
    weir_status status = reserve(cache);
    struct entry *entry = status == WEIR_OK ? calloc(1, sizeof(*entry)) : NULL;
    if (!entry)
        return wi_error(WEIR_ERR_NO_MEMORY, "registration cache: out of memory");
    entry->start = start;
    entry->end = end;
    entry->users = 1;
    status = cache->ops->reg(cache->owner, (void *)start, end - start, &entry->base.handle);
    if (status != WEIR_OK) {
        free(entry);
        return status;
    }
    pthread_mutex_lock(&cache->lock);
    enter(cache, entry);
    pthread_mutex_unlock(&cache->lock);
    *out = entry;
    return WEIR_OK;
}

/* An entry that holds the range, with one more user; NULL: none does. Then there is room in the budget for it. */
static struct entry *find(struct wi_regcache *cache, uintptr_t start, uintptr_t end)
{
    pthread_mutex_lock(&cache->lock);
    struct entry *entry = wi_ranges_holding(&cache->index, start, end);
    if (entry) {
        entry->users++;
        cache->stats.hits++;
        if (entry != cache->first) {
            list_remove(cache, entry);
            list_push(cache, entry);
        }
    } else {
        cache->stats.misses++;
        keep_budget(cache, end - start);
    }
    pthread_mutex_unlock(&cache->lock);
    return entry;
}

weir_status wi_regcache_get(struct wi_regcache *cache, void *addr, size_t len, struct wi_regcache_entry **out)
{
    uintptr_t start = (uintptr_t)addr & ~(uintptr_t)(cache->page - 1);
    uintptr_t end = ((uintptr_t)addr + len + cache->page - 1) & ~(uintptr_t)(cache->page - 1);
    if (end <= start)
        return wi_error(WEIR_ERR_INVALID, "registration cache: %zu bytes at %p pass the end of memory", len, addr);
    struct entry *entry = find(cache, start, end);
    if (!entry) {
        deregister_dead(cache);
        weir_status status = make_entry(cache, start, end, &entry);
        if (status != WEIR_OK)
            return status;
    }
    *out = &entry->base;
    return WEIR_OK;
}

void wi_regcache_put(struct wi_regcache *cache, struct wi_regcache_entry *base)
{
    struct entry *entry = (struct entry *)base;
    pthread_mutex_lock(&cache->lock);
    entry->users--;
    if (entry->users == 0 && !entry->found)
        bury(cache, entry);
    keep_budget(cache, 0);
    bool any = cache->dead != NULL;
    pthread_mutex_unlock(&cache->lock);
    if (any)
        deregister_dead(cache);
}

void wi_regcache_invalidate(struct wi_regcache *cache, const void *addr, size_t len)
{
    uintptr_t start = (uintptr_t)addr, end = start + len;
    struct entry *entry;
    pthread_mutex_lock(&cache->lock);
    while ((entry = wi_ranges_touching(&cache->index, start, end < start ? UINTPTR_MAX : end))) {
        cache->stats.invalidations++;
        retire(cache, entry);
    }
    pthread_mutex_unlock(&cache->lock);
}

size_t wi_regcache_shed(struct wi_regcache *cache, size_t bytes)
{
    pthread_mutex_lock(&cache->lock);
    size_t waiting = 0;
    for (const struct entry *entry = cache->dead; entry; entry = entry->next_dead)
        waiting += entry->end - entry->start;
    size_t shed = waiting + (waiting < bytes ? retire_oldest(cache, bytes - waiting) : 0);
    pthread_mutex_unlock(&cache->lock);
    deregister_dead(cache);
    return shed;
}

void wi_regcache_query(struct wi_regcache *cache, struct wi_regcache_stats *stats)
{
    pthread_mutex_lock(&cache->lock);
    *stats = cache->stats;
    pthread_mutex_unlock(&cache->lock);
}
