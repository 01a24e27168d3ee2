/* Peers that die, stop or leave, endpoints and contexts closed in the middle: errors within WEIR_TIMEOUT, no hang. */
#include "harness.h"
#include "suite.h"

#include <stdlib.h>
#include <string.h>

#define TIMEOUT    "2s"
#define TIMEOUT_NS 2000000000ull
/* An error may take the timeout of one call and that of the endpoint; the rest is for a slow machine. */
#define BOUND_NS (2 * TIMEOUT_NS + 4000000000ull)

enum { LEN = 65536 };

static bool is_peer_error(weir_status status)
{
    return status == WEIR_ERR_PEER_GONE || status == WEIR_ERR_PEER_UNREACHABLE;
}

/* The last error's sentence tells whom it is about. */
static bool names_rank(int rank)
{
    char words[24];
    snprintf(words, sizeof(words), "rank %d", rank);
    return strstr(weir_last_error(), words) != NULL;
}

/* A region of every rank, with its key. */
struct field {
    struct area area, local;
    weir_rkey *rkey[RANKS_MAX];
    uint64_t remote[RANKS_MAX];
    uint32_t signal;
};

static void field_open(struct rank *r, struct field *f, bool pooled)
{
    rank_open_all(r);
    area_make(r, &f->area, LEN, pooled);
    area_make(r, &f->local, LEN, true);
    memset(f->local.ptr, r->rank, LEN);
    f->signal = signal_open(r, 0);
    publish(r, 0, f->area.mem, f->area.ptr, LEN);
    barrier(r);
    for (int i = 0; i < r->count; i++)
        f->rkey[i] = import(r, i, 0, &f->remote[i]);
    for (int i = 0; i < r->count; i++) { /* the first use of a key needs the target's progress */
        CHECK_OK(weir_get(r->ep[i], f->local.ptr, f->local.mem, 1, f->remote[i], f->rkey[i], NULL));
        flush(r, r->ep[i]);
    }
    memset(f->local.ptr, r->rank, LEN);
    barrier(r);
}

/* Ends everything without the others, who may be dead. */
static void field_close(struct rank *r, struct field *f)
{
    for (int i = 0; i < r->count; i++) {
        weir_rkey_destroy(f->rkey[i]);
        weir_ep_close(r->ep[i]);
    }
    if (!f->area.pooled)
        area_free(r, &f->area);
    weir_ctx_destroy(r->ctx);
    r->ctx = NULL;
}

/* One put and its end, through call, completion and flush. */
static weir_status put_through(struct rank *r, struct field *f, int peer)
{
    weir_comp *comp = comp_new(r);
    weir_status status = weir_put(r->ep[peer], f->local.ptr, f->local.mem, LEN, f->remote[peer], f->rkey[peer], comp);
    if (status == WEIR_OK)
        status = weir_flush(r->ep[peer], comp);
    weir_status ended = weir_wait(r->ctx, comp, -1);
    return status == WEIR_OK ? ended : status;
}

/* Whatever is asked of an endpoint that has ended: its error, at once. */
static void expect_all_refused(struct rank *r, struct field *f, int peer)
{
    weir_ep *ep = r->ep[peer];
    struct area *local = &f->local;
    weir_comp comp = WEIR_COMP_INIT;
    weir_ep_attr attr;
    weir_rkey *again = NULL;
    uint64_t start = now_ns(), remote = f->remote[peer];
    CHECK(is_peer_error(put_through(r, f, peer)));
    CHECK(is_peer_error(weir_put_signal(ep, local->ptr, local->mem, 8, remote, f->rkey[peer], 0, &comp)));
    CHECK(is_peer_error(weir_get(ep, local->ptr, local->mem, 8, remote, f->rkey[peer], &comp)));
    CHECK(is_peer_error(weir_fetch_add(ep, 1, (uint64_t *)local->ptr, local->mem, remote, f->rkey[peer], &comp)));
    CHECK(is_peer_error(weir_send(ep, "x", 1)));
    CHECK(is_peer_error(weir_flush(ep, &comp)));
    CHECK(is_peer_error(weir_ep_connect(ep)));
    CHECK(is_peer_error(weir_ep_wait_ready(ep, -1)));
    CHECK(comp.pending == 0 && names_rank(peer));
    weir_status status = weir_rkey_import(ep, r->board->key[peer][0], r->board->key_len[peer][0], &again);
    CHECK(status == WEIR_OK || is_peer_error(status));
    weir_rkey_destroy(again);
    weir_ep_query(ep, &attr);
    CHECK(attr.peer_id == (uint64_t)peer);
    CHECK(now_ns() - start < TIMEOUT_NS / 2);
}

