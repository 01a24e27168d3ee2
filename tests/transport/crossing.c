/*
 * Connections that cross: in each round every rank connects to every other one, at random moments and by whatever it
 * happens to do first, while writes, signals, counts and messages go both ways over those that are up already. Each
 * endpoint comes up, and everything arrives once, whole and in order.
 *
 * CONFORMANCE_SCALE makes more of the rounds, for a campaign by hand: CONFORMANCE_SCALE=50 crossing. What a round did is
 * determined by its number and CROSSING_SEED (default 1), but for when.
 */
#include "harness.h"
#include "suite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { RANKS = 4, MESSAGES = 6, LEN = 200, DELAY_US = 400 };

/* What a rank's peers write to: a row for each of them, then the count of fetch_adds. */
struct table {
    unsigned char row[RANKS][LEN];
    _Alignas(8) uint64_t count;
};

struct state {
    struct rank *r;
    uint64_t random;
    int round;
    struct area table_area, local_area;
    struct table *table;
    struct table *local; /* row[p]: what p is sent */
    uint64_t *before;    /* results of fetch_adds */
    uint32_t signal[RANKS];
    weir_rkey *rkey[RANKS];
    uint64_t addr[RANKS];
    bool up[RANKS];
    int sent[RANKS], heard[RANKS];
    weir_comp comp;
};

struct message {
    int round, number;
};

/* xorshift64*, the upper bits. */
static unsigned draw(struct state *s, unsigned below)
{
    s->random ^= s->random >> 12;
    s->random ^= s->random << 25;
    s->random ^= s->random >> 27;
    return (unsigned)(s->random * 0x2545f4914f6cdd1dull >> 40) % below;
}

static void hear(struct state *s)
{
    struct rank *r = s->r;
    struct message message;
    uint64_t from;
    size_t len = sizeof(message);
    while (weir_recv(r->ctx, &message, &len, &from) == WEIR_OK) {
        CHECK(len == sizeof(message) && from < (uint64_t)r->count && from != (uint64_t)r->rank);
        CHECK(message.round == s->round && message.number == s->heard[from]);
        s->heard[from]++;
    }
}

/* A while in which progress is made, or none. */
static void dawdle(struct state *s)
{
    unsigned us = draw(s, 3) == 0 ? 0 : draw(s, DELAY_US);
    if (draw(s, 2)) {
        sleep_us(us);
        return;
    }
    for (uint64_t end_ns = now_ns() + us * 1000ull; now_ns() < end_ns; give_way())
        hear(s);
}

static void begin(struct state *s, int peer)
{
    struct rank *r = s->r;
    CHECK_OK(weir_ep_create(r->ctx, r->board->address[peer], r->board->address_len[peer], &r->ep[peer]));
    s->rkey[peer] = import(r, peer, 0, &s->addr[peer]);
    s->up[peer] = true;
    switch (draw(s, 3)) {
    case 0:
        CHECK_OK(weir_ep_connect(r->ep[peer]));
        break;
    case 1:
        CHECK_OK(weir_ep_wait_ready(r->ep[peer], -1));
        break;
    default: /* whatever is done first connects */
        break;
    }
}

/* One of the things that a peer is sent in a round; in the last one the row with its signal and a count. */
static void send_next(struct state *s, int peer)
{
    struct rank *r = s->r;
    struct message message = {.round = s->round, .number = s->sent[peer]};
    if (s->sent[peer] == MESSAGES / 2) {
        uint64_t row = s->addr[peer] + offsetof(struct table, row) + (uint64_t)r->rank * LEN;
        pattern_fill(s->local->row[peer], LEN, (unsigned)(s->round * RANKS + r->rank));
        CHECK_OK(weir_put_signal(r->ep[peer], s->local->row[peer], s->local_area.mem, LEN, row, s->rkey[peer],
                                 signal_of(r, peer, r->rank), &s->comp));
        CHECK_OK(weir_fetch_add(r->ep[peer], 1, &s->before[peer], s->local_area.mem,
                                s->addr[peer] + offsetof(struct table, count), s->rkey[peer], &s->comp));
    }
    CHECK_OK(weir_send(r->ep[peer], &message, sizeof(message)));
    if (++s->sent[peer] == MESSAGES)
        CHECK_OK(weir_flush(r->ep[peer], &s->comp));
}

