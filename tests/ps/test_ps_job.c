/*
 * Workers and servers as processes: every call in both modes against the arithmetic done here, from all kinds of
 * memory. The transport comes from the environment.
 */
#include "rig.h"
#include "ps/client.h"
#include "transport/context.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cmocka.h>

static uint64_t counts[] = {1, 7, 1000, (1 << 20) + 3};
enum { COUNTS = sizeof(counts) / sizeof(counts[0]), STEPS = 3 };
static int slow; /* the processor is emulated: shorter tables, fewer jobs */

static weir_ps_table *open_table(struct rank *rank, const char *name, uint64_t count, weir_ps_consistency consistency)
{
    weir_ps_table_params params = {
        .size = sizeof(params), .name = name, .count = count, .consistency = consistency, .learning_rate = 0.5f};
    weir_ps_table *table;
    EXPECT_STATUS(WEIR_OK, weir_ps_table_open(rank->client, &params, &table));
    return table;
}

/* Whole numbers, so that sums are exact in any order; no two neighbouring elements, workers or steps are alike. */
static float gradient_of(int worker, unsigned step, uint64_t i)
{
    return (float)((uint64_t)(worker + 1) * (step + 1) + i % 61);
}

static float start_of(uint64_t i)
{
    return (float)(i % 4099);
}

enum memory { ORDINARY, REGISTERED, POOL };

struct buffers {
    float *gradient, *weights;
    weir_mem *mem[2];
    weir_pool *pool;
};

static void buffers_init(struct buffers *b, struct rank *rank, enum memory kind, uint64_t count)
{
    *b = (struct buffers){0};
    if (kind == POOL) {
        void *gradient, *weights;
        EXPECT_STATUS(WEIR_OK, weir_pool_create(rank->ctx, 0, &b->pool));
        EXPECT_STATUS(WEIR_OK, weir_pool_alloc(b->pool, count * sizeof(float), &gradient, NULL));
        EXPECT_STATUS(WEIR_OK, weir_pool_alloc(b->pool, count * sizeof(float), &weights, NULL));
        b->gradient = gradient;
        b->weights = weights;
        return;
    }
    b->gradient = malloc(count * sizeof(float));
    b->weights = malloc(count * sizeof(float));
    EXPECT(b->gradient && b->weights);
    if (kind == REGISTERED) {
        EXPECT_STATUS(WEIR_OK, weir_mem_register(rank->ctx, b->gradient, count * sizeof(float), &b->mem[0]));
        EXPECT_STATUS(WEIR_OK, weir_mem_register(rank->ctx, b->weights, count * sizeof(float), &b->mem[1]));
    }
}

static void buffers_fini(struct buffers *b)
{
    weir_mem_deregister(b->mem[0]);
    weir_mem_deregister(b->mem[1]);
    if (!b->pool) {
        free(b->gradient);
        free(b->weights);
    }
    weir_pool_destroy(b->pool);
}

static void fill(float *gradient, int worker, unsigned step, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        gradient[i] = gradient_of(worker, step, i);
}

/* As the server does it under BSP, the workers' gradients in their order; in the other
 * mode whole numbers and halves. */
static void apply(float *expected, weir_ps_consistency mode, int workers, unsigned step, uint64_t count)
{
    float scale = mode == WEIR_PS_BSP ? 1.0f / (float)workers : 1.0f;
    for (uint64_t i = 0; i < count; i++) {
        float sum = gradient_of(0, step, i);
        for (int w = 1; w < workers; w++)
            sum += gradient_of(w, step, i);
        expected[i] -= 0.5f * (sum * scale);
    }
}

static bool same(const float *a, const float *b, uint64_t count)
{
    if (memcmp(a, b, count * sizeof(float)) == 0)
        return true;
    for (uint64_t i = 0; i < count; i++) {
        if (a[i] != b[i]) {
            fprintf(stderr, "element %llu of %llu is %g, not %g\n", (unsigned long long)i, (unsigned long long)count,
                    (double)a[i], (double)b[i]);
            return false;
        }
    }
    return true;
}

static void set_start(struct rank *rank, weir_ps_table *table, struct buffers *b, float *expected, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        expected[i] = start_of(i);
    EXPECT_STATUS(WEIR_OK, weir_ps_pull(table, b->weights));
    for (uint64_t i = 0; i < count; i++)
        EXPECT(b->weights[i] == 0.0f);
    EXPECT_STATUS(WEIR_OK, weir_ps_barrier(rank->client));
    if (rank->index == 0)
        EXPECT_STATUS(WEIR_OK, weir_ps_init(table, expected));
    EXPECT_STATUS(WEIR_OK, weir_ps_barrier(rank->client));
    EXPECT_STATUS(WEIR_OK, weir_ps_pull(table, b->weights));
    EXPECT(same(b->weights, expected, count));
    EXPECT_STATUS(WEIR_OK, weir_ps_barrier(rank->client));
}

