/*
 * The initiator's side of a connection: connects to one of the peer's addresses, says hello, and is ready when the peer
 * has answered. An address may lead to somebody else (every host has its own 172.17.0.1): then the next one is tried.
 * An attempt that the network, or UCX, broke off is made again, within WEIR_TIMEOUT.
 */
#include "core/clock.h"
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/ucx/ucx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ATTEMPT_NS      (2 * WI_NS_PER_S)   /* how long one address of several is waited for; doubled with each round */
#define PAUSE_NS        (10 * WI_NS_PER_MS) /* before addresses are tried again; doubled with each round */
#define ROUNDS_OF_DOUBT 5                   /* in which an address that nobody seems to listen at is tried again */
#define LINGER_NS       WI_NS_PER_S         /* how long UCX may keep operations of an ended endpoint */

static void ep_error(void *arg, ucp_ep_h ucp, ucs_status_t status)
{
    struct wi_ucx_link *link = arg;
    if (ucp != link->ucp)
        return;
    struct wi_ucx_ep *ep = WI_UCX_CONTAINER(link, struct wi_ucx_ep, link);
    wi_ucx_link_end(link, ep->base.ready ? WEIR_ERR_PEER_GONE : WEIR_ERR_PEER_UNREACHABLE, status);
}

static weir_status say_hello(struct wi_ucx_ep *ep)
{
    const struct wi_ucx_iface *iface = ep->link.iface;
    struct wi_ucx_hello hello = {WI_UCX_MAGIC,    WI_UCX_VERSION,  ep->instance, iface->base.params.id,
                                 ep->link.token, iface->instance, ep->stream,   ep->again};
    return wi_ucx_am_send(&ep->link, WI_UCX_AM_HELLO, &hello, sizeof(hello));
}

static weir_status connect_to(struct wi_ucx_ep *ep, const struct sockaddr_storage *target)
{
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR | UCP_EP_PARAM_FIELD_ERR_HANDLER |
                      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
        .flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER,
        .sockaddr = {(const struct sockaddr *)target, wi_ucx_sockaddr_len(target)},
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {ep_error, &ep->link},
    };
    char text[80];
    wi_debug("UCX: connecting to %s", wi_ucx_sockaddr_text(target, text, sizeof(text)));
    weir_status ours = wi_ucx_room(WI_UCX_CONNECTION_ROOM, "a connection");
    if (ours == WEIR_OK) /* another token: what still comes from an earlier attempt is for nobody */
        ours = wi_ucx_link_rename(&ep->link);
    if (ours != WEIR_OK) {
        ep->link.cause = UCS_ERR_NO_MEMORY;
        return ours;
    }
    ep->link.status = WEIR_OK;
    ep->target_refused = false;
    ep->attempt_ns = wi_now_ns();
    ucs_status_t status = ucp_ep_create(ep->link.iface->worker, &params, &ep->link.ucp);
    if (status != UCS_OK) {
        ep->link.ucp = NULL;
        ep->link.cause = status;
        char what[120];
        snprintf(what, sizeof(what), "cannot connect to %s", wi_ucx_sockaddr_text(target, text, sizeof(text)));
        return wi_ucx_error(status, what);
    }
    return say_hello(ep);
}

static uint64_t doubled(uint64_t ns, unsigned rounds)
{
    return ns << (rounds < 5 ? rounds : 5);
}

/*
 * Goes on with the next address; after the last one, where some may answer yet, with the first one after a pause.
 * WEIR_ERR_PEER_UNREACHABLE: each of them has been refused, or the time is over. Or why we cannot connect.
 */
static weir_status connect_next(struct wi_ucx_ep *ep)
{
    weir_status status = WEIR_ERR_PEER_UNREACHABLE;
    for (;;) {
        if (ep->target == ep->target_count) {
            uint64_t now_ns = wi_now_ns();
            if (!ep->target_undecided || now_ns - ep->begin_ns > wi_config()->timeout_ns)
                return status;
            ep->target_undecided = false;
            ep->target = 0;
            ep->again_ns = now_ns + doubled(PAUSE_NS, ep->rounds++);
            wi_ucx_clock(&ep->link);
            return WEIR_OK;
        }
        status = connect_to(ep, &ep->targets[ep->target++]);
        if (status == WEIR_OK)
            return WEIR_OK;
        wi_ucx_link_close(&ep->link);
    }
}

static void describe_targets(const struct wi_ucx_ep *ep, char *text, size_t size)
{
    size_t used = 0;
    text[0] = 0;
    for (unsigned i = 0; i < ep->target_count && used + 60 < size; i++) {
        char one[80];
        used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "",
                                 wi_ucx_sockaddr_text(&ep->targets[i], one, sizeof(one)));
    }
}

