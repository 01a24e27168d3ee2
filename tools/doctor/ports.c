/* Checks of ports: are they up, which of their GIDs would be used, how large are their packets? */
#include "doctor.h"
#include "rdma.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What most checks here go through: the ports, of which WEIR_DEVICE may want some alone. */
struct inventory {
    char device[256];
    size_t count, active; /* of all; of those that are wanted and active */
    struct rdma_port ports[RDMA_PORTS_MAX];
};

static bool is_active(const struct inventory *inventory, const struct rdma_port *port)
{
    return port->state == RDMA_PORT_ACTIVE && rdma_is_listed(inventory->device, port);
}

static void take_inventory(const struct doctor *doctor, struct inventory *inventory)
{
    doctor_variable("WEIR_DEVICE", inventory->device, sizeof(inventory->device));
    inventory->count = rdma_list_ports(doctor->root, inventory->ports, RDMA_PORTS_MAX);
    inventory->active = 0;
    for (size_t i = 0; i < inventory->count; i++)
        inventory->active += is_active(inventory, &inventory->ports[i]);
}

/* ---- Ports ------------------------------------------------------------------------------------------------------- */

static void say_inactive(struct doctor *doctor, enum doctor_level level, const struct rdma_port *port)
{
    char mend[DOCTOR_TEXT] = "", state[32] = "";
    read_text(doctor->root, state, sizeof(state), "/sys/class/net/%s/operstate", port->netdev);
    if (strcmp(port->link_layer, "InfiniBand") == 0 && strcmp(port->physical, "LinkUp") == 0)
        snprintf(mend, sizeof(mend), "the link is up but the port not configured: start a subnet manager (opensm, or the "
                                     "switch's)");
    else if (port->netdev[0] && strcmp(state, "down") == 0)
        snprintf(mend, sizeof(mend), "ip link set %s up; if it stays down: cable, transceiver, switch port", port->netdev);
    else
        snprintf(mend, sizeof(mend), "look at cable, transceiver and switch port (rdma link, ethtool %s)", port->netdev);
    doctor_say(doctor, level, "%s:%u is %s, physically %s (%s%s%s) -> %s", port->device, port->number, port->state_text,
               port->physical, port->link_layer, port->netdev[0] ? ", " : "", port->netdev, mend);
}

static void say_unlisted(struct doctor *doctor, const struct inventory *inventory)
{
    char names[DOCTOR_TEXT] = "";
    for (size_t i = 0; i < inventory->count; i++)
        append(names, sizeof(names), "%s%s:%u", i ? ", " : "", inventory->ports[i].device, inventory->ports[i].number);
    doctor_say(doctor, doctor_blame(doctor->verbs), "WEIR_DEVICE=%s: there is no such port -> take one of: %s",
               inventory->device, names);
}

void check_ports(struct doctor *doctor)
{
    struct inventory inventory;
    size_t listed = 0;
    take_inventory(doctor, &inventory);
    for (size_t i = 0; i < inventory.count; i++) {
        const struct rdma_port *port = &inventory.ports[i];
        if (port->state == RDMA_PORT_ACTIVE)
            doctor_say(doctor, DOCTOR_OK, "%s:%u is %s, %s, %s%s%s, %s", port->device, port->number, port->state_text,
                       port->physical, port->link_layer, port->netdev[0] ? " on " : "", port->netdev, port->rate);
        else
            say_inactive(doctor,
                         inventory.active || !rdma_is_listed(inventory.device, port) ? DOCTOR_NOTE
                                                                                     : doctor_blame(doctor->verbs),
                         port);
        listed += rdma_is_listed(inventory.device, port);
    }
    if (inventory.count && !listed)
        say_unlisted(doctor, &inventory);
}

/* ---- GIDs -------------------------------------------------------------------------------------------------------- */

/* RoCE v2 is what the connection manager takes; v1 does not pass a router. */
static const struct rdma_gid *gid_of(const struct rdma_gid *gids, size_t count, const struct sockaddr *ip)
{
    const struct rdma_gid *found = NULL;
    for (size_t i = 0; i < count; i++)
        if (rdma_gid_is_of(&gids[i], ip) && (!found || strcmp(gids[i].type, "RoCE v2") == 0))
            found = &gids[i];
    return found;
}

/* Without a peer in view: what has an IP address that can be routed, IPv4 first. */
static const struct rdma_gid *first_routable(const struct rdma_gid *gids, size_t count)
{
    const struct rdma_gid *found = NULL;
    for (size_t i = 0; i < count; i++) {
        char text[INET6_ADDRSTRLEN];
        rdma_gid_text(&gids[i], text);
        if (rdma_gid_is_link_local(&gids[i]) || strcmp(gids[i].type, "RoCE v2") != 0)
            continue;
        if (!found || (strchr(text, '.') && !strchr(text, ':')))
            found = &gids[i];
        if (found == &gids[i] && !strchr(text, ':'))
            break;
    }
    return found;
}

static void list_others(const struct rdma_gid *gids, size_t count, const struct rdma_gid *used, char *list, size_t size)
{
    list[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        char text[INET6_ADDRSTRLEN];
        rdma_gid_text(&gids[i], text);
        if (&gids[i] != used)
            append(list, size, "%s%u = %s%s", list[0] ? ", " : "", gids[i].index, text,
                   strcmp(gids[i].type, "RoCE v2") == 0 ? "" : " (v1)");
    }
}

static bool has_routable(const struct doctor *doctor, const struct rdma_port *port)
{
    struct rdma_gid gids[RDMA_GIDS_MAX];
    size_t count = rdma_list_gids(doctor->root, port, gids, RDMA_GIDS_MAX);
    return strcmp(port->link_layer, "InfiniBand") == 0 ? count > 0 : first_routable(gids, count) != NULL;
}

