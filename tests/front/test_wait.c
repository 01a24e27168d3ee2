/*
 * Waiting with several threads, over shared memory whose progress and arming are counted here: a thread that has armed
 * does not sleep past what another one's progress handled, only one sleeps on the descriptors, and one that waits for
 * room lets the others in.
 */
#include "transport/context.h"

#include <weir/transport.h>

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static weir_ctx *ctx;
static struct wi_transport_ops counting;
static unsigned events, arms;
static bool has_slept;

static bool busy; /* each progress finds something */
static uint32_t sends;
static bool room; /* for a message */

static unsigned counted_progress(struct wi_iface *iface)
{
    (void)iface;
    unsigned found = events + busy;
    events = 0;
    return found;
}

static weir_status counted_arm(struct wi_iface *iface)
{
    arms++;
    return wi_shm_ops.arm(iface);
}

static weir_status counted_send(struct weir_ep *ep, const void *data, size_t len)
{
    (void)ep, (void)data, (void)len;
    __atomic_fetch_add(&sends, 1, __ATOMIC_RELAXED);
    return __atomic_load_n(&room, __ATOMIC_ACQUIRE) ? WEIR_OK : WEIR_ERR_AGAIN;
}

static int make_context(void **state)
{
    (void)state;
    weir_ctx_params params = {.size = sizeof(params), .flags = WEIR_CTX_MULTI, .transport = "shm"};
    if (setenv("WEIR_SPIN", "0us", 1) != 0 || setenv("WEIR_TIMEOUT", "5s", 1) != 0 ||
        weir_ctx_create(&params, &ctx) != WEIR_OK)
        return -1;
    events = arms = sends = 0;
    busy = room = has_slept = false;
    counting = wi_shm_ops;
    counting.progress = counted_progress;
    counting.arm = counted_arm;
    counting.send = counted_send;
    ctx->iface[0]->ops = &counting;
    return 0;
}

static int end_context(void **state)
{
    (void)state;
    weir_ctx_destroy(ctx);
    return 0;
}

static void *make_progress(void *arg)
{
    (void)arg;
    weir_progress(ctx);
    return NULL;
}

static void test_progress_between_arming_and_sleeping(void **state)
{
    (void)state;
    pthread_t other;
    weir_ctx_block(ctx, 50);
    assert_int_equal(arms, 1);
    events = 1;
    assert_int_equal(pthread_create(&other, NULL, make_progress, NULL), 0);
    assert_int_equal(pthread_join(other, NULL), 0);
    /* That may have ended what we wait for: sleeping now could be in vain. */
    weir_ctx_block(ctx, 50);
    assert_int_equal(arms, 2);
}

static void *sleep_once(void *arg)
{
    (void)arg;
    weir_ctx_block(ctx, 50);
    weir_ctx_block(ctx, 50);
    __atomic_store_n(&has_slept, true, __ATOMIC_RELEASE);
    return NULL;
}

static bool somebody_sleeps(void)
{
    wi_ctx_lock(ctx);
    bool asleep = ctx->asleep;
    wi_ctx_unlock(ctx);
    return asleep;
}

static void test_woken_sleeper_keeps_its_place(void **state)
{
    (void)state;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, sleep_once, NULL), 0);
    while (!somebody_sleeps() && !__atomic_load_n(&has_slept, __ATOMIC_ACQUIRE))
        sched_yield();
    wi_ctx_lock(ctx);
    bool slept = ctx->asleep;
    events = 1;
    wi_ctx_progress(ctx); /* wakes it; until it has come back it is to disarm, so nobody else may sleep */
    bool keeps = ctx->asleep;
    wi_ctx_unlock(ctx);
    assert_int_equal(pthread_join(thread, NULL), 0);
    if (slept) /* else its sleep ended before we looked */
        assert_true(keeps);
    assert_false(somebody_sleeps());
}

static void *send_message(void *arg)
{
    *(weir_status *)arg = weir_send(ctx->eps, "", 1);
    return NULL;
}

/* Who waits for room while others keep the context busy lets other threads in: they may be what makes the room. */
static void test_waiting_for_room(void **state)
{
    (void)state;
    pthread_t thread;
    weir_status status = WEIR_ERR_AGAIN;
    unsigned char address[WEIR_ADDRESS_MAX];
    size_t len = sizeof(address);
    weir_ep *ep;
    assert_int_equal(weir_ctx_address(ctx, address, &len), WEIR_OK);
    assert_int_equal(weir_ep_create(ctx, address, len, &ep), WEIR_OK);
    ep->ops = &counting;
    ep->ready = busy = true;
    assert_int_equal(pthread_create(&thread, NULL, send_message, &status), 0);
    /* Some tries are enough: on a busy machine the sender's bound could be over before many. */
    while (__atomic_load_n(&sends, __ATOMIC_RELAXED) < 20)
        sched_yield();
    weir_progress(ctx);
    __atomic_store_n(&room, true, __ATOMIC_RELEASE);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(status, WEIR_OK);
}

/* An endpoint to this context, which goes by another rank. */
static weir_ep *endpoint_to(uint64_t rank)
{
    unsigned char address[WEIR_ADDRESS_MAX];
    size_t len = sizeof(address);
    weir_ep *ep;
    assert_int_equal(weir_ctx_address(ctx, address, &len), WEIR_OK);
    assert_int_equal(weir_ep_create(ctx, address, len, &ep), WEIR_OK);
    ep->peer_id = rank;
    return ep;
}

static const char *error_of(weir_status ended)
{
    weir_comp comp = {.pending = 0, .status = (int32_t)ended};
    assert_int_equal(weir_wait(ctx, &comp, 0), ended);
    return weir_last_error();
}

/* A completion's error names no peer that it may not be of: with several that have ended alike, all of them. */
static void test_error_names_the_peer(void **state)
{
    (void)state;
    weir_ep *three = endpoint_to(3), *again = endpoint_to(3), *five = endpoint_to(5);
    wi_ep_fail(three, WEIR_ERR_PEER_GONE, "three is dead");
    assert_string_equal(error_of(WEIR_ERR_PEER_GONE), "three is dead");
    wi_ep_fail(again, WEIR_ERR_PEER_GONE, "three is dead for good");
    assert_string_equal(error_of(WEIR_ERR_PEER_GONE), "three is dead for good");
    wi_ep_fail(five, WEIR_ERR_PEER_GONE, "five is dead");
    assert_non_null(strstr(error_of(WEIR_ERR_PEER_GONE), "ranks 5, 3, whose"));
    assert_non_null(strstr(error_of(WEIR_ERR_PEER_GONE), "five is dead"));
    assert_non_null(strstr(error_of(WEIR_ERR_CANCELED), "closed"));
    for (uint64_t rank = 100000; rank < 100100; rank++)
        wi_ep_fail(endpoint_to(rank), WEIR_ERR_PEER_GONE, "rank %d too", (int)rank);
    assert_non_null(strstr(error_of(WEIR_ERR_PEER_GONE), ", ..., whose"));
    assert_non_null(strstr(error_of(WEIR_ERR_PEER_GONE), "rank 100099 too"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_progress_between_arming_and_sleeping, make_context, end_context),
        cmocka_unit_test_setup_teardown(test_woken_sleeper_keeps_its_place, make_context, end_context),
        cmocka_unit_test_setup_teardown(test_waiting_for_room, make_context, end_context),
        cmocka_unit_test_setup_teardown(test_error_names_the_peer, make_context, end_context),
    };
    return cmocka_run_group_tests_name("wait", tests, NULL, NULL);
}
