/* Listening for peers: one listener for each address of the device, which follow when its addresses change. */
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>

enum { LISTEN_BACKLOG = 1024 };

static in_port_t *port_of(struct sockaddr *ip)
{
    return &((struct sockaddr_in *)(void *)ip)->sin_port; /* at the same place in both families */
}

static bool same_ip(const struct sockaddr *a, const struct sockaddr *b)
{
    if (a->sa_family != b->sa_family)
        return false;
    if (a->sa_family == AF_INET)
        return memcmp(&((const struct sockaddr_in *)(const void *)a)->sin_addr,
                      &((const struct sockaddr_in *)(const void *)b)->sin_addr, sizeof(struct in_addr)) == 0;
    return memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr,
                  &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr, sizeof(struct in6_addr)) == 0;
}

/* On a port of the kernel's choice, which is stored with the address. */
static weir_status listen_at(struct verbs_iface *iface, struct verbs_end *end, struct sockaddr *ip)
{
    char place[80];
    *port_of(ip) = 0;
    wi_verbs_address_print(ip, place, sizeof(place));
    end->kind = VERBS_LISTENER;
    if (rdma_create_id(iface->channel, &end->id, end, RDMA_PS_TCP)) {
        end->id = NULL;
        return wi_error(WEIR_ERR_IO, "verbs: no id to listen with: %s", strerror(errno));
    }
    if (rdma_bind_addr(end->id, ip) || rdma_listen(end->id, LISTEN_BACKLOG)) {
        int error = errno;
        wi_verbs_end(end);
        return wi_error(WEIR_ERR_IO, "verbs: cannot listen at %s: %s", place, strerror(error));
    }
    *port_of(ip) = rdma_get_src_port(end->id);
    return WEIR_OK;
}

weir_status wi_verbs_listen(struct verbs_iface *iface)
{
    struct wi_verbs_address *address = &iface->choice.address;
    if (!address->cookie && getrandom(&address->cookie, sizeof(address->cookie), 0) != (ssize_t)sizeof(address->cookie))
        return wi_error(WEIR_ERR_IO, "verbs: no random number: %s", strerror(errno));
    iface->channel = rdma_create_event_channel();
    if (!iface->channel)
        return wi_error(WEIR_ERR_IO, "verbs: no channel to the connection manager: %s", strerror(errno));
    int flags = fcntl(iface->channel->fd, F_GETFL);
    if (flags < 0 || fcntl(iface->channel->fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return wi_error(WEIR_ERR_IO, "verbs: connection manager's channel: %s", strerror(errno));
    weir_status status = WEIR_OK;
    for (unsigned i = 0; i < address->count && status == WEIR_OK && !iface->exchange; i++)
        status = listen_at(iface, &iface->listeners[i], &address->ip[i].any);
    return status;
}

void wi_verbs_unlisten(struct verbs_iface *iface)
{
    for (unsigned i = 0; i < WI_VERBS_ADDRESS_MAX; i++)
        wi_verbs_end(&iface->listeners[i]);
    if (iface->channel)
        rdma_destroy_event_channel(iface->channel);
    iface->channel = NULL;
}

/* ---- Addresses that come and go ---------------------------------------------------------------------------------- */

static bool is_listed(const struct wi_verbs_address *address, const struct sockaddr *ip)
{
    for (unsigned i = 0; i < address->count; i++)
        if (same_ip(&address->ip[i].any, ip))
            return true;
    return false;
}

/* The listener at an address, else a free one, else one whose address is no more. */
static struct verbs_end *listener_for(struct verbs_iface *iface, const struct wi_verbs_address *now,
                                      const struct sockaddr *ip)
{
    struct verbs_end *unused = NULL;
    for (unsigned i = 0; i < WI_VERBS_ADDRESS_MAX; i++) {
        struct verbs_end *end = &iface->listeners[i];
        if (end->id && same_ip(rdma_get_local_addr(end->id), ip))
            return end;
        if (!end->id)
            unused = end;
        else if (!unused && !is_listed(now, rdma_get_local_addr(end->id)))
            unused = end;
    }
    return unused;
}

/* A listener whose address has gone stays, on its port: the address may come back, and peers may know it. */
void wi_verbs_listen_anew(struct verbs_iface *iface)
{
    struct wi_verbs_address now, *address = &iface->choice.address;
    iface->addresses_changed = false;
    if (wi_verbs_addresses(&iface->choice, &now) != WEIR_OK)
        return;
    if (now.count == 0) {
        wi_warn("%s has no address any more: it cannot connect until it has one", iface->base.device);
        return;
    }
    if (iface->exchange) { /* the next connection asks for the GID anew */
        now.cookie = address->cookie;
        *address = now;
        return;
    }
    struct wi_verbs_address next = {.cookie = address->cookie};
    for (unsigned i = 0; i < now.count; i++) {
        struct sockaddr *ip = &now.ip[i].any;
        struct verbs_end *end = listener_for(iface, &now, ip);
        if (!end)
            continue;
        bool there = end->id && same_ip(rdma_get_local_addr(end->id), ip);
        if (!there)
            wi_verbs_end(end);
        if (!there && listen_at(iface, end, ip) != WEIR_OK) {
            wi_warn("%s", weir_last_error());
            continue;
        }
        *port_of(ip) = rdma_get_src_port(end->id);
        next.ip[next.count++] = now.ip[i];
        if (!is_listed(address, ip)) {
            char place[80];
            wi_verbs_address_print(ip, place, sizeof(place));
            wi_info("%s listens at %s too", iface->base.device, place);
        }
    }
    if (next.count > 0)
        *address = next;
}

weir_status wi_verbs_address(struct wi_iface *iface, void *buf, size_t *len)
{
    struct wi_verbs_address address = verbs_iface(iface)->choice.address;
    if (verbs_iface(iface)->exchange) {
        address.by_store = true;
        address.count = 0;
    }
    if (!wi_verbs_address_encode(&address, buf, len))
        return wi_error(WEIR_ERR_RANGE, "address: %zu bytes are too little room for the verbs part", *len);
    return WEIR_OK;
}
