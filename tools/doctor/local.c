/* The address of this host by which peers reach it: of the interface asked for, of the route to a peer, or the first. */
#include "doctor.h"
#include "rdma.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static socklen_t length_of(const struct sockaddr *address)
{
    return address->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

void doctor_address_text(const struct sockaddr *address, char *text)
{
    if (getnameinfo(address, length_of(address), text, DOCTOR_NUMERIC, NULL, 0, NI_NUMERICHOST) != 0)
        snprintf(text, DOCTOR_NUMERIC, "?");
}

static bool same_ip(const struct sockaddr *a, const struct sockaddr *b)
{
    if (a->sa_family != b->sa_family)
        return false;
    if (a->sa_family == AF_INET)
        return ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)(const void *)b)->sin_addr.s_addr;
    return memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr,
                  &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr, 16) == 0;
}

/* Has the interface an address that peers can use: up, not loopback, not link-local? */
static bool is_usable(const struct ifaddrs *entry)
{
    if (!entry->ifa_addr || !(entry->ifa_flags & IFF_UP) || (entry->ifa_flags & IFF_LOOPBACK))
        return false;
    return entry->ifa_addr->sa_family == AF_INET ||
           (entry->ifa_addr->sa_family == AF_INET6 &&
            !IN6_IS_ADDR_LINKLOCAL(&((struct sockaddr_in6 *)(void *)entry->ifa_addr)->sin6_addr));
}

static void take(struct doctor_local *local, const struct sockaddr *ip, const char *interface)
{
    memcpy(&local->ip, ip, length_of(ip));
    doctor_address_text(ip, local->text);
    snprintf(local->interface, sizeof(local->interface), "%s", interface);
}

/* ---- WEIR_INTERFACE ---------------------------------------------------------------------------------------------- */

static bool is_named(const struct ifaddrs *entry, const char *wanted)
{
    char text[DOCTOR_NUMERIC] = "";
    if (strcmp(entry->ifa_name, wanted) == 0)
        return true;
    if (entry->ifa_addr && (entry->ifa_addr->sa_family == AF_INET || entry->ifa_addr->sa_family == AF_INET6))
        doctor_address_text(entry->ifa_addr, text);
    return strcmp(text, wanted) == 0;
}

static void find_named(struct doctor_local *local, const struct ifaddrs *entries, const char *wanted)
{
    bool exists = false, up = false;
    char names[256] = "";
    for (const struct ifaddrs *entry = entries; entry && !local->text[0]; entry = entry->ifa_next) {
        if (!is_named(entry, wanted)) {
            if (is_usable(entry) && !strstr(names, entry->ifa_name))
                append(names, sizeof(names), "%s%s", names[0] ? ", " : "", entry->ifa_name);
            continue;
        }
        exists = true;
        up = up || (entry->ifa_flags & IFF_UP);
        bool ip = entry->ifa_addr && (entry->ifa_addr->sa_family == AF_INET || is_usable(entry));
        if (ip && (entry->ifa_flags & IFF_UP))
            take(local, entry->ifa_addr, entry->ifa_name);
    }
    if (local->text[0])
        return;
    snprintf(local->why, sizeof(local->why), "WEIR_INTERFACE=%s: %s", wanted,
             !exists ? "there is no such interface or address" : up ? "it has no IP address" : "it is down");
    if (!exists)
        snprintf(local->mend, sizeof(local->mend), "take one of: %s", names[0] ? names : "(none is up)");
    else
        snprintf(local->mend, sizeof(local->mend), up ? "ip addr add ADDRESS/LENGTH dev %s" : "ip link set %s up", wanted);
}

/* ---- By route, or the first -------------------------------------------------------------------------------------- */

