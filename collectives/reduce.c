/*
 * One loop, compiled for each vector width with the compiler's vector types. Every width adds the same pairs, so
 * results do not depend on the choice.
 */
#include "collectives/reduce.h"

/* Elements and vectors of them, of any alignment, that may overlay other types. */
typedef float float_any __attribute__((aligned(1), may_alias));
typedef double double_any __attribute__((aligned(1), may_alias));

#define SUM_KERNEL(_name, _type, _width)                                                                               \
    static void _name(void *out, const void *a, const void *b, size_t bytes)                                           \
    {                                                                                                                  \
        typedef _type vector __attribute__((vector_size(_width), aligned(1), may_alias));                              \
        const size_t width = _width;                                                                                   \
        unsigned char *to = out;                                                                                       \
        const unsigned char *x = a, *y = b;                                                                            \
        size_t i = 0;                                                                                                  \
        for (; i + 2 * width <= bytes; i += 2 * width) {                                                               \
            vector low = *(const vector *)(x + i) + *(const vector *)(y + i);                                          \
            vector high = *(const vector *)(x + i + width) + *(const vector *)(y + i + width);                         \
            *(vector *)(to + i) = low;                                                                                 \
            *(vector *)(to + i + width) = high;                                                                        \
        }                                                                                                              \
        for (; i < bytes; i += sizeof(_type##_any))                                                                    \
            *(_type##_any *)(to + i) = *(const _type##_any *)(x + i) + *(const _type##_any *)(y + i);                  \
    }

SUM_KERNEL(sum_f32, float, 16)
SUM_KERNEL(sum_f64, double, 16)

#if defined(__x86_64__)
/* clang-format off */
__attribute__((target("avx2"))) SUM_KERNEL(sum_f32_avx2, float, 32)
__attribute__((target("avx2"))) SUM_KERNEL(sum_f64_avx2, double, 32)
__attribute__((target("avx512f"))) SUM_KERNEL(sum_f32_avx512, float, 64)
__attribute__((target("avx512f"))) SUM_KERNEL(sum_f64_avx512, double, 64)
    /* clang-format on */

    static wi_reduce_fn *vector_kernel(weir_dtype dtype, unsigned level)
{
    if (level == 1 && __builtin_cpu_supports("avx2"))
        return dtype == WEIR_F32 ? sum_f32_avx2 : sum_f64_avx2;
    if (level == 2 && __builtin_cpu_supports("avx512f"))
        return dtype == WEIR_F32 ? sum_f32_avx512 : sum_f64_avx512;
    return NULL;
}
#else
static wi_reduce_fn *vector_kernel(weir_dtype dtype, unsigned level)
{
    (void)dtype;
    (void)level;
    return NULL;
}
#endif

wi_reduce_fn *wi_reduce_kernel_at(weir_dtype dtype, unsigned level)
{
    if (weir_dtype_size(dtype) == 0)
        return NULL;
    if (level == 0)
        return dtype == WEIR_F32 ? sum_f32 : sum_f64;
    return vector_kernel(dtype, level);
}

wi_reduce_fn *wi_reduce_kernel(weir_dtype dtype)
{
    for (unsigned level = WI_REDUCE_LEVELS; level-- > 0;) {
        wi_reduce_fn *kernel = wi_reduce_kernel_at(dtype, level);
        if (kernel)
            return kernel;
    }
    return NULL;
}

size_t weir_dtype_size(weir_dtype dtype)
{
    switch (dtype) {
    case WEIR_F32:
        return 4;
    case WEIR_F64:
        return 8;
    }
    return 0;
}
