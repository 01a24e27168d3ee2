/* Counters are exact, times are taken of all operations under a trace, and users' completions end as without them. */
#include "../support/folder.h"

#include <weir/weir.h>

#include "core/clock.h"
#include "transport/stats.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- Histogram ---- */

static void buckets_hold_what_their_bounds_say(void **state)
{
    (void)state;
    assert_int_equal(wi_bucket_bound(0), 128);
    assert_int_equal(wi_bucket_bound(1), 192);
    assert_int_equal(wi_bucket_bound(2), 256);
    assert_true(wi_bucket_bound(WI_BUCKETS - 1) == UINT64_MAX);
    for (unsigned i = 0; i < WI_BUCKETS; i++) {
        struct wi_histogram histogram = {0};
        uint64_t bound = wi_bucket_bound(i);
        assert_true(i == 0 || bound > wi_bucket_bound(i - 1));
        wi_histogram_add(&histogram, bound);
        wi_histogram_add(&histogram, i ? wi_bucket_bound(i - 1) + 1 : 0);
        assert_int_equal(histogram.bucket[i], 2);
    }
}

/* ---- Samples ---- */

static void a_timed_operation_ends_for_its_user(void **state)
{
    struct wi_stats stats = {0};
    const struct wi_peer_stats *peer = wi_stats_peer(&stats, 7, "shm");
    weir_comp user = WEIR_COMP_INIT;
    (void)state;
    assert_int_equal(wi_stats_init(&stats, false, true), WEIR_OK);
    struct wi_sample *done = wi_sample_begin(&stats, peer, WI_OP_PUT, 8, &user);
    struct wi_sample *refused = wi_sample_begin(&stats, peer, WI_OP_PUT, 8, &user);
    struct wi_sample *late = wi_sample_begin(&stats, peer, WI_OP_GET, 8, &user);
    struct wi_sample *failed = wi_sample_begin(&stats, peer, WI_OP_GET, 8, &user);
    struct wi_sample *silent = wi_sample_begin(&stats, peer, WI_OP_FLUSH, 0, NULL);
    late->comp.pending = failed->comp.pending = silent->comp.pending = 1;
    wi_sample_posted(&stats, done, WEIR_OK);
    wi_sample_posted(&stats, refused, WEIR_ERR_KEY);
    assert_int_equal(user.pending, 0);
    wi_sample_posted(&stats, late, WEIR_OK);
    wi_sample_posted(&stats, failed, WEIR_OK);
    wi_sample_posted(&stats, silent, WEIR_OK);
    assert_int_equal(user.pending, 2);
    wi_samples_collect(&stats);
    assert_int_equal(user.pending, 2);
    late->comp.pending = silent->comp.pending = 0;
    wi_samples_collect(&stats);
    assert_int_equal(user.pending, 1);
    failed->comp.pending = 0;
    failed->comp.status = WEIR_ERR_PEER_GONE;
    wi_samples_collect(&stats);
    assert_int_equal(user.pending, 0);
    assert_int_equal(user.status, WEIR_ERR_PEER_GONE);
    assert_int_equal(stats.samples_busy, 0);
    for (int op = 0; op < WI_OPS; op++) { /* done; late; silent */
        uint64_t count = 0;
        for (int i = 0; i < WI_BUCKETS; i++)
            count += stats.latency[op].bucket[i];
        assert_int_equal(count, op == WI_OP_PUT || op == WI_OP_GET || op == WI_OP_FLUSH);
    }
    wi_stats_fini(&stats);
}

static void more_than_there_is_room_for_go_unobserved(void **state)
{
    struct wi_stats stats = {0};
    (void)state;
    assert_int_equal(wi_stats_init(&stats, false, true), WEIR_OK);
    for (int i = 0; i < WI_SAMPLES; i++)
        assert_non_null(wi_sample_begin(&stats, &stats.spare, WI_OP_PUT, 1, NULL));
    assert_null(wi_sample_begin(&stats, &stats.spare, WI_OP_PUT, 1, NULL));
    assert_int_equal(stats.unobserved, 1);
    wi_stats_fini(&stats);
}

/* ---- Two contexts ---- */

struct ends {
    weir_ctx *here, *there;
    weir_pool *pool;
    weir_ep *ep;
    weir_rkey *rkey;
    unsigned char *memory;
    weir_mem *mem;
};

static void connect_ends(struct ends *ends)
{
    weir_ctx_params params = {.size = sizeof(params), .id = 0, .transport = "shm"};
    unsigned char address[WEIR_ADDRESS_MAX], key[WEIR_RKEY_MAX];
    size_t address_len = sizeof(address), key_len = sizeof(key);
    assert_int_equal(weir_ctx_create(&params, &ends->here), WEIR_OK);
    params.id = 1;
    assert_int_equal(weir_ctx_create(&params, &ends->there), WEIR_OK);
    assert_int_equal(weir_pool_create(ends->there, 0, &ends->pool), WEIR_OK);
    assert_int_equal(weir_pool_alloc(ends->pool, 4096, (void **)&ends->memory, &ends->mem), WEIR_OK);
    assert_int_equal(weir_ctx_address(ends->there, address, &address_len), WEIR_OK);
    assert_int_equal(weir_mem_export(ends->mem, ends->memory, 4096, key, &key_len), WEIR_OK);
    assert_int_equal(weir_ep_create(ends->here, address, address_len, &ends->ep), WEIR_OK);
    assert_int_equal(weir_rkey_import(ends->ep, key, key_len, &ends->rkey), WEIR_OK);
}

