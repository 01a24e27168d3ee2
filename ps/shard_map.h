/*
 * Which elements of a table belong to which virtual shard, and which server has it. Pure.
 *
 * Shards are contiguous ranges of whole cache lines, so a small table has few shards that are not empty. Neighbouring
 * shards go to the same server, so that a table is one long range at each server; a table's name decides which server
 * has the first one, so that small tables do not all end up with the same server.
 */
#ifndef WI_PS_SHARD_MAP_H
#define WI_PS_SHARD_MAP_H

#include <stdint.h>

struct wi_ps_map {
    uint64_t count;  /* elements of the table */
    uint32_t shards; /* a power of two */
    uint32_t servers;
    uint32_t rotation; /* server of shard 0 */
};

/* Neighbouring shards of one server that are not empty. */
struct wi_ps_run {
    uint32_t server;
    uint32_t shard; /* first one */
    uint32_t shards;
    uint64_t first; /* first element */
    uint64_t count; /* elements */
};

struct wi_ps_map wi_ps_map_make(const char *name, uint64_t count, uint32_t shards, uint32_t servers);

/* First element of a shard; `shard` == shards gives the count. */
uint64_t wi_ps_map_start(const struct wi_ps_map *map, uint32_t shard);

/* The shard that has an element. */
uint32_t wi_ps_map_shard(const struct wi_ps_map *map, uint64_t element);

uint32_t wi_ps_map_server(const struct wi_ps_map *map, uint32_t shard);

/* The elements a server has; count 0: none. A server has one run. */
struct wi_ps_run wi_ps_map_run(const struct wi_ps_map *map, uint32_t server);

#endif
