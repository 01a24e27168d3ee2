/*
 * Connecting through the RDMA connection manager: it finds device, GID and route from IP addresses. The queue pairs are
 * ours, not librdmacm's, so that all of an interface's objects belong to its own device context.
 *
 * Every event is copied and acknowledged before it is handled: an id can then be destroyed at any time without waiting.
 */
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum {
    RESOLVE_MS = 2000,
    REJECTED_NO_LISTENER = 8, /* reasons of the InfiniBand CM */
    REJECTED_BY_CONSUMER = 28,
};

struct event {
    enum rdma_cm_event_type type;
    int status;
    struct rdma_cm_id *id;
    struct verbs_end *end;
    uint32_t qp_num;
    uint8_t reads, served;
    size_t data_len;
    unsigned char data[256];
};

/* ---- End of a connection ----------------------------------------------------------------------------------------- */

void wi_verbs_end(struct verbs_end *end)
{
    /* Destroying the queue pair returns when the device is done with it; the id's end tells the peer. */
    if (end->qp && ibv_destroy_qp(end->qp))
        wi_warn("verbs: a queue pair could not be destroyed: %s", strerror(errno));
    if (end->id)
        rdma_destroy_id(end->id);
    end->qp = NULL;
    end->id = NULL;
}

/* ---- Initiator --------------------------------------------------------------------------------------------------- */

static void source_address(const struct verbs_iface *iface, int family, struct sockaddr_storage *source, bool *found)
{
    *found = false;
    for (unsigned i = 0; i < iface->choice.address.count && !*found; i++) {
        if (iface->choice.address.ip[i].any.sa_family != family)
            continue;
        *source = (struct sockaddr_storage){0};
        memcpy(source, &iface->choice.address.ip[i], sizeof(iface->choice.address.ip[i]));
        ((struct sockaddr_in *)source)->sin_port = 0; /* at the same place in both families */
        *found = true;
    }
}

/* The target's packets follow: the connection manager tells it the traffic class. */
static void set_traffic_class(struct rdma_cm_id *id)
{
    int64_t traffic_class = wi_config()->traffic_class;
    uint8_t tos = (uint8_t)traffic_class;
    if (traffic_class >= 0 && rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_TOS, &tos, sizeof(tos)))
        wi_warn("verbs: traffic class %u cannot be set: %s", tos, strerror(errno));
}

weir_status wi_verbs_connect(struct verbs_ep *ep)
{
    struct verbs_iface *iface = ep->iface;
    if (iface->exchange)
        return wi_verbs_offer(ep);
    weir_status status = wi_verbs_usable(iface);
    if (status != WEIR_OK)
        return status;
    for (; ep->attempt < ep->address.count; ep->attempt++) {
        struct sockaddr *target = &ep->address.ip[ep->attempt].any;
        struct sockaddr_storage source;
        bool found;
        source_address(iface, target->sa_family, &source, &found);
        if (!found)
            continue;
        if (rdma_create_id(iface->channel, &ep->end.id, &ep->end, RDMA_PS_TCP)) {
            ep->end.id = NULL;
            return wi_error(WEIR_ERR_IO, "%s: no id for a connection: %s", iface->base.device, strerror(errno));
        }
        set_traffic_class(ep->end.id);
        if (rdma_resolve_addr(ep->end.id, (struct sockaddr *)&source, target, RESOLVE_MS) == 0)
            return WEIR_OK;
        rdma_destroy_id(ep->end.id);
        ep->end.id = NULL;
    }
    return wi_error(WEIR_ERR_PEER_UNREACHABLE,
                    "none of its %u addresses can be reached from %s; are both on one RDMA network?", ep->address.count,
                    iface->base.device);
}

void wi_verbs_connect_failed(struct verbs_ep *ep, weir_status status, const char *why)
{
    if (status == WEIR_ERR_PEER_UNREACHABLE && wi_verbs_usable(ep->iface) != WEIR_OK) { /* that is why */
        status = WEIR_ERR_NO_DEVICE;
        why = weir_last_error();
    }
    wi_ep_fail(&ep->base, status, "connecting to rank %llu over verbs: %s", (unsigned long long)ep->base.peer_id, why);
    wi_verbs_ep_abandon(ep);
}

