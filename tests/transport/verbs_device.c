/*
 * What is particular to verbs, on a device (soft-RoCE will do): operations longer than the device takes at once, memory
 * that is not registered, peers that take no messages, IPv6. Exit status 77: no device, the reason is said.
 */
#include "harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
    LONG = (17 << 20) + 3, /* soft-RoCE takes 8 MiB at once: three pieces */
    DEPTH = 16,
    SHORT = 8,
};

/*
 * A long put and a long get find a queue with room for a part of their pieces only; the rest follows from progress.
 * What is posted behind them stays behind them.
 */
static void long_body(struct rank *r)
{
    setenv("WEIR_VERBS_DEPTH", "16", 1);
    rank_open_all(r);
    struct area area[2];
    uint32_t signal = signal_open(r, 0);
    uint64_t remote;
    area_make(r, &area[0], LONG + 64, true);
    area_make(r, &area[1], LONG, true);
    memset(area[0].ptr, 0, area[0].len);
    weir_rkey *rkey = swap_keys(r, &area[0], &remote);
    if (r->rank == 0) {
        weir_comp comp = WEIR_COMP_INIT;
        pattern_fill(area[1].ptr, LONG, 5);
        CHECK_OK(weir_put(r->ep[1], area[1].ptr, area[1].mem, SHORT, remote, rkey, NULL));
        flush(r, r->ep[1]); /* the key is granted, the queue empty */
        for (int i = 0; i < DEPTH - 1; i++)
            CHECK_OK(weir_put(r->ep[1], area[1].ptr, area[1].mem, SHORT, remote, rkey, NULL));
        CHECK_OK(weir_put(r->ep[1], area[1].ptr, area[1].mem, LONG, remote, rkey, &comp));
        CHECK(comp.pending == 1);
        CHECK_OK(weir_put_signal(r->ep[1], NULL, NULL, 0, 0, NULL, signal_of(r, 1, 0), NULL));
        CHECK_OK(weir_wait(r->ctx, &comp, -1));

        memset(area[1].ptr, 0, LONG);
        for (int i = 0; i < DEPTH - 1; i++)
            CHECK_OK(weir_put(r->ep[1], area[1].ptr, area[1].mem, SHORT, remote + LONG + 8, rkey, NULL));
        CHECK_OK(weir_get(r->ep[1], area[1].ptr, area[1].mem, LONG, remote, rkey, &comp));
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        CHECK(pattern_differs(area[1].ptr, LONG, 5) == LONG);
    } else {
        CHECK_OK(weir_signal_wait(r->ctx, signal, 1, -1));
        CHECK(pattern_differs(area[0].ptr, LONG, 5) == LONG);
    }
    barrier(r);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

static void test_long_operations(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = long_body});
}

/* Closing an endpoint with a long operation of which a part was posted ends its completion, once. */
static void long_closed_body(struct rank *r)
{
    setenv("WEIR_VERBS_DEPTH", "16", 1);
    rank_open_all(r);
    struct area area;
    uint64_t remote;
    area_make(r, &area, LONG, true);
    publish(r, 0, area.mem, area.ptr, area.len);
    barrier(r);
    if (r->rank == 0) {
        weir_rkey *rkey = import(r, 1, 0, &remote);
        weir_comp comp = WEIR_COMP_INIT;
        CHECK_OK(weir_put(r->ep[1], area.ptr, area.mem, SHORT, remote, rkey, NULL));
        flush(r, r->ep[1]); /* the key is granted, the queue empty */
        for (int i = 0; i < DEPTH - 2; i++) /* one entry may stay free */
            CHECK_OK(weir_put(r->ep[1], area.ptr, area.mem, SHORT, remote, rkey, NULL));
        CHECK_OK(weir_put(r->ep[1], area.ptr, area.mem, LONG, remote, rkey, &comp));
        weir_rkey_destroy(rkey);
        weir_ep_close(r->ep[1]);
        r->ep[1] = NULL;
        CHECK(comp.pending == 0);
        CHECK_STATUS(weir_test(&comp), WEIR_ERR_CANCELED);
    }
    barrier(r);
    rank_close(r);
}

static void test_closed_during_long(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = long_closed_body});
}

