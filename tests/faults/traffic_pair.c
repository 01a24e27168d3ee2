/*
 * Two ranks, each the initiator of operations on the other's memory.
 *
 * A rank's area at its peer is 64 slots. A put number n writes slot n % 64: its number, its length and a pattern made
 * of both. So a look at a slot tells which put it holds and whether all of it is there. A counter is added to, messages
 * carry numbers, and the slot that a signal announces must hold the put of that signal or a later one.
 */
#include "traffic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SLOTS     64u
#define SLOT_SIZE 16384u
#define HEAD      16u
#define MEETING_S 60

/* What a rank tells its peer before they connect. */
struct card {
    unsigned char address[WEIR_ADDRESS_MAX], rkey[WEIR_RKEY_MAX];
    uint64_t address_len, rkey_len, area;
    uint32_t signal, done;
};

/* What an initiator knows of each slot at its peer; left for the peer, which compares. */
struct book {
    uint64_t issued[SLOTS]; /* number of the last put posted; 0: none */
    uint64_t acked[SLOTS];  /* number of the last put that a flush has confirmed */
};

struct area {
    unsigned char slot[SLOTS][SLOT_SIZE];
    uint64_t counter;
    uint64_t order[SLOTS]; /* of put_signals: the number of each, at its number % 64 */
};

struct pair {
    struct traffic *t;
    int peer;
    weir_ctx *ctx;
    weir_pool *pool;
    weir_ep *ep;
    weir_rkey *rkey;
    struct area *area;   /* the peer writes here */
    struct area *mirror; /* what this rank writes to the peer, and from where */
    unsigned char *back; /* for reading */
    uint64_t *word;
    weir_mem *mem;
    struct card mine, theirs;
    struct book book;
    uint64_t puts, signals, added, sent, received, random;
    weir_comp comp[SLOTS], order_comp[SLOTS], all;
};

static unsigned char pattern(uint64_t number, size_t i)
{
    return (unsigned char)(number * 131 + i * 7 + (i >> 8));
}

static void fill(unsigned char *slot, uint64_t number, uint64_t len)
{
    memcpy(slot, &number, 8);
    memcpy(slot + 8, &len, 8);
    for (size_t i = HEAD; i < len; i++)
        slot[i] = pattern(number, i);
}

/* Number of the put that a slot holds wholly; 0: none yet, or not whole. */
static uint64_t whole(const unsigned char *slot)
{
    uint64_t number, len;
    memcpy(&number, slot, 8);
    memcpy(&len, slot + 8, 8);
    if (len < HEAD || len > SLOT_SIZE)
        return 0;
    for (size_t i = HEAD; i < len; i++)
        if (slot[i] != pattern(number, i))
            return 0;
    return number;
}

static void nap(struct pair *p)
{
    if (p->ctx)
        weir_progress(p->ctx);
    usleep(1000);
}

/* Whether it failed. */
static bool wait_comp(struct pair *p, weir_comp *comp)
{
    return traffic_failed(p->t, weir_wait(p->ctx, comp, -1));
}

/* ---- Set-up ---- */

static weir_status prepare(struct pair *p)
{
    weir_ctx_params params = {
        .size = sizeof(params), .id = (uint64_t)p->t->rank, .bind_address = getenv("TRAFFIC_ADDRESS"), .signals = 64};
    weir_status status = weir_ctx_create(&params, &p->ctx);
    if (status == WEIR_OK)
        status = weir_pool_create(p->ctx, 0, &p->pool);
    if (status == WEIR_OK)
        status = weir_pool_alloc(p->pool, sizeof(struct area), (void **)&p->area, &p->mem);
    if (status == WEIR_OK)
        status = weir_pool_alloc(p->pool, sizeof(struct area), (void **)&p->mirror, NULL);
    if (status == WEIR_OK)
        status = weir_pool_alloc(p->pool, SLOT_SIZE, (void **)&p->back, NULL);
    if (status == WEIR_OK)
        status = weir_pool_alloc(p->pool, sizeof(*p->word), (void **)&p->word, NULL);
    if (status == WEIR_OK)
        status = weir_signal_create(p->ctx, &p->mine.signal);
    if (status == WEIR_OK)
        status = weir_signal_create(p->ctx, &p->mine.done);
    if (status != WEIR_OK)
        return status;
    memset(p->area, 0, sizeof(*p->area));
    memset(p->mirror, 0, sizeof(*p->mirror));
    p->mine.area = (uint64_t)(uintptr_t)p->area;
    size_t address_len = sizeof(p->mine.address), rkey_len = sizeof(p->mine.rkey);
    status = weir_ctx_address(p->ctx, p->mine.address, &address_len);
    if (status == WEIR_OK)
        status = weir_mem_export(p->mem, p->area, sizeof(*p->area), p->mine.rkey, &rkey_len);
    p->mine.address_len = address_len;
    p->mine.rkey_len = rkey_len;
    return status;
}

