/* The target's side of connections: accepts them, carries out what comes, keeps messages until they are taken. */
#include "transport/sim/nic.h"

#include <stdlib.h>
#include <string.h>

/* ---- Connections ------------------------------------------------------------------------------------------------- */

struct sim_conn *wi_sim_conn_find(const struct sim_iface *iface, uint64_t number)
{
    struct wi_map_node *node = wi_map_first(&iface->conns_by_number, wi_map_hash(number, 0));
    while (node && WI_MAP_ITEM(node, struct sim_conn, by_number)->number != number)
        node = wi_map_next(node);
    return node ? WI_MAP_ITEM(node, struct sim_conn, by_number) : NULL;
}

struct sim_conn *wi_sim_conn_from(const struct sim_iface *iface, uint64_t peer)
{
    for (const struct wi_list *at = iface->conns.prev; at != &iface->conns; at = at->prev)
        if (WI_LIST_ITEM(at, struct sim_conn, all)->peer == peer)
            return WI_LIST_ITEM(at, struct sim_conn, all);
    return NULL;
}

static struct sim_conn *conn_of_ep(const struct sim_iface *iface, uint64_t peer, uint64_t ep)
{
    struct wi_map_node *node = wi_map_first(&iface->conns_by_ep, wi_map_hash(peer, ep));
    for (; node; node = wi_map_next(node)) {
        struct sim_conn *conn = WI_MAP_ITEM(node, struct sim_conn, by_ep);
        if (conn->peer == peer && conn->ep == ep)
            return conn;
    }
    return NULL;
}

static bool is_asked(const struct sim_iface *iface, uint64_t from, uint64_t ep)
{
    struct wi_map_node *node = wi_map_first(&iface->asked_by_ep, wi_map_hash(from, ep));
    for (; node; node = wi_map_next(node)) {
        const struct sim_asked *asked = WI_MAP_ITEM(node, struct sim_asked, by_ep);
        if (asked->from == from && asked->ep == ep)
            return true;
    }
    return false;
}

static void tell_initiator(const struct sim_conn *conn, struct sim_packet *packet)
{
    if (!packet)
        return;
    packet->to = conn->peer;
    packet->to_rank = conn->peer_rank;
    packet->ep = conn->ep;
    packet->conn = conn->number;
    wi_sim_send(conn->iface, packet);
}

void wi_sim_conn_reset(const struct sim_conn *conn)
{
    tell_initiator(conn, wi_sim_packet(SIM_RESET, 0));
}

void wi_sim_conn_free(struct sim_conn *conn)
{
    wi_list_remove(&conn->all);
    wi_map_remove(&conn->iface->conns_by_number, &conn->by_number);
    wi_map_remove(&conn->iface->conns_by_ep, &conn->by_ep);
    if (conn->timer)
        wi_sim_events_cancel(&conn->iface->world->events, conn->timer);
    conn->iface->world->counts.connections--;
    free(conn);
}

static void on_timer(void *arg);

static void set_timer(struct sim_conn *conn)
{
    struct wi_sim_world *world = conn->iface->world;
    conn->timer = wi_sim_events_add(&world->events, world->now_ns + world->params.timeout_ns, on_timer, conn);
}

/* A live initiator asks from time to time; one that has not for long is gone. */
static void on_timer(void *arg)
{
    struct sim_conn *conn = arg;
    const struct wi_sim_world *world = conn->iface->world;
    conn->timer = NULL;
    if (world->now_ns - conn->heard_ns > 2 * world->params.timeout_ns)
        wi_sim_conn_free(conn);
    else
        set_timer(conn);
}

static void say_accepted(const struct sim_conn *conn)
{
    tell_initiator(conn, wi_sim_packet(SIM_ACCEPT, 0));
}

void wi_sim_on_request(struct sim_iface *iface, const struct sim_packet *packet)
{
    const struct sim_conn *conn = conn_of_ep(iface, packet->from, packet->ep);
    if (conn) {
        say_accepted(conn); /* our answer was lost, or the request came twice */
        return;
    }
    if (is_asked(iface, packet->from, packet->ep))
        return;
    struct sim_asked *asked = malloc(sizeof(*asked));
    if (!asked)
        return; /* it will ask again */
    *asked =
        (struct sim_asked){.from = packet->from, .ep = packet->ep, .id = packet->id, .from_rank = packet->from_rank};
    *iface->asked_end = asked;
    iface->asked_end = &asked->next;
    wi_map_add(&iface->asked_by_ep, &asked->by_ep, wi_map_hash(asked->from, asked->ep));
    wi_sim_raise(iface);
}

