/* Addresses and keys as byte strings: what was written is read back, and no damage is ever taken for a frame. */
#include "transport/blob.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const uint64_t fields[WI_BLOB_FIELDS] = {1, UINT64_MAX, 0x0123456789abcdefull};

static size_t make_frame(unsigned char *buf, size_t room)
{
    struct wi_blob_writer writer;
    size_t section_room, len = 0;
    wi_blob_begin(&writer, buf, room, WI_BLOB_ADDRESS, fields);
    memcpy(wi_blob_section_room(&writer, &section_room), "seven..", 7);
    wi_blob_section_done(&writer, 3, 7);
    assert_non_null(wi_blob_section_room(&writer, &section_room));
    wi_blob_section_done(&writer, 1, 0);
    assert_int_equal(wi_blob_end(&writer, &len), WEIR_OK);
    return len;
}

static void test_round_trip(void **state)
{
    (void)state;
    unsigned char buf[256];
    struct wi_blob blob;
    const char *why;
    size_t len = make_frame(buf, sizeof(buf)), section_len;
    assert_int_equal(wi_blob_read(buf, len, WI_BLOB_ADDRESS, &blob, &why), WEIR_OK);
    assert_memory_equal(blob.field, fields, sizeof(fields));
    const void *section = wi_blob_section(&blob, 3, &section_len);
    assert_int_equal(section_len, 7);
    assert_memory_equal(section, "seven..", 7);
    assert_non_null(wi_blob_section(&blob, 1, &section_len));
    assert_int_equal(section_len, 0);
    assert_null(wi_blob_section(&blob, 2, &section_len));
    assert_int_equal(wi_blob_read(buf, len, WI_BLOB_KEY, &blob, &why), WEIR_ERR_PROTOCOL);
}

static void test_every_damage_is_found(void **state)
{
    (void)state;
    unsigned char buf[256];
    struct wi_blob blob;
    const char *why;
    size_t len = make_frame(buf, sizeof(buf));
    for (size_t i = 0; i < len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            buf[i] ^= (unsigned char)(1 << bit);
            assert_int_equal(wi_blob_read(buf, len, WI_BLOB_ADDRESS, &blob, &why), WEIR_ERR_PROTOCOL);
            assert_non_null(why);
            buf[i] ^= (unsigned char)(1 << bit);
        }
    }
    for (size_t cut = 0; cut < len; cut++) {
        unsigned char *exact = malloc(cut ? cut : 1); /* so that the address sanitizer sees a read past the end */
        memcpy(exact, buf, cut);
        assert_int_equal(wi_blob_read(exact, cut, WI_BLOB_ADDRESS, &blob, &why), WEIR_ERR_PROTOCOL);
        free(exact);
    }
    assert_int_equal(wi_blob_read(NULL, 0, WI_BLOB_ADDRESS, &blob, &why), WEIR_ERR_PROTOCOL);
}

static void test_too_little_room(void **state)
{
    (void)state;
    unsigned char buf[64];
    for (size_t room = 0; room < sizeof(buf); room++) {
        struct wi_blob_writer writer;
        size_t section_room, len;
        wi_blob_begin(&writer, buf, room, WI_BLOB_KEY, fields);
        void *section = wi_blob_section_room(&writer, &section_room);
        if (section) {
            assert_true((unsigned char *)section + section_room + 4 <= buf + room);
            memset(section, 0, section_room);
            wi_blob_section_done(&writer, 1, section_room);
            assert_int_equal(wi_blob_end(&writer, &len), WEIR_OK);
            assert_int_equal(len, room);
        } else {
            assert_int_equal(wi_blob_end(&writer, &len), WEIR_ERR_RANGE);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_every_damage_is_found),
        cmocka_unit_test(test_too_little_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