/* Over InfiniBand the port's own GID counts and addresses are IPoIB's; over Ethernet each GID stands for an address. */
static void check_port_gids(struct doctor *doctor, const struct rdma_port *port, bool others_serve)
{
    struct rdma_gid gids[RDMA_GIDS_MAX];
    char text[INET6_ADDRSTRLEN], others[DOCTOR_TEXT / 2];
    size_t count = rdma_list_gids(doctor->root, port, gids, RDMA_GIDS_MAX);
    if (strcmp(port->link_layer, "InfiniBand") == 0) {
        if (count)
            rdma_gid_text(&gids[0], text);
        doctor_say(doctor, count ? DOCTOR_OK : doctor_blame(doctor->verbs), "%s:%u: %s%s", port->device, port->number,
                   count ? "0 = " : "it has no GID -> see the kernel log (dmesg)", count ? text : "");
        return;
    }
    const struct sockaddr *local = (const struct sockaddr *)&doctor->local.ip;
    const struct rdma_gid *used = doctor->local.text[0] ? gid_of(gids, count, local) : NULL;
    bool led_here = used != NULL;
    used = used ? used : first_routable(gids, count);
    list_others(gids, count, used, others, sizeof(others));
    if (!used) {
        doctor_say(doctor, others_serve ? DOCTOR_NOTE : doctor_blame(doctor->verbs),
                   "%s:%u has no GID of an IP address that can be routed (there are: %s) -> give %s one: ip addr add "
                   "ADDRESS/LENGTH dev %s",
                   port->device, port->number, others[0] ? others : "none", port->netdev[0] ? port->netdev : "it",
                   port->netdev[0] ? port->netdev : "DEV");
        return;
    }
    rdma_gid_text(used, text);
    doctor_say(doctor, DOCTOR_OK, "%s:%u: %u = %s (%s) %s%s%s%s", port->device, port->number, used->index, text, used->type,
               led_here ? "would be used" : "is there", led_here && doctor->to_numeric[0] ? " to " : "",
               led_here ? doctor->to_numeric : "", others[0] ? "; also " : "");
    struct doctor_finding *finding = &doctor->findings[doctor->count - 1];
    append(finding->text, sizeof(finding->text), "%s", others);
}

/* Does the way to the peer lead out of an RDMA port? */
static void check_way(struct doctor *doctor, const struct inventory *inventory)
{
    char netdevs[256] = "";
    const char *out = doctor->local.interface;
    if (!doctor->to_numeric[0] || !doctor->local.text[0])
        return;
    for (size_t i = 0; i < inventory->count; i++) {
        if (!is_active(inventory, &inventory->ports[i]))
            continue;
        if (strcmp(inventory->ports[i].netdev, out) == 0 || !inventory->ports[i].netdev[0])
            return;
        append(netdevs, sizeof(netdevs), "%s%s", netdevs[0] ? ", " : "", inventory->ports[i].netdev);
    }
    if (netdevs[0])
        doctor_say(doctor, doctor_blame(doctor->verbs),
                   "the route to %s leads out of %s, which is no active RDMA port%s -> reach it by an address behind %s, "
                   "or WEIR_INTERFACE=%s",
                   doctor->to_numeric, out, inventory->device[0] ? " that WEIR_DEVICE names" : "", netdevs, netdevs);
}

void check_gids(struct doctor *doctor)
{
    struct inventory inventory;
    bool any = false;
    take_inventory(doctor, &inventory);
    for (size_t i = 0; i < inventory.count && !any; i++)
        any = is_active(&inventory, &inventory.ports[i]) && has_routable(doctor, &inventory.ports[i]);
    for (size_t i = 0; i < inventory.count; i++)
        if (is_active(&inventory, &inventory.ports[i]))
            check_port_gids(doctor, &inventory.ports[i], any);
    check_way(doctor, &inventory);
}

/* ---- MTU --------------------------------------------------------------------------------------------------------- */

void check_mtu(struct doctor *doctor)
{
    struct inventory inventory;
    take_inventory(doctor, &inventory);
    for (size_t i = 0; i < inventory.count; i++) {
        const struct rdma_port *port = &inventory.ports[i];
        long mtu = 0;
        if (!is_active(&inventory, port) || !read_number(doctor->root, &mtu, "/sys/class/net/%s/mtu", port->netdev))
            continue;
        unsigned payload = rdma_mtu_over(mtu);
        if (strcmp(port->link_layer, "InfiniBand") == 0)
            doctor_say(doctor, DOCTOR_OK, "%s:%u: IPoIB %s has MTU %ld; that of RDMA is the subnet's (ibv_devinfo)",
                       port->device, port->number, port->netdev, mtu);
        else if (payload >= 4096)
            doctor_say(doctor, DOCTOR_OK, "%s:%u: %s has MTU %ld, RDMA packets carry %u bytes", port->device, port->number,
                       port->netdev, mtu, payload);
        else if (payload == 0)
            doctor_say(doctor, doctor_blame(doctor->verbs), "%s:%u: MTU %ld of %s is too small for RDMA -> ip link set %s "
                       "mtu 4200", port->device, port->number, mtu, port->netdev, port->netdev);
        else
            doctor_say(doctor, doctor->verbs == DOCTOR_UNUSED ? DOCTOR_NOTE : DOCTOR_WARN,
                       "%s:%u: %s has MTU %ld, so RDMA packets carry %u bytes of at most 4096 -> ip link set %s mtu 4200, "
                       "on all hosts and on the switches between them",
                       port->device, port->number, port->netdev, mtu, payload, port->netdev);
    }
}
