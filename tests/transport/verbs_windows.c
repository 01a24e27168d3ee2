/*
 * Memory windows: the device itself refuses what was not exported, what is not exported any more, and keys that were
 * granted to another connection; a target grants nothing to who does not know an export's token. The front would not
 * let such accesses pass, so the tests change what it believes of a key. Needs a device with windows of type 2
 * (soft-RoCE will do); exit status 77: there is none.
 */
#include "harness.h"

#include "transport/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LEN = 16384, KEY_AT = 4100, KEY_LEN = 5000, CANARY = 0x5a, MANY = 100 };

static weir_status finish(struct rank *r, weir_ep *ep, weir_status status, weir_comp *comp)
{
    if (status == WEIR_OK)
        status = weir_wait(r->ctx, comp, -1);
    if (status == WEIR_OK)
        status = weir_flush(ep, comp);
    return status == WEIR_OK ? weir_wait(r->ctx, comp, -1) : status;
}

static weir_status put(struct rank *r, weir_ep *ep, struct area *local, size_t len, uint64_t remote, weir_rkey *rkey)
{
    weir_comp *comp = comp_new(r);
    return finish(r, ep, weir_put(ep, local->ptr, local->mem, len, remote, rkey, comp), comp);
}

static weir_status get(struct rank *r, weir_ep *ep, struct area *local, size_t len, uint64_t remote, weir_rkey *rkey)
{
    weir_comp *comp = comp_new(r);
    return finish(r, ep, weir_get(ep, local->ptr, local->mem, len, remote, rkey, comp), comp);
}

/* One more endpoint to rank 1, and its key of what rank 1 published. */
static weir_ep *open_more(struct rank *r, weir_rkey **rkey)
{
    weir_ep *ep = NULL;
    CHECK_OK(weir_ep_create(r->ctx, r->board->address[1], r->board->address_len[1], &ep));
    CHECK_OK(weir_ep_wait_ready(ep, -1));
    CHECK_OK(weir_rkey_import(ep, r->board->key[1][0], r->board->key_len[1][0], rkey));
    return ep;
}

/* Rank 1 publishes the middle of a region. */
static void open_middle(struct rank *r, struct area *area, struct area *local)
{
    rank_open_all(r);
    area_make(r, area, LEN, false);
    memset(area->ptr, CANARY, LEN);
    area_make(r, local, LEN, true);
    memset(local->ptr, 1, LEN);
    publish(r, 0, area->mem, area->ptr + KEY_AT, KEY_LEN);
    barrier(r);
}

static const struct {
    int offset;
    size_t len;
} outside[] = {{-8, 8}, {KEY_LEN, 1}, {KEY_LEN - 4, 8}, {-KEY_AT, 64}, {KEY_LEN + 1000, 8}};

enum { OUTSIDE = sizeof(outside) / sizeof(outside[0]) };

/* The granted key, used beside its range over the connection that it was granted for. */
static void outside_body(struct rank *r)
{
    struct area area, local;
    open_middle(r, &area, &local);
    for (size_t i = 0; r->rank == 0 && i < OUTSIDE; i++) {
        weir_rkey *rkey;
        uint64_t addr;
        weir_ep *ep = open_more(r, &rkey);
        weir_rkey_range(rkey, &addr, NULL);
        CHECK_OK(put(r, ep, &local, KEY_LEN, addr, rkey));
        rkey->addr -= KEY_AT;
        rkey->len = LEN;
        uint64_t at = addr + (uint64_t)(int64_t)outside[i].offset;
        weir_status status =
            i % 2 ? get(r, ep, &local, outside[i].len, at, rkey) : put(r, ep, &local, outside[i].len, at, rkey);
        CHECK_STATUS(status, WEIR_ERR_KEY);
        weir_rkey_destroy(rkey);
        weir_ep_close(ep);
    }
    barrier(r);
    CHECK(r->rank == 0 ||
          (bytes_differ(area.ptr, KEY_AT, CANARY) == KEY_AT && bytes_differ(area.ptr + KEY_AT, KEY_LEN, 1) == KEY_LEN &&
           bytes_differ(area.ptr + KEY_AT + KEY_LEN, LEN - KEY_AT - KEY_LEN, CANARY) == LEN - KEY_AT - KEY_LEN));
    rank_close(r);
    free(area.ptr);
}

static void test_outside(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = outside_body, .timeout = "2s"});
}