/* Puts until the endpoint is lost. Before that a call may find the time run out. */
static void put_until_lost(struct rank *r, struct field *f, int peer)
{
    uint64_t end = now_ns() + BOUND_NS;
    weir_status status = WEIR_OK;
    while (weir_ep_status(r->ep[peer]) == WEIR_OK) {
        CHECK(now_ns() < end);
        status = put_through(r, f, peer);
        CHECK(status == WEIR_OK || status == WEIR_ERR_TIMEOUT || is_peer_error(status));
    }
    CHECK(is_peer_error(weir_ep_status(r->ep[peer])));
    CHECK(names_rank(peer));
    expect_all_refused(r, f, peer);
}

/* The others have taken no harm. */
static void check_survivors(struct rank *r, struct field *f, unsigned alive)
{
    uint64_t peers = 0;
    barrier_with(r, alive);
    for (int i = 0; i < r->count; i++) {
        if (!(alive >> i & 1u) || i == r->rank)
            continue;
        CHECK_OK(weir_put_signal(r->ep[i], f->local.ptr, f->local.mem, LEN, f->remote[i], f->rkey[i],
                                 signal_of(r, i, 0), NULL));
        peers++;
    }
    CHECK_OK(weir_signal_wait(r->ctx, f->signal, peers, -1));
    for (int i = 0; i < r->count; i++)
        if (alive >> i & 1u)
            flush(r, r->ep[i]);
    barrier_with(r, alive);
}

/* Rank 1 dies while nothing goes on. */
static void killed_while_idle_body(struct rank *r)
{
    struct field f;
    field_open(r, &f, true);
    if (r->rank == 1)
        rank_die(r);
    put_until_lost(r, &f, 1);
    check_survivors(r, &f, 5);
    field_close(r, &f);
}

void test_killed_while_idle(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 3, .body = killed_while_idle_body, .timeout = TIMEOUT, .killed = 2});
}

/* Rank 1 dies before its key is imported: it is the peer that is gone, and not the key that is bad. */
static void killed_before_import_body(struct rank *r)
{
    struct area area[2];
    rank_open_all(r);
    for (int kind = 0; kind < 2; kind++) {
        area_make(r, &area[kind], LEN, kind == 1);
        publish(r, kind, area[kind].mem, area[kind].ptr, LEN);
    }
    flush(r, r->ep[!r->rank]);
    barrier(r);
    if (r->rank == 1)
        rank_die(r);
    rank_await_death(r, 1);
    for (int kind = 0; kind < 2; kind++) {
        struct field f = {.local = area[1]};
        weir_status status = weir_rkey_import(r->ep[1], r->board->key[1][kind], r->board->key_len[1][kind], &f.rkey[1]);
        CHECK(status == WEIR_OK || is_peer_error(status));
        if (status == WEIR_OK) {
            void *ptr;
            weir_rkey_range(f.rkey[1], &f.remote[1], NULL);
            put_until_lost(r, &f, 1);
            CHECK(weir_mem_map_peer(f.rkey[1], f.remote[1], LEN, &ptr) != WEIR_OK);
        } else {
            CHECK(names_rank(1));
            CHECK(is_peer_error(weir_ep_status(r->ep[1])));
        }
        weir_rkey_destroy(f.rkey[1]);
    }
    weir_ep_close(r->ep[1]);
    area_free(r, &area[0]);
    weir_ctx_destroy(r->ctx);
    r->ctx = NULL;
}

void test_killed_before_import(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = killed_before_import_body, .timeout = TIMEOUT, .killed = 2});
}

/* Rank 1 dies while puts to it are under way, into either kind of memory. */
static void killed_during_puts(struct rank *r, bool pooled)
{
    struct field f;
    field_open(r, &f, pooled);
    if (r->rank == 1) {
        for (uint64_t start = now_ns(); now_ns() - start < 30000000u;)
            weir_progress(r->ctx);
        rank_die(r);
    }
    put_until_lost(r, &f, 1);
    check_survivors(r, &f, 5);
    field_close(r, &f);
}

static void killed_during_puts_pool_body(struct rank *r)
{
    killed_during_puts(r, true);
}

static void killed_during_puts_user_body(struct rank *r)
{
    killed_during_puts(r, false);
}

