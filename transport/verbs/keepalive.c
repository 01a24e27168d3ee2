/*
 * Idle connections: both sides write nothing to each other now and then, which a living peer's device acknowledges without
 * its process. A peer that is gone does not, and the connection ends after the last retry. With a look each sixteenth of
 * WEIR_TIMEOUT and a quarter of it for the retries an end is noticed well within it, also where a device takes its time.
 * While the port here is down nothing can be learnt about a peer, and some devices fail a write at once: it waits.
 *
 * Each of those sixteenths is cut in as many slices, and each slice has its share of the connections: thousands of probes
 * at once would hold up all else.
 */
#include "core/clock.h"
#include "core/config.h"
#include "transport/verbs/verbs.h"

enum { LOOKS_PER_TIMEOUT = 16, SLICES = 16 };

/* Whatever is outstanding is a probe by itself. */
static void keep_ep(struct verbs_ep *ep)
{
    if (!ep->base.ready || ep->base.status != WEIR_OK || !ep->end.qp || ep->probe.pending > 0)
        return;
    if (ep->head == ep->head_seen)
        wi_verbs_queue_probe(ep);
    ep->head_seen = ep->head;
}

static void keep_link(struct verbs_iface *iface, struct verbs_link *link)
{
    if (link->established && !link->failed && link->replies_posted == link->replies_done &&
        wi_verbs_reply_room(iface, link, 1))
        wi_verbs_reply(iface, link, 0, 0, NULL);
}

/* How many of `count` are due in `slices` slices; what is less than one is kept in `rest` for the next time. */
static uint32_t share(uint32_t count, uint32_t slices, uint32_t *rest)
{
    uint64_t due = (uint64_t)count * slices + *rest;
    *rest = (uint32_t)(due % SLICES);
    return (uint32_t)(due / SLICES);
}

void wi_verbs_keepalive(struct verbs_iface *iface, uint64_t now_ns)
{
    uint64_t slice_ns = wi_config()->timeout_ns / LOOKS_PER_TIMEOUT / SLICES;
    uint64_t due = (now_ns - iface->kept_ns) / slice_ns;
    if (due == 0)
        return;
    uint32_t slices = due < SLICES ? (uint32_t)due : SLICES;
    iface->kept_ns += due * slice_ns;
    wi_verbs_gaps_look(iface);
    if (wi_verbs_port_pauses(iface, now_ns))
        return;
    for (uint32_t n = share(iface->eps_room, slices, &iface->kept_eps_rest); n > 0; n--) {
        struct verbs_ep *ep = iface->eps[iface->kept_ep++ % iface->eps_room];
        if (ep)
            keep_ep(ep);
    }
    for (uint32_t n = share(iface->link_count, slices, &iface->kept_links_rest); n > 0; n--) {
        struct wi_list *first = iface->links.next;
        wi_list_remove(first);
        wi_list_append(&iface->links, first);
        keep_link(iface, WI_LIST_ITEM(first, struct verbs_link, all));
    }
}
