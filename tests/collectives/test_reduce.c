/* The kernels of every type, operation and vector width, beside sums and products made here one by one. */
#include "collectives/reduce.h"
#include "numbers.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { SIZE = 600, GUARD = 16, ROUNDS = 40 };

static uint64_t state = 7;

static uint64_t random_bits(void)
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return state >> 20;
}

/* Small integers and anything at all, in turn: bits are often NaNs, infinities and denormal numbers. */
static void fill(unsigned char *data, size_t bytes, weir_dtype dtype)
{
    bool plain = random_bits() % 2;
    for (size_t i = 0; i < bytes; i++)
        data[i] = (unsigned char)random_bits();
    for (size_t i = 0; plain && i < bytes / weir_dtype_size(dtype); i++)
        number_store(data, i, dtype, (double)(random_bits() % 100));
}

/* ---- What is due -------------------------------------------------------------------------------------------------- */

static uint64_t load_bits(const unsigned char *data, size_t size)
{
    uint64_t bits = 0;
    memcpy(&bits, data, size); /* the machine's order of bytes is known: all of ours have the least first */
    return bits;
}

static bool picks_first(weir_dtype dtype, weir_redop op, const unsigned char *a, const unsigned char *b)
{
    if (dtype == WEIR_U64 || dtype == WEIR_I64) { /* more bits than a double has */
        uint64_t flip = dtype == WEIR_I64 ? 1ull << 63 : 0, x = load_bits(a, 8) ^ flip, y = load_bits(b, 8) ^ flip;
        return op == WEIR_MIN ? x < y : x > y;
    }
    double x = number_load(a, 0, dtype), y = number_load(b, 0, dtype);
    return isnan(x) || (op == WEIR_MIN ? x < y : x > y);
}

static void due_float(unsigned char *out, const unsigned char *a, const unsigned char *b, weir_dtype dtype, weir_redop op)
{
    double x = number_load(a, 0, dtype), y = number_load(b, 0, dtype);
    if (dtype == WEIR_F64)
        number_store(out, 0, dtype, op == WEIR_PROD ? x * y : x + y);
    else /* computed as f32, then rounded to the type */
        number_store(out, 0, dtype, (double)(op == WEIR_PROD ? (float)x * (float)y : (float)x + (float)y));
}

static void due(unsigned char *out, const unsigned char *a, const unsigned char *b, weir_dtype dtype, weir_redop op)
{
    size_t size = weir_dtype_size(dtype);
    if (op == WEIR_MIN || op == WEIR_MAX) {
        memmove(out, picks_first(dtype, op, a, b) ? a : b, size);
    } else if (number_is_float(dtype)) {
        due_float(out, a, b, dtype, op);
    } else {
        uint64_t x = load_bits(a, size), y = load_bits(b, size), bits = op == WEIR_PROD ? x * y : x + y;
        memcpy(out, &bits, size);
    }
}

/* A NaN is as good as another one. */
static bool same(const unsigned char *got, const unsigned char *due_bits, weir_dtype dtype)
{
    bool nan = number_is_float(dtype) && isnan(number_load(due_bits, 0, dtype));
    return nan ? isnan(number_load(got, 0, dtype)) : memcmp(got, due_bits, weir_dtype_size(dtype)) == 0;
}

/* ---- Tests -------------------------------------------------------------------------------------------------------- */

struct buffers {
    unsigned char a[SIZE + 2 * GUARD], b[SIZE + 2 * GUARD], out[SIZE + 2 * GUARD];
};

/* `bytes` at any alignment, into a buffer of its own or over one of the operands; nothing around it changes. */
static void check_length(wi_reduce_fn *kernel, weir_dtype dtype, weir_redop op, size_t bytes)
{
    struct buffers buffers, before;
    size_t size = weir_dtype_size(dtype), shift = GUARD + random_bits() % GUARD;
    unsigned char *outs[] = {buffers.out, buffers.a, buffers.b}, *out = outs[random_bits() % 3] + shift;
    fill(buffers.a + shift, bytes, dtype);
    fill(buffers.b + shift, bytes, dtype);
    memset(buffers.out, 0x5a, sizeof(buffers.out));
    memcpy(&before, &buffers, sizeof(before));
    kernel(out, buffers.a + shift, buffers.b + shift, bytes);
    for (size_t i = 0; i < bytes; i += size) {
        unsigned char expected[8];
        due(expected, before.a + shift + i, before.b + shift + i, dtype, op);
        if (!same(out + i, expected, dtype))
            print_message("%s of %s: %g and %g made %g\n", weir_redop_name(op), weir_dtype_name(dtype),
                          number_load(before.a + shift + i, 0, dtype), number_load(before.b + shift + i, 0, dtype),
                          number_load(out + i, 0, dtype));
        assert_true(same(out + i, expected, dtype));
    }
    memcpy((unsigned char *)&before + (out - (unsigned char *)&buffers), out, bytes);
    assert_memory_equal(&before, &buffers, sizeof(before));
}

