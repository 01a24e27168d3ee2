/* Contexts: made, described, ended. */
#include "transport/context.h"

#include "core/clock.h"
#include "core/error.h"
#include "core/log.h"
#include "core/trace.h"
#include "transport/blob.h"
#include "transport/exporter.h"
#include "transport/loan.h"

#include <stdlib.h>
#include <string.h>

enum { SIGNALS_DEFAULT = 4096 };

/* The caller's structure may be shorter than ours (an older program) or longer (a newer one): take what both know. */
static weir_status copy_params(const weir_ctx_params *user, weir_ctx_params *params)
{
    *params = (weir_ctx_params){.size = sizeof(*params)};
    if (!user)
        return WEIR_OK;
    if (user->size < offsetof(weir_ctx_params, flags))
        return wi_error(WEIR_ERR_INVALID, "weir_ctx_params.size is %zu; set it to sizeof(weir_ctx_params)", user->size);
    memcpy(params, user, user->size < sizeof(*params) ? user->size : sizeof(*params));
    if (params->flags & ~WEIR_CTX_MULTI)
        return wi_error(WEIR_ERR_INVALID, "weir_ctx_params.flags has unknown bits: 0x%x", params->flags);
    if (params->exchange && (params->exchange->size < sizeof(weir_exchange) || !params->exchange->put ||
                             !params->exchange->append || !params->exchange->get || !params->exchange->forget))
        return wi_error(WEIR_ERR_INVALID, "weir_ctx_params.exchange lacks its size or a function");
    if (params->signals > WI_SIGNALS_MAX)
        return wi_error(WEIR_ERR_INVALID, "weir_ctx_params.signals is %u; at most %d", params->signals, WI_SIGNALS_MAX);
    return WEIR_OK;
}

weir_status weir_ctx_create(const weir_ctx_params *user, weir_ctx **out)
{
    const struct wi_config *config;
    weir_ctx_params params;
    weir_status status = wi_config_load(&config);
    if (status == WEIR_OK)
        status = copy_params(user, &params);
    if (status != WEIR_OK)
        return status;
    struct weir_ctx *ctx = calloc(1, sizeof(*ctx));
    if (!ctx)
        return wi_error(WEIR_ERR_NO_MEMORY, "context: out of memory");
    ctx->multi = params.flags & WEIR_CTX_MULTI;
    ctx->id = params.id;
    ctx->host = wi_host_id();
    ctx->timeout_ns = config->timeout_ns;
    ctx->spin_ns = config->spin_ns;
    ctx->next_mem_id = 1;
    ctx->signal_count = params.signals ? params.signals : SIGNALS_DEFAULT;
    ctx->epoll_fd = ctx->wake_fd = -1;
    pthread_mutex_init(&ctx->lock, NULL);
    ctx->signal_used = calloc(ctx->signal_count, 1);
    if (!ctx->signal_used)
        status = wi_error(WEIR_ERR_NO_MEMORY, "context: out of memory for %u signals", ctx->signal_count);
    if (status == WEIR_OK)
        status = wi_process_init(ctx);
    wi_trace_open(config->trace_file, (int)ctx->id, (int)config->world_size);
    if (status == WEIR_OK)
        status = wi_stats_init(&ctx->stats, wi_exporter_wanted(config), wi_trace_on());
    if (status == WEIR_OK)
        status = wi_ctx_open_ifaces(ctx, &params, config);
    if (status == WEIR_OK)
        status = wi_sleep_init(ctx);
    if (status != WEIR_OK) {
        weir_ctx_destroy(ctx);
        return status;
    }
    if (!ctx->multi && !ctx->stats.samples)
        __atomic_store_n(ctx->ours, WI_OURS_PLAIN, __ATOMIC_RELAXED);
    wi_exporter_start(ctx, config, &ctx->exporter);
    *out = ctx;
    return WEIR_OK;
}

