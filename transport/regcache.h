/*
 * The registration cache: registrations of ordinary memory that are kept for the next use, within a budget of bytes; the
 * one that was used the longest ago goes first. What registering is, the owner says by two functions, so that this is
 * tested without hardware.
 *
 * Entries are whole pages. They may overlap: a range that lies within an entry is served by it, one that only overlaps it
 * gets an entry of its own, and what lies within a new entry goes. (To merge ranges that overlap would register a long
 * buffer anew, from its start, with each step through it.)
 *
 * An entry that is in use is never deregistered. When memory is unmapped its entries are found no more from then on;
 * those in use are deregistered when their last user is done.
 *
 * Threads: the owner's lock keeps all calls apart but invalidate(), which may come at any time from any thread, even from
 * within a call of munmap() made by one of the two functions. It takes a lock of the cache's own, under which nothing is
 * allocated, freed or registered.
 */
#ifndef WI_TRANSPORT_REGCACHE_H
#define WI_TRANSPORT_REGCACHE_H

#include <weir/status.h>

#include <stddef.h>
#include <stdint.h>

struct wi_regcache;

struct wi_regcache_ops {
    weir_status (*reg)(void *owner, void *addr, size_t len, void **handle);
    void (*dereg)(void *owner, void *handle);
};

struct wi_regcache_entry {
    void *handle; /* what reg() made */
};

struct wi_regcache_stats {
    uint64_t hits, misses, evictions, invalidations;
    size_t entries, bytes; /* registered now, with those in use */
};

weir_status wi_regcache_create(const struct wi_regcache_ops *ops, void *owner, size_t budget,
                               struct wi_regcache **cache);

/* Deregisters all; none is in use any more. */
void wi_regcache_destroy(struct wi_regcache *cache);

/*
 * Finds or makes an entry that holds [addr, addr + len), len > 0, and counts its user: put() ends that. What is in use
 * may pass the budget; what is not never does. Errors: reg()'s, WEIR_ERR_NO_MEMORY.
 */
weir_status wi_regcache_get(struct wi_regcache *cache, void *addr, size_t len, struct wi_regcache_entry **entry);
void wi_regcache_put(struct wi_regcache *cache, struct wi_regcache_entry *entry);

/* [addr, addr + len) is going to be unmapped, or to hold other memory. */
void wi_regcache_invalidate(struct wi_regcache *cache, const void *addr, size_t len);

/* Deregisters entries that are not in use until it has been `bytes` or none is left. Returns how many bytes. */
size_t wi_regcache_shed(struct wi_regcache *cache, size_t bytes);

void wi_regcache_query(struct wi_regcache *cache, struct wi_regcache_stats *stats);

#endif
