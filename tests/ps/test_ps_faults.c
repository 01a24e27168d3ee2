/*
 * Jobs that go wrong: workers that disagree, processes that are killed, a client that writes nonsense. Everybody gets
 * an error that names the culprit, in time, and nobody hangs. The transport comes from the environment.
 */
#include "rig.h"

#include "ps/client.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>

#include <cmocka.h>

#define BOUND_S 8.0 /* WEIR_TIMEOUT is 5 s here */

enum { COUNT = 100000 };

static weir_ps_table_params table_params(weir_ps_consistency consistency)
{
    return (weir_ps_table_params){.size = sizeof(weir_ps_table_params),
                                  .name = "t",
                                  .count = COUNT,
                                  .consistency = consistency,
                                  .learning_rate = 0.5f};
}

static weir_ps_table *open_table(struct rank *rank, weir_ps_consistency consistency)
{
    weir_ps_table_params params = table_params(consistency);
    weir_ps_table *table;
    EXPECT_STATUS(WEIR_OK, weir_ps_table_open(rank->client, &params, &table));
    return table;
}

/* ---- Parameters that differ -------------------------------------------------------------------------------------- */

static void expect_mismatch(struct rank *rank, const weir_ps_table_params *params, const char *sentence)
{
    weir_ps_table *table;
    EXPECT_STATUS(WEIR_ERR_MISMATCH, weir_ps_table_open(rank->client, params, &table));
    EXPECT_SAYS(sentence);
}

static void disagree(struct rank *rank)
{
    if (rank->index == 1)
        EXPECT_STATUS(WEIR_OK, weir_ps_barrier(rank->client));
    if (rank->index == 0) {
        open_table(rank, WEIR_PS_ASYNC);
        EXPECT_STATUS(WEIR_OK, weir_ps_barrier(rank->client));
    } else {
        weir_ps_table_params params = table_params(WEIR_PS_ASYNC);
        params.count = 99;
        expect_mismatch(rank, &params, "count 99 here, 100000 where");
        params = table_params(WEIR_PS_ASYNC);
        params.learning_rate = 0.25f;
        expect_mismatch(rank, &params, "learning_rate 0.25 here, 0.5 where");
        params = table_params(WEIR_PS_BSP);
        expect_mismatch(rank, &params, "consistency 1 here, 0 where");
    }
    /* It was no more than a refused call: all goes on, and the second of the same process is judged here. */
    weir_ps_table *table = open_table(rank, WEIR_PS_ASYNC);
    weir_ps_table_params params = table_params(WEIR_PS_ASYNC);
    params.count++;
    expect_mismatch(rank, &params, "count 100001 here, 100000 where");
    float *weights = calloc(COUNT, sizeof(float));
    EXPECT(weights);
    EXPECT_STATUS(WEIR_OK, weir_ps_push_pull(table, weights, weights));
    EXPECT_STATUS(WEIR_OK, weir_ps_barrier(rank->client));
    free(weights);
}

static void test_mismatch(void **state)
{
    (void)state;
    assert_true(scenario_run(&(struct scenario){2, 2, 0, disagree, NULL, -1}));
}

static void bad_arguments(struct rank *rank)
{
    weir_ps_table_params params = table_params(WEIR_PS_ASYNC);
    weir_ps_table *table;
    float weight = 0.0f;
    params.count = 0;
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_ps_table_open(rank->client, &params, &table));
    params = table_params(WEIR_PS_ASYNC);
    params.name = "0123456789012345678901234567890123456789012345678901234567890123";
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_ps_table_open(rank->client, &params, &table));
    params.name = "";
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_ps_table_open(rank->client, &params, &table));
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_ps_push(NULL, &weight));
    table = open_table(rank, WEIR_PS_ASYNC);
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_ps_push(table, NULL));
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_ps_pull(table, NULL));
    EXPECT_STATUS(WEIR_OK, weir_ps_barrier(rank->client));
}

static void test_bad_arguments(void **state)
{
    (void)state;
    assert_true(scenario_run(&(struct scenario){1, 1, 0, bad_arguments, NULL, -1}));
}

