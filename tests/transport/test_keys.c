/* Bad keys, bad ranges, bad addresses: an error at the initiator, never a crash, and the target is unharmed. */
#include "harness.h"
#include "suite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LEN = 8192, KEY_AT = 1024, KEY_LEN = 4096, CANARY = 0x5a };

/* A region full of canaries, of which the published key covers the middle only. */
static weir_rkey *open_middle(struct rank *r, struct area *area, bool pooled, uint64_t *remote)
{
    rank_open_all(r);
    area_make(r, area, LEN, pooled);
    memset(area->ptr, CANARY, LEN);
    publish(r, 0, area->mem, area->ptr + KEY_AT, KEY_LEN);
    barrier(r);
    weir_rkey *rkey = import(r, r->rank == 0, 0, remote); /* 0 works on 1's, all others on 0's */
    barrier(r);
    return rkey;
}

/* The connection has taken no harm either. */
static void check_still_works(struct rank *r, struct area *local, uint64_t remote, weir_rkey *rkey, unsigned char *mine)
{
    int peer = !r->rank;
    CHECK_OK(weir_ep_status(r->ep[peer]));
    pattern_fill(local->ptr, 64, 7);
    CHECK_OK(weir_put(r->ep[peer], local->ptr, local->mem, 64, remote, rkey, NULL));
    flush(r, r->ep[peer]);
    barrier(r);
    CHECK(pattern_differs(mine, 64, 7) == 64);
}

static void range_body(struct rank *r)
{
    static const struct {
        int64_t offset;
        size_t len;
    } outside[] = {
        {-1, 1},
        {-8, 16},
        {KEY_LEN, 8},
        {KEY_LEN - 4, 8},
        {0, KEY_LEN + 8},
        {8, KEY_LEN},
        {-KEY_AT, LEN},
        {0, SIZE_MAX},
        {1, SIZE_MAX},
        {KEY_LEN + (1ll << 40), 8},
        {-(1ll << 40), 8},
        {8, SIZE_MAX - 7},
        {KEY_LEN, SIZE_MAX},
        {-8, SIZE_MAX / 2 + KEY_AT},
    };
    struct area area, local;
    uint64_t remote;
    int peer = !r->rank;
    weir_comp comp = WEIR_COMP_INIT;
    weir_rkey *rkey = open_middle(r, &area, true, &remote);
    area_make(r, &local, LEN, true);
    weir_ep *ep = r->ep[peer];
    for (size_t i = 0; i < sizeof(outside) / sizeof(outside[0]); i++) {
        uint64_t at = remote + (uint64_t)outside[i].offset;
        size_t len = outside[i].len;
        CHECK_STATUS(weir_put(ep, local.ptr, local.mem, len, at, rkey, &comp), WEIR_ERR_RANGE);
        CHECK_STATUS(weir_get(ep, local.ptr, local.mem, len, at, rkey, &comp), WEIR_ERR_RANGE);
        CHECK_STATUS(weir_put_signal(ep, local.ptr, local.mem, len, at, rkey, 0, &comp), WEIR_ERR_RANGE);
    }
    CHECK_STATUS(weir_fetch_add(ep, 1, (uint64_t *)local.ptr, local.mem, remote - 8, rkey, &comp), WEIR_ERR_RANGE);
    CHECK_STATUS(weir_fetch_add(ep, 1, (uint64_t *)local.ptr, local.mem, remote + KEY_LEN, rkey, &comp),
                 WEIR_ERR_RANGE);
    CHECK_STATUS(weir_fetch_add(ep, 1, (uint64_t *)local.ptr, local.mem, remote + 4, rkey, &comp), WEIR_ERR_INVALID);
    CHECK(comp.pending == 0 && comp.status == 0);
    CHECK(strlen(weir_last_error()) > 0);
    barrier(r);
    CHECK(bytes_differ(area.ptr, LEN, CANARY) == LEN);
    barrier(r);
    check_still_works(r, &local, remote, rkey, area.ptr + KEY_AT);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

void test_range(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = range_body});
}