/* This address of the peer does not work: try its next one. */
static void next_address(struct verbs_ep *ep, const struct event *event)
{
    char place[80], why[200];
    wi_verbs_address_print(&ep->address.ip[ep->attempt].any, place, sizeof(place));
    snprintf(why, sizeof(why), "%s does not answer (%s: %s)", place, rdma_event_str(event->type),
             strerror(event->status < 0 ? -event->status : event->status));
    wi_debug("verbs: rank %llu: %s", (unsigned long long)ep->base.peer_id, why);
    rdma_destroy_id(ep->end.id);
    ep->end.id = NULL;
    ep->attempt++;
    if (ep->attempt >= ep->address.count || wi_verbs_connect(ep) != WEIR_OK)
        wi_verbs_connect_failed(ep, WEIR_ERR_PEER_UNREACHABLE, why);
}

static void rejected(struct verbs_ep *ep, const struct event *event)
{
    char place[80], why[200];
    wi_verbs_address_print(&ep->address.ip[ep->attempt].any, place, sizeof(place));
    if (event->status == REJECTED_NO_LISTENER)
        snprintf(why, sizeof(why), "nobody listens at %s; the process has ended", place);
    else if (event->status == REJECTED_BY_CONSUMER)
        snprintf(why, sizeof(why), "who listens at %s is not this peer, or of another version of Weir", place);
    else
        snprintf(why, sizeof(why), "%s rejected the connection (reason %d)", place, event->status);
    wi_verbs_connect_failed(ep, WEIR_ERR_PEER_UNREACHABLE, why);
}

void wi_verbs_hello_of(const struct verbs_ep *ep, struct wi_verbs_hello *hello)
{
    *hello = (struct wi_verbs_hello){
        .id = ep->iface->base.params.id,
        .cookie = ep->address.cookie,
        .words_addr = (uintptr_t)wi_verbs_word(ep, 0),
        .words_rkey = ep->block_mr->rkey,
        .stream = ep->stream,
        .from = ep->iface->choice.address.cookie,
        .again = ep->again,
    };
}

static void request_connection(struct verbs_ep *ep)
{
    struct verbs_iface *iface = ep->iface;
    struct wi_verbs_hello what;
    unsigned char hello[WI_VERBS_HELLO_SIZE];
    wi_verbs_hello_of(ep, &what);
    wi_verbs_hello_encode(&what, hello);
    struct rdma_conn_param param = {
        .private_data = hello,
        .private_data_len = sizeof(hello),
        .responder_resources = 0,
        .initiator_depth = iface->device.max_reads,
        .retry_count = (uint8_t)wi_config()->verbs_retry,
        .rnr_retry_count = (uint8_t)wi_config()->verbs_rnr_retry,
        .srq = 1,
        .qp_num = ep->end.qp->qp_num,
    };
    if (rdma_connect(ep->end.id, &param))
        wi_verbs_connect_failed(ep, WEIR_ERR_PEER_UNREACHABLE, strerror(errno));
}

void wi_verbs_connected(struct verbs_ep *ep, const struct wi_verbs_welcome *welcome)
{
    ep->ring_addr = welcome->ring_addr;
    ep->ring_rkey = welcome->ring_rkey;
    ep->granted = welcome->credits;
    ep->relaxed = welcome->relaxed;
    ep->max_write = wi_verbs_longest_write(ep);
    ep->iface->connecting--;
    ep->connecting = false;
    ep->base.ready = true;
    wi_verbs_keys_begin(ep);
    wi_debug("verbs: connected to rank %llu", (unsigned long long)ep->base.peer_id);
}

