/*
 * The send queue of an endpoint: posting, and what is to be done when operations end.
 *
 * A reliable connection completes in order, so one signaled operation ends all before it. Signaled are operations whose
 * end somebody waits for, and one in `period` of the others, lest the queue fill up unseen.
 *
 * soft-RoCE sends again what it has no answer for, and a target of it that sees a write again acknowledges all that it
 * has done by then. When the last of that was an atomic the initiator takes the acknowledgment for the atomic's own answer:
 * it ends well, without its result (rxe_comp.c and rxe_resp.c of Linux 6.1). There, atomics are posted only when all writes
 * before them have ended, so that none of these is sent again behind them. What a network may still do, hold a copy of a write
 * back until the atomic has overtaken it, is found out by a mark where the result goes.
 *
 * soft-RoCE also counts each gap that a target tells of as a retry, and begins anew only when something was acknowledged, which
 * a long write is in each 64 packets (rxe_comp.c, check_ack()): where one packet in twenty is lost hardly any such write gets
 * through with six retries. There a write is cut into shorter ones, each of which is acknowledged: of 16 packets, of which some
 * one in 10,000 still meets seven gaps in a row then, and of a single packet while packets get lost (gaps.c).
 */
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

_Static_assert(WI_SIGNALS_MAX - 1 <= WI_VERBS_IMM_SIGNAL, "an immediate has room for the number of every signal");

static const enum ibv_wr_opcode opcodes[] = {
    [VERBS_PUT] = IBV_WR_RDMA_WRITE,
    [VERBS_GET] = IBV_WR_RDMA_READ,
    [VERBS_PUT_SIGNAL] = IBV_WR_RDMA_WRITE_WITH_IMM,
    [VERBS_FETCH_ADD] = IBV_WR_ATOMIC_FETCH_AND_ADD,
    [VERBS_SEND] = IBV_WR_RDMA_WRITE_WITH_IMM,
    [VERBS_REQUEST] = IBV_WR_RDMA_WRITE_WITH_IMM,
    [VERBS_FLUSH] = IBV_WR_RDMA_WRITE,
    [VERBS_SETTLE] = IBV_WR_RDMA_READ,
    [VERBS_PROBE] = IBV_WR_RDMA_WRITE,
};

/* ---- Posting ----------------------------------------------------------------------------------------------------- */

uint64_t wi_verbs_longest_write(const struct verbs_ep *ep)
{
    const struct verbs_device *device = &ep->iface->device;
    uint32_t packets = ep->iface->lossy_looks > 0 ? 1 : device->write_packets;
    return device->write_packets ? (uint64_t)packets * (128u << ep->end.mtu) : device->max_piece;
}

static inline uint64_t longest(const struct verbs_ep *ep, enum verbs_kind kind)
{
    return kind == VERBS_GET ? ep->iface->device.max_piece : ep->max_write;
}

static inline bool has_room(const struct verbs_ep *ep)
{
    return ep->head - ep->tail < ep->depth && ep->iface->cq_room > 0;
}

/* The device refused operations although there was room: the queue pair has failed, perhaps unseen so far. */
static void refused(struct verbs_ep *ep, int error)
{
    wi_verbs_drain(ep->iface);
    wi_ep_fail(&ep->base, WEIR_ERR_IO, "posting to rank %llu over verbs: %s", (unsigned long long)ep->base.peer_id,
               strerror(error));
    wi_verbs_ep_abandon(ep);
}

WI_NEAR void wi_verbs_queue_ring(struct verbs_ep *ep)
{
    int error = wi_verbs_ring(ep);
    if (__builtin_expect(error, 0))
        refused(ep, error);
}

WI_HOT void fill(const struct verbs_ep *ep, const struct verbs_op *op, uint32_t len, bool last, struct ibv_send_wr *wr)
{
    wr->num_sge = len > 0;
    wr->opcode = last || op->kind != VERBS_PUT_SIGNAL ? opcodes[op->kind] : IBV_WR_RDMA_WRITE;
    wr->imm_data = htobe32(op->imm);
    if (op->kind == VERBS_FETCH_ADD) {
        wr->wr.atomic.remote_addr = op->remote_addr;
        wr->wr.atomic.compare_add = op->value;
        wr->wr.atomic.rkey = op->rkey;
    } else {
        wr->wr.rdma.remote_addr = op->remote_addr;
        wr->wr.rdma.rkey = op->rkey;
        if (len - 1 < ep->max_inline && wr->opcode != IBV_WR_RDMA_READ && !op->device) /* not if it is 0 */
            wr->send_flags |= IBV_SEND_INLINE;
    }
}

