/* Which backends does a context use? */
#include "core/error.h"
#include "core/log.h"
#include "transport/context.h"

#include <stdio.h>
#include <string.h>

static const struct wi_transport_ops *const backends[] = {
#ifdef WEIR_WITH_VERBS
    &wi_verbs_ops,
#endif
#ifdef WEIR_WITH_UCX
    &wi_ucx_ops,
#endif
    &wi_shm_ops,
    NULL,
};

static const char *const transport_names[] = {"auto", "verbs", "ucx", "shm"};

static const struct wi_transport_ops *find_backend(const char *name)
{
    for (size_t i = 0; backends[i]; i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

static weir_status not_built(const char *name)
{
    return wi_error(WEIR_ERR_UNSUPPORTED,
                    "%s: this libweir was built without it; rebuild with the %s development package", name,
                    strcmp(name, "ucx") == 0 ? "libucx-dev" : "libibverbs-dev and librdmacm-dev");
}

weir_status weir_transport_probe(const char *name, char *why, size_t why_size)
{
    weir_status status = weir_config_load();
    const struct wi_transport_ops *ops = NULL;
    if (status == WEIR_OK) {
        if (!name || (strcmp(name, "verbs") && strcmp(name, "ucx") && strcmp(name, "shm")))
            status = wi_error(WEIR_ERR_INVALID, "no transport is called '%s'; there are verbs, ucx and shm",
                              name ? name : "");
        else if (!(ops = find_backend(name)))
            status = not_built(name);
        else
            status = ops->probe();
    }
    if (why && why_size)
        snprintf(why, why_size, "%s", status == WEIR_OK ? "" : weir_last_error());
    return status;
}

/* Opens one backend and adds it to the context. */
static weir_status open_ops(struct weir_ctx *ctx, const struct wi_transport_ops *ops,
                            const struct wi_iface_params *params)
{
    weir_status status = ops->probe();
    struct wi_iface *iface = NULL;
    if (status == WEIR_OK)
        status = ops->open(params, &iface);
    if (status != WEIR_OK)
        return status;
    ctx->iface[ctx->iface_count++] = iface;
    wi_info("transport %s on %s", ops->name, iface->device[0] ? iface->device : "this host");
    return WEIR_OK;
}

static weir_status open_iface(struct weir_ctx *ctx, const char *name, const struct wi_iface_params *params)
{
    const struct wi_transport_ops *ops = find_backend(name);
    return ops ? open_ops(ctx, ops, params) : not_built(name);
}

/* "auto": the best network backend that works; with none, shared memory alone still serves peers of this host. */
static void open_any_network(struct weir_ctx *ctx, const struct wi_iface_params *params)
{
    static const char *const order[] = {"verbs", "ucx"};
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        if (open_iface(ctx, order[i], params) == WEIR_OK) {
            wi_error_clear();
            return;
        }
        if (i == 0 && wi_config()->device[0]) /* who names a device wants it */
            wi_warn("WEIR_DEVICE=%s is not used: %s", wi_config()->device, weir_last_error());
        else
            wi_info("transport %s is not used: %s", order[i], weir_last_error());
    }
    wi_warn("no network transport works (the last reason: %s); only peers of this host can be reached",
            weir_last_error());
}

static weir_status parse_transport(const char *text, int *choice)
{
    for (int i = 0; i < 4; i++) {
        if (strcmp(transport_names[i], text) == 0) {
            *choice = i;
            return WEIR_OK;
        }
    }
    return wi_error(WEIR_ERR_INVALID, "no transport is called '%s'; use auto, verbs, ucx or shm", text);
}

weir_status wi_ctx_open_ifaces(struct weir_ctx *ctx, const weir_ctx_params *user, const struct wi_config *config)
{
    int choice = config->transport;
    bool simulated = &wi_sim_ops && user->transport && strcmp(user->transport, "sim") == 0;
    weir_status status = user->transport && !simulated ? parse_transport(user->transport, &choice) : WEIR_OK;
    if (status != WEIR_OK)
        return status;
    struct wi_iface_params params = {
        .id = ctx->id,
        .host = ctx->host,
        .network = wi_network_id(),
        .bind_address = user->bind_address,
        .signals = ctx->signal_count,
        .exchange = user->exchange,
        .receives_low = &ctx->stats.receives_low,
    };
    if (simulated)
        return open_ops(ctx, &wi_sim_ops, &params);
    if (config->interface[0]) { /* what the user of a program says counts more than what the program says */
        status = wi_interface_address(config->interface, ctx->interface, sizeof(ctx->interface));
        if (status != WEIR_OK)
            return status;
        params.bind_address = ctx->interface;
    }
    bool shm_only = choice == WI_TRANSPORT_SHM;
    if (shm_only || config->intranode == WI_INTRANODE_SHM) {
        status = open_iface(ctx, "shm", &params);
        if (status != WEIR_OK && shm_only)
            return status;
        if (status != WEIR_OK)
            wi_warn("shared memory is not used: %s", weir_last_error());
    }
    if (choice == WI_TRANSPORT_AUTO)
        open_any_network(ctx, &params);
    else if (!shm_only && (status = open_iface(ctx, transport_names[choice], &params)) != WEIR_OK)
        return status;
    return ctx->iface_count > 0 ? WEIR_OK : wi_error(WEIR_ERR_NO_DEVICE, "no transport works: %s", weir_last_error());
}
