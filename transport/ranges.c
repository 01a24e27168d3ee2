#include "transport/ranges.h"

#include <stdlib.h>
#include <string.h>

/* Index of the first range that starts above `addr`. */
static size_t first_above(const struct wi_ranges *ranges, uintptr_t addr)
{
    size_t low = 0, count = ranges->count;
    while (count > 0) { /* without a branch that depends on the data */
        size_t half = count / 2;
        bool below = ranges->at[low + half].start <= addr;
        low = below ? low + half + 1 : low;
        count = below ? count - half - 1 : half;
    }
    return low;
}

/* Works out how far ranges reach from index `at` on, until it is as it was. */
static void update_reach(struct wi_ranges *ranges, size_t at)
{
    uintptr_t reach = at > 0 ? ranges->at[at - 1].reach : 0;
    for (size_t i = at; i < ranges->count; i++) {
        struct wi_range *range = &ranges->at[i];
        reach = range->end > reach ? range->end : reach;
        if (i > at && range->reach == reach)
            return;
        range->reach = reach;
    }
}

bool wi_ranges_reserve(struct wi_ranges *ranges)
{
    if (ranges->count < ranges->room)
        return true;
    size_t room = ranges->room ? 2 * ranges->room : 16;
    struct wi_range *at = realloc(ranges->at, room * sizeof(*at));
    if (!at)
        return false;
    ranges->at = at;
    ranges->room = room;
    return true;
}

void wi_ranges_insert(struct wi_ranges *ranges, uintptr_t start, uintptr_t end, void *item)
{
    size_t at = first_above(ranges, start);
    memmove(ranges->at + at + 1, ranges->at + at, (ranges->count - at) * sizeof(*ranges->at));
    ranges->at[at] = (struct wi_range){start, end, 0, item};
    ranges->count++;
    update_reach(ranges, at);
}

void wi_ranges_remove(struct wi_ranges *ranges, uintptr_t start, const void *item)
{
    size_t at = first_above(ranges, start);
    while (at > 0 && ranges->at[at - 1].start == start && ranges->at[at - 1].item != item)
        at--;
    if (at == 0 || ranges->at[at - 1].item != item)
        return;
    at--;
    ranges->count--;
    memmove(ranges->at + at, ranges->at + at + 1, (ranges->count - at) * sizeof(*ranges->at));
    update_reach(ranges, at);
}

void *wi_ranges_holding(const struct wi_ranges *ranges, uintptr_t start, uintptr_t end)
{
    for (size_t i = first_above(ranges, start); i > 0 && ranges->at[i - 1].reach >= end; i--)
        if (ranges->at[i - 1].end >= end)
            return ranges->at[i - 1].item;
    return NULL;
}

void *wi_ranges_touching(const struct wi_ranges *ranges, uintptr_t start, uintptr_t end)
{
    if (start >= end)
        return NULL;
    for (size_t i = first_above(ranges, end - 1); i > 0 && ranges->at[i - 1].reach > start; i--)
        if (ranges->at[i - 1].end > start)
            return ranges->at[i - 1].item;
    return NULL;
}

void *wi_ranges_within(const struct wi_ranges *ranges, uintptr_t start, uintptr_t end)
{
    if (start >= end)
        return NULL;
    for (size_t i = first_above(ranges, end - 1); i > 0 && ranges->at[i - 1].start >= start; i--)
        if (ranges->at[i - 1].end <= end)
            return ranges->at[i - 1].item;
    return NULL;
}

void wi_ranges_fini(struct wi_ranges *ranges)
{
    free(ranges->at);
    *ranges = (struct wi_ranges){0};
}