void test_killed_during_puts(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 3, .body = killed_during_puts_pool_body, .timeout = TIMEOUT, .killed = 2});
    job_run(&(struct job){.count = 3, .body = killed_during_puts_user_body, .timeout = TIMEOUT, .killed = 2});
}

/* The address of a process that is dead already. */
static void killed_before_connecting_body(struct rank *r)
{
    rank_open(r, 0);
    barrier(r);
    if (r->rank == 1)
        rank_die(r);
    rank_await_death(r, 1);
    uint64_t start = now_ns();
    weir_status status = weir_ep_create(r->ctx, r->board->address[1], r->board->address_len[1], &r->ep[1]);
    if (status == WEIR_OK)
        status = weir_ep_wait_ready(r->ep[1], -1);
    CHECK(is_peer_error(status) || status == WEIR_ERR_TIMEOUT);
    CHECK(names_rank(1));
    CHECK(now_ns() - start < BOUND_NS);
    weir_ep_close(r->ep[1]);
    weir_pool_destroy(r->pool);
    weir_ctx_destroy(r->ctx);
}

void test_killed_before_connecting(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = killed_before_connecting_body, .timeout = TIMEOUT, .killed = 2});
}

/* Takes all messages that are there. Returns who sent them, as bits. */
static unsigned drain_messages(struct rank *r)
{
    unsigned char buf[WEIR_MSG_MAX];
    unsigned senders = 0;
    size_t len = sizeof(buf);
    uint64_t from;
    while (weir_recv(r->ctx, buf, &len, &from) == WEIR_OK) {
        len = sizeof(buf);
        senders |= 1u << from;
    }
    return senders;
}

/* Ranks 1 and 2 send to 0 and to each other; 1 is killed in the middle. 0 goes on hearing 2, and 2 hears of the end. */
static void killed_during_messages_body(struct rank *r)
{
    struct field f;
    static unsigned char text[1000];
    field_open(r, &f, true);
    if (r->rank == 1) {
        for (int i = 0; i < 20 || drain_messages(r) == 0; i++) /* somebody's message, so the other end is open */
            CHECK_OK(weir_send(r->ep[0], text, sizeof(text)));
        rank_die(r);
    }
    if (r->rank == 2) {
        uint64_t end = now_ns() + BOUND_NS;
        weir_status status = WEIR_OK;
        while (!is_peer_error(status)) {
            CHECK(now_ns() < end);
            status = weir_send(r->ep[1], text, sizeof(text));
            CHECK(status == WEIR_OK || status == WEIR_ERR_TIMEOUT || is_peer_error(status));
            drain_messages(r);
        }
        CHECK_OK(weir_send(r->ep[0], text, sizeof(text)));
        flush(r, r->ep[0]);
    } else {
        while (!(drain_messages(r) & 4u))
            weir_ctx_block(r->ctx, 50);
    }
    check_survivors(r, &f, 5);
    field_close(r, &f);
}

void test_killed_during_messages(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 3, .body = killed_during_messages_body, .timeout = TIMEOUT, .killed = 2});
}

/*
 * Rank 1 stops as by a debugger. Whatever needs it must end with an error in time; one-sided operations may also
 * succeed, since no process takes part in them at the target. The endpoint to rank 2 goes on.
 */
static void stopped_body(struct rank *r)
{
    static unsigned char text[WEIR_MSG_MAX];
    struct field f;
    field_open(r, &f, false);
    if (r->rank == 1)
        rank_stop(r);
    if (r->rank == 0) {
        uint64_t *result = (uint64_t *)f.local.ptr;
        weir_comp comp = WEIR_COMP_INIT;
        uint64_t end = now_ns() + BOUND_NS;
        weir_status status = put_through(r, &f, 1);
        CHECK(status == WEIR_OK || status == WEIR_ERR_TIMEOUT || is_peer_error(status));
        for (status = WEIR_OK; status == WEIR_OK;) {
            CHECK(now_ns() < end);
            status = weir_send(r->ep[1], text, sizeof(text));
        }
        CHECK(status == WEIR_ERR_TIMEOUT || is_peer_error(status));
        end = now_ns() + BOUND_NS;
        while ((status = weir_fetch_add(r->ep[1], 1, result, f.local.mem, f.remote[1], f.rkey[1], &comp)) == WEIR_OK &&
               (status = weir_wait(r->ctx, &comp, -1)) == WEIR_OK && now_ns() < end)
            ;
        CHECK(status == WEIR_OK || status == WEIR_ERR_TIMEOUT || is_peer_error(status));
        weir_rkey_destroy(f.rkey[1]);
        f.rkey[1] = NULL;
        weir_ep_close(r->ep[1]);
        r->ep[1] = NULL;
        CHECK(comp.pending == 0);
    }
    check_survivors(r, &f, 5);
    if (r->rank == 0)
        rank_kill(r, 1);
    field_close(r, &f);
}

