/* Who talks to whom: oneself, everybody, at once, over two endpoints, from two threads, by a mapping. */
#include "harness.h"
#include "suite.h"

#include <stdlib.h>
#include <string.h>

/* An endpoint to oneself serves every operation. */
static void self_body(struct rank *r)
{
    enum { LEN = 70000 };
    unsigned char buf[WEIR_MSG_MAX];
    struct area local, mine;
    uint32_t signal;
    rank_open_all(r);
    CHECK_OK(weir_signal_create(r->ctx, &signal));
    area_make(r, &local, LEN + 64, true);
    for (int kind = 0; kind < 2; kind++) {
        uint64_t remote, before = 0, *result = (uint64_t *)(local.ptr + LEN / 64 * 64);
        weir_comp comp = WEIR_COMP_INIT;
        size_t len = sizeof(buf);
        weir_status status;
        area_make(r, &mine, LEN, kind == 1);
        publish(r, 0, mine.mem, mine.ptr, LEN);
        weir_rkey *rkey = import(r, 0, 0, &remote);
        pattern_fill(local.ptr, LEN, (unsigned)kind);
        CHECK_OK(weir_put_signal(r->ep[0], local.ptr, local.mem, LEN, remote, rkey, signal, &comp));
        CHECK_OK(weir_signal_wait(r->ctx, signal, (uint64_t)kind + 1, -1));
        CHECK(pattern_differs(mine.ptr, LEN, (unsigned)kind) == LEN);
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        memset(local.ptr, 0, LEN);
        CHECK_OK(weir_get(r->ep[0], local.ptr, local.mem, LEN, remote, rkey, &comp));
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        CHECK(pattern_differs(local.ptr, LEN, (unsigned)kind) == LEN);
        memcpy(&before, mine.ptr, sizeof(before));
        CHECK_OK(weir_fetch_add(r->ep[0], 5, result, local.mem, remote, rkey, &comp));
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        flush(r, r->ep[0]);
        CHECK(*result == before && *(uint64_t *)mine.ptr == before + 5);
        CHECK_OK(weir_send(r->ep[0], "self", 5));
        while ((status = weir_recv(r->ctx, buf, &len, NULL)) == WEIR_ERR_AGAIN)
            weir_ctx_block(r->ctx, 100);
        CHECK_OK(status);
        CHECK(len == 5 && memcmp(buf, "self", 5) == 0);
        weir_rkey_destroy(rkey);
        area_free(r, &mine);
    }
    rank_close(r);
}

void test_self(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 1, .body = self_body});
}

/* Every rank writes its block into every rank's table, many times over; each waits for its own signal to count all. */
static void all_to_all_body(struct rank *r)
{
    enum { BLOCK = 3000 };
    struct area local, table;
    weir_rkey *rkey[RANKS_MAX];
    uint64_t remote[RANKS_MAX];
    int n = rounds(100, 5);
    rank_open_all(r);
    area_make(r, &local, BLOCK, true);
    area_make(r, &table, (size_t)r->count * BLOCK, true);
    uint32_t signal = signal_open(r, 0);
    publish(r, 0, table.mem, table.ptr, table.len);
    barrier(r);
    for (int i = 0; i < r->count; i++)
        rkey[i] = import(r, i, 0, &remote[i]);
    for (int round = 1; round <= n; round++) {
        pattern_fill(local.ptr, BLOCK, (unsigned)(round * 16 + r->rank));
        for (int k = 0; k < r->count; k++) {
            int i = (r->rank + k) % r->count;
            CHECK_OK(weir_put_signal(r->ep[i], local.ptr, local.mem, BLOCK, remote[i] + (uint64_t)r->rank * BLOCK,
                                     rkey[i], signal_of(r, i, 0), NULL));
        }
        CHECK_OK(weir_signal_wait(r->ctx, signal, (uint64_t)(round * r->count), -1));
        for (int i = 0; i < r->count; i++)
            CHECK(pattern_differs(table.ptr + i * BLOCK, BLOCK, (unsigned)(round * 16 + i)) == BLOCK);
        for (int i = 0; i < r->count; i++)
            flush(r, r->ep[i]);
        barrier(r); /* all have looked: the table may be written again */
    }
    for (int i = 0; i < r->count; i++)
        weir_rkey_destroy(rkey[i]);
    rank_close(r);
}

