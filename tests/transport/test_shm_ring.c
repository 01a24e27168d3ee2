/* The ring of messages: whole and in order across its end, and nothing that the other side writes leads it astray. */
#include "transport/shm/ring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MESSAGE_MAX = 4096 };

struct fixture {
    struct shm_ring *ring;
    struct shm_ring_view sender, target;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    f->ring = aligned_alloc(4096, sizeof(*f->ring));
    memset(f->ring, 0, sizeof(*f->ring));
    f->sender.ring = f->target.ring = f->ring;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    free(f->ring);
    free(f);
    return 0;
}

static void fill(unsigned char *data, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        data[i] = (unsigned char)(seed + i * 7);
}

static void expect_message(struct fixture *f, size_t len, unsigned seed)
{
    unsigned char got[MESSAGE_MAX], wanted[MESSAGE_MAX];
    uint32_t got_len = 0;
    assert_int_equal(wi_shm_ring_peek(&f->target, got, sizeof(got), &got_len), SHM_RING_OK);
    assert_int_equal(got_len, len);
    fill(wanted, len, seed);
    assert_memory_equal(got, wanted, len);
    wi_shm_ring_pop(&f->target, got_len);
}

/* Messages of changing length, the reader lagging behind by a changing number, over many turns of the ring. */
static void passes_messages_across_its_end(void **state)
{
    struct fixture *f = *state;
    unsigned char data[MESSAGE_MAX];
    unsigned sent = 0, taken = 0;
    while (taken < 5000) {
        size_t len = sent * 131 % (MESSAGE_MAX + 1);
        fill(data, len, sent);
        if (sent < 5000 && sent - taken < 1 + sent % 13 && wi_shm_ring_push(&f->sender, data, len) == SHM_RING_OK) {
            sent++;
            continue;
        }
        expect_message(f, taken * 131 % (MESSAGE_MAX + 1), taken);
        taken++;
    }
    assert_true(f->ring->tail > 10 * SHM_RING_DATA);
    assert_int_equal(f->ring->head, f->ring->tail);
}

static void is_full_and_empty_in_time(void **state)
{
    struct fixture *f = *state;
    unsigned char data[MESSAGE_MAX];
    uint32_t len;
    unsigned sent = 0;
    assert_false(wi_shm_ring_has_message(&f->target));
    assert_int_equal(wi_shm_ring_peek(&f->target, data, sizeof(data), &len), SHM_RING_AGAIN);
    for (fill(data, sizeof(data), sent); wi_shm_ring_push(&f->sender, data, sizeof(data)) == SHM_RING_OK;)
        fill(data, sizeof(data), ++sent);
    assert_int_equal(sent, SHM_RING_DATA / (MESSAGE_MAX + 8));
    assert_true(wi_shm_ring_has_message(&f->target));
    expect_message(f, sizeof(data), 0);
    assert_int_equal(wi_shm_ring_push(&f->sender, data, sizeof(data)), SHM_RING_OK);
    for (unsigned i = 1; i <= sent; i++)
        expect_message(f, sizeof(data), i);
    assert_int_equal(wi_shm_ring_peek(&f->target, data, sizeof(data), &len), SHM_RING_AGAIN);
}

/* Lengths that a sender never writes. */
static void finds_false_lengths(void **state)
{
    struct fixture *f = *state;
    unsigned char data[MESSAGE_MAX] = {0};
    uint32_t len, lies[] = {101, MESSAGE_MAX, MESSAGE_MAX + 1, 1u << 20, 0xfffffff8u, 0xffffffffu};
    assert_int_equal(wi_shm_ring_push(&f->sender, data, 90), SHM_RING_OK);
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        memcpy(f->ring->data, &lies[i], sizeof(lies[i]));
        assert_int_equal(wi_shm_ring_peek(&f->target, data, sizeof(data), &len), SHM_RING_BROKEN);
    }
}

static void finds_false_positions(void **state)
{
    struct fixture *f = *state;
    unsigned char data[64] = {0};
    uint32_t len;
    uint64_t tails[] = {4, SHM_RING_DATA + 8, 1ull << 40, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {
        f->ring->tail = tails[i];
        assert_int_equal(wi_shm_ring_peek(&f->target, data, sizeof(data), &len), SHM_RING_BROKEN);
    }
    uint64_t heads[] = {8, SHM_RING_DATA, UINT64_MAX / 2};
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        f->ring->head = heads[i];
        assert_int_equal(wi_shm_ring_push(&f->sender, data, sizeof(data)), SHM_RING_BROKEN);
    }
}

/* Whatever the shared part holds, reading stays within bounds (the sanitizers watch) and ends. */
static void survives_noise(void **state)
{
    struct fixture *f = *state;
    unsigned seed = 4711;
    for (int turn = 0; turn < 20000; turn++) {
        unsigned char *data = malloc(MESSAGE_MAX); /* to be caught one byte past its end */
        uint32_t len = 0, word = (uint32_t)rand_r(&seed) % (turn % 2 ? 5000u : 1u << 30);
        f->target.position = (uint64_t)rand_r(&seed) * 8;
        f->ring->tail = f->target.position + (uint64_t)rand_r(&seed) % (turn % 3 ? 6000u : 1u << 20);
        memcpy(f->ring->data + f->target.position % SHM_RING_DATA, &word, sizeof(word));
        if (wi_shm_ring_peek(&f->target, data, MESSAGE_MAX, &len) == SHM_RING_OK)
            assert_true(len <= MESSAGE_MAX && len + 8 <= f->ring->tail - f->target.position);
        free(data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(passes_messages_across_its_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(is_full_and_empty_in_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(finds_false_lengths, set_up, tear_down),
        cmocka_unit_test_setup_teardown(finds_false_positions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(survives_noise, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
