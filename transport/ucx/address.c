/*
 * The address part: where an interface listens. The peer tries the addresses in an order that favours networks it is
 * itself in; loopback comes last, and only on the same host.
 *
 * version 1 | count 1 | port 2 | instance 8 | host 8 | count * (family 1: 4 or 6, address 4 or 16); little-endian,
 * addresses in network order.
 */
#include "core/error.h"
#include "transport/ucx/ucx.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#define ADDRESS_VERSION 1
#define HEADER_SIZE     20

struct raw_address {
    unsigned char family; /* 4 or 6, 0: nothing we could use */
    bool loopback;
    unsigned char bytes[16];
};

static size_t raw_len(unsigned char family)
{
    return family == 4 ? 4 : 16;
}

static bool is_loopback(const struct raw_address *raw)
{
    static const unsigned char loopback6[16] = {[15] = 1};
    return raw->family == 4 ? raw->bytes[0] == 127 : memcmp(raw->bytes, loopback6, 16) == 0;
}

/* Addresses are copied, not cast: the compiler takes the kinds of sockaddr for unrelated types. */
static struct raw_address raw_from_sockaddr(const void *address)
{
    struct raw_address raw = {0};
    sa_family_t family = AF_UNSPEC;
    if (address)
        memcpy(&family, (const char *)address + offsetof(struct sockaddr, sa_family), sizeof(family));
    if (family == AF_INET) {
        raw.family = 4;
        memcpy(raw.bytes, (const char *)address + offsetof(struct sockaddr_in, sin_addr), 4);
    } else if (family == AF_INET6) {
        struct in6_addr in6;
        memcpy(&in6, (const char *)address + offsetof(struct sockaddr_in6, sin6_addr), sizeof(in6));
        if (!IN6_IS_ADDR_LINKLOCAL(&in6)) /* means nothing without its interface */
            raw.family = 6;
        memcpy(raw.bytes, &in6, 16);
    }
    raw.loopback = raw.family && is_loopback(&raw);
    return raw;
}

static void raw_to_sockaddr(const struct raw_address *raw, uint16_t port, struct sockaddr_storage *address)
{
    memset(address, 0, sizeof(*address));
    if (raw->family == 4) {
        struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_port = htons(port)};
        memcpy(&in4.sin_addr, raw->bytes, 4);
        memcpy(address, &in4, sizeof(in4));
    } else {
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
        memcpy(&in6.sin6_addr, raw->bytes, 16);
        memcpy(address, &in6, sizeof(in6));
    }
}

bool wi_ucx_is_loopback6(const struct sockaddr_storage *address)
{
    struct raw_address raw = raw_from_sockaddr(address);
    return raw.family == 6 && is_loopback(&raw);
}