void test_all_to_all(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 8, .body = all_to_all_body});
}

/* Both sides connect to each other at the same moment and use the endpoint before it is ready; again and again. */
static void connect_at_once_body(struct rank *r)
{
    int n = rounds(20, 3), peer = !r->rank;
    rank_open(r, 0);
    uint32_t signal = signal_open(r, 0);
    for (int round = 1; round <= n; round++) {
        weir_comp comp = WEIR_COMP_INIT;
        barrier(r);
        CHECK_OK(weir_ep_create(r->ctx, r->board->address[peer], r->board->address_len[peer], &r->ep[peer]));
        CHECK_OK(weir_put_signal(r->ep[peer], NULL, NULL, 0, 0, NULL, signal_of(r, peer, 0), &comp));
        CHECK_OK(weir_ep_wait_ready(r->ep[peer], -1));
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        CHECK_OK(weir_signal_wait(r->ctx, signal, (uint64_t)round, -1));
        flush(r, r->ep[peer]);
        CHECK_OK(weir_ep_status(r->ep[peer]));
        barrier(r);
        weir_ep_close(r->ep[peer]);
        r->ep[peer] = NULL;
    }
    rank_close(r);
}

void test_connect_at_once(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = connect_at_once_body});
}

/* Two endpoints to one peer live apart: closing one leaves the other, and what was sent through either arrives. */
static void two_endpoints_body(struct rank *r)
{
    rank_open_all(r);
    if (r->rank == 0) {
        weir_ep *second;
        int text = 1;
        CHECK_OK(weir_ep_create(r->ctx, r->board->address[1], r->board->address_len[1], &second));
        CHECK_OK(weir_send(second, &text, sizeof(text)));
        flush(r, second);
        weir_ep_close(second);
        CHECK_OK(weir_ep_status(r->ep[1]));
        text = 2;
        CHECK_OK(weir_send(r->ep[1], &text, sizeof(text)));
        flush(r, r->ep[1]);
    } else {
        int sum = 0, text;
        for (int got = 0; got < 2;) {
            size_t len = sizeof(text);
            uint64_t from = 9;
            weir_status status = weir_recv(r->ctx, &text, &len, &from);
            if (status == WEIR_ERR_AGAIN) {
                weir_ctx_block(r->ctx, 100);
                continue;
            }
            CHECK_OK(status);
            CHECK(len == sizeof(text) && from == 0);
            sum += text;
            got++;
        }
        CHECK(sum == 3);
    }
    rank_close(r);
}

void test_two_endpoints(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = two_endpoints_body});
}

/* What one thread of one rank works on. */
struct worker {
    struct rank *r;
    struct area *mine, *local;
    weir_rkey *rkey;
    uint64_t remote;
    uint32_t signal_here, signal_there;
    int number;
};

enum { WORKERS = 2, WORKER_LEN = 5000 };

static void await_data(const struct worker *w, int round)
{
    const struct rank *r = w->r;
    CHECK_OK(weir_signal_wait(r->ctx, w->signal_here, (uint64_t)round, -1));
    CHECK(pattern_differs(w->mine->ptr, WORKER_LEN, (unsigned)(round + w->number)) == WORKER_LEN);
}

