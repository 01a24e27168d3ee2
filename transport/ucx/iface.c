/* The interface: a UCP worker with its listener, progress, and sleeping. */
#include "core/clock.h"
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/ucx/ucx.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define WATCH_NS    (10 * WI_NS_PER_MS)
#define WATCH_TURNS 1024 /* of progress, between two looks at the clock for strangers */
#define CLOSE_TURNS 1000 /* of progress, that ended connections get when the interface closes */

static struct wi_ucx_iface *ucx_iface(struct wi_iface *iface)
{
    return WI_UCX_CONTAINER(iface, struct wi_ucx_iface, base);
}

/* ---- Opening and closing ---- */

static weir_status init(bool ipv6, uint64_t features, ucp_context_h *context)
{
    ucp_config_t *config;
    weir_status status = wi_ucx_settings(ipv6, &config);
    if (status != WEIR_OK)
        return status;
    ucp_params_t params = {
        .field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME,
        .features = features,
        .name = "weir",
    };
    ucs_status_t result = ucp_init(&params, config, context);
    ucp_config_release(config);
    wi_ucx_settings_done();
    if (result == UCS_OK)
        return WEIR_OK;
    return wi_ucx_error(result, "no usable transport (`ucx_info -d` lists those there are)");
}

/*
 * A context that has UCX's memory access lets whoever connects read and write all of the process: where the network cannot,
 * UCX 1.13 does it by messages that name an address, and asks for no key (ucp/rma/rma_sw.c). Weir's own messages do ask for
 * one, so it is switched on only where RDMA may carry operations.
 */
static weir_status make_context(const char *bind_address, unsigned char *family, ucp_context_h *context)
{
    const uint64_t messages = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
    struct sockaddr_storage address;
    weir_status status = wi_ucx_room(WI_UCX_CONTEXT_ROOM, "a context");
    if (status == WEIR_OK)
        status = wi_ucx_bind_address(bind_address, &address);
    if (status != WEIR_OK)
        return status;
    *family = address.ss_family == AF_INET6 ? 6 : 4;
    status = init(*family == 6, messages, context);
    if (status != WEIR_OK || !wi_ucx_lanes_may_be_rdma(*context))
        return status;
    ucp_cleanup(*context);
    return init(*family == 6, messages | UCP_FEATURE_RMA, context);
}

static weir_status ucx_probe(void)
{
    ucp_context_h context;
    unsigned char family;
    weir_status status = wi_ucx_process_check();
    if (status == WEIR_OK)
        status = make_context(NULL, &family, &context);
    if (status == WEIR_OK)
        ucp_cleanup(context);
    return status;
}

/* What a worker lacks is room in /dev/shm, mostly. */
static weir_status no_worker(ucs_status_t status)
{
    char own[512];
    weir_status ours = wi_ucx_error(status, "cannot make a worker");
    if (status != UCS_ERR_NO_RESOURCE)
        return ours;
    snprintf(own, sizeof(own), "%s", weir_last_error());
    return wi_error(WEIR_ERR_LIMIT,
                    "%s; UCX's shared memory takes 4 MiB of /dev/shm for each context: make that larger (docker run "
                    "--shm-size=1g), or leave it out (UCX_TLS=^shm)",
                    own);
}

static weir_status make_worker(struct wi_ucx_iface *iface)
{
    ucp_worker_params_t params = {
        .field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
        .thread_mode = UCS_THREAD_MODE_SERIALIZED,
    };
    struct wi_ucx_ports before;
    wi_ucx_silence_listeners(&before, NULL);
    ucs_status_t status = ucp_worker_create(iface->context, &params, &iface->worker);
    wi_ucx_silence_listeners(&iface->ports, &before);
    if (before.count == WI_UCX_PORTS)
        iface->ports.count = 0; /* too many to tell which are new */
    if (status != UCS_OK) {
        iface->worker = NULL;
        return no_worker(status);
    }
    return wi_ucx_messages_init(iface);
}

static weir_status make_listener(struct wi_ucx_iface *iface)
{
    struct sockaddr_storage address;
    weir_status status = wi_ucx_bind_address(iface->base.params.bind_address, &address);
    if (status != WEIR_OK)
        return status;
    ucp_listener_params_t params = {
        .field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER,
        .sockaddr = {(const struct sockaddr *)&address, wi_ucx_sockaddr_len(&address)},
        .conn_handler = {wi_ucx_conn_request, iface},
    };
    ucs_status_t result = ucp_listener_create(iface->worker, &params, &iface->listener);
    if (result != UCS_OK) {
        char what[128], text[80];
        snprintf(what, sizeof(what), "cannot listen on %s", wi_ucx_sockaddr_text(&address, text, sizeof(text)));
        iface->listener = NULL;
        return wi_ucx_error(result, what);
    }
    ucp_listener_attr_t attr = {.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR};
    result = ucp_listener_query(iface->listener, &attr);
    if (result != UCS_OK)
        return wi_ucx_error(result, "cannot tell the port listened on");
    in_port_t port; /* at the same place for IPv4 and IPv6 */
    memcpy(&port, (const char *)&attr.sockaddr + offsetof(struct sockaddr_in, sin_port), sizeof(port));
    iface->port = ntohs(port);
    wi_ucx_strangers_guard(iface);
    return WEIR_OK;
}

