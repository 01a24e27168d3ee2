/*
 * Thousands of ranks in one simulated world, over a network that loses and reorders: each connects lazily with its neighbour
 * in a ring and with rank 0, which connects with all of them at the same moment; then some are killed, half of them in
 * silence. What is written is checked, who has lost whom is told, and the others go on. A rank of N may cost little more
 * than one of N / 4, in events and turns, which are the same in every run of a seed; the processor's time is printed beside.
 *
 * Usage: sim_crowd [--ranks N] [--seed S] [--help]
 */
#include "../support/check.h"
#include "transport/sim/world.h"

#include <weir/weir.h>

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { KILLED_EVERY = 50, FILES_EACH = 2, SKIPPED = 77 };
#define TIMEOUT_NS   4000000000ull
#define TIMEOUT_TEXT "4s"

/* A one-way connection, and what is written over it. */
struct line {
    weir_ep *ep;
    weir_rkey *rkey;
    uint64_t word;
};

struct member {
    int rank;
    weir_ctx *ctx;
    weir_mem *mem;
    uint64_t *words; /* what others write to: one of the ring; at rank 0 one of each rank */
    uint32_t signal;
    size_t address_len, key_len;
    unsigned char address[WEIR_ADDRESS_MAX], key[WEIR_RKEY_MAX];
    struct line ring, *star; /* star: to rank 0; at rank 0 to each */
};

/* Where all of a world's ranks are; they meet by counting. */
static struct {
    struct wi_sim_world *world;
    struct member *members;
    int ranks, met, killed;
    uint64_t seed;
} crowd;

static void fail(int line, const char *what)
{
    fprintf(stderr, "crowd.c:%d: rank %d at %.6f s of seed %llu: %s: %s\n", line, wi_sim_rank(crowd.world),
            (double)wi_sim_now(crowd.world) / 1e9, (unsigned long long)crowd.seed, what, weir_last_error());
    exit(1);
}

static bool is_killed(int rank)
{
    return rank > 0 && rank % KILLED_EVERY == KILLED_EVERY / 2;
}

static uint64_t word_of(int from, int round)
{
    return (uint64_t)from * 1000 + (uint64_t)round + 1;
}

/* Waits, making progress, until `count` have come. */
static void meet(struct member *m, int count)
{
    crowd.met++;
    while (crowd.met < count)
        weir_ctx_block(m->ctx, 5);
}

/* ---- A rank ------------------------------------------------------------------------------------------------------ */

static void open_member(struct member *m)
{
    weir_ctx_params params = {.size = sizeof(params), .id = (uint64_t)m->rank, .transport = "sim", .signals = 4};
    size_t words = m->rank == 0 ? 1 + (size_t)crowd.ranks : 2;
    m->words = calloc(words, sizeof(*m->words));
    m->star = calloc(m->rank == 0 ? (size_t)crowd.ranks : 1, sizeof(*m->star));
    CHECK(m->words && m->star);
    m->address_len = sizeof(m->address);
    m->key_len = sizeof(m->key);
    CHECK_OK(weir_ctx_create(&params, &m->ctx));
    CHECK_OK(weir_mem_register(m->ctx, m->words, words * sizeof(*m->words), &m->mem));
    CHECK_OK(weir_signal_create(m->ctx, &m->signal));
    CHECK_OK(weir_mem_export(m->mem, m->words, words * sizeof(*m->words), m->key, &m->key_len));
    CHECK_OK(weir_ctx_address(m->ctx, m->address, &m->address_len));
}

static void make_line(struct member *m, int peer, struct line *line)
{
    const struct member *other = &crowd.members[peer];
    CHECK_OK(weir_ep_create(m->ctx, other->address, other->address_len, &line->ep));
    CHECK_OK(weir_rkey_import(line->ep, other->key, other->key_len, &line->rkey));
    CHECK_OK(weir_ep_connect(line->ep));
}