/* Push then pull; push_pull; push_pull in place: each is one step. */
static void one_step(struct rank *rank, weir_ps_table *table, struct buffers *b, unsigned step, uint64_t count)
{
    float *out = b->weights;
    fill(b->gradient, rank->index, step, count);
    if (step % 3 == 0) {
        EXPECT_STATUS(WEIR_OK, weir_ps_push(table, b->gradient));
        EXPECT_STATUS(WEIR_OK, weir_ps_pull(table, out));
    } else {
        out = step % 3 == 1 ? b->weights : b->gradient;
        EXPECT_STATUS(WEIR_OK, weir_ps_push_pull(table, b->gradient, out));
    }
    if (out != b->weights)
        memcpy(b->weights, out, count * sizeof(float));
}

static void check_table(struct rank *rank, enum memory kind, weir_ps_consistency mode, uint64_t count)
{
    char name[64];
    snprintf(name, sizeof(name), "%d-%d-%llu", kind, mode, (unsigned long long)count);
    weir_ps_table *table = open_table(rank, name, count, mode);
    EXPECT(open_table(rank, name, count, mode) == table);
    struct buffers b;
    buffers_init(&b, rank, kind, count);
    float *expected = malloc(count * sizeof(float));
    EXPECT(expected);
    set_start(rank, table, &b, expected, count);
    for (unsigned step = 0; step < STEPS; step++) {
        one_step(rank, table, &b, step, count);
        apply(expected, mode, rank->workers, step, count);
        if (mode == WEIR_PS_BSP || rank->workers == 1)
            EXPECT(same(b.weights, expected, count));
    }
    EXPECT_STATUS(WEIR_OK, weir_ps_barrier(rank->client));
    EXPECT_STATUS(WEIR_OK, weir_ps_pull(table, b.weights));
    EXPECT(same(b.weights, expected, count));
    free(expected);
    buffers_fini(&b);
}

static void all_tables(struct rank *rank)
{
    for (enum memory kind = ORDINARY; kind <= POOL; kind++)
        for (int i = 0; i < COUNTS; i++)
            for (int mode = WEIR_PS_ASYNC; mode <= WEIR_PS_BSP; mode++)
                check_table(rank, kind, (weir_ps_consistency)mode, counts[i]);
    weir_ps_stats stats;
    weir_ps_client_query(rank->client, &stats);
    EXPECT(stats.requests > 0 && stats.bytes_sent > 0 && stats.bytes_received > 0 && stats.time_ns > 0);
}

static void test_arithmetic(void **state)
{
    (void)state;
    const int shapes[][2] = {{1, 1}, {2, 1}, {1, 3}, {3, 2}, {4, 3}};
    for (size_t i = slow ? 3 : 0; i < (slow ? 4 : sizeof(shapes) / sizeof(shapes[0])); i++)
        assert_true(scenario_run(&(struct scenario){shapes[i][0], shapes[i][1], 0, all_tables, NULL, -1}));
}

/* The table is many times as long as the ring. */
static void test_small_ring(void **state)
{
    (void)state;
    setenv("WEIR_PS_RING", "64K", 1);
    bool good = scenario_run(&(struct scenario){2, 2, 0, all_tables, NULL, -1});
    unsetenv("WEIR_PS_RING");
    assert_true(good);
}

/* Workers push two tables in opposite orders, each longer than the ring: nobody waits for one that waits for it. */
static void opposite_orders(struct rank *rank)
{
    enum { COUNT = 100003 };
    weir_ps_table *table[2] = {open_table(rank, "x", COUNT, WEIR_PS_BSP), open_table(rank, "y", COUNT, WEIR_PS_BSP)};
    struct buffers b;
    buffers_init(&b, rank, ORDINARY, COUNT);
    float *expected = calloc(COUNT, sizeof(float));
    EXPECT(expected);
    for (unsigned step = 0; step < 10; step++) {
        fill(b.gradient, rank->index, step, COUNT);
        EXPECT_STATUS(WEIR_OK, weir_ps_push(table[rank->index % 2], b.gradient));
        EXPECT_STATUS(WEIR_OK, weir_ps_push(table[1 - rank->index % 2], b.gradient));
        apply(expected, WEIR_PS_BSP, rank->workers, step, COUNT);
    }
    for (int i = 0; i < 2; i++) {
        EXPECT_STATUS(WEIR_OK, weir_ps_pull(table[i], b.weights));
        EXPECT(same(b.weights, expected, COUNT));
    }
    free(expected);
    buffers_fini(&b);
}