static void expect_bad_key(struct rank *r, weir_ep *ep, const uint8_t *blob, size_t len)
{
    weir_rkey *rkey = NULL;
    weir_status status = weir_rkey_import(ep, blob, len, &rkey);
    CHECK(status == WEIR_ERR_KEY || status == WEIR_ERR_PROTOCOL);
    CHECK(rkey == NULL);
}

/* Damage with a right checksum is malice: it is found, or the key works on the peer's memory and nothing else. */
static void try_malicious_key(struct rank *r, weir_ep *ep, const uint8_t *blob, size_t len, struct area *local)
{
    weir_rkey *rkey = NULL;
    uint64_t addr, range;
    if (weir_rkey_import(ep, blob, len, &rkey) != WEIR_OK)
        return;
    weir_rkey_range(rkey, &addr, &range);
    if (range > 0 && weir_get(ep, local->ptr, local->mem, 1, addr, rkey, NULL) == WEIR_OK)
        flush(r, ep);
    weir_rkey_destroy(rkey);
}

static void damaged_keys_body(struct rank *r)
{
    struct area area, local;
    uint64_t remote;
    int peer = !r->rank;
    uint8_t blob[WEIR_RKEY_MAX + 8] = {0};
    weir_rkey *rkey = open_middle(r, &area, true, &remote);
    size_t len = r->board->key_len[peer][0];
    area_make(r, &local, 64, true);
    memcpy(blob, r->board->key[peer][0], len);
    for (size_t i = 0; i < len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            blob[i] ^= (uint8_t)(1 << bit);
            expect_bad_key(r, r->ep[peer], blob, len);
            blob[i] ^= (uint8_t)(1 << bit);
        }
        expect_bad_key(r, r->ep[peer], blob, i);
    }
    expect_bad_key(r, r->ep[peer], blob, len + 1);
    expect_bad_key(r, r->ep[peer], NULL, 0);
    /* What UCX and NICs make of a forged key is beyond us; shared memory has to stand it. */
    for (size_t i = 0; transport_is("shm") && i + 4 < len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            uint8_t forged[WEIR_RKEY_MAX];
            memcpy(forged, blob, len);
            forged[i] ^= (uint8_t)(1 << bit);
            mend_checksum(forged, len);
            try_malicious_key(r, r->ep[peer], forged, len, &local);
        }
    }
    barrier(r);
    CHECK(bytes_differ(area.ptr, LEN, CANARY) == LEN);
    barrier(r);
    check_still_works(r, &local, remote, rkey, area.ptr + KEY_AT);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

void test_damaged_keys(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = damaged_keys_body});
}

static void expect_bad_address(struct rank *r, const uint8_t *blob, size_t len)
{
    weir_ep *ep = NULL;
    CHECK_STATUS(weir_ep_create(r->ctx, blob, len, &ep), WEIR_ERR_PROTOCOL);
    CHECK(ep == NULL);
}

static void damaged_addresses_body(struct rank *r)
{
    uint8_t blob[WEIR_ADDRESS_MAX + 8] = {0};
    rank_open_all(r);
    size_t len = r->board->address_len[0];
    memcpy(blob, r->board->address[0], len);
    for (size_t i = 0; i < len; i++) {
        blob[i] ^= 0x10;
        expect_bad_address(r, blob, len);
        blob[i] ^= 0x10;
        expect_bad_address(r, blob, i);
    }
    expect_bad_address(r, blob, len + 1);
    expect_bad_address(r, NULL, 0);
    memset(blob, 0xff, sizeof(blob));
    expect_bad_address(r, blob, WEIR_ADDRESS_MAX);
    /* Forged ones could lead network transports to other hosts: only where everything stays on this one. */
    for (size_t i = 0; transport_is("shm") && i + 4 < len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            weir_ep *ep = NULL;
            memcpy(blob, r->board->address[0], len);
            blob[i] ^= (uint8_t)(1 << bit);
            mend_checksum(blob, len);
            weir_status status = weir_ep_create(r->ctx, blob, len, &ep);
            CHECK(status == WEIR_OK || status == WEIR_ERR_PROTOCOL || status == WEIR_ERR_PEER_UNREACHABLE);
            weir_ep_close(ep);
        }
    }
    rank_close(r);
}

