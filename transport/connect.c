/*
 * Connecting: endpoints are made without, and connect when they are used for the first time. An endpoint that has ended
 * can be connected again, when its user says so.
 */
#include "core/clock.h"
#include "core/error.h"
#include "transport/context.h"

#include <stdio.h>

weir_status wi_ep_start(struct weir_ep *ep)
{
    if (ep->started || ep->status != WEIR_OK)
        return ep->status;
    ep->started = true;
    weir_status status = ep->ops->ep_connect(ep);
    if (status != WEIR_OK) {
        char cause[sizeof(ep->sentence)];
        snprintf(cause, sizeof(cause), "%s", weir_last_error());
        wi_ep_fail(ep, status, "connecting to rank %llu: %s", (unsigned long long)ep->peer_id, cause);
    }
    return ep->status;
}

weir_status weir_ep_connect(weir_ep *ep)
{
    struct weir_ctx *ctx = ep->ctx;
    weir_status status = wi_process_check(ctx, "weir_ep_connect");
    if (status != WEIR_OK)
        return status;
    wi_ctx_lock(ctx);
    wi_ep_start(ep);
    wi_ctx_unlock(ctx);
    return weir_ep_status(ep);
}

weir_status weir_ep_wait_ready(weir_ep *ep, int timeout_ms)
{
    struct weir_ctx *ctx = ep->ctx;
    weir_status status = weir_ep_connect(ep);
    if (status != WEIR_OK)
        return status;
    uint64_t bound_ns = timeout_ms < 0 ? ctx->timeout_ns : (uint64_t)timeout_ms * WI_NS_PER_MS;
    uint64_t end_ns = wi_now_ns() + bound_ns;
    while (!__atomic_load_n(&ep->ready, __ATOMIC_ACQUIRE) && ep->status == WEIR_OK) {
        uint64_t now_ns = wi_now_ns();
        if (now_ns >= end_ns)
            return wi_error(WEIR_ERR_TIMEOUT, "rank %llu did not accept the %s connection within %.1f s; is it alive?",
                            (unsigned long long)ep->peer_id, ep->ops->name, (double)bound_ns / 1e9);
        weir_ctx_block(ctx, (int)((end_ns - now_ns) / WI_NS_PER_MS) + 1);
    }
    return weir_ep_status(ep);
}

/* Under the lock. */
static weir_status reset(struct weir_ep *ep)
{
    if (!ep->ops->ep_reset)
        return wi_error(WEIR_ERR_UNSUPPORTED, "rank %llu: an endpoint over %s cannot be connected again",
                        (unsigned long long)ep->peer_id, ep->ops->name);
    weir_status status = ep->ops->ep_reset(ep);
    if (status != WEIR_OK)
        return status;
    ep->started = false;
    __atomic_store_n(&ep->ready, false, __ATOMIC_RELEASE);
    __atomic_store_n(&ep->status, WEIR_OK, __ATOMIC_RELEASE);
    return WEIR_OK;
}

weir_status weir_ep_reconnect(weir_ep *ep)
{
    struct weir_ctx *ctx = ep->ctx;
    weir_status status = wi_process_check(ctx, "weir_ep_reconnect");
    if (status != WEIR_OK)
        return status;
    wi_ctx_lock(ctx);
    status = ep->status == WEIR_OK ? WEIR_OK : reset(ep);
    if (status == WEIR_OK)
        status = wi_ep_start(ep) == WEIR_OK ? WEIR_OK : weir_ep_status(ep);
    wi_ctx_unlock(ctx);
    return status;
}
