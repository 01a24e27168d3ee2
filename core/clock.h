/* Monotonic time, and passing it. */
#ifndef WI_CORE_CLOCK_H
#define WI_CORE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define WI_NS_PER_MS 1000000ull
#define WI_NS_PER_S  1000000000ull

/*
 * Time that is not the machine's: a simulated world (transport/sim) stands in for the clock, and for everything that
 * lets time pass. It stands still while code runs. NULL in every process but the simulator's tests.
 */
struct wi_virtual_time {
    uint64_t (*now_ns)(void);
    void (*sleep)(uint64_t ns); /* at most; returns early when something happened for the caller's armed interfaces */
    void (*turn)(void);         /* one turn of polling has found nothing: a little time passes, others may run */
};
extern const struct wi_virtual_time *wi_virtual_time __attribute__((visibility("hidden")));

static inline bool wi_time_is_virtual(void)
{
    return __builtin_expect(wi_virtual_time != NULL, 0);
}

/* Nanoseconds since some fixed moment; no system call (vDSO). */
static inline uint64_t wi_now_ns(void)
{
    if (wi_time_is_virtual())
        return wi_virtual_time->now_ns();
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * WI_NS_PER_S + (uint64_t)now.tv_nsec;
}

/*
 * From then to now; 0 where `now_ns` was read before `then_ns`, as by a caller who handled something in between: their
 * difference would be half an eternity, and longer than any bound.
 */
static inline uint64_t wi_elapsed_ns(uint64_t now_ns, uint64_t then_ns)
{
    return now_ns > then_ns ? now_ns - then_ns : 0;
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

/* Tells a simulated world that a call polled; elsewhere nothing. To be called without locks. */
static inline void wi_turn(void)
{
    if (wi_time_is_virtual())
        wi_virtual_time->turn();
}

/* Gives the core away. */
void wi_yield(void);

/* Sleeps. */
void wi_sleep_ns(uint64_t ns);

/* Waits until the descriptor is readable, at most `ms`. A simulated world has none that it could wait for. */
void wi_wait_fd(int fd, int ms);

#endif