/* ---- Processes that die ------------------------------------------------------------------------------------------ */

/* Calls until one fails: in time, naming the dead rank, and so does each later one. */
static void push_until_failure(struct rank *rank, weir_ps_table *table, const char *culprit)
{
    float *gradient = calloc(COUNT, sizeof(float));
    EXPECT(gradient);
    double start = job_now();
    weir_status status = WEIR_OK;
    while (status == WEIR_OK && job_now() - start < 30.0)
        status = weir_ps_push_pull(table, gradient, gradient);
    EXPECT(status == WEIR_ERR_PEER_GONE || status == WEIR_ERR_JOB_FAILED);
    EXPECT(job_now() - start < BOUND_S);
    EXPECT_SAYS(culprit);
    EXPECT_STATUS(status, weir_ps_pull(table, gradient));
    EXPECT_STATUS(status, weir_ps_barrier(rank->client));
    EXPECT_SAYS(culprit);
    free(gradient);
}

static void server_fails(struct rank *rank, const char *culprit)
{
    double start = job_now();
    weir_status status = serve(rank);
    EXPECT(status == WEIR_ERR_PEER_GONE || status == WEIR_ERR_JOB_FAILED);
    EXPECT(job_now() - start < BOUND_S + 1.0);
    EXPECT(strstr(serve_sentence, culprit));
}

/* When it is over, all other workers are at work too. */
static void one_common_step(weir_ps_table *table)
{
    float *gradient = calloc(COUNT, sizeof(float));
    EXPECT(gradient);
    EXPECT_STATUS(WEIR_OK, weir_ps_push_pull(table, gradient, gradient));
    free(gradient);
}

static void last_worker_dies(struct rank *rank)
{
    weir_ps_table *table = open_table(rank, WEIR_PS_BSP);
    if (rank->index == rank->workers - 1) {
        one_common_step(table);
        raise(SIGKILL);
    }
    push_until_failure(rank, table, "rank 2");
}

static void server_sees_worker_die(struct rank *rank)
{
    server_fails(rank, "rank 2");
}

static void test_worker_dies(void **state)
{
    (void)state;
    assert_true(scenario_run(&(struct scenario){3, 2, 0, last_worker_dies, server_sees_worker_die, 2}));
}

static int opened[2]; /* a pipe: each worker writes a byte when it is at work */

static void *kill_later(void *arg)
{
    char byte;
    for (int i = 0; i < 2; i++)
        EXPECT(read(opened[0], &byte, 1) == 1);
    raise(SIGKILL);
    return arg;
}

static void workers_see_server_die(struct rank *rank)
{
    weir_ps_table *table = open_table(rank, WEIR_PS_ASYNC);
    EXPECT(write(opened[1], "x", 1) == 1);
    push_until_failure(rank, table, "rank 3");
}

static void second_server_dies(struct rank *rank)
{
    pthread_t thread;
    if (rank->index == 1)
        EXPECT(pthread_create(&thread, NULL, kill_later, NULL) == 0);
    server_fails(rank, "rank 3");
}

static void test_server_dies(void **state)
{
    (void)state;
    assert_int_equal(pipe(opened), 0);
    assert_true(scenario_run(&(struct scenario){2, 2, 0, workers_see_server_die, second_server_dies, 3}));
}

/* A worker that leaves the job in good order but forgets its client: the servers do not wait for it for ever. */
static void forget_client(struct rank *rank)
{
    weir_ps_table *table = open_table(rank, WEIR_PS_BSP);
    if (rank->index == 1) {
        one_common_step(table);
        weir_ctx_destroy(rank->ctx);
        weir_boot_destroy(rank->boot);
        _exit(0);
    }
    push_until_failure(rank, table, "rank 1");
}

static void server_sees_leaver(struct rank *rank)
{
    server_fails(rank, "rank 1");
}

static void test_worker_leaves(void **state)
{
    (void)state;
    assert_true(scenario_run(&(struct scenario){2, 1, 0, forget_client, server_sees_leaver, -1}));
}

/* ---- Nonsense ---------------------------------------------------------------------------------------------------- */

static int nonsense; /* which one */