/*
 * Posts one piece of an operation: `len` bytes of it. `last`: it ends with this piece. Where that fails the endpoint
 * has ended, and with it this operation's completion.
 */
WI_HOT void post_piece(struct verbs_ep *ep, const struct verbs_op *op, uint32_t len, bool last)
{
    struct verbs_slot *slot = &ep->slots[ep->head & ep->mask];
    struct verbs_list *list = ep->list;
    struct ibv_sge *sge = &list->sges[list->count];
    struct ibv_send_wr *wr = &list->wrs[list->count];
    /* Near the end of the completion queue every operation is, lest many endpoints' unseen ones fill it up for good. */
    bool signaled = (last && op->comp) || ep->unsignaled + 1 >= ep->period || ep->iface->cq_room < WI_VERBS_CQ_LOW;
    bool waits = op->kind == VERBS_PUT || op->kind == VERBS_GET || op->kind == VERBS_FETCH_ADD;

    *sge = (struct ibv_sge){.addr = (uintptr_t)op->local, .length = len, .lkey = op->lkey};
    wr->wr_id = (uint64_t)ep->handle << 32 | ep->head;
    wr->sg_list = sge;
    wr->send_flags = signaled ? IBV_SEND_SIGNALED : 0;
    fill(ep, op, len, last, wr);
    list->count++;

    slot->comp = last ? op->comp : NULL;
    slot->flush = NULL;
    slot->result = op->result;
    slot->kind = (uint8_t)op->kind;
    slot->signaled = signaled;
    ep->unsignaled = signaled ? 0 : ep->unsignaled + 1;
    ep->head++;
    if (op->kind != VERBS_GET && op->kind != VERBS_FETCH_ADD)
        ep->written = ep->head;
    ep->iface->cq_room--;
    if (!wi_verbs_burst(ep) || !waits || !wi_verbs_hold(ep))
        wi_verbs_queue_ring(ep);
}

/* Where the device writes the result of the next operation, marked as empty. Only with room for that: in a full queue the
 * word is the oldest operation's, whose result may be there already. */
static uint64_t *bounce_word(const struct verbs_ep *ep)
{
    uint64_t *word = wi_verbs_word(ep, WI_VERBS_WORDS + (ep->head & ep->mask));
    *word = ep->iface->device.no_result;
    return word;
}

/* Must the operation wait until the writes before it have ended? */
static inline bool must_wait(const struct verbs_ep *ep, const struct verbs_op *op)
{
    return op->kind == VERBS_FETCH_ADD && ep->iface->device.loose_atomics &&
           ep->written - 1 - ep->tail < ep->head - ep->tail;
}

/* Makes a rest ready to be posted; there is room. False: it must wait. */
static bool prepare_rest(struct verbs_ep *ep, struct verbs_op *op)
{
    if (op->kind != VERBS_FETCH_ADD)
        return true;
    if (must_wait(ep, op)) {
        if (!ep->slots[(ep->head - 1) & ep->mask].signaled) { /* nothing would tell that they have ended */
            wi_comp_start(&ep->probe);
            post_piece(ep, &(struct verbs_op){.kind = VERBS_PROBE, .comp = &ep->probe}, 0, true);
        }
        return false;
    }
    op->local = bounce_word(ep);
    return true;
}

/* Posts as many pieces of ep->rest as there is room for. */
static void post_rest(struct verbs_ep *ep)
{
    struct verbs_op *op = &ep->rest;
    uint64_t max_piece = longest(ep, op->kind);
    while (has_room(ep) && prepare_rest(ep, op)) {
        bool last = op->len <= max_piece;
        uint32_t len = (uint32_t)(last ? op->len : max_piece);
        if (last)
            ep->has_rest = false; /* the slot has its completion now */
        post_piece(ep, op, len, last);
        if (last || !ep->end.qp)
            return;
        op->local = (const char *)op->local + len;
        op->remote_addr += len;
        op->len -= len;
    }
}

