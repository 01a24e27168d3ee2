/* Passing time: the machine's, or that of a simulated world. */
#include "core/clock.h"

#include <poll.h>
#include <sched.h>

const struct wi_virtual_time *wi_virtual_time;

void wi_yield(void)
{
    if (wi_time_is_virtual())
        wi_virtual_time->turn();
    else
        sched_yield();
}

void wi_sleep_ns(uint64_t ns)
{
    struct timespec pause = {.tv_sec = (time_t)(ns / WI_NS_PER_S), .tv_nsec = (long)(ns % WI_NS_PER_S)};
    if (wi_time_is_virtual())
        wi_virtual_time->sleep(ns);
    else
        nanosleep(&pause, NULL);
}

void wi_wait_fd(int fd, int ms)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    if (wi_time_is_virtual())
        wi_virtual_time->sleep((uint64_t)ms * WI_NS_PER_MS);
    else
        poll(&one, 1, ms);
}
