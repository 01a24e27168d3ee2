#include "core/map.h"

#include <stdlib.h>

enum { FIRST_BUCKETS = 16 };

/* The finalizer of splitmix64, after each of the two. */
static uint64_t mix(uint64_t value)
{
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ value >> 27) * 0x94d049bb133111ebull;
    return value ^ value >> 31;
}

uint64_t wi_map_hash(uint64_t first, uint64_t second)
{
    return mix(mix(first + 0x9e3779b97f4a7c15ull) ^ second);
}

static struct wi_map_node **bucket(const struct wi_map *map, uint64_t hash)
{
    return map->buckets ? &map->buckets[hash & map->mask] : (struct wi_map_node **)&map->only;
}

static void push(struct wi_map *map, struct wi_map_node *node)
{
    struct wi_map_node **at = bucket(map, node->hash);
    node->next = *at;
    *at = node;
}

/* Pushing turns a chain round; turned before, nodes of one hash keep their order. */
static void rehash(struct wi_map *map, struct wi_map_node *chain)
{
    struct wi_map_node *turned = NULL;
    for (struct wi_map_node *next; chain; chain = next) {
        next = chain->next;
        chain->next = turned;
        turned = chain;
    }
    for (struct wi_map_node *next; turned; turned = next) {
        next = turned->next;
        push(map, turned);
    }
}

/* Twice as many buckets as there were, or the first ones; without memory all stays as it is. */
static void grow(struct wi_map *map)
{
    size_t old_count = map->buckets ? map->mask + 1 : 0;
    size_t count = old_count ? 2 * old_count : FIRST_BUCKETS;
    struct wi_map_node **old = map->buckets, *only = map->only;
    struct wi_map_node **buckets = calloc(count, sizeof(struct wi_map_node *));
    if (!buckets)
        return;
    map->buckets = buckets;
    map->mask = count - 1;
    map->only = NULL;
    rehash(map, only);
    for (size_t i = 0; i < old_count; i++)
        rehash(map, old[i]);
    free(old);
}

void wi_map_add(struct wi_map *map, struct wi_map_node *node, uint64_t hash)
{
    if (map->count >= (map->buckets ? map->mask + 1 : 4))
        grow(map);
    node->hash = hash;
    push(map, node);
    map->count++;
}

void wi_map_remove(struct wi_map *map, struct wi_map_node *node)
{
    struct wi_map_node **at = bucket(map, node->hash);
    while (*at && *at != node)
        at = &(*at)->next;
    if (!*at)
        return;
    *at = node->next;
    map->count--;
}

struct wi_map_node *wi_map_first(const struct wi_map *map, uint64_t hash)
{
    struct wi_map_node *node = *bucket(map, hash);
    while (node && node->hash != hash)
        node = node->next;
    return node;
}

struct wi_map_node *wi_map_next(const struct wi_map_node *node)
{
    struct wi_map_node *next = node->next;
    while (next && next->hash != node->hash)
        next = next->next;
    return next;
}

void wi_map_fini(struct wi_map *map)
{
    free(map->buckets);
    *map = (struct wi_map){0};
}