static weir_status make_events(struct wi_ucx_iface *iface)
{
    ucs_status_t status = ucp_worker_get_efd(iface->worker, &iface->event_fd);
    return status == UCS_OK ? WEIR_OK : wi_ucx_error(status, "cannot sleep on events");
}

static weir_status make_signals(struct wi_ucx_iface *iface)
{
    size_t size = (iface->base.params.signals * sizeof(uint64_t) + 63) / 64 * 64;
    iface->base.signals = aligned_alloc(64, size ? size : 64);
    if (!iface->base.signals)
        return wi_error(WEIR_ERR_NO_MEMORY, "UCX: out of memory for %u signals", iface->base.params.signals);
    memset(iface->base.signals, 0, size);
    return WEIR_OK;
}

static void ucx_close(struct wi_iface *base);

static weir_status ucx_open(const struct wi_iface_params *params, struct wi_iface **out)
{
    struct wi_ucx_iface *iface = calloc(1, sizeof(*iface));
    if (!iface)
        return wi_error(WEIR_ERR_NO_MEMORY, "UCX: out of memory for an interface");
    iface->base.ops = &wi_ucx_ops;
    iface->base.params = *params;
    iface->base.wakes_on_signal = true;
    iface->event_fd = -1;
    wi_ucx_process_begin();
    wi_list_init(&iface->links);
    wi_list_init(&iface->todo);
    wi_list_init(&iface->clocked);
    snprintf(iface->base.device, sizeof(iface->base.device), "ucx");
    weir_status status = WEIR_OK;
    if (getrandom(&iface->instance, sizeof(iface->instance), 0) != (ssize_t)sizeof(iface->instance))
        status = wi_error(WEIR_ERR_IO, "UCX: no random number: %s", strerror(errno));
    if (status == WEIR_OK)
        status = make_signals(iface);
    if (status == WEIR_OK)
        status = wi_ucx_pools_init(iface);
    if (status == WEIR_OK)
        status = make_context(iface->base.params.bind_address, &iface->family, &iface->context);
    if (status == WEIR_OK)
        status = make_worker(iface);
    if (status == WEIR_OK)
        status = make_listener(iface);
    if (status == WEIR_OK)
        status = make_events(iface);
    if (status != WEIR_OK) {
        ucx_close(&iface->base);
        return status;
    }
    *out = &iface->base;
    return WEIR_OK;
}

/* The listener goes last, with no progress after it, see drain.c; until then it turns all that comes away. */
static void close_connections(struct wi_ucx_iface *iface)
{
    iface->closing = true;
    for (unsigned i = 0; i < iface->request_count; i++)
        ucp_listener_reject(iface->listener, iface->requests[i]);
    iface->request_count = 0;
    while (!wi_list_empty(&iface->links)) /* the initiators' are closed by now */
        wi_ucx_conn_free(WI_UCX_CONTAINER(iface->links.next, struct wi_ucx_conn, link.node));
    for (int turn = 0; turn < CLOSE_TURNS && ucp_worker_progress(iface->worker); turn++)
        ;
    if (iface->listener) {
        wi_ucx_drain(iface);
        ucp_listener_destroy(iface->listener);
    }
    iface->listener = NULL;
}

static void ucx_close(struct wi_iface *base)
{
    struct wi_ucx_iface *iface = ucx_iface(base);
    if (iface->worker) {
        close_connections(iface);
        ucp_worker_destroy(iface->worker);
    }
    if (iface->context)
        ucp_cleanup(iface->context);
    while (iface->msg_first) {
        struct wi_ucx_message *message = WI_UCX_CONTAINER(iface->msg_first, struct wi_ucx_message, msg);
        iface->msg_first = iface->msg_first->next;
        free(message);
    }
    while (iface->msg_free) {
        struct wi_ucx_message *message = iface->msg_free;
        iface->msg_free = message->free_next;
        free(message);
    }
    wi_ucx_pools_fini(iface);
    wi_map_fini(&iface->conns);
    free(iface->tokens.entries);
    free(iface->exports.entries);
    free(iface->base.signals);
    free(iface);
    wi_ucx_process_end();
}

