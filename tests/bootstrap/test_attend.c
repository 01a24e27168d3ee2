/*
 * Attendants: who is called while the bootstrap waits, until when, and that contexts make progress by it. It sees the
 * inside to raise the bound of a context's sleep: what wakes it is then what arrives, and no clock.
 */
#include "core/error.h"
#include "job.h"
#include "transport/context.h"

#include <weir/collectives.h>
#include <weir/ps.h>
#include <weir/transport.h>

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_MS 5000 /* a connection takes a few milliseconds if the other side makes progress, else for ever */

static int count_call(void *arg, int fd, int timeout_ms)
{
    (void)fd, (void)timeout_ms;
    ++*(int *)arg;
    (void)wi_error(WEIR_ERR_IO, "what an attendant ran into");
    return 0;
}

/* Waits for what nobody stores. */
static void wait_in_vain(weir_boot *boot)
{
    char value[8];
    size_t len = sizeof(value);
    EXPECT_STATUS(WEIR_ERR_TIMEOUT, weir_boot_get(boot, "never", value, &len, 100));
}

static void attend_a_while(weir_boot *boot, void *arg)
{
    int twice = 0, once = 0;
    (void)arg;
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_boot_attend(boot, NULL, NULL));
    EXPECT_STATUS(WEIR_OK, weir_boot_attend(boot, count_call, &twice));
    EXPECT_STATUS(WEIR_OK, weir_boot_attend(boot, count_call, &once));
    EXPECT_STATUS(WEIR_OK, weir_boot_attend(boot, count_call, &twice));
    wait_in_vain(boot);
    EXPECT(once >= 5 && twice == once); /* hardly less than 100, but the machine may be busy */
    weir_boot_unattend(boot, count_call, &twice);
    weir_boot_unattend(boot, count_call, &once);
    weir_boot_unattend(boot, count_call, &once); /* not there any more */
    int before = once;
    wait_in_vain(boot);
    EXPECT(once == before && twice > before);
    weir_boot_unattend(boot, count_call, &twice);
    before = twice;
    wait_in_vain(boot);
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "through", NULL, 0));
    EXPECT(twice == before);
}

/* The answer that is wrong comes first; the attendant's own sentence must not take the place of what is said of it. */
static void gather_unequal(weir_boot *boot, void *arg)
{
    char mine[16] = {0}, all[48];
    int calls = 0;
    int rank = weir_boot_rank(boot);
    (void)arg;
    EXPECT_STATUS(WEIR_OK, weir_boot_attend(boot, count_call, &calls));
    if (rank == 2)
        wait_in_vain(boot);
    weir_status status = weir_boot_allgather(boot, "unequal", NULL, 0, mine, rank == 1 ? 16 : 8, all);
    EXPECT(status == WEIR_ERR_MISMATCH);
    EXPECT_SAYS("'unequal': rank");
    EXPECT(calls > 0);
    weir_boot_unattend(boot, count_call, &calls);
}

/* What was not taken off may be gone when the job is left, as rank 0 does after all others. */
static void leave_late(int rank, void *arg)
{
    weir_boot *boot;
    weir_boot_params params = job_params(rank, 2, *(int *)arg);
    int calls = 0;
    EXPECT_STATUS(WEIR_OK, weir_boot_create(&params, &boot));
    EXPECT_STATUS(WEIR_OK, weir_boot_attend(boot, count_call, &calls));
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "all", NULL, 0));
    wait_in_vain(boot);
    if (rank == 1)
        poll(NULL, 0, 100);
    int before = calls;
    weir_boot_destroy(boot);
    EXPECT(before > 0 && calls == before);
}

static void attendants_are_called_until_taken_off(void **state)
{
    (void)state;
    assert_true(job_run("127.0.0.1", 2, attend_a_while, NULL));
}

static void sentences_survive_attendants(void **state)
{
    (void)state;
    assert_true(job_run("127.0.0.1", 3, gather_unequal, NULL));
}

