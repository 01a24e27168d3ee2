/*
 * Windows on exported memory, for the target's side: a peer that knows an export's token is granted a memory window of
 * type 2. The device binds it to the range and to the queue pair of that peer's connection, so the window's key is of
 * no use on any other connection and for nothing else. It ends with the region, the connection, or when the peer gives
 * it back, whichever is first: closing a window revokes its key at once.
 *
 * soft-RoCE that has to send a write again carries out anew what was posted behind it: also the binding of a window, which
 * fails the second time. Its queue pair then drops all that arrives, without a completion (rxe_req.c and rxe_recv.c of
 * Linux 6.1). There a window is bound only when all that the link has sent before was acknowledged.
 */
#include "core/clock.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BIND_NS = 100000000 }; /* how long to wait for a device that binds */

struct verbs_window {
    struct ibv_mw *mw;
    uint32_t rkey;
    uint32_t bind; /* which one of the link's replies bound it */
    struct verbs_link *link;
    struct verbs_export *export;
    struct verbs_window *link_next, *link_prev;
    struct verbs_window *export_next, *export_prev;
};

static void window_add(struct verbs_window *window)
{
    struct verbs_link *link = window->link;
    struct verbs_export *export = window->export;
    window->link_next = link->windows;
    if (link->windows)
        link->windows->link_prev = window;
    link->windows = window;
    link->window_count++;
    window->export_next = export->windows;
    if (export->windows)
        export->windows->export_prev = window;
    export->windows = window;
}

static void window_remove(struct verbs_window *window)
{
    if (window->link_next)
        window->link_next->link_prev = window->link_prev;
    if (window->link_prev)
        window->link_prev->link_next = window->link_next;
    else
        window->link->windows = window->link_next;
    if (window->export_next)
        window->export_next->export_prev = window->export_prev;
    if (window->export_prev)
        window->export_prev->export_next = window->export_next;
    else
        window->export->windows = window->export_next;
    window->link->window_count--;
}

static void window_close(struct verbs_window *window)
{
    int error = ibv_dealloc_mw(window->mw);
    if (error)
        wi_warn("verbs: a window for rank %llu could not be closed: %s", (unsigned long long)window->link->peer_id,
                strerror(error));
    window_remove(window);
    free(window);
}

/* Closing a window while it is being bound would break the connection. */
static bool is_bound(const struct verbs_window *window)
{
    return (int32_t)(window->link->replies_done - window->bind) > 0 || window->link->failed;
}

/* Polling may close windows too: peers give them back. */
void wi_verbs_windows_revoke(struct verbs_iface *iface, struct verbs_export *export)
{
    uint64_t end_ns = wi_now_ns() + BIND_NS;
    while (export->windows) {
        if (is_bound(export->windows) || wi_now_ns() > end_ns)
            window_close(export->windows);
        else
            wi_verbs_poll(iface);
    }
}

void wi_verbs_windows_end(struct verbs_link *link)
{
    while (link->windows)
        window_close(link->windows);
}

/* Binds a window; the answer that is posted behind it leaves the device when it is in force. */
static uint8_t grant(struct verbs_iface *iface, struct verbs_link *link, struct verbs_export *export, uint32_t *rkey)
{
    if (link->window_count >= WI_VERBS_WINDOWS_MAX)
        return WI_VERBS_NO_WINDOWS_LEFT;
    struct verbs_window *window = calloc(1, sizeof(*window));
    if (!window)
        return WI_VERBS_NO_WINDOWS_LEFT;
    window->mw = ibv_alloc_mw(iface->device.pd, IBV_MW_TYPE_2);
    if (!window->mw) {
        wi_warn("%s: no window for rank %llu: %s", iface->base.device, (unsigned long long)link->peer_id,
                strerror(errno));
        free(window);
        return WI_VERBS_NO_WINDOWS_LEFT;
    }
    window->rkey = ibv_inc_rkey(window->mw->rkey);
    window->link = link;
    window->export = export;
    window_add(window);
    struct ibv_send_wr wr = {.opcode = IBV_WR_BIND_MW};
    wr.bind_mw.mw = window->mw;
    wr.bind_mw.rkey = window->rkey;
    wr.bind_mw.bind_info = (struct ibv_mw_bind_info){
        .mr = export->mr,
        .addr = export->addr,
        .length = export->len,
        .mw_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
                           (iface->device.atomics ? (unsigned)IBV_ACCESS_REMOTE_ATOMIC : 0),
    };
    window->bind = link->replies_posted;
    wi_verbs_reply_post(iface, link, &wr);
    *rkey = window->rkey;
    return WI_VERBS_GRANTED;
}

static uint8_t take_back(struct verbs_link *link, uint32_t rkey)
{
    struct verbs_window *window = link->windows;
    while (window && window->rkey != rkey)
        window = window->link_next;
    if (!window)
        return WI_VERBS_REFUSED; /* it was revoked meanwhile */
    window_close(window);
    return WI_VERBS_GRANTED;
}

static void serve(struct verbs_iface *iface, struct verbs_link *link, unsigned slot)
{
    unsigned char copy[WI_VERBS_REQUEST_SIZE]; /* out of where the peer could still change it */
    memcpy(copy, link->ring + WI_VERBS_REQUESTS_AT + slot * WI_VERBS_REQUEST_SIZE, sizeof(copy));
    struct wi_verbs_request request;
    struct wi_verbs_answer answer = {.status = WI_VERBS_REFUSED};
    if (!wi_verbs_request_decode(copy, &request)) {
        wi_warn("verbs: rank %llu sent a request that makes no sense", (unsigned long long)link->peer_id);
    } else if (request.kind == WI_VERBS_GIVE_WINDOW) {
        answer.status = take_back(link, request.rkey);
    } else {
        struct verbs_export *export = wi_verbs_export_find(iface, &request);
        if (export && export->len > 0)
            answer.status = grant(iface, link, export, &answer.rkey);
        else
            wi_info("verbs: rank %llu asked for memory that is not exported, or not any more",
                    (unsigned long long)link->peer_id);
    }
    answer.sequence = request.sequence;
    if (link->failed)
        return;
    uint64_t word = wi_verbs_answer_encode(&answer);
    wi_verbs_reply(iface, link, WI_VERBS_WORD_ANSWERS + slot, 1, &word);
}

void wi_verbs_window_asked(struct verbs_iface *iface, struct verbs_link *link, uint32_t slot)
{
    if (slot >= WI_VERBS_REQUESTS)
        return;
    link->asked |= 1u << slot;
    wi_verbs_owe(iface, link);
}

static bool may_bind(const struct verbs_iface *iface, const struct verbs_link *link)
{
    return wi_verbs_reply_room(iface, link, 2) &&
           (!iface->device.binds_again || link->replies_done == link->replies_posted);
}

void wi_verbs_windows_serve(struct verbs_iface *iface, struct verbs_link *link)
{
    while (link->asked && may_bind(iface, link)) {
        unsigned slot = (unsigned)__builtin_ctz(link->asked);
        link->asked &= link->asked - 1;
        serve(iface, link, slot);
    }
}
