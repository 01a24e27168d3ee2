/*
 * Puts, gets, fetch_adds, signals and flushes.
 *
 * A signal follows its put as an active message, or in the put's own where puts are emulated. Where the transport may
 * let it pass the put (lanes.c) it waits until a flush of UCX, the fence, has ended: it is deferred, and so is each
 * later signal and flush message until none is left.
 *
 * A flush has ended when UCX says that all native operations are done, the peer has answered all questions and, if
 * messages were sent since the last one, has answered a flush message, which comes behind them.
 */
#include "core/error.h"
#include "transport/ucx/ucx.h"

/* Room for an operation of the user that needs up to three slots? Some are left for what
 * the two sides tell each other. */
static bool has_room(const struct wi_ucx_ep *ep)
{
    return ep->link.iface->slot_free_count >= WI_UCX_SLOTS_RESERVE + 3;
}

/* UCX's key for a native operation; unpacked at the first use if the endpoint was not ready before. */
static weir_status native_key(struct wi_ucx_ep *ep, struct weir_rkey *base, ucp_rkey_h *key)
{
    struct wi_ucx_rkey *rkey = WI_UCX_CONTAINER(base, struct wi_ucx_rkey, base);
    bool usable = rkey->ucp && rkey->again == ep->again;
    weir_status status = __builtin_expect(usable, 1) ? WEIR_OK : wi_ucx_rkey_unpack(rkey, ep);
    *key = rkey->ucp;
    return status;
}

static ucp_request_param_t op_params(struct wi_ucx_slot *slot)
{
    return (ucp_request_param_t){
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
        .cb.send = wi_ucx_slot_done,
        .user_data = slot,
        .memory_type = UCS_MEMORY_TYPE_HOST,
    };
}

static struct wi_ucx_ep *ucx_ep(struct weir_ep *ep)
{
    return WI_UCX_CONTAINER(ep, struct wi_ucx_ep, base);
}

static weir_status native_put(struct wi_ucx_ep *ep, const void *local, size_t len, uint64_t remote_addr,
                              struct weir_rkey *rkey, weir_comp *comp)
{
    ucp_rkey_h key;
    weir_status status = native_key(ep, rkey, &key);
    if (status != WEIR_OK)
        return status;
    struct wi_ucx_slot *slot = wi_ucx_slot_get(&ep->link, comp);
    ucp_request_param_t params = op_params(slot);
    return wi_ucx_slot_started(slot, ucp_put_nbx(ep->link.ucp, local, len, remote_addr, key, &params), "cannot put");
}

weir_status wi_ucx_put(struct weir_ep *base, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *rkey, weir_comp *comp)
{
    (void)mr;
    struct wi_ucx_ep *ep = ucx_ep(base);
    if (!has_room(ep))
        return WEIR_ERR_AGAIN;
    return ep->native ? native_put(ep, local, len, remote_addr, rkey, comp)
                      : wi_ucx_emulate_put(ep, local, len, remote_addr, rkey, WI_UCX_NO_SIGNAL, comp);
}

weir_status wi_ucx_get(struct weir_ep *base, void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *rkey, weir_comp *comp)
{
    (void)mr;
    struct wi_ucx_ep *ep = ucx_ep(base);
    if (!ep->native)
        return wi_ucx_ask(ep, WI_UCX_AM_GET, local, len, len, remote_addr, rkey, comp);
    ucp_rkey_h key;
    weir_status status = has_room(ep) ? native_key(ep, rkey, &key) : WEIR_ERR_AGAIN;
    if (status != WEIR_OK)
        return status;
    struct wi_ucx_slot *slot = wi_ucx_slot_get(&ep->link, comp);
    ucp_request_param_t params = op_params(slot);
    return wi_ucx_slot_started(slot, ucp_get_nbx(ep->link.ucp, local, len, remote_addr, key, &params), "cannot get");
}

/* Carried out by the target's CPU under every transport, so that all initiators exclude each other. */
weir_status wi_ucx_fetch_add(struct weir_ep *base, uint64_t value, uint64_t *result, struct wi_mr *mr,
                             uint64_t remote_addr, struct weir_rkey *rkey, weir_comp *comp)
{
    (void)mr;
    return wi_ucx_ask(ucx_ep(base), WI_UCX_AM_FETCH_ADD, result, sizeof(*result), value, remote_addr, rkey, comp);
}

/* ---- Fences ---- */

static void fence_done(void *request, ucs_status_t status, void *arg)
{
    struct wi_ucx_slot *slot = arg;
    if (slot->link && slot->link->status == WEIR_OK) { /* a fence fails with its endpoint only */
        WI_UCX_CONTAINER(slot->link, struct wi_ucx_ep, link)->fence_done = slot->number;
        wi_ucx_todo(slot->link);
    }
    wi_ucx_slot_done(request, status, arg);
}

/* Starts a fence behind all that was posted so far; it may be over at once. WEIR_ERR_AGAIN: no slot now. */
static weir_status fence_start(struct wi_ucx_ep *ep)
{
    struct wi_ucx_slot *slot = wi_ucx_slot_get(&ep->link, NULL);
    if (!slot)
        return WEIR_ERR_AGAIN;
    slot->number = ++ep->fence_started;
    ucp_request_param_t params = op_params(slot);
    params.cb.send = fence_done;
    ucs_status_ptr_t result = ucp_ep_flush_nbx(ep->link.ucp, &params);
    if (result == NULL)
        ep->fence_done = ep->fence_started;
    return wi_ucx_slot_started(slot, result, "cannot fence");
}

