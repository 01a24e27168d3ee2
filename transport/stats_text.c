/* The statistics as Prometheus reads them: https://prometheus.io/docs/instrumenting/exposition_formats */
#include "core/error.h"
#include "transport/context.h"
#include "transport/exporter.h"
#include "transport/stats.h"

#include <weir/metrics.h>

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP weir_%s %s\n# TYPE weir_%s %s\n", name, help, name, type);
}

static void one_number(const struct weir_ctx *ctx, FILE *out, const char *name, const char *type, const char *help,
                       uint64_t value)
{
    head(out, name, type, help);
    fprintf(out, "weir_%s{rank=\"%" PRIu64 "\"} %" PRIu64 "\n", name, ctx->id, value);
}

/* ---- Peers --------------------------------------------------------------------------------------------------------- */

static const struct wi_peer_stats *first_peer(const struct weir_ctx *ctx)
{
    return __atomic_load_n(&ctx->stats.peers, __ATOMIC_ACQUIRE);
}

static void peer_line(const struct weir_ctx *ctx, FILE *out, const char *name, const struct wi_peer_stats *peer,
                      const char *operation, uint64_t value)
{
    fprintf(out, "weir_%s{rank=\"%" PRIu64 "\",peer=\"%" PRIu64 "\",transport=\"%s\"", name, ctx->id, peer->peer_id,
            peer->transport);
    if (operation)
        fprintf(out, ",operation=\"%s\"", operation);
    fprintf(out, "} %" PRIu64 "\n", value);
}

/* A counter for each peer and operation: `counters` of the peer's statistics, at `offset`. */
static void by_operation(const struct weir_ctx *ctx, FILE *out, const char *name, const char *help, size_t offset)
{
    head(out, name, "counter", help);
    for (const struct wi_peer_stats *peer = first_peer(ctx); peer; peer = peer->next) {
        const uint64_t *counters = (const uint64_t *)(const void *)((const char *)peer + offset);
        for (int op = 0; op < WI_OPS; op++)
            if (wi_stat_get(&peer->operations[op]) > 0)
                peer_line(ctx, out, name, peer, wi_op_names[op], wi_stat_get(&counters[op]));
    }
}

static void by_peer(const struct weir_ctx *ctx, FILE *out, const char *name, const char *help, size_t offset)
{
    head(out, name, "counter", help);
    for (const struct wi_peer_stats *peer = first_peer(ctx); peer; peer = peer->next)
        peer_line(ctx, out, name, peer, NULL,
                  wi_stat_get((const uint64_t *)(const void *)((const char *)peer + offset)));
}

/* ---- Latency ------------------------------------------------------------------------------------------------------- */

static void histogram(const struct weir_ctx *ctx, FILE *out, const char *operation, const struct wi_histogram *from)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < WI_BUCKETS; i++) {
        count += wi_stat_get(&from->bucket[i]);
        fprintf(out, "weir_operation_seconds_bucket{rank=\"%" PRIu64 "\",operation=\"%s\",le=\"", ctx->id, operation);
        if (i == WI_BUCKETS - 1)
            fprintf(out, "+Inf\"} %" PRIu64 "\n", count);
        else
            fprintf(out, "%.9g\"} %" PRIu64 "\n", (double)wi_bucket_bound(i) / 1e9, count);
    }
    fprintf(out,
            "weir_operation_seconds_sum{rank=\"%" PRIu64 "\",operation=\"%s\"} %.9f\n"
            "weir_operation_seconds_count{rank=\"%" PRIu64 "\",operation=\"%s\"} %" PRIu64 "\n",
            ctx->id, operation, (double)wi_stat_get(&from->sum_ns) / 1e9, ctx->id, operation, count);
}

static void latencies(const struct weir_ctx *ctx, FILE *out)
{
    head(out, "operation_seconds", "histogram", "Time from posting to completion, of a sample of the operations.");
    for (int op = 0; op < WI_OPS; op++)
        if (wi_stat_get(&ctx->stats.latency[op].sum_ns) > 0)
            histogram(ctx, out, wi_op_names[op], &ctx->stats.latency[op]);
}

/* ---- Devices ------------------------------------------------------------------------------------------------------- */