static void nobody_is_called_at_the_end(void **state)
{
    (void)state;
    int port = job_port();
    pid_t first = job_start(0, leave_late, &port);
    pid_t second = job_start(1, leave_late, &port);
    assert_int_equal(job_wait(first), 0);
    assert_int_equal(job_wait(second), 0);
}

/* ---- contexts ---- */

static weir_ctx *make_ctx_with(weir_boot *boot, uint64_t id, uint32_t flags)
{
    weir_ctx *ctx;
    weir_ctx_params params = {.size = sizeof(params), .id = id, .flags = flags, .bind_address = weir_boot_local_address(boot)};
    EXPECT_STATUS(WEIR_OK, weir_ctx_create(&params, &ctx));
    ctx->sleep_max_ms = 10 * PATIENCE_MS;
    return ctx;
}

static weir_ctx *make_ctx(weir_boot *boot, uint64_t id)
{
    return make_ctx_with(boot, id, 0);
}

/* Rank `waiter` waits in the bootstrap; the other one connects to its context, from a context of its own. */
static void connect_to_waiter(weir_boot *boot, weir_ctx *ctx, int waiter)
{
    uint8_t address[WEIR_ADDRESS_MAX];
    size_t len = sizeof(address);
    char key[32];
    snprintf(key, sizeof(key), "address of %d", waiter);
    if (weir_boot_rank(boot) == waiter) {
        EXPECT_STATUS(WEIR_OK, weir_ctx_address(ctx, address, &len));
        EXPECT_STATUS(WEIR_OK, weir_boot_put(boot, key, address, len));
    } else {
        weir_ep *ep;
        weir_ctx *own = make_ctx(boot, 7);
        EXPECT_STATUS(WEIR_OK, weir_boot_get(boot, key, address, &len, -1));
        EXPECT_STATUS(WEIR_OK, weir_ep_create(own, address, len, &ep));
        EXPECT_STATUS(WEIR_OK, weir_ep_wait_ready(ep, PATIENCE_MS));
        weir_ep_close(ep);
        weir_ctx_destroy(own);
    }
    snprintf(key, sizeof(key), "connected to %d", waiter);
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, key, NULL, 0));
}

static void connect_both_ways(weir_boot *boot, weir_ctx *ctx)
{
    connect_to_waiter(boot, ctx, 0);
    connect_to_waiter(boot, ctx, 1);
}

static void attend_context(weir_boot *boot, void *arg)
{
    weir_ctx *ctx = make_ctx(boot, (uint64_t)weir_boot_rank(boot));
    (void)arg;
    EXPECT_STATUS(WEIR_OK, weir_boot_attend(boot, weir_ctx_attend, ctx));
    connect_both_ways(boot, ctx);
    weir_boot_unattend(boot, weir_ctx_attend, ctx);
    weir_ctx_destroy(ctx);
}

struct counted {
    weir_ctx *ctx;
    int calls;
};

static int count_and_attend(void *arg, int fd, int timeout_ms)
{
    struct counted *counted = arg;
    counted->calls++;
    return weir_ctx_attend(counted->ctx, fd, timeout_ms);
}

/* A wait sleeps in its one context, and with two of them calls each again and again. It leaves nothing watched. */
static void sleep_in_contexts(weir_boot *boot, void *arg)
{
    struct counted first = {.ctx = make_ctx(boot, 1)}, second = {.ctx = make_ctx(boot, 2)};
    (void)arg;
    EXPECT_STATUS(WEIR_OK, weir_boot_attend(boot, count_and_attend, &first));
    wait_in_vain(boot);
    EXPECT(first.calls >= 1 && first.calls <= 10); /* 100 in the time of a call every millisecond */
    EXPECT(first.ctx->watched == 0 && !first.ctx->armed);
    EXPECT_STATUS(WEIR_OK, weir_boot_attend(boot, count_and_attend, &second));
    first.calls = 0;
    wait_in_vain(boot);
    EXPECT(first.calls >= 5 && first.calls == second.calls);
    weir_boot_unattend(boot, count_and_attend, &first);
    weir_boot_unattend(boot, count_and_attend, &second);
    weir_ctx_destroy(first.ctx);
    weir_ctx_destroy(second.ctx);
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "without contexts", NULL, 0));
}

