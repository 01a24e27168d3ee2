/*
 * Connections through an exchange that answers wrongly, late or never, or whose other side does: each ends in one clear
 * error, or in a connection. Needs a device (soft-RoCE will do); exit status 77: there is none. That all else works over
 * such connections, the conformance suite shows with WEIR_VERBS_CONNECT=store.
 */
#include "harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* An exchange before the ranks' own that does to some keys what it is told to. */
struct meddler {
    weir_exchange face, inner;
    const char *what;  /* part of the keys that are meddled with */
    int junk;          /* appends: so much junk comes before */
    bool spoils;       /* gets: the value is changed */
    weir_status fails; /* puts end so */
};

static weir_status meddling_put(void *arg, const char *key, const void *value, size_t len)
{
    struct meddler *m = arg;
    return m->fails != WEIR_OK ? m->fails : m->inner.put(m->inner.arg, key, value, len);
}

static weir_status meddling_append(void *arg, const char *queue, const void *value, size_t len)
{
    struct meddler *m = arg;
    weir_status status = m->fails;
    for (; status == WEIR_OK && m->junk > 0; m->junk--)
        status = m->inner.append(m->inner.arg, queue, "no offer of anybody, and far too long or too short",
                                 (size_t)m->junk * 7 % 40);
    return status == WEIR_OK ? m->inner.append(m->inner.arg, queue, value, len) : status;
}

static weir_status meddling_get(void *arg, const char *key, void *value, size_t *len)
{
    struct meddler *m = arg;
    weir_status status = m->inner.get(m->inner.arg, key, value, len);
    if (status == WEIR_OK && m->spoils && strstr(key, m->what))
        ((unsigned char *)value)[*len - 40] ^= 0x5a; /* in the part that names the peer's version */
    return status;
}

static void meddling_forget(void *arg, const char *key)
{
    struct meddler *m = arg;
    m->inner.forget(m->inner.arg, key);
}

static void meddle(struct rank *r, struct meddler *m)
{
    m->inner = board_exchange(r);
    m->face = m->inner;
    m->face.arg = m;
    m->face.put = meddling_put;
    m->face.append = meddling_append;
    m->face.get = meddling_get;
    m->face.forget = meddling_forget;
    r->exchange = &m->face;
}

static void exchange_message(struct rank *r, int peer)
{
    int number = r->rank + 100, theirs = 0;
    size_t len = sizeof(theirs);
    uint64_t from;
    CHECK_OK(weir_send(r->ep[peer], &number, sizeof(number)));
    weir_status status;
    while ((status = weir_recv(r->ctx, &theirs, &len, &from)) == WEIR_ERR_AGAIN)
        weir_ctx_block(r->ctx, 10);
    CHECK_OK(status);
    CHECK(theirs == peer + 100 && from == (uint64_t)peer);
    flush(r, r->ep[peer]);
}

/* Junk stands where offers are expected: both sides pass over it. */
static void junk_body(struct rank *r)
{
    struct meddler m = {.what = "/", .junk = 20};
    meddle(r, &m);
    rank_open_all(r);
    exchange_message(r, (r->rank + 1) % 2);
    CHECK(m.junk < 20);
    rank_close(r);
}

static void test_junk(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = junk_body});
}

/* Rank 0 does what it is told to; rank 1 is there and makes progress, or does not. */
static weir_status connect_to_1(struct rank *r, const char *sentence)
{
    rank_open(r, 0);
    barrier(r);
    weir_status status = WEIR_OK;
    if (r->rank == 0) {
        CHECK_OK(weir_ep_create(r->ctx, r->board->address[1], r->board->address_len[1], &r->ep[1]));
        status = weir_ep_wait_ready(r->ep[1], -1);
        if (!strstr(weir_last_error(), sentence))
            fprintf(stderr, "it says: %s\n", weir_last_error());
        CHECK(strstr(weir_last_error(), sentence));
        r->board->number[0][0] = 1;
    }
    return status;
}

static void spoiled_body(struct rank *r)
{
    struct meddler m = {.what = "/answer", .spoils = r->rank == 0};
    meddle(r, &m);
    weir_status status = connect_to_1(r, "damaged");
    CHECK(r->rank == 1 || status == WEIR_ERR_PROTOCOL);
    rank_close(r);
}

static void test_spoiled_answer(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = spoiled_body, .timeout = "5s"});
}

static void failing_body(struct rank *r)
{
    struct meddler m = {.what = "/", .fails = r->rank == 0 ? WEIR_ERR_IO : WEIR_OK};
    meddle(r, &m);
    weir_status status = connect_to_1(r, "the store fails");
    CHECK(r->rank == 1 || status == WEIR_ERR_IO);
    rank_close(r);
}

static void test_failing_exchange(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = failing_body});
}

/* Rank 1 makes no progress: as if it were dead. Afterwards the endpoint can be connected again. */
static void deaf_body(struct rank *r)
{
    if (r->rank == 1) {
        rank_open(r, 0);
        barrier(r);
        while (__atomic_load_n(&r->board->number[0][0], __ATOMIC_ACQUIRE) == 0)
            sleep_us(1000);
    } else {
        CHECK_STATUS(connect_to_1(r, "makes no progress"), WEIR_ERR_PEER_UNREACHABLE);
        CHECK_OK(weir_ep_reconnect(r->ep[1]));
        CHECK_OK(weir_ep_wait_ready(r->ep[1], -1));
    }
    rank_close(r);
}

static void test_deaf_peer(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = deaf_body, .timeout = "3s"});
}

/* The two ways do not meet, and say so. */
static void other_way_body(struct rank *r)
{
    if (r->rank == 1)
        setenv("WEIR_VERBS_CONNECT", "cm", 1);
    rank_open(r, 0);
    barrier(r);
    int peer = 1 - r->rank;
    CHECK_STATUS(weir_ep_create(r->ctx, r->board->address[peer], r->board->address_len[peer], &r->ep[peer]),
                 WEIR_ERR_MISMATCH);
    CHECK(strstr(weir_last_error(), "WEIR_VERBS_CONNECT"));
    rank_close(r);
}

static void test_other_way(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = other_way_body});
}

static void without_body(struct rank *r)
{
    weir_ctx_params params = {.size = sizeof(params), .transport = "verbs"};
    CHECK_STATUS(weir_ctx_create(&params, &r->ctx), WEIR_ERR_CONFIG);
    CHECK(strstr(weir_last_error(), "exchange"));
}

static void test_without_exchange(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 1, .body = without_body});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_junk),      cmocka_unit_test(test_spoiled_answer), cmocka_unit_test(test_failing_exchange),
        cmocka_unit_test(test_deaf_peer), cmocka_unit_test(test_other_way),      cmocka_unit_test(test_without_exchange),
    };
    setenv("WEIR_TRANSPORT", "verbs", 1);
    setenv("WEIR_INTRANODE", "off", 1);
    if (transport_is_missing())
        return 77;
    setenv("WEIR_VERBS_CONNECT", "store", 1);
    return cmocka_run_group_tests_name("verbs connections through an exchange", tests, NULL, NULL);
}
