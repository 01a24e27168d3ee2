/* A server's part of a table: the arithmetic, BSP steps in any order of arrival, and who waits for what. */
#include "ps/optimizer.h"
#include "ps/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT   1000u
#define WORKERS 3u

static struct wi_ps_open params(uint8_t consistency, uint32_t workers)
{
    return (struct wi_ps_open){.count = COUNT,
                               .learning_rate = 0.5f,
                               .shards = 8,
                               .workers = workers,
                               .servers = 1,
                               .consistency = consistency,
                               .name = "t"};
}

/* Values whose sum depends on the order of addition. */
static void fill(float *gradient, unsigned seed)
{
    srand(seed);
    for (unsigned i = 0; i < COUNT; i++)
        gradient[i] = (float)rand() / 3e4f - 3e4f + (float)rand() * 1e-12f;
}

static void test_kernels(void **state)
{
    (void)state;
    for (size_t n = 0; n < 70; n++) {
        float *w = malloc((n + 1) * sizeof(float)), *g = malloc((n + 1) * sizeof(float));
        for (size_t i = 0; i < n; i++) {
            w[i] = (float)i;
            g[i] = 2.0f;
        }
        wi_ps_sgd(w, g, n, 0.25f);
        wi_ps_add(w, g, n);
        wi_ps_sgd_mean(w, g, g, n, 1.0f, 0.5f);
        for (size_t i = 0; i < n; i++)
            assert_true(w[i] == (float)i - 0.5f + 2.0f - 2.0f);
        free(w);
        free(g);
    }
}

static void test_async(void **state)
{
    (void)state;
    struct wi_ps_store store;
    struct wi_ps_open open = params(WEIR_PS_ASYNC, 1);
    float weights[COUNT], gradient[COUNT];
    assert_int_equal(wi_ps_store_init(&store, &open, 0, weights), WEIR_OK);
    for (unsigned i = 0; i < COUNT; i++)
        gradient[i] = (float)i;
    wi_ps_store_set(&store, 0, gradient, COUNT);
    assert_int_equal(wi_ps_store_push(&store, 0, 0, 100, gradient + 100, 300), WEIR_OK);
    for (unsigned i = 0; i < COUNT; i++)
        assert_true(weights[i] == (i >= 100 && i < 400 ? 0.5f * (float)i : (float)i));
    wi_ps_store_fini(&store);
}

/* All workers push `steps` steps, in pieces, in an order that the seed decides; each at most one step ahead. */
static void run_steps(float *weights, unsigned seed, unsigned steps)
{
    struct wi_ps_store store;
    struct wi_ps_open open = params(WEIR_PS_BSP, WORKERS);
    static float gradient[4][WORKERS][COUNT];
    assert_true(steps <= 4);
    for (unsigned s = 0; s < steps; s++)
        for (unsigned w = 0; w < WORKERS; w++)
            fill(gradient[s][w], 1 + s * WORKERS + w);
    assert_int_equal(wi_ps_store_init(&store, &open, 0, weights), WEIR_OK);
    srand(seed);
    unsigned step[WORKERS] = {0}, at[WORKERS] = {0};
    for (unsigned left = WORKERS * steps; left > 0;) {
        unsigned w = (unsigned)rand() % WORKERS, slowest = steps;
        for (unsigned i = 0; i < WORKERS; i++)
            slowest = step[i] < slowest ? step[i] : slowest;
        if (step[w] == steps || step[w] > slowest + 1)
            continue;
        unsigned n = 16 * (1 + (unsigned)rand() % 20);
        n = n < COUNT - at[w] ? n : COUNT - at[w];
        assert_int_equal(wi_ps_store_push(&store, w, step[w] + 1, at[w], gradient[step[w]][w] + at[w], n), WEIR_OK);
        if ((at[w] += n) == COUNT) {
            at[w] = 0;
            step[w]++;
            left--;
        }
    }
    for (uint32_t i = 0; i < store.run.shards; i++)
        assert_int_equal(store.shards[i].step, steps);
    wi_ps_store_fini(&store);
}

static void test_bsp_any_order(void **state)
{
    (void)state;
    float first[COUNT], weights[COUNT], expected[COUNT] = {0}, gradient[WORKERS][COUNT];
    for (unsigned s = 0; s < 4; s++) {
        for (unsigned w = 0; w < WORKERS; w++)
            fill(gradient[w], 1 + s * WORKERS + w);
        for (unsigned i = 0; i < COUNT; i++)
            expected[i] -= 0.5f * ((gradient[0][i] + gradient[1][i] + gradient[2][i]) * (1.0f / 3.0f));
    }
    run_steps(first, 1, 4);
    assert_memory_equal(first, expected, sizeof(first));
    for (unsigned seed = 2; seed < 300; seed++) {
        run_steps(weights, seed, 4);
        assert_memory_equal(weights, first, sizeof(first));
    }
}

