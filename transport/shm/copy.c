/*
 * Long copies, whose source and target do not fit together in a core's own cache. A plain copy from front to back then finds
 * nothing there: what was touched last, the end, pushes out what comes first. This one begins where that lies: at the end,
 * which whoever filled the source wrote last; and the same source again the other way round than the time before. Its target
 * is left as its reader wants it, with the front in the cache. Copied in blocks, each from front to back.
 *
 * The last block is copied last in any case: a target that polls the last byte must find all others there.
 */
#include "transport/shm/shm.h"

#include <string.h>
#include <unistd.h>

enum { BLOCK = 16384, USUAL_CACHE = 2 << 20 };

size_t wi_shm_copy_bound(void)
{
    long cache = sysconf(_SC_LEVEL2_CACHE_SIZE); /* 0 where it is not known */
    return (size_t)(cache > 0 ? cache : USUAL_CACHE) / 2;
}

static void copy_backwards(unsigned char *to, const unsigned char *from, size_t len)
{
    for (size_t at = len; at > 0;) {
        size_t block = at % BLOCK ? at % BLOCK : BLOCK;
        at -= block;
        memcpy(to + at, from + at, block);
    }
}

static void copy_forwards(unsigned char *to, const unsigned char *from, size_t len)
{
    for (size_t at = 0; at < len; at += BLOCK)
        memcpy(to + at, from + at, len - at < BLOCK ? len - at : BLOCK);
}

void wi_shm_copy_long(struct shm_ep *ep, void *to, const void *from, size_t len)
{
    size_t last = len > BLOCK ? BLOCK : len;
    ep->copied_backwards = from != ep->copied || !ep->copied_backwards;
    ep->copied = from;
    if (ep->copied_backwards)
        copy_backwards(to, from, len - last);
    else
        copy_forwards(to, from, len - last);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    memcpy((unsigned char *)to + len - last, (const unsigned char *)from + len - last, last);
}