static bool accept_one(struct sim_iface *iface, const struct sim_asked *asked)
{
    struct wi_sim_world *world = iface->world;
    struct sim_conn *conn = calloc(1, sizeof(*conn));
    if (!conn)
        return false;
    conn->iface = iface;
    conn->number = world->next_number++;
    conn->peer = asked->from;
    conn->peer_rank = asked->from_rank;
    conn->peer_id = asked->id;
    conn->ep = asked->ep;
    conn->heard_ns = world->now_ns;
    wi_list_append(&iface->conns, &conn->all);
    wi_map_add(&iface->conns_by_number, &conn->by_number, wi_map_hash(conn->number, 0));
    wi_map_add(&iface->conns_by_ep, &conn->by_ep, wi_map_hash(conn->peer, conn->ep));
    world->counts.connections++;
    set_timer(conn);
    say_accepted(conn);
    return true;
}

unsigned wi_sim_accept(struct sim_iface *iface)
{
    unsigned count = 0;
    while (iface->asked) {
        struct sim_asked *asked = iface->asked;
        count += accept_one(iface, asked);
        iface->asked = asked->next;
        wi_map_remove(&iface->asked_by_ep, &asked->by_ep);
        free(asked);
    }
    iface->asked_end = &iface->asked;
    return count;
}

/* ---- Carrying out ------------------------------------------------------------------------------------------------ */

void wi_sim_conn_ack(struct sim_conn *conn, weir_status status, bool out_of_turn)
{
    struct sim_packet *packet = wi_sim_packet(SIM_ACK, 0);
    if (!packet)
        return;
    packet->psn = conn->expected;
    packet->consumed = conn->told = conn->consumed;
    packet->status = conn->refused == WEIR_OK ? status : conn->refused;
    packet->out_of_turn = out_of_turn;
    tell_initiator(conn, packet);
}

static weir_status carry_out_write(struct sim_conn *conn, const struct sim_packet *packet)
{
    struct sim_iface *iface = conn->iface;
    if (packet->len > 0 && !wi_sim_export_holds(iface, packet->key, packet->addr, packet->len))
        return WEIR_ERR_KEY;
    if (packet->signals && packet->signal >= iface->base.params.signals)
        return WEIR_ERR_PROTOCOL;
    if (packet->len > 0)
        memcpy((void *)(uintptr_t)packet->addr, packet->data, packet->len);
    if (packet->signals) {
        __atomic_fetch_add(&iface->base.signals[packet->signal], 1, __ATOMIC_RELEASE);
        wi_sim_raise(iface);
    }
    return WEIR_OK;
}

static weir_status carry_out_send(struct sim_conn *conn, const struct sim_packet *packet)
{
    struct sim_iface *iface = conn->iface;
    struct sim_msg *entry = malloc(sizeof(*entry));
    struct wi_msg *msg = malloc(sizeof(*msg) + packet->len);
    if (!entry || !msg) {
        free(entry);
        free(msg);
        return WEIR_ERR_NO_MEMORY;
    }
    if (conn->arrived++ - conn->consumed >= iface->world->params.window)
        iface->world->counts.overruns++;
    msg->next = NULL;
    msg->peer_id = conn->peer_id;
    msg->len = packet->len;
    memcpy(msg->data, packet->data, packet->len);
    *entry = (struct sim_msg){.conn = conn->number, .msg = msg};
    *iface->messages_end = entry;
    iface->messages_end = &entry->next;
    wi_sim_raise(iface);
    return WEIR_OK;
}

static void answer(struct sim_conn *conn, const struct sim_packet *about, uint64_t value)
{
    bool reads = about->verb == SIM_READ;
    struct sim_packet *packet = wi_sim_packet(SIM_ANSWER, reads ? about->len : 0);
    if (!packet)
        return;
    packet->psn = about->psn;
    packet->value = value;
    if (reads)
        memcpy(packet->data, (const void *)(uintptr_t)about->addr, about->len);
    tell_initiator(conn, packet);
}