/* A key that was granted to one connection, used over another one of the same two processes. */
static void other_connection_body(struct rank *r)
{
    struct area area, local;
    open_middle(r, &area, &local);
    if (r->rank == 0) {
        weir_rkey *rkey, *other;
        uint64_t addr;
        weir_ep *ep = open_more(r, &rkey), *other_ep = open_more(r, &other);
        weir_rkey_range(rkey, &addr, NULL);
        CHECK_OK(put(r, ep, &local, 8, addr, rkey));
        CHECK_OK(put(r, other_ep, &local, 8, addr + 8, other));
        rkey->ep = other_ep;
        CHECK_STATUS(put(r, other_ep, &local, 8, addr + 16, rkey), WEIR_ERR_KEY);
        rkey->ep = ep;
        CHECK_OK(put(r, ep, &local, 8, addr + 24, rkey));
        weir_rkey_destroy(rkey);
        weir_rkey_destroy(other);
        weir_ep_close(ep);
        weir_ep_close(other_ep);
    }
    barrier(r);
    CHECK(r->rank == 0 || bytes_differ(area.ptr + KEY_AT + 16, 8, CANARY) == 8);
    rank_close(r);
    free(area.ptr);
}

static void test_other_connection(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = other_connection_body, .timeout = "2s"});
}

/* Blobs with a right checksum, but another range or token: no key, and no harm to the endpoint. */
static void forged_blob_body(struct rank *r)
{
    enum { LEN_AT = 16, PART = 32 }; /* the backend's part is the last one: window, key, region, token */
    struct area area, local;
    open_middle(r, &area, &local);
    size_t len = r->board->key_len[1][0];
    int refused = 0;
    const size_t end = len - 4, window_at = end - PART, region_at = window_at + 8;
    for (size_t i = 0; r->rank == 0 && i < end; i++) {
        uint8_t blob[WEIR_RKEY_MAX];
        weir_rkey *rkey = NULL;
        uint64_t addr, range;
        if (i == window_at)
            continue; /* a key of no window, which is a guess: the device refuses it, and with it the connection */
        memcpy(blob, r->board->key[1][0], len);
        blob[i] ^= 1;
        mend_checksum(blob, len);
        if (weir_rkey_import(r->ep[1], blob, len, &rkey) != WEIR_OK)
            continue;
        weir_rkey_range(rkey, &addr, &range);
        bool matters = i < LEN_AT + 8 || i >= region_at; /* the rest is looked at by nobody */
        CHECK_STATUS(put(r, r->ep[1], &local, 1, addr, rkey), matters ? WEIR_ERR_KEY : WEIR_OK);
        refused += matters;
        weir_rkey_destroy(rkey);
        CHECK_OK(weir_ep_status(r->ep[1]));
    }
    CHECK(r->rank == 1 || refused > 30);
    barrier(r);
    CHECK(r->rank == 0 || bytes_differ(area.ptr, KEY_AT, CANARY) == KEY_AT);
    rank_close(r);
    free(area.ptr);
}

static void test_forged_blob(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = forged_blob_body});
}

/* Rank 2's key, shown to rank 1: nothing is granted, and the endpoint lives on. */
static void foreign_body(struct rank *r)
{
    struct area area, local;
    open_middle(r, &area, &local);
    if (r->rank == 0) {
        weir_rkey *rkey;
        CHECK_OK(weir_rkey_import(r->ep[1], r->board->key[2][0], r->board->key_len[2][0], &rkey));
        uint64_t addr;
        weir_rkey_range(rkey, &addr, NULL);
        CHECK_STATUS(put(r, r->ep[1], &local, 1, addr, rkey), WEIR_ERR_KEY);
        CHECK(strstr(weir_last_error(), "has not exported"));
        weir_rkey_destroy(rkey);
        CHECK_OK(weir_ep_status(r->ep[1]));
    }
    barrier(r);
    rank_close(r);
    free(area.ptr);
}

static void test_foreign(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 3, .body = foreign_body});
}

/* A key that comes after the region has gone is refused without harm; one that was granted before, by the device. */
static void revoked_body(struct rank *r)
{
    struct area area, local;
    uint64_t addr = 0;
    weir_rkey *before = NULL, *after = NULL;
    open_middle(r, &area, &local);
    if (r->rank == 0) {
        before = import(r, 1, 0, &addr);
        CHECK_OK(put(r, r->ep[1], &local, KEY_LEN, addr, before));
    }
    barrier(r);
    if (r->rank == 1) {
        memset(area.ptr, CANARY, LEN);
        weir_mem_deregister(area.mem);
    }
    barrier(r);
    if (r->rank == 0) {
        after = import(r, 1, 0, NULL);
        CHECK_STATUS(put(r, r->ep[1], &local, 1, addr, after), WEIR_ERR_KEY);
        CHECK_OK(weir_ep_status(r->ep[1]));
        CHECK_STATUS(put(r, r->ep[1], &local, 1, addr, before), WEIR_ERR_KEY);
        weir_rkey_destroy(before);
        weir_rkey_destroy(after);
    }
    barrier(r);
    CHECK(r->rank == 0 || bytes_differ(area.ptr, LEN, CANARY) == LEN);
    rank_close(r);
    free(area.ptr);
}

