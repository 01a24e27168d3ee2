/* Checks of what comes from the network: right input passes, each wrong field is found, noise harms nothing. */
#include "ps/wire.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RING 65536u

static struct wi_ps_request push(void)
{
    return (struct wi_ps_request){.magic = WI_PS_MAGIC,
                                  .version = WI_PS_VERSION,
                                  .op = WI_PS_PUSH,
                                  .position = 128,
                                  .payload = 400,
                                  .part_first = 16,
                                  .part_count = 200,
                                  .offset = 100};
}

static void reject(struct wi_ps_request request)
{
    assert_non_null(wi_ps_request_check(&request, 128, RING));
}

#define REJECT(_base, _field, _value)                                                                                  \
    do {                                                                                                               \
        struct wi_ps_request bad = (_base);                                                                            \
        bad._field = (_value);                                                                                         \
        reject(bad);                                                                                                   \
    } while (0)

static void test_push(void **state)
{
    (void)state;
    struct wi_ps_request good = push();
    assert_null(wi_ps_request_check(&good, 128, RING));
    REJECT(good, magic, 1);
    REJECT(good, version, 2);
    REJECT(good, op, 0);
    REJECT(good, op, 10);
    REJECT(good, position, 64);
    REJECT(good, payload, 0);
    REJECT(good, payload, 402);
    REJECT(good, payload, 404);
    REJECT(good, payload, RING);
    REJECT(good, payload, UINT32_MAX - 3);
    REJECT(good, part_count, 0);
    REJECT(good, part_count, 199);
    REJECT(good, offset, 101);
    REJECT(good, offset, UINT32_MAX);
    REJECT(good, part_first, WI_PS_COUNT_MAX);
    REJECT(good, part_first, WI_PS_COUNT_MAX - 100);
    REJECT(good, part_first, UINT64_MAX);
}

static void test_other_ops(void **state)
{
    (void)state;
    struct wi_ps_request pull = push();
    pull.op = WI_PS_PULL;
    reject(pull);
    pull.payload = 0;
    reject(pull);
    pull.offset = 0;
    assert_null(wi_ps_request_check(&pull, 128, RING));
    REJECT(pull, key, WI_PS_KEYS_MAX);
    struct wi_ps_request key = push();
    key.op = WI_PS_KEY;
    assert_null(wi_ps_request_check(&key, 128, RING));
    REJECT(key, key, WI_PS_KEYS_MAX);
    REJECT(key, payload, WEIR_RKEY_MAX + 1);
    struct wi_ps_request pad = push();
    pad.op = WI_PS_PAD;
    reject(pad);
    pad.payload = RING - 128 - WI_PS_LINE;
    assert_null(wi_ps_request_check(&pad, 128, RING));
    struct wi_ps_request bye = push();
    bye.op = WI_PS_BYE;
    reject(bye);
    bye.payload = 0;
    assert_null(wi_ps_request_check(&bye, 128, RING));
}

static void test_open(void **state)
{
    (void)state;
    struct wi_ps_open open = {
        .count = 10, .learning_rate = 0.1f, .shards = 256, .workers = 4, .servers = 2, .name = "w"};
    assert_null(wi_ps_open_check(&open, 4, 2));
    assert_non_null(wi_ps_open_check(&open, 3, 2));
    assert_non_null(wi_ps_open_check(&open, 4, 1));
    struct wi_ps_open bad = open;
    bad.shards = 255;
    assert_non_null(wi_ps_open_check(&bad, 4, 2));
    bad = open;
    bad.count = 0;
    assert_non_null(wi_ps_open_check(&bad, 4, 2));
    bad = open;
    bad.learning_rate = NAN;
    assert_non_null(wi_ps_open_check(&bad, 4, 2));
    bad = open;
    memset(bad.name, 'x', sizeof(bad.name));
    assert_non_null(wi_ps_open_check(&bad, 4, 2));
    bad = open;
    bad.consistency = 2;
    assert_non_null(wi_ps_open_check(&bad, 4, 2));
}

static void test_same(void **state)
{
    (void)state;
    const char *field;
    struct wi_ps_open a = {.count = 10, .learning_rate = 0.1f, .shards = 256}, b = a;
    assert_true(wi_ps_open_same(&a, &b, &field));
    b.count = 11;
    assert_false(wi_ps_open_same(&a, &b, &field));
    assert_string_equal(field, "count");
    b = a;
    b.learning_rate = 0.2f;
    assert_false(wi_ps_open_same(&a, &b, &field));
    assert_string_equal(field, "learning_rate");
}

static void test_reply(void **state)
{
    (void)state;
    struct wi_ps_reply reply = {
        .magic = WI_PS_MAGIC, .version = WI_PS_VERSION, .kind = WI_PS_REPLY_DONE, .sequence = 5};
    assert_null(wi_ps_reply_check(&reply, 5));
    assert_non_null(wi_ps_reply_check(&reply, 6));
    reply.status = -1;
    assert_non_null(wi_ps_reply_check(&reply, 5));
    reply.status = 0;
    reply.kind = WI_PS_REPLY_HELLO;
    assert_non_null(wi_ps_reply_check(&reply, 5));
}

static void test_hello(void **state)
{
    (void)state;
    struct wi_ps_hello hello = {
        .magic = WI_PS_MAGIC, .version = WI_PS_VERSION, .ring_size = RING, .address_len = 10, .key_len = 10};
    assert_null(wi_ps_hello_check(&hello, sizeof(hello), false));
    assert_non_null(wi_ps_hello_check(&hello, sizeof(hello) - 1, false));
    assert_non_null(wi_ps_hello_check(&hello, sizeof(hello), true));
    hello.address_len = WEIR_ADDRESS_MAX + 1;
    assert_non_null(wi_ps_hello_check(&hello, sizeof(hello), false));
    hello.address_len = 10;
    hello.ring_size = RING + 1;
    assert_non_null(wi_ps_hello_check(&hello, sizeof(hello), false));
    hello.ring_size = 0;
    assert_non_null(wi_ps_hello_check(&hello, sizeof(hello), false));
}

/* Whatever passes the check lies in the ring and in its part: near-right frames with random fields. */
static void test_noise(void **state)
{
    (void)state;
    srand(1);
    for (int i = 0; i < 1000000; i++) {
        struct wi_ps_request request = push();
        request.op = (uint8_t)(rand() % 12);
        unsigned char *bytes = (unsigned char *)&request;
        for (int n = rand() % 4; n > 0; n--)
            bytes[16 + rand() % (sizeof(request) - 16)] = (unsigned char)rand();
        if (wi_ps_request_check(&request, 128, RING))
            continue;
        assert_true(128 + WI_PS_LINE + (uint64_t)request.payload <= RING);
        if (request.op >= WI_PS_INIT && request.op <= WI_PS_PUSH_PULL) {
            assert_true(request.part_first + request.part_count <= WI_PS_COUNT_MAX);
            assert_true((uint64_t)request.offset + request.payload / 4 <= request.part_count);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_push),  cmocka_unit_test(test_other_ops), cmocka_unit_test(test_open),
        cmocka_unit_test(test_same),  cmocka_unit_test(test_reply),     cmocka_unit_test(test_hello),
        cmocka_unit_test(test_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