/* False: the peer will not come. */
static bool find_peer(struct pair *p)
{
    time_t end = time(NULL) + MEETING_S;
    while (!traffic_find(p->t, "card", p->peer, &p->theirs, sizeof(p->theirs))) {
        if (traffic_find(p->t, "ended", p->peer, NULL, 0) || time(NULL) > end)
            return false;
        nap(p);
    }
    return true;
}

static bool connect_peer(struct pair *p)
{
    traffic_stage("addressed");
    if (traffic_failed(p->t, weir_ep_create(p->ctx, p->theirs.address, p->theirs.address_len, &p->ep)) ||
        traffic_failed(p->t, weir_ep_connect(p->ep)))
        return false;
    traffic_stage("connecting");
    if (traffic_failed(p->t, weir_ep_wait_ready(p->ep, -1)) ||
        traffic_failed(p->t, weir_rkey_import(p->ep, p->theirs.rkey, p->theirs.rkey_len, &p->rkey)))
        return false;
    traffic_stage("ready");
    return true;
}

/* ---- Operations ---- */

static uint64_t remote(const struct pair *p, const void *in_mirror)
{
    return p->theirs.area + (uint64_t)((const char *)in_mirror - (const char *)p->mirror);
}

static bool do_put(struct pair *p)
{
    uint64_t number = ++p->puts, slot = number % SLOTS,
             len = HEAD + traffic_random(&p->random) % (SLOT_SIZE - HEAD + 1);
    if (wait_comp(p, &p->comp[slot]))
        return false;
    fill(p->mirror->slot[slot], number, len);
    p->book.issued[slot] = number;
    return !traffic_failed(p->t, weir_put(p->ep, p->mirror->slot[slot], NULL, len, remote(p, p->mirror->slot[slot]),
                                          p->rkey, &p->comp[slot]));
}

static bool do_put_signal(struct pair *p)
{
    uint64_t number = ++p->signals, at = number % SLOTS;
    if (wait_comp(p, &p->order_comp[at]))
        return false;
    p->mirror->order[at] = number;
    return !traffic_failed(p->t,
                           weir_put_signal(p->ep, &p->mirror->order[at], NULL, 8, remote(p, &p->mirror->order[at]),
                                           p->rkey, p->theirs.signal, &p->order_comp[at]));
}

static bool do_fetch_add(struct pair *p)
{
    uint64_t value = 1 + traffic_random(&p->random) % 1000;
    p->all = (weir_comp)WEIR_COMP_INIT;
    if (traffic_failed(p->t,
                       weir_fetch_add(p->ep, value, p->word, NULL, remote(p, &p->mirror->counter), p->rkey, &p->all)) ||
        wait_comp(p, &p->all))
        return false;
    if (*p->word != p->added)
        traffic_broken(p->t, "fetch_add found %llu, not %llu", (unsigned long long)*p->word,
                       (unsigned long long)p->added);
    p->added += value;
    return true;
}

static bool do_send(struct pair *p)
{
    unsigned char text[2000];
    uint64_t number = p->sent + 1, len = HEAD + traffic_random(&p->random) % (sizeof(text) - HEAD);
    fill(text, number, len);
    if (traffic_failed(p->t, weir_send(p->ep, text, len)))
        return false;
    p->sent = number;
    return true;
}

static bool do_flush(struct pair *p)
{
    struct book now = p->book;
    p->all = (weir_comp)WEIR_COMP_INIT;
    if (traffic_failed(p->t, weir_flush(p->ep, &p->all)) || wait_comp(p, &p->all))
        return false;
    memcpy(p->book.acked, now.issued, sizeof(now.issued));
    return true;
}

/* Reads a slot back; all puts to it are flushed. */
static bool do_get(struct pair *p)
{
    uint64_t slot = traffic_random(&p->random) % SLOTS, want = p->book.issued[slot];
    if (!do_flush(p))
        return false;
    p->all = (weir_comp)WEIR_COMP_INIT;
    if (traffic_failed(p->t,
                       weir_get(p->ep, p->back, NULL, SLOT_SIZE, remote(p, p->mirror->slot[slot]), p->rkey, &p->all)) ||
        wait_comp(p, &p->all))
        return false;
    if (want != 0 && whole(p->back) != want)
        traffic_broken(p->t, "slot %u holds %llu, not %llu", (unsigned)slot, (unsigned long long)whole(p->back),
                       (unsigned long long)want);
    return true;
}

/* What came from the peer meanwhile. */
static bool look(struct pair *p)
{
    unsigned char text[2000];
    size_t len = sizeof(text);
    uint64_t from, count = weir_signal_read(p->ctx, p->mine.signal);
    if (count > 0 && __atomic_load_n(&p->area->order[count % SLOTS], __ATOMIC_ACQUIRE) < count)
        traffic_broken(p->t, "signal %llu came before its data", (unsigned long long)count);
    weir_status status;
    while ((status = weir_recv(p->ctx, text, &len, &from)) == WEIR_OK) {
        if (from != (uint64_t)p->peer || len < HEAD || whole(text) != ++p->received)
            traffic_broken(p->t, "message %llu is not the one awaited", (unsigned long long)p->received);
        len = sizeof(text);
    }
    return status == WEIR_ERR_AGAIN || !traffic_failed(p->t, status);
}

