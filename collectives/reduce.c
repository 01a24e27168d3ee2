/* The reduction kernels of all vector widths, and which of them this processor runs. */
#include "collectives/reduce.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Vectors of 16 bytes, which all processors have or the compiler makes up. */
#define WIDTH        16
#define TARGET
#define LEVEL(_name) _name##_16
#if defined(__aarch64__)
#include <arm_neon.h>
#define F16_TO_F32(_x) ((floats_16)vcvt_f32_f16((float16x4_t)(_x)))
#define F32_TO_F16(_x) ((halves_16)vcvt_f16_f32((float32x4_t)(_x)))
#endif
#include "collectives/reduce_level.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define WIDTH          32
#define TARGET         __attribute__((target("avx2,f16c")))
#define LEVEL(_name)   _name##_32
#define F16_TO_F32(_x) ((floats_32)_mm256_cvtph_ps((__m128i)(_x)))
#define F32_TO_F16(_x) ((halves_32)_mm256_cvtps_ph((__m256)(_x), _MM_FROUND_TO_NEAREST_INT))
#include "collectives/reduce_level.h"

#define WIDTH          64
#define TARGET         __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define LEVEL(_name)   _name##_64
#define F16_TO_F32(_x) ((floats_64)_mm512_cvtph_ps((__m256i)(_x)))
#define F32_TO_F16(_x) ((halves_64)_mm512_cvtps_ph((__m512)(_x), _MM_FROUND_TO_NEAREST_INT))
#include "collectives/reduce_level.h"

static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

unsigned wi_reduce_levels(void)
{
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 3;
    return __builtin_cpu_supports("avx2") && has_f16c() ? 2 : 1;
}

static wi_reduce_fn *wide_kernel(weir_dtype dtype, weir_redop op, unsigned level)
{
    return level == 2 ? reductions_64[dtype][op] : reductions_32[dtype][op];
}

static wi_divide_fn *wide_division(weir_dtype dtype, unsigned level)
{
    return level == 2 ? divisions_64[dtype] : divisions_32[dtype];
}
#else
unsigned wi_reduce_levels(void)
{
    return 1;
}

static wi_reduce_fn *wide_kernel(weir_dtype dtype, weir_redop op, unsigned level)
{
    (void)dtype, (void)op, (void)level;
    return NULL;
}

static wi_divide_fn *wide_division(weir_dtype dtype, unsigned level)
{
    (void)dtype, (void)level;
    return NULL;
}
#endif

wi_reduce_fn *wi_reduce_kernel(weir_dtype dtype, weir_redop op, unsigned level)
{
    if ((unsigned)dtype >= WEIR_DTYPES || (unsigned)op >= WEIR_REDOPS)
        return NULL;
    return level == 0 ? reductions_16[dtype][op] : wide_kernel(dtype, op, level);
}

/* ---- Division ---------------------------------------------------------------------------------------------------- */

/* No processor has vectors for it. */
#define DIVISION_OF(_type, _element, _wide)                                                                            \
    static void divide_##_type(void *data, size_t bytes, uint32_t divisor)                                             \
    {                                                                                                                  \
        typedef _element element __attribute__((aligned(1), may_alias));                                               \
        element *at = data;                                                                                            \
        for (size_t i = 0; i < bytes / sizeof(element); i++)                                                           \
            at[i] = (_element)((_wide)at[i] / (_wide)divisor);                                                         \
    }

DIVISION_OF(i8, int8_t, int64_t)
DIVISION_OF(i16, int16_t, int64_t)
DIVISION_OF(i32, int32_t, int64_t)
DIVISION_OF(i64, int64_t, int64_t)
DIVISION_OF(u8, uint8_t, uint64_t)
DIVISION_OF(u16, uint16_t, uint64_t)
DIVISION_OF(u32, uint32_t, uint64_t)
DIVISION_OF(u64, uint64_t, uint64_t)

wi_divide_fn *wi_divide_kernel(weir_dtype dtype, unsigned level)
{
    static wi_divide_fn *const whole[WEIR_DTYPES] = {
        [WEIR_I8] = divide_i8, [WEIR_I16] = divide_i16, [WEIR_I32] = divide_i32, [WEIR_I64] = divide_i64,
        [WEIR_U8] = divide_u8, [WEIR_U16] = divide_u16, [WEIR_U32] = divide_u32, [WEIR_U64] = divide_u64,
    };
    if ((unsigned)dtype >= WEIR_DTYPES)
        return NULL;
    if (whole[dtype])
        return whole[dtype];
    return level == 0 ? divisions_16[dtype] : wide_division(dtype, level);
}
