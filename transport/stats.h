/*
 * What a context has done, in numbers: operations and bytes towards each peer, how long operations took, what arrived.
 *
 * Counters have one writer at a time (the thread that uses the context) and readers at any time (the exporter's threads),
 * so they are written and read by plain atomic loads and stores. Nothing that a reader walks is freed before the context
 * is.
 *
 * Times are taken only when somebody wants them (WEIR_METRICS_*: one operation in WI_SAMPLE_PERIOD; WEIR_TRACE: all):
 * such an operation gets a completion of ours in place of the user's, which is told when ours has ended.
 */
#ifndef WI_TRANSPORT_STATS_H
#define WI_TRANSPORT_STATS_H

#include "core/map.h"

#include <weir/transport.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum wi_op { WI_OP_PUT, WI_OP_GET, WI_OP_PUT_SIGNAL, WI_OP_FETCH_ADD, WI_OP_SEND, WI_OP_FLUSH, WI_OPS };

extern const char *const wi_op_names[WI_OPS];

enum {
    WI_BUCKETS = 55,        /* of a histogram; the last one has no bound */
    WI_SAMPLE_PERIOD = 64,  /* without a trace one operation in so many is timed */
    WI_SAMPLES = 256,       /* operations that can be under observation at a time */
};

/* What was done towards one peer over one transport. */
struct wi_peer_stats {
    struct wi_peer_stats *next;
    struct wi_map_node node;
    uint64_t peer_id;
    const char *transport;
    uint64_t operations[WI_OPS], bytes[WI_OPS];
    uint64_t refused;  /* operations that were not posted */
    uint64_t failures; /* endpoints that ended with an error */
};

struct wi_histogram {
    uint64_t bucket[WI_BUCKETS];
    uint64_t sum_ns;
};

/* An operation under observation. */
struct wi_sample {
    weir_comp comp;
    weir_comp *user; /* the caller's, or NULL */
    const struct wi_peer_stats *peer;
    uint64_t start_ns;
    uint64_t len;
    uint8_t op;
    bool busy;
};

struct wi_stats {
    struct wi_peer_stats *peers; /* newest first */
    struct wi_map peers_by_id;   /* the same, for the writer alone */
    struct wi_peer_stats spare;  /* counts for peers that there was no memory for */
    struct wi_histogram latency[WI_OPS];
    uint64_t messages, message_bytes; /* taken by weir_recv() */
    uint64_t registered_bytes;
    uint64_t receives_low;

    struct wi_sample *samples; /* NULL: nothing is observed */
    uint32_t sample_hint, samples_busy;
    uint32_t period, tick;
    uint64_t unobserved; /* operations that should have been, but too many were already */
};

static inline void wi_stat_add(uint64_t *counter, uint64_t value)
{
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + value, __ATOMIC_RELAXED);
}

static inline uint64_t wi_stat_get(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* `observe`: take times, of every operation if `trace`. WEIR_ERR_NO_MEMORY. */
weir_status wi_stats_init(struct wi_stats *stats, bool observe, bool trace);
void wi_stats_fini(struct wi_stats *stats);

/* The peer's counters, made at the first time; never NULL. `transport` must live as long as the context. */
struct wi_peer_stats *wi_stats_peer(struct wi_stats *stats, uint64_t peer_id, const char *transport);

/* A sample to post the operation with, NULL: this one is not observed. */
struct wi_sample *wi_sample_begin(struct wi_stats *stats, const struct wi_peer_stats *peer, enum wi_op op, uint64_t len,
                                  weir_comp *user);

/* It was posted, or not (`status`). */
void wi_sample_posted(struct wi_stats *stats, struct wi_sample *sample, weir_status status);

/* Looks which samples have ended, and tells their users. */
void wi_samples_collect(struct wi_stats *stats);

/* -- histogram -- */
void wi_histogram_add(struct wi_histogram *histogram, uint64_t ns);

/* Upper bound of a bucket in nanoseconds, inclusive; UINT64_MAX for the last one. */
uint64_t wi_bucket_bound(unsigned index);

struct weir_ctx;

/* Writes all there is in Prometheus' text format, version 0.0.4 (stats_text.c). */
void wi_stats_write(const struct weir_ctx *ctx, FILE *out);

/* Calls `each` for every hardware counter of a list of ports such as "mlx5_0:1,mlx5_1:1" (device_counters.c). */
void wi_device_counters(const char *ports,
                        void (*each)(const char *device, const char *port, const char *name, uint64_t value, void *arg),
                        void *arg);

#endif