static void connected(struct verbs_ep *ep, const struct event *event)
{
    struct wi_verbs_welcome welcome;
    if (!wi_verbs_welcome_decode(event->data, event->data_len, &welcome) || welcome.id != ep->base.peer_id) {
        wi_verbs_connect_failed(ep, WEIR_ERR_PROTOCOL, "its answer is not that of this peer");
        return;
    }
    if (wi_verbs_qp_up(ep->iface, &ep->end, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE, ep->base.peer_id,
                       welcome.mtu) != WEIR_OK ||
        rdma_establish(ep->end.id)) {
        wi_verbs_connect_failed(ep, WEIR_ERR_IO, "the queue pair cannot be set up");
        return;
    }
    wi_verbs_connected(ep, &welcome);
}

static void ep_event(struct verbs_ep *ep, const struct event *event)
{
    if (ep->base.status != WEIR_OK)
        return;
    switch (event->type) {
    case RDMA_CM_EVENT_ADDR_RESOLVED:
        if (rdma_resolve_route(ep->end.id, RESOLVE_MS))
            wi_verbs_connect_failed(ep, WEIR_ERR_PEER_UNREACHABLE, strerror(errno));
        break;
    case RDMA_CM_EVENT_ROUTE_RESOLVED:
        request_connection(ep);
        break;
    case RDMA_CM_EVENT_CONNECT_RESPONSE:
        connected(ep, event);
        break;
    case RDMA_CM_EVENT_ADDR_ERROR:
    case RDMA_CM_EVENT_ROUTE_ERROR:
    case RDMA_CM_EVENT_UNREACHABLE:
    case RDMA_CM_EVENT_CONNECT_ERROR:
        next_address(ep, event);
        break;
    case RDMA_CM_EVENT_REJECTED:
        rejected(ep, event);
        break;
    case RDMA_CM_EVENT_DISCONNECTED:
        wi_verbs_drain(ep->iface); /* what was done before counts */
        wi_ep_fail(&ep->base, WEIR_ERR_PEER_GONE, "rank %llu has closed the verbs connection or ended",
                   (unsigned long long)ep->base.peer_id);
        wi_verbs_ep_abandon(ep);
        break;
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
        wi_verbs_device_lost(ep->iface, "was removed");
        break;
    default:
        break;
    }
}

/* ---- Target ------------------------------------------------------------------------------------------------------ */

static uint8_t smaller(uint8_t a, uint8_t b)
{
    return a < b ? a : b;
}

unsigned wi_verbs_link_access(const struct verbs_iface *iface)
{
    unsigned access = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
    return iface->device.atomics ? access | IBV_ACCESS_REMOTE_ATOMIC : access;
}

void wi_verbs_welcome_of(const struct verbs_iface *iface, const struct verbs_link *link,
                         struct wi_verbs_welcome *welcome)
{
    *welcome = (struct wi_verbs_welcome){
        .id = iface->base.params.id,
        .ring_addr = (uintptr_t)link->ring,
        .ring_rkey = link->ring_mr->rkey,
        .credits = link->share,
        .mtu = iface->device.mtu,
        .relaxed = wi_config()->verbs_relaxed == WI_VERBS_RELAXED_ON,
    };
}

static weir_status accept_link(struct verbs_iface *iface, struct verbs_link *link, const struct event *event)
{
    weir_status status = wi_verbs_usable(iface); /* looks at the port's MTU too */
    if (status == WEIR_OK) /* the request brings the initiator's MTU as that of its path */
        status = wi_verbs_qp_up(iface, &link->end, wi_verbs_link_access(iface), link->peer_id, 0);
    if (status != WEIR_OK)
        return status;
    wi_verbs_link_ready(iface, link);
    struct wi_verbs_welcome what;
    unsigned char welcome[WI_VERBS_WELCOME_SIZE];
    wi_verbs_welcome_of(iface, link, &what);
    wi_verbs_welcome_encode(&what, welcome);
    struct rdma_conn_param param = {
        .private_data = welcome,
        .private_data_len = sizeof(welcome),
        .responder_resources = smaller(event->served, iface->device.max_served),
        .initiator_depth = smaller(event->reads, iface->device.max_reads),
        .rnr_retry_count = (uint8_t)wi_config()->verbs_rnr_retry,
        .srq = 1,
        .qp_num = link->end.qp->qp_num,
    };
    if (rdma_accept(link->end.id, &param))
        return wi_error(WEIR_ERR_IO, "accepting rank %llu: %s", (unsigned long long)link->peer_id, strerror(errno));
    return WEIR_OK;
}

