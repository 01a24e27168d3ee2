/*
 * How operations are given to the device: by the calls of ibv_wr_*, where its driver has them, or as a list, by
 * ibv_post_send(). A queue pair is made for one of the two ways. An endpoint posts by one of them for its life; a link's
 * few replies always go as lists.
 */
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <errno.h>
#include <string.h>

/* ---- Making the queue pair --------------------------------------------------------------------------------------- */

static struct ibv_qp *create_with_calls(const struct verbs_ep *ep, const struct ibv_qp_init_attr *plain)
{
    const struct verbs_device *device = &ep->iface->device;
    struct ibv_qp_init_attr_ex attr = {
        .qp_context = plain->qp_context,
        .send_cq = plain->send_cq,
        .recv_cq = plain->recv_cq,
        .srq = plain->srq,
        .cap = plain->cap,
        .qp_type = plain->qp_type,
        .comp_mask = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
        .pd = device->pd,
        .send_ops_flags = IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM | IBV_QP_EX_WITH_RDMA_READ |
                          (device->atomics ? (unsigned)IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD : 0),
    };
    return ibv_create_qp_ex(device->context, &attr);
}

/* Devices do not tell how much they send inline: less is asked for until they agree. */
static bool create(struct verbs_ep *ep, bool calls)
{
    const struct verbs_device *device = &ep->iface->device;
    struct ibv_qp_init_attr attr = {
        .qp_context = &ep->end,
        .send_cq = device->cq,
        .recv_cq = device->cq,
        .srq = device->srq,
        .qp_type = IBV_QPT_RC,
    };
    uint32_t max_inline = (uint32_t)wi_config()->verbs_inline;
    for (;;) {
        attr.cap = (struct ibv_qp_cap){.max_send_wr = ep->depth, .max_send_sge = 1, .max_inline_data = max_inline};
        ep->end.qp = calls ? create_with_calls(ep, &attr) : ibv_create_qp(device->pd, &attr);
        if (ep->end.qp || max_inline == 0)
            break;
        max_inline = max_inline > 16 ? max_inline / 2 : 0;
    }
    ep->max_inline = max_inline;
    ep->qp_ex = ep->end.qp && calls ? ibv_qp_to_qp_ex(ep->end.qp) : NULL;
    return ep->end.qp != NULL;
}

weir_status wi_verbs_qp_create(struct verbs_ep *ep)
{
    struct verbs_iface *iface = ep->iface;
    int wanted = wi_config()->verbs_post;
    bool calls = wanted != WI_VERBS_POST_LIST && !iface->device.lists_only && create(ep, true);
    if (!calls && wanted == WI_VERBS_POST_WR)
        return wi_error(WEIR_ERR_UNSUPPORTED,
                        "WEIR_VERBS_POST=wr: %s makes no queue pair of depth %u for ibv_wr_*: %s; use auto or list",
                        iface->base.device, ep->depth, strerror(errno));
    if (!calls && !create(ep, false))
        return wi_error(errno == ENOMEM ? WEIR_ERR_LIMIT : WEIR_ERR_IO,
                        "%s: no queue pair of depth %u: %s; a smaller WEIR_VERBS_DEPTH or a larger memlock limit "
                        "(ulimit -l) may help",
                        iface->base.device, ep->depth, strerror(errno));
    iface->device.lists_only = !calls;
    wi_debug("verbs: queue pair %u of %s: depth %u, up to %u bytes inline, posted to by %s", ep->end.qp->qp_num,
             iface->base.device, ep->depth, ep->max_inline, ep->qp_ex ? "ibv_wr_*" : "ibv_post_send()");
    return WEIR_OK;
}

/* ---- Posting ----------------------------------------------------------------------------------------------------- */

static inline void add(struct ibv_qp_ex *qp, const struct ibv_send_wr *wr)
{
    qp->wr_id = wr->wr_id;
    qp->wr_flags = wr->send_flags; /* with IBV_SEND_INLINE: soft-RoCE's driver wants it beside the call below */
    switch (wr->opcode) {
    case IBV_WR_RDMA_READ:
        ibv_wr_rdma_read(qp, wr->wr.rdma.rkey, wr->wr.rdma.remote_addr);
        break;
    case IBV_WR_RDMA_WRITE_WITH_IMM:
        ibv_wr_rdma_write_imm(qp, wr->wr.rdma.rkey, wr->wr.rdma.remote_addr, wr->imm_data);
        break;
    case IBV_WR_ATOMIC_FETCH_AND_ADD:
        ibv_wr_atomic_fetch_add(qp, wr->wr.atomic.rkey, wr->wr.atomic.remote_addr, wr->wr.atomic.compare_add);
        break;
    default: /* all others are writes */
        ibv_wr_rdma_write(qp, wr->wr.rdma.rkey, wr->wr.rdma.remote_addr);
        break;
    }
    const struct ibv_sge *sge = wr->sg_list;
    if (wr->send_flags & IBV_SEND_INLINE)
        ibv_wr_set_inline_data(qp, (void *)(uintptr_t)sge->addr, sge->length);
    else
        ibv_wr_set_sge_list(qp, (size_t)wr->num_sge, sge);
}

WI_NEAR int wi_verbs_give(const struct verbs_ep *ep, struct ibv_send_wr *wrs)
{
    struct ibv_send_wr *bad;
    if (!ep->qp_ex)
        return ibv_post_send(ep->end.qp, wrs, &bad);
    ibv_wr_start(ep->qp_ex);
    for (const struct ibv_send_wr *wr = wrs; wr; wr = wr->next)
        add(ep->qp_ex, wr);
    return ibv_wr_complete(ep->qp_ex);
}
