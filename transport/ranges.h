/*
 * Ranges of addresses, ordered, which may overlap. Each knows how far it and all before it reach, so that a search stops
 * as soon as nothing further down can matter: O(log n) unless many overlap. No lock; nothing but reserve() allocates.
 */
#ifndef WI_TRANSPORT_RANGES_H
#define WI_TRANSPORT_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wi_range {
    uintptr_t start, end; /* end: the first address behind it */
    uintptr_t reach;      /* the largest end of this one and all before it */
    void *item;
};

struct wi_ranges {
    struct wi_range *at;
    size_t count, room;
};

/* Makes room for one more. False: out of memory. */
bool wi_ranges_reserve(struct wi_ranges *ranges);

void wi_ranges_insert(struct wi_ranges *ranges, uintptr_t start, uintptr_t end, void *item); /* room is reserved */
void wi_ranges_remove(struct wi_ranges *ranges, uintptr_t start, const void *item);

/* An item whose range holds all of [start, end), the one that starts last; NULL: none. */
void *wi_ranges_holding(const struct wi_ranges *ranges, uintptr_t start, uintptr_t end);

/* An item whose range has a byte of [start, end); NULL: none. */
void *wi_ranges_touching(const struct wi_ranges *ranges, uintptr_t start, uintptr_t end);

/* An item whose range lies within [start, end); NULL: none. */
void *wi_ranges_within(const struct wi_ranges *ranges, uintptr_t start, uintptr_t end);

void wi_ranges_fini(struct wi_ranges *ranges);

#endif