static char *text_of(const weir_ctx *ctx)
{
    static char text[1 << 17];
    size_t len = sizeof(text);
    assert_int_equal(weir_metrics_text(ctx, text, &len), WEIR_OK);
    assert_int_equal(strlen(text), len);
    return text;
}

static void expect_line(const weir_ctx *ctx, const char *line)
{
    if (!strstr(text_of(ctx), line))
        fail_msg("no line \"%s\" in:\n%s", line, text_of(ctx));
}

static void operate(struct ends *ends)
{
    uint64_t remote = (uintptr_t)ends->memory, result = 0;
    unsigned char data[100] = {0}, message[8];
    weir_comp comp = WEIR_COMP_INIT;
    size_t len = sizeof(message);
    for (int i = 0; i < 10; i++)
        assert_int_equal(weir_put(ends->ep, data, NULL, 100, remote, ends->rkey, &comp), WEIR_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(weir_get(ends->ep, data, NULL, 50, remote, ends->rkey, &comp), WEIR_OK);
    assert_int_equal(weir_put_signal(ends->ep, data, NULL, 7, remote, ends->rkey, 0, NULL), WEIR_OK);
    assert_int_equal(weir_fetch_add(ends->ep, 1, &result, NULL, remote, ends->rkey, &comp), WEIR_OK);
    assert_int_equal(weir_send(ends->ep, "hello", 5), WEIR_OK);
    assert_int_equal(weir_wait(ends->here, &comp, -1), WEIR_OK);
    while (weir_recv(ends->there, message, &len, NULL) == WEIR_ERR_AGAIN)
        continue;
    assert_int_not_equal(weir_put_signal(ends->ep, data, NULL, 0, 0, NULL, 1u << 19, NULL), WEIR_OK);
}

static void counters_are_exact(void **state)
{
    struct ends ends = {0};
    (void)state;
    connect_ends(&ends);
    operate(&ends);
    expect_line(ends.here, "\nweir_operations_total{rank=\"0\",peer=\"1\",transport=\"shm\",operation=\"put\"} 10\n");
    expect_line(ends.here, "\nweir_operation_bytes_total{rank=\"0\",peer=\"1\",transport=\"shm\",operation=\"put\"} 1000\n");
    expect_line(ends.here, "\nweir_operation_bytes_total{rank=\"0\",peer=\"1\",transport=\"shm\",operation=\"get\"} 150\n");
    expect_line(ends.here, "\nweir_operations_total{rank=\"0\",peer=\"1\",transport=\"shm\",operation=\"put_signal\"} 1\n");
    expect_line(ends.here, "\nweir_operation_bytes_total{rank=\"0\",peer=\"1\",transport=\"shm\",operation=\"fetch_add\"} 8\n");
    expect_line(ends.here, "\nweir_operations_refused_total{rank=\"0\",peer=\"1\",transport=\"shm\"} 1\n");
    expect_line(ends.here, "\nweir_operation_seconds_count{rank=\"0\",operation=\"put\"} 10\n"); /* traced: all */
    expect_line(ends.here, "\nweir_operation_seconds_count{rank=\"0\",operation=\"get\"} 3\n");
    expect_line(ends.there, "\nweir_messages_received_total{rank=\"1\"} 1\n");
    expect_line(ends.there, "\nweir_message_bytes_received_total{rank=\"1\"} 5\n");
    size_t len = 10;
    char small[10];
    assert_int_equal(weir_metrics_text(ends.here, small, &len), WEIR_ERR_RANGE);
    assert_true(len > 1000);
    weir_rkey_destroy(ends.rkey);
    weir_ctx_destroy(ends.there);
    weir_ctx_destroy(ends.here);
}

static void a_lost_peer_is_counted(void **state)
{
    struct ends ends = {0};
    unsigned char byte = 1;
    (void)state;
    connect_ends(&ends);
    assert_int_equal(weir_put(ends.ep, &byte, NULL, 1, (uintptr_t)ends.memory, ends.rkey, NULL), WEIR_OK);
    weir_ctx_destroy(ends.there);
    for (uint64_t end_ns = wi_now_ns() + 10 * WI_NS_PER_S; weir_ep_status(ends.ep) == WEIR_OK && wi_now_ns() < end_ns;)
        weir_ctx_block(ends.here, 10);
    expect_line(ends.here, "\nweir_endpoint_failures_total{rank=\"0\",peer=\"1\",transport=\"shm\"} 1\n");
    weir_rkey_destroy(ends.rkey);
    weir_ctx_destroy(ends.here);
}

static int set_up(void **state)
{
    char path[64];
    (void)state;
    if (folder_make() != 0)
        return -1;
    snprintf(path, sizeof(path), "%s/trace.json", folder);
    setenv("WEIR_TRACE", path, 1);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_hold_what_their_bounds_say),
        cmocka_unit_test(a_timed_operation_ends_for_its_user),
        cmocka_unit_test(more_than_there_is_room_for_go_unobserved),
        cmocka_unit_test(counters_are_exact),
        cmocka_unit_test(a_lost_peer_is_counted),
    };
    return cmocka_run_group_tests_name("metrics", tests, set_up, folder_remove);
}
