/* The request ring: frames of random sizes, with a consumer that lags, arrive whole, in
 * order and never out of bounds. */
#include "ps/ring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RING 8192u

struct rig {
    unsigned char *memory; /* exactly the ring: a sanitizer sees every byte beyond */
    struct wi_ps_producer producer;
    struct wi_ps_consumer consumer;
    uint64_t signals; /* frames written */
};

static void rig_init(struct rig *rig)
{
    *rig = (struct rig){.memory = calloc(1, RING)};
    assert_non_null(rig->memory);
    rig->producer.size = RING;
    rig->consumer = (struct wi_ps_consumer){.base = rig->memory, .size = RING};
}

static void write_frame(struct rig *rig, uint64_t position, uint8_t op, uint32_t payload, unsigned char fill)
{
    struct wi_ps_request header = {.magic = WI_PS_MAGIC,
                                   .version = WI_PS_VERSION,
                                   .op = op,
                                   .position = position,
                                   .payload = payload,
                                   .part_count = 1u << 20};
    memcpy(rig->memory + position % RING, &header, sizeof(header));
    if (op != WI_PS_PAD)
        memset(rig->memory + position % RING + WI_PS_LINE, fill, payload);
    rig->signals++;
}

/* As a client does it. False: no room. */
static bool produce(struct rig *rig, uint32_t min, uint32_t max, unsigned char fill, uint32_t *sent)
{
    struct wi_ps_slot slot;
    if (!wi_ps_ring_room(&rig->producer, min, max, &slot))
        return false;
    assert_in_range(slot.payload, min, max);
    assert_true(slot.payload == max || slot.payload % WI_PS_LINE == 0);
    if (slot.pad)
        write_frame(rig, slot.position, WI_PS_PAD, (uint32_t)(slot.pad - WI_PS_LINE), 0);
    write_frame(rig, slot.position + slot.pad, WI_PS_PUSH, slot.payload, fill);
    wi_ps_ring_advance(&rig->producer, &slot, slot.payload);
    assert_true(rig->producer.head - rig->consumer.tail <= RING);
    *sent = slot.payload;
    return true;
}

/* Takes one frame; padding is skipped by the caller's loop. */
static bool consume(struct rig *rig, struct wi_ps_request *request, const unsigned char **payload)
{
    const void *bytes;
    if (rig->consumer.frames == rig->signals)
        return false;
    assert_null(wi_ps_ring_read(&rig->consumer, request, &bytes));
    *payload = bytes;
    return true;
}

static void test_random(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 50; seed++) {
        struct rig rig;
        rig_init(&rig);
        srand(seed);
        uint32_t expected[RING / WI_PS_LINE];
        unsigned char fills[RING / WI_PS_LINE];
        unsigned written = 0, read = 0;
        while (read < 400) {
            if (rand() % 2 && written - read < RING / WI_PS_LINE) {
                uint32_t max = 4 * (uint32_t)(1 + rand() % 700), min = max < 512 ? max : 512, sent;
                unsigned char fill = (unsigned char)rand();
                if (!produce(&rig, min, max, fill, &sent))
                    continue;
                expected[written % (RING / WI_PS_LINE)] = sent;
                fills[written++ % (RING / WI_PS_LINE)] = fill;
                continue;
            }
            struct wi_ps_request request;
            const unsigned char *payload;
            if (consume(&rig, &request, &payload)) {
                if (request.op != WI_PS_PAD) {
                    assert_int_equal(request.payload, expected[read % (RING / WI_PS_LINE)]);
                    for (uint32_t i = 0; i < request.payload; i++)
                        assert_int_equal(payload[i], fills[read % (RING / WI_PS_LINE)]);
                    read++;
                }
                wi_ps_ring_consume(&rig.consumer, &request);
            }
            if (rand() % 3 == 0)
                assert_true(wi_ps_ring_credit(&rig.producer, rig.consumer.tail));
        }
        free(rig.memory);
    }
}

/* A producer that waits for a quarter of the ring gets it from a consumer that returns credits an eighth at a time. */
static void test_no_standstill(void **state)
{
    (void)state;
    struct rig rig;
    rig_init(&rig);
    uint64_t total = 0;
    for (int turn = 0; turn < 100000 && total < 100 * RING; turn++) {
        uint32_t sent = 0;
        if (produce(&rig, RING / 4 - 2 * WI_PS_LINE, RING / 4 - 2 * WI_PS_LINE, 7, &sent)) {
            total += sent;
            continue;
        }
        struct wi_ps_request request;
        const unsigned char *payload;
        assert_true(consume(&rig, &request, &payload));
        wi_ps_ring_consume(&rig.consumer, &request);
        if (wi_ps_ring_owes_credit(&rig.consumer)) {
            rig.consumer.credited = rig.consumer.tail;
            assert_true(wi_ps_ring_credit(&rig.producer, rig.consumer.tail));
        }
    }
    assert_true(total >= 100 * RING);
    free(rig.memory);
}

static void test_bad_credit(void **state)
{
    (void)state;
    struct wi_ps_producer producer = {.size = RING, .head = 1024, .consumed = 512};
    assert_false(wi_ps_ring_credit(&producer, 448));
    assert_false(wi_ps_ring_credit(&producer, 1088));
    assert_false(wi_ps_ring_credit(&producer, 520));
    assert_int_equal(producer.consumed, 512);
    assert_true(wi_ps_ring_credit(&producer, 1024));
}

/* A frame of an earlier lap, announced once more, is not taken for a new one. */
static void test_stale_frame(void **state)
{
    (void)state;
    struct rig rig;
    rig_init(&rig);
    struct wi_ps_request request;
    const unsigned char *payload;
    uint32_t sent;
    while (rig.producer.head < RING) {
        assert_true(produce(&rig, RING / 8 - WI_PS_LINE, RING / 8 - WI_PS_LINE, 1, &sent));
        assert_true(consume(&rig, &request, &payload));
        wi_ps_ring_consume(&rig.consumer, &request);
        assert_true(wi_ps_ring_credit(&rig.producer, rig.consumer.tail));
    }
    const void *bytes;
    assert_non_null(wi_ps_ring_read(&rig.consumer, &request, &bytes));
    free(rig.memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_no_standstill),
        cmocka_unit_test(test_bad_credit),
        cmocka_unit_test(test_stale_frame),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
