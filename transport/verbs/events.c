/*
 * What a device reports by itself: ports that go down and come up, tables that change, failures, its removal. Looked at
 * in progress now and then, without a thread.
 */
#include "core/clock.h"
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <stdio.h>
#include <string.h>

/* ---- The device is lost ------------------------------------------------------------------------------------------ */

static void fail_all(struct verbs_iface *iface, const char *why)
{
    for (uint32_t i = 0; i < iface->eps_room; i++) {
        struct verbs_ep *ep = iface->eps[i];
        if (!ep || ep->base.status != WEIR_OK || (!ep->base.ready && !ep->connecting))
            continue;
        wi_ep_fail(&ep->base, WEIR_ERR_NO_DEVICE, "connection to rank %llu: %s %s",
                   (unsigned long long)ep->base.peer_id, iface->base.device, why);
        wi_verbs_ep_abandon(ep);
    }
}

void wi_verbs_device_lost(struct verbs_iface *iface, const char *why)
{
    if (iface->lost[0])
        return;
    snprintf(iface->lost, sizeof(iface->lost), "%s", why);
    wi_warn("%s %s: all its connections end", iface->base.device, why);
    fail_all(iface, why);
}

/* ---- Ports ------------------------------------------------------------------------------------------------------- */

static void port_down(struct verbs_iface *iface)
{
    if (iface->port_down)
        return;
    iface->port_down = true;
    iface->port_down_ns = wi_now_ns();
    wi_warn("%s: the port is down; operations fail unless it is back within their retries", iface->base.device);
}

/* Its rate and MTU may be other ones now: connections that are made from now on use them. */
static void port_up(struct verbs_iface *iface, const struct ibv_port_attr *port)
{
    if (iface->port_down)
        wi_warn("%s: the port is up again", iface->base.device);
    iface->port_down = false;
    iface->device.mtu = port->active_mtu;
}

/* Asks the device, since events may come late. */
static void look_at_port(struct verbs_iface *iface)
{
    struct ibv_port_attr port;
    if (ibv_query_port(iface->device.context, iface->choice.port, &port))
        return;
    if (port.state == IBV_PORT_ACTIVE || port.state == IBV_PORT_ACTIVE_DEFER)
        port_up(iface, &port);
    else
        port_down(iface);
}

bool wi_verbs_port_pauses(struct verbs_iface *iface, uint64_t now_ns)
{
    look_at_port(iface);
    return iface->port_down && (int64_t)(now_ns - iface->port_down_ns) < (int64_t)(wi_config()->timeout_ns / 4);
}

weir_status wi_verbs_usable(struct verbs_iface *iface)
{
    if (iface->lost[0])
        return wi_error(WEIR_ERR_NO_DEVICE, "%s %s", iface->base.device, iface->lost);
    look_at_port(iface);
    if (iface->port_down)
        return wi_error(WEIR_ERR_NO_DEVICE,
                        "%s: the port is down here; check cable and switch, and that its network interface is up",
                        iface->base.device);
    return WEIR_OK;
}

/* ---- The shared receive queue ------------------------------------------------------------------------------------ */

/* One event an arming. Not every device has it: then nothing is told. */
void wi_verbs_receives_watch(struct verbs_iface *iface)
{
    struct ibv_srq_attr attr = {.srq_limit = iface->device.srq_depth / 4};
    int error = ibv_modify_srq(iface->device.srq, &attr, IBV_SRQ_LIMIT);
    if (error)
        wi_debug("%s: it does not tell when receives run low: %s", iface->base.device, strerror(error));
}

/* Credits keep senders from running into an empty queue; that they come near it is worth knowing, the first time loudly. */
static void receives_low(struct verbs_iface *iface)
{
    wi_log(iface->receives_low ? WI_LOG_INFO : WI_LOG_WARN,
           "%s: three quarters of its %u receives were in use: senders of signals and messages may have to wait; let this "
           "process make progress more often, or raise WEIR_VERBS_RECEIVES",
           iface->base.device, iface->device.srq_depth);
    iface->receives_low = true;
    wi_count(iface->base.params.receives_low);
    wi_verbs_drain(iface); /* what was used is put back first */
    wi_verbs_receives_post(iface);
    wi_verbs_receives_watch(iface);
}

/* ---- Events ------------------------------------------------------------------------------------------------------ */

static bool is_ours(const struct verbs_iface *iface, const struct ibv_async_event *event)
{
    return event->element.port_num == iface->choice.port;
}

/* Of an endpoint's queue pair: the endpoint ends. Of a link's: its initiator sees it. */
static void qp_failed(struct verbs_iface *iface, const struct verbs_end *end, const char *text)
{
    for (uint32_t i = 0; i < iface->eps_room; i++) {
        struct verbs_ep *ep = iface->eps[i];
        if (!ep || &ep->end != end || ep->base.status != WEIR_OK || ep->suspect_ns)
            continue;
        wi_verbs_drain(iface); /* a completion tells more */
        wi_ep_fail(&ep->base, WEIR_ERR_IO, "connection to rank %llu over %s: the device reports '%s'",
                   (unsigned long long)ep->base.peer_id, iface->base.device, text);
        wi_verbs_ep_abandon(ep);
        return;
    }
}

static void handle(struct verbs_iface *iface, const struct ibv_async_event *event, const struct verbs_end *end)
{
    const char *text = ibv_event_type_str(event->event_type);
    switch (event->event_type) {
    case IBV_EVENT_DEVICE_FATAL:
        wi_verbs_device_lost(iface, "has failed or was removed");
        break;
    case IBV_EVENT_CQ_ERR:
        wi_verbs_device_lost(iface, "has lost its completion queue");
        break;
    case IBV_EVENT_SRQ_ERR:
        wi_verbs_device_lost(iface, "has lost its receive queue");
        break;
    case IBV_EVENT_SRQ_LIMIT_REACHED:
        receives_low(iface);
        break;
    case IBV_EVENT_PORT_ERR:
    case IBV_EVENT_PORT_ACTIVE:
        if (is_ours(iface, event))
            look_at_port(iface);
        break;
    case IBV_EVENT_GID_CHANGE:
        if (is_ours(iface, event))
            iface->addresses_changed = true;
        break;
    case IBV_EVENT_LID_CHANGE:
    case IBV_EVENT_SM_CHANGE:
    case IBV_EVENT_CLIENT_REREGISTER:
    case IBV_EVENT_PKEY_CHANGE:
        if (is_ours(iface, event))
            wi_info("%s reports '%s': connections made before may end", iface->base.device, text);
        break;
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
        qp_failed(iface, end, text);
        break;
    default: /* of a link's queue pair: its initiator sees it by a completion and ends the connection */
        wi_debug("%s reports '%s'", iface->base.device, text);
        break;
    }
}

/* An event is acknowledged before it is handled: a queue pair can then be destroyed without waiting for it. */
unsigned wi_verbs_events(struct verbs_iface *iface)
{
    struct ibv_async_event event;
    unsigned count = 0;
    for (; count < 64 && ibv_get_async_event(iface->device.context, &event) == 0; count++) {
        bool of_qp = event.event_type == IBV_EVENT_QP_FATAL || event.event_type == IBV_EVENT_QP_REQ_ERR;
        const struct verbs_end *end = of_qp ? event.element.qp->qp_context : NULL;
        ibv_ack_async_event(&event);
        handle(iface, &event, end);
    }
    if (count == 64)
        iface->look_now = true;
    return count;
}
