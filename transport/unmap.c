#include "transport/unmap.h"

#ifdef WEIR_WITH_UCX
#include <ucm/api/ucm.h>
#include <unistd.h>

enum { PRIORITY = 1000 }; /* as UCX's own registration cache: the order among them does not matter */

static void unmapped(ucm_event_type_t type, ucm_event_t *event, void *arg)
{
    const struct wi_unmap *watch = arg;
    (void)type;
    if (watch->pid == getpid())
        wi_regcache_invalidate(watch->cache, event->vm_unmapped.address, event->vm_unmapped.size);
}

bool wi_unmap_watch(struct wi_unmap *watch, struct wi_regcache *cache, const char **why)
{
    *watch = (struct wi_unmap){cache, getpid()};
    ucs_status_t status = ucm_set_event_handler(UCM_EVENT_VM_UNMAPPED, PRIORITY, unmapped, watch);
    *why = ucs_status_string(status);
    if (status != UCS_OK)
        watch->cache = NULL;
    return status == UCS_OK;
}

void wi_unmap_unwatch(struct wi_unmap *watch)
{
    if (watch->cache)
        ucm_unset_event_handler(UCM_EVENT_VM_UNMAPPED, unmapped, watch);
    watch->cache = NULL;
}

#else

bool wi_unmap_watch(struct wi_unmap *watch, struct wi_regcache *cache, const char **why)
{
    (void)cache;
    watch->cache = NULL;
    *why = "built without UCX, whose memory hooks tell what is unmapped";
    return false;
}

void wi_unmap_unwatch(struct wi_unmap *watch)
{
    (void)watch;
}

#endif
