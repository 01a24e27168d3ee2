/*
 * Tells a registration cache what is unmapped, whoever does it: munmap, mremap, mmap over it, brk, madvise(DONTNEED,
 * REMOVE), free.
 *
 * By the memory hooks of UCX, which patch the C library's functions in memory when they are first asked for. They call
 * back in the thread that unmaps, before it does, so no lookup can come in between. userfaultfd(2) would also see system
 * calls that pass the C library by, but tells only afterwards: another thread may have mapped and used the same addresses
 * by then; it does not cover files, needs a thread of ours to answer each munmap of the program, and containers forbid
 * it by default. Where there are no hooks (built without UCX, or they cannot be set), nothing is kept.
 */
#ifndef WI_TRANSPORT_UNMAP_H
#define WI_TRANSPORT_UNMAP_H

#include "transport/regcache.h"

#include <stdbool.h>
#include <sys/types.h>

struct wi_unmap {
    struct wi_regcache *cache; /* NULL: nobody is told */
    pid_t pid;                 /* a child after fork() has no use for the cache, whose lock may be held there for ever */
};

/* From now on `cache` is told. False: that cannot be done here; `*why` says why. */
bool wi_unmap_watch(struct wi_unmap *watch, struct wi_regcache *cache, const char **why);
void wi_unmap_unwatch(struct wi_unmap *watch);

#endif