/* Connecting a datagram socket sends nothing; it only looks the route up. */
static bool find_by_route(struct doctor_local *local, const struct ifaddrs *entries, const struct sockaddr *to)
{
    struct sockaddr_storage source = {0};
    socklen_t len = sizeof(source);
    int fd = socket(to->sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool found = fd >= 0 && connect(fd, to, length_of(to)) == 0 && getsockname(fd, (struct sockaddr *)&source, &len) == 0;
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (!found) {
        snprintf(local->why, sizeof(local->why), "no route: %s", strerror(error));
        return false;
    }
    const char *interface = "";
    for (const struct ifaddrs *entry = entries; entry; entry = entry->ifa_next)
        if (entry->ifa_addr && same_ip(entry->ifa_addr, (struct sockaddr *)&source))
            interface = entry->ifa_name;
    take(local, (struct sockaddr *)&source, interface);
    return true;
}

static bool is_of_active_port(const struct doctor *doctor, const struct sockaddr *ip)
{
    struct rdma_port ports[RDMA_PORTS_MAX];
    char device[256];
    doctor_variable("WEIR_DEVICE", device, sizeof(device));
    size_t count = rdma_list_ports(doctor->root, ports, RDMA_PORTS_MAX);
    for (size_t i = 0; i < count; i++) {
        struct rdma_gid gids[RDMA_GIDS_MAX];
        size_t gid_count = ports[i].state == RDMA_PORT_ACTIVE && rdma_is_listed(device, &ports[i])
                               ? rdma_list_gids(doctor->root, &ports[i], gids, RDMA_GIDS_MAX)
                               : 0;
        for (size_t g = 0; g < gid_count; g++)
            if (rdma_gid_is_of(&gids[g], ip))
                return true;
    }
    return false;
}

/* As the library does: an address of an active RDMA port where verbs is used, IPv4 before IPv6. */
static void find_first(struct doctor *doctor, const struct ifaddrs *entries)
{
    static const int families[] = {AF_INET, AF_INET6};
    for (int rdma = doctor->verbs != DOCTOR_UNUSED; rdma >= 0; rdma--)
        for (int f = 0; f < 2; f++)
            for (const struct ifaddrs *entry = entries; entry; entry = entry->ifa_next)
                if (is_usable(entry) && entry->ifa_addr->sa_family == families[f] &&
                    (!rdma || is_of_active_port(doctor, entry->ifa_addr))) {
                    take(&doctor->local, entry->ifa_addr, entry->ifa_name);
                    return;
                }
    snprintf(doctor->local.why, sizeof(doctor->local.why), "no interface but loopback is up with an IP address");
    snprintf(doctor->local.mend, sizeof(doctor->local.mend), "ip addr add ADDRESS/LENGTH dev DEV; ip link set DEV up");
}

/* ---- What leads where -------------------------------------------------------------------------------------------- */

bool doctor_resolve(const char *name, struct sockaddr_storage *address, char *why, size_t size)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int result = getaddrinfo(name, NULL, &hints, &list);
    if (result != 0) {
        const char *colon = strchr(name, ':');
        if (colon && !strchr(colon + 1, ':')) {
            snprintf(why, size, "%s: a host is wanted here, without a port", name);
            return false;
        }
        snprintf(why, size, "the name %s cannot be resolved: %s", name,
                 result == EAI_SYSTEM ? strerror(errno) : gai_strerror(result));
        return false;
    }
    memcpy(address, list->ai_addr, list->ai_addrlen);
    freeaddrinfo(list);
    return true;
}

/* Rank 0's host, where the job names one that is not this process itself. */
static bool master_address(struct sockaddr_storage *address)
{
    char name[256], why[DOCTOR_TEXT];
    doctor_variable("WEIR_MASTER_ADDR", name, sizeof(name));
    if (!doctor_resolve(name, address, why, sizeof(why)))
        return false;
    if (address->ss_family == AF_INET)
        return ntohl(((struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 != 127;
    return !IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)address)->sin6_addr);
}

void doctor_find_local(struct doctor *doctor)
{
    struct doctor_local *local = &doctor->local;
    struct sockaddr_storage to = {0};
    struct ifaddrs *entries = NULL;
    char wanted[256];
    if (getifaddrs(&entries) != 0) {
        snprintf(local->why, sizeof(local->why), "the network interfaces cannot be listed: %s", strerror(errno));
        return;
    }
    doctor_variable("WEIR_INTERFACE", wanted, sizeof(wanted));
    bool named = doctor->to && doctor_resolve(doctor->to, &to, local->why, sizeof(local->why));
    if (named) {
        doctor_address_text((struct sockaddr *)&to, doctor->to_numeric);
        doctor->to_ip = to;
    }
    if (wanted[0])
        find_named(local, entries, wanted);
    else if (named)
        find_by_route(local, entries, (struct sockaddr *)&to);
    else if (!doctor->to && (!master_address(&to) || !find_by_route(local, entries, (struct sockaddr *)&to)))
        find_first(doctor, entries);
    freeifaddrs(entries);
}
