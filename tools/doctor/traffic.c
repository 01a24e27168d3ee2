/*
 * Check of what keeps RoCE from losing packets under load: priority flow control, congestion notification, and the
 * traffic class that puts packets under them. Drivers show it in different places or not at all, which is then said.
 */
#include "dcb.h"
#include "doctor.h"
#include "rdma.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void describe_pfc(const struct rdma_port *port, char *text, size_t size)
{
    unsigned priorities;
    if (!dcb_read_pfc(port->netdev, &priorities)) {
        append(text, size, errno == EOPNOTSUPP ? "PFC not readable (the driver has no DCB)" : "PFC not readable (%s)",
               strerror(errno));
        return;
    }
    append(text, size, priorities ? "PFC on priorities" : "PFC off");
    for (unsigned i = 0; i < 8; i++)
        if (priorities & (1u << i))
            append(text, size, " %u", i);
}

/* /sys/class/net/DEV/ecn/roce_np (notification point) and roce_rp (reaction point) of mlx5. */
static void describe_ecn(const struct doctor *doctor, const struct rdma_port *port, char *text, size_t size)
{
    if (!path_exists(doctor->root, "/sys/class/net/%s/ecn/roce_np/enable", port->netdev)) {
        append(text, size, "; ECN not readable");
        return;
    }
    append(text, size, "; ECN on priorities");
    bool any = false;
    for (unsigned i = 0; i < 8; i++) {
        long notifies = 0, reacts = 0;
        read_number(doctor->root, &notifies, "/sys/class/net/%s/ecn/roce_np/enable/%u", port->netdev, i);
        read_number(doctor->root, &reacts, "/sys/class/net/%s/ecn/roce_rp/enable/%u", port->netdev, i);
        if (notifies && reacts)
            append(text, size, " %u", i);
        any = any || (notifies && reacts);
    }
    append(text, size, any ? "" : " none");
}

/* Ours; else what the administrator set for the adapter (mlx5) or the connection manager (configfs, when it is there). */
static void describe_class(const struct doctor *doctor, const struct rdma_port *port, char *text, size_t size)
{
    char ours[32], theirs[128];
    long tos = 0;
    doctor_variable("WEIR_TC", ours, sizeof(ours));
    if (ours[0] && ours[0] != '-')
        append(text, size, "; traffic class %s", ours);
    else if (read_text(doctor->root, theirs, sizeof(theirs), "/sys/class/infiniband/%s/tc/%u/traffic_class", port->device,
                       port->number) &&
             theirs[0])
        append(text, size, "; traffic class of the adapter: %.60s", theirs);
    else if (read_number(doctor->root, &tos, "/sys/kernel/config/rdma_cm/%s/ports/%u/default_roce_tos", port->device,
                         port->number))
        append(text, size, "; traffic class of the connection manager: %ld", tos);
    else
        append(text, size, "; traffic class: the system's (WEIR_TC sets it)");
}

void check_traffic(struct doctor *doctor)
{
    struct rdma_port ports[RDMA_PORTS_MAX];
    char device[256];
    doctor_variable("WEIR_DEVICE", device, sizeof(device));
    size_t count = rdma_list_ports(doctor->root, ports, RDMA_PORTS_MAX);
    for (size_t i = 0; i < count; i++) {
        const struct rdma_port *port = &ports[i];
        char text[DOCTOR_TEXT] = "";
        if (port->state != RDMA_PORT_ACTIVE || !rdma_is_listed(device, port) || !port->netdev[0] ||
            strcmp(port->link_layer, "Ethernet") != 0)
            continue;
        describe_pfc(port, text, sizeof(text));
        describe_ecn(doctor, port, text, sizeof(text));
        describe_class(doctor, port, text, sizeof(text));
        doctor_say(doctor, DOCTOR_NOTE, "%s:%u: %s", port->device, port->number, text);
    }
}
