/* What a target sends over a link's queue pair: short writes into the initiator's words. */
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <string.h>

bool wi_verbs_reply_room(const struct verbs_iface *iface, const struct verbs_link *link, uint32_t count)
{
    return link->end.qp && link->replies + count <= WI_VERBS_REPLY_DEPTH && iface->cq_room >= count;
}

static uint64_t reply_id(const struct verbs_link *link)
{
    return WI_VERBS_REPLIED | (uint64_t)link->serial << 32 | link->qp_num;
}

/* The initiator can be served no more: the connection ends, at a time when nobody holds the link. */
static void reply_failed(struct verbs_iface *iface, struct verbs_link *link, const char *why)
{
    if (link->failed)
        return;
    wi_debug("verbs: rank %llu cannot be answered: %s", (unsigned long long)link->peer_id, why);
    link->failed = true;
    iface->links_failed++;
    iface->look_now = true;
}

void wi_verbs_reply(struct verbs_iface *iface, struct verbs_link *link, unsigned first, unsigned count,
                    const uint64_t *words)
{
    struct ibv_sge sge = {.addr = (uintptr_t)words, .length = count * (uint32_t)sizeof(*words)};
    struct ibv_send_wr wr = {
        .wr_id = reply_id(link),
        .sg_list = &sge,
        .num_sge = 1,
        .opcode = IBV_WR_RDMA_WRITE,
        .send_flags = IBV_SEND_SIGNALED | IBV_SEND_INLINE,
        .wr.rdma = {.remote_addr = link->words_addr + first * sizeof(*words), .rkey = link->words_rkey},
    };
    struct ibv_send_wr *bad;
    int error = ibv_post_send(link->end.qp, &wr, &bad);
    if (error) {
        reply_failed(iface, link, strerror(error));
        return;
    }
    link->replies++;
    iface->cq_room--;
}

void wi_verbs_replied(struct verbs_iface *iface, const struct ibv_wc *wc)
{
    struct verbs_link *link = wi_verbs_link_find(iface, (uint32_t)wc->wr_id);
    if (!link || reply_id(link) != wc->wr_id)
        return; /* it was ended before */
    link->replies--;
    iface->cq_room++;
    if (wc->status != IBV_WC_SUCCESS)
        reply_failed(iface, link, ibv_wc_status_str(wc->status));
}
