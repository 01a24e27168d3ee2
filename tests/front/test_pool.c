/* Pools: objects never overlap, are aligned, are found again by address, and come back after being freed. */
#include <weir/transport.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static weir_ctx *ctx;

static int make_context(void **state)
{
    (void)state;
    weir_ctx_params params = {.size = sizeof(params), .transport = "shm"};
    return weir_ctx_create(&params, &ctx) == WEIR_OK ? 0 : -1;
}

static int end_context(void **state)
{
    (void)state;
    weir_ctx_destroy(ctx);
    return 0;
}

static void test_alignment_and_region(void **state)
{
    (void)state;
    weir_pool *pool;
    assert_int_equal(weir_pool_create(ctx, 4 << 20, &pool), WEIR_OK);
    for (size_t size = 0; size < 3000000; size = size * 5 / 4 + 1) {
        void *ptr;
        weir_mem *mem, *found;
        assert_int_equal(weir_pool_alloc(pool, size, &ptr, &mem), WEIR_OK);
        assert_int_equal((uintptr_t)ptr % (size >= 4096 ? 4096 : 64), 0);
        assert_int_equal(weir_mem_find(ctx, ptr, size, &found), WEIR_OK);
        assert_ptr_equal(found, mem);
        memset(ptr, 1, size);
    }
    weir_pool_destroy(pool);
}

enum { SLOTS = 200, ROUNDS = 20000 };

/* Random allocations and frees, each object filled with its own byte: an overlap would show as a foreign byte. */
static void test_objects_never_overlap(void **state)
{
    (void)state;
    static struct {
        unsigned char *ptr;
        size_t size;
    } slot[SLOTS];
    weir_pool *pool;
    unsigned seed = 42;
    assert_int_equal(weir_pool_create(ctx, 4 << 20, &pool), WEIR_OK);
    for (int round = 0; round < ROUNDS; round++) {
        int i = rand_r(&seed) % SLOTS;
        if (slot[i].ptr) {
            for (size_t k = 0; k < slot[i].size; k += 61)
                assert_int_equal(slot[i].ptr[k], i + 1);
            weir_pool_free(pool, slot[i].ptr);
            slot[i].ptr = NULL;
            continue;
        }
        slot[i].size = (size_t)(rand_r(&seed) % 100 == 0 ? rand_r(&seed) % 2000000 : rand_r(&seed) % 20000) + 1;
        assert_int_equal(weir_pool_alloc(pool, slot[i].size, (void **)&slot[i].ptr, NULL), WEIR_OK);
        memset(slot[i].ptr, i + 1, slot[i].size);
    }
    weir_pool_destroy(pool);
}

static void test_freed_memory_is_used_again(void **state)
{
    (void)state;
    weir_pool *pool;
    void *first, *again;
    assert_int_equal(weir_pool_create(ctx, 0, &pool), WEIR_OK);
    assert_int_equal(weir_pool_alloc(pool, 5000, &first, NULL), WEIR_OK);
    weir_pool_free(pool, first);
    assert_int_equal(weir_pool_alloc(pool, 5000, &again, NULL), WEIR_OK);
    assert_ptr_equal(first, again);
    weir_pool_free(pool, NULL);
    int not_ours;
    weir_pool_free(pool, &not_ours); /* ignored, with a warning */
    weir_pool_destroy(pool);
}

static void test_find_among_overlapping_regions(void **state)
{
    (void)state;
    static unsigned char memory[16384];
    weir_mem *large, *small, *found;
    assert_int_equal(weir_mem_register(ctx, memory, sizeof(memory), &large), WEIR_OK);
    assert_int_equal(weir_mem_register(ctx, memory + 4096, 100, &small), WEIR_OK);
    assert_int_equal(weir_mem_find(ctx, memory + 4096, 100, &found), WEIR_OK);
    assert_int_equal(weir_mem_find(ctx, memory + 4096, 101, &found), WEIR_OK);
    assert_ptr_equal(found, large);
    assert_int_equal(weir_mem_find(ctx, memory + sizeof(memory) - 1, 2, &found), WEIR_ERR_KEY);
    weir_mem_deregister(large);
    assert_int_equal(weir_mem_find(ctx, memory, 1, &found), WEIR_ERR_KEY);
    weir_mem_deregister(small);
    weir_mem_deregister(NULL);
}

static void test_bad_arguments(void **state)
{
    (void)state;
    weir_mem *mem;
    unsigned char blob[WEIR_RKEY_MAX];
    size_t len = sizeof(blob);
    static unsigned char memory[64];
    assert_int_equal(weir_mem_register(ctx, NULL, 64, &mem), WEIR_ERR_INVALID);
    assert_int_equal(weir_mem_register(ctx, memory, 0, &mem), WEIR_ERR_INVALID);
    assert_int_equal(weir_mem_register(ctx, memory, SIZE_MAX, &mem), WEIR_ERR_INVALID);
    assert_int_equal(weir_mem_register(ctx, memory, sizeof(memory), &mem), WEIR_OK);
    assert_int_equal(weir_mem_export(mem, memory + 1, sizeof(memory), blob, &len), WEIR_ERR_RANGE);
    assert_true(strlen(weir_last_error()) > 0);
    len = 10;
    assert_int_equal(weir_mem_export(mem, memory, sizeof(memory), blob, &len), WEIR_ERR_RANGE);
    weir_mem_deregister(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alignment_and_region),      cmocka_unit_test(test_objects_never_overlap),
        cmocka_unit_test(test_freed_memory_is_used_again), cmocka_unit_test(test_find_among_overlapping_regions),
        cmocka_unit_test(test_bad_arguments),
    };
    return cmocka_run_group_tests(tests, make_context, end_context);
}
