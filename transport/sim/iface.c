/* Interfaces: life, progress and sleeping. */
#include "transport/sim/nic.h"

#include "core/clock.h"
#include "core/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static weir_status probe(void)
{
    if (!wi_sim_world_here())
        return wi_error(WEIR_ERR_NO_DEVICE, "sim: there is no simulated world in this process");
    return WEIR_OK;
}

/* Enters it into the world's table and gives it its number. */
static weir_status enter(struct wi_sim_world *world, struct sim_iface *iface)
{
    if (world->iface_count == world->iface_room) {
        size_t room = world->iface_room ? 2 * world->iface_room : 16;
        struct sim_iface **ifaces = realloc(world->ifaces, room * sizeof(struct sim_iface *));
        if (!ifaces)
            return wi_error(WEIR_ERR_NO_MEMORY, "sim: out of memory");
        world->ifaces = ifaces;
        world->iface_room = room;
    }
    iface->rank = wi_sim_rank(world) < 0 ? 0 : wi_sim_rank(world);
    weir_status status = wi_sim_know_rank(world, iface->rank);
    if (status != WEIR_OK)
        return status;
    world->ifaces[world->iface_count++] = iface;
    iface->number = world->iface_count;
    iface->of_rank = world->ranks[iface->rank].ifaces;
    world->ranks[iface->rank].ifaces = iface;
    return WEIR_OK;
}

static weir_status open_iface(const struct wi_iface_params *params, struct wi_iface **out)
{
    struct wi_sim_world *world = wi_sim_world_here();
    size_t bytes = ((size_t)params->signals * sizeof(uint64_t) + 63) / 64 * 64;
    struct sim_iface *iface = calloc(1, sizeof(*iface));
    uint64_t *signals = aligned_alloc(64, bytes);
    weir_status status = iface && signals ? enter(world, iface) : wi_error(WEIR_ERR_NO_MEMORY, "sim: out of memory");
    if (status != WEIR_OK) {
        free(iface);
        free(signals);
        return status;
    }
    memset(signals, 0, bytes);
    iface->base = (struct wi_iface){.ops = &wi_sim_ops, .params = *params, .signals = signals, .wakes_on_signal = true};
    iface->world = world;
    wi_list_init(&iface->eps);
    wi_list_init(&iface->telling);
    wi_list_init(&iface->conns);
    iface->asked_end = &iface->asked;
    iface->messages_end = &iface->messages;
    snprintf(iface->base.device, sizeof(iface->base.device), "rank%d", iface->rank);
    *out = &iface->base;
    return WEIR_OK;
}

/* Ends all connections that lead here. */
static void drop_connections(struct sim_iface *iface)
{
    while (!wi_list_empty(&iface->conns)) {
        struct sim_conn *conn = WI_LIST_ITEM(iface->conns.next, struct sim_conn, all);
        wi_sim_conn_reset(conn);
        wi_sim_conn_free(conn);
    }
}

static void close_iface(struct wi_iface *base)
{
    struct sim_iface *iface = (struct sim_iface *)base;
    while (!wi_list_empty(&iface->eps))
        wi_sim_ep_close(&WI_LIST_ITEM(iface->eps.next, struct sim_ep, all)->base);
    drop_connections(iface);
    while (iface->messages)
        wi_sim_msg_pop(base);
    while (iface->asked) {
        struct sim_asked *asked = iface->asked;
        iface->asked = asked->next;
        free(asked);
    }
    struct sim_iface **at = &iface->world->ranks[iface->rank].ifaces;
    while (*at && *at != iface) /* none is known any more when the next run has begun */
        at = &(*at)->of_rank;
    if (*at)
        *at = iface->of_rank;
    iface->world->ifaces[iface->number - 1] = NULL;
    wi_map_fini(&iface->eps_by_number);
    wi_map_fini(&iface->conns_by_number);
    wi_map_fini(&iface->conns_by_ep);
    wi_map_fini(&iface->asked_by_ep);
    free(iface->base.signals);
    free(iface);
}

