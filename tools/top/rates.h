/* What `weir top` shows, gathered from metrics: counters towards each peer, and each rank's latencies. */
#ifndef TOOLS_TOP_RATES_H
#define TOOLS_TOP_RATES_H

#include "metric.h"

enum { OPERATIONS_MAX = 8, BUCKETS_MAX = 64, PEERS_MAX = 4096, RANKS_MAX = 1024 };

/* One rank's counters towards one peer. */
struct peer_row {
    char rank[16], peer[16], transport[16];
    double operations, bytes, refused, failures;
};

struct latency {
    char operation[16];
    double bound[BUCKETS_MAX], count[BUCKETS_MAX]; /* cumulative */
    int buckets;
};

struct rank_row {
    char rank[16];
    struct latency latencies[OPERATIONS_MAX];
    int latency_count;
    double messages, registered, sleeps, retransmits, not_ready;
};

struct gathered {
    struct peer_row *peers;
    int peer_count;
    struct rank_row *ranks;
    int rank_count;
    double at_s; /* when */
};

/* Adds all lines of a text. False: out of memory. */
bool gather(struct gathered *gathered, const char *text);
void gathered_free(struct gathered *gathered);

/* The row of the same rank and peer, NULL: none. */
const struct peer_row *find_peer(const struct gathered *gathered, const struct peer_row *like);
const struct rank_row *find_rank(const struct gathered *gathered, const char *rank);

/*
 * Seconds that a share (0 to 1) of the operations took at most, of those that came since `before` (NULL: of all); a
 * bucket's upper bound. 0: there were none.
 */
double quantile_s(const struct latency *now, const struct latency *before, double share);

#endif
