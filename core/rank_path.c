#include "core/rank_path.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void wi_rank_path(char *path, size_t size, const char *pattern, uint64_t rank, int64_t world)
{
    const char *mark = strstr(pattern, "%r"), *name = strrchr(pattern, '/'), *dot = strrchr(pattern, '.');
    if (mark)
        snprintf(path, size, "%.*s%" PRIu64 "%s", (int)(mark - pattern), pattern, rank, mark + 2);
    else if (world > 1 && dot && (!name || dot > name))
        snprintf(path, size, "%.*s.%" PRIu64 "%s", (int)(dot - pattern), pattern, rank, dot);
    else if (world > 1)
        snprintf(path, size, "%s.%" PRIu64, pattern, rank);
    else
        snprintf(path, size, "%s", pattern);
}
