/* Endpoints: their life, their patience, and what the front hears of them. */
#include "transport/sim/nic.h"

#include "core/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a peer needs to reach an interface. */
struct sim_address {
    uint64_t number;
    int32_t rank;
    uint32_t zero;
};

weir_status wi_sim_address(struct wi_iface *base, void *buf, size_t *len)
{
    const struct sim_iface *iface = (const struct sim_iface *)base;
    struct sim_address address = {.number = iface->number, .rank = iface->rank};
    if (*len < sizeof(address))
        return wi_error(WEIR_ERR_RANGE, "address: %zu bytes are too little room", *len);
    memcpy(buf, &address, sizeof(address));
    *len = sizeof(address);
    return WEIR_OK;
}

weir_status wi_sim_ep_create(struct wi_iface *base, const void *blob, size_t len, struct weir_ep **out)
{
    struct sim_iface *iface = (struct sim_iface *)base;
    struct sim_address address;
    if (len != sizeof(address))
        return wi_error(WEIR_ERR_PROTOCOL, "sim: an address of %zu bytes instead of %zu", len, sizeof(address));
    memcpy(&address, blob, sizeof(address));
    if (address.rank < 0 || address.rank >= WI_SIM_RANKS_MAX)
        return wi_error(WEIR_ERR_PROTOCOL, "sim: the address names rank %d", (int)address.rank);
    struct sim_ep *ep = calloc(1, sizeof(*ep));
    if (!ep || !(ep->ops = calloc(iface->world->params.depth, sizeof(*ep->ops)))) {
        free(ep);
        return wi_error(WEIR_ERR_NO_MEMORY, "sim: out of memory");
    }
    ep->iface = iface;
    ep->number = iface->world->next_number++;
    ep->target = address.number;
    ep->target_rank = address.rank;
    wi_list_init(&ep->telling);
    wi_list_append(&iface->eps, &ep->all);
    wi_map_add(&iface->eps_by_number, &ep->by_number, wi_map_hash(ep->number, 0));
    *out = &ep->base;
    return WEIR_OK;
}

struct sim_ep *wi_sim_ep_find(const struct sim_iface *iface, uint64_t number)
{
    struct wi_map_node *node = wi_map_first(&iface->eps_by_number, wi_map_hash(number, 0));
    while (node && WI_MAP_ITEM(node, struct sim_ep, by_number)->number != number)
        node = wi_map_next(node);
    return node ? WI_MAP_ITEM(node, struct sim_ep, by_number) : NULL;
}

void wi_sim_ep_query(const struct weir_ep *base, weir_ep_attr *attr)
{
    (void)base;
    attr->max_inline = SIM_INLINE;
    attr->ordered_writes = 1;
    attr->native_signal = 1;
}

/* ---- Patience ---------------------------------------------------------------------------------------------------- */

static bool is_outstanding(const struct sim_ep *ep)
{
    return ep->una < ep->next_psn;
}

/* Does it send, now and then, what has to be answered? */
static bool asks(const struct sim_ep *ep)
{
    bool idle = ep->state == SIM_EP_CONNECTED && !is_outstanding(ep);
    return !idle || !wi_sim_is_broken(ep->iface->world, WI_SIM_BREAK_PROBE);
}

/* A round trip, with what can delay it. */
static uint64_t first_wait_ns(const struct sim_ep *ep)
{
    const struct wi_sim_params *params = &ep->iface->world->params;
    return 2 * params->delay_max_ns + params->reorder_ns + 20000;
}

static uint64_t wait_ns(const struct sim_ep *ep)
{
    uint64_t most_ns = ep->iface->world->params.timeout_ns / 8;
    uint64_t wait = first_wait_ns(ep) << (ep->tries < 20 ? ep->tries : 20);
    return wait < most_ns ? wait : most_ns;
}

static void on_timer(void *arg);

/* One event for whatever comes first. An event that comes too early does nothing but set itself again. */
static void set_timer(struct sim_ep *ep)
{
    struct wi_sim_world *world = ep->iface->world;
    uint64_t at_ns = ep->quiet_since_ns + world->params.timeout_ns;
    if (ep->retry_ns < at_ns)
        at_ns = ep->retry_ns;
    if (ep->timer && ep->timer->at_ns <= at_ns)
        return;
    if (ep->timer)
        wi_sim_events_cancel(&world->events, ep->timer);
    ep->timer = wi_sim_events_add(&world->events, at_ns, on_timer, ep);
}

/* Asks again, in whatever way the state wants. */
static void ask(struct sim_ep *ep)
{
    if (ep->state == SIM_EP_CONNECTING)
        wi_sim_tell_target(ep, SIM_REQUEST);
    else if (is_outstanding(ep))
        wi_sim_send_again(ep);
    else if (asks(ep))
        wi_sim_tell_target(ep, SIM_PROBE);
    ep->tries++;
    ep->retry_ns = ep->iface->world->now_ns + wait_ns(ep);
}

static void on_timer(void *arg)
{
    struct sim_ep *ep = arg;
    struct wi_sim_world *world = ep->iface->world;
    double quiet_s = (double)(world->now_ns - ep->quiet_since_ns) / 1e9;
    ep->timer = NULL;
    if (ep->state != SIM_EP_CONNECTING && ep->state != SIM_EP_CONNECTED)
        return;
    if (!asks(ep))
        ep->quiet_since_ns = world->now_ns;
    if (world->now_ns - ep->quiet_since_ns >= world->params.timeout_ns) {
        unsigned long long peer = ep->base.peer_id;
        if (ep->state == SIM_EP_CONNECTING)
            wi_sim_ep_break(ep, WEIR_ERR_PEER_UNREACHABLE, "sim: rank %llu did not accept the connection for %.3f s",
                            peer, quiet_s);
        else
            wi_sim_ep_break(ep, WEIR_ERR_PEER_GONE, "sim: rank %llu has not answered for %.3f s", peer, quiet_s);
        return;
    }
    if (world->now_ns >= ep->retry_ns)
        ask(ep);
    set_timer(ep);
}