/* Writes to the peer's word with that index, with a signal. */
static weir_status write_word(struct member *m, struct line *line, int peer, size_t index, int round)
{
    const struct member *other = &crowd.members[peer];
    line->word = word_of(m->rank, round);
    return weir_put_signal(line->ep, &line->word, NULL, sizeof(line->word), (uintptr_t)&other->words[index], line->rkey,
                           other->signal, NULL);
}

/* Rank 0 writes to all, all write to rank 0; each writes to the next one. */
static void write_all(struct member *m, int round)
{
    int next = (m->rank + 1) % crowd.ranks;
    if (round == 0 || !is_killed(next))
        CHECK_OK(write_word(m, &m->ring, next, 0, round));
    if (m->rank > 0)
        CHECK_OK(write_word(m, m->star, 0, (size_t)m->rank, round));
    for (int i = 1; m->rank == 0 && i < crowd.ranks; i++)
        if (round == 0 || !is_killed(i))
            CHECK_OK(write_word(m, &m->star[i], i, 1, round));
}

/* What came in a round; those that are killed are in the first one alone. */
static void hear_all(struct member *m, int round)
{
    int before = (m->rank + crowd.ranks - 1) % crowd.ranks, others = crowd.ranks - 1;
    bool from_ring = round == 0 || !is_killed(before);
    uint64_t signals = m->rank == 0 ? (uint64_t)crowd.ranks : 2;
    if (round > 0)
        signals += (uint64_t)(m->rank == 0 ? others - crowd.killed : 1) + from_ring;
    CHECK_OK(weir_signal_wait(m->ctx, m->signal, signals, -1));
    CHECK(m->words[0] == word_of(before, from_ring ? round : 0));
    CHECK(m->rank == 0 || m->words[1] == word_of(0, round));
    for (int i = 1; m->rank == 0 && i < crowd.ranks; i++)
        CHECK(m->words[i] == word_of(i, is_killed(i) ? 0 : round));
}

/* Of who was killed it is told to all who had a connection, and of nobody else. */
static void lose_some(struct member *m)
{
    int next = (m->rank + 1) % crowd.ranks;
    bool waits = true;
    for (uint64_t end_ns = wi_sim_now(crowd.world) + 2 * TIMEOUT_NS; waits; weir_ctx_block(m->ctx, 50)) {
        CHECK(wi_sim_now(crowd.world) < end_ns);
        waits = is_killed(next) && weir_ep_status(m->ring.ep) == WEIR_OK;
        for (int i = 1; m->rank == 0 && i < crowd.ranks && !waits; i++)
            waits = is_killed(i) && weir_ep_status(m->star[i].ep) == WEIR_OK;
    }
    CHECK(is_killed(next) == (weir_ep_status(m->ring.ep) == WEIR_ERR_PEER_GONE));
    for (int i = 1; m->rank == 0 && i < crowd.ranks; i++)
        CHECK(weir_ep_status(m->star[i].ep) == (is_killed(i) ? WEIR_ERR_PEER_GONE : WEIR_OK));
    CHECK(m->rank == 0 || weir_ep_status(m->star->ep) == WEIR_OK);
}

static void close_member(struct member *m)
{
    for (int i = 0; i < (m->rank == 0 ? crowd.ranks : 1); i++) {
        weir_rkey_destroy(m->star[i].rkey);
        weir_ep_close(m->star[i].ep);
    }
    weir_rkey_destroy(m->ring.rkey);
    weir_ep_close(m->ring.ep);
    weir_ctx_destroy(m->ctx);
    free(m->star);
    free(m->words);
}

static void be_member(void *arg)
{
    struct member *m = arg;
    int all = crowd.ranks, left = crowd.ranks - crowd.killed;
    open_member(m);
    meet(m, all);
    make_line(m, (m->rank + 1) % crowd.ranks, &m->ring);
    for (int i = 1; i < crowd.ranks && m->rank == 0; i++)
        make_line(m, i, &m->star[i]);
    if (m->rank > 0)
        make_line(m, 0, m->star);
    write_all(m, 0);
    hear_all(m, 0);
    meet(m, 2 * all); /* and now they are killed */
    if (is_killed(m->rank)) {
        wi_sim_kill(crowd.world, m->rank, m->rank / KILLED_EVERY % 2 == 0);
    } else {
        lose_some(m);
        write_all(m, 1);
        hear_all(m, 1);
        meet(m, 2 * all + left);
    }
    close_member(m);
}

