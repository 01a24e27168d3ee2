/* The verbs backend: its interface, progress, sleeping, and the table of its operations. */
#include "transport/verbs/verbs.h"

#include "core/clock.h"
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    TURNS_PER_LOOK = 16,         /* progress() reads the clock once in so many calls */
    LOOK_CONNECTING_NS = 500000, /* and looks at the slow descriptors after this time, while it waits for them */
    LOOK_IDLE_NS = 5000000,      /* otherwise */
    EVENTS_PER_ACK = 256,
};

/* ---- Interface --------------------------------------------------------------------------------------------------- */

static weir_status probe(void)
{
    struct verbs_choice choices[WI_VERBS_RAILS_MAX];
    unsigned count;
    return wi_verbs_choose(NULL, choices, &count);
}

static weir_status open_epoll(struct verbs_iface *iface)
{
    const int fds[] = {iface->device.wakeups->fd, iface->channel->fd, iface->device.context->async_fd};
    iface->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (size_t i = 0; iface->epoll_fd >= 0 && i < sizeof(fds) / sizeof(fds[0]); i++) {
        struct epoll_event event = {.events = EPOLLIN};
        if (epoll_ctl(iface->epoll_fd, EPOLL_CTL_ADD, fds[i], &event))
            return wi_error(WEIR_ERR_IO, "verbs: descriptor to sleep on: %s", strerror(errno));
    }
    /* By its edges: what makes it readable may be for others, and stay. */
    struct epoll_event news = {.events = EPOLLIN | EPOLLET};
    if (iface->epoll_fd >= 0 && iface->exchange && iface->exchange->fd >= 0 &&
        epoll_ctl(iface->epoll_fd, EPOLL_CTL_ADD, iface->exchange->fd, &news))
        return wi_error(WEIR_ERR_IO, "verbs: the exchange's descriptor: %s", strerror(errno));
    return iface->epoll_fd >= 0 ? WEIR_OK : wi_error(WEIR_ERR_IO, "verbs: no epoll descriptor: %s", strerror(errno));
}

/* Safe on an interface that was made by half. */
static void close_iface(struct wi_iface *base)
{
    struct verbs_iface *iface = verbs_iface(base);
    wi_verbs_offers_close(iface);
    wi_verbs_links_free(iface);
    wi_verbs_unlisten(iface);
    if (iface->epoll_fd >= 0)
        close(iface->epoll_fd);
    if (iface->events_unacked > 0)
        ibv_ack_cq_events(iface->device.cq, iface->events_unacked);
    wi_verbs_device_close(&iface->device);
    if (!iface->fences)
        free(iface->base.signals);
    wi_map_fini(&iface->links_by_stream);
    wi_map_fini(&iface->links_by_qp);
    free(iface->eps);
    free(iface->eps_free);
    free(iface->msg);
    free(iface);
}

/* The first step that fails is the last one taken. */
static weir_status open_steps(struct verbs_iface *iface)
{
    weir_status status = wi_verbs_device_open(&iface->device, &iface->choice);
    if (status != WEIR_OK)
        return status;
    iface->gaps_before = iface->gaps_seen = wi_verbs_gaps(&iface->choice);
    iface->cq_room = iface->device.cq_depth - iface->device.srq_depth;
    iface->srq_used = iface->device.srq_depth;
    status = wi_verbs_receives_post(iface);
    if (status == WEIR_OK) {
        wi_verbs_receives_watch(iface);
        status = wi_verbs_listen(iface);
    }
    return status == WEIR_OK ? open_epoll(iface) : status;
}

weir_status wi_verbs_open_one(const struct wi_iface_params *params, const struct verbs_choice *choice,
                              uint64_t *signals, struct verbs_fences *fences, struct verbs_iface **out)
{
    struct verbs_iface *iface = calloc(1, sizeof(*iface));
    if (!iface)
        return wi_error(WEIR_ERR_NO_MEMORY, "verbs: out of memory");
    iface->base.ops = &wi_verbs_ops;
    iface->base.params = *params;
    iface->base.wakes_on_signal = true;
    iface->base.signals = signals;
    iface->fences = fences;
    iface->choice = *choice;
    iface->exchange = wi_config()->verbs_connect == WI_VERBS_CONNECT_STORE ? params->exchange : NULL;
    iface->epoll_fd = -1;
    iface->look_now = true;
    wi_list_init(&iface->links);
    wi_list_init(&iface->offering);
    wi_list_init(&iface->unheard);
    snprintf(iface->base.device, sizeof(iface->base.device), "%.58s:%u", choice->device, choice->port);
    iface->msg = malloc(sizeof(struct wi_msg) + WEIR_MSG_MAX);
    weir_status status = iface->msg ? open_steps(iface) : wi_error(WEIR_ERR_NO_MEMORY, "verbs: out of memory");
    if (status != WEIR_OK) {
        if (!fences)
            iface->base.signals = NULL; /* the caller's until this succeeds */
        close_iface(&iface->base);
        return status;
    }
    *out = iface;
    return WEIR_OK;
}

