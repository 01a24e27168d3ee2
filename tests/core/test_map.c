/* The hash table against a plain list, by many random steps, and what finding costs. */
#include "core/map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>

#include <cmocka.h>

struct thing {
    struct wi_map_node node;
    uint64_t key;
    bool in;
};

/* The first thing with that key, counting the nodes that are looked at in `*looks`. */
static struct thing *find(const struct wi_map *map, uint64_t hash, uint64_t key, size_t *looks)
{
    for (struct wi_map_node *node = wi_map_first(map, hash); node; node = wi_map_next(node)) {
        ++*looks;
        if (WI_MAP_ITEM(node, struct thing, node)->key == key)
            return WI_MAP_ITEM(node, struct thing, node);
    }
    return NULL;
}

static void an_empty_one_has_nothing(void **state)
{
    struct wi_map map = {0};
    (void)state;
    assert_null(wi_map_first(&map, 0));
    wi_map_remove(&map, &(struct wi_map_node){0});
    assert_int_equal(map.count, 0);
    wi_map_fini(&map);
    assert_null(wi_map_first(&map, 7));
}

/* `kinds` hashes for all the keys: with few of them chains of equal hashes are long. */
static void steps(size_t kinds, unsigned seed)
{
    enum { THINGS = 600, STEPS = 20000 };
    static struct thing things[THINGS];
    struct wi_map map = {0};
    size_t in = 0, looks = 0;
    srand(seed);
    for (size_t i = 0; i < THINGS; i++)
        things[i] = (struct thing){.key = i};
    for (int step = 0; step < STEPS; step++) {
        struct thing *thing = &things[(size_t)rand() % THINGS];
        uint64_t hash = wi_map_hash(thing->key % kinds, 5);
        assert_ptr_equal(find(&map, hash, thing->key, &looks), thing->in ? thing : NULL);
        if (thing->in)
            wi_map_remove(&map, &thing->node);
        else
            wi_map_add(&map, &thing->node, hash);
        thing->in = !thing->in;
        in += thing->in ? 1 : (size_t)-1;
        assert_int_equal(map.count, in);
    }
    wi_map_fini(&map);
    assert_int_equal(map.count, 0);
}

static void steps_agree_with_a_list(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 5; seed++) {
        steps(SIZE_MAX, seed);
        steps(40, seed);
        steps(1, seed);
    }
}

/* Equal hashes come newest first, also after the table has grown under them. */
static void order_survives_growth(void **state)
{
    enum { THINGS = 1000 };
    static struct thing things[THINGS];
    struct wi_map map = {0};
    (void)state;
    for (size_t i = 0; i < THINGS; i++) {
        things[i].key = i;
        wi_map_add(&map, &things[i].node, i % 10 == 0 ? 99 : wi_map_hash(i, 0));
    }
    size_t expected = THINGS;
    for (struct wi_map_node *node = wi_map_first(&map, 99); node; node = wi_map_next(node)) {
        expected -= 10;
        assert_int_equal(WI_MAP_ITEM(node, struct thing, node)->key, expected);
    }
    assert_int_equal(expected, 0);
    wi_map_fini(&map);
}

/* Longest chain of any bucket, whatever hashes it holds. */
static size_t longest_chain(const struct wi_map *map)
{
    size_t longest = 0;
    for (size_t i = 0; map->buckets && i <= map->mask; i++) {
        size_t length = 0;
        for (const struct wi_map_node *node = map->buckets[i]; node; node = node->next)
            length++;
        longest = length > longest ? length : longest;
    }
    return longest;
}

/* Keys as peers have them: numbers in a row, pointers, random ones; chains stay short. */
static void thousands_are_found_as_quickly_as_ten(void **state)
{
    enum { THINGS = 50000 };
    struct thing *things = calloc(THINGS, sizeof(*things));
    static const uint64_t strides[] = {1, 64, 4096, 1ull << 32, 0x9e3779b97f4a7c15ull};
    (void)state;
    assert_non_null(things);
    for (size_t k = 0; k < sizeof(strides) / sizeof(strides[0]); k++) {
        struct wi_map map = {0};
        for (size_t i = 0; i < THINGS; i++)
            wi_map_add(&map, &things[i].node, wi_map_hash(i * strides[k], 0));
        assert_true(map.mask + 1 >= THINGS);
        assert_in_range(longest_chain(&map), 1, 12);
        wi_map_fini(&map);
        for (size_t i = 0; i < THINGS; i++)
            wi_map_add(&map, &things[i].node, wi_map_hash(77, i * strides[k]));
        assert_in_range(longest_chain(&map), 1, 12);
        wi_map_fini(&map);
    }
    free(things);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_one_has_nothing),
        cmocka_unit_test(steps_agree_with_a_list),
        cmocka_unit_test(order_survives_growth),
        cmocka_unit_test(thousands_are_found_as_quickly_as_ten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
