#include "rdma.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYSFS "/sys/class/infiniband"

/* ---- Ports ------------------------------------------------------------------------------------------------------- */

/* "4: ACTIVE" */
static void read_state(const char *root, const struct rdma_port *port, const char *name, long *number, char *text)
{
    char line[RDMA_TEXT];
    read_text(root, line, sizeof(line), SYSFS "/%s/ports/%u/%s", port->device, port->number, name);
    const char *colon = strstr(line, ": ");
    *number = strtol(line, NULL, 10);
    snprintf(text, RDMA_TEXT, "%s", colon ? colon + 2 : line);
}

/* By the GID table; else what a software device stands on; else what the same adapter has at this port. */
static void find_netdev(const char *root, struct rdma_port *port)
{
    char name[RDMA_TEXT], names[16][READ_NAME];
    for (unsigned i = 0; i < RDMA_GIDS_MAX; i++) {
        if (read_text(root, name, sizeof(name), SYSFS "/%s/ports/%u/gid_attrs/ndevs/%u", port->device, port->number, i) &&
            name[0]) {
            snprintf(port->netdev, sizeof(port->netdev), "%s", name);
            return;
        }
        if (errno == ENOENT)
            break;
    }
    if (read_text(root, name, sizeof(name), SYSFS "/%s/parent", port->device) && name[0]) {
        snprintf(port->netdev, sizeof(port->netdev), "%s", name);
        return;
    }
    size_t count = list_folder(root, names, 16, SYSFS "/%s/device/net", port->device);
    for (size_t i = 0; i < count; i++) {
        long dev_port = 0;
        read_number(root, &dev_port, "/sys/class/net/%s/dev_port", names[i]);
        if (count == 1 || dev_port == (long)port->number - 1)
            snprintf(port->netdev, sizeof(port->netdev), "%s", names[i]);
    }
}

size_t rdma_list_ports(const char *root, struct rdma_port *ports, size_t room)
{
    char devices[RDMA_PORTS_MAX][READ_NAME];
    size_t count = 0, device_count = list_folder(root, devices, RDMA_PORTS_MAX, SYSFS);
    for (size_t i = 0; i < device_count; i++) {
        for (unsigned number = 1; count < room; number++) {
            struct rdma_port *port = &ports[count];
            long physical;
            if (!path_exists(root, SYSFS "/%s/ports/%u", devices[i], number))
                break;
            *port = (struct rdma_port){.number = number};
            memcpy(port->device, devices[i], sizeof(port->device));
            read_state(root, port, "state", &port->state, port->state_text);
            read_state(root, port, "phys_state", &physical, port->physical);
            read_text(root, port->link_layer, sizeof(port->link_layer), SYSFS "/%s/ports/%u/link_layer", port->device, number);
            read_text(root, port->rate, sizeof(port->rate), SYSFS "/%s/ports/%u/rate", port->device, number);
            find_netdev(root, port);
            count++;
        }
    }
    return count;
}

bool rdma_is_listed(const char *list, const struct rdma_port *port)
{
    size_t name_len = strlen(port->device);
    if (!*list)
        return true;
    for (const char *word = list; *word; word += strcspn(word, ",")) {
        word += strspn(word, ", ");
        size_t len = strcspn(word, ",");
        if (len < name_len || strncmp(word, port->device, name_len) != 0)
            continue;
        if (len == name_len || (word[name_len] == ':' && strtoul(word + name_len + 1, NULL, 10) == port->number))
            return true;
    }
    return false;
}

/* Headers of the longest packet: GRH, UDP, BTH, XRC, atomic, and the checksum behind, as the kernel counts them. */
unsigned rdma_mtu_over(long ethernet_mtu)
{
    enum { OVERHEAD = 40 + 8 + 12 + 4 + 28 + 4 };
    for (unsigned mtu = 4096; mtu >= 256; mtu /= 2)
        if (ethernet_mtu - OVERHEAD >= (long)mtu)
            return mtu;
    return 0;
}

/* ---- GIDs -------------------------------------------------------------------------------------------------------- */

bool rdma_parse_gid(const char *text, unsigned char raw[16])
{
    for (unsigned i = 0; i < 8; i++) {
        char *end;
        unsigned long word = strtoul(text, &end, 16);
        if (end != text + 4 || (i < 7 ? *end != ':' : *end != '\0'))
            return false;
        raw[2 * i] = (unsigned char)(word >> 8);
        raw[2 * i + 1] = (unsigned char)word;
        text = end + 1;
    }
    return true;
}

size_t rdma_list_gids(const char *root, const struct rdma_port *port, struct rdma_gid *gids, size_t room)
{
    static const unsigned char zero[16];
    size_t count = 0;
    for (unsigned i = 0; i < RDMA_GIDS_MAX && count < room; i++) {
        char text[RDMA_TEXT];
        struct rdma_gid *gid = &gids[count];
        *gid = (struct rdma_gid){.index = i};
        if (!read_text(root, text, sizeof(text), SYSFS "/%s/ports/%u/gids/%u", port->device, port->number, i))
            break;
        /* The second half of an InfiniBand GID is the port's own; all zero, or with a prefix alone, it is none. */
        if (!rdma_parse_gid(text, gid->raw) || memcmp(gid->raw + 8, zero, 8) == 0)
            continue;
        read_text(root, gid->type, sizeof(gid->type), SYSFS "/%s/ports/%u/gid_attrs/types/%u", port->device, port->number, i);
        if (read_text(root, text, sizeof(text), SYSFS "/%s/ports/%u/gid_attrs/ndevs/%u", port->device, port->number, i))
            snprintf(gid->netdev, sizeof(gid->netdev), "%s", text);
        count++;
    }
    return count;
}

static bool is_v4(const struct rdma_gid *gid)
{
    return IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)gid->raw);
}

bool rdma_gid_is_link_local(const struct rdma_gid *gid)
{
    return gid->raw[0] == 0xfe && (gid->raw[1] & 0xc0) == 0x80;
}

void rdma_gid_text(const struct rdma_gid *gid, char *text)
{
    if (is_v4(gid))
        inet_ntop(AF_INET, gid->raw + 12, text, INET6_ADDRSTRLEN);
    else
        inet_ntop(AF_INET6, gid->raw, text, INET6_ADDRSTRLEN);
}

bool rdma_gid_is_of(const struct rdma_gid *gid, const struct sockaddr *ip)
{
    if (ip->sa_family == AF_INET)
        return is_v4(gid) && memcmp(gid->raw + 12, &((const struct sockaddr_in *)(const void *)ip)->sin_addr, 4) == 0;
    return ip->sa_family == AF_INET6 &&
           memcmp(gid->raw, &((const struct sockaddr_in6 *)(const void *)ip)->sin6_addr, 16) == 0;
}