static void test_revoked(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = revoked_body, .timeout = "2s"});
}

/* More keys than can be asked for at a time, some destroyed before they were granted; then all given back. */
static void many_body(struct rank *r)
{
    struct area area, local;
    weir_rkey *rkeys[MANY];
    open_middle(r, &area, &local);
    for (int round = 0; r->rank == 0 && round < 2; round++) {
        uint64_t addr = 0;
        for (int i = 0; i < MANY; i++)
            rkeys[i] = import(r, 1, 0, &addr);
        for (int i = 0; i < MANY; i += 3) {
            weir_rkey_destroy(rkeys[i]);
            rkeys[i] = NULL;
        }
        for (int i = 0; i < MANY; i++)
            if (rkeys[i])
                CHECK_OK(weir_put(r->ep[1], local.ptr, local.mem, 8, addr + 8 * (unsigned)i, rkeys[i], NULL));
        flush(r, r->ep[1]);
        for (int i = MANY; i-- > 0;)
            weir_rkey_destroy(rkeys[i]);
    }
    barrier(r);
    for (int i = 0; r->rank == 1 && i < MANY; i++)
        CHECK(bytes_differ(area.ptr + KEY_AT + 8 * i, 8, i % 3 ? 1 : CANARY) == 8);
    if (r->rank == 1)
        weir_mem_deregister(area.mem);
    barrier(r);
    rank_close(r);
    free(area.ptr);
}

static void test_many(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = many_body});
}

/* Without windows the device keeps to what was exported too, by a registration of just that, and does so no more afterwards. */
static void off_body(struct rank *r)
{
    struct area area, local;
    setenv("WEIR_VERBS_WINDOWS", "off", 1);
    open_middle(r, &area, &local);
    publish(r, 1, area.mem, area.ptr, LEN);
    barrier(r);
    if (r->rank == 0) {
        uint64_t addr;
        weir_rkey *rkey = import(r, 1, 0, &addr);
        CHECK_OK(put(r, r->ep[1], &local, KEY_LEN, addr, rkey));
        rkey->addr -= 8;
        rkey->len += 8;
        CHECK_STATUS(put(r, r->ep[1], &local, 8, addr - 8, rkey), WEIR_ERR_KEY);
        weir_rkey_destroy(rkey);
    }
    barrier(r);
    CHECK(r->rank == 0 || bytes_differ(area.ptr + KEY_AT, KEY_LEN, 1) == KEY_LEN);
    CHECK(r->rank == 0 || bytes_differ(area.ptr, KEY_AT, CANARY) == KEY_AT);
    CHECK(r->rank == 0 || weir_mem_unexport(area.mem, r->board->key[1][0], r->board->key_len[1][0]) == WEIR_OK);
    barrier(r);
    if (r->rank == 0) {
        weir_rkey *rkey, *late;
        uint64_t addr;
        CHECK_OK(weir_ep_reconnect(r->ep[1]));
        rkey = import(r, 1, 0, &addr);
        CHECK_STATUS(put(r, r->ep[1], &local, 1, addr, rkey), WEIR_ERR_KEY);
        CHECK_OK(weir_ep_reconnect(r->ep[1]));
        late = import(r, 1, 1, &addr); /* all of it, exported again */
        memset(local.ptr, 3, LEN);
        CHECK_OK(put(r, r->ep[1], &local, LEN, addr, late));
        weir_rkey_destroy(rkey);
        weir_rkey_destroy(late);
    }
    barrier(r);
    CHECK(r->rank == 0 || bytes_differ(area.ptr, LEN, 3) == LEN);
    rank_close(r);
    free(area.ptr);
}

static void test_off(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = off_body, .timeout = "2s"});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outside), cmocka_unit_test(test_other_connection), cmocka_unit_test(test_forged_blob),
        cmocka_unit_test(test_foreign), cmocka_unit_test(test_revoked),          cmocka_unit_test(test_many),
        cmocka_unit_test(test_off),
    };
    setenv("WEIR_TRANSPORT", "verbs", 1);
    setenv("WEIR_INTRANODE", "off", 1);
    if (transport_is_missing())
        return 77;
    return cmocka_run_group_tests_name("verbs windows", tests, NULL, NULL);
}