/* Without a cache memory that is not registered is an error beyond max_inline, with nothing posted; up to there it is none. */
static void unregistered_body(struct rank *r)
{
    CHECK(setenv("WEIR_REG_CACHE", "0", 1) == 0);
    rank_open_all(r);
    struct area area;
    weir_ep_attr attr;
    weir_comp comp = WEIR_COMP_INIT;
    uint64_t remote, word = 0;
    area_make(r, &area, 8192, true);
    memset(area.ptr, 0, area.len);
    weir_rkey *rkey = swap_keys(r, &area, &remote);
    weir_ep_query(r->ep[!r->rank], &attr);
    CHECK(attr.ordered_writes && attr.native_signal && !attr.maps_peer);
    CHECK(attr.max_inline >= 8 && attr.max_inline < 4096);
    unsigned char *stray = malloc(8192);
    pattern_fill(stray, 8192, 3);
    CHECK_STATUS(weir_put(r->ep[!r->rank], stray, NULL, attr.max_inline + 1, remote, rkey, &comp), WEIR_ERR_KEY);
    CHECK(strstr(weir_last_error(), "not registered"));
    CHECK_STATUS(weir_get(r->ep[!r->rank], stray, NULL, 1, remote, rkey, &comp), WEIR_ERR_KEY);
    CHECK(comp.pending == 0 && comp.status == WEIR_OK);
    CHECK_OK(weir_put(r->ep[!r->rank], stray, NULL, attr.max_inline, remote, rkey, NULL));
    memset(stray, 0, 8192); /* what went inline is out of it */
    CHECK_OK(weir_fetch_add(r->ep[!r->rank], 5, &word, NULL, remote + 4096, rkey, NULL));
    flush(r, r->ep[!r->rank]);
    CHECK(word == 0);
    CHECK_OK(weir_fetch_add(r->ep[!r->rank], 1, &word, NULL, remote + 4096, rkey, &comp));
    CHECK_OK(weir_wait(r->ctx, &comp, -1));
    CHECK(word == 5);
    barrier(r);
    CHECK(pattern_differs(area.ptr, attr.max_inline, 3) == attr.max_inline);
    free(stray);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

static void test_unregistered(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = unregistered_body});
}

/*
 * Rank 1 takes no messages. Rank 0's sends to it end with an error in time, the endpoint lives on, and rank 2 reaches
 * rank 1 with signals and messages meanwhile. Then rank 1 takes all that was sent, in order.
 */
static void untaken_body(struct rank *r)
{
    rank_open_all(r);
    uint32_t signal = signal_open(r, 0), sent = 0;
    unsigned char text[1000];
    weir_status status = WEIR_OK;
    barrier(r);
    if (r->rank == 0) {
        while (status == WEIR_OK && sent < 100000) {
            memcpy(text, &sent, sizeof(sent));
            status = weir_send(r->ep[1], text, sizeof(text));
            sent += status == WEIR_OK;
        }
        CHECK(status == WEIR_ERR_TIMEOUT);
        CHECK_OK(weir_ep_status(r->ep[1]));
        r->board->number[0][1] = sent;
    }
    barrier(r);
    if (r->rank == 2) {
        CHECK_OK(weir_put_signal(r->ep[1], NULL, NULL, 0, 0, NULL, signal_of(r, 1, 0), NULL));
        CHECK_OK(weir_send(r->ep[1], "hello", 5));
        flush(r, r->ep[1]);
    }
    barrier(r); /* the message of rank 2 is there before rank 1 takes its first one */
    if (r->rank == 1) {
        uint32_t expected = 0, number, others = 0;
        CHECK_OK(weir_signal_wait(r->ctx, signal, 1, -1));
        while (weir_progress(r->ctx) > 0)
            continue;
        while (expected < r->board->number[0][1] || others == 0) {
            uint64_t from;
            size_t len = sizeof(text);
            status = weir_recv(r->ctx, text, &len, &from);
            if (status == WEIR_ERR_AGAIN)
                continue;
            CHECK_OK(status);
            if (from == 2) {
                CHECK(len == 5 && memcmp(text, "hello", 5) == 0);
                CHECK(expected < 3); /* it did not stand in line behind rank 0's */
                others++;
                continue;
            }
            memcpy(&number, text, sizeof(number));
            CHECK(from == 0 && len == sizeof(text) && number == expected);
            expected++;
        }
    }
    barrier(r);
    if (r->rank == 0)
        CHECK_OK(weir_send(r->ep[1], text, 4)); /* there is room again */
    barrier(r);
    rank_close(r);
}

static void test_untaken_messages(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 3, .body = untaken_body, .timeout = "2s"});
}

/*
 * A burst of short puts, each from the same word, which is changed as soon as the call returns; then what pushes out
 * those that are held back: a signal, a message, a flush, progress, in turn.
 */
