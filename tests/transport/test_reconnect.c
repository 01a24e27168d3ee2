/*
 * Endpoints that have lost their connection and are connected again: what was outstanding is told of, nothing comes
 * twice, nothing acknowledged is lost, old and new do not mix, keys stay valid. Over the transport of WEIR_TRANSPORT.
 */
#include "break.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { SLOTS = 64, PUT_LEN = 3000 };

/* What messages carry: a stream of numbers that starts anew with each connection. */
struct parcel {
    uint32_t epoch, number;
    uint32_t last; /* nothing comes after it */
};

/* One rank's side: it sends to its peer, and checks what comes from there. */
struct side {
    struct rank *r;
    weir_ep *ep;
    int peer;
    struct area local, table;
    weir_rkey *rkey;
    uint64_t remote;
    uint32_t epoch, sent;    /* of this connection */
    uint32_t epoch_in, next; /* what comes next */
    bool done_in;
    unsigned random;
};

static void take(struct side *s, const struct parcel *p)
{
    const struct rank *r = s->r;
    if (p->last) {
        s->done_in = true;
        return;
    }
    CHECK(!s->done_in);
    CHECK(p->epoch >= s->epoch_in);
    if (p->epoch > s->epoch_in) {
        s->epoch_in = p->epoch;
        s->next = 0;
    }
    CHECK(p->number == s->next); /* none is missing in the middle, none comes twice */
    s->next++;
    /* By epoch, for the peer to compare with what it was told has arrived. */
    __atomic_store_n(&r->board->number[r->rank][p->epoch % 7 + 8], (uint64_t)p->epoch << 32 | s->next,
                     __ATOMIC_SEQ_CST);
}

static void receive(struct side *s)
{
    struct rank *r = s->r;
    struct parcel p;
    size_t len = sizeof(p);
    while (weir_recv(r->ctx, &p, &len, NULL) == WEIR_OK) {
        CHECK(len == sizeof(p));
        take(s, &p);
    }
}

/* Waits for the completion's end, of whatever kind, and takes messages meanwhile. */
static weir_status await(struct side *s, weir_comp *comp)
{
    struct rank *r = s->r;
    uint64_t end_ns = now_ns() + 30000000000ull;
    while (weir_test(comp) == WEIR_ERR_AGAIN) {
        receive(s);
        weir_ctx_block(r->ctx, 10);
        CHECK(now_ns() < end_ns);
    }
    return weir_test(comp);
}

/* A flush that succeeds says: all messages of this epoch so far have arrived. */
static weir_status flush_and_check(struct side *s)
{
    struct rank *r = s->r;
    weir_comp *comp = comp_new(r);
    weir_status status = weir_flush(s->ep, comp);
    if (status == WEIR_OK)
        status = await(s, comp);
    if (status == WEIR_OK)
        r->board->number[r->rank][s->epoch % 7] = (uint64_t)s->epoch << 32 | s->sent;
    return status;
}

/*
 * UCX 1.13 ends the process (an assertion, wireup_ep.c) when a connection breaks while the two sides still agree on its
 * lanes. So nothing is broken while either side connects: each says when it does, under one lock.
 */
static uint64_t *board_lock(struct side *s)
{
    return &s->r->board->number[0][15];
}

static bool lock(struct side *s)
{
    return __atomic_exchange_n(board_lock(s), 1, __ATOMIC_SEQ_CST) == 0;
}

static void unlock(struct side *s)
{
    __atomic_store_n(board_lock(s), 0, __ATOMIC_SEQ_CST);
}

static void say_connected(struct side *s, bool connected)
{
    while (!lock(s))
        weir_progress(s->r->ctx);
    s->r->board->number[s->r->rank][7] = connected;
    unlock(s);
}

static bool try_to_break(struct side *s)
{
    if (!lock(s))
        return false;
    bool both = s->r->board->number[0][7] && s->r->board->number[1][7];
    if (both)
        break_connection(s->ep);
    unlock(s);
    return both;
}