static void test_bsp_refuses(void **state)
{
    (void)state;
    struct wi_ps_store store;
    struct wi_ps_open open = params(WEIR_PS_BSP, 2);
    float weights[COUNT], gradient[COUNT] = {0};
    assert_int_equal(wi_ps_store_init(&store, &open, 0, weights), WEIR_OK);
    assert_int_equal(wi_ps_store_push(&store, 0, 2, 0, gradient, COUNT), WEIR_ERR_PROTOCOL); /* a step left out */
    assert_int_equal(wi_ps_store_push(&store, 0, 1, 16, gradient, 16), WEIR_ERR_PROTOCOL);   /* elements left out */
    assert_int_equal(wi_ps_store_push(&store, 0, 1, 0, gradient, 16), WEIR_OK);
    assert_int_equal(wi_ps_store_push(&store, 0, 1, 0, gradient, 16), WEIR_ERR_PROTOCOL); /* twice */
    assert_int_equal(wi_ps_store_push(&store, 0, 2, 0, gradient, 16), WEIR_ERR_PROTOCOL); /* half a step before */
    assert_int_equal(wi_ps_store_push(&store, 0, 3, 0, gradient, 16), WEIR_ERR_PROTOCOL);
    assert_int_equal(wi_ps_store_push(&store, 0, 1, 16, gradient, COUNT - 16), WEIR_OK);
    assert_int_equal(wi_ps_store_push(&store, 0, 2, 0, gradient, COUNT), WEIR_OK);           /* one ahead */
    assert_int_equal(wi_ps_store_push(&store, 0, 3, 0, gradient, COUNT), WEIR_ERR_PROTOCOL); /* two ahead */
    wi_ps_store_fini(&store);
}

static void test_waiting(void **state)
{
    (void)state;
    struct wi_ps_store store;
    struct wi_ps_open open = params(WEIR_PS_BSP, 2);
    float weights[COUNT], gradient[COUNT] = {0};
    struct wi_ps_waiter all = {0}, part = {0}, none = {0};
    assert_int_equal(wi_ps_store_init(&store, &open, 0, weights), WEIR_OK);
    assert_true(wi_ps_store_wait(&store, &none, 0, COUNT, 0));
    assert_false(wi_ps_store_wait(&store, &all, 0, COUNT, 1));
    assert_false(wi_ps_store_wait(&store, &part, 0, 100, 1));
    assert_int_equal(wi_ps_store_push(&store, 0, 1, 0, gradient, COUNT), WEIR_OK);
    assert_null(wi_ps_store_ready(&store));
    assert_int_equal(wi_ps_store_push(&store, 1, 1, 0, gradient, 256), WEIR_OK); /* the first two shards */
    assert_ptr_equal(wi_ps_store_ready(&store), &part);
    assert_null(wi_ps_store_ready(&store));
    assert_int_equal(wi_ps_store_push(&store, 1, 1, 256, gradient, COUNT - 256), WEIR_OK);
    assert_ptr_equal(wi_ps_store_ready(&store), &all);
    assert_null(wi_ps_store_ready(&store));
    wi_ps_store_fini(&store);
}

static void test_has(void **state)
{
    (void)state;
    struct wi_ps_open open = params(WEIR_PS_ASYNC, 1);
    open.servers = 2;
    for (uint32_t server = 0; server < 2; server++) {
        struct wi_ps_store store;
        float weights[COUNT];
        assert_true(wi_ps_store_bytes(&open, server) <= sizeof(weights));
        assert_int_equal(wi_ps_store_init(&store, &open, server, weights), WEIR_OK);
        uint64_t first = store.run.first, count = store.run.count;
        assert_true(wi_ps_store_has(&store, first, count));
        assert_false(wi_ps_store_has(&store, first, count + 1));
        assert_false(wi_ps_store_has(&store, first + 1, count));
        assert_false(wi_ps_store_has(&store, first + count, 1));
        assert_false(wi_ps_store_has(&store, first - 1, 1));
        assert_false(wi_ps_store_has(&store, first, UINT64_MAX));
        wi_ps_store_fini(&store);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels),     cmocka_unit_test(test_async),   cmocka_unit_test(test_bsp_any_order),
        cmocka_unit_test(test_bsp_refuses), cmocka_unit_test(test_waiting), cmocka_unit_test(test_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