static void test_opposite_orders(void **state)
{
    (void)state;
    setenv("WEIR_PS_RING", "64K", 1);
    bool good = scenario_run(&(struct scenario){3, 1, 0, opposite_orders, NULL, -1});
    unsetenv("WEIR_PS_RING");
    assert_true(good);
}

/* Two threads of each worker push ones to two tables, now the one, now the other: no update is lost. */
struct hammer {
    struct rank *rank;
    weir_ps_table *table[2];
    int thread;
};

enum { HAMMER_COUNT = 5000, HAMMER_PUSHES = 200 };

static void *hammer(void *arg)
{
    struct hammer *h = arg;
    struct buffers b;
    buffers_init(&b, h->rank, h->thread ? POOL : ORDINARY, HAMMER_COUNT);
    for (int i = 0; i < HAMMER_COUNT; i++)
        b.gradient[i] = 1.0f;
    for (int i = 0; i < HAMMER_PUSHES; i++) {
        weir_ps_table *table = h->table[(i + h->thread) % 2];
        if (i % 4 == 3) {
            EXPECT_STATUS(WEIR_OK, weir_ps_push_pull(table, b.gradient, b.weights));
            /* Own pushes are seen, and nothing that nobody pushed. */
            EXPECT(b.weights[0] <= -0.5f * (float)(i / 2) &&
                   b.weights[0] >= -0.5f * 2 * (float)(HAMMER_PUSHES * h->rank->workers));
        } else {
            EXPECT_STATUS(WEIR_OK, weir_ps_push(table, b.gradient));
        }
    }
    buffers_fini(&b);
    return NULL;
}

static void two_threads(struct rank *rank)
{
    struct hammer h[2];
    pthread_t thread;
    for (int i = 0; i < 2; i++)
        h[i] = (struct hammer){
            rank,
            {open_table(rank, "a", HAMMER_COUNT, WEIR_PS_ASYNC), open_table(rank, "b", HAMMER_COUNT, WEIR_PS_ASYNC)},
            i};
    EXPECT(pthread_create(&thread, NULL, hammer, &h[1]) == 0);
    hammer(&h[0]);
    EXPECT(pthread_join(thread, NULL) == 0);
    EXPECT_STATUS(WEIR_OK, weir_ps_barrier(rank->client));
    float weights[HAMMER_COUNT];
    for (int t = 0; t < 2; t++) {
        EXPECT_STATUS(WEIR_OK, weir_ps_pull(h[0].table[t], weights));
        for (int i = 0; i < HAMMER_COUNT; i++)
            EXPECT(weights[i] == -0.5f * (float)(HAMMER_PUSHES * rank->workers));
    }
}

static void test_two_threads(void **state)
{
    (void)state;
    assert_true(scenario_run(&(struct scenario){2, 2, WEIR_CTX_MULTI, two_threads, NULL, -1}));
}

/* Two threads under BSP, each with its own table, each worker's threads at their own pace. */
static void *train(void *arg)
{
    struct hammer *h = arg;
    enum { COUNT = 40000 };
    struct buffers b;
    buffers_init(&b, h->rank, ORDINARY, COUNT);
    float *expected = calloc(COUNT, sizeof(float));
    EXPECT(expected);
    for (unsigned step = 0; step < 30; step++) {
        one_step(h->rank, h->table[h->thread], &b, step, COUNT);
        apply(expected, WEIR_PS_BSP, h->rank->workers, step, COUNT);
        EXPECT(same(b.weights, expected, COUNT));
    }
    free(expected);
    buffers_fini(&b);
    return NULL;
}

static void two_threads_bsp(struct rank *rank)
{
    struct hammer h[2];
    pthread_t thread;
    for (int i = 0; i < 2; i++)
        h[i] = (struct hammer){
            rank, {open_table(rank, "a", 40000, WEIR_PS_BSP), open_table(rank, "b", 40000, WEIR_PS_BSP)}, i};
    EXPECT(pthread_create(&thread, NULL, train, &h[1]) == 0);
    train(&h[0]);
    EXPECT(pthread_join(thread, NULL) == 0);
}

static void test_two_threads_bsp(void **state)
{
    (void)state;
    setenv("WEIR_PS_RING", "64K", 1);
    bool good = scenario_run(&(struct scenario){2, 1, WEIR_CTX_MULTI, two_threads_bsp, NULL, -1});
    unsetenv("WEIR_PS_RING");
    assert_true(good);
}

