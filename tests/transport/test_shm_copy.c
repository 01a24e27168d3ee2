/* Long copies: all bytes, of every length, whichever way round, and none beside them; the last byte is the last to come. */
#include "transport/shm/shm.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BLOCK = 16384, ROOM = 40 * BLOCK, GUARD = 64, TURNS = 4, ROUNDS = 200 };

static void fill(unsigned char *at, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        at[i] = (unsigned char)(i * 31 + (i >> 8) + seed);
}

/* Several times from one source, so that both directions have their turn, then from another. */
static void test_lengths(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK + 77, ROOM - 1, ROOM};
    unsigned char *from = malloc(ROOM + 1), *to = malloc(ROOM + 2 * GUARD);
    struct shm_ep *ep = calloc(1, sizeof(*ep));
    unsigned char guard[GUARD];
    memset(guard, 0xa5, GUARD);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
        for (unsigned turn = 0; turn < TURNS; turn++) {
            size_t len = lengths[i];
            const unsigned char *source = from + turn / 3;
            memset(to, 0xa5, ROOM + 2 * GUARD);
            fill(from, ROOM + 1, turn);
            wi_shm_copy_long(ep, to + GUARD, source, len);
            assert_memory_equal(to, guard, GUARD);
            assert_memory_equal(to + GUARD, source, len);
            assert_memory_equal(to + GUARD + len, guard, GUARD);
        }
    free(ep);
    free(to);
    free(from);
}

struct race {
    unsigned char *from, *to;
    struct shm_ep *ep;
};

static void *copy_rounds(void *arg)
{
    struct race *r = arg;
    const volatile unsigned char *last = r->to + ROOM - 1;
    for (int round = 1; round <= ROUNDS; round++) {
        memset(r->from, round, ROOM);
        wi_shm_copy_long(r->ep, r->to, r->from, ROOM);
        while (*last != 0) /* the reader has looked */
            ;
    }
    return NULL;
}

/* Who sees the last byte sees the first ones, and those in the middle. */
static void test_last_byte_last(void **state)
{
    (void)state;
    pthread_t thread;
    struct race r = {.from = malloc(ROOM), .to = calloc(1, ROOM), .ep = calloc(1, sizeof(*r.ep))};
    volatile unsigned char *last = r.to + ROOM - 1;
    assert_int_equal(pthread_create(&thread, NULL, copy_rounds, &r), 0);
    for (int round = 1; round <= ROUNDS; round++) {
        while (*last != (unsigned char)round)
            ;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        bool whole = true;
        for (size_t i = 0; i < ROOM - BLOCK; i += BLOCK / 4)
            whole = whole && r.to[i] == (unsigned char)round;
        assert_true(whole);
        *last = 0;
    }
    pthread_join(thread, NULL);
    free(r.ep);
    free(r.to);
    free(r.from);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_last_byte_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