weir_status wi_ucx_ep_create(struct wi_iface *base, const void *address, size_t len, struct weir_ep **out)
{
    struct wi_ucx_iface *iface = WI_UCX_CONTAINER(base, struct wi_ucx_iface, base);
    struct wi_ucx_ep *ep = calloc(1, sizeof(*ep));
    if (!ep)
        return wi_error(WEIR_ERR_NO_MEMORY, "UCX: out of memory for an endpoint");
    ep->base.iface = base;
    ep->base.ops = base->ops;
    ep->stream = iface->next_stream++;
    wi_list_init(&ep->deferred);
    wi_list_init(&ep->flushes);
    wi_list_init(&ep->questions);
    weir_status status = wi_ucx_link_init(&ep->link, iface, true);
    if (status != WEIR_OK) {
        free(ep);
        return status;
    }
    status = wi_ucx_address_read(ep, address, len);
    if (status != WEIR_OK) {
        wi_ucx_link_fini(&ep->link);
        free(ep);
        return status;
    }
    *out = &ep->base;
    return WEIR_OK;
}

weir_status wi_ucx_ep_connect(struct weir_ep *base)
{
    struct wi_ucx_ep *ep = WI_UCX_CONTAINER(base, struct wi_ucx_ep, base);
    ep->begin_ns = wi_now_ns();
    wi_ucx_clock(&ep->link);
    return connect_next(ep);
}

void wi_ucx_ep_query(const struct weir_ep *base, weir_ep_attr *attr)
{
    const struct wi_ucx_ep *ep = WI_UCX_CONTAINER(base, struct wi_ucx_ep, base);
    attr->transport = "ucx";
    attr->max_inline = SIZE_MAX; /* UCX registers what it needs itself */
    attr->ordered_writes = !ep->native;
    attr->native_signal = 0;
    attr->maps_peer = ep->maps;
}

/* Ends what waits in a list of ours; what UCX still has, whole or in pieces, ends when UCX gives it back. */
static void end_list(struct wi_list *list, weir_status status)
{
    while (!wi_list_empty(list)) {
        struct wi_ucx_slot *slot = (struct wi_ucx_slot *)(void *)list->next;
        bool in_pieces = slot->id == WI_UCX_AM_PUT && slot->pieces > 0;
        if (!slot->posted && !in_pieces) {
            wi_ucx_slot_end(slot, status);
            continue;
        }
        if (in_pieces)
            slot->len = slot->moved;
        slot->status = status;
        wi_list_remove(&slot->node);
        wi_list_append(&slot->link->slots, &slot->node);
    }
}

static void end_waiting(struct wi_ucx_ep *ep, weir_status status)
{
    end_list(&ep->deferred, status);
    end_list(&ep->questions, status);
    end_list(&ep->flushes, status);
}

/* Lets the connection go, and ends all that is outstanding. */
static void end_all(struct wi_ucx_ep *ep, weir_status status)
{
    struct wi_ucx_link *link = &ep->link;
    if (link->status == WEIR_OK)
        link->status = status;
    wi_ucx_link_close(link);
    end_waiting(ep, status);
    uint64_t until_ns = wi_now_ns() + LINGER_NS;
    while (!wi_list_empty(&link->slots) && wi_now_ns() < until_ns)
        ucp_worker_progress(link->iface->worker);
    wi_ucx_link_abandon(link, status);
}

void wi_ucx_ep_close(struct weir_ep *base)
{
    struct wi_ucx_ep *ep = WI_UCX_CONTAINER(base, struct wi_ucx_ep, base);
    end_all(ep, WEIR_ERR_CANCELED);
    wi_ucx_link_fini(&ep->link);
    free(ep);
}

/* The link gets another name: what still comes over the old connection is for nobody. */
weir_status wi_ucx_ep_reset(struct weir_ep *base)
{
    struct wi_ucx_ep *ep = WI_UCX_CONTAINER(base, struct wi_ucx_ep, base);
    struct wi_ucx_iface *iface = ep->link.iface;
    end_all(ep, base->status);
    wi_ucx_link_fini(&ep->link);
    ep->link = (struct wi_ucx_link){0};
    weir_status status = wi_ucx_link_init(&ep->link, iface, true);
    ep->again++;
    ep->target = ep->rounds = 0;
    ep->again_ns = 0;
    ep->target_undecided = false;
    ep->native = ep->fenced = ep->unacked = false;
    ep->fence_started = ep->fence_done = ep->flush_asked = ep->flush_acked = 0;
    ep->asked = ep->answered = ep->sent = ep->taken = ep->refused = ep->refused_told = 0;
    return status;
}

