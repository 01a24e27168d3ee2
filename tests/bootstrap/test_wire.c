/* The store's protocol: what is encoded is decoded, and nothing else is. */
#include "bootstrap/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct wi_message full_message(enum wi_wire_type type)
{
    static const char long_value[WEIR_BOOT_VALUE_MAX] = {7, 8, 9};
    return (struct wi_message){
        .type = type,
        .request = 0x01020304,
        .rank = 5,
        .world = 16,
        .servers = 2,
        .pid = 4194303,
        .timeout_ms = 3600000,
        .status = WEIR_ERR_PEER_GONE,
        .job = wi_span_text("run-17"),
        .host = wi_span_text("node-a"),
        .key = wi_span_text("key"),
        .value = {long_value, sizeof(long_value)},
        .text = wi_span_text("it was so"),
    };
}

static bool same_span(struct wi_span a, struct wi_span b)
{
    return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

static void frames_round_trip(void **state)
{
    uint8_t *bytes = malloc(WI_WIRE_FRAME_MAX);
    (void)state;
    for (int type = WI_WIRE_HELLO; type < WI_WIRE_TYPES; type++) {
        struct wi_message in = full_message(type);
        struct wi_message out;
        size_t frame_len;
        size_t size = wi_wire_size(&in);
        assert_int_equal(wi_wire_encode(&in, bytes, WI_WIRE_FRAME_MAX), size);
        assert_int_equal(wi_wire_encode(&in, bytes, size - 1), 0);
        assert_int_equal(wi_wire_decode(bytes, size, &out, &frame_len), WI_WIRE_OK);
        assert_int_equal(frame_len, size);
        assert_int_equal(out.type, type);
    }
    struct wi_message in = full_message(WI_WIRE_HELLO);
    struct wi_message out;
    size_t frame_len;
    size_t size = wi_wire_encode(&in, bytes, WI_WIRE_FRAME_MAX);
    assert_int_equal(wi_wire_decode(bytes, size, &out, &frame_len), WI_WIRE_OK);
    assert_true(out.rank == 5 && out.world == 16 && out.servers == 2 && out.pid == 4194303);
    assert_true(out.timeout_ms == 3600000 && same_span(in.job, out.job) && same_span(in.host, out.host));
    in.type = WI_WIRE_PUT;
    size = wi_wire_encode(&in, bytes, WI_WIRE_FRAME_MAX);
    assert_int_equal(wi_wire_decode(bytes, size, &out, &frame_len), WI_WIRE_OK);
    assert_true(out.request == 0x01020304 && same_span(in.key, out.key) && same_span(in.value, out.value));
    in.type = WI_WIRE_ACK;
    size = wi_wire_encode(&in, bytes, WI_WIRE_FRAME_MAX);
    assert_int_equal(wi_wire_decode(bytes, size, &out, &frame_len), WI_WIRE_OK);
    assert_true(out.status == WEIR_ERR_PEER_GONE && same_span(in.text, out.text));
    free(bytes);
}

/* The bytes lie at the end of their own allocation, so that a sanitizer sees a read past them. */
static enum wi_wire_result decode_copy(const uint8_t *bytes, size_t len, size_t *frame_len)
{
    struct wi_message message;
    uint8_t *copy = malloc(len ? len : 1);
    memcpy(copy, bytes, len);
    enum wi_wire_result result = wi_wire_decode(copy, len, &message, frame_len);
    free(copy);
    return result;
}

static void parts_of_frame_ask_for_more(void **state)
{
    uint8_t bytes[512];
    size_t frame_len;
    struct wi_message in = full_message(WI_WIRE_HELLO);
    size_t size = wi_wire_encode(&in, bytes, sizeof(bytes));
    (void)state;
    for (size_t len = 0; len < size; len++) {
        assert_int_equal(decode_copy(bytes, len, &frame_len), WI_WIRE_MORE);
        assert_true(frame_len > len && frame_len <= size);
    }
    assert_int_equal(decode_copy(bytes, size, &frame_len), WI_WIRE_OK);
}

static void foreign_bytes_are_seen_at_once(void **state)
{
    size_t frame_len;
    (void)state;
    assert_int_equal(decode_copy((const uint8_t *)"H", 1, &frame_len), WI_WIRE_FOREIGN);
    assert_int_equal(decode_copy((const uint8_t *)"WEIRD", 5, &frame_len), WI_WIRE_OTHER);
    assert_int_equal(decode_copy((const uint8_t *)"WEI!", 4, &frame_len), WI_WIRE_FOREIGN);
}

/* Every wrong length is refused, whichever byte it is in; nothing is read outside of the frame. */
static void damaged_frames_are_refused(void **state)
{
    uint8_t good[512];
    uint8_t bytes[512];
    size_t frame_len;
    struct wi_message in = full_message(WI_WIRE_HELLO);
    size_t size = wi_wire_encode(&in, good, sizeof(good));
    (void)state;
    static const struct {
        size_t at;
        uint8_t value;
    } damage[] = {
        {5, 0},
        {5, WI_WIRE_TYPES},
        {5, 255},
        {6, 1},
        {7, 1},
        {11, 1},
        {10, 2},
        {WI_WIRE_HEADER + 20, 255},
        {WI_WIRE_HEADER + 23, 128},
        {WI_WIRE_HEADER + 20, 5},
        {WI_WIRE_HEADER + 21, 1},
    };
    for (size_t i = 0; i < sizeof(damage) / sizeof(damage[0]); i++) {
        memcpy(bytes, good, size);
        bytes[damage[i].at] = damage[i].value;
        assert_int_equal(decode_copy(bytes, size, &frame_len), WI_WIRE_DAMAGED);
    }
    /* A body one byte longer or shorter than its fields. */
    memcpy(bytes, good, size);
    bytes[size] = 0;
    bytes[8]++;
    assert_int_equal(decode_copy(bytes, size + 1, &frame_len), WI_WIRE_DAMAGED);
    bytes[8] -= 2;
    assert_int_equal(decode_copy(bytes, size - 1, &frame_len), WI_WIRE_DAMAGED);
}

/* Any byte changed to anything: never a crash, and lengths that are claimed stay within bounds. */
static void changed_bytes_never_crash(void **state)
{
    uint8_t bytes[512];
    struct wi_message in = full_message(WI_WIRE_HELLO);
    size_t size = wi_wire_encode(&in, bytes, sizeof(bytes));
    (void)state;
    for (size_t at = 0; at < size; at++) {
        uint8_t before = bytes[at];
        for (int value = 0; value < 256; value++) {
            size_t frame_len;
            bytes[at] = (uint8_t)value;
            (void)decode_copy(bytes, size, &frame_len);
            assert_true(frame_len <= WI_WIRE_FRAME_MAX);
        }
        bytes[at] = before;
    }
}

static void long_fields_are_not_encoded(void **state)
{
    static char text[WEIR_BOOT_VALUE_MAX + 2];
    struct wi_message put = full_message(WI_WIRE_PUT);
    (void)state;
    put.value = (struct wi_span){text, WEIR_BOOT_VALUE_MAX + 1};
    assert_int_equal(wi_wire_size(&put), 0);
    put = full_message(WI_WIRE_PUT);
    put.key = (struct wi_span){text, WEIR_BOOT_KEY_MAX + 1};
    assert_int_equal(wi_wire_size(&put), 0);
}

static void texts_are_made_harmless(void **state)
{
    char out[8];
    (void)state;
    assert_string_equal(wi_span_copy(wi_span_text("a\nb\033c"), out, sizeof(out)), "a?b?c");
    assert_string_equal(wi_span_copy(wi_span_text("123456789"), out, sizeof(out)), "1234567");
    assert_int_equal(wi_wire_status(WEIR_ERR_KEY), WEIR_ERR_KEY);
    assert_int_equal(wi_wire_status(WEIR_OK), WEIR_ERR_JOB_FAILED);
    assert_int_equal(wi_wire_status(0xffffffff), WEIR_ERR_JOB_FAILED);
}

static void pieces_are_taken_apart(void **state)
{
    uint8_t bytes[32];
    struct wi_span piece;
    (void)state;
    size_t len = wi_wire_piece(wi_span_text("one"), bytes);
    len += wi_wire_piece((struct wi_span){NULL, 0}, bytes + len);
    len += wi_wire_piece(wi_span_text("three"), bytes + len);
    struct wi_span all = {bytes, len};
    assert_true(wi_wire_next_piece(&all, &piece) && piece.len == 3 && memcmp(piece.data, "one", 3) == 0);
    assert_true(wi_wire_next_piece(&all, &piece) && piece.len == 0);
    assert_true(wi_wire_next_piece(&all, &piece) && piece.len == 5 && memcmp(piece.data, "three", 5) == 0);
    assert_int_equal(all.len, 0);
    assert_false(wi_wire_next_piece(&all, &piece));
    for (size_t cut = 1; cut < 7; cut++) { /* nothing is read outside */
        uint8_t *copy = malloc(cut);
        memcpy(copy, bytes, cut);
        all = (struct wi_span){copy, cut};
        assert_false(wi_wire_next_piece(&all, &piece));
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_round_trip),
        cmocka_unit_test(parts_of_frame_ask_for_more),
        cmocka_unit_test(foreign_bytes_are_seen_at_once),
        cmocka_unit_test(damaged_frames_are_refused),
        cmocka_unit_test(changed_bytes_never_crash),
        cmocka_unit_test(long_fields_are_not_encoded),
        cmocka_unit_test(texts_are_made_harmless),
        cmocka_unit_test(pieces_are_taken_apart),
    };
    return cmocka_run_group_tests_name("bootstrap: wire", tests, NULL, NULL);
}
