/*
 * Doorbells: operations are given to the device in lists, as telling it costs more than one of them does, on soft-RoCE
 * a system call. The first operations after each call of progress() go at once, so one that stands alone never waits.
 * Only in a burst of writes, reads and atomics some are held back until the list is full, until something is posted
 * that somebody waits for (a signal, a message, a flush), or until progress is made.
 */
#include "core/error.h"
#include "transport/verbs/verbs.h"

#include <string.h>

static void hold(struct verbs_ep *ep)
{
    if (ep->held)
        return;
    ep->held = true;
    ep->held_next = ep->iface->holding;
    ep->iface->holding = ep;
}

void wi_verbs_hold_no_more(struct verbs_ep *ep)
{
    struct verbs_ep **at = &ep->iface->holding;
    while (*at && *at != ep)
        at = &(*at)->held_next;
    if (*at)
        *at = ep->held_next;
    ep->held = false;
}

bool wi_verbs_hold(struct verbs_ep *ep)
{
    struct verbs_list *list = ep->list;
    if (list->count == WI_VERBS_LIST)
        return false;
    struct ibv_send_wr *wr = &list->wrs[list->count - 1];
    wr->next = wr + 1;
    if (wr->send_flags & IBV_SEND_INLINE) { /* what is short may be changed as soon as it is posted */
        unsigned char *copy = list->copies + (list->count - 1) * (size_t)ep->max_inline;
        memcpy(copy, (const void *)(uintptr_t)wr->sg_list->addr, wr->sg_list->length);
        wr->sg_list->addr = (uintptr_t)copy;
    }
    hold(ep);
    return true;
}

void wi_verbs_hold_end(struct verbs_ep *ep)
{
    if (ep->list)
        ep->list->count = 0;
    if (ep->held)
        wi_verbs_hold_no_more(ep);
}

void wi_verbs_ring_all(struct verbs_iface *iface)
{
    while (iface->holding)
        wi_verbs_queue_ring(iface->holding);
}