static void fail_unreachable(struct wi_ucx_ep *ep)
{
    char tried[160];
    const char *why = ucs_status_string(ep->link.cause);
    const char *mend = "is it alive? `weir doctor --to HOST` looks for a way to it";
    if (ep->target_refused) {
        why = "somebody else answers there";
        mend = "set WEIR_INTERFACE on all hosts to a network that they share";
    } else if (ep->link.cause == UCS_ERR_NOT_CONNECTED) {
        why = "nobody listens there";
        mend = "has the process ended?";
    } else if (ep->target_count == 1 && wi_ucx_is_loopback6(&ep->targets[0])) {
        mend = "UCX finds no way over ::1; use 127.0.0.1 (WEIR_MASTER_ADDR, WEIR_INTERFACE), or another address of this host";
    }
    describe_targets(ep, tried, sizeof(tried));
    wi_ep_fail(&ep->base, WEIR_ERR_PEER_UNREACHABLE, "connecting to rank %llu over UCX: %s; %s (tried %s)",
               (unsigned long long)ep->base.peer_id, why, mend, tried);
}

/*
 * May the address answer yet, after an attempt that ended so? UCX 1.13 breaks connections off that both sides make at
 * once, and over a network that loses packets; a peer rejects those that too many wait before. "Not connected" can be
 * that as well, but also that nobody listens there: a few rounds tell.
 */
static bool is_undecided(const struct wi_ucx_ep *ep, ucs_status_t cause)
{
    if (cause == UCS_ERR_NOT_CONNECTED)
        return ep->rounds < ROUNDS_OF_DOUBT;
    return cause == UCS_ERR_CONNECTION_RESET || cause == UCS_ERR_ENDPOINT_TIMEOUT || cause == UCS_ERR_TIMED_OUT ||
           (cause == UCS_ERR_REJECTED && !ep->target_refused);
}

/* An attempt or a connection has ended. */
static void ended(struct wi_ucx_ep *ep)
{
    struct wi_ucx_link *link = &ep->link;
    wi_ucx_link_close(link);
    if (ep->base.status != WEIR_OK || ep->again_ns)
        return;
    if (!ep->base.ready) {
        wi_debug("UCX: an attempt to connect has ended: %s", ucs_status_string(link->cause));
        ep->target_undecided |= is_undecided(ep, link->cause);
        if (connect_next(ep) == WEIR_OK)
            return;
        link->status = WEIR_ERR_PEER_UNREACHABLE;
        fail_unreachable(ep);
    } else {
        if (link->status == WEIR_ERR_PROTOCOL)
            wi_ep_fail(&ep->base, WEIR_ERR_PROTOCOL, "UCX: rank %llu sent something that is not of Weir; is it of another version?",
                       (unsigned long long)ep->base.peer_id);
        else
            wi_ep_fail(&ep->base, link->status, "UCX: the connection to rank %llu is lost: %s; see whether it has ended, and why; weir_ep_reconnect() "
                       "connects to it again",
                       (unsigned long long)ep->base.peer_id, ucs_status_string(link->cause));
    }
    end_waiting(ep, link->status);
}

void wi_ucx_ep_serve(struct wi_ucx_ep *ep)
{
    if (ep->link.status != WEIR_OK) {
        ended(ep);
        return;
    }
    wi_ucx_deferred_serve(ep);
    wi_ucx_flushes_serve(ep);
}

/* Clocks: an address that does not answer, operations that UCX keeps. False: none runs. */
bool wi_ucx_ep_watch(struct wi_ucx_ep *ep, uint64_t now_ns)
{
    struct wi_ucx_link *link = &ep->link;
    if (ep->again_ns) {
        if (now_ns < ep->again_ns)
            return true;
        ep->again_ns = 0;
        if (connect_next(ep) != WEIR_OK)
            wi_ucx_todo(link);
        return true;
    }
    if (link->status != WEIR_OK) {
        if (wi_elapsed_ns(now_ns, link->ended_ns) > LINGER_NS)
            wi_ucx_link_abandon(link, link->status);
        return !wi_list_empty(&link->slots);
    }
    if (ep->base.ready || !ep->base.started)
        return false;
    if (ep->target_count > 1 && wi_elapsed_ns(now_ns, ep->attempt_ns) > doubled(ATTEMPT_NS, ep->rounds))
        wi_ucx_link_end(link, WEIR_ERR_PEER_UNREACHABLE, UCS_ERR_TIMED_OUT);
    return true;
}