static void reject(struct rdma_cm_id *id, const char *why)
{
    wi_info("verbs: a connection was rejected: %s", why);
    rdma_reject(id, NULL, 0);
    rdma_destroy_id(id);
}

static void requested(struct verbs_iface *iface, const struct event *event)
{
    struct wi_verbs_hello hello;
    struct verbs_link *link;
    if (!wi_verbs_hello_decode(event->data, event->data_len, &hello))
        reject(event->id, "it does not speak this version of Weir's protocol");
    else if (hello.cookie != iface->choice.address.cookie)
        reject(event->id, "it is meant for another process");
    else if (wi_verbs_link_create(iface, event->id, &hello, &link) != WEIR_OK)
        reject(event->id, weir_last_error());
    else if (accept_link(iface, link, event) != WEIR_OK) {
        wi_warn("verbs: rank %llu could not be connected: %s", (unsigned long long)hello.id, weir_last_error());
        wi_verbs_link_gone(iface, link);
    }
}

static void link_event(struct verbs_iface *iface, struct verbs_link *link, const struct event *event)
{
    switch (event->type) {
    case RDMA_CM_EVENT_ESTABLISHED:
        link->established = true;
        break;
    case RDMA_CM_EVENT_DISCONNECTED:
    case RDMA_CM_EVENT_CONNECT_ERROR:
    case RDMA_CM_EVENT_UNREACHABLE:
    case RDMA_CM_EVENT_REJECTED:
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
        wi_debug("verbs: rank %llu has disconnected (%s)", (unsigned long long)link->peer_id,
                 rdma_event_str(event->type));
        wi_verbs_link_gone(iface, link);
        break;
    default:
        break;
    }
}

/* ---- Events ------------------------------------------------------------------------------------------------------ */

static bool next_event(struct verbs_iface *iface, struct event *event)
{
    struct rdma_cm_event *from;
    if (rdma_get_cm_event(iface->channel, &from))
        return false;
    *event = (struct event){
        .type = from->event,
        .status = from->status,
        .id = from->id,
        .end = from->id->context,
        .qp_num = from->param.conn.qp_num,
        .reads = from->param.conn.initiator_depth,
        .served = from->param.conn.responder_resources,
        .data_len = from->param.conn.private_data ? from->param.conn.private_data_len : 0,
    };
    if (event->data_len > 0)
        memcpy(event->data, from->param.conn.private_data, event->data_len);
    rdma_ack_cm_event(from);
    return true;
}

unsigned wi_verbs_cm_progress(struct verbs_iface *iface)
{
    struct event event;
    unsigned count = 0;
    for (; count < 64 && next_event(iface, &event); count++) {
        wi_trace("verbs: %s, status %d", rdma_event_str(event.type), event.status);
        if (event.type == RDMA_CM_EVENT_CONNECT_REQUEST)
            requested(iface, &event);
        else if (event.end->kind == VERBS_LISTENER && event.type == RDMA_CM_EVENT_DEVICE_REMOVAL)
            wi_verbs_device_lost(iface, "was removed");
        else if (event.end->kind == VERBS_EP)
            ep_event((struct verbs_ep *)((char *)event.end - offsetof(struct verbs_ep, end)), &event);
        else if (event.end->kind == VERBS_LINK)
            link_event(iface, (struct verbs_link *)((char *)event.end - offsetof(struct verbs_link, end)), &event);
    }
    if (count == 64)
        iface->look_now = true;
    return count;
}
