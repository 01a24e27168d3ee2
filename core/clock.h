/* Monotonic time. */
#ifndef WI_CORE_CLOCK_H
#define WI_CORE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define WI_NS_PER_MS 1000000ull
#define WI_NS_PER_S 1000000000ull

/* Nanoseconds since some fixed moment; no system call (vDSO). */
static inline uint64_t wi_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * WI_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* One polite turn of a polling loop. */
static inline void wi_cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#endif