/* Longer than the device takes at once, or has to wait: what cannot go now is posted from progress. */
static weir_status post_later(struct verbs_ep *ep, const struct verbs_op *op)
{
    ep->rest = *op;
    ep->has_rest = true;
    wi_comp_start(op->comp);
    post_rest(ep);
    if (!ep->has_rest)
        return WEIR_OK;
    ep->rest_next = ep->iface->rests;
    ep->iface->rests = ep;
    return WEIR_OK;
}

WI_HOT weir_status post(struct verbs_ep *ep, const struct verbs_op *op)
{
    bool announces = op->kind == VERBS_PUT_SIGNAL || op->kind == VERBS_SEND || op->kind == VERBS_REQUEST;
    if (__builtin_expect(!has_room(ep) || ep->has_rest, 0) || (announces && !wi_verbs_credit_left(ep)))
        return WEIR_ERR_AGAIN;
    ep->announced += announces;
    if (__builtin_expect(op->len > longest(ep, op->kind) || must_wait(ep, op), 0)) {
        struct verbs_op later = *op; /* so that only this way needs it in memory */
        return post_later(ep, &later);
    }
    wi_comp_start(op->comp);
    post_piece(ep, op, (uint32_t)op->len, true);
    return WEIR_OK;
}

void wi_verbs_queue_probe(struct verbs_ep *ep)
{
    post(ep, &(struct verbs_op){.kind = VERBS_PROBE, .comp = &ep->probe});
}

void wi_verbs_queue_rests(struct verbs_iface *iface)
{
    struct verbs_ep **at = &iface->rests;
    while (*at) {
        struct verbs_ep *ep = *at;
        if (ep->has_rest && has_room(ep) && ep->end.qp)
            post_rest(ep);
        if (*at != ep)
            continue; /* it failed, and left the list */
        if (ep->has_rest)
            at = &ep->rest_next;
        else
            *at = ep->rest_next;
    }
}

/* ---- Ending ------------------------------------------------------------------------------------------------------ */

/* Copies the oldest operation's result to where its user wants it. False: the device has left none. */
static inline bool deliver(const struct verbs_ep *ep, const struct verbs_slot *slot)
{
    uint64_t result = *wi_verbs_word(ep, WI_VERBS_WORDS + (ep->tail & ep->mask));
    if (ep->iface->device.loose_atomics && result == ep->iface->device.no_result)
        return false;
    *slot->result = result;
    return true;
}

static void end_without_result(struct verbs_ep *ep)
{
    wi_ep_fail(&ep->base, WEIR_ERR_PROTOCOL,
               "fetch_add to rank %llu over %s: the target has most likely added, but the device says that it is done and has "
               "left no result; soft-RoCE does so when the network delivers an earlier write twice. Read the value there "
               "after weir_ep_reconnect()",
               (unsigned long long)ep->base.peer_id, ep->iface->base.device);
    wi_verbs_ep_abandon(ep);
}

WI_NEAR bool wi_verbs_queue_retire(struct verbs_ep *ep, uint32_t sequence)
{
    uint32_t first = ep->tail, end = sequence + 1;
    for (; ep->tail != end; ep->tail++) {
        struct verbs_slot *slot = &ep->slots[ep->tail & ep->mask];
        if (slot->result && !deliver(ep, slot))
            break;
        wi_comp_end(slot->comp, WEIR_OK);
        wi_comp_end(slot->flush, WEIR_OK);
    }
    ep->iface->cq_room += ep->tail - first;
    if (__builtin_expect(ep->tail == end, 1))
        return true;
    end_without_result(ep);
    return false;
}

/* Its completions may still be in the queue: the room for them comes back when the queue was seen empty. */
void wi_verbs_queue_end(struct verbs_ep *ep, weir_status status)
{
    struct verbs_ep **at = &ep->iface->rests;
    while (*at && *at != ep)
        at = &(*at)->rest_next;
    if (*at)
        *at = ep->rest_next;
    wi_verbs_hold_end(ep);
    ep->iface->cq_owed += ep->head - ep->tail;
    for (; ep->tail != ep->head; ep->tail++) {
        wi_comp_end(ep->slots[ep->tail & ep->mask].comp, status);
        wi_comp_end(ep->slots[ep->tail & ep->mask].flush, status);
    }
    if (ep->has_rest)
        wi_comp_end(ep->rest.comp, status);
    ep->has_rest = false;
}

