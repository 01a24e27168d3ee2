/* The completion queue: operations that ended, and what arrived. */
#include "core/clock.h"
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

enum {
    BATCH = 32,
    RECEIVE_BATCH = 64,
    SUSPECT_NS = 300000000, /* how long to wait for the end of a connection whose target refused an access */
};

/* ---- Receives ---------------------------------------------------------------------------------------------------- */

/* They have no buffers: only immediates arrive this way. */
weir_status wi_verbs_receives_post(struct verbs_iface *iface)
{
    struct ibv_recv_wr wrs[RECEIVE_BATCH], *bad;
    uint32_t count = iface->srq_used;
    for (uint32_t i = 0; i < RECEIVE_BATCH && i < count; i++)
        wrs[i] = (struct ibv_recv_wr){.wr_id = WI_VERBS_RECEIVED, .next = &wrs[i + 1]};
    while (count > 0) {
        uint32_t now = count < RECEIVE_BATCH ? count : RECEIVE_BATCH;
        wrs[now - 1].next = NULL;
        int error = ibv_post_srq_recv(iface->device.srq, wrs, &bad);
        if (error)
            return wi_error(WEIR_ERR_IO, "%s: receives cannot be posted: %s", iface->base.device, strerror(error));
        iface->srq_used -= now;
        count -= now;
    }
    return WEIR_OK;
}

static inline void received(struct verbs_iface *iface, const struct ibv_wc *wc)
{
    iface->srq_used++;
    if (wc->status != IBV_WC_SUCCESS || wc->opcode != IBV_WC_RECV_RDMA_WITH_IMM)
        return; /* its queue pair has failed: an event of the connection or device tells */
    uint32_t imm = be32toh(wc->imm_data);
    struct verbs_link *link = wi_verbs_link_find(iface, wc->qp_num);
    if (link)
        wi_verbs_credit_used(iface, link);
    if ((imm & WI_VERBS_IMM_REQUEST) == WI_VERBS_IMM_REQUEST) {
        if (link)
            wi_verbs_window_asked(iface, link, imm & ~WI_VERBS_IMM_REQUEST);
    } else if (imm & WI_VERBS_IMM_MESSAGE) {
        if (link)
            wi_verbs_link_message(iface, link);
    } else if (iface->fences) {
        if (link && !wi_verbs_fence_signal(iface->fences, link, iface->choice.slot, imm))
            wi_warn("verbs: rank %llu sends more signals ahead of their data than it may",
                    (unsigned long long)link->peer_id);
    } else if (imm < iface->base.params.signals) {
        __atomic_store_n(&iface->base.signals[imm], iface->base.signals[imm] + 1, __ATOMIC_RELEASE);
    } else {
        wi_debug("verbs: signal %u does not exist here", imm);
    }
}

/* ---- Errors ------------------------------------------------------------------------------------------------------ */

static const char *const names[] = {
    [VERBS_PUT] = "put to",
    [VERBS_GET] = "get from",
    [VERBS_PUT_SIGNAL] = "put_signal to",
    [VERBS_FETCH_ADD] = "fetch_add to",
    [VERBS_SEND] = "message to",
    [VERBS_REQUEST] = "request of a key of",
    [VERBS_FLUSH] = "flush to",
    [VERBS_SETTLE] = "flush to",
    [VERBS_PROBE] = "keepalive to",
};

/* What a completion's status means for the user, and the likely cause. */
static weir_status explain(enum ibv_wc_status status, const char **cause)
{
    switch (status) {
    case IBV_WC_REM_ACCESS_ERR:
        *cause = "the target refuses the access: the memory was deregistered there, or the key does not cover it";
        return WEIR_ERR_KEY;
    case IBV_WC_LOC_PROT_ERR:
    case IBV_WC_LOC_ACCESS_ERR:
    case IBV_WC_LOC_LEN_ERR:
        *cause = "the local memory is not registered any more, or not for all of its length";
        return WEIR_ERR_KEY;
    case IBV_WC_RETRY_EXC_ERR:
        *cause = "the peer does not answer: it, its host or the path to it is dead";
        return WEIR_ERR_PEER_GONE;
    case IBV_WC_RNR_RETRY_EXC_ERR:
        *cause = "the peer makes no progress, its receive queue stays empty";
        return WEIR_ERR_PEER_GONE;
    case IBV_WC_WR_FLUSH_ERR:
        *cause = "the connection has failed";
        return WEIR_ERR_PEER_GONE;
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_OP_ERR:
    case IBV_WC_BAD_RESP_ERR:
        *cause = "the target cannot carry it out, or answers wrongly";
        return WEIR_ERR_PROTOCOL;
    default:
        *cause = "the local device or queue pair has failed";
        return WEIR_ERR_IO;
    }
}

/* The silence of a peer to which packets were lost before may have another cause than its death. */
static const char *silence(const struct verbs_iface *iface, const char *cause, char *text, size_t size)
{
    uint64_t gaps = wi_verbs_gaps(&iface->choice) - iface->gaps_before;
    if (gaps == 0)
        return cause;
    snprintf(text, size,
             "%s, or loses too many packets (targets told of %llu gaps so far): see `weir doctor` for flow control (PFC), or "
             "raise WEIR_VERBS_RETRY or WEIR_VERBS_ACK_TIMEOUT",
             cause, (unsigned long long)gaps);
    return text;
}

