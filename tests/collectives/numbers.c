#include "numbers.h"

#include <math.h>
#include <string.h>

/* A float of 16 bits: its exponent has `exponent_bits`, its fraction the rest but the sign. */
static double load_16(uint16_t bits, int exponent_bits)
{
    int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = (bits & 0x7fff) >> fraction_bits, fraction = bits & ((1 << fraction_bits) - 1);
    double size;
    if (exponent == (1 << exponent_bits) - 1)
        size = fraction ? (double)NAN : (double)INFINITY;
    else if (exponent == 0)
        size = ldexp(fraction, 1 - bias - fraction_bits);
    else
        size = ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
    return bits & 0x8000 ? -size : size;
}

static uint16_t store_16(double value, int exponent_bits)
{
    int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
    uint16_t infinity = (uint16_t)(((1 << exponent_bits) - 1) << fraction_bits);
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    double size = fabs(value);
    if (isnan(value))
        return infinity | 1;
    if (isinf(size) || size == 0.0)
        return sign | (size == 0.0 ? 0 : infinity);
    int exponent = ilogb(size) < 1 - bias ? 1 - bias : ilogb(size);
    long steps = lrint(ldexp(size, fraction_bits - exponent)); /* in the current rounding mode: to nearest, ties to even */
    long bits = ((long)(exponent + bias - 1) << fraction_bits) + steps;
    return sign | (uint16_t)(bits < infinity ? bits : infinity);
}

bool number_is_float(weir_dtype dtype)
{
    return dtype <= WEIR_BF16;
}

bool number_is_signed(weir_dtype dtype)
{
    return dtype <= WEIR_I64;
}

#define LOAD(_type)                                                                                                    \
    do {                                                                                                               \
        _type value_;                                                                                                  \
        memcpy(&value_, (const char *)data + i * sizeof(value_), sizeof(value_));                                      \
        return (double)value_;                                                                                         \
    } while (0)

double number_load(const void *data, size_t i, weir_dtype dtype)
{
    uint16_t half;
    switch (dtype) {
    case WEIR_F16:
    case WEIR_BF16:
        memcpy(&half, (const char *)data + 2 * i, 2);
        return load_16(half, dtype == WEIR_F16 ? 5 : 8);
    case WEIR_F32: LOAD(float);
    case WEIR_I8: LOAD(int8_t);
    case WEIR_I16: LOAD(int16_t);
    case WEIR_I32: LOAD(int32_t);
    case WEIR_I64: LOAD(int64_t);
    case WEIR_U8: LOAD(uint8_t);
    case WEIR_U16: LOAD(uint16_t);
    case WEIR_U32: LOAD(uint32_t);
    case WEIR_U64: LOAD(uint64_t);
    default: LOAD(double);
    }
}

#define STORE(_type)                                                                                                   \
    do {                                                                                                               \
        _type value_ = (_type)value;                                                                                   \
        memcpy((char *)data + i * sizeof(value_), &value_, sizeof(value_));                                            \
        return;                                                                                                        \
    } while (0)

void number_store(void *data, size_t i, weir_dtype dtype, double value)
{
    uint16_t half;
    switch (dtype) {
    case WEIR_F16:
    case WEIR_BF16:
        half = store_16(value, dtype == WEIR_F16 ? 5 : 8);
        memcpy((char *)data + 2 * i, &half, 2);
        return;
    case WEIR_F32: STORE(float);
    case WEIR_I8: STORE(int8_t);
    case WEIR_I16: STORE(int16_t);
    case WEIR_I32: STORE(int32_t);
    case WEIR_I64: STORE(int64_t);
    case WEIR_U8: STORE(uint8_t);
    case WEIR_U16: STORE(uint16_t);
    case WEIR_U32: STORE(uint32_t);
    case WEIR_U64: STORE(uint64_t);
    default: STORE(double);
    }
}