void wi_sim_ep_moves(struct sim_ep *ep)
{
    const struct wi_sim_world *world = ep->iface->world;
    ep->quiet_since_ns = world->now_ns;
    ep->tries = 0;
    if (is_outstanding(ep) || ep->starved || ep->state == SIM_EP_CONNECTING)
        ep->retry_ns = world->now_ns + first_wait_ns(ep);
    else
        ep->retry_ns = world->now_ns + world->params.timeout_ns / 4;
    set_timer(ep);
}

void wi_sim_ep_hurry(struct sim_ep *ep)
{
    uint64_t soon_ns = ep->iface->world->now_ns + first_wait_ns(ep);
    if (soon_ns < ep->retry_ns) {
        ep->retry_ns = soon_ns;
        set_timer(ep);
    }
}

/* ---- Life -------------------------------------------------------------------------------------------------------- */

weir_status wi_sim_ep_connect(struct weir_ep *base)
{
    struct sim_ep *ep = (struct sim_ep *)base;
    if (ep->iface->dead)
        return wi_error(WEIR_ERR_PEER_UNREACHABLE, "sim: this rank was killed");
    ep->state = SIM_EP_CONNECTING;
    wi_sim_tell_target(ep, SIM_REQUEST);
    wi_sim_ep_moves(ep);
    return WEIR_OK;
}

static void stop_timer(struct sim_ep *ep)
{
    if (ep->timer)
        wi_sim_events_cancel(&ep->iface->world->events, ep->timer);
    ep->timer = NULL;
}

void wi_sim_ep_break(struct sim_ep *ep, weir_status status, const char *format, ...)
{
    va_list args;
    if (ep->fault != WEIR_OK)
        return;
    va_start(args, format);
    vsnprintf(ep->why, sizeof(ep->why), format, args);
    va_end(args);
    wi_sim_trace(ep->iface->world, ep->number, (uint64_t)status, "endpoint %llu breaks: %s",
                 (unsigned long long)ep->number, ep->why);
    ep->fault = status;
    ep->state = SIM_EP_BROKEN;
    stop_timer(ep);
    wi_sim_ep_raise(ep);
}

void wi_sim_ep_raise(struct sim_ep *ep)
{
    wi_list_remove(&ep->telling);
    wi_list_append(&ep->iface->telling, &ep->telling);
    wi_sim_raise(ep->iface);
}

static void end_first(struct sim_ep *ep, weir_status status)
{
    struct sim_op *op = &ep->ops[ep->head];
    free(op->copy);
    ep->head = (ep->head + 1) % ep->iface->world->params.depth;
    ep->count--;
    wi_comp_end(op->comp, status);
}

static bool first_is_done(const struct sim_ep *ep)
{
    const struct sim_op *op = &ep->ops[ep->head];
    uint64_t done = wi_sim_is_broken(ep->iface->world, WI_SIM_BREAK_ACK) ? ep->next_psn : ep->una;
    return done >= op->first + op->count;
}

unsigned wi_sim_ep_collect(struct sim_ep *ep)
{
    unsigned events = 0;
    if (ep->state == SIM_EP_CONNECTED && !ep->base.ready) {
        ep->base.ready = true;
        events++;
    }
    while (ep->count > 0 && first_is_done(ep)) {
        end_first(ep, WEIR_OK);
        events++;
    }
    if (ep->fault != WEIR_OK && ep->base.status == WEIR_OK) {
        wi_ep_fail(&ep->base, ep->fault, "%s", ep->why);
        while (ep->count > 0)
            end_first(ep, ep->fault);
        events++;
    }
    if (events > 0 && ep->state == SIM_EP_CONNECTED)
        wi_sim_pump(ep);
    return events;
}

/* Ends the connection, and what is outstanding on it. */
static void let_go(struct sim_ep *ep)
{
    if (ep->conn)
        wi_sim_tell_target(ep, SIM_CLOSE);
    stop_timer(ep);
    wi_list_remove(&ep->telling);
    wi_map_remove(&ep->iface->eps_by_number, &ep->by_number);
    while (ep->count > 0)
        end_first(ep, ep->fault != WEIR_OK ? ep->fault : WEIR_ERR_CANCELED);
}

/* The next connection has a number of its own, so that nothing of this one is taken for it. */
weir_status wi_sim_ep_reset(struct weir_ep *base)
{
    struct sim_ep *ep = (struct sim_ep *)base;
    let_go(ep);
    *ep = (struct sim_ep){
        .base = ep->base,
        .all = ep->all,
        .iface = ep->iface,
        .number = ep->iface->world->next_number++,
        .target = ep->target,
        .target_rank = ep->target_rank,
        .ops = ep->ops,
    };
    wi_list_init(&ep->telling);
    wi_map_add(&ep->iface->eps_by_number, &ep->by_number, wi_map_hash(ep->number, 0));
    return WEIR_OK;
}

void wi_sim_ep_close(struct weir_ep *base)
{
    struct sim_ep *ep = (struct sim_ep *)base;
    let_go(ep);
    wi_list_remove(&ep->all);
    free(ep->ops);
    free(ep);
}