static void end_failed(struct verbs_ep *ep, const struct ibv_wc *wc)
{
    uint32_t sequence = (uint32_t)wc->wr_id;
    const char *cause;
    char text[256];
    weir_status status = explain(wc->status, &cause);
    if ((wc->status == IBV_WC_RETRY_EXC_ERR || wc->status == IBV_WC_LOC_QP_OP_ERR) &&
        wi_verbs_usable(ep->iface) != WEIR_OK) {
        status = WEIR_ERR_NO_DEVICE;
        cause = ep->iface->lost[0] ? "the device is lost" : "the port is down here; check cable, switch and interface";
    } else if (wc->status == IBV_WC_RETRY_EXC_ERR) {
        cause = silence(ep->iface, cause, text, sizeof(text));
    }
    wi_ep_fail(&ep->base, status, "%s rank %llu over %s: %s (%s, vendor 0x%x)",
               names[ep->slots[sequence & ep->mask].kind], (unsigned long long)ep->base.peer_id, ep->iface->base.device,
               cause, ibv_wc_status_str(wc->status), wc->vendor_err);
    wi_verbs_ep_abandon(ep);
}

/*
 * A target that refuses an access has revoked the key, or its process is being killed: the kernel then takes its
 * regions away first. The end of its connection tells the two apart, so it is waited for before the user is told.
 * Without the connection manager nobody tells of ends: the target is asked whether it is there.
 */
static void suspect(struct verbs_ep *ep, const struct ibv_wc *wc)
{
    ibv_destroy_qp(ep->end.qp);
    ep->end.qp = NULL;
    ep->depth = 0; /* posting finds no room from now on */
    ep->suspect = *wc;
    ep->suspect_ns = wi_now_ns();
    ep->iface->suspects++;
    ep->iface->look_now = true;
    if (ep->iface->exchange)
        wi_verbs_offer_question(ep);
}

void wi_verbs_suspect_end(struct verbs_ep *ep, bool alive)
{
    if (alive) {
        end_failed(ep, &ep->suspect);
        return;
    }
    wi_ep_fail(&ep->base, WEIR_ERR_PEER_GONE,
               "%s rank %llu over %s: the target refuses the access, and does not answer through the store any more: it "
               "is dead, or makes no progress",
               names[ep->slots[(uint32_t)ep->suspect.wr_id & ep->mask].kind], (unsigned long long)ep->base.peer_id,
               ep->iface->base.device);
    wi_verbs_ep_abandon(ep);
}

void wi_verbs_suspects(struct verbs_iface *iface)
{
    uint64_t wait_ns = wi_config()->timeout_ns / 4 < SUSPECT_NS ? wi_config()->timeout_ns / 4 : SUSPECT_NS;
    for (uint32_t i = 0; i < iface->eps_room; i++) {
        struct verbs_ep *ep = iface->eps[i];
        if (ep && ep->suspect_ns && wi_now_ns() - ep->suspect_ns > wait_ns)
            end_failed(ep, &ep->suspect);
    }
}

static void failed(struct verbs_ep *ep, const struct ibv_wc *wc)
{
    uint32_t sequence = (uint32_t)wc->wr_id;
    if (sequence - ep->tail >= ep->head - ep->tail)
        return;
    /* All before it succeeded: errors come in order too. */
    if (sequence != ep->tail && !wi_verbs_queue_retire(ep, sequence - 1))
        return;
    if (wc->status == IBV_WC_REM_ACCESS_ERR)
        suspect(ep, wc);
    else
        end_failed(ep, wc);
}

/* ---- Polling ----------------------------------------------------------------------------------------------------- */

static inline void sent(struct verbs_iface *iface, const struct ibv_wc *wc)
{
    uint32_t handle = (uint32_t)(wc->wr_id >> 32), index = handle & 0xffff;
    struct verbs_ep *ep = index < iface->eps_room ? iface->eps[index] : NULL;
    if (__builtin_expect(!ep || ep->handle != handle || !ep->end.qp, 0))
        return; /* it was ended before */
    if (__builtin_expect(wc->status != IBV_WC_SUCCESS, 0))
        failed(ep, wc);
    else
        wi_verbs_queue_retire(ep, (uint32_t)wc->wr_id);
}

WI_NEAR unsigned wi_verbs_poll(struct verbs_iface *iface)
{
    struct ibv_wc wcs[BATCH];
    int count = ibv_poll_cq(iface->device.cq, BATCH, wcs);
    if (count <= 0)
        count = 0;
    for (int i = 0; i < count; i++) {
        if (wcs[i].wr_id == WI_VERBS_RECEIVED)
            received(iface, &wcs[i]);
        else if (wcs[i].wr_id & WI_VERBS_REPLIED)
            wi_verbs_replied(iface, &wcs[i]);
        else
            sent(iface, &wcs[i]);
    }
    if (count < BATCH && iface->cq_owed > 0) {
        iface->cq_room += iface->cq_owed;
        iface->cq_owed = 0;
    }
    if (__builtin_expect(iface->owing != NULL, 0))
        wi_verbs_settle(iface);
    else if (iface->srq_used >= RECEIVE_BATCH)
        wi_verbs_receives_post(iface);
    return (unsigned)count;
}

void wi_verbs_drain(struct verbs_iface *iface)
{
    for (uint32_t seen = 0; seen < iface->device.cq_depth;) {
        unsigned count = wi_verbs_poll(iface);
        if (count == 0)
            return;
        seen += count;
    }
}