/* More threads than a client has calls, all on one table; then two threads on one table under BSP: they take turns. */
static void *push_ones(void *arg)
{
    struct hammer *h = arg;
    float ones[100], weights[100];
    for (int i = 0; i < 100; i++)
        ones[i] = 1.0f;
    for (int i = 0; i < 20; i++)
        EXPECT_STATUS(WEIR_OK, i % 2 ? weir_ps_push(h->table[0], ones) : weir_ps_push_pull(h->table[0], ones, weights));
    return NULL;
}

static void push_from_threads(struct rank *rank, const char *name, weir_ps_consistency mode, int threads)
{
    struct hammer h = {rank, {open_table(rank, name, 100, mode), NULL}, 0};
    pthread_t thread[80];
    float weights[100];
    for (int i = 0; i < threads; i++)
        EXPECT(pthread_create(&thread[i], NULL, push_ones, &h) == 0);
    for (int i = 0; i < threads; i++)
        EXPECT(pthread_join(thread[i], NULL) == 0);
    EXPECT_STATUS(WEIR_OK, weir_ps_barrier(rank->client));
    EXPECT_STATUS(WEIR_OK, weir_ps_pull(h.table[0], weights));
    float sum = (float)(20 * threads * (mode == WEIR_PS_BSP ? 1 : rank->workers));
    for (int i = 0; i < 100; i++)
        EXPECT(weights[i] == -0.5f * sum);
}

static void many_threads(struct rank *rank)
{
    push_from_threads(rank, "async", WEIR_PS_ASYNC, 80);
    push_from_threads(rank, "bsp", WEIR_PS_BSP, 2);
}

static void test_many_threads(void **state)
{
    (void)state;
    assert_true(scenario_run(&(struct scenario){2, 1, WEIR_CTX_MULTI, many_threads, NULL, -1}));
}

/* Other numbers of shards than the usual one. */
static void test_shards(void **state)
{
    (void)state;
    const char *shards[] = {"1", "4096"};
    bool good = true;
    for (int i = 0; i < 2; i++) {
        setenv("WEIR_PS_SHARDS", shards[i], 1);
        good &= scenario_run(&(struct scenario){2, 2, 0, opposite_orders, NULL, -1});
    }
    unsetenv("WEIR_PS_SHARDS");
    assert_true(good);
}

/* Registered memory that is given back and registered anew, at the same address and another one. */
static void registered_anew(struct rank *rank)
{
    enum { COUNT = 3000 };
    weir_ps_table *table = open_table(rank, "t", COUNT, WEIR_PS_ASYNC);
    float *weights = malloc(COUNT * sizeof(float)), *start = malloc(COUNT * sizeof(float));
    EXPECT(weights && start);
    for (unsigned round = 0; round < (slow ? 100 : 1500); round++) { /* more than there are keys */
        weir_mem *mem;
        EXPECT_STATUS(WEIR_OK, weir_mem_register(rank->ctx, weights, COUNT * sizeof(float), &mem));
        if (round % 100 == 0) {
            for (int i = 0; i < COUNT; i++)
                start[i] = (float)(round + (unsigned)i);
            EXPECT_STATUS(WEIR_OK, weir_ps_init(table, start));
        }
        memset(weights, 0xff, COUNT * sizeof(float));
        EXPECT_STATUS(WEIR_OK, weir_ps_pull(table, weights));
        EXPECT(same(weights, start, COUNT));
        weir_mem_deregister(mem);
    }
    free(weights);
    free(start);
}

static void test_registered_anew(void **state)
{
    (void)state;
    assert_true(scenario_run(&(struct scenario){1, 2, 0, registered_anew, NULL, -1}));
}

static float *map_at(void *where, size_t bytes)
{
    void *memory = mmap(where, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (where ? MAP_FIXED : 0), -1, 0);
    EXPECT(memory != MAP_FAILED);
    return memory;
}

