/* Several contexts in one process: each thread has its own, and they are made, used and ended at the same time. */
#include "harness.h"
#include "suite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { THREADS = 4, LEN = 100000 };

/* Every thread writes to the next one, is told by the one before, and sends it a message, round after round. */
static void exchange(struct rank *r, const struct area *mine, const struct area *local, uint32_t signal)
{
    int next = (r->rank + 1) % r->count, before = (r->rank + r->count - 1) % r->count, n = rounds(200, 20);
    uint64_t remote, from;
    weir_rkey *rkey = import(r, next, 0, &remote);
    for (int round = 1; round <= n; round++) {
        weir_comp comp = WEIR_COMP_INIT;
        unsigned char text[64];
        size_t len = sizeof(text);
        weir_status status;
        pattern_fill(local->ptr, LEN, (unsigned)(round * THREADS + r->rank));
        CHECK_OK(weir_put_signal(r->ep[next], local->ptr, local->mem, LEN, remote, rkey, signal_of(r, next, 0), &comp));
        CHECK_OK(weir_signal_wait(r->ctx, signal, (uint64_t)round, -1));
        CHECK(pattern_differs(mine->ptr, LEN, (unsigned)(round * THREADS + before)) == LEN);
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        CHECK_OK(weir_send(r->ep[before], &round, sizeof(round))); /* may write again */
        while ((status = weir_recv(r->ctx, text, &len, &from)) == WEIR_ERR_AGAIN)
            weir_ctx_block(r->ctx, 100);
        CHECK_OK(status);
        CHECK(from == (uint64_t)next && len == sizeof(round) && memcmp(text, &round, len) == 0);
    }
    weir_rkey_destroy(rkey);
}

static void contexts_body(struct rank *r)
{
    for (int turn = 0; turn < 3; turn++) {
        struct area mine, local;
        rank_open(r, 0);
        uint32_t signal = signal_open(r, 0);
        area_make(r, &mine, LEN, true);
        area_make(r, &local, LEN, turn != 1);
        publish(r, 0, mine.mem, mine.ptr, LEN);
        barrier(r);
        for (int i = 0; i < r->count; i++)
            rank_connect(r, (r->rank + i) % r->count);
        barrier(r);
        exchange(r, &mine, &local, signal);
        barrier(r);
        area_free(r, &local);
        area_free(r, &mine);
        rank_close(r);
    }
}

void test_contexts_of_threads(void **state)
{
    (void)state;
    job_run(&(struct job){.count = THREADS, .body = contexts_body, .threads = true});
    job_run(&(struct job){.count = THREADS, .body = contexts_body, .threads = true, .spin = "0us"});
}