enum { TURNS = 20 };

/* The two ranks' contexts, their endpoints to each other, and signal 0 of each. */
struct side {
    weir_boot *boot;
    weir_ctx *ctx;
    weir_ep *ep;
};

static void open_side(struct side *side, weir_boot *boot)
{
    static const char *const keys[] = {"address of 0", "address of 1"};
    uint8_t address[WEIR_ADDRESS_MAX];
    size_t len = sizeof(address);
    uint32_t signal;
    int rank = weir_boot_rank(boot);
    *side = (struct side){.boot = boot, .ctx = make_ctx_with(boot, (uint64_t)rank, WEIR_CTX_MULTI)};
    EXPECT_STATUS(WEIR_OK, weir_signal_create(side->ctx, &signal));
    EXPECT(signal == 0);
    EXPECT_STATUS(WEIR_OK, weir_ctx_address(side->ctx, address, &len));
    EXPECT_STATUS(WEIR_OK, weir_boot_attend(boot, weir_ctx_attend, side->ctx));
    EXPECT_STATUS(WEIR_OK, weir_boot_put(boot, keys[rank], address, len));
    len = sizeof(address);
    EXPECT_STATUS(WEIR_OK, weir_boot_get(boot, keys[!rank], address, &len, -1));
    EXPECT_STATUS(WEIR_OK, weir_ep_create(side->ctx, address, len, &side->ep));
}

static void signal_other(const struct side *side)
{
    weir_comp comp = WEIR_COMP_INIT;
    EXPECT_STATUS(WEIR_OK, weir_put_signal(side->ep, NULL, NULL, 0, 0, NULL, 0, &comp));
    EXPECT_STATUS(WEIR_OK, weir_wait(side->ctx, &comp, PATIENCE_MS));
}

static void get_turn(weir_boot *boot, const char *what, int turn, int timeout_ms)
{
    char key[32], value[8];
    size_t len = sizeof(value);
    snprintf(key, sizeof(key), "%s %d", what, turn);
    EXPECT_STATUS(WEIR_OK, weir_boot_get(boot, key, value, &len, timeout_ms));
}

static void put_turn(weir_boot *boot, const char *what, int turn)
{
    char key[32];
    snprintf(key, sizeof(key), "%s %d", what, turn);
    EXPECT_STATUS(WEIR_OK, weir_boot_put(boot, key, "x", 1));
}

/* Who answers has more patience than who asks: it is the latter that notices when a wake-up was lost. */
static void *answer_signals(void *arg)
{
    const struct side *side = arg;
    for (uint64_t turn = 1; turn <= TURNS; turn++) {
        EXPECT_STATUS(WEIR_OK, weir_signal_wait(side->ctx, 0, turn, 4 * PATIENCE_MS));
        signal_other(side);
    }
    return NULL;
}

/* Rank 0 waits in the bootstrap while a thread sleeps in the same context; rank 1 wakes one or the other, by turns. */
static void attend_beside_a_thread(weir_boot *boot, void *arg)
{
    struct side side;
    pthread_t thread;
    bool answers = weir_boot_rank(boot) == 0;
    (void)arg;
    open_side(&side, boot);
    if (answers)
        EXPECT(pthread_create(&thread, NULL, answer_signals, &side) == 0);
    for (int turn = 0; turn < TURNS; turn++) {
        if (answers) {
            poll(NULL, 0, turn % 3 * 10); /* the thread then sleeps without what this wait watches */
            get_turn(boot, "ask", turn, 4 * PATIENCE_MS);
            put_turn(boot, "answer", turn);
            continue;
        }
        poll(NULL, 0, turn % 7); /* so that both sleep */
        put_turn(boot, "ask", turn);
        get_turn(boot, "answer", turn, PATIENCE_MS);
        poll(NULL, 0, turn % 5);
        signal_other(&side);
        EXPECT_STATUS(WEIR_OK, weir_signal_wait(side.ctx, 0, (uint64_t)turn + 1, PATIENCE_MS));
    }
    if (answers)
        EXPECT(pthread_join(thread, NULL) == 0);
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "all is said", NULL, 0));
    weir_boot_unattend(boot, weir_ctx_attend, side.ctx);
    weir_ep_close(side.ep);
    weir_ctx_destroy(side.ctx);
}

