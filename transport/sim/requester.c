/* What an endpoint sends, and what it makes of the answers. */
#include "transport/sim/nic.h"

#include <string.h>

static void address_to_target(const struct sim_ep *ep, struct sim_packet *packet)
{
    packet->to = ep->target;
    packet->to_rank = ep->target_rank;
    packet->ep = ep->number;
    packet->conn = ep->conn;
    packet->id = ep->iface->base.params.id;
}

void wi_sim_tell_target(struct sim_ep *ep, enum sim_kind kind)
{
    struct sim_packet *packet = wi_sim_packet(kind, 0);
    if (!packet)
        return;
    address_to_target(ep, packet);
    wi_sim_send(ep->iface, packet);
}

/* ---- Sending ----------------------------------------------------------------------------------------------------- */

static struct sim_op *op_of(struct sim_ep *ep, uint64_t psn)
{
    uint32_t depth = ep->iface->world->params.depth;
    for (uint32_t i = 0; i < ep->count; i++) {
        struct sim_op *op = &ep->ops[(ep->head + i) % depth];
        if (psn >= op->first && psn < op->first + op->count)
            return op;
    }
    return NULL;
}

static bool is_done(const struct sim_ep *ep, uint64_t psn)
{
    return psn < ep->una || ep->done >> (psn - ep->una) & 1u;
}

/* A message is one packet, whatever its length. */
static size_t packet_size(const struct sim_ep *ep, const struct sim_op *op)
{
    return op->verb == SIM_SEND ? WEIR_MSG_MAX : ep->iface->world->params.mtu;
}

static void fill(const struct sim_ep *ep, const struct sim_op *op, uint64_t psn, size_t offset, uint32_t len,
                 struct sim_packet *packet)
{
    const struct wi_sim_world *world = ep->iface->world;
    bool last = psn + 1 == op->first + op->count;
    address_to_target(ep, packet);
    packet->verb = op->verb;
    packet->psn = psn;
    packet->len = len;
    packet->addr = op->addr + offset;
    packet->key = op->key;
    packet->value = op->value;
    packet->signal = op->signal;
    packet->signals = op->signals && (wi_sim_is_broken(world, WI_SIM_BREAK_SIGNAL) ? psn == op->first : last);
    if ((op->verb == SIM_WRITE || op->verb == SIM_SEND) && len > 0)
        memcpy(packet->data, op->local + offset, len);
}

/* Sends one packet, with the data as it is at this moment. */
static void transmit(struct sim_ep *ep, uint64_t psn)
{
    const struct sim_op *op = op_of(ep, psn);
    if (!op || is_done(ep, psn))
        return;
    if (op->local_key && !wi_sim_mr_holds(ep->iface, op->local_key, (uintptr_t)op->local, op->len)) {
        wi_sim_ep_break(ep, WEIR_ERR_KEY, "sim: local memory was deregistered while an operation used it");
        return;
    }
    size_t size = packet_size(ep, op), offset = (psn - op->first) * size;
    size_t left = op->len - offset, len = left < size ? left : size;
    struct sim_packet *packet =
        wi_sim_packet(SIM_DATA, op->verb == SIM_WRITE || op->verb == SIM_SEND ? (uint32_t)len : 0);
    if (!packet)
        return; /* as good as lost */
    fill(ep, op, psn, offset, (uint32_t)len, packet);
    wi_sim_send(ep->iface, packet);
}

void wi_sim_pump(struct sim_ep *ep)
{
    bool was_idle = ep->una == ep->next_psn;
    while (ep->state == SIM_EP_CONNECTED && ep->next_psn < ep->end && ep->next_psn - ep->una < SIM_FLIGHT)
        transmit(ep, ep->next_psn++);
    if (was_idle && ep->una < ep->next_psn && ep->state == SIM_EP_CONNECTED)
        wi_sim_ep_moves(ep);
}