static weir_status carry_out_add(struct sim_conn *conn, const struct sim_packet *packet)
{
    if (!wi_sim_export_holds(conn->iface, packet->key, packet->addr, sizeof(uint64_t)))
        return WEIR_ERR_KEY;
    uint64_t *word = (uint64_t *)(uintptr_t)packet->addr, before = *word;
    *word = before + packet->value;
    conn->added[packet->psn % SIM_FLIGHT].psn = packet->psn + 1;
    conn->added[packet->psn % SIM_FLIGHT].value = before;
    answer(conn, packet, before);
    return WEIR_OK;
}

static weir_status carry_out(struct sim_conn *conn, const struct sim_packet *packet)
{
    switch (packet->verb) {
    case SIM_WRITE:
        return carry_out_write(conn, packet);
    case SIM_SEND:
        return carry_out_send(conn, packet);
    case SIM_ADD:
        return carry_out_add(conn, packet);
    case SIM_READ:
        if (!wi_sim_export_holds(conn->iface, packet->key, packet->addr, packet->len))
            return WEIR_ERR_KEY;
        answer(conn, packet, 0);
        return WEIR_OK;
    case SIM_FLUSH:
        break;
    }
    return WEIR_ERR_PROTOCOL;
}

/* What was carried out before: a read is read again, an atomic is answered from memory, the rest acknowledged. */
static void repeat(struct sim_conn *conn, const struct sim_packet *packet)
{
    if (wi_sim_is_broken(conn->iface->world, WI_SIM_BREAK_ONCE))
        (void)carry_out(conn, packet);
    else if (packet->verb == SIM_READ)
        (void)carry_out(conn, packet);
    else if (packet->verb == SIM_ADD && conn->added[packet->psn % SIM_FLIGHT].psn == packet->psn + 1)
        answer(conn, packet, conn->added[packet->psn % SIM_FLIGHT].value);
    wi_sim_conn_ack(conn, WEIR_OK, false);
}

void wi_sim_on_data(struct sim_conn *conn, struct sim_packet *packet)
{
    bool any_order = wi_sim_is_broken(conn->iface->world, WI_SIM_BREAK_ORDER);
    if (conn->refused != WEIR_OK) { /* the answer was lost */
        wi_sim_conn_ack(conn, conn->refused, false);
        return;
    }
    if (packet->psn < conn->expected) {
        repeat(conn, packet);
        return;
    }
    if (packet->psn > conn->expected && !any_order) {
        if (conn->complained != conn->expected + 1) {
            conn->complained = conn->expected + 1;
            wi_sim_conn_ack(conn, WEIR_OK, true);
        }
        return;
    }
    weir_status status = carry_out(conn, packet);
    if (status != WEIR_OK) {
        conn->refused = status;
        wi_sim_conn_ack(conn, status, false);
        return;
    }
    conn->expected = packet->psn + 1;
    if (packet->verb == SIM_WRITE || packet->verb == SIM_SEND)
        wi_sim_conn_ack(conn, WEIR_OK, false);
}

/* ---- Messages ---------------------------------------------------------------------------------------------------- */

struct wi_msg *wi_sim_msg_peek(struct wi_iface *base)
{
    const struct sim_iface *iface = (const struct sim_iface *)base;
    return iface->messages ? iface->messages->msg : NULL;
}

/* The credits are given back by half windows, so that not every message costs a packet. */
void wi_sim_msg_pop(struct wi_iface *base)
{
    struct sim_iface *iface = (struct sim_iface *)base;
    struct sim_msg *entry = iface->messages;
    struct sim_conn *conn = wi_sim_conn_find(iface, entry->conn);
    iface->messages = entry->next;
    if (!iface->messages)
        iface->messages_end = &iface->messages;
    free(entry->msg);
    free(entry);
    if (!conn)
        return;
    conn->consumed++;
    if (conn->consumed - conn->told >= (iface->world->params.window + 1) / 2)
        wi_sim_conn_ack(conn, WEIR_OK, false);
}