/* Two communicators of one context: the end of one leaves the other one's attendant. */
static void attend_communicators(weir_boot *boot, void *arg)
{
    weir_comm *first, *second;
    weir_ctx *ctx = make_ctx(boot, (uint64_t)weir_boot_rank(boot));
    (void)arg;
    EXPECT_STATUS(WEIR_OK, weir_comm_create(ctx, boot, NULL, &first));
    EXPECT_STATUS(WEIR_OK, weir_comm_create(ctx, boot, NULL, &second));
    weir_comm_destroy(first);
    connect_both_ways(boot, ctx);
    weir_comm_destroy(second);
    weir_ctx_destroy(ctx);
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "without contexts", NULL, 0));
}

static void attend_server_and_client(weir_boot *boot, void *arg)
{
    weir_ps_server *server = NULL;
    weir_ps_client *client = NULL;
    weir_ctx *ctx = make_ctx(boot, (uint64_t)weir_boot_rank(boot));
    bool serves = weir_boot_role(boot) == WEIR_ROLE_SERVER;
    (void)arg;
    EXPECT_STATUS(WEIR_OK,
                  serves ? weir_ps_server_create(ctx, boot, &server) : weir_ps_client_create(ctx, boot, &client));
    connect_both_ways(boot, ctx);
    if (serves)
        EXPECT_STATUS(WEIR_OK, weir_ps_server_run(server));
    weir_ps_client_destroy(client);
    weir_ps_server_destroy(server);
    weir_ctx_destroy(ctx);
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "without contexts", NULL, 0));
}

static void probe_ucx(int rank, void *arg)
{
    char why[256];
    (void)rank, (void)arg;
    if (weir_transport_probe("ucx", why, sizeof(why)) == WEIR_OK)
        return;
    fprintf(stderr, "%s\n", why);
    _exit(77);
}

/* The transport in which nothing happens without the target's progress: UCX over TCP. */
static void run_over_ucx(job_function function)
{
    if (job_wait(job_start(0, probe_ucx, NULL)) == 77)
        skip();
    assert_true(job_run("127.0.0.1", 2, function, NULL));
}

static void contexts_accept_while_waiting(void **state)
{
    (void)state;
    run_over_ucx(attend_context);
}

static void waits_sleep_in_a_context(void **state)
{
    (void)state;
    run_over_ucx(sleep_in_contexts);
}

static void waits_sleep_beside_a_thread(void **state)
{
    (void)state;
    run_over_ucx(attend_beside_a_thread);
    setenv("WEIR_TRANSPORT", "shm", 1);
    unsetenv("WEIR_INTRANODE");
    assert_true(job_run("127.0.0.1", 2, attend_beside_a_thread, NULL));
    setenv("WEIR_TRANSPORT", "ucx", 1);
    setenv("WEIR_INTRANODE", "off", 1);
}

static void communicators_attend(void **state)
{
    (void)state;
    run_over_ucx(attend_communicators);
}

static void servers_and_clients_attend(void **state)
{
    (void)state;
    setenv("WEIR_SERVERS", "1", 1);
    run_over_ucx(attend_server_and_client);
    unsetenv("WEIR_SERVERS");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attendants_are_called_until_taken_off), cmocka_unit_test(sentences_survive_attendants),
        cmocka_unit_test(nobody_is_called_at_the_end),           cmocka_unit_test(contexts_accept_while_waiting),
        cmocka_unit_test(communicators_attend),                  cmocka_unit_test(servers_and_clients_attend),
        cmocka_unit_test(waits_sleep_in_a_context),              cmocka_unit_test(waits_sleep_beside_a_thread),
    };
    setenv("WEIR_TRANSPORT", "ucx", 1);
    setenv("WEIR_INTRANODE", "off", 1);
    setenv("UCX_TLS", "tcp,self", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