/* What drivers call packets that were sent again, and receivers that were not ready: rxe and mlx5 among others. */
static const char *const retransmits[] = {"completer_retry_err", "local_ack_timeout_err", "packet_seq_err",
                                          "roce_adp_retrans", "rdma_sends_retry", NULL};
static const char *const not_ready[] = {"rcvd_rnr_err", "send_rnr_err", "rnr_nak_retry_err", "out_of_buffer", NULL};

struct device_sums {
    const struct weir_ctx *ctx;
    FILE *out;
    uint64_t retransmits, not_ready;
};

static bool is_among(const char *const *names, const char *name)
{
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names != NULL;
}

static void device_line(const char *device, const char *port, const char *name, uint64_t value, void *arg)
{
    struct device_sums *sums = arg;
    sums->retransmits += is_among(retransmits, name) ? value : 0;
    sums->not_ready += is_among(not_ready, name) ? value : 0;
    fprintf(sums->out,
            "weir_device_counter{rank=\"%" PRIu64 "\",device=\"%s\",port=\"%s\",counter=\"%s\"} %" PRIu64 "\n",
            sums->ctx->id, device, port, name, value);
}

static void devices(const struct weir_ctx *ctx, FILE *out)
{
    struct device_sums sums = {.ctx = ctx, .out = out};
    head(out, "device_counter", "untyped", "Counters of the RDMA device, by the driver's names, of all its users.");
    for (int i = 0; i < ctx->iface_count; i++)
        if (ctx->iface[i]->ops->wire_id == WI_WIRE_VERBS)
            wi_device_counters(ctx->iface[i]->device, device_line, &sums);
    one_number(ctx, out, "device_retransmits_total", "counter",
               "Packets that the RDMA devices sent again, as far as their drivers tell.", sums.retransmits);
    one_number(ctx, out, "device_receiver_not_ready_total", "counter",
               "Times that an RDMA receiver had no receive posted, seen from both sides, as far as drivers tell.",
               sums.not_ready);
}

void wi_stats_write(const struct weir_ctx *ctx, FILE *out)
{
    const struct wi_stats *stats = &ctx->stats;
    by_operation(ctx, out, "operations_total", "Operations posted.", offsetof(struct wi_peer_stats, operations));
    by_operation(ctx, out, "operation_bytes_total", "Payload bytes of the operations posted.",
                 offsetof(struct wi_peer_stats, bytes));
    by_peer(ctx, out, "operations_refused_total", "Operations that could not be posted.",
            offsetof(struct wi_peer_stats, refused));
    by_peer(ctx, out, "endpoint_failures_total", "Endpoints that ended with an error.",
            offsetof(struct wi_peer_stats, failures));
    latencies(ctx, out);
    one_number(ctx, out, "messages_received_total", "counter", "Control messages taken.", wi_stat_get(&stats->messages));
    one_number(ctx, out, "message_bytes_received_total", "counter", "Payload bytes of the control messages taken.",
               wi_stat_get(&stats->message_bytes));
    one_number(ctx, out, "registered_bytes", "gauge", "Memory registered for remote access.",
               wi_stat_get(&stats->registered_bytes));
    one_number(ctx, out, "receives_low_total", "counter",
               "Times that three quarters of the receives for signals and messages were in use (verbs).",
               wi_stat_get(&stats->receives_low));
    one_number(ctx, out, "sleeps_total", "counter", "Times that a wait went to sleep.",
               __atomic_load_n(&ctx->sleeps, __ATOMIC_RELAXED));
    one_number(ctx, out, "operations_unobserved_total", "counter",
               "Operations that were to be timed, but too many were already.", wi_stat_get(&stats->unobserved));
    devices(ctx, out);
}

weir_status weir_metrics_text(const weir_ctx *ctx, char *buf, size_t *len)
{
    size_t text_len;
    char *text = wi_exporter_text(ctx, &text_len);
    weir_status status = WEIR_OK;
    if (!text)
        return wi_error(WEIR_ERR_NO_MEMORY, "metrics: out of memory for the text");
    if (text_len + 1 > *len)
        status = wi_error(WEIR_ERR_RANGE, "metrics: the text needs %zu bytes, there is room for %zu", text_len + 1, *len);
    else
        memcpy(buf, text, text_len + 1);
    *len = status == WEIR_OK ? text_len : text_len + 1;
    free(text);
    return status;
}