static void test_reductions(void **unused)
{
    (void)unused;
    for (int dtype = 0; dtype < WEIR_DTYPES; dtype++)
        for (int op = 0; op < WEIR_REDOPS; op++)
            for (unsigned level = 0; level < wi_reduce_levels(); level++) {
                wi_reduce_fn *kernel = wi_reduce_kernel((weir_dtype)dtype, (weir_redop)op, level);
                size_t size = weir_dtype_size((weir_dtype)dtype);
                assert_non_null(kernel);
                for (size_t bytes = 0; bytes <= SIZE; bytes += bytes < 300 ? size : size * 16)
                    check_length(kernel, (weir_dtype)dtype, (weir_redop)op, bytes / size * size);
            }
}

/* Every f16 and bf16: it stays what it is when nothing is added, and each sum of two of them is rounded well. */
static void test_16_bits(void **unused)
{
    (void)unused;
    static uint16_t all[65536], shifted[65536], out[65536];
    for (unsigned level = 0; level < wi_reduce_levels(); level++)
        for (int dtype = WEIR_F16; dtype <= WEIR_BF16; dtype++) {
            wi_reduce_fn *sum = wi_reduce_kernel((weir_dtype)dtype, WEIR_SUM, level);
            for (int round = 0; round < ROUNDS; round++) {
                uint16_t start = round == 0 ? 0 : (uint16_t)random_bits();
                for (unsigned i = 0; i < 65536; i++) {
                    all[i] = (uint16_t)i;
                    shifted[i] = round == 0 ? 0x8000 : (uint16_t)(i + start); /* -0 changes nothing */
                }
                sum(out, all, shifted, sizeof(out));
                for (unsigned i = 0; i < 65536; i++) {
                    unsigned char expected[2];
                    due(expected, (unsigned char *)&all[i], (unsigned char *)&shifted[i], (weir_dtype)dtype, WEIR_SUM);
                    assert_true(same((unsigned char *)&out[i], expected, (weir_dtype)dtype));
                    assert_true(round > 0 || same((unsigned char *)&out[i], (unsigned char *)&all[i], (weir_dtype)dtype));
                }
            }
        }
}

static double due_quotient(double value, weir_dtype dtype, uint32_t divisor)
{
    if (dtype == WEIR_F64)
        return value / divisor;
    if (number_is_float(dtype))
        return (double)((float)value / (float)divisor);
    return trunc(value / divisor);
}

static void test_divisions(void **unused)
{
    (void)unused;
    static const uint32_t divisors[] = {1, 2, 3, 7, 200, 70000};
    for (int dtype = 0; dtype < WEIR_DTYPES; dtype++)
        for (unsigned level = 0; level < wi_reduce_levels(); level++)
            for (size_t d = 0; d < sizeof(divisors) / sizeof(divisors[0]); d++)
                for (size_t count = 0; count < 70; count++) {
                    wi_divide_fn *divide = wi_divide_kernel((weir_dtype)dtype, level);
                    size_t size = weir_dtype_size((weir_dtype)dtype);
                    unsigned char data[GUARD + 70 * 8 + GUARD], before[sizeof(data)];
                    memset(data, 0x5a, sizeof(data));
                    for (size_t i = 0; i < count; i++)
                        number_store(data + 3, i, (weir_dtype)dtype,
                                     (double)(random_bits() % 100) - (number_is_signed((weir_dtype)dtype) ? 50 : 0));
                    memcpy(before, data, sizeof(data));
                    assert_non_null(divide);
                    divide(data + 3, count * size, divisors[d]);
                    for (size_t i = 0; i < count; i++) {
                        double value = number_load(before + 3, i, (weir_dtype)dtype);
                        number_store(before + 3, i, (weir_dtype)dtype,
                                     due_quotient(value, (weir_dtype)dtype, divisors[d]));
                    }
                    assert_memory_equal(before, data, sizeof(data));
                }
}

static void test_what_there_is_not(void **unused)
{
    (void)unused;
    assert_null(wi_reduce_kernel(WEIR_DTYPES, WEIR_SUM, 0));
    assert_null(wi_reduce_kernel((weir_dtype)-1, WEIR_SUM, 0));
    assert_null(wi_reduce_kernel(WEIR_F32, WEIR_REDOPS, 0));
    assert_null(wi_divide_kernel(WEIR_DTYPES, 0));
    assert_null(weir_dtype_name(WEIR_DTYPES));
    assert_null(weir_redop_name((weir_redop)-1));
    assert_int_equal(weir_dtype_size(WEIR_DTYPES), 0);
    assert_string_equal(weir_dtype_name(WEIR_BF16), "bf16");
    assert_string_equal(weir_redop_name(WEIR_AVG), "avg");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reductions),
        cmocka_unit_test(test_16_bits),
        cmocka_unit_test(test_divisions),
        cmocka_unit_test(test_what_there_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
