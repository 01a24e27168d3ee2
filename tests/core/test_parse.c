/* Sizes and durations: what is accepted, to which exact value, and what is not. */
#include "core/config.h"

#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

struct good {
    const char *text;
    uint64_t value;
};

static const struct good good_sizes[] = {
    {"0", 0},
    {"100", 100},
    {"100b", 100},
    {"64K", 65536},
    {"64k", 65536},
    {"64kB", 65536},
    {"64KiB", 65536},
    {"3m", 3u << 20},
    {"2GiB", 2ull << 30},
    {"1T", 1ull << 40},
    {"1.5M", 1572864},
    {".5K", 512},
    {"2.K", 2048},
    {"0.1K", 102}, /* 102.4: the part of a byte is cut off */
    {"0.000000000000000001T", 0},
    {"000000000000000000000000000000001", 1},
    {"9007199254740993", 9007199254740993ull}, /* not a double */
    {"18446744073709551615", UINT64_MAX},
    {"16777215.999999999999T", 18446744073709551614ull},
};

static const char *const bad_sizes[] = {
    "",
    " ",
    "K",
    ".",
    ".K",
    "-1",
    "+1",
    "12Q",
    "1 K",
    " 1K",
    "1K ",
    "1e3",
    "0x10",
    "1.2.3",
    "1,5K",
    "inf",
    "nan",
    "1KiBB",
    "1Ki",
    "12ms",
    "1\n",
    "٣K",
    "18446744073709551616",    /* 2^64 */
    "16777216T",               /* 2^64 by its unit */
    "18446744073709551615.5K", /* too large before the point */
    "99999999999999999999999999999999999999999999",
    "0.0000000000000000001T" /* 19 digits */,
};

static const struct good good_durations[] = {
    {"0us", 0},           {"50us", 50000},
    {"0.3us", 300},       {"100ms", 100000000},
    {"1.5s", 1500000000}, {"2", 2000000000},
    {"2sec", 2000000000}, {"2min", 120000000000},
    {"2m", 120000000000}, {"1H", 3600000000000},
    {"7ns", 7},           {"0.9ns", 0},
    {"0.000000001", 1},   {"18446744073.709551615s", UINT64_MAX},
};

static const char *const bad_durations[] = {
    "", "s", "-1s", "1 s", "10K", "1d", "1.5.5s", "18446744073.709551616s", "5124096h",
};

#define COUNT(_array) (sizeof(_array) / sizeof((_array)[0]))

static void sizes_are_exact(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(good_sizes); i++) {
        uint64_t value = 77;
        if (!wi_parse_size(good_sizes[i].text, &value) || value != good_sizes[i].value)
            fail_msg("'%s' gave %llu", good_sizes[i].text, (unsigned long long)value);
    }
}

static void other_texts_are_no_sizes(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad_sizes); i++) {
        uint64_t value;
        if (wi_parse_size(bad_sizes[i], &value))
            fail_msg("'%s' gave %llu", bad_sizes[i], (unsigned long long)value);
    }
}

static void durations_are_exact(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(good_durations); i++) {
        uint64_t value = 77;
        if (!wi_parse_duration(good_durations[i].text, &value) || value != good_durations[i].value)
            fail_msg("'%s' gave %llu", good_durations[i].text, (unsigned long long)value);
    }
}

static void other_texts_are_no_durations(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad_durations); i++) {
        uint64_t value;
        if (wi_parse_duration(bad_durations[i], &value))
            fail_msg("'%s' gave %llu", bad_durations[i], (unsigned long long)value);
    }
}

static void public_calls_tell_why(void **state)
{
    (void)state;
    uint64_t value = 0;
    assert_int_equal(weir_parse_size("4K", &value), WEIR_OK);
    assert_int_equal(value, 4096);
    assert_int_equal(weir_parse_duration("4ms", &value), WEIR_OK);
    assert_int_equal(value, 4000000);
    assert_int_equal(weir_parse_size("4X", &value), WEIR_ERR_INVALID);
    assert_string_equal(weir_last_error(), "'4X': not a size; use e.g. 64K");
    assert_int_equal(weir_parse_duration(NULL, &value), WEIR_ERR_INVALID);
    assert_string_equal(weir_last_error(), "'': not a duration; use e.g. 500ms");
    assert_int_equal(value, 4000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_exact),       cmocka_unit_test(other_texts_are_no_sizes),
        cmocka_unit_test(durations_are_exact),   cmocka_unit_test(other_texts_are_no_durations),
        cmocka_unit_test(public_calls_tell_why),
    };
    setlocale(LC_ALL, ""); /* a decimal comma must not change anything */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
