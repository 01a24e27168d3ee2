/* Credits for immediates, and for room in message rings: what may be on its way to a target that makes no progress. */
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <endian.h>

/* ---- Target ------------------------------------------------------------------------------------------------------ */

void wi_verbs_credit_open(struct verbs_iface *iface, struct verbs_link *link)
{
    struct verbs_device *device = &iface->device;
    link->share = wi_verbs_credit_share(device->srq_free, device->srq_depth);
    link->reserved = link->share <= device->srq_free ? link->share : 0;
    if (link->reserved == 0)
        wi_info("%s: more connections than receives; with a larger WEIR_VERBS_RECEIVES signals wait less",
                iface->base.device);
    device->srq_free -= link->reserved;
    link->granted = link->share;
}

/* What it did not use, the peer can use no more: its queue pair is gone. */
void wi_verbs_credit_close(struct verbs_iface *iface, struct verbs_link *link)
{
    wi_verbs_owe_no_more(iface, link);
    iface->device.srq_free += link->reserved;
    link->reserved = 0;
}

void wi_verbs_credit_used(struct verbs_iface *iface, struct verbs_link *link)
{
    link->received++;
    if (link->granted - link->received <= link->share / 2)
        wi_verbs_owe(iface, link);
}

void wi_verbs_credit_taken(struct verbs_iface *iface, struct verbs_link *link)
{
    if (link->position - link->told_position >= WI_VERBS_RING_SIZE / 4)
        wi_verbs_owe(iface, link);
}

void wi_verbs_credit_tell(struct verbs_iface *iface, struct verbs_link *link)
{
    link->granted = link->received + link->share;
    link->told_position = link->position;
    uint64_t words[] = {htole64(link->position), htole64(link->granted)};
    wi_verbs_reply(iface, link, WI_VERBS_WORD_TAKEN, 2, words);
}

/* ---- Initiator --------------------------------------------------------------------------------------------------- */

/* More than one may send breaks no memory here: what the target says is believed. */
bool wi_verbs_credit_left(struct verbs_ep *ep)
{
    if (__builtin_expect(ep->announced < ep->granted, 1))
        return true;
    ep->granted = le64toh(__atomic_load_n(wi_verbs_word(ep, WI_VERBS_WORD_GRANTED), __ATOMIC_ACQUIRE));
    return ep->announced < ep->granted;
}
