/*
 * Element-wise kernels. The compiler makes a version for each instruction set and the loader picks one, so the same
 * binary runs on every machine. Multiplications and additions are not fused (the build is strict C11), so all versions
 * give the same bits.
 */
#include "ps/optimizer.h"

/* A sanitizer's runtime is not up yet when the loader chooses. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer) || __has_feature(undefined_behavior_sanitizer)
#define SANITIZED
#endif
#elif defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED
#endif

/* Before clang 18 other files could not link to such a function (https://github.com/llvm/llvm-project/pull/71706). */
#if defined(__clang__) && __clang_major__ < 18
#define NO_CLONES
#endif

#if !defined(__x86_64__) || defined(SANITIZED) || defined(NO_CLONES)
#define VECTORISED
#elif defined(__clang__)
#define VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#else /* at -O2 gcc vectorises only loops of known length */
#define VECTORISED __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#endif

VECTORISED void wi_ps_sgd(float *restrict weights, const float *restrict gradient, size_t n, float rate)
{
    for (size_t i = 0; i < n; i++)
        weights[i] -= rate * gradient[i];
}

VECTORISED void wi_ps_sgd_mean(float *restrict weights, const float *restrict sum, const float *restrict part, size_t n,
                               float rate, float scale)
{
    for (size_t i = 0; i < n; i++)
        weights[i] -= rate * ((sum[i] + part[i]) * scale);
}

VECTORISED void wi_ps_add(float *restrict sum, const float *restrict part, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum[i] += part[i];
}