void test_stopped(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 3, .body = stopped_body, .timeout = TIMEOUT, .killed = 2});
}

/* Everything that can be under way; none of it is waited for. The target makes no progress meanwhile. */
static void post_much(struct rank *r, struct field *f, weir_comp *comp)
{
    uint64_t *result = (uint64_t *)f->local.ptr;
    weir_ep *ep = r->ep[1];
    for (int i = 0; i < 10; i++) {
        CHECK_OK(weir_put(ep, f->local.ptr, f->local.mem, 4096, f->remote[1], f->rkey[1], comp));
        CHECK_OK(weir_get(ep, f->local.ptr + 8192, f->local.mem, 4096, f->remote[1], f->rkey[1], comp));
        CHECK_OK(weir_put_signal(ep, f->local.ptr, f->local.mem, 100, f->remote[1], f->rkey[1],
                                 signal_of(r, 1, 0), comp));
        CHECK_OK(weir_fetch_add(ep, 1, result, f->local.mem, f->remote[1], f->rkey[1], comp));
        CHECK_OK(weir_flush(ep, comp));
    }
}

static void close_with_outstanding_body(struct rank *r)
{
    struct field f;
    weir_comp comp = WEIR_COMP_INIT;
    field_open(r, &f, false);
    if (r->rank == 0) {
        post_much(r, &f, &comp);
        weir_rkey_destroy(f.rkey[1]);
        f.rkey[1] = NULL;
        weir_ep_close(r->ep[1]);
        r->ep[1] = NULL;
        CHECK(comp.pending == 0);
        CHECK(comp.status == WEIR_OK || comp.status == WEIR_ERR_CANCELED);
        __atomic_store_n(&r->board->number[0][1], 1, __ATOMIC_SEQ_CST);
    }
    while (__atomic_load_n(&r->board->number[0][1], __ATOMIC_SEQ_CST) == 0)
        sleep_us(1000); /* no progress at rank 1 */
    barrier(r);
    CHECK_OK(weir_ep_status(r->ep[r->rank]));
    field_close(r, &f);
}

void test_close_with_outstanding(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = close_with_outstanding_body});
}

/* The context goes with endpoints, pool and regions open and operations under way. */
static void destroy_with_all_open_body(struct rank *r)
{
    struct field f;
    weir_comp comp = WEIR_COMP_INIT;
    field_open(r, &f, false);
    if (r->rank == 0)
        post_much(r, &f, &comp);
    for (int i = 0; i < r->count; i++)
        weir_rkey_destroy(f.rkey[i]);
    if (r->rank == 1)
        barrier(r); /* until rank 0 has destroyed its context */
    weir_ctx_destroy(r->ctx);
    r->ctx = NULL;
    CHECK(comp.pending == 0);
    if (r->rank == 0)
        barrier(r);
    free(f.area.ptr);
}

void test_destroy_with_all_open(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = destroy_with_all_open_body, .timeout = TIMEOUT});
}

/* Rank 1 leaves in good order but its process lives on: the same as gone. */
static void peer_closes_context_body(struct rank *r)
{
    struct field f;
    field_open(r, &f, true);
    if (r->rank == 1) {
        field_close(r, &f);
    } else {
        uint64_t end = now_ns() + BOUND_NS;
        weir_status status = WEIR_OK;
        while (status == WEIR_OK) {
            CHECK(now_ns() < end);
            status = put_through(r, &f, 1);
        }
        CHECK(status == WEIR_ERR_KEY || status == WEIR_ERR_TIMEOUT || is_peer_error(status));
        while (weir_ep_status(r->ep[1]) == WEIR_OK) {
            CHECK(now_ns() < end);
            weir_ctx_block(r->ctx, 10);
            put_through(r, &f, 1);
        }
    }
    barrier(r);
    if (r->ctx)
        field_close(r, &f);
}

void test_peer_closes_context(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = peer_closes_context_body, .timeout = TIMEOUT});
}
