/* Endpoints: which backend leads to a peer, and what has become of the connection. */
#include "core/error.h"
#include "core/log.h"
#include "transport/blob.h"
#include "transport/context.h"
#include "transport/loan.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void wi_ep_fail(struct weir_ep *ep, weir_status status, const char *format, ...)
{
    if (ep->status != WEIR_OK)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(ep->sentence, sizeof(ep->sentence), format, args);
    va_end(args);
    __atomic_store_n(&ep->status, status, __ATOMIC_RELEASE); /* weir_ep_status() reads without the lock */
    if (ep->ctx) {
        wi_stat_add(&ep->stats->failures, 1);
        ep->ended = __atomic_add_fetch(&ep->ctx->ep_failures, 1, __ATOMIC_RELEASE);
        ep->ctx->stirred = true;
    }
    wi_error(status, "%s", ep->sentence);
    wi_info("endpoint to rank %llu has ended: %s", (unsigned long long)ep->peer_id, ep->sentence);
}

static void list_add(struct weir_ctx *ctx, struct weir_ep *ep)
{
    ep->prev = NULL;
    ep->next = ctx->eps;
    if (ctx->eps)
        ctx->eps->prev = ep;
    ctx->eps = ep;
}

static void list_remove(struct weir_ctx *ctx, struct weir_ep *ep)
{
    if (ep->prev)
        ep->prev->next = ep->next;
    else
        ctx->eps = ep->next;
    if (ep->next)
        ep->next->prev = ep->prev;
}

/* Lists the backends that an address and the context have, for the error that they have none in common. */
static weir_status none_in_common(const struct weir_ctx *ctx, const struct wi_blob *blob)
{
    static const struct {
        unsigned char wire_id;
        const char *name;
    } known[] = {{WI_WIRE_SHM, "shm"}, {WI_WIRE_UCX, "ucx"}, {WI_WIRE_VERBS, "verbs"}, {WI_WIRE_SIM, "sim"}};
    char ours[64] = "", theirs[64] = "";
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        size_t len;
        for (int k = 0; k < ctx->iface_count; k++)
            if (ctx->iface[k]->ops->wire_id == known[i].wire_id)
                snprintf(ours + strlen(ours), sizeof(ours) - strlen(ours), " %s", known[i].name);
        if (wi_blob_section(blob, known[i].wire_id, &len))
            snprintf(theirs + strlen(theirs), sizeof(theirs) - strlen(theirs), " %s", known[i].name);
    }
    return wi_error(WEIR_ERR_PEER_UNREACHABLE,
                    "rank %llu%s: no transport in common: here%s, there%s; set the same WEIR_TRANSPORT on all ranks",
                    (unsigned long long)blob->field[0], blob->field[1] == ctx->host ? "" : " on another host", ours,
                    theirs);
}

/* Tries one interface; the peer's part of the address for it may be absent. */
static weir_status try_iface(struct weir_ctx *ctx, struct wi_iface *iface, const struct wi_blob *blob,
                             struct weir_ep **ep)
{
    size_t len;
    const void *section = wi_blob_section(blob, iface->ops->wire_id, &len);
    if (!section || (iface->ops->wire_id == WI_WIRE_SHM && blob->field[1] != ctx->host))
        return WEIR_ERR_UNSUPPORTED;
    weir_status status = iface->ops->ep_create(iface, section, len, ep);
    if (status != WEIR_OK)
        return wi_error_prefix(status, "endpoint to rank %llu", (unsigned long long)blob->field[0]);
    (*ep)->ctx = ctx;
    (*ep)->iface = iface;
    (*ep)->ops = iface->ops;
    (*ep)->peer_id = blob->field[0];
    (*ep)->stats = wi_stats_peer(&ctx->stats, blob->field[0], iface->ops->name);
    list_add(ctx, *ep);
    wi_debug("endpoint to rank %llu over %s", (unsigned long long)(*ep)->peer_id, iface->ops->name);
    return WEIR_OK;
}

weir_status weir_ep_create(weir_ctx *ctx, const void *address, size_t len, weir_ep **ep)
{
    struct wi_blob blob;
    const char *why;
    weir_status status = wi_process_check(ctx, "weir_ep_create");
    if (status != WEIR_OK)
        return status;
    if (wi_blob_read(address, len, WI_BLOB_ADDRESS, &blob, &why) != WEIR_OK)
        return wi_error(WEIR_ERR_PROTOCOL, "this is not the address of a Weir context: %s", why);
    wi_ctx_lock(ctx);
    /* Shared memory is opened first, so it is tried first. */
    status = WEIR_ERR_UNSUPPORTED;
    for (int i = 0; i < ctx->iface_count && status != WEIR_OK; i++) {
        weir_status now = try_iface(ctx, ctx->iface[i], &blob, ep);
        if (now != WEIR_ERR_UNSUPPORTED)
            status = now;
        if (now != WEIR_OK && now != WEIR_ERR_UNSUPPORTED)
            wi_info("%s is not used: %s", ctx->iface[i]->ops->name, weir_last_error());
    }
    if (status == WEIR_ERR_UNSUPPORTED)
        status = none_in_common(ctx, &blob);
    wi_ctx_unlock(ctx);
    return status;
}

void wi_ep_close(struct weir_ep *ep)
{
    struct weir_ctx *ctx = ep->ctx;
    list_remove(ctx, ep);
    ep->ops->ep_close(ep);
    wi_loans_settle(ctx);
    if (ctx->stats.samples_busy > 0) /* their users' completions may go after this */
        wi_samples_collect(&ctx->stats);
}

void weir_ep_close(weir_ep *ep)
{
    if (!ep || wi_in_child(ep->ctx))
        return;
    struct weir_ctx *ctx = ep->ctx;
    wi_ctx_lock(ctx);
    wi_ep_close(ep);
    ctx->stirred = true; /* what was outstanding has ended, and the backend may have handled more on the way */
    wi_ctx_unlock(ctx);
}

weir_status weir_ep_status(const weir_ep *ep)
{
    if (wi_in_child(ep->ctx))
        return wi_process_check(ep->ctx, "weir_ep_status");
    weir_status status = __atomic_load_n(&ep->status, __ATOMIC_ACQUIRE);
    return status == WEIR_OK ? WEIR_OK : wi_error(status, "%s", ep->sentence);
}

void weir_ep_query(const weir_ep *ep, weir_ep_attr *attr)
{
    *attr = (weir_ep_attr){.maps_peer = ep->ops->rkey_map != NULL};
    ep->ops->ep_query(ep, attr);
    attr->transport = ep->ops->name;
    attr->peer_id = ep->peer_id;
}

void weir_ep_path(const weir_ep *ep, char *text, size_t size)
{
    if (wi_in_child(ep->ctx)) {
        snprintf(text, size, "%s", ep->iface->device);
        return;
    }
    wi_ctx_lock(ep->ctx);
    if (ep->ready && ep->status == WEIR_OK && ep->ops->ep_path)
        ep->ops->ep_path(ep, text, size);
    else
        snprintf(text, size, "%s", ep->iface->device);
    wi_ctx_unlock(ep->ctx);
}