static bool step(struct pair *p)
{
    switch (traffic_random(&p->random) % 16) {
    case 0:
        return do_flush(p);
    case 1:
        return do_get(p);
    case 2:
        return do_fetch_add(p);
    case 3:
    case 4:
        return do_send(p);
    case 5:
    case 6:
    case 7:
        return do_put_signal(p);
    default:
        return do_put(p);
    }
}

/* The peer may still have messages to send, which need room, so they are taken meanwhile. */
static bool await_done(struct pair *p)
{
    weir_status status;
    const char *bound = getenv("WEIR_TIMEOUT"); /* in seconds */
    time_t end = time(NULL) + (bound ? atoi(bound) : MEETING_S);
    while ((status = weir_signal_wait(p->ctx, p->mine.done, 1, 10)) == WEIR_ERR_TIMEOUT && time(NULL) < end)
        if (traffic_failed(p->t, weir_ep_status(p->ep)) || traffic_find(p->t, "ended", p->peer, NULL, 0) || !look(p))
            break;
    if (status == WEIR_ERR_TIMEOUT) /* the signal may have come between the last look at it and the peer's end */
        status = weir_signal_wait(p->ctx, p->mine.done, 1, 10);
    return !traffic_failed(p->t, status);
}

static bool exchange(struct pair *p)
{
    for (unsigned i = 0; i < p->t->steps; i++) {
        if (i == p->t->steps / 2)
            traffic_stage("half");
        if (!step(p) || !look(p))
            return false;
    }
    traffic_stage("flush");
    if (!do_flush(p) || traffic_failed(p->t, weir_put_signal(p->ep, NULL, NULL, 0, 0, NULL, p->theirs.done, NULL)) ||
        !do_flush(p))
        return false;
    traffic_stage("done");
    return await_done(p) && look(p);
}

/* ---- The end ---- */

/* All operations have ended by now, whatever became of the peer. */
static void close_peer(struct pair *p)
{
    weir_rkey_destroy(p->rkey);
    weir_ep_close(p->ep);
    for (unsigned i = 0; i < SLOTS; i++)
        if (weir_test(&p->all) == WEIR_ERR_AGAIN || weir_test(&p->comp[i]) == WEIR_ERR_AGAIN ||
            weir_test(&p->order_comp[i]) == WEIR_ERR_AGAIN)
            traffic_broken(p->t, "an operation outlived its endpoint");
}

/* Nothing acknowledged is lost, and nothing is there that was never sent. */
static void compare(struct pair *p)
{
    struct book theirs;
    if (!traffic_find(p->t, "book", p->peer, &theirs, sizeof(theirs)))
        return; /* it died: nobody knows what was acknowledged */
    for (unsigned i = 0; i < SLOTS; i++) {
        uint64_t there = whole(p->area->slot[i]);
        bool open = theirs.issued[i] != theirs.acked[i]; /* then it may be half written */
        if (open ? there > theirs.issued[i] : there != theirs.acked[i])
            traffic_broken(p->t, "slot %u holds put %llu; acknowledged was %llu, sent %llu", i,
                           (unsigned long long)there, (unsigned long long)theirs.acked[i],
                           (unsigned long long)theirs.issued[i]);
    }
}

/* Both stay until both have ended, so that neither's end disturbs the other. */
static void part(struct pair *p)
{
    traffic_leave(p->t, "book", &p->book, sizeof(p->book));
    traffic_leave(p->t, "ended", "", 0);
    time_t end = time(NULL) + MEETING_S;
    while (!traffic_find(p->t, "ended", p->peer, NULL, 0)) {
        if (time(NULL) > end) {
            printf("rank %d did not end\n", p->peer);
            exit(2);
        }
        nap(p);
    }
}

void traffic_pair(struct traffic *t)
{
    static struct pair pair;
    struct pair *p = &pair;
    p->t = t;
    p->peer = !t->rank;
    p->random = t->seed * 2 + (uint64_t)t->rank + 1;
    if (!traffic_failed(t, prepare(p))) {
        traffic_stage("created");
        traffic_leave(t, "card", &p->mine, sizeof(p->mine));
        if (!find_peer(p)) {
            t->status = WEIR_ERR_PEER_UNREACHABLE;
            t->failed_ns = t->start_ns;
            snprintf(t->sentence, sizeof(t->sentence), "the peer never came");
        } else if (connect_peer(p)) {
            exchange(p);
        }
    }
    close_peer(p);
    part(p);
    if (p->area)
        compare(p);
    weir_pool_destroy(p->pool);
    weir_ctx_destroy(p->ctx);
}
