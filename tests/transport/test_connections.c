/* When connections are made, and that both sides may make them at the same moment. */
#include "../support/descriptors.h"
#include "harness.h"
#include "suite.h"

#include <string.h>

static void create(struct rank *r, int peer)
{
    CHECK_OK(weir_ep_create(r->ctx, r->board->address[peer], r->board->address_len[peer], &r->ep[peer]));
}

/* Rank 0 makes endpoints and keys, and that makes no connection; the first operation does. */
static void lazy_body(struct rank *r)
{
    enum { LEN = 1000 };
    struct area local, table;
    uint32_t signal;
    uint64_t remote;
    rank_open(r, 0);
    area_make(r, &local, LEN, true);
    area_make(r, &table, LEN, true);
    CHECK_OK(weir_signal_create(r->ctx, &signal));
    publish(r, 0, table.mem, table.ptr, LEN);
    r->board->number[r->rank][0] = signal;
    barrier(r);
    if (r->rank == 0) {
        weir_ep *unused;
        weir_ep_attr attr;
        create(r, 1); /* the first one of a process, with what that opens once */
        int before = descriptors();
        CHECK(before > 0);
        CHECK_OK(weir_ep_create(r->ctx, r->board->address[1], r->board->address_len[1], &unused));
        weir_rkey *rkey = import(r, 1, 0, &remote);
        for (int i = 0; i < 1000; i++)
            weir_progress(r->ctx);
        weir_ep_query(r->ep[1], &attr);
        CHECK(descriptors() == before);
        CHECK(!transport_is("verbs") || attr.max_inline == 0);
        CHECK_OK(weir_ep_status(r->ep[1]));
        barrier(r);
        pattern_fill(local.ptr, LEN, 7);
        CHECK_OK(weir_put_signal(r->ep[1], local.ptr, local.mem, LEN, remote, rkey, signal_of(r, 1, 0), NULL));
        flush(r, r->ep[1]);
        weir_ep_query(r->ep[1], &attr);
        CHECK(attr.max_inline > 0 || transport_is("verbs"));
        weir_ep_close(unused); /* it never connected */
        weir_rkey_destroy(rkey);
    } else {
        barrier(r);
        CHECK_OK(weir_signal_wait(r->ctx, signal, 1, -1));
        CHECK(pattern_differs(table.ptr, LEN, 7) == LEN);
    }
    rank_close(r);
}

void test_lazy(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = lazy_body});
}