static struct wi_ps_request good_request(weir_ps_table *table)
{
    return (struct wi_ps_request){
        .op = WI_PS_PUSH, .call = 65, .table = table->ids[0], .part_first = table->runs[0].first, .part_count = 16};
}

/* Each is well-formed but for one thing. False: there are no more. */
static bool make_nonsense(struct wi_ps_request *request, const weir_ps_table *table)
{
    switch (nonsense) {
    case 0:
        request->op = 99;
        return true;
    case 1:
        request->table = 7;
        return true;
    case 2:
        request->part_first += table->runs[0].count;
        return true;
    case 3:
        request->part_first += table->runs[0].count - 8;
        return true;
    case 4:
        request->op = WI_PS_KEY; /* a payload that is no key */
        return true;
    case 5:
        request->op = WI_PS_PUSH_PULL; /* a key that was not given */
        request->key = 1000;
        return true;
    case 6:
        request->offset = 8;
        return true;
    default:
        return false;
    }
}

static void talk_nonsense(struct rank *rank)
{
    weir_ps_table *table = open_table(rank, WEIR_PS_ASYNC);
    float payload[16] = {0};
    weir_status status = weir_ps_barrier(rank->client); /* rank 1 may come back from it, and talk, before rank 0 does */
    if (rank->index == 1) {
        EXPECT(status == WEIR_OK);
        struct wi_ps_link *link = &rank->client->links[0];
        struct wi_ps_request request = good_request(table);
        if (make_nonsense(&request, table))
            EXPECT_STATUS(WEIR_OK, wi_ps_link_send(rank->client, link, &request, payload, sizeof(payload)));
        else /* a signal without a frame */
            EXPECT_STATUS(WEIR_OK,
                          weir_put_signal(link->requests.ep, NULL, NULL, 0, 0, NULL, link->requests.signal, NULL));
    }
    double start = job_now();
    while ((status = weir_ps_pull(table, (float *)rank->client->links[0].mirror)) == WEIR_OK &&
           job_now() - start < 20.0)
        continue;
    EXPECT(status != WEIR_OK && job_now() - start < BOUND_S);
}

static void first_server_refuses(struct rank *rank)
{
    weir_status status = serve(rank);
    EXPECT(status == WEIR_ERR_PROTOCOL || (status == WEIR_ERR_KEY && nonsense == 4));
    EXPECT(strstr(serve_sentence, "rank 1"));
}

static void test_nonsense(void **state)
{
    (void)state;
    for (nonsense = 0; nonsense <= 7; nonsense++)
        assert_true(scenario_run(&(struct scenario){2, 1, 0, talk_nonsense, first_server_refuses, -1}));
}

/* ---- Jobs without the other side --------------------------------------------------------------------------------- */

static void test_no_servers(void **state)
{
    (void)state;
    weir_boot *boot;
    weir_ctx *ctx;
    weir_ps_client *client;
    weir_ps_server *server;
    weir_boot_params params = job_params(0, 1, -1);
    params.servers = 0;
    assert_int_equal(weir_boot_create(&params, &boot), WEIR_OK);
    weir_ctx_params ctx_params = {.size = sizeof(ctx_params), .exchange = weir_boot_exchange(boot)};
    assert_int_equal(weir_ctx_create(&ctx_params, &ctx), WEIR_OK);
    assert_int_equal(weir_ps_client_create(ctx, boot, &client), WEIR_ERR_INVALID);
    assert_non_null(strstr(weir_last_error(), "no servers"));
    assert_int_equal(weir_ps_server_create(ctx, boot, &server), WEIR_ERR_INVALID);
    weir_ps_client_destroy(NULL);
    weir_ps_server_destroy(NULL);
    weir_ctx_destroy(ctx);
    weir_boot_destroy(boot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mismatch),    cmocka_unit_test(test_bad_arguments), cmocka_unit_test(test_worker_dies),
        cmocka_unit_test(test_server_dies), cmocka_unit_test(test_worker_leaves), cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_no_servers), /* last: it reads the configuration in this process */
    };
    setenv("WEIR_TIMEOUT", "5s", 1);
    skip_if_unusable();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