static void lose_link(struct wi_ucx_ep *ep)
{
    wi_ucx_link_end(&ep->link, WEIR_ERR_PEER_GONE, UCS_ERR_CONNECTION_RESET);
}

/* Sends pieces of puts, and what is behind a fence that has ended; starts the fence that the others need. */
void wi_ucx_deferred_serve(struct wi_ucx_ep *ep)
{
    while (!wi_list_empty(&ep->deferred)) {
        struct wi_ucx_slot *slot = (struct wi_ucx_slot *)(void *)ep->deferred.next;
        if (slot->id == WI_UCX_AM_PUT) {
            wi_ucx_pieces_post(ep, slot);
            if (!wi_list_empty(&ep->deferred) && ep->deferred.next == &slot->node)
                return;
            continue;
        }
        if (slot->number <= ep->fence_done) {
            wi_list_remove(&slot->node);
            wi_list_append(&ep->link.slots, &slot->node);
            if (wi_ucx_am_post(slot) != WEIR_OK)
                lose_link(ep);
            continue;
        }
        if (ep->fence_done < ep->fence_started)
            return;
        weir_status status = fence_start(ep);
        if (status == WEIR_ERR_AGAIN)
            wi_ucx_todo(&ep->link);
        else if (status != WEIR_OK)
            lose_link(ep);
        if (status != WEIR_OK)
            return;
    }
}

/*
 * Sends a short message for which a slot is free. `behind_puts`: it must not pass the puts before it. From here on it
 * is posted: a failure ends the endpoint.
 */
static void send_in_order(struct wi_ucx_ep *ep, enum wi_ucx_am id, const void *data, size_t len, bool behind_puts)
{
    struct wi_ucx_slot *slot = wi_ucx_slot_get(&ep->link, NULL);
    wi_ucx_am_fill(slot, id, data, len);
    ep->unacked = id == WI_UCX_AM_SIGNAL;
    if (!(ep->fenced && behind_puts) && wi_list_empty(&ep->deferred)) {
        if (wi_ucx_am_post(slot) != WEIR_OK)
            lose_link(ep);
        return;
    }
    slot->number = ep->fenced ? ep->fence_started + 1 : 0; /* the one that runs may have begun before our put */
    wi_list_remove(&slot->node);
    wi_list_append(&ep->deferred, &slot->node);
    wi_ucx_deferred_serve(ep);
}

weir_status wi_ucx_put_signal(struct weir_ep *base, const void *local, struct wi_mr *mr, size_t len,
                              uint64_t remote_addr, struct weir_rkey *rkey, uint32_t signal, weir_comp *comp)
{
    (void)mr;
    struct wi_ucx_ep *ep = ucx_ep(base);
    if (!has_room(ep))
        return WEIR_ERR_AGAIN;
    if (len > 0 && !ep->native)
        return wi_ucx_emulate_put(ep, local, len, remote_addr, rkey, signal, comp);
    weir_status status = len > 0 ? native_put(ep, local, len, remote_addr, rkey, comp) : WEIR_OK;
    if (status != WEIR_OK)
        return status;
    struct wi_ucx_signal message = {ep->link.peer_token, signal};
    send_in_order(ep, WI_UCX_AM_SIGNAL, &message, sizeof(message), true);
    return WEIR_OK;
}

/* ---- Flushes ---- */

/* UCX has flushed. Not the end yet: UCX says so as well just before it tells that the endpoint is lost. */
static void flush_done(void *request, ucs_status_t status, void *arg)
{
    struct wi_ucx_slot *slot = arg;
    struct wi_ucx_link *link = slot->link;
    if (!link || link->status != WEIR_OK) {
        wi_ucx_slot_done(request, status == UCS_OK ? UCS_ERR_CANCELED : status, arg);
        return;
    }
    ucp_request_free(request);
    slot->posted = false;
    slot->status = wi_ucx_status(status);
    wi_ucx_todo(link);
}

void wi_ucx_flushes_serve(struct wi_ucx_ep *ep)
{
    while (!wi_list_empty(&ep->flushes)) {
        struct wi_ucx_slot *slot = (struct wi_ucx_slot *)(void *)ep->flushes.next;
        if (slot->posted || slot->number > ep->flush_acked || slot->asked > ep->answered)
            return;
        bool refused = ep->refused != ep->refused_told;
        ep->refused_told = ep->refused;
        wi_ucx_slot_end(slot, refused ? WEIR_ERR_KEY : slot->status);
    }
}

weir_status wi_ucx_flush(struct weir_ep *base, weir_comp *comp)
{
    struct wi_ucx_ep *ep = ucx_ep(base);
    if (!has_room(ep))
        return WEIR_ERR_AGAIN;
    struct wi_ucx_slot *slot = wi_ucx_slot_get(&ep->link, comp);
    ucp_request_param_t params = op_params(slot);
    params.cb.send = flush_done;
    ucs_status_ptr_t result = ep->native ? ucp_ep_flush_nbx(ep->link.ucp, &params) : NULL;
    if (UCS_PTR_IS_ERR(result))
        return wi_ucx_slot_started(slot, result, "cannot flush");
    if (ep->unacked) {
        struct wi_ucx_flush message = {ep->link.peer_token, ++ep->flush_asked};
        send_in_order(ep, WI_UCX_AM_FLUSH, &message, sizeof(message), false);
    }
    slot->posted = result != NULL;
    slot->number = ep->flush_asked;
    slot->asked = ep->asked;
    wi_ucx_slot_count(slot);
    wi_list_remove(&slot->node);
    wi_list_append(&ep->flushes, &slot->node);
    wi_ucx_flushes_serve(ep);
    return WEIR_OK;
}
