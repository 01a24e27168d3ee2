/* The wire: what becomes of a packet on its way, and who gets it. */
#include "transport/sim/nic.h"

#include <stdlib.h>
#include <string.h>

static const char *const kind_names[] = {"request", "accept", "data", "ack", "answer", "probe", "close", "reset"};
static const char *const verb_names[] = {"write", "read", "add", "send", "flush"};

struct sim_packet *wi_sim_packet(enum sim_kind kind, uint32_t data_len)
{
    struct sim_packet *packet = malloc(sizeof(*packet) + data_len);
    if (packet) {
        *packet = (struct sim_packet){.kind = kind, .len = data_len, .data_len = data_len};
        packet->to_target = kind == SIM_REQUEST || kind == SIM_DATA || kind == SIM_PROBE || kind == SIM_CLOSE;
    }
    return packet;
}

struct sim_iface *wi_sim_iface_find(const struct wi_sim_world *world, uint64_t number)
{
    return number > 0 && number <= world->iface_count ? world->ifaces[number - 1] : NULL;
}

/* ---- Packets that are under way ---------------------------------------------------------------------------------- */

static void trace(struct wi_sim_world *world, const struct sim_packet *packet, const char *fate)
{
    wi_sim_trace(world, packet->psn ^ (uint64_t)packet->kind << 20,
                 packet->ep ^ packet->to << 24 ^ (uint64_t)fate[0] << 28,
                 "%d -> %d  %s%s%s  ep %llu conn %llu psn %llu len %u%s%s  %s", packet->from_rank, packet->to_rank,
                 kind_names[packet->kind], packet->kind == SIM_DATA ? " " : "",
                 packet->kind == SIM_DATA ? verb_names[packet->verb] : "", (unsigned long long)packet->ep,
                 (unsigned long long)packet->conn, (unsigned long long)packet->psn, packet->len,
                 packet->signals ? " with signal" : "", packet->out_of_turn ? " out of turn" : "", fate);
}

static void launch(struct wi_sim_world *world, struct sim_packet *packet, uint64_t at_ns);

static void free_packet(struct sim_packet *packet)
{
    packet->link.prev->next = packet->link.next;
    packet->link.next->prev = packet->link.prev;
    free(packet);
}

void wi_sim_drop_packets(struct wi_sim_world *world)
{
    while (world->packets.next && world->packets.next != &world->packets)
        free_packet((struct sim_packet *)world->packets.next); /* the link is its first member */
    world->packets.prev = world->packets.next = &world->packets;
}

/* ---- Arrival ----------------------------------------------------------------------------------------------------- */

/* Says that there is nobody: the other end of the connection, or its whole interface, is gone. */
void wi_sim_reset_sender(struct wi_sim_world *world, const struct sim_packet *about)
{
    struct sim_packet *packet = wi_sim_packet(SIM_RESET, 0);
    if (!packet || about->kind == SIM_RESET || about->kind == SIM_CLOSE) {
        free(packet);
        return;
    }
    packet->to_target = !about->to_target;
    packet->from_rank = about->to_rank;
    packet->to_rank = about->from_rank;
    packet->from = about->to;
    packet->to = about->from;
    packet->ep = about->ep;
    packet->conn = about->conn;
    launch(world, packet, world->now_ns + world->params.delay_min_ns);
}

static void give_target(struct sim_iface *iface, struct sim_packet *packet)
{
    if (packet->kind == SIM_REQUEST) {
        wi_sim_on_request(iface, packet);
        return;
    }
    struct sim_conn *conn = wi_sim_conn_find(iface, packet->conn);
    if (!conn && wi_sim_is_broken(iface->world, WI_SIM_BREAK_EPOCH))
        conn = wi_sim_conn_from(iface, packet->from);
    if (!conn) {
        wi_sim_reset_sender(iface->world, packet);
        return;
    }
    conn->heard_ns = iface->world->now_ns;
    if (packet->kind == SIM_DATA)
        wi_sim_on_data(conn, packet);
    else if (packet->kind == SIM_PROBE)
        wi_sim_conn_ack(conn, WEIR_OK, false);
    else
        wi_sim_conn_free(conn);
}