static weir_status ucx_address(struct wi_iface *iface, void *buf, size_t *len)
{
    return wi_ucx_address_write(ucx_iface(iface), buf, len);
}

/* ---- Progress ---- */

/* Serves links that something has happened to; those that ask again are served next time. */
static unsigned serve_links(struct wi_ucx_iface *iface)
{
    unsigned served = 0;
    struct wi_list now;
    wi_list_take(&now, &iface->todo);
    for (; !wi_list_empty(&now); served++) {
        struct wi_ucx_link *link = WI_UCX_CONTAINER(now.next, struct wi_ucx_link, todo);
        wi_list_remove(&link->todo);
        if (link->initiator)
            wi_ucx_ep_serve(WI_UCX_CONTAINER(link, struct wi_ucx_ep, link));
        else
            wi_ucx_conn_serve(WI_UCX_CONTAINER(link, struct wi_ucx_conn, link));
    }
    return served;
}

static void watch_links(struct wi_ucx_iface *iface)
{
    uint64_t now_ns = wi_now_ns();
    if (now_ns - iface->watch_ns < WATCH_NS)
        return;
    iface->watch_ns = now_ns;
    wi_ucx_silence_watch(iface, now_ns);
    for (struct wi_list *node = iface->clocked.next, *next; node != &iface->clocked; node = next) {
        struct wi_ucx_link *link = WI_UCX_CONTAINER(node, struct wi_ucx_link, clock);
        bool runs = link->initiator ? wi_ucx_ep_watch(WI_UCX_CONTAINER(link, struct wi_ucx_ep, link), now_ns)
                                    : wi_ucx_conn_watch(WI_UCX_CONTAINER(link, struct wi_ucx_conn, link), now_ns);
        next = node->next;
        if (!runs)
            wi_list_remove(node);
    }
}

static unsigned ucx_progress(struct wi_iface *base)
{
    struct wi_ucx_iface *iface = ucx_iface(base);
    unsigned events = ucp_worker_progress(iface->worker);
    if (iface->request_count)
        wi_ucx_conn_accept(iface);
    if (!wi_list_empty(&iface->clocked) || iface->silence_looks > 0)
        watch_links(iface);
    if (__builtin_expect(++iface->turns >= WATCH_TURNS, 0)) {
        iface->turns = 0;
        wi_ucx_strangers_watch(iface);
    }
    if (!wi_list_empty(&iface->todo))
        events += serve_links(iface);
    return events;
}

/* ---- Sleeping ---- */

static int ucx_event_fd(struct wi_iface *iface)
{
    return ucx_iface(iface)->event_fd;
}

static weir_status ucx_arm(struct wi_iface *base)
{
    struct wi_ucx_iface *iface = ucx_iface(base);
    if (!wi_list_empty(&iface->todo) || iface->request_count)
        return WEIR_ERR_AGAIN;
    ucs_status_t status = ucp_worker_arm(iface->worker);
    if (status == UCS_ERR_BUSY)
        return WEIR_ERR_AGAIN;
    return status == UCS_OK ? WEIR_OK : wi_ucx_error(status, "cannot sleep on events");
}

/* UCX takes what made the descriptor readable off itself, when it is armed again. */
static void ucx_disarm(struct wi_iface *base)
{
    ucx_iface(base)->turns = WATCH_TURNS; /* turns do not tell how long it slept */
}

const struct wi_transport_ops wi_ucx_ops = {
    .name = "ucx",
    .wire_id = 2,
    .probe = ucx_probe,
    .open = ucx_open,
    .close = ucx_close,
    .address = ucx_address,
    .mem_register = wi_ucx_mem_register,
    .mem_deregister = wi_ucx_mem_deregister,
    .mem_alloc = wi_ucx_mem_alloc,
    .mem_export = wi_ucx_mem_export,
    .mem_unexport = wi_ucx_mem_unexport,
    .rkey_import = wi_ucx_rkey_import,
    .rkey_destroy = wi_ucx_rkey_destroy,
    .rkey_map = wi_ucx_rkey_map,
    .ep_create = wi_ucx_ep_create,
    .ep_connect = wi_ucx_ep_connect,
    .ep_reset = wi_ucx_ep_reset,
    .ep_query = wi_ucx_ep_query,
    .ep_close = wi_ucx_ep_close,
    .put = wi_ucx_put,
    .get = wi_ucx_get,
    .put_signal = wi_ucx_put_signal,
    .fetch_add = wi_ucx_fetch_add,
    .send = wi_ucx_send,
    .flush = wi_ucx_flush,
    .progress = ucx_progress,
    .msg_peek = wi_ucx_msg_peek,
    .msg_pop = wi_ucx_msg_pop,
    .event_fd = ucx_event_fd,
    .arm = ucx_arm,
    .disarm = ucx_disarm,
};
