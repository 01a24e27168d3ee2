/* Elements to shards to servers. */
#include "ps/shard_map.h"

enum { UNIT = 16 }; /* elements of a cache line */

/* FNV-1a: spreads names; every worker and server must get the same. */
static uint32_t hash_of(const char *name)
{
    uint32_t hash = 2166136261u;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 16777619u;
    return hash;
}

struct wi_ps_map wi_ps_map_make(const char *name, uint64_t count, uint32_t shards, uint32_t servers)
{
    return (struct wi_ps_map){count, shards, servers, hash_of(name) % servers};
}

static uint64_t units_of(const struct wi_ps_map *map)
{
    return (map->count + UNIT - 1) / UNIT;
}

uint64_t wi_ps_map_start(const struct wi_ps_map *map, uint32_t shard)
{
    uint64_t first = units_of(map) * shard / map->shards * UNIT;
    return first < map->count ? first : map->count;
}

/* The largest shard whose first unit, floor(units * shard / shards), is not above the element's. */
uint32_t wi_ps_map_shard(const struct wi_ps_map *map, uint64_t element)
{
    return (uint32_t)(((element / UNIT + 1) * map->shards - 1) / units_of(map));
}

uint32_t wi_ps_map_server(const struct wi_ps_map *map, uint32_t shard)
{
    return (uint32_t)(((uint64_t)shard * map->servers / map->shards + map->rotation) % map->servers);
}

struct wi_ps_run wi_ps_map_run(const struct wi_ps_map *map, uint32_t server)
{
    uint64_t place = (server + map->servers - map->rotation) % map->servers;
    uint64_t from = (place * map->shards + map->servers - 1) / map->servers;
    uint64_t to = ((place + 1) * map->shards + map->servers - 1) / map->servers;
    uint64_t first = wi_ps_map_start(map, (uint32_t)from);
    uint64_t count = wi_ps_map_start(map, (uint32_t)to) - first;
    return (struct wi_ps_run){server, (uint32_t)from, (uint32_t)(to - from), first, count};
}