void test_damaged_addresses(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 1, .body = damaged_addresses_body});
}

/* The first error of a put that may be found out by the call, its completion, or a flush. */
static weir_status put_and_flush(struct rank *r, weir_ep *ep, struct area *local, uint64_t remote, weir_rkey *rkey)
{
    weir_comp *comp = comp_new(r);
    weir_status status = weir_put(ep, local->ptr, local->mem, 64, remote, rkey, comp);
    if (status == WEIR_OK)
        status = weir_wait(r->ctx, comp, -1);
    if (status == WEIR_OK)
        status = weir_flush(ep, comp);
    if (status == WEIR_OK)
        status = weir_wait(r->ctx, comp, -1);
    return status;
}

/* A key of a region that is registered no more. The memory itself stays there, and must stay as it was. */
static void stale_key_body(struct rank *r)
{
    struct area area, local;
    uint64_t remote;
    weir_rkey *rkey = open_middle(r, &area, false, &remote);
    area_make(r, &local, 64, true);
    memset(local.ptr, 0, 64);
    CHECK(r->rank == 1 || put_and_flush(r, r->ep[1], &local, remote, rkey) == WEIR_OK);
    barrier(r);
    if (r->rank == 1) {
        CHECK(bytes_differ(area.ptr + KEY_AT, 64, 0) == 64);
        weir_mem_deregister(area.mem);
    }
    barrier(r);
    memset(local.ptr, 1, 64);
    if (r->rank == 0)
        CHECK_STATUS(put_and_flush(r, r->ep[1], &local, remote, rkey), WEIR_ERR_KEY);
    barrier(r);
    CHECK(r->rank == 0 || bytes_differ(area.ptr + KEY_AT, 64, 0) == 64);
    weir_rkey_destroy(rkey);
    rank_close(r);
    free(area.ptr);
}

