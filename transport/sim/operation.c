/* Operations become packets with numbers; the requester does the rest. */
#include "transport/sim/nic.h"

#include "core/error.h"

#include <stdlib.h>
#include <string.h>

/* Room for one more; NULL: the queue is full, or broken and not yet collected. */
static struct sim_op *room(struct sim_ep *ep)
{
    uint32_t depth = ep->iface->world->params.depth;
    if (ep->state != SIM_EP_CONNECTED || ep->count == depth)
        return NULL;
    return &ep->ops[(ep->head + ep->count) % depth];
}

/* Fills in what all have in common and sends. */
static void post(struct sim_ep *ep, struct sim_op *op, uint64_t packets)
{
    op->first = ep->end;
    op->count = packets;
    ep->end += packets;
    ep->count++;
    wi_comp_start(op->comp);
    wi_sim_pump(ep);
    if (packets == 0 || wi_sim_is_broken(ep->iface->world, WI_SIM_BREAK_ACK))
        wi_sim_ep_raise(ep); /* it may be done already */
}

static uint64_t packets_for(const struct sim_ep *ep, size_t len)
{
    uint32_t mtu = ep->iface->world->params.mtu;
    return len == 0 ? 1 : (len + mtu - 1) / mtu;
}

static uint64_t key_of(struct wi_mr *mr)
{
    return mr ? ((struct sim_mr *)mr)->key : 0;
}

static weir_status no_region(const struct sim_ep *ep, size_t len)
{
    return wi_error(WEIR_ERR_KEY, "sim: %zu bytes for rank %llu are in no registered region; register the memory", len,
                    (unsigned long long)ep->base.peer_id);
}

static weir_status write_out(struct sim_ep *ep, const void *local, struct wi_mr *mr, size_t len, uint64_t addr,
                             const struct weir_rkey *rkey, const uint32_t *signal, weir_comp *comp)
{
    struct sim_op *op = room(ep);
    if (!op)
        return WEIR_ERR_AGAIN;
    if (!mr && len > SIM_INLINE)
        return no_region(ep, len);
    *op = (struct sim_op){.verb = SIM_WRITE, .len = len, .addr = addr, .comp = comp};
    if (rkey)
        op->key = ((const struct sim_rkey *)rkey)->key;
    if (signal) {
        op->signals = true;
        op->signal = *signal;
    }
    if (len <= SIM_INLINE) {
        op->local = op->inlined;
        if (len > 0)
            memcpy(op->inlined, local, len);
    } else {
        op->local = (unsigned char *)(uintptr_t)local;
        op->local_key = key_of(mr);
    }
    post(ep, op, packets_for(ep, len));
    return WEIR_OK;
}

weir_status wi_sim_put(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *rkey, weir_comp *comp)
{
    return write_out((struct sim_ep *)ep, local, mr, len, remote_addr, rkey, NULL, comp);
}

weir_status wi_sim_put_signal(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                              struct weir_rkey *rkey, uint32_t signal, weir_comp *comp)
{
    return write_out((struct sim_ep *)ep, local, mr, len, remote_addr, rkey, &signal, comp);
}

/* What brings something back into local memory. */
static weir_status fetch(struct sim_ep *ep, enum sim_verb verb, void *local, struct wi_mr *mr, size_t len,
                         uint64_t addr, const struct weir_rkey *rkey, uint64_t value, weir_comp *comp)
{
    struct sim_op *op = room(ep);
    if (!op)
        return WEIR_ERR_AGAIN;
    if (!mr)
        return no_region(ep, len);
    *op = (struct sim_op){.verb = verb,
                          .local = local,
                          .local_key = key_of(mr),
                          .len = len,
                          .addr = addr,
                          .key = ((const struct sim_rkey *)rkey)->key,
                          .value = value,
                          .comp = comp};
    post(ep, op, verb == SIM_ADD ? 1 : packets_for(ep, len));
    return WEIR_OK;
}

weir_status wi_sim_get(struct weir_ep *ep, void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *rkey, weir_comp *comp)
{
    return fetch((struct sim_ep *)ep, SIM_READ, local, mr, len, remote_addr, rkey, 0, comp);
}

weir_status wi_sim_fetch_add(struct weir_ep *ep, uint64_t value, uint64_t *result, struct wi_mr *mr,
                             uint64_t remote_addr, struct weir_rkey *rkey, weir_comp *comp)
{
    return fetch((struct sim_ep *)ep, SIM_ADD, result, mr, sizeof(*result), remote_addr, rkey, value, comp);
}

weir_status wi_sim_post_send(struct weir_ep *base, const void *data, size_t len)
{
    struct sim_ep *ep = (struct sim_ep *)base;
    const struct wi_sim_world *world = ep->iface->world;
    struct sim_op *op = room(ep);
    if (!op)
        return WEIR_ERR_AGAIN;
    if (ep->sent - ep->consumed >= world->params.window && !wi_sim_is_broken(world, WI_SIM_BREAK_CREDITS)) {
        if (!ep->starved) {
            ep->starved = true;
            wi_sim_ep_hurry(ep);
        }
        return WEIR_ERR_AGAIN;
    }
    unsigned char *copy = malloc(len ? len : 1);
    if (!copy)
        return wi_error(WEIR_ERR_NO_MEMORY, "sim: out of memory");
    if (len > 0)
        memcpy(copy, data, len);
    *op = (struct sim_op){.verb = SIM_SEND, .local = copy, .copy = copy, .len = len};
    ep->sent++;
    post(ep, op, 1);
    return WEIR_OK;
}

weir_status wi_sim_flush(struct weir_ep *base, weir_comp *comp)
{
    struct sim_ep *ep = (struct sim_ep *)base;
    struct sim_op *op = room(ep);
    if (!op)
        return WEIR_ERR_AGAIN;
    *op = (struct sim_op){.verb = SIM_FLUSH, .comp = comp};
    post(ep, op, 0);
    return WEIR_OK;
}
