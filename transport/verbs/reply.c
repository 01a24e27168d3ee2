/* What a target sends over a link's queue pair: short writes into the initiator's words, and windows that it binds. */
#include "core/clock.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <string.h>

/* ---- Who has something to tell ----------------------------------------------------------------------------------- */

void wi_verbs_owe(struct verbs_iface *iface, struct verbs_link *link)
{
    if (link->owes || !link->end.qp)
        return;
    link->owes = true;
    link->owes_next = iface->owing;
    iface->owing = link;
}

void wi_verbs_owe_no_more(struct verbs_iface *iface, struct verbs_link *link)
{
    struct verbs_link **at = &iface->owing;
    if (!link->owes)
        return;
    while (*at && *at != link)
        at = &(*at)->owes_next;
    if (*at)
        *at = link->owes_next;
    link->owes = false;
}

void wi_verbs_settle(struct verbs_iface *iface)
{
    struct verbs_link *links = iface->owing, *next;
    if (wi_verbs_receives_post(iface) != WEIR_OK)
        return;
    iface->owing = NULL;
    for (struct verbs_link *link = links; link; link = next) {
        next = link->owes_next;
        link->owes = false;
        if (link->asked)
            wi_verbs_windows_serve(iface, link);
        if (!link->asked && wi_verbs_reply_room(iface, link, 1))
            wi_verbs_credit_tell(iface, link);
        else
            wi_verbs_owe(iface, link); /* until there is room for all of it */
    }
}

/* ---- Sending ----------------------------------------------------------------------------------------------------- */

bool wi_verbs_reply_room(const struct verbs_iface *iface, const struct verbs_link *link, uint32_t count)
{
    return link->end.qp && link->replies_posted - link->replies_done + count <= WI_VERBS_REPLY_DEPTH &&
           iface->cq_room >= count;
}

static uint64_t reply_id(const struct verbs_link *link)
{
    return WI_VERBS_REPLIED | (uint64_t)link->serial << 32 | link->qp_num;
}

/* The initiator can be served no more: the connection ends, at a time when nobody holds the link. */
static void reply_failed(struct verbs_iface *iface, struct verbs_link *link, bool expected, const char *why)
{
    if (link->failed)
        return;
    wi_log(expected ? WI_LOG_DEBUG : WI_LOG_WARN, "verbs: rank %llu cannot be answered, its connection ends: %s",
           (unsigned long long)link->peer_id, why);
    link->failed = true;
    link->failed_ns = wi_now_ns();
    iface->links_failed++;
    iface->look_now = true;
}

bool wi_verbs_reply_post(struct verbs_iface *iface, struct verbs_link *link, struct ibv_send_wr *wr)
{
    struct ibv_send_wr *bad;
    wr->wr_id = reply_id(link);
    wr->send_flags |= IBV_SEND_SIGNALED;
    int error = ibv_post_send(link->end.qp, wr, &bad);
    if (error) {
        reply_failed(iface, link, false, strerror(error));
        return false;
    }
    link->replies_posted++;
    iface->cq_room--;
    return true;
}

void wi_verbs_reply(struct verbs_iface *iface, struct verbs_link *link, unsigned first, unsigned count,
                    const uint64_t *words)
{
    struct ibv_sge sge = {.addr = (uintptr_t)words, .length = count * (uint32_t)sizeof(*words)};
    struct ibv_send_wr wr = {
        .sg_list = &sge,
        .num_sge = count > 0,
        .opcode = IBV_WR_RDMA_WRITE,
        .send_flags = IBV_SEND_INLINE,
        .wr.rdma = {.remote_addr = link->words_addr + first * sizeof(*words), .rkey = link->words_rkey},
    };
    wi_verbs_reply_post(iface, link, &wr);
}

void wi_verbs_replied(struct verbs_iface *iface, const struct ibv_wc *wc)
{
    struct verbs_link *link = wi_verbs_link_find(iface, (uint32_t)wc->wr_id);
    if (!link || reply_id(link) != wc->wr_id)
        return; /* it was ended before */
    link->replies_done++;
    iface->cq_room++;
    if (wc->status != IBV_WC_SUCCESS)
        reply_failed(iface, link, wc->status == IBV_WC_RETRY_EXC_ERR || wc->status == IBV_WC_WR_FLUSH_ERR,
                     ibv_wc_status_str(wc->status)); /* expected: it died or closed the connection */
}