/* A key of a pool that was destroyed. */
static void stale_pool_key_body(struct rank *r)
{
    struct area area;
    uint64_t remote;
    weir_rkey *rkey = open_middle(r, &area, true, &remote);
    if (r->rank == 1) {
        weir_pool_destroy(r->pool);
        r->pool = NULL;
    }
    barrier(r);
    if (r->rank == 0)
        CHECK_STATUS(put_and_flush(r, r->ep[1], &area, remote, rkey), WEIR_ERR_KEY);
    barrier(r);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

void test_stale_key(void **state)
{
    (void)state;
    const char *tls = getenv("UCX_TLS");
    if (transport_is("ucx") && tls && strstr(tls, "rc"))
        skip(); /* the contract excepts it: the device refuses by breaking the connection */
    job_run(&(struct job){.count = 2, .body = stale_key_body});
    job_run(&(struct job){.count = 2, .body = stale_pool_key_body});
}

/* A key of rank 2's, used on the endpoint to rank 1. Verbs cannot tell: there the caller has to see to it. */
static void foreign_key_body(struct rank *r)
{
    struct area area;
    uint64_t remote;
    weir_rkey *none = NULL, *rkey = open_middle(r, &area, true, &remote);
    if (r->rank == 0)
        CHECK_STATUS(weir_rkey_import(r->ep[1], r->board->key[2][0], r->board->key_len[2][0], &none), WEIR_ERR_KEY);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

void test_foreign_key(void **state)
{
    (void)state;
    if (transport_is("verbs"))
        skip();
    job_run(&(struct job){.count = 3, .body = foreign_key_body});
}

/* ---- Exports that are taken back --------------------------------------------------------------------------------- */

enum { OTHER_AT = KEY_AT + 512, OTHER_LEN = LEN - OTHER_AT };

/* Takes back what the rank has published under a slot. False: the transport cannot, and says so. */
static bool take_back(struct rank *r, const struct area *area, int slot)
{
    weir_status status = weir_mem_unexport(area->mem, r->board->key[r->rank][slot], r->board->key_len[r->rank][slot]);
    if (status == WEIR_ERR_UNSUPPORTED && transport_is("ucx"))
        CHECK(strstr(weir_last_error(), "until the region is deregistered"));
    else
        CHECK_OK(status);
    return status == WEIR_OK;
}

/* Refused, which may have been the endpoint's end. */
static void expect_refused(struct rank *r, weir_ep *ep, weir_status status)
{
    CHECK(status == WEIR_ERR_KEY);
    if (weir_ep_status(ep) == WEIR_OK)
        return;
    CHECK_STATUS(weir_ep_status(ep), WEIR_ERR_KEY);
    CHECK_OK(weir_ep_reconnect(ep));
    CHECK_OK(weir_ep_wait_ready(ep, -1));
}

static weir_status get_and_wait(struct rank *r, weir_ep *ep, struct area *local, uint64_t remote, weir_rkey *rkey)
{
    weir_comp *comp = comp_new(r);
    weir_status status = weir_get(ep, local->ptr, local->mem, 64, remote, rkey, comp);
    return status == WEIR_OK ? weir_wait(r->ctx, comp, -1) : status;
}

static weir_status add_and_wait(struct rank *r, weir_ep *ep, struct area *local, uint64_t remote, weir_rkey *rkey)
{
    weir_comp *comp = comp_new(r);
    weir_status status = weir_fetch_add(ep, 1, (uint64_t *)(void *)local->ptr, local->mem, remote, rkey, comp);
    return status == WEIR_OK ? weir_wait(r->ctx, comp, -1) : status;
}

/* Rank 0 has keys of two ranges that overlap. Without the first one nothing goes through it, all else through the other. */
static void use_after_unexport(struct rank *r, weir_rkey *gone, weir_rkey *other, uint64_t at, uint64_t other_at)
{
    struct area local;
    weir_ep *ep = r->ep[1];
    void *mapped;
    area_make(r, &local, 64, true);
    memset(local.ptr, 1, 64);
    expect_refused(r, ep, put_and_flush(r, ep, &local, at, gone));
    expect_refused(r, ep, get_and_wait(r, ep, &local, at, gone));
    CHECK(bytes_differ(local.ptr, 64, 1) == 64);
    expect_refused(r, ep, add_and_wait(r, ep, &local, at, gone));
    if (transport_is("shm"))
        CHECK_STATUS(weir_mem_map_peer(gone, at, 8, &mapped), WEIR_ERR_KEY);
    memset(local.ptr, 2, 64);
    CHECK_OK(put_and_flush(r, ep, &local, other_at, other));
    weir_rkey *late = NULL; /* the same key, once more */
    weir_status status = weir_rkey_import(ep, r->board->key[1][0], r->board->key_len[1][0], &late);
    expect_refused(r, ep, status == WEIR_OK ? put_and_flush(r, ep, &local, at, late) : status);
    weir_rkey_destroy(late);
    CHECK_OK(get_and_wait(r, ep, &local, other_at, other));
    area_free(r, &local);
}

static bool same_key(const struct rank *r, int slot, const uint8_t *key, uint32_t len)
{
    return r->board->key_len[1][slot] == len && memcmp(r->board->key[1][slot], key, len) == 0;
}

static void unexport_body(struct rank *r)
{
    struct area area, local;
    uint64_t at, other_at;
    uint8_t first[WEIR_RKEY_MAX];
    weir_rkey *rkey = open_middle(r, &area, r->board->number[0][0], &at);
    area_make(r, &local, 64, true);
    publish(r, 1, area.mem, area.ptr + OTHER_AT, OTHER_LEN);
    uint32_t first_len = r->board->key_len[1][0];
    memcpy(first, r->board->key[1][0], first_len);
    publish(r, 0, area.mem, area.ptr + KEY_AT, KEY_LEN); /* the same again */
    barrier(r);
    CHECK(same_key(r, 0, first, first_len));
    weir_rkey *other = import(r, !r->rank, 1, &other_at);
    memset(local.ptr, 0, 64);
    CHECK(r->rank == 1 || put_and_flush(r, r->ep[1], &local, at, rkey) == WEIR_OK);
    CHECK(r->rank == 1 || put_and_flush(r, r->ep[1], &local, other_at, other) == WEIR_OK);
    barrier(r);
    if (r->rank == 1) {
        if (local.mem != area.mem) /* another region's */
            CHECK_STATUS(weir_mem_unexport(local.mem, first, first_len), WEIR_ERR_KEY);
        r->board->number[0][1] = take_back(r, &area, 0);
        CHECK_STATUS(weir_mem_unexport(area.mem, first, first_len), WEIR_ERR_KEY);
        CHECK_STATUS(weir_mem_unexport(area.mem, first, first_len - 1), WEIR_ERR_KEY);
    }
    barrier(r);
    bool revoked = r->board->number[0][1];
    if (r->rank == 0 && revoked)
        use_after_unexport(r, rkey, other, at, other_at);
    barrier(r);
    if (revoked && r->rank == 1) {
        CHECK(bytes_differ(area.ptr + KEY_AT, 64, 0) == 64);
        CHECK(bytes_differ(area.ptr + OTHER_AT, 64, 2) == 64);
        publish(r, 0, area.mem, area.ptr + KEY_AT, KEY_LEN);
    }
    barrier(r);
    weir_rkey_destroy(rkey);
    rkey = NULL;
    if (revoked && r->rank == 0) { /* exported once more, it is another key, and works */
        CHECK(!same_key(r, 0, first, first_len));
        rkey = import(r, 1, 0, &at);
        memset(local.ptr, 3, 64);
        CHECK_OK(put_and_flush(r, r->ep[1], &local, at, rkey));
    }
    barrier(r);
    CHECK(!revoked || r->rank == 0 || bytes_differ(area.ptr + KEY_AT, 64, 3) == 64);
    weir_rkey_destroy(rkey);
    weir_rkey_destroy(other);
    barrier(r);
    area_free(r, &area);
    rank_close(r);
}

static void unexport_pooled_body(struct rank *r)
{
    r->board->number[0][0] = true;
    unexport_body(r);
}

void test_unexport(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = unexport_body});
    job_run(&(struct job){.count = 2, .body = unexport_pooled_body});
}