/* Traffic until the endpoint fails; after `before_break` messages it is made to. */
static void send_until_broken(struct side *s, unsigned before_break)
{
    bool broken = false;
    struct rank *r = s->r;
    weir_status status = WEIR_OK;
    weir_comp *comp = comp_new(r);
    uint64_t end_ns = now_ns() + 30000000000ull;
    while (status == WEIR_OK) {
        struct parcel p = {s->epoch, s->sent, 0};
        uint32_t slot = s->sent % SLOTS;
        pattern_fill(s->local.ptr, PUT_LEN, s->epoch);
        status = weir_put(s->ep, s->local.ptr, s->local.mem, PUT_LEN, s->remote + slot * PUT_LEN, s->rkey, comp);
        if (status == WEIR_OK && (status = weir_send(s->ep, &p, sizeof(p))) == WEIR_OK)
            s->sent++;
        if (status == WEIR_OK && rand_r(&s->random) % 16 == 0)
            status = flush_and_check(s);
        if (!broken && s->sent >= before_break)
            broken = try_to_break(s);
        if (s->sent % 16 == 0) /* seldom: some wait untaken when the connection breaks */
            receive(s);
        CHECK(now_ns() < end_ns);
    }
    await(s, comp); /* what was outstanding has ended, with this error or well */
    CHECK(weir_ep_status(s->ep) != WEIR_OK);
}

static void connect_again(struct side *s)
{
    struct rank *r = s->r;
    uint64_t end_ns = now_ns() + 30000000000ull;
    weir_status status;
    say_connected(s, false);
    do {
        if (weir_ep_reconnect(s->ep) == WEIR_OK) {
            status = weir_ep_wait_ready(s->ep, -1);
        } else {
            status = weir_ep_status(s->ep);
        }
        CHECK(now_ns() < end_ns);
    } while (status != WEIR_OK);
    say_connected(s, true);
    s->epoch++;
    s->sent = 0;
}

/* Data written through the key of the first connection is there. */
static void put_and_check(struct side *s)
{
    struct rank *r = s->r;
    weir_comp *comp = comp_new(r);
    memset(s->local.ptr, 0xee, PUT_LEN);
    weir_status status;
    do {
        status = weir_put(s->ep, s->local.ptr, s->local.mem, PUT_LEN, s->remote + SLOTS * PUT_LEN, s->rkey, NULL);
        struct parcel last = {.last = 1};
        if (status == WEIR_OK)
            status = weir_send(s->ep, &last, sizeof(last));
        *comp = (weir_comp)WEIR_COMP_INIT;
        if (status == WEIR_OK && (status = weir_flush(s->ep, comp)) == WEIR_OK)
            status = await(s, comp);
        if (status != WEIR_OK)
            connect_again(s);
    } while (status != WEIR_OK);
}

/* Of the last epochs: what the peer was told has arrived has come here. */
static void check_acknowledged(struct side *s)
{
    const struct rank *r = s->r;
    for (int i = 0; i < 7; i++) {
        uint64_t told = r->board->number[s->peer][i], came = r->board->number[r->rank][i + 8];
        CHECK(told >> 32 != came >> 32 || (uint32_t)came >= (uint32_t)told);
        CHECK(told >> 32 <= came >> 32 || (uint32_t)told == 0);
    }
}

static void broken_body(struct rank *r)
{
    struct side s = {.r = r, .peer = !r->rank, .random = (unsigned)r->rank + 1};
    int n = rounds(12, 3);
    rank_open_all(r);
    s.ep = r->ep[s.peer];
    area_make(r, &s.local, PUT_LEN, true);
    area_make(r, &s.table, (SLOTS + 1) * PUT_LEN, true);
    s.rkey = swap_keys(r, &s.table, &s.remote);
    CHECK_OK(weir_ep_reconnect(s.ep)); /* nothing is wrong: nothing happens */
    CHECK_OK(weir_ep_wait_ready(s.ep, -1));
    say_connected(&s, true);
    for (int i = 0; i < n; i++) {
        send_until_broken(&s, 1 + (unsigned)rand_r(&s.random) % 200);
        connect_again(&s);
    }
    put_and_check(&s);
    uint64_t end_ns = now_ns() + 30000000000ull;
    while (!s.done_in) {
        receive(&s);
        weir_ctx_block(r->ctx, 10);
        CHECK(now_ns() < end_ns);
    }
    barrier(r);
    CHECK(bytes_differ(s.table.ptr + SLOTS * PUT_LEN, PUT_LEN, 0xee) == PUT_LEN);
    check_acknowledged(&s);
    weir_rkey_destroy(s.rkey);
    rank_close(r);
}