socklen_t wi_ucx_sockaddr_len(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

const char *wi_ucx_sockaddr_text(const struct sockaddr_storage *address, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "?";
    struct raw_address raw = raw_from_sockaddr(address);
    in_port_t port; /* at the same place in both */
    memcpy(&port, (const char *)address + offsetof(struct sockaddr_in, sin_port), sizeof(port));
    inet_ntop(raw.family == 4 ? AF_INET : AF_INET6, raw.bytes, host, sizeof(host));
    snprintf(text, size, raw.family == 4 ? "%s:%u" : "[%s]:%u", host, ntohs(port));
    return text;
}

/* This host's usable addresses of a family (0: any), loopback last. */
static unsigned local_addresses(unsigned char family, struct raw_address *list, unsigned room)
{
    struct ifaddrs *all;
    if (getifaddrs(&all))
        return 0;
    unsigned count = 0;
    for (int loopback = 0; loopback <= 1; loopback++) {
        for (struct ifaddrs *one = all; one && count < room; one = one->ifa_next) {
            struct raw_address raw = raw_from_sockaddr(one->ifa_addr);
            if ((one->ifa_flags & IFF_UP) && raw.family && (!family || raw.family == family) &&
                raw.loopback == loopback)
                list[count++] = raw;
        }
    }
    freeifaddrs(all);
    return count;
}

weir_status wi_ucx_bind_address(const char *text, struct sockaddr_storage *address)
{
    struct raw_address raw = {.family = 4};
    if (text) {
        if (inet_pton(AF_INET, text, raw.bytes) != 1) {
            raw.family = 6;
            if (inet_pton(AF_INET6, text, raw.bytes) != 1)
                return wi_error(WEIR_ERR_INVALID, "UCX: '%s' is not a numeric address to listen on", text);
        }
    } else {
        /* Any IPv4 address; any IPv6 address on a host that has no other IPv4 address than loopback. */
        struct raw_address found[WI_UCX_TARGETS];
        unsigned count = local_addresses(0, found, WI_UCX_TARGETS);
        bool has4 = false, has6 = false;
        for (unsigned i = 0; i < count; i++) {
            has4 |= found[i].family == 4 && !found[i].loopback;
            has6 |= found[i].family == 6 && !found[i].loopback;
        }
        raw.family = !has4 && has6 ? 6 : 4;
    }
    raw_to_sockaddr(&raw, 0, address);
    return WEIR_OK;
}

static bool is_any(const struct raw_address *raw)
{
    static const unsigned char zero[16];
    return memcmp(raw->bytes, zero, raw_len(raw->family)) == 0;
}

weir_status wi_ucx_address_write(const struct wi_ucx_iface *iface, unsigned char *buf, size_t *len)
{
    struct raw_address list[WI_UCX_TARGETS];
    unsigned count = 1;
    struct sockaddr_storage bound;
    weir_status status = wi_ucx_bind_address(iface->base.params.bind_address, &bound);
    if (status != WEIR_OK)
        return status;
    list[0] = raw_from_sockaddr(&bound);
    if (!list[0].family)
        return wi_error(WEIR_ERR_INVALID, "UCX: %s is a link-local address, which means nothing to peers",
                        iface->base.params.bind_address);
    if (is_any(&list[0]))
        count = local_addresses(list[0].family, list, WI_UCX_TARGETS);
    if (count == 0)
        return wi_error(WEIR_ERR_NO_DEVICE, "UCX: no network interface is up: not even loopback has an address");

    unsigned char part[HEADER_SIZE + WI_UCX_TARGETS * 17] = {ADDRESS_VERSION, (unsigned char)count};
    memcpy(part + 2, &iface->port, 2);
    memcpy(part + 4, &iface->instance, 8);
    memcpy(part + 12, &iface->base.params.network, 8);
    size_t used = HEADER_SIZE;
    for (unsigned i = 0; i < count; i++) {
        part[used++] = list[i].family;
        memcpy(part + used, list[i].bytes, raw_len(list[i].family));
        used += raw_len(list[i].family);
    }
    if (used > *len)
        return wi_error(WEIR_ERR_RANGE, "UCX: an address needs %zu bytes of room, there are %zu", used, *len);
    memcpy(buf, part, used);
    *len = used;
    return WEIR_OK;
}

static bool same_bits(const unsigned char *a, const unsigned char *b, const unsigned char *mask, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((a[i] ^ b[i]) & mask[i])
            return false;
    return true;
}

/* Is the address in a network that one of our interfaces is in? */
static bool is_near(const struct raw_address *raw, const struct ifaddrs *ours)
{
    for (; ours; ours = ours->ifa_next) {
        struct raw_address own = raw_from_sockaddr(ours->ifa_addr);
        if (own.family != raw->family || !ours->ifa_netmask)
            continue;
        struct raw_address mask = raw_from_sockaddr(ours->ifa_netmask);
        if (same_bits(own.bytes, raw->bytes, mask.bytes, raw_len(raw->family)))
            return true;
    }
    return false;
}

/* Near ones first, loopback last. */
static void order_targets(struct wi_ucx_ep *ep, const struct raw_address *list, unsigned count, uint16_t port,
                          bool same_network)
{
    struct ifaddrs *ours = NULL;
    if (getifaddrs(&ours))
        ours = NULL;
    enum { NEAR, FAR, LOOPBACK, RANKS };
    for (int rank = NEAR; rank < RANKS; rank++) {
        for (unsigned i = 0; i < count; i++) {
            unsigned char family = ep->link.iface->family;
            if (family && list[i].family != family)
                continue; /* UCX 1.13 ends the process where the two meet, see wi_ucx_settings() */
            int own_rank = list[i].loopback ? LOOPBACK : is_near(&list[i], ours) ? NEAR : FAR;
            if (own_rank == rank && (rank != LOOPBACK || same_network))
                raw_to_sockaddr(&list[i], port, &ep->targets[ep->target_count++]);
        }
    }
    if (ours)
        freeifaddrs(ours);
}

weir_status wi_ucx_address_read(struct wi_ucx_ep *ep, const unsigned char *buf, size_t len)
{
    if (len < HEADER_SIZE || buf[0] != ADDRESS_VERSION || buf[1] == 0 || buf[1] > WI_UCX_TARGETS)
        return wi_error(WEIR_ERR_PROTOCOL, "UCX: its address is damaged or of another version; use one "
                                           "version of Weir on all ranks");
    struct raw_address list[WI_UCX_TARGETS] = {{0}};
    unsigned count = buf[1];
    uint16_t port;
    uint64_t network;
    memcpy(&port, buf + 2, 2);
    memcpy(&ep->instance, buf + 4, 8);
    memcpy(&network, buf + 12, 8);
    size_t used = HEADER_SIZE;
    for (unsigned i = 0; i < count; i++) {
        unsigned char family = used < len ? buf[used++] : 0;
        if ((family != 4 && family != 6) || len - used < raw_len(family))
            return wi_error(WEIR_ERR_PROTOCOL, "UCX: its address is damaged: the list of IP addresses is cut; "
                                               "pass on all of what weir_ctx_address() gave");
        list[i].family = family;
        memcpy(list[i].bytes, buf + used, raw_len(family));
        used += raw_len(family);
        list[i].loopback = is_loopback(&list[i]);
    }
    const struct wi_ucx_iface *iface = ep->link.iface;
    order_targets(ep, list, count, port, network == iface->base.params.network);
    if (ep->target_count == 0 && iface->family && list[0].family != iface->family)
        return wi_error(WEIR_ERR_PEER_UNREACHABLE,
                        "UCX: it listens on IPv%u, this process on IPv%u, and UCX cannot do with both; set WEIR_INTERFACE, or "
                        "MASTER_ADDR, to addresses of one family on all ranks",
                        list[0].family, iface->family);
    if (ep->target_count == 0)
        return wi_error(WEIR_ERR_PEER_UNREACHABLE,
                        "UCX: it has a loopback address only, and is on another host or in another network namespace; set "
                        "MASTER_ADDR, or WEIR_INTERFACE there, to an address that this host can reach");
    return WEIR_OK;
}
