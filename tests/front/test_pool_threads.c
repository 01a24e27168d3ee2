/*
 * Pools under several threads: what one frees others get, a thread that ends gives its share back, pools may end before
 * the threads that used them, and what is freed wrongly does no harm.
 */
#include <weir/transport.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SLAB = 2 << 20, OBJECT = 4096, ALL = SLAB / OBJECT };

static weir_ctx *ctx;
static weir_pool *pool;

static int make_pool(void **state)
{
    (void)state;
    weir_ctx_params params = {.size = sizeof(params), .transport = "shm", .flags = WEIR_CTX_MULTI};
    if (weir_ctx_create(&params, &ctx) != WEIR_OK)
        return -1;
    return weir_pool_create(ctx, SLAB, &pool) == WEIR_OK ? 0 : -1;
}

static int end_pool(void **state)
{
    (void)state;
    weir_pool_destroy(pool);
    weir_ctx_destroy(ctx);
    return 0;
}

static size_t slabs(void)
{
    weir_pool_attr attr;
    weir_pool_query(pool, &attr);
    return attr.slabs;
}

/* Threads cannot fail a cmocka test: they count. */
static unsigned failures;

static void expect(bool right)
{
    if (!right)
        __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);
}

static void in_thread(void *(*body)(void *), void *arg)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, body, arg), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void *alloc_all(void *arg)
{
    void **objects = arg;
    for (int i = 0; i < ALL; i++)
        expect(weir_pool_alloc(pool, OBJECT, &objects[i], NULL) == WEIR_OK);
    return NULL;
}

static void *free_all(void *arg)
{
    void **objects = arg;
    for (int i = 0; i < ALL; i++)
        weir_pool_free(pool, objects[i]);
    return NULL;
}

static void test_ended_threads_give_back(void **state)
{
    (void)state;
    void *objects[ALL];
    for (int round = 0; round < 20; round++) {
        in_thread(alloc_all, objects);
        assert_int_equal(slabs(), 1);
        in_thread(free_all, objects); /* by another thread than the one that allocated */
    }
    alloc_all(objects); /* none is left with anybody */
    assert_int_equal(slabs(), 1);
    assert_int_equal(failures, 0);
}

static pthread_barrier_t turn;

static void *free_all_and_stay(void *arg)
{
    free_all(arg);
    pthread_barrier_wait(&turn);
    pthread_barrier_wait(&turn);
    return NULL;
}

/* A thread that stays keeps no more of a size than WEIR_POOL_CACHE. */
static void test_what_a_thread_keeps_is_bounded(void **state)
{
    (void)state;
    pthread_t thread;
    void *objects[ALL];
    int kept = (512 << 10) / OBJECT;
    alloc_all(objects);
    pthread_barrier_init(&turn, NULL, 2);
    assert_int_equal(pthread_create(&thread, NULL, free_all_and_stay, objects), 0);
    pthread_barrier_wait(&turn);
    for (int i = 0; i < ALL - kept; i++)
        assert_int_equal(weir_pool_alloc(pool, OBJECT, &objects[i], NULL), WEIR_OK);
    assert_int_equal(slabs(), 1);
    pthread_barrier_wait(&turn);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_barrier_destroy(&turn);
}

/* ---- Handing on ---- */

enum { THREADS = 4, PLACES = 64, TURNS = 40000 };

struct parcel {
    unsigned char *ptr;
    size_t size;
};

/* A parcel in a place belongs to whoever takes it out: allocated by one thread, looked at and freed by another. */
static struct parcel *places[PLACES];

static struct parcel *pack(unsigned *seed)
{
    struct parcel *parcel = malloc(sizeof(*parcel));
    parcel->size = (size_t)(rand_r(seed) % 64 == 0 ? rand_r(seed) % 900000 : rand_r(seed) % 9000) + 1;
    expect(weir_pool_alloc(pool, parcel->size, (void **)&parcel->ptr, NULL) == WEIR_OK);
    memset(parcel->ptr, (int)(parcel->size % 251), parcel->size);
    return parcel;
}

static void unpack(struct parcel *parcel)
{
    if (!parcel)
        return;
    for (size_t i = 0; i < parcel->size; i += 509)
        expect(parcel->ptr[i] == parcel->size % 251);
    weir_pool_free(pool, parcel->ptr);
    free(parcel);
}

static void *hand_on(void *arg)
{
    unsigned seed = *(const unsigned *)arg;
    for (int i = 0; i < TURNS; i++)
        unpack(__atomic_exchange_n(&places[rand_r(&seed) % PLACES], pack(&seed), __ATOMIC_ACQ_REL));
    return NULL;
}