static void test_broken(void **state)
{
    (void)state;
    if (transport_is("shm"))
        skip();
    job_run(&(struct job){.count = 2, .body = broken_body});
}

/* A peer that does not answer for WEIR_TIMEOUT ends the endpoint; when it is back, so is the endpoint. */
static void silent_body(struct rank *r)
{
    enum { LEN = 64 };
    struct area word, result;
    rank_open_all(r);
    area_make(r, &word, LEN, false); /* ordinary memory: the target has to carry fetch_add out */
    area_make(r, &result, LEN, true);
    memset(word.ptr, 0, LEN);
    publish(r, 0, word.mem, word.ptr, LEN);
    barrier(r);
    if (r->rank == 0) {
        uint64_t remote, *got = (uint64_t *)(void *)result.ptr;
        weir_rkey *rkey = import(r, 1, 0, &remote);
        weir_comp *comp = comp_new(r);
        CHECK_OK(weir_send(r->ep[1], "a", 1));
        flush(r, r->ep[1]);
        kill(r->board->pid[1], SIGSTOP);
        CHECK_OK(weir_send(r->ep[1], "b", 1));
        CHECK_OK(weir_fetch_add(r->ep[1], 1, got, result.mem, remote, rkey, comp));
        CHECK_STATUS(weir_wait(r->ctx, comp, 20000), WEIR_ERR_PEER_GONE);
        CHECK(comp->pending == 0);
        CHECK_STATUS(weir_send(r->ep[1], "x", 1), WEIR_ERR_PEER_GONE);
        CHECK_OK(weir_ep_reconnect(r->ep[1]));
        CHECK_OK(weir_send(r->ep[1], "c", 1)); /* before the old ring is read */
        kill(r->board->pid[1], SIGCONT);
        *comp = (weir_comp)WEIR_COMP_INIT;
        CHECK_OK(weir_fetch_add(r->ep[1], 1, got, result.mem, remote, rkey, comp));
        CHECK_OK(weir_wait(r->ctx, comp, 20000));
        CHECK(*got <= 1);
        flush(r, r->ep[1]);
        weir_rkey_destroy(rkey);
    } else {
        char text[4];
        for (const char *expected = "abc"; *expected; expected++) {
            size_t len = sizeof(text);
            weir_status status;
            while ((status = weir_recv(r->ctx, text, &len, NULL)) == WEIR_ERR_AGAIN)
                weir_ctx_block(r->ctx, 10);
            CHECK_OK(status);
            CHECK(len == 1 && text[0] == *expected);
        }
    }
    barrier(r);
    area_free(r, &word);
    rank_close(r);
}

static void test_silent(void **state)
{
    (void)state;
    if (!transport_is("shm"))
        skip();
    job_run(&(struct job){.count = 2, .body = silent_body, .timeout = "500ms"});
}

/* A process that has ended does not come back. */
static void dead_body(struct rank *r)
{
    rank_open_all(r);
    if (r->rank == 1)
        rank_die(r);
    uint64_t end_ns = now_ns() + 30000000000ull;
    while (weir_ep_status(r->ep[1]) == WEIR_OK) {
        weir_ctx_block(r->ctx, 10);
        CHECK(now_ns() < end_ns);
    }
    weir_status status = weir_ep_reconnect(r->ep[1]);
    if (status == WEIR_OK)
        status = weir_ep_wait_ready(r->ep[1], -1);
    CHECK(status == WEIR_ERR_PEER_UNREACHABLE || status == WEIR_ERR_TIMEOUT);
    CHECK(strlen(weir_last_error()) > 20);
    weir_ep_close(r->ep[1]);
    weir_ep_close(r->ep[0]);
    weir_ctx_destroy(r->ctx);
}

static void test_dead(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = dead_body, .timeout = "3s", .killed = 2});
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_silent),
        cmocka_unit_test(test_dead),
    };
    if (!suite_may_run(argc, argv))
        return 77;
    return cmocka_run_group_tests_name(transport_name(), tests, NULL, NULL);
}