/* Rank 1 takes the key back while rank 0 writes: each put ends, well or refused, and after the return none arrives. */
static void under_way_body(struct rank *r)
{
    struct area area, local;
    uint64_t at;
    weir_rkey *rkey = open_middle(r, &area, true, &at);
    area_make(r, &local, KEY_LEN, true);
    memset(local.ptr, 1, KEY_LEN);
    if (r->rank == 0) {
        weir_status status = WEIR_OK;
        weir_comp *comp = comp_new(r);
        while (status == WEIR_OK && __atomic_load_n(&r->board->number[1][0], __ATOMIC_ACQUIRE) == 0) {
            status = weir_put(r->ep[1], local.ptr, local.mem, KEY_LEN, at, rkey, comp);
            if (status == WEIR_OK && comp->pending > 8)
                status = weir_wait(r->ctx, comp, -1);
            __atomic_store_n(&r->board->number[0][2], 1, __ATOMIC_RELEASE);
        }
        if (status == WEIR_OK)
            status = put_and_flush(r, r->ep[1], &local, at, rkey);
        while (__atomic_load_n(&r->board->number[1][0], __ATOMIC_ACQUIRE) == 0)
            weir_ctx_block(r->ctx, 1);
        CHECK(status == (r->board->number[1][0] == 2 ? WEIR_OK : WEIR_ERR_KEY));
        while (comp->pending > 0) /* all that was posted ends */
            weir_ctx_block(r->ctx, 1);
    } else {
        while (__atomic_load_n(&r->board->number[0][2], __ATOMIC_ACQUIRE) == 0)
            weir_ctx_block(r->ctx, 1);
        for (int i = 0; i < 20; i++)
            weir_ctx_block(r->ctx, 1);
        bool revoked = take_back(r, &area, 0);
        sleep_us(20000); /* a copy that had begun */
        memset(area.ptr, CANARY, LEN);
        __atomic_store_n(&r->board->number[1][0], revoked ? 1 : 2, __ATOMIC_RELEASE);
        for (int i = 0; i < 50; i++)
            weir_ctx_block(r->ctx, 1);
        CHECK(!revoked || bytes_differ(area.ptr, LEN, CANARY) == LEN);
    }
    barrier(r);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

void test_unexport_under_way(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = under_way_body});
}