/* Ordinary memory that is unmapped and mapped anew at the same addresses, which registrations that are kept must notice. */
static void unmapped(struct rank *rank)
{
    enum { COUNT = 80000, BYTES = COUNT * sizeof(float) };
    weir_ps_table *table = open_table(rank, "t", COUNT, WEIR_PS_ASYNC);
    float *gradient = map_at(NULL, BYTES), *weights = map_at(NULL, BYTES);
    weir_mem_cache_attr attr;
    for (unsigned round = 0; round < 12; round++) {
        if (round % 3 == 2) {
            munmap(gradient, BYTES);
            munmap(weights, BYTES);
            map_at(gradient, BYTES);
            map_at(weights, BYTES);
        }
        for (int i = 0; i < COUNT; i++)
            gradient[i] = (float)(i % 1000);
        EXPECT_STATUS(WEIR_OK, weir_ps_push(table, gradient));
        EXPECT_STATUS(WEIR_OK, weir_ps_push_pull(table, gradient, weights));
        for (int i = 0; i < COUNT; i++)
            EXPECT(weights[i] == -0.5f * (float)(i % 1000) * (float)(2 * round + 2));
    }
    weir_mem_cache_query(rank->ctx, &attr);
    EXPECT(!rank->client->by_device || !rank->ctx->regcache || attr.hits > 0);
    munmap(gradient, BYTES);
    munmap(weights, BYTES);
}

static void test_unmapped(void **state)
{
    (void)state;
    assert_true(scenario_run(&(struct scenario){1, 2, 0, unmapped, NULL, -1}));
}

/* Servers keep no right to the memory of a client that has left; what its user exported himself stays. */
static void keys_returned(struct rank *rank)
{
    enum { COUNT = 3000 };
    weir_ps_table *table = open_table(rank, "t", COUNT, WEIR_PS_ASYNC);
    struct buffers b;
    uint8_t key[WEIR_RKEY_MAX];
    size_t key_len = sizeof(key);
    buffers_init(&b, rank, REGISTERED, COUNT);
    EXPECT_STATUS(WEIR_OK, weir_mem_export(b.mem[1], b.weights, COUNT * sizeof(float), key, &key_len));
    EXPECT_STATUS(WEIR_OK, weir_ps_pull(table, b.weights));
    EXPECT(b.mem[1]->exports.count == 2);
    weir_ps_client_destroy(rank->client);
    rank->client = NULL;
    EXPECT(b.mem[1]->exports.count == 1);
    EXPECT_STATUS(WEIR_OK, weir_mem_unexport(b.mem[1], key, key_len));
    buffers_fini(&b);
}

static void test_keys_returned(void **state)
{
    (void)state;
    assert_true(scenario_run(&(struct scenario){2, 2, 0, keys_returned, NULL, -1}));
}

static void try_in_child(struct rank *rank, weir_ps_table *table)
{
    float weights[1000] = {0};
    weir_ps_stats stats;
    alarm(60);
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_ps_push(table, weights));
    EXPECT(strstr(weir_last_error(), "forked"));
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_ps_pull(table, weights));
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_ps_push_pull(table, weights, weights));
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_ps_init(table, weights));
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_ps_barrier(rank->client));
    weir_ps_client_query(rank->client, &stats);
    weir_ps_client_destroy(rank->client);
    _exit(0);
}

/* Children of workers do what they can, and the table is as if they had not. */
static void with_children(struct rank *rank)
{
    enum { COUNT = 1000 };
    weir_ps_table *table = open_table(rank, "t", COUNT, WEIR_PS_BSP);
    float ones[COUNT], weights[COUNT];
    for (int i = 0; i < COUNT; i++)
        ones[i] = 1.0f;
    for (int i = 0; i < 10; i++) {
        int result;
        fflush(NULL);
        pid_t pid = fork();
        EXPECT(pid >= 0);
        if (pid == 0)
            try_in_child(rank, table);
        EXPECT_STATUS(WEIR_OK, weir_ps_push_pull(table, ones, weights));
        EXPECT(waitpid(pid, &result, 0) == pid && result == 0);
        for (int k = 0; k < COUNT; k++)
            EXPECT(weights[k] == weights[0]);
    }
    EXPECT(weights[0] == -0.5f * 10);
    EXPECT_STATUS(WEIR_OK, weir_ps_barrier(rank->client));
}

static void test_children(void **state)
{
    (void)state;
    assert_true(scenario_run(&(struct scenario){2, 1, 0, with_children, NULL, -1}));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arithmetic),      cmocka_unit_test(test_small_ring),
        cmocka_unit_test(test_opposite_orders), cmocka_unit_test(test_two_threads),
        cmocka_unit_test(test_two_threads_bsp), cmocka_unit_test(test_many_threads),
        cmocka_unit_test(test_shards),          cmocka_unit_test(test_registered_anew),
        cmocka_unit_test(test_keys_returned),   cmocka_unit_test(test_children),
        cmocka_unit_test(test_unmapped),
    };
    slow = argc > 1 && strcmp(argv[1], "slow") == 0;
    if (slow)
        counts[COUNTS - 1] = 70003;
    skip_if_unusable();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
