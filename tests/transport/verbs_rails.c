/*
 * Several devices at once: WEIR_DEVICE lists them, TEST_RAILS says how many. Data and order are checked, and that every
 * device has carried its share, by the counters of the devices. Exit status 77: no such devices.
 */
#include "harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BIG = 768 * 1024 + 4099, SMALL = 64, ROUNDS = 24 };

static unsigned long packets_sent(int device)
{
    char path[128];
    unsigned long count = 0;
    snprintf(path, sizeof(path), "/sys/class/infiniband/rxe%d/ports/1/hw_counters/sent_pkts", device);
    FILE *file = fopen(path, "re");
    if (!file || fscanf(file, "%lu", &count) != 1)
        count = 0;
    if (file)
        fclose(file);
    return count;
}

/* Rank 1 looks at all data as soon as it sees the signal behind it: the last byte of each share, then all. */
static void check_round(struct rank *r, const unsigned char *area, int round)
{
    CHECK(pattern_differs(area, BIG, (unsigned)round) == BIG);
    CHECK(pattern_differs(area + BIG, SMALL, (unsigned)round + 100) == SMALL);
}

/* A round: a long put, a short one, and a signal that is empty, short or long. Rank 1 answers with a signal. */
static void order_body(struct rank *r)
{
    if (r->rank == 1 && getenv("TEST_CROSSED")) /* the devices of the list reach each other, not each itself */
        setenv("WEIR_DEVICE", getenv("TEST_CROSSED"), 1);
    rank_open_all(r);
    struct area area[2];
    uint32_t signal = signal_open(r, 0);
    uint64_t remote;
    for (int i = 0; i < 2; i++)
        area_make(r, &area[i], 2 * BIG + 2 * SMALL, true);
    memset(area[0].ptr, 0, area[0].len);
    weir_rkey *rkey = swap_keys(r, &area[0], &remote);
    weir_ep *ep = r->ep[!r->rank];
    uint32_t theirs = signal_of(r, !r->rank, 0);
    unsigned char *from = area[1].ptr, *second = (unsigned char *)area[0].ptr + BIG + SMALL;
    for (int round = 0; round < ROUNDS; round++) {
        weir_comp comp = WEIR_COMP_INIT;
        int kind = round % 3;
        if (r->rank == 1) {
            CHECK_OK(weir_signal_wait(r->ctx, signal, (uint64_t)round + 1, -1));
            check_round(r, area[0].ptr, round);
            CHECK(kind != 2 || pattern_differs(second, BIG, (unsigned)round + 200) == BIG);
            CHECK_OK(weir_put_signal(ep, NULL, NULL, 0, 0, NULL, theirs, NULL));
            continue;
        }
        pattern_fill(from, BIG, (unsigned)round);
        pattern_fill(from + BIG, SMALL, (unsigned)round + 100);
        pattern_fill(from + BIG + SMALL, BIG, (unsigned)round + 200);
        CHECK_OK(weir_put(ep, from, area[1].mem, BIG, remote, rkey, &comp));
        CHECK(comp.pending == 1);
        CHECK_OK(weir_put(ep, from + BIG, area[1].mem, SMALL, remote + BIG, rkey, NULL));
        size_t len = kind == 0 ? 0 : kind == 1 ? SMALL : BIG;
        CHECK_OK(weir_put_signal(ep, from + BIG + SMALL, area[1].mem, len, remote + BIG + SMALL, rkey, theirs, &comp));
        CHECK_OK(weir_signal_wait(r->ctx, signal, (uint64_t)round + 1, -1));
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        memset(from, 0, BIG);
        CHECK_OK(weir_get(ep, from, area[1].mem, BIG, remote, rkey, &comp));
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        CHECK(pattern_differs(from, BIG, (unsigned)round) == BIG);
    }
    flush(r, ep);
    barrier(r);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

static void test_order(void **state)
{
    (void)state;
    int rails = atoi(getenv("TEST_RAILS"));
    unsigned long before[4];
    for (int i = 0; i < rails; i++)
        before[i] = packets_sent(i);
    job_run(&(struct job){.count = 2, .body = order_body});
    for (int i = 0; i < rails; i++) {
        unsigned long sent = packets_sent(i) - before[i];
        print_message("rxe%d sent %lu packets\n", i, sent);
        assert_true(sent > ROUNDS * 2ul * BIG / 4096 / (unsigned)rails);
    }
}

/* Many signals behind long puts, without waiting: they are counted once each, and none ahead of its data. */
static void stream_body(struct rank *r)
{
    enum { LONG = 64 * 1024, COUNT = 400 };
    rank_open_all(r);
    struct area area;
    uint32_t signal = signal_open(r, 0);
    uint64_t remote;
    area_make(r, &area, LONG, true);
    memset(area.ptr, 0, LONG);
    weir_rkey *rkey = swap_keys(r, &area, &remote);
    weir_ep *ep = r->ep[!r->rank];
    if (r->rank == 0) {
        for (int i = 0; i < COUNT; i++) {
            if (i % 4 == 0)
                CHECK_OK(weir_put(ep, area.ptr, area.mem, LONG, remote, rkey, NULL));
            CHECK_OK(weir_put_signal(ep, NULL, NULL, 0, 0, NULL, signal_of(r, 1, 0), NULL));
        }
        flush(r, ep);
    } else {
        CHECK_OK(weir_signal_wait(r->ctx, signal, COUNT, -1));
    }
    barrier(r);
    weir_progress(r->ctx);
    CHECK(r->rank == 0 || weir_signal_read(r->ctx, signal) == COUNT);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

static void test_stream(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = stream_body});
}