/* Ping-pong of data with the thread of the same number at the other rank. */
static void worker_main(void *arg)
{
    struct worker *w = arg;
    struct rank *r = w->r;
    int n = rounds(1000, 50), peer = !r->rank;
    uint64_t *counter = (uint64_t *)(w->local->ptr + WORKER_LEN / 64 * 64 + 64);
    for (int round = 1; round <= n; round++) {
        weir_comp comp = WEIR_COMP_INIT;
        pattern_fill(w->local->ptr, WORKER_LEN, (unsigned)(round + w->number));
        if (r->rank == 1)
            await_data(w, round);
        CHECK_OK(weir_put_signal(r->ep[peer], w->local->ptr, w->local->mem, WORKER_LEN, w->remote, w->rkey,
                                 w->signal_there, &comp));
        if (r->rank == 0)
            await_data(w, round);
        CHECK_OK(weir_fetch_add(r->ep[peer], 1, counter, w->local->mem, w->remote + WORKER_LEN / 64 * 64 + 64, w->rkey,
                                &comp));
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        CHECK(*counter == (uint64_t)round - 1);
    }
}

static void threads_body(struct rank *r)
{
    struct area mine[WORKERS], local[WORKERS];
    struct worker worker[WORKERS];
    void *workers[WORKERS];
    rank_open(r, WEIR_CTX_MULTI);
    barrier(r);
    rank_connect(r, !r->rank);
    for (int i = 0; i < WORKERS; i++) {
        area_make(r, &mine[i], WORKER_LEN + 256, true);
        area_make(r, &local[i], WORKER_LEN + 256, true);
        memset(mine[i].ptr, 0, WORKER_LEN + 256);
        publish(r, i, mine[i].mem, mine[i].ptr, WORKER_LEN + 256);
        worker[i] = (struct worker){.r = r, .mine = &mine[i], .local = &local[i], .number = i};
        worker[i].signal_here = signal_open(r, i);
    }
    barrier(r);
    for (int i = 0; i < WORKERS; i++) {
        worker[i].rkey = import(r, !r->rank, i, &worker[i].remote);
        workers[i] = &worker[i];
        worker[i].signal_there = signal_of(r, !r->rank, i);
    }
    rank_threads(r, WORKERS, worker_main, workers);
    flush(r, r->ep[!r->rank]);
    for (int i = 0; i < WORKERS; i++)
        weir_rkey_destroy(worker[i].rkey);
    rank_close(r);
}

void test_threads(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = threads_body});
    job_run(&(struct job){.count = 2, .body = threads_body, .spin = "0us"});
}

/* Where memory of a peer's pool can be mapped, the mapping is that memory; elsewhere the call says so. */
static void map_peer_body(struct rank *r)
{
    enum { LEN = 10000 };
    struct area pooled, user;
    weir_ep_attr attr;
    uint64_t remote;
    void *ptr;
    rank_open_all(r);
    area_make(r, &pooled, LEN, true);
    area_make(r, &user, LEN, false);
    memset(pooled.ptr, 0, LEN);
    publish(r, 0, pooled.mem, pooled.ptr, LEN);
    publish(r, 1, user.mem, user.ptr, LEN);
    barrier(r);
    weir_rkey *rkey = import(r, !r->rank, 0, &remote);
    weir_ep_query(r->ep[!r->rank], &attr);
    CHECK(attr.peer_id == (uint64_t)!r->rank);
    CHECK(strcmp(attr.transport, transport_name()) == 0);
    if (attr.maps_peer) {
        CHECK_OK(weir_mem_map_peer(rkey, remote + 100, LEN - 100, &ptr));
        pattern_fill(ptr, 5000, (unsigned)r->rank);
        barrier(r);
        CHECK(pattern_differs(pooled.ptr + 100, 5000, (unsigned)!r->rank) == 5000);
        CHECK_STATUS(weir_mem_map_peer(rkey, remote, LEN + 1, &ptr), WEIR_ERR_RANGE);
        weir_rkey *ordinary = import(r, !r->rank, 1, &remote);
        CHECK_STATUS(weir_mem_map_peer(ordinary, remote, 1, &ptr), WEIR_ERR_UNSUPPORTED);
        weir_rkey_destroy(ordinary);
    } else {
        CHECK_STATUS(weir_mem_map_peer(rkey, remote, 1, &ptr), WEIR_ERR_UNSUPPORTED);
    }
    weir_rkey_destroy(rkey);
    barrier(r);
    area_free(r, &user);
    rank_close(r);
}

void test_map_peer(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = map_peer_body});
}