/* ---- Progress ---------------------------------------------------------------------------------------------------- */

/* Connections and device events: behind system calls, so looked at now and then only. */
static unsigned look(struct verbs_iface *iface)
{
    struct pollfd fds[] = {{.fd = iface->channel->fd, .events = POLLIN},
                           {.fd = iface->device.context->async_fd, .events = POLLIN}};
    unsigned count = 0;
    iface->look_now = false;
    iface->look_ns = wi_now_ns();
    poll(fds, 2, 0);
    if (fds[1].revents)
        count += wi_verbs_events(iface);
    if (iface->addresses_changed && !iface->port_down)
        wi_verbs_listen_anew(iface);
    if (fds[0].revents)
        count += wi_verbs_cm_progress(iface);
    if (iface->exchange)
        count += wi_verbs_offers_progress(iface);
    if (iface->suspects && !iface->exchange)
        wi_verbs_suspects(iface);
    wi_verbs_keepalive(iface, iface->look_ns);
    if (iface->links_failed)
        wi_verbs_links_end_failed(iface);
    return count;
}

static bool time_to_look(struct verbs_iface *iface)
{
    if (iface->look_now)
        return true;
    if (++iface->turns % TURNS_PER_LOOK != 0)
        return false;
    bool connecting = iface->connecting || !wi_list_empty(&iface->unheard) || iface->suspects;
    return wi_now_ns() - iface->look_ns > (connecting ? LOOK_CONNECTING_NS : LOOK_IDLE_NS);
}

WI_NEAR static unsigned progress(struct wi_iface *base)
{
    struct verbs_iface *iface = verbs_iface(base);
    iface->rounds++;
    if (iface->holding)
        wi_verbs_ring_all(iface);
    unsigned count = wi_verbs_poll(iface);
    if (__builtin_expect(iface->rests != NULL, 0))
        wi_verbs_queue_rests(iface);
    if (__builtin_expect(iface->asking != NULL, 0))
        wi_verbs_keys_progress(iface);
    if (__builtin_expect(time_to_look(iface), 0))
        count += look(iface);
    return count;
}

/* ---- Sleeping ---------------------------------------------------------------------------------------------------- */

static int event_fd(struct wi_iface *base)
{
    return verbs_iface(base)->epoll_fd;
}

/* An event is asked for first, then the queue is looked at: what comes in between is seen by one of them. */
static weir_status arm(struct wi_iface *base)
{
    struct verbs_iface *iface = verbs_iface(base);
    if (iface->holding)
        wi_verbs_ring_all(iface);
    if (!iface->armed) {
        int error = ibv_req_notify_cq(iface->device.cq, 0);
        if (error)
            return wi_error(WEIR_ERR_IO, "%s: no completion event can be asked for: %s", base->device, strerror(error));
        iface->armed = true;
    }
    return wi_verbs_poll(iface) > 0 ? WEIR_ERR_AGAIN : WEIR_OK;
}

static void disarm(struct wi_iface *base)
{
    struct verbs_iface *iface = verbs_iface(base);
    struct ibv_cq *cq;
    void *context;
    while (ibv_get_cq_event(iface->device.wakeups, &cq, &context) == 0) {
        iface->armed = false;
        iface->events_unacked++;
    }
    if (iface->events_unacked >= EVENTS_PER_ACK) {
        ibv_ack_cq_events(iface->device.cq, iface->events_unacked);
        iface->events_unacked = 0;
    }
    iface->look_now = true;
}

const struct wi_transport_ops wi_verbs_ops = {
    .name = "verbs",
    .wire_id = 3,
    .probe = probe,
    .open = wi_verbs_open,
    .close = close_iface,
    .address = wi_verbs_list_address,
    .mem_register = wi_verbs_mem_register,
    .mem_register_dmabuf = wi_verbs_mem_register_dmabuf,
    .mem_deregister = wi_verbs_mem_deregister,
    .mem_export = wi_verbs_list_export,
    .mem_unexport = wi_verbs_mem_unexport,
    .rkey_import = wi_verbs_list_import,
    .rkey_destroy = wi_verbs_rkey_destroy,
    .ep_create = wi_verbs_list_ep_create,
    .ep_connect = wi_verbs_ep_connect,
    .ep_reset = wi_verbs_ep_reset,
    .ep_query = wi_verbs_ep_query,
    .ep_path = wi_verbs_ep_path,
    .ep_close = wi_verbs_ep_close,
    .put = wi_verbs_put,
    .get = wi_verbs_get,
    .put_signal = wi_verbs_put_signal,
    .fetch_add = wi_verbs_fetch_add,
    .send = wi_verbs_send,
    .flush = wi_verbs_flush,
    .progress = progress,
    .msg_peek = wi_verbs_msg_peek,
    .msg_pop = wi_verbs_msg_pop,
    .event_fd = event_fd,
    .arm = arm,
    .disarm = disarm,
};
