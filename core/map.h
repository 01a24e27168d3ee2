/*
 * A hash table of structures that embed a node, with chains. It grows with what it holds, so that finding one of thousands
 * costs what finding one of ten does. Adding never fails: without memory to grow, chains get longer.
 *
 * Keys are the caller's: it gives their hash (wi_map_hash()), and compares what it is shown:
 *
 *     for (struct wi_map_node *node = wi_map_first(&map, hash); node; node = wi_map_next(node))
 *         if (WI_MAP_ITEM(node, struct thing, node)->id == id) ...
 *
 * A table of zero bytes is an empty one. Not thread safe.
 */
#ifndef WI_CORE_MAP_H
#define WI_CORE_MAP_H

#include <stddef.h>
#include <stdint.h>

struct wi_map_node {
    struct wi_map_node *next;
    uint64_t hash;
};

struct wi_map {
    struct wi_map_node **buckets; /* NULL: `only` is the only one */
    struct wi_map_node *only;
    size_t mask; /* buckets less one; their number is a power of two */
    size_t count;
};

#define WI_MAP_ITEM(_node, _type, _member) ((_type *)(void *)((char *)(_node)-offsetof(_type, _member)))

/* A key of two numbers, either of which a peer may choose, well mixed. */
uint64_t wi_map_hash(uint64_t first, uint64_t second);

void wi_map_add(struct wi_map *map, struct wi_map_node *node, uint64_t hash);

/* Takes out a node; one that is not in the table is left alone. */
void wi_map_remove(struct wi_map *map, struct wi_map_node *node);

/* First node with that hash, newest first, or NULL; and the next one with the same. */
struct wi_map_node *wi_map_first(const struct wi_map *map, uint64_t hash);
struct wi_map_node *wi_map_next(const struct wi_map_node *node);

/* Frees the table's own memory; what it held is the caller's, and is touched no more. The table is empty then. */
void wi_map_fini(struct wi_map *map);

#endif