static void burst_body(struct rank *r)
{
    enum { BURST = 13, KINDS = 4 };
    rank_open_all(r);
    struct area area;
    uint64_t remote, word;
    area_make(r, &area, BURST * KINDS * sizeof(word), true);
    memset(area.ptr, 0, area.len);
    signal_open(r, 0);
    weir_rkey *rkey = swap_keys(r, &area, &remote);
    weir_ep *ep = r->ep[!r->rank];
    for (unsigned kind = 0; kind < KINDS; kind++) {
        volatile uint64_t *last = (uint64_t *)(void *)area.ptr + (kind + 1) * BURST - 1;
        barrier(r);
        for (unsigned i = kind * BURST; r->rank == 0 && i < (kind + 1) * BURST; i++) {
            word = i + 1;
            CHECK_OK(weir_put(ep, &word, NULL, sizeof(word), remote + i * sizeof(word), rkey, NULL));
            word = ~0ull;
        }
        if (r->rank == 0 && kind == 0)
            CHECK_OK(weir_put_signal(ep, NULL, NULL, 0, 0, NULL, signal_of(r, 1, 0), NULL));
        if (r->rank == 0 && kind == 1)
            CHECK_OK(weir_send(ep, "x", 1));
        weir_comp comp = WEIR_COMP_INIT;
        if (r->rank == 0 && kind == 2)
            CHECK_OK(weir_flush(ep, &comp));
        if (r->rank == 0 && kind == 3)
            weir_progress(r->ctx);
        uint64_t end = now_ns() + 10000000000u;
        while (r->rank == 1 && *last != (kind + 1) * BURST && now_ns() < end)
            weir_progress(r->ctx);
        CHECK(r->rank == 0 || *last == (kind + 1) * BURST);
        /* Rank 0 makes no progress until it has arrived. */
        __atomic_store_n(&r->board->number[r->rank][2], kind + 1, __ATOMIC_RELEASE);
        while (__atomic_load_n(&r->board->number[1][2], __ATOMIC_ACQUIRE) < kind + 1)
            sleep_us(100);
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
    }
    barrier(r);
    for (uint64_t i = 0; r->rank == 1 && i < BURST * KINDS; i++)
        CHECK(((uint64_t *)(void *)area.ptr)[i] == i + 1);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

static void test_burst(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = burst_body});
}

/*
 * Rank 1's memory takes writes in any order: both sides are told, and a flush is enough for rank 1 to look at its memory
 * without a signal. Flushes behind nothing new, behind another flush and behind a read end too.
 */
static void relaxed_body(struct rank *r)
{
    enum { SIZE = 20000, ROUNDS = 20 };
    setenv("WEIR_VERBS_RELAXED", r->rank == 1 ? "on" : "off", 1);
    rank_open_all(r);
    struct area area;
    weir_ep_attr attr;
    uint64_t remote;
    weir_ep *ep = r->ep[!r->rank];
    area_make(r, &area, SIZE, true);
    weir_rkey *rkey = swap_keys(r, &area, &remote);
    weir_ep_query(ep, &attr);
    CHECK(attr.ordered_writes == (r->rank == 1));
    for (unsigned round = 0; round < ROUNDS; round++) {
        if (r->rank == 0) {
            weir_comp first = WEIR_COMP_INIT, second = WEIR_COMP_INIT;
            pattern_fill(area.ptr, SIZE, round);
            CHECK_OK(weir_put(ep, area.ptr, area.mem, SIZE, remote, rkey, NULL));
            CHECK_OK(weir_flush(ep, &first));
            if (round % 2)
                CHECK_OK(weir_flush(ep, &second));
            CHECK_OK(weir_wait(r->ctx, &first, -1));
            CHECK_OK(weir_wait(r->ctx, &second, -1));
        }
        barrier(r);
        CHECK(pattern_differs(area.ptr, SIZE, round) == SIZE);
        flush(r, ep);
        barrier(r);
    }
    if (r->rank == 0)
        CHECK_OK(weir_get(ep, area.ptr, area.mem, SIZE, remote, rkey, NULL));
    flush(r, ep);
    barrier(r);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

static void test_relaxed(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = relaxed_body});
}

static void ipv6_body(struct rank *r)
{
    setenv("WEIR_INTERFACE", getenv("TEST_IPV6"), 1);
    rank_open_all(r);
    for (int i = 0; i < 2; i++) {
        uint64_t from;
        char text[8];
        size_t len = sizeof(text);
        CHECK_OK(weir_send(r->ep[!r->rank], "six", 3));
        weir_status status;
        while ((status = weir_recv(r->ctx, text, &len, &from)) == WEIR_ERR_AGAIN)
            weir_ctx_block(r->ctx, 10);
        CHECK_OK(status);
        CHECK(len == 3 && memcmp(text, "six", 3) == 0);
    }
    barrier(r);
    rank_close(r);
}

/* The guest's device has an IPv6 address of which this program knows; elsewhere TEST_IPV6 may name one. */
static void test_ipv6(void **state)
{
    (void)state;
    const char *place = getenv("WEIR_SOFTROCE");
    if (place && strcmp(place, "device") != 0)
        setenv("TEST_IPV6", "fd77::1", 0);
    if (!getenv("TEST_IPV6")) {
        print_message("no IPv6 address of the device is known (TEST_IPV6)\n");
        skip();
    }
    job_run(&(struct job){.count = 2, .body = ipv6_body});
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_operations), cmocka_unit_test(test_closed_during_long),
        cmocka_unit_test(test_unregistered),    cmocka_unit_test(test_untaken_messages),
        cmocka_unit_test(test_burst),           cmocka_unit_test(test_ipv6),
        cmocka_unit_test(test_relaxed),
    };
    setenv("WEIR_TRANSPORT", "verbs", 1);
    setenv("WEIR_INTRANODE", "off", 1);
    if (transport_is_missing())
        return 77;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("verbs device", tests, NULL, NULL);
}