/* ---- Operations -------------------------------------------------------------------------------------------------- */

static inline uint32_t rkey_of(const struct weir_rkey *rkey)
{
    return rkey ? ((const struct verbs_rkey *)rkey)->rkey : 0;
}

static inline bool key_pending(const struct weir_rkey *rkey)
{
    return rkey && __builtin_expect(((const struct verbs_rkey *)rkey)->state != VERBS_KEY_READY, 0);
}

WI_HOT weir_status write_to(struct verbs_ep *ep, enum verbs_kind kind, const void *local, const struct wi_mr *mr, size_t len,
                         uint64_t remote_addr, const struct weir_rkey *rkey, uint32_t imm, weir_comp *comp)
{
    if (__builtin_expect(!mr && len > ep->max_inline, 0))
        return WI_NEEDS_MR;
    if (key_pending(rkey))
        return wi_verbs_key_pending(ep, (const struct verbs_rkey *)rkey);
    const struct verbs_op op = {
        .kind = kind,
        .lkey = mr ? ((const struct verbs_mr *)mr)->mr->lkey : 0,
        .rkey = rkey_of(rkey),
        .imm = imm,
        .device = mr && ((const struct verbs_mr *)mr)->device,
        .local = local,
        .len = len,
        .remote_addr = remote_addr,
        .comp = comp,
    };
    return post(ep, &op);
}

WI_NEAR weir_status wi_verbs_put(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                         struct weir_rkey *rkey, weir_comp *comp)
{
    return write_to(verbs_ep(ep), VERBS_PUT, local, mr, len, remote_addr, rkey, 0, comp);
}

WI_NEAR weir_status wi_verbs_put_signal(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len,
                                uint64_t remote_addr, struct weir_rkey *rkey, uint32_t signal, weir_comp *comp)
{
    return write_to(verbs_ep(ep), VERBS_PUT_SIGNAL, local, mr, len, remote_addr, rkey, signal, comp);
}

WI_NEAR weir_status wi_verbs_get(struct weir_ep *base, void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                         struct weir_rkey *rkey, weir_comp *comp)
{
    struct verbs_ep *ep = verbs_ep(base);
    if (!mr)
        return WI_NEEDS_MR;
    if (key_pending(rkey))
        return wi_verbs_key_pending(ep, (const struct verbs_rkey *)rkey);
    const struct verbs_op op = {
        .kind = VERBS_GET,
        .lkey = ((const struct verbs_mr *)mr)->mr->lkey,
        .rkey = rkey_of(rkey),
        .local = local,
        .len = len,
        .remote_addr = remote_addr,
        .comp = comp,
    };
    return post(ep, &op);
}

WI_NEAR weir_status wi_verbs_fetch_add(struct weir_ep *base, uint64_t value, uint64_t *result, struct wi_mr *mr,
                               uint64_t remote_addr, struct weir_rkey *rkey, weir_comp *comp)
{
    struct verbs_ep *ep = verbs_ep(base);
    if (!ep->iface->device.atomics)
        return wi_error(WEIR_ERR_UNSUPPORTED, "fetch_add: %s has no atomic operations", base->iface->device);
    if (key_pending(rkey))
        return wi_verbs_key_pending(ep, (const struct verbs_rkey *)rkey);
    if (__builtin_expect(!has_room(ep), 0))
        return WEIR_ERR_AGAIN;
    bool direct = mr && !ep->iface->device.loose_atomics;
    if (mr && !direct && ((const struct verbs_mr *)mr)->device)
        return wi_error(WEIR_ERR_UNSUPPORTED, "fetch_add to rank %llu: with %s the result must go to host memory",
                        (unsigned long long)base->peer_id, base->iface->device);
    const struct verbs_op op = {
        .kind = VERBS_FETCH_ADD,
        .lkey = direct ? ((const struct verbs_mr *)mr)->mr->lkey : ep->block_mr->lkey,
        .rkey = rkey_of(rkey),
        .local = direct ? result : bounce_word(ep),
        .len = sizeof(uint64_t),
        .remote_addr = remote_addr,
        .value = value,
        .result = direct ? NULL : result,
        .comp = comp,
    };
    return post(ep, &op);
}