static void test_threads_free_what_others_allocated(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    unsigned seeds[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        seeds[i] = i + 1;
        assert_int_equal(pthread_create(&threads[i], NULL, hand_on, &seeds[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < PLACES; i++)
        unpack(__atomic_exchange_n(&places[i], NULL, __ATOMIC_ACQ_REL));
    assert_int_equal(failures, 0);
}

/* ---- Pools that end first ---- */

static weir_pool *pools[20];

static void *use_pools_that_end(void *arg)
{
    (void)arg;
    void *ptr;
    for (size_t i = 0; i < sizeof(pools) / sizeof(pools[0]); i++) {
        expect(weir_pool_alloc(pools[i], OBJECT, &ptr, NULL) == WEIR_OK);
        weir_pool_free(pools[i], ptr);
        pthread_barrier_wait(&turn);
        pthread_barrier_wait(&turn); /* meanwhile it was destroyed */
    }
    return NULL;
}

static void test_pools_end_while_threads_keep_of_them(void **state)
{
    (void)state;
    pthread_t threads[2];
    size_t count = sizeof(pools) / sizeof(pools[0]);
    pthread_barrier_init(&turn, NULL, 3);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(weir_pool_create(ctx, SLAB, &pools[i]), WEIR_OK);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, use_pools_that_end, NULL), 0);
    for (size_t i = 0; i < count; i++) {
        pthread_barrier_wait(&turn);
        if (i % 2 == 0)
            weir_pool_destroy(pools[i]); /* the others are left to the end of the threads, and the context's */
        pthread_barrier_wait(&turn);
    }
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    pthread_barrier_destroy(&turn);
    assert_int_equal(failures, 0);
}

static void *destroy_slowly(void *arg)
{
    (void)arg;
    void *ptr;
    expect(weir_pool_alloc(pools[0], OBJECT, &ptr, NULL) == WEIR_OK);
    weir_pool_free(pools[0], ptr);
    pthread_barrier_wait(&turn);
    return NULL; /* gives back while the pool is destroyed */
}

static void test_threads_end_while_the_pool_is_destroyed(void **state)
{
    (void)state;
    for (int round = 0; round < 100; round++) {
        pthread_t threads[THREADS];
        assert_int_equal(weir_pool_create(ctx, SLAB, &pools[0]), WEIR_OK);
        pthread_barrier_init(&turn, NULL, THREADS + 1);
        for (int i = 0; i < THREADS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, destroy_slowly, NULL), 0);
        pthread_barrier_wait(&turn);
        weir_pool_destroy(pools[0]);
        for (int i = 0; i < THREADS; i++)
            assert_int_equal(pthread_join(threads[i], NULL), 0);
        pthread_barrier_destroy(&turn);
    }
    assert_int_equal(failures, 0);
}

/* ---- Wrong frees ---- */

static void *free_one(void *arg)
{
    weir_pool_free(pool, arg);
    return NULL;
}

static void test_wrong_frees_are_ignored(void **state)
{
    (void)state;
    unsigned char *first, *second, *third, *large, on_stack[128];
    assert_int_equal(weir_pool_alloc(pool, OBJECT, (void **)&first, NULL), WEIR_OK);
    weir_pool_free(pool, first + 64);   /* within an object */
    weir_pool_free(pool, first + 1);    /* nowhere near the start of one */
    weir_pool_free(pool, on_stack + 64); /* not of a pool */
    assert_int_equal(weir_pool_alloc(pool, OBJECT, (void **)&second, NULL), WEIR_OK);
    assert_ptr_not_equal(first, second);
    weir_pool_free(pool, first);
    weir_pool_free(pool, first);       /* twice, by the same thread */
    in_thread(free_one, first);        /* and by another one */
    assert_int_equal(weir_pool_alloc(pool, OBJECT, (void **)&first, NULL), WEIR_OK);
    assert_int_equal(weir_pool_alloc(pool, OBJECT, (void **)&third, NULL), WEIR_OK);
    assert_ptr_not_equal(first, third);
    assert_ptr_not_equal(second, third);
    assert_int_equal(weir_pool_alloc(pool, SLAB, (void **)&large, NULL), WEIR_OK);
    weir_pool_free(pool, large + 4096);
    memset(large, 1, SLAB); /* still there */
    weir_pool_free(pool, large);
    weir_pool_free(pool, large);
    assert_int_equal(slabs(), 1);
}

static weir_pool *other;

static void test_another_pools_object_is_left_alone(void **state)
{
    (void)state;
    void *ours, *again;
    assert_int_equal(weir_pool_create(ctx, SLAB, &other), WEIR_OK);
    assert_int_equal(weir_pool_alloc(pool, OBJECT, &ours, NULL), WEIR_OK);
    weir_pool_free(other, ours);
    assert_int_equal(weir_pool_alloc(other, OBJECT, &again, NULL), WEIR_OK);
    assert_ptr_not_equal(ours, again);
    weir_pool_free(pool, ours);
    weir_pool_destroy(other);
}

int main(void)
{
#define TEST(_name) cmocka_unit_test_setup_teardown(_name, make_pool, end_pool)
    const struct CMUnitTest tests[] = {
        TEST(test_ended_threads_give_back),
        TEST(test_what_a_thread_keeps_is_bounded),
        TEST(test_threads_free_what_others_allocated),
        TEST(test_pools_end_while_threads_keep_of_them),
        TEST(test_threads_end_while_the_pool_is_destroyed),
        TEST(test_wrong_frees_are_ignored),
        TEST(test_another_pools_object_is_left_alone),
    };
    return cmocka_run_group_tests_name("pool_threads", tests, NULL, NULL);
}