static bool all_sent(const struct state *s)
{
    for (int peer = 0; peer < s->r->count; peer++)
        if (peer != s->r->rank && s->sent[peer] < MESSAGES)
            return false;
    return true;
}

static bool all_came(const struct state *s)
{
    for (int peer = 0; peer < s->r->count; peer++)
        if (peer != s->r->rank &&
            (s->heard[peer] < MESSAGES || weir_signal_read(s->r->ctx, s->signal[peer]) < (uint64_t)s->round))
            return false;
    return weir_test(&s->comp) != WEIR_ERR_AGAIN;
}

/* After all ranks have got everything. */
static void check_round(struct state *s)
{
    struct rank *r = s->r;
    CHECK(s->table->count == (uint64_t)s->round * (uint64_t)(r->count - 1));
    for (int peer = 0; peer < r->count; peer++) {
        if (peer == r->rank)
            continue;
        CHECK_OK(weir_ep_status(r->ep[peer]));
        CHECK(s->heard[peer] == MESSAGES);
        CHECK(weir_signal_read(r->ctx, s->signal[peer]) == (uint64_t)s->round);
        CHECK(pattern_differs(s->table->row[peer], LEN, (unsigned)(s->round * RANKS + peer)) == LEN);
    }
}

/* Some endpoints stay for the next round: traffic goes over them while others connect. */
static void end_round(struct state *s, bool all)
{
    struct rank *r = s->r;
    for (int peer = 0; peer < r->count; peer++) {
        if (!s->up[peer] || (!all && draw(s, 4) == 0))
            continue;
        weir_rkey_destroy(s->rkey[peer]);
        weir_ep_close(r->ep[peer]);
        r->ep[peer] = NULL;
        s->up[peer] = false;
    }
}

static void one_round(struct state *s)
{
    struct rank *r = s->r;
    uint64_t end_ns = now_ns() + 60000000000ull;
    s->comp = (weir_comp)WEIR_COMP_INIT;
    memset(s->sent, 0, sizeof(s->sent));
    memset(s->heard, 0, sizeof(s->heard));
    barrier(r);
    while (!all_sent(s)) {
        int peer = (int)draw(s, (unsigned)r->count);
        if (peer == r->rank || s->sent[peer] == MESSAGES)
            continue;
        if (!s->up[peer]) {
            dawdle(s);
            begin(s, peer);
        }
        send_next(s, peer);
        if (draw(s, 3) == 0)
            hear(s);
    }
    while (!all_came(s)) {
        weir_ctx_block(r->ctx, 10);
        hear(s);
        CHECK(now_ns() < end_ns);
    }
    CHECK_OK(weir_wait(r->ctx, &s->comp, -1));
    barrier(r);
    hear(s); /* nothing comes twice */
    check_round(s);
    barrier(r);
}

static uint64_t seed_of(const struct rank *r)
{
    const char *text = getenv("CROSSING_SEED");
    return ((text ? strtoull(text, NULL, 10) : 1) * RANKS + (uint64_t)r->rank + 1) * 0x9e3779b97f4a7c15ull;
}

static void crossing_body(struct rank *r)
{
    struct state *s = calloc(1, sizeof(*s));
    int n = rounds(60, 4);
    CHECK(s);
    s->r = r;
    s->random = seed_of(r);
    rank_open(r, 0);
    area_make(r, &s->table_area, sizeof(*s->table), true);
    area_make(r, &s->local_area, sizeof(*s->local) + RANKS * sizeof(uint64_t), true);
    s->table = (struct table *)(void *)s->table_area.ptr;
    s->local = (struct table *)(void *)s->local_area.ptr;
    s->before = (uint64_t *)(void *)(s->local + 1);
    memset(s->table, 0, sizeof(*s->table));
    for (int peer = 0; peer < r->count; peer++)
        s->signal[peer] = signal_open(r, peer);
    publish(r, 0, s->table_area.mem, s->table, sizeof(*s->table));
    for (s->round = 1; s->round <= n; s->round++) {
        one_round(s);
        end_round(s, s->round == n);
    }
    rank_close(r);
    free(s);
}

static void test_two(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = crossing_body});
}

static void test_many(void **state)
{
    (void)state;
    job_run(&(struct job){.count = RANKS, .body = crossing_body});
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two),
        cmocka_unit_test(test_many),
    };
    if (!suite_may_run(argc, argv))
        return 77;
    return cmocka_run_group_tests_name(transport_name(), tests, NULL, NULL);
}
