/* The shard map: each element has one shard and one server, whatever the numbers. */
#include "ps/shard_map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const uint64_t counts[] = {1, 7, 15, 16, 17, 255, 1000, 4096, 65537, (1 << 20) + 3};
static const uint32_t shard_counts[] = {1, 2, 16, 256, 4096};

static void check_shards(const struct wi_ps_map *map)
{
    assert_int_equal(wi_ps_map_start(map, 0), 0);
    assert_int_equal(wi_ps_map_start(map, map->shards), map->count);
    for (uint32_t shard = 0; shard < map->shards; shard++) {
        uint64_t first = wi_ps_map_start(map, shard), end = wi_ps_map_start(map, shard + 1);
        assert_true(first <= end);
        assert_true(first % 16 == 0 || first == map->count);
        if (first == end)
            continue;
        assert_int_equal(wi_ps_map_shard(map, first), shard);
        assert_int_equal(wi_ps_map_shard(map, end - 1), shard);
        assert_int_equal(wi_ps_map_shard(map, first + (end - first) / 2), shard);
    }
}

static void check_runs(const struct wi_ps_map *map)
{
    uint64_t covered = 0;
    uint32_t shards = 0;
    for (uint32_t server = 0; server < map->servers; server++) {
        struct wi_ps_run run = wi_ps_map_run(map, server);
        covered += run.count;
        shards += run.shards;
        for (uint32_t i = 0; i < run.shards; i++)
            assert_int_equal(wi_ps_map_server(map, run.shard + i), server);
        if (run.shards > 0)
            assert_int_equal(run.first, wi_ps_map_start(map, run.shard));
    }
    /* Each shard is in the run of its server, and there are as many as shards: each is in exactly one. */
    assert_int_equal(shards, map->shards);
    assert_int_equal(covered, map->count);
}

static void test_covers_all(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
        for (size_t s = 0; s < sizeof(shard_counts) / sizeof(shard_counts[0]); s++)
            for (uint32_t servers = 1; servers <= 17; servers++) {
                char name[16];
                snprintf(name, sizeof(name), "table%u", servers);
                struct wi_ps_map map = wi_ps_map_make(name, counts[c], shard_counts[s], servers);
                check_shards(&map);
                check_runs(&map);
            }
}

static void test_each_element(void **state)
{
    (void)state;
    struct wi_ps_map map = wi_ps_map_make("each", 10007, 64, 3);
    uint32_t last = 0;
    for (uint64_t i = 0; i < map.count; i++) {
        uint32_t shard = wi_ps_map_shard(&map, i);
        assert_true(shard >= last);
        assert_true(wi_ps_map_start(&map, shard) <= i && i < wi_ps_map_start(&map, shard + 1));
        last = shard;
    }
}

static void test_longest(void **state)
{
    (void)state;
    struct wi_ps_map map = wi_ps_map_make("long", 1ull << 36, 65536, 7);
    check_shards(&map);
    check_runs(&map);
}

/* Small tables have one server each, but not all the same one; large ones are spread evenly. */
static void test_balance(void **state)
{
    (void)state;
    bool used[4] = {false};
    for (int i = 0; i < 64; i++) {
        char name[16];
        snprintf(name, sizeof(name), "bias%d", i);
        struct wi_ps_map map = wi_ps_map_make(name, 10, 256, 4);
        for (uint32_t server = 0; server < 4; server++)
            used[server] |= wi_ps_map_run(&map, server).count > 0;
    }
    for (uint32_t server = 0; server < 4; server++)
        assert_true(used[server]);
    struct wi_ps_map map = wi_ps_map_make("large", 1 << 20, 256, 3);
    for (uint32_t server = 0; server < 3; server++)
        assert_in_range(wi_ps_map_run(&map, server).count, (1 << 20) / 3 - 4096, (1 << 20) / 3 + 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_covers_all),
        cmocka_unit_test(test_each_element),
        cmocka_unit_test(test_longest),
        cmocka_unit_test(test_balance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
