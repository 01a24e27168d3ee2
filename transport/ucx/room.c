/*
 * Is there address space left for what UCX is about to make? Without any, UCX 1.13 ends the process in its set-up, and
 * tries for ever to get the first buffers of a connection. So we ask before, where a limit (ulimit -v) is set at all.
 */
#include "core/error.h"
#include "transport/ucx/ucx.h"

#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

/* Bytes of address space in use; 0: cannot be told. */
static uint64_t space_used(void)
{
    unsigned long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (!statm)
        return 0;
    if (fscanf(statm, "%lu", &pages) != 1)
        pages = 0;
    fclose(statm);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

weir_status wi_ucx_room(uint64_t bytes, const char *what)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return WEIR_OK;
    uint64_t used = space_used(), left = limit.rlim_cur > used ? limit.rlim_cur - used : 0;
    if (used == 0 || left >= bytes)
        return WEIR_OK;
    return wi_error(WEIR_ERR_LIMIT,
                    "UCX: %s needs %llu MiB of address space, the limit leaves %llu MiB; raise it (ulimit -v)", what,
                    (unsigned long long)(bytes >> 20), (unsigned long long)(left >> 20));
}