static void give_initiator(struct sim_iface *iface, struct sim_packet *packet)
{
    struct sim_ep *ep = wi_sim_ep_find(iface, packet->ep);
    if (!ep) {
        wi_sim_reset_sender(iface->world, packet);
        return;
    }
    if (packet->kind == SIM_ACCEPT) {
        wi_sim_on_accept(ep, packet);
        return;
    }
    if (packet->conn != ep->conn)
        return; /* of a connection that we never took up */
    if (packet->kind == SIM_RESET)
        wi_sim_ep_break(ep, ep->state == SIM_EP_CONNECTING ? WEIR_ERR_PEER_UNREACHABLE : WEIR_ERR_PEER_GONE,
                        "sim: rank %llu has closed its context or has ended", (unsigned long long)ep->base.peer_id);
    else if (packet->kind == SIM_ACK)
        wi_sim_on_ack(ep, packet);
    else
        wi_sim_on_answer(ep, packet);
}

static void arrive(void *arg)
{
    struct sim_packet *packet = arg;
    struct wi_sim_world *world = wi_sim_world_here();
    struct sim_iface *iface = wi_sim_iface_find(world, packet->to);
    trace(world, packet, "arrives");
    if (!iface || iface->dead) {
        if (!iface || !iface->silent)
            wi_sim_reset_sender(world, packet);
    } else if (packet->to_target) {
        give_target(iface, packet);
    } else {
        give_initiator(iface, packet);
    }
    free_packet(packet);
}

/* ---- Departure --------------------------------------------------------------------------------------------------- */

/* Puts it on its way, to arrive at a time; unless the way is cut or it gets lost. */
static void launch(struct wi_sim_world *world, struct sim_packet *packet, uint64_t at_ns)
{
    const struct wi_sim_params *params = &world->params;
    const struct sim_way *way = wi_sim_way(world, packet->from_rank, packet->to_rank);
    bool is_cut = !way || way->is_cut;
    packet->link = (struct sim_packet_link){world->packets.prev, &world->packets};
    packet->link.prev->next = packet->link.next->prev = &packet->link;
    world->counts.packets++;
    if (is_cut || wi_sim_chance(&world->random, params->loss_ppm) ||
        !wi_sim_events_add(&world->events, at_ns, arrive, packet)) {
        world->counts.lost++;
        trace(world, packet, is_cut ? "meets a cut" : "gets lost");
        free_packet(packet);
    }
}

/* When one that starts now arrives. Packets of one way stay in order but for those that are overtaken. */
static uint64_t arrival_time(struct wi_sim_world *world, const struct sim_packet *packet)
{
    const struct wi_sim_params *params = &world->params;
    struct sim_way *way = wi_sim_way(world, packet->from_rank, packet->to_rank);
    uint64_t at_ns = world->now_ns + wi_sim_between(&world->random, params->delay_min_ns, params->delay_max_ns);
    if (wi_sim_chance(&world->random, params->reorder_ppm)) {
        world->counts.reordered++;
        return at_ns + wi_sim_between(&world->random, 1, params->reorder_ns);
    }
    if (way && at_ns <= way->last_arrival_ns)
        at_ns = way->last_arrival_ns + 1;
    if (way)
        way->last_arrival_ns = at_ns;
    return at_ns;
}

void wi_sim_send(const struct sim_iface *from, struct sim_packet *packet)
{
    struct wi_sim_world *world = from->world;
    struct sim_packet *twin = NULL;
    if (!packet || from->dead) {
        free(packet);
        return;
    }
    packet->from = from->number;
    packet->from_rank = from->rank;
    if (wi_sim_chance(&world->random, world->params.duplicate_ppm)) {
        if ((twin = malloc(sizeof(*twin) + packet->data_len)))
            memcpy(twin, packet, sizeof(*twin) + packet->data_len);
    }
    launch(world, packet, arrival_time(world, packet));
    if (twin) {
        world->counts.duplicated++;
        launch(world, twin, arrival_time(world, twin) + wi_sim_between(&world->random, 0, world->params.reorder_ns));
    }
}