static unsigned progress(struct wi_iface *base)
{
    struct sim_iface *iface = (struct sim_iface *)base;
    unsigned events = 0;
    if (!iface->news)
        return 0;
    iface->news = false;
    if (!iface->dead)
        events += wi_sim_accept(iface);
    struct wi_list now;
    wi_list_take(&now, &iface->telling);
    while (!wi_list_empty(&now)) {
        struct sim_ep *ep = WI_LIST_ITEM(now.next, struct sim_ep, telling);
        wi_list_remove(&ep->telling);
        events += wi_sim_ep_collect(ep);
    }
    return events;
}

/* ---- Sleeping ---------------------------------------------------------------------------------------------------- */

static bool is_readable(const struct sim_iface *iface)
{
    return iface->armed && iface->news && !wi_sim_is_broken(iface->world, WI_SIM_BREAK_WAKE);
}

void wi_sim_raise(struct sim_iface *iface)
{
    iface->news = true;
    if (is_readable(iface))
        wi_sim_wake_rank(iface->world, iface->rank);
}

bool wi_sim_rank_has_event(const struct wi_sim_world *world, int rank)
{
    for (const struct sim_iface *iface = world->ranks[rank].ifaces; iface; iface = iface->of_rank)
        if (is_readable(iface))
            return true;
    return false;
}

/* The world knows who sleeps: there is no descriptor. */
static void sleep_in_world(struct wi_iface *iface, int timeout_ms)
{
    (void)iface;
    wi_virtual_time->sleep((uint64_t)timeout_ms * WI_NS_PER_MS);
}

static void rouse(struct wi_iface *base)
{
    const struct sim_iface *iface = (const struct sim_iface *)base;
    wi_sim_wake_rank(iface->world, iface->rank);
}

static int event_fd(struct wi_iface *iface)
{
    (void)iface;
    return -1;
}

static weir_status arm(struct wi_iface *base)
{
    struct sim_iface *iface = (struct sim_iface *)base;
    iface->armed = true;
    return iface->news ? WEIR_ERR_AGAIN : WEIR_OK;
}

static void disarm(struct wi_iface *base)
{
    ((struct sim_iface *)base)->armed = false;
}

/* ---- Death ------------------------------------------------------------------------------------------------------- */

void wi_sim_iface_break(struct sim_iface *iface, const char *why)
{
    for (struct wi_list *at = iface->eps.next; at != &iface->eps; at = at->next) {
        struct sim_ep *ep = WI_LIST_ITEM(at, struct sim_ep, all);
        if (ep->state != SIM_EP_NEW)
            wi_sim_ep_break(ep, WEIR_ERR_PEER_GONE, "%s", why);
    }
}

void wi_sim_iface_kill(struct sim_iface *iface, bool noticed)
{
    if (iface->dead)
        return;
    for (struct wi_list *at = iface->conns.next; noticed && at != &iface->conns; at = at->next)
        wi_sim_conn_reset(WI_LIST_ITEM(at, struct sim_conn, all));
    iface->dead = true;
    iface->silent = !noticed;
    drop_connections(iface);
    wi_sim_iface_break(iface, "sim: this rank was killed");
}

const struct wi_transport_ops wi_sim_ops = {
    .name = "sim",
    .wire_id = WI_WIRE_SIM,
    .probe = probe,
    .open = open_iface,
    .close = close_iface,
    .address = wi_sim_address,
    .mem_register = wi_sim_mem_register,
    .mem_deregister = wi_sim_mem_deregister,
    .mem_export = wi_sim_mem_export,
    .mem_unexport = wi_sim_mem_unexport,
    .rkey_import = wi_sim_rkey_import,
    .rkey_destroy = wi_sim_rkey_destroy,
    .ep_create = wi_sim_ep_create,
    .ep_connect = wi_sim_ep_connect,
    .ep_reset = wi_sim_ep_reset,
    .ep_query = wi_sim_ep_query,
    .ep_close = wi_sim_ep_close,
    .put = wi_sim_put,
    .get = wi_sim_get,
    .put_signal = wi_sim_put_signal,
    .fetch_add = wi_sim_fetch_add,
    .send = wi_sim_post_send,
    .flush = wi_sim_flush,
    .progress = progress,
    .msg_peek = wi_sim_msg_peek,
    .msg_pop = wi_sim_msg_pop,
    .event_fd = event_fd,
    .arm = arm,
    .disarm = disarm,
    .sleep = sleep_in_world,
    .rouse = rouse,
};