/* Sends everything from `psn` on again that is not done. */
static void go_back_to(struct sim_ep *ep, uint64_t psn)
{
    struct wi_sim_world *world = ep->iface->world;
    if (wi_sim_is_broken(world, WI_SIM_BREAK_RETRANSMIT))
        return;
    for (uint64_t end = ep->next_psn; psn < end && ep->state == SIM_EP_CONNECTED; psn++) {
        world->counts.retransmitted += !is_done(ep, psn);
        transmit(ep, psn);
    }
}

void wi_sim_send_again(struct sim_ep *ep)
{
    go_back_to(ep, ep->una);
}

/* ---- Hearing ----------------------------------------------------------------------------------------------------- */

void wi_sim_on_accept(struct sim_ep *ep, const struct sim_packet *packet)
{
    if (ep->state != SIM_EP_CONNECTING) {
        if (packet->conn != ep->conn)
            wi_sim_reset_sender(ep->iface->world, packet); /* made by a request that came late and twice */
        return;
    }
    ep->conn = packet->conn;
    ep->state = SIM_EP_CONNECTED;
    wi_sim_ep_moves(ep);
    wi_sim_ep_raise(ep);
}

static void mark_done(struct sim_ep *ep, uint64_t psn)
{
    if (psn >= ep->una && psn < ep->next_psn)
        ep->done |= 1ull << (psn - ep->una);
}

/* All before `psn` was carried out. What has an answer is done only when that is here. */
static void mark_carried_out(struct sim_ep *ep, uint64_t psn)
{
    for (uint64_t i = ep->una; i < psn && i < ep->next_psn; i++) {
        const struct sim_op *op = op_of(ep, i);
        if (!op || op->verb == SIM_WRITE || op->verb == SIM_SEND)
            mark_done(ep, i);
    }
}

/* Moves on over what is done. */
static void advance(struct sim_ep *ep)
{
    uint64_t before = ep->una;
    while (ep->done & 1u) {
        ep->done >>= 1;
        ep->una++;
    }
    if (ep->una == before)
        return;
    wi_sim_ep_moves(ep);
    wi_sim_pump(ep);
    wi_sim_ep_raise(ep);
}

void wi_sim_on_ack(struct sim_ep *ep, const struct sim_packet *packet)
{
    bool idle = ep->una == ep->next_psn;
    if (ep->state != SIM_EP_CONNECTED)
        return;
    if (packet->status != WEIR_OK) {
        wi_sim_ep_break(ep, packet->status, "sim: rank %llu refused an operation: %s",
                        (unsigned long long)ep->base.peer_id, weir_status_string(packet->status));
        return;
    }
    if (packet->consumed > ep->consumed) {
        ep->consumed = packet->consumed;
        ep->starved = false;
        wi_sim_ep_raise(ep);
    }
    mark_carried_out(ep, packet->psn);
    advance(ep);
    if (idle)
        wi_sim_ep_moves(ep);
    if (packet->out_of_turn && packet->psn >= ep->una && packet->psn + 1 != ep->turned_back) {
        ep->turned_back = packet->psn + 1;
        go_back_to(ep, packet->psn);
    }
}

void wi_sim_on_answer(struct sim_ep *ep, const struct sim_packet *packet)
{
    if (ep->state != SIM_EP_CONNECTED || packet->psn < ep->una || is_done(ep, packet->psn))
        return;
    const struct sim_op *op = op_of(ep, packet->psn);
    if (!op || (op->verb != SIM_READ && op->verb != SIM_ADD))
        return;
    size_t offset = (packet->psn - op->first) * packet_size(ep, op);
    if (op->local_key && !wi_sim_mr_holds(ep->iface, op->local_key, (uintptr_t)op->local, op->len)) {
        wi_sim_ep_break(ep, WEIR_ERR_KEY, "sim: local memory was deregistered while an operation used it");
        return;
    }
    if (op->verb == SIM_ADD)
        memcpy(op->local, &packet->value, sizeof(packet->value));
    else
        memcpy(op->local + offset, packet->data, packet->len);
    mark_carried_out(ep, packet->psn);
    mark_done(ep, packet->psn);
    advance(ep);
}
