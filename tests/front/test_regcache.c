/*
 * The registration cache and the ranges it stands on, without hardware: registering counts here, and checks that nothing
 * is deregistered while it is in use.
 */
#include "transport/ranges.h"
#include "transport/regcache.h"
#include "transport/unmap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmocka.h>

enum { PAGE = 4096 };

struct region {
    char *addr;
    size_t len;
    int users;
};

static struct wi_regcache *cache;
static int registered;
static size_t limit; /* bytes that can be registered; 0: all */
static size_t total;

static weir_status reg(void *owner, void *addr, size_t len, void **handle)
{
    (void)owner;
    if (limit && total + len > limit)
        return WEIR_ERR_LIMIT;
    struct region *region = calloc(1, sizeof(*region));
    region->addr = addr;
    region->len = len;
    registered++;
    total += len;
    *handle = region;
    return WEIR_OK;
}

static void dereg(void *owner, void *handle)
{
    (void)owner;
    struct region *region = handle;
    assert_int_equal(region->users, 0);
    registered--;
    total -= region->len;
    free(region);
}

static const struct wi_regcache_ops ops = {reg, dereg};

static int make_cache(void **state)
{
    (void)state;
    limit = 0;
    return wi_regcache_create(&ops, NULL, 10 * PAGE, &cache) == WEIR_OK ? 0 : -1;
}

static int end_cache(void **state)
{
    (void)state;
    wi_regcache_destroy(cache);
    return registered == 0 && total == 0 ? 0 : -1;
}

static char *page(size_t number)
{
    return (char *)((uintptr_t)0x10000000 + number * PAGE);
}

static struct wi_regcache_entry *get(char *addr, size_t len)
{
    struct wi_regcache_entry *entry;
    assert_int_equal(wi_regcache_get(cache, addr, len, &entry), WEIR_OK);
    struct region *region = entry->handle;
    assert_true(region->addr <= addr && addr + len <= region->addr + region->len);
    region->users++;
    return entry;
}

static void put(struct wi_regcache_entry *entry)
{
    ((struct region *)entry->handle)->users--;
    wi_regcache_put(cache, entry);
}

static struct wi_regcache_stats stats(void)
{
    struct wi_regcache_stats now;
    wi_regcache_query(cache, &now);
    return now;
}

static void test_hits_within_pages(void **state)
{
    (void)state;
    put(get(page(1) + 100, 10));
    put(get(page(1) + 4000, 96));
    put(get(page(1), PAGE));
    assert_int_equal(stats().hits, 2);
    put(get(page(1), PAGE + 1)); /* one byte more: two pages, and the smaller one goes */
    assert_int_equal(stats().misses, 2);
    assert_int_equal(stats().entries, 1);
    assert_int_equal(stats().bytes, 2 * PAGE);
    put(get(page(2) + 5, PAGE)); /* overlaps: an entry of its own */
    assert_int_equal(stats().entries, 2);
}

static void test_oldest_goes_first(void **state)
{
    (void)state;
    for (size_t i = 0; i < 5; i++)
        put(get(page(10 * i), 2 * PAGE));
    assert_int_equal(stats().evictions, 0);
    put(get(page(0), 1)); /* used again */
    put(get(page(100), 2 * PAGE));
    assert_int_equal(stats().evictions, 1);
    assert_int_equal(stats().bytes, 10 * PAGE);
    put(get(page(0), 1));
    assert_int_equal(stats().misses, 6);
    put(get(page(10), 1)); /* that one was the oldest */
    assert_int_equal(stats().misses, 7);
}

static void test_what_is_in_use_stays(void **state)
{
    (void)state;
    struct wi_regcache_entry *used = get(page(0), 8 * PAGE), *more = get(page(20), 8 * PAGE);
    assert_int_equal(stats().bytes, 16 * PAGE); /* past the budget: it must be */
    assert_int_equal(wi_regcache_shed(cache, SIZE_MAX), 0);
    put(used);
    assert_int_equal(stats().bytes, 8 * PAGE);
    put(get(page(50), 100 * PAGE)); /* never fits: goes when it was used */
    put(more);
    assert_true(stats().bytes <= 10 * PAGE);
}

