/*
 * What soft-RoCE makes of packets that are lost or come twice. Its devices may take the acknowledgment of a write that came
 * twice for the end of an atomic (transport/verbs/queue.c): a fetch_add has its result, or ends in an error. And they bind a
 * memory window twice when they send what was before it again (window.c): keys come all the same. Rank 0 uses rxe0 and rank 1
 * rxe1, on the two ends of one link; what rank 1 sends is cut off by tc. Run by tests/softroce/faults_wire.sh. Exit status
 * 77: no such devices.
 */
#include "harness.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define MUTE "tc qdisc replace dev weirv1 root netem loss 100%"
#define HEAR "tc qdisc replace dev weirv1 root netem loss 0%"

enum { SIZE = 64, ROUNDS = 3, KEYS = 4, MARK = 0x5a5a };

struct target {
    weir_ep *ep;
    weir_rkey *rkey;
    uint64_t counter, buffer; /* there */
    struct area area;         /* here: buffer, then counter */
};

static uint64_t *counter_of(const struct target *t)
{
    return (uint64_t *)(void *)(t->area.ptr + SIZE);
}

static void command(struct rank *r, const char *text)
{
    CHECK(system(text) == 0);
}

static void open_target(struct rank *r, struct target *t)
{
    uint64_t remote;
    setenv("WEIR_DEVICE", r->rank == 0 ? "rxe0" : "rxe1", 1);
    rank_open_all(r);
    area_make(r, &t->area, 2 * SIZE, true);
    memset(t->area.ptr, 0, 2 * SIZE);
    t->rkey = swap_keys(r, &t->area, &remote);
    t->ep = r->ep[!r->rank];
    t->buffer = remote;
    t->counter = remote + SIZE;
}

static void close_target(struct rank *r, struct target *t)
{
    weir_rkey_destroy(t->rkey);
    area_free(r, &t->area);
    rank_close(r);
}

static weir_status add(struct rank *r, const struct target *t, uint64_t *result)
{
    weir_comp comp = WEIR_COMP_INIT;
    *result = MARK;
    weir_status status = weir_fetch_add(t->ep, 1, result, NULL, t->counter, t->rkey, &comp);
    return status == WEIR_OK ? weir_wait(r->ctx, &comp, -1) : status;
}

/* What answers the writes and the atomic, or the atomic alone, is lost, and all is sent again. */
static void lost_body(struct rank *r)
{
    struct target t;
    setenv("WEIR_VERBS_ACK_TIMEOUT", "100ms", 1);
    setenv("WEIR_VERBS_RETRY", "7", 1); /* without end */
    open_target(r, &t);
    for (int round = 0; r->rank == 0 && round < ROUNDS; round++) {
        uint64_t result;
        command(r, MUTE);
        for (int i = 0; i < round; i++)
            CHECK_OK(weir_put(t.ep, t.area.ptr, t.area.mem, SIZE, t.buffer, t.rkey, NULL));
        command(r, "(sleep 0.1; " HEAR ") &");
        CHECK_OK(add(r, &t, &result));
        CHECK(result == (uint64_t)round);
    }
    barrier(r);
    CHECK(r->rank == 0 || *counter_of(&t) == ROUNDS);
    close_target(r, &t);
}

static void test_lost_answers(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = lost_body});
}

/* Several keys are asked for while nothing that rank 1 sends arrives: its first grant is lost, and those behind it. */
static void grants_body(struct rank *r)
{
    struct target t;
    weir_rkey *more[KEYS];
    uint64_t remote;
    setenv("WEIR_VERBS_ACK_TIMEOUT", "100ms", 1);
    setenv("WEIR_VERBS_RETRY", "7", 1); /* without end */
    open_target(r, &t);
    for (int i = 0; r->rank == 0 && i < KEYS; i++) {
        if (i == 0)
            command(r, MUTE "; (sleep 0.3; " HEAR ") &");
        more[i] = import(r, 1, 0, &remote);
    }
    for (int i = 0; r->rank == 0 && i < KEYS; i++) {
        CHECK_OK(weir_put(t.ep, t.area.ptr, t.area.mem, SIZE, t.buffer, more[i], NULL));
        flush(r, t.ep);
        weir_rkey_destroy(more[i]);
    }
    barrier(r);
    close_target(r, &t);
}

