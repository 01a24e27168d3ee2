/*
 * What happens to a device while it is in use: its port goes down and comes up, addresses come and go, it is removed.
 * Rank 0 uses rxe0 and rank 1 rxe1, on the two ends of one link; TEST_DOWN and TEST_UP are the commands that take it
 * down and bring it up. Run by tests/softroce/events.sh.
 */
#include "harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { SIZE = 4096 };

static void command(struct rank *r, const char *text)
{
    CHECK(text && system(text) == 0);
}

static void open_own(struct rank *r)
{
    setenv("WEIR_DEVICE", r->rank == 0 ? "rxe0" : "rxe1", 1);
    rank_open_all(r);
}

/* A write and its end. */
static weir_status exchange(struct rank *r, weir_ep *ep, struct area *area, uint64_t remote, weir_rkey *rkey)
{
    weir_comp comp = WEIR_COMP_INIT;
    weir_status status = weir_put(ep, area->ptr, area->mem, SIZE, remote, rkey, NULL);
    if (status == WEIR_OK)
        status = weir_flush(ep, &comp);
    return status == WEIR_OK ? weir_wait(r->ctx, &comp, -1) : status;
}

static void port_of_rank_0(struct rank *r, struct area *area, uint64_t remote, weir_rkey *rkey)
{
    weir_ep *ep = r->ep[1], *other;
    CHECK_OK(exchange(r, ep, area, remote, rkey));

    /* Short: what is under way survives. */
    command(r, getenv("TEST_DOWN"));
    command(r, "(sleep 0.3; eval \"$TEST_UP\") &");
    CHECK_OK(exchange(r, ep, area, remote, rkey));
    sleep(1);

    /* Long: it ends, and new connections too, with the reason. */
    command(r, getenv("TEST_DOWN"));
    CHECK_STATUS(exchange(r, ep, area, remote, rkey), WEIR_ERR_NO_DEVICE);
    CHECK(strstr(weir_last_error(), "rxe0:1") && strstr(weir_last_error(), "port is down"));
    CHECK_OK(weir_ep_create(r->ctx, r->board->address[1], r->board->address_len[1], &other));
    CHECK_STATUS(weir_ep_wait_ready(other, -1), WEIR_ERR_NO_DEVICE);
    CHECK(strstr(weir_last_error(), "port is down"));
    weir_ep_close(other);

    command(r, "eval \"$TEST_UP\"");
    CHECK_OK(weir_ep_reconnect(ep));
    CHECK_OK(weir_ep_wait_ready(ep, -1));
    CHECK_OK(exchange(r, ep, area, remote, rkey));
}

static void port_body(struct rank *r)
{
    struct area area;
    uint64_t remote;
    open_own(r);
    area_make(r, &area, SIZE, true);
    weir_rkey *rkey = swap_keys(r, &area, &remote);
    if (r->rank == 0)
        port_of_rank_0(r, &area, remote, rkey);
    barrier(r);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

static void test_port(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = port_body, .timeout = "15s"});
}

/* Is 10.77.0.9 in the context's address? Waited for, since the device tells of it some time later. */
static bool tells_address(struct rank *r, bool wanted)
{
    static const unsigned char ip[4] = {10, 77, 0, 9};
    bool there = !wanted;
    for (int i = 0; i < 1000 && there != wanted; i++) {
        unsigned char address[WEIR_ADDRESS_MAX];
        size_t len = sizeof(address);
        weir_ctx_block(r->ctx, 10);
        CHECK_OK(weir_ctx_address(r->ctx, address, &len));
        there = memmem(address, len, ip, sizeof(ip)) != NULL;
    }
    return there;
}

static void addresses_body(struct rank *r)
{
    open_own(r);
    CHECK_OK(weir_ep_wait_ready(r->ep[!r->rank], -1));
    if (r->rank == 0) {
        command(r, "ip addr add 10.77.0.9/32 dev weirv0");
        CHECK(tells_address(r, true));
        command(r, "ip addr del 10.77.0.9/32 dev weirv0");
        CHECK(!tells_address(r, false));
        weir_ep *again;
        flush(r, r->ep[1]);
        CHECK_OK(weir_ep_create(r->ctx, r->board->address[1], r->board->address_len[1], &again));
        CHECK_OK(weir_ep_wait_ready(again, -1));
        weir_ep_close(again);
    }
    barrier(r);
    rank_close(r);
}

static void test_addresses(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = addresses_body, .timeout = "15s"});
}

/* Rank 1 loses its device: what it does ends with an error, and its context can be destroyed. */
static void removal_body(struct rank *r)
{
    struct area area;
    uint64_t remote;
    open_own(r);
    area_make(r, &area, SIZE, true);
    weir_rkey *rkey = swap_keys(r, &area, &remote);
    CHECK_OK(exchange(r, r->ep[!r->rank], &area, remote, rkey));
    barrier(r);
    weir_status status = WEIR_OK;
    if (r->rank == 0)
        command(r, "rdma link delete rxe1 >/dev/null 2>&1 &");
    for (int i = 0; i < 1000 && status == WEIR_OK; i++) {
        status = exchange(r, r->ep[!r->rank], &area, remote, rkey);
        usleep(10000);
    }
    if (r->rank == 1) {
        weir_ep *other;
        CHECK(status == WEIR_ERR_NO_DEVICE && strstr(weir_last_error(), "rxe1:1"));
        status = weir_ep_create(r->ctx, r->board->address[0], r->board->address_len[0], &other);
        CHECK_OK(status);
        CHECK_STATUS(weir_ep_wait_ready(other, -1), WEIR_ERR_NO_DEVICE);
        weir_ep_close(other);
    } else {
        CHECK(status == WEIR_ERR_PEER_GONE);
    }
    weir_rkey_destroy(rkey);
    rank_close(r);
}

static void test_removal(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = removal_body, .timeout = "15s"});
    for (int i = 0; i < 1000 && access("/sys/class/infiniband/rxe1", F_OK) == 0; i++)
        usleep(10000);
    assert_int_not_equal(access("/sys/class/infiniband/rxe1", F_OK), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_port),
        cmocka_unit_test(test_removal),
    };
    setenv("WEIR_TRANSPORT", "verbs", 1);
    setenv("WEIR_INTRANODE", "off", 1);
    setenv("WEIR_VERBS_ACK_TIMEOUT", "200ms", 1);
    if (!getenv("TEST_DOWN") || transport_is_missing())
        return 77;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("verbs events", tests, NULL, NULL);
}