static void test_unmapped_is_found_no_more(void **state)
{
    (void)state;
    put(get(page(0), 3 * PAGE));
    struct wi_regcache_entry *used = get(page(10), 3 * PAGE);
    wi_regcache_invalidate(cache, page(3), 7 * PAGE); /* just between them */
    assert_int_equal(stats().invalidations, 0);
    wi_regcache_invalidate(cache, page(2), 9 * PAGE); /* the last page of one, the first of the other */
    assert_int_equal(stats().invalidations, 2);
    struct wi_regcache_entry *fresh = get(page(10), 3 * PAGE);
    assert_ptr_not_equal(fresh, used);
    assert_int_equal(registered, 2); /* the one in use is still registered, the unused one is not */
    put(used);
    assert_int_equal(registered, 1);
    put(fresh);
}

static void test_limit_of_the_system(void **state)
{
    (void)state;
    struct wi_regcache_entry *entry;
    limit = 6 * PAGE;
    put(get(page(0), 3 * PAGE));
    put(get(page(10), 3 * PAGE));
    assert_int_equal(wi_regcache_get(cache, page(20), PAGE, &entry), WEIR_ERR_LIMIT);
    assert_int_equal(wi_regcache_shed(cache, 1), 3 * PAGE); /* the owner does this, and tries again */
    put(get(page(20), PAGE));
    put(get(page(10), PAGE)); /* the younger one is still there */
    assert_int_equal(stats().evictions, 1);
}

/* The hooks of UCX, where there are any: what is unmapped in earnest. */
static void test_hooks(void **state)
{
    (void)state;
    struct wi_unmap watch;
    const char *why;
    if (!wi_unmap_watch(&watch, cache, &why)) {
        print_message("no hooks: %s\n", why);
        skip();
    }
    for (int way = 0; way < 4; way++) {
        char *ptr = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        uint64_t before = stats().invalidations;
        put(get(ptr, 4 * PAGE));
        if (way == 0)
            madvise(ptr, PAGE, MADV_DONTNEED);
        if (way == 1)
            munmap(ptr + 3 * PAGE, PAGE);
        if (way == 2)
            mmap(ptr, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (way == 3)
            ptr = mremap(ptr, 4 * PAGE, 400 * PAGE, MREMAP_MAYMOVE);
        assert_int_equal(stats().invalidations, before + 1);
        munmap(ptr, 4 * PAGE);
    }
    wi_unmap_unwatch(&watch);
}

/* Random ranges, looked up by the table and one by one. */
static void test_ranges(void **state)
{
    (void)state;
    enum { MAX = 200 };
    struct {
        uintptr_t start, end;
        bool is;
    } all[MAX] = {0};
    struct wi_ranges ranges = {0};
    unsigned seed = 7;
    for (int turn = 0; turn < 20000; turn++) {
        size_t i = (size_t)rand_r(&seed) % MAX;
        if (all[i].is) {
            wi_ranges_remove(&ranges, all[i].start, &all[i]);
        } else {
            all[i].start = (uintptr_t)rand_r(&seed) % 1000;
            all[i].end = all[i].start + 1 + (uintptr_t)rand_r(&seed) % (turn % 50 == 0 ? 500 : 20);
            assert_true(wi_ranges_reserve(&ranges));
            wi_ranges_insert(&ranges, all[i].start, all[i].end, &all[i]);
        }
        all[i].is = !all[i].is;
        uintptr_t start = (uintptr_t)rand_r(&seed) % 1000, end = start + 1 + (uintptr_t)rand_r(&seed) % 30;
        bool holding = false, touching = false, within = false;
        for (size_t k = 0; k < MAX; k++) {
            holding |= all[k].is && all[k].start <= start && end <= all[k].end;
            touching |= all[k].is && all[k].start < end && start < all[k].end;
            within |= all[k].is && start <= all[k].start && all[k].end <= end;
        }
        assert_int_equal(wi_ranges_holding(&ranges, start, end) != NULL, holding);
        assert_int_equal(wi_ranges_touching(&ranges, start, end) != NULL, touching);
        assert_int_equal(wi_ranges_within(&ranges, start, end) != NULL, within);
    }
    wi_ranges_fini(&ranges);
}

int main(void)
{
#define TEST(_name) cmocka_unit_test_setup_teardown(_name, make_cache, end_cache)
    const struct CMUnitTest tests[] = {
        TEST(test_hits_within_pages),         TEST(test_oldest_goes_first),   TEST(test_what_is_in_use_stays),
        TEST(test_unmapped_is_found_no_more), TEST(test_limit_of_the_system), TEST(test_hooks),
        cmocka_unit_test(test_ranges),
    };
    return cmocka_run_group_tests_name("regcache", tests, NULL, NULL);
}