static void test_lost_grants(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = grants_body});
}

/* A socket that sees what leaves rank 0, and can send it once more. */
static int open_tap(struct rank *r)
{
    struct sockaddr_ll link = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex("weirv0")};
    struct timeval bound = {.tv_sec = 10};
    int tap = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    CHECK(tap >= 0 && bind(tap, (struct sockaddr *)&link, sizeof(link)) == 0);
    CHECK(setsockopt(tap, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound)) == 0);
    return tap;
}

/* The first frame with `data` in it. */
static size_t capture(struct rank *r, int tap, const void *data, unsigned char *frame, size_t room)
{
    for (;;) {
        ssize_t len = recv(tap, frame, room, 0);
        CHECK(len > 0);
        if (memmem(frame, (size_t)len, data, SIZE))
            return (size_t)len;
    }
}

/* The network holds a copy of a write back until an atomic, whose answer is lost, has overtaken it. */
static void copy_of_rank_0(struct rank *r, struct target *t)
{
    unsigned char frame[4096];
    uint64_t result, *seen = &r->board->number[1][0];
    int tap = open_tap(r);
    pattern_fill(t->area.ptr, SIZE, 7);
    CHECK_OK(weir_put(t->ep, t->area.ptr, t->area.mem, SIZE, t->buffer, t->rkey, NULL));
    flush(r, t->ep);
    size_t len = capture(r, tap, t->area.ptr, frame, sizeof(frame));
    command(r, MUTE);
    weir_comp comp = WEIR_COMP_INIT;
    result = MARK;
    CHECK_OK(weir_fetch_add(t->ep, 1, &result, NULL, t->counter, t->rkey, &comp));
    while (__atomic_load_n(seen, __ATOMIC_ACQUIRE) == 0)
        give_way();
    command(r, HEAR);
    CHECK(send(tap, frame, len, 0) == (ssize_t)len);
    close(tap);
    CHECK_STATUS(weir_wait(r->ctx, &comp, -1), WEIR_ERR_PROTOCOL);
    CHECK(result == MARK);
    CHECK(strstr(weir_ep_status(t->ep) == WEIR_OK ? "" : weir_last_error(), "left no result"));
}

static void copy_body(struct rank *r)
{
    struct target t;
    uint64_t result;
    setenv("WEIR_VERBS_ACK_TIMEOUT", "8s", 1); /* nothing is sent again meanwhile */
    open_target(r, &t);
    if (r->rank == 0) {
        copy_of_rank_0(r, &t);
        CHECK_OK(weir_ep_reconnect(t.ep));
        CHECK_OK(add(r, &t, &result));
        CHECK(result == 1);
    } else {
        while (__atomic_load_n(counter_of(&t), __ATOMIC_ACQUIRE) == 0)
            weir_progress(r->ctx);
        __atomic_store_n(&r->board->number[1][0], 1, __ATOMIC_RELEASE);
    }
    barrier(r);
    CHECK(r->rank == 0 || *counter_of(&t) == 2);
    close_target(r, &t);
}

static void test_late_copy(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = copy_body});
}

int main(void)
{
    if (if_nametoindex("weirv1") == 0 || geteuid() != 0) {
        printf("skipped: needs two soft-RoCE devices on one link (scripts/softroce --nodes 2)\n");
        return 77;
    }
    setenv("WEIR_TRANSPORT", "verbs", 1);
    setenv("WEIR_INTRANODE", "off", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lost_answers),
        cmocka_unit_test(test_lost_grants),
        cmocka_unit_test(test_late_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