/* Reads a word of the target's: on its way back from memory it pushes all writes before it there, relaxed ones too. */
static weir_status settle(struct verbs_ep *ep, weir_comp *comp)
{
    if (!has_room(ep))
        return WEIR_ERR_AGAIN;
    const struct verbs_op op = {
        .kind = VERBS_SETTLE,
        .lkey = ep->block_mr->lkey,
        .rkey = ep->ring_rkey,
        .local = bounce_word(ep),
        .len = sizeof(uint64_t),
        .remote_addr = ep->ring_addr,
        .comp = comp,
    };
    weir_status status = post(ep, &op);
    if (status == WEIR_OK)
        ep->settled = ep->head;
    return status;
}

/* An acknowledgment says that the target's device has the data. Relaxed writes may still be on their way to memory then. */
weir_status wi_verbs_flush(struct weir_ep *base, weir_comp *comp)
{
    struct verbs_ep *ep = verbs_ep(base);
    if (ep->has_rest)
        return WEIR_ERR_AGAIN;
    if (ep->relaxed && ep->settled != ep->head)
        return settle(ep, comp);
    if (ep->tail == ep->head)
        return WEIR_OK;
    struct verbs_slot *last = &ep->slots[(ep->head - 1) & ep->mask];
    if (last->signaled && !last->flush) {
        last->flush = comp;
        wi_comp_start(comp);
        wi_verbs_queue_ring(ep);
        return WEIR_OK;
    }
    return post(ep, &(struct verbs_op){.kind = VERBS_FLUSH, .comp = comp});
}

/* ---- Messages ---------------------------------------------------------------------------------------------------- */

/* Has the target room for a message? It says what it has taken; what it cannot have taken is not believed. */
static bool ring_has_room(struct verbs_ep *ep, uint32_t size)
{
    if (wi_verbs_ring_fits(ep->position, ep->taken, size))
        return true;
    uint64_t taken = le64toh(__atomic_load_n(wi_verbs_word(ep, WI_VERBS_WORD_TAKEN), __ATOMIC_ACQUIRE));
    if (taken - ep->taken <= ep->position - ep->taken)
        ep->taken = taken;
    return wi_verbs_ring_fits(ep->position, ep->taken, size);
}

weir_status wi_verbs_send(struct weir_ep *base, const void *data, size_t len)
{
    struct verbs_ep *ep = verbs_ep(base);
    uint32_t size = (uint32_t)len;
    if (!ring_has_room(ep, size) || !has_room(ep))
        return WEIR_ERR_AGAIN;
    /* The copy lies where the entry will lie at the target: it is free again when that is taken. */
    uint32_t offset = wi_verbs_ring_offset(ep->position);
    uint32_t header[2] = {htole32(size), 0};
    memcpy(ep->block + offset, header, sizeof(header));
    if (size > 0)
        memcpy(ep->block + offset + WI_VERBS_ENTRY_HEADER, data, size);
    const struct verbs_op op = {
        .kind = VERBS_SEND,
        .lkey = ep->block_mr->lkey,
        .rkey = ep->ring_rkey,
        .imm = WI_VERBS_IMM_MESSAGE,
        .local = ep->block + offset,
        .len = WI_VERBS_ENTRY_HEADER + size,
        .remote_addr = ep->ring_addr + offset,
    };
    weir_status status = post(ep, &op);
    if (status == WEIR_OK)
        ep->position = wi_verbs_ring_next(ep->position, size);
    return status;
}

weir_status wi_verbs_request(struct verbs_ep *ep, unsigned slot, const struct wi_verbs_request *request)
{
    uint32_t offset = WI_VERBS_REQUESTS_AT + slot * WI_VERBS_REQUEST_SIZE;
    if (!has_room(ep))
        return WEIR_ERR_AGAIN;
    wi_verbs_request_encode(request, ep->block + offset);
    const struct verbs_op op = {
        .kind = VERBS_REQUEST,
        .lkey = ep->block_mr->lkey,
        .rkey = ep->ring_rkey,
        .imm = WI_VERBS_IMM_REQUEST | slot,
        .local = ep->block + offset,
        .len = WI_VERBS_REQUEST_SIZE,
        .remote_addr = ep->ring_addr + offset,
    };
    return post(ep, &op);
}
