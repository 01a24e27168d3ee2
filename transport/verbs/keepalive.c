/*
 * Idle connections: both sides write nothing to each other now and then, which a living peer's device acknowledges without
 * its process. A peer that is gone does not, and the connection ends after the last retry. With a look each sixteenth of
 * WEIR_TIMEOUT and a quarter of it for the retries an end is noticed well within it, also where a device takes its time.
 * While the port here is down nothing can be learnt about a peer, and some devices fail a write at once: it waits.
 */
#include "core/clock.h"
#include "core/config.h"
#include "transport/verbs/verbs.h"

enum { LOOKS_PER_TIMEOUT = 16 };

/* Whatever is outstanding is a probe by itself. */
static void keep_ep(struct verbs_ep *ep)
{
    if (!ep->base.ready || ep->base.status != WEIR_OK || !ep->end.qp || ep->probe.pending > 0)
        return;
    if (ep->head == ep->head_seen)
        wi_verbs_queue_probe(ep);
    ep->head_seen = ep->head;
}

void wi_verbs_keepalive(struct verbs_iface *iface, uint64_t now_ns)
{
    if (now_ns - iface->kept_ns < wi_config()->timeout_ns / LOOKS_PER_TIMEOUT)
        return;
    iface->kept_ns = now_ns;
    if (wi_verbs_port_pauses(iface, now_ns))
        return;
    for (uint32_t i = 0; i < iface->eps_room; i++)
        if (iface->eps[i])
            keep_ep(iface->eps[i]);
    for (struct verbs_link *link = iface->links; link; link = link->next)
        if (link->established && !link->failed && link->replies_posted == link->replies_done &&
            wi_verbs_reply_room(iface, link, 1))
            wi_verbs_reply(iface, link, 0, 0, NULL);
}
