#include "transport/stats.h"

#include "core/clock.h"
#include "core/error.h"
#include "core/trace.h"
#include "transport/ops.h"

#include <stdlib.h>
#include <string.h>

const char *const wi_op_names[WI_OPS] = {
    [WI_OP_PUT] = "put",     [WI_OP_GET] = "get",   [WI_OP_PUT_SIGNAL] = "put_signal", [WI_OP_FETCH_ADD] = "fetch_add",
    [WI_OP_SEND] = "send",   [WI_OP_FLUSH] = "flush",
};

weir_status wi_stats_init(struct wi_stats *stats, bool observe, bool trace)
{
    if (!observe && !trace)
        return WEIR_OK;
    stats->samples = calloc(WI_SAMPLES, sizeof(*stats->samples));
    if (!stats->samples)
        return wi_error(WEIR_ERR_NO_MEMORY, "context: out of memory for its statistics");
    stats->period = trace ? 1 : WI_SAMPLE_PERIOD;
    return WEIR_OK;
}

void wi_stats_fini(struct wi_stats *stats)
{
    for (struct wi_peer_stats *peer = stats->peers, *next; peer; peer = next) {
        next = peer->next;
        free(peer);
    }
    wi_map_fini(&stats->peers_by_id);
    free(stats->samples);
}

struct wi_peer_stats *wi_stats_peer(struct wi_stats *stats, uint64_t peer_id, const char *transport)
{
    uint64_t hash = wi_map_hash(peer_id, (uintptr_t)transport);
    for (struct wi_map_node *node = wi_map_first(&stats->peers_by_id, hash); node; node = wi_map_next(node)) {
        struct wi_peer_stats *peer = WI_MAP_ITEM(node, struct wi_peer_stats, node);
        if (peer->peer_id == peer_id && peer->transport == transport)
            return peer;
    }
    struct wi_peer_stats *peer = calloc(1, sizeof(*peer));
    if (!peer)
        return &stats->spare;
    peer->peer_id = peer_id;
    peer->transport = transport;
    peer->next = stats->peers;
    wi_map_add(&stats->peers_by_id, &peer->node, hash);
    __atomic_store_n(&stats->peers, peer, __ATOMIC_RELEASE); /* readers see it whole */
    return peer;
}

/* ---- Histograms: two buckets an octave, from 128 ns to 12.9 s ------------------------------------------------------ */

enum { FIRST_BOUND_LOG = 7 };

uint64_t wi_bucket_bound(unsigned index)
{
    if (index >= WI_BUCKETS - 1)
        return UINT64_MAX;
    return (2ull + index % 2) << (FIRST_BOUND_LOG - 1 + index / 2);
}

static unsigned bucket_of(uint64_t ns)
{
    if (ns <= 1ull << FIRST_BOUND_LOG)
        return 0;
    uint64_t below = ns - 1; /* bounds are inclusive */
    unsigned log = 63u - (unsigned)__builtin_clzll(below);
    unsigned index = 2 * (log - FIRST_BOUND_LOG) + 1 + (unsigned)(below >> (log - 1) & 1);
    return index < WI_BUCKETS - 1 ? index : WI_BUCKETS - 1;
}

void wi_histogram_add(struct wi_histogram *histogram, uint64_t ns)
{
    wi_stat_add(&histogram->bucket[bucket_of(ns)], 1);
    wi_stat_add(&histogram->sum_ns, ns);
}

/* ---- Samples ------------------------------------------------------------------------------------------------------- */

struct wi_sample *wi_sample_begin(struct wi_stats *stats, const struct wi_peer_stats *peer, enum wi_op op, uint64_t len,
                                  weir_comp *user)
{
    if (++stats->tick % stats->period != 0)
        return NULL;
    for (uint32_t i = 0; i < WI_SAMPLES; i++) {
        uint32_t at = (stats->sample_hint + i) % WI_SAMPLES;
        struct wi_sample *sample = &stats->samples[at];
        if (sample->busy)
            continue;
        stats->sample_hint = at + 1;
        *sample = (struct wi_sample){
            .user = user, .peer = peer, .start_ns = wi_now_ns(), .len = len, .op = (uint8_t)op, .busy = true};
        return sample;
    }
    wi_stat_add(&stats->unobserved, 1);
    return NULL;
}

static void measured(struct wi_stats *stats, const struct wi_sample *sample)
{
    uint64_t end_ns = wi_now_ns();
    wi_histogram_add(&stats->latency[sample->op], end_ns - sample->start_ns);
    if (wi_trace_on())
        wi_trace_span(wi_op_names[sample->op], sample->peer->transport, sample->start_ns, end_ns,
                      "\"peer\": %llu, \"bytes\": %llu", (unsigned long long)sample->peer->peer_id,
                      (unsigned long long)sample->len);
}

void wi_sample_posted(struct wi_stats *stats, struct wi_sample *sample, weir_status status)
{
    if (status == WEIR_OK && __atomic_load_n(&sample->comp.pending, __ATOMIC_ACQUIRE) > 0) {
        wi_comp_start(sample->user);
        stats->samples_busy++;
        return;
    }
    sample->busy = false;
    if (status != WEIR_OK)
        return;
    if (sample->comp.status != WEIR_OK) { /* it failed as it was posted */
        wi_comp_start(sample->user);
        wi_comp_end(sample->user, (weir_status)sample->comp.status);
    } else {
        measured(stats, sample);
    }
}

void wi_samples_collect(struct wi_stats *stats)
{
    for (uint32_t i = 0; i < WI_SAMPLES && stats->samples_busy > 0; i++) {
        struct wi_sample *sample = &stats->samples[i];
        if (!sample->busy || __atomic_load_n(&sample->comp.pending, __ATOMIC_ACQUIRE) > 0)
            continue;
        if (sample->comp.status == WEIR_OK)
            measured(stats, sample);
        wi_comp_end(sample->user, (weir_status)sample->comp.status);
        sample->busy = false;
        stats->samples_busy--;
    }
}
