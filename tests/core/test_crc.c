/* The checksum is the one everybody else means by CRC-32. */
#include "core/crc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void known_values(void **state)
{
    (void)state;
    assert_int_equal(wi_crc32("123456789", 9), 0xcbf43926); /* the check value of the CRC catalogue */
    assert_int_equal(wi_crc32("a", 1), 0xe8b7be43);
    assert_int_equal(wi_crc32("", 0), 0);
}

static void every_flipped_bit_shows(void **state)
{
    (void)state;
    unsigned char blob[64] = {0};
    uint32_t whole = wi_crc32(blob, sizeof(blob));
    for (size_t bit = 0; bit < sizeof(blob) * 8; bit++) {
        blob[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        assert_int_not_equal(wi_crc32(blob, sizeof(blob)), whole);
        blob[bit / 8] ^= (unsigned char)(1u << (bit % 8));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_values),
        cmocka_unit_test(every_flipped_bit_shows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