/* ---- The world --------------------------------------------------------------------------------------------------- */

struct cost {
    double events, switches, cpu_us; /* of a rank */
};

static double cpu_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static struct cost run(int ranks)
{
    const struct wi_sim_params params = {
        .seed = crowd.seed,
        .delay_min_ns = 2000,
        .delay_max_ns = 20000,
        .reorder_ns = 50000,
        .loss_ppm = 5000,
        .duplicate_ppm = 5000,
        .reorder_ppm = 5000,
        .mtu = 1024,
        .window = 16,
        .depth = 4,
        .timeout_ns = TIMEOUT_NS,
    };
    struct wi_sim_counts counts;
    crowd.ranks = ranks;
    crowd.met = crowd.killed = 0;
    crowd.members = calloc((size_t)ranks, sizeof(*crowd.members));
    CHECK(crowd.members);
    for (int i = 0; i < ranks; i++)
        crowd.killed += is_killed(i);
    double start_us = cpu_us();
    wi_sim_begin(crowd.world, &params);
    for (int i = 0; i < ranks; i++) {
        crowd.members[i].rank = i;
        CHECK_OK(wi_sim_spawn(crowd.world, i, be_member, &crowd.members[i]));
    }
    CHECK(wi_sim_run(crowd.world, 100 * TIMEOUT_NS));
    wi_sim_count(crowd.world, &counts);
    CHECK(counts.connections == 0);
    struct cost cost = {(double)counts.events / ranks, (double)counts.switches / ranks, (cpu_us() - start_us) / ranks};
    printf("%6d ranks: each %6.1f events, %6.1f turns, %7.1f us\n", ranks, cost.events, cost.switches, cost.cpu_us);
    free(crowd.members);
    return cost;
}

/* A context sleeps on descriptors, also where nobody sleeps on them. */
static bool has_files_for(int ranks)
{
    struct rlimit limit;
    rlim_t needed = (rlim_t)ranks * FILES_EACH + 64;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur >= needed)
        return true;
    printf("skipped: %d ranks need %llu descriptors, the limit is %llu\n", ranks, (unsigned long long)needed,
           (unsigned long long)limit.rlim_cur);
    return false;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {{"ranks", required_argument, NULL, 'n'},
                                          {"seed", required_argument, NULL, 's'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    int ranks = 4000;
    crowd.seed = 1;
    for (int option; (option = getopt_long(argc, argv, "h", known, NULL)) != -1;) {
        if (option == 'n')
            ranks = atoi(optarg);
        else if (option == 's')
            crowd.seed = strtoull(optarg, NULL, 10);
        else
            ranks = 0;
    }
    if (ranks < 8 || ranks > WI_SIM_RANKS_MAX) {
        printf("usage: sim_crowd [--ranks 8 to %d, default 4000] [--seed S, default 1]\n", WI_SIM_RANKS_MAX);
        return 2;
    }
    if (!has_files_for(ranks))
        return SKIPPED;
    setenv("WEIR_TIMEOUT", TIMEOUT_TEXT, 1);
    setenv("WEIR_SPIN", "0us", 1);
    setenv("WEIR_LOG", "error", 0);
    CHECK_OK(wi_sim_world_create(&crowd.world));
    struct cost few = run(ranks / 4), many = run(ranks);
    bool good = many.events <= 1.5 * few.events + 10 && many.switches <= 1.5 * few.switches + 10;
    if (!good)
        printf("four times the ranks cost more than one and a half times as much each\n");
    wi_sim_world_destroy(crowd.world);
    return good ? 0 : 1;
}
