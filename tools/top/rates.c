#include "rates.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct peer_row *peer_of(struct gathered *gathered, const struct metric *metric)
{
    struct peer_row like = {.operations = 0};
    snprintf(like.rank, sizeof(like.rank), "%s", metric_label(metric, "rank"));
    snprintf(like.peer, sizeof(like.peer), "%s", metric_label(metric, "peer"));
    snprintf(like.transport, sizeof(like.transport), "%s", metric_label(metric, "transport"));
    struct peer_row *found = (struct peer_row *)(void *)(size_t)find_peer(gathered, &like);
    if (found || gathered->peer_count == PEERS_MAX)
        return found;
    struct peer_row *rows = realloc(gathered->peers, (size_t)(gathered->peer_count + 1) * sizeof(*rows));
    if (!rows)
        return NULL;
    gathered->peers = rows;
    rows[gathered->peer_count] = like;
    return &rows[gathered->peer_count++];
}

static struct rank_row *rank_of(struct gathered *gathered, const char *rank)
{
    struct rank_row *found = (struct rank_row *)(void *)(size_t)find_rank(gathered, rank);
    if (found || gathered->rank_count == RANKS_MAX)
        return found;
    struct rank_row *rows = realloc(gathered->ranks, (size_t)(gathered->rank_count + 1) * sizeof(*rows));
    if (!rows)
        return NULL;
    gathered->ranks = rows;
    rows[gathered->rank_count] = (struct rank_row){.latency_count = 0};
    snprintf(rows[gathered->rank_count].rank, sizeof(rows->rank), "%s", rank);
    return &rows[gathered->rank_count++];
}

static void add_bucket(struct rank_row *row, const struct metric *metric)
{
    const char *operation = metric_label(metric, "operation");
    int at = 0;
    while (at < row->latency_count && strcmp(row->latencies[at].operation, operation) != 0)
        at++;
    if (at == OPERATIONS_MAX)
        return;
    struct latency *latency = &row->latencies[at];
    if (at == row->latency_count) {
        row->latency_count++;
        snprintf(latency->operation, sizeof(latency->operation), "%s", operation);
    }
    if (latency->buckets == BUCKETS_MAX)
        return;
    latency->bound[latency->buckets] = strtod(metric_label(metric, "le"), NULL); /* "+Inf" is a number to it */
    latency->count[latency->buckets++] = metric->value;
}

static bool add_metric(struct gathered *gathered, const struct metric *metric)
{
    const char *name = metric->name;
    if (strncmp(name, "weir_", 5) != 0)
        return true; /* others' */
    name += 5;
    struct rank_row *rank = rank_of(gathered, metric_label(metric, "rank"));
    struct peer_row *peer = metric_label(metric, "peer")[0] ? peer_of(gathered, metric) : NULL;
    if (!rank)
        return false;
    if (peer && strcmp(name, "operations_total") == 0)
        peer->operations += metric->value;
    else if (peer && strcmp(name, "operation_bytes_total") == 0)
        peer->bytes += metric->value;
    else if (peer && strcmp(name, "operations_refused_total") == 0)
        peer->refused += metric->value;
    else if (peer && strcmp(name, "endpoint_failures_total") == 0)
        peer->failures += metric->value;
    else if (strcmp(name, "operation_seconds_bucket") == 0)
        add_bucket(rank, metric);
    else if (strcmp(name, "messages_received_total") == 0)
        rank->messages += metric->value;
    else if (strcmp(name, "registered_bytes") == 0)
        rank->registered += metric->value;
    else if (strcmp(name, "sleeps_total") == 0)
        rank->sleeps += metric->value;
    else if (strcmp(name, "device_retransmits_total") == 0)
        rank->retransmits += metric->value;
    else if (strcmp(name, "device_receiver_not_ready_total") == 0)
        rank->not_ready += metric->value;
    return true;
}

bool gather(struct gathered *gathered, const char *text)
{
    struct metric metric;
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (metric_parse(line, &metric) && !add_metric(gathered, &metric))
            return false;
    }
    return true;
}

void gathered_free(struct gathered *gathered)
{
    free(gathered->peers);
    free(gathered->ranks);
    *gathered = (struct gathered){0};
}

const struct peer_row *find_peer(const struct gathered *gathered, const struct peer_row *like)
{
    for (int i = 0; i < gathered->peer_count; i++) {
        const struct peer_row *row = &gathered->peers[i];
        if (strcmp(row->rank, like->rank) == 0 && strcmp(row->peer, like->peer) == 0 &&
            strcmp(row->transport, like->transport) == 0)
            return row;
    }
    return NULL;
}

const struct rank_row *find_rank(const struct gathered *gathered, const char *rank)
{
    for (int i = 0; i < gathered->rank_count; i++)
        if (strcmp(gathered->ranks[i].rank, rank) == 0)
            return &gathered->ranks[i];
    return NULL;
}

static double count_at(const struct latency *now, const struct latency *before, int bucket)
{
    return now->count[bucket] - (before && bucket < before->buckets ? before->count[bucket] : 0.0);
}

double quantile_s(const struct latency *now, const struct latency *before, double share)
{
    if (now->buckets < 2)
        return 0.0;
    double all = count_at(now, before, now->buckets - 1);
    if (!(all > 0.0))
        return 0.0;
    for (int i = 0; i + 1 < now->buckets; i++)
        if (count_at(now, before, i) >= share * all)
            return now->bound[i];
    return INFINITY; /* longer than the last bound */
}