/* Safe on a context that was made by half. */
void weir_ctx_destroy(weir_ctx *ctx)
{
    if (!ctx || (ctx->ours && wi_in_child(ctx))) /* what it holds is its parent's */
        return;
    while (ctx->eps)
        wi_ep_close(ctx->eps);
    wi_exporter_stop(ctx->exporter);
    wi_trace_flush();
    while (ctx->pools)
        weir_pool_destroy(ctx->pools);
    while (ctx->mems.count > 0)
        wi_mem_remove(ctx->mems.at[ctx->mems.count - 1].item);
    wi_borrow_fini(ctx);
    wi_loans_fini(ctx);
    wi_sleep_fini(ctx);
    for (int i = 0; i < ctx->iface_count; i++)
        ctx->iface[i]->ops->close(ctx->iface[i]);
    pthread_mutex_destroy(&ctx->lock);
    wi_ranges_fini(&ctx->mems);
    free(ctx->signal_used);
    wi_stats_fini(&ctx->stats);
    wi_process_fini(ctx);
    free(ctx);
}

void weir_ctx_query(const weir_ctx *ctx, weir_ctx_attr *attr)
{
    *attr = (weir_ctx_attr){.network = "none", .intranode = "none"};
    for (int i = 0; i < ctx->iface_count; i++) {
        const struct wi_iface *iface = ctx->iface[i];
        if (iface->ops->wire_id == WI_WIRE_SHM) {
            attr->intranode = iface->ops->name;
            continue;
        }
        attr->network = iface->ops->name;
        memcpy(attr->device, iface->device, sizeof(attr->device));
    }
}

weir_status weir_ctx_address(weir_ctx *ctx, void *buf, size_t *len)
{
    struct wi_blob_writer writer;
    const uint64_t field[WI_BLOB_FIELDS] = {ctx->id, ctx->host, 0};
    weir_status status = wi_process_check(ctx, "weir_ctx_address");
    if (status != WEIR_OK)
        return status;
    wi_ctx_lock(ctx);
    wi_blob_begin(&writer, buf, *len, WI_BLOB_ADDRESS, field);
    for (int i = 0; i < ctx->iface_count && status == WEIR_OK; i++) {
        struct wi_iface *iface = ctx->iface[i];
        size_t room;
        void *section = wi_blob_section_room(&writer, &room);
        if (!section)
            break;
        status = iface->ops->address(iface, section, &room);
        if (status == WEIR_OK)
            wi_blob_section_done(&writer, iface->ops->wire_id, room);
    }
    if (status == WEIR_OK && wi_blob_end(&writer, len) != WEIR_OK)
        status = wi_error(WEIR_ERR_RANGE, "address: %zu bytes are too little room; give WEIR_ADDRESS_MAX", *len);
    wi_ctx_unlock(ctx);
    return status;
}

weir_status weir_signal_create(weir_ctx *ctx, uint32_t *signal)
{
    weir_status status = wi_process_check(ctx, "weir_signal_create");
    if (status != WEIR_OK)
        return status;
    status = WEIR_ERR_LIMIT;
    wi_ctx_lock(ctx);
    for (uint32_t i = 0; i < ctx->signal_count; i++) {
        if (ctx->signal_used[i])
            continue;
        ctx->signal_used[i] = 1;
        for (int k = 0; k < ctx->iface_count; k++)
            __atomic_store_n(&ctx->iface[k]->signals[i], 0, __ATOMIC_RELAXED);
        *signal = i;
        status = WEIR_OK;
        break;
    }
    wi_ctx_unlock(ctx);
    if (status != WEIR_OK)
        return wi_error(status, "all %u signals of the context are in use; raise weir_ctx_params.signals",
                        ctx->signal_count);
    return WEIR_OK;
}

void weir_signal_destroy(weir_ctx *ctx, uint32_t signal)
{
    if (wi_in_child(ctx))
        return;
    wi_ctx_lock(ctx);
    if (signal < ctx->signal_count)
        ctx->signal_used[signal] = 0;
    wi_ctx_unlock(ctx);
}

/* Each interface counts its own arrivals; a peer reaches us by one of them only, so the sum is the signal's count. */
uint64_t weir_signal_read(weir_ctx *ctx, uint32_t signal)
{
    uint64_t count = 0;
    if (signal >= ctx->signal_count)
        return 0;
    for (int i = 0; i < ctx->iface_count; i++)
        count += __atomic_load_n(&ctx->iface[i]->signals[signal], __ATOMIC_ACQUIRE);
    return count;
}