/* Rank 1 uses the second device of the list alone: they meet there. Rank 2 has the list too. */
static void mixed_body(struct rank *r)
{
    if (r->rank == 1)
        setenv("WEIR_DEVICE", "rxe0", 1);
    rank_open_all(r);
    for (int i = 0; i < r->count; i++)
        if (i != r->rank)
            CHECK_OK(weir_send(r->ep[i], "hello", 5));
    for (int got = 0; got < r->count - 1;) {
        char text[8];
        size_t len = sizeof(text);
        weir_status status = weir_recv(r->ctx, text, &len, NULL);
        if (status == WEIR_ERR_AGAIN) {
            weir_ctx_block(r->ctx, 10);
            continue;
        }
        CHECK_OK(status);
        CHECK(len == 5 && memcmp(text, "hello", 5) == 0);
        got++;
    }
    barrier(r);
    rank_close(r);
}

static void test_mixed(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 3, .body = mixed_body});
}

/* Both ranks lose their second device. The endpoint ends and names it; connected again it does without. */
static void lost_body(struct rank *r)
{
    rank_open_all(r);
    weir_ep *ep = r->ep[!r->rank];
    CHECK_OK(weir_ep_wait_ready(ep, -1));
    barrier(r);
    if (r->rank == 0)
        CHECK(system("rdma link delete rxe1 >/dev/null 2>&1 &") == 0);
    for (int i = 0; i < 1000 && weir_ep_status(ep) == WEIR_OK; i++)
        weir_ctx_block(r->ctx, 10);
    CHECK(weir_ep_status(ep) != WEIR_OK && strstr(weir_last_error(), "rxe1:1"));
    barrier(r);
    CHECK_OK(weir_ep_reconnect(ep));
    CHECK_OK(weir_ep_wait_ready(ep, -1));
    flush(r, ep);
    barrier(r);
    rank_close(r);
}

static void test_lost(void **state)
{
    (void)state;
    if (!getenv("TEST_LOSE"))
        skip();
    job_run(&(struct job){.count = 2, .body = lost_body});
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_mixed),
        cmocka_unit_test(test_lost),
    };
    setenv("WEIR_TRANSPORT", "verbs", 1);
    setenv("WEIR_INTRANODE", "off", 1);
    setenv("WEIR_VERBS_STRIPE", "32K", 0);
    setenv("TEST_RAILS", "2", 0);
    if (!getenv("WEIR_DEVICE") || transport_is_missing()) {
        puts("WEIR_DEVICE lists no devices that can be used");
        return 77;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("verbs rails", tests, NULL, NULL);
}
