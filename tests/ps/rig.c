#include "rig.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

struct job {
    const struct scenario *scenario;
    int port;
};

char serve_sentence[1024];

weir_status serve(struct rank *rank)
{
    weir_ps_server *server;
    EXPECT_STATUS(WEIR_OK, weir_ps_server_create(rank->ctx, rank->boot, &server));
    weir_status status = weir_ps_server_run(server);
    snprintf(serve_sentence, sizeof(serve_sentence), "%s", status == WEIR_OK ? "" : weir_last_error());
    weir_ps_server_destroy(server); /* may meet errors of its own */
    return status;
}

static void run_worker(struct rank *rank, const struct scenario *scenario)
{
    EXPECT_STATUS(WEIR_OK, weir_ps_client_create(rank->ctx, rank->boot, &rank->client));
    scenario->worker(rank);
    weir_ps_client_destroy(rank->client);
}

static void run_rank(int world_rank, void *arg)
{
    const struct job *job = arg;
    const struct scenario *scenario = job->scenario;
    weir_boot_params params = job_params(world_rank, scenario->workers + scenario->servers, job->port);
    params.servers = scenario->servers;
    struct rank rank = {.workers = scenario->workers, .servers = scenario->servers};
    EXPECT_STATUS(WEIR_OK, weir_boot_create(&params, &rank.boot));
    weir_ctx_params ctx_params = {.size = sizeof(ctx_params),
                                  .id = (uint64_t)world_rank,
                                  .flags = scenario->ctx_flags,
                                  .bind_address = weir_boot_local_address(rank.boot),
                                  .exchange = weir_boot_exchange(rank.boot)};
    EXPECT_STATUS(WEIR_OK, weir_ctx_create(&ctx_params, &rank.ctx));
    bool server = weir_boot_role(rank.boot) == WEIR_ROLE_SERVER;
    rank.index = server ? world_rank - scenario->workers : world_rank;
    if (!server)
        run_worker(&rank, scenario);
    else if (scenario->server)
        scenario->server(&rank);
    else
        EXPECT_STATUS(WEIR_OK, serve(&rank));
    weir_ctx_destroy(rank.ctx);
    weir_boot_destroy(rank.boot);
}

bool scenario_run(const struct scenario *scenario)
{
    pid_t pids[16];
    struct job job = {scenario, job_port()};
    int world = scenario->workers + scenario->servers;
    bool good = true;
    for (int rank = 0; rank < world; rank++)
        pids[rank] = job_start(rank, run_rank, &job);
    for (int rank = 0; rank < world; rank++) {
        int status = job_wait(pids[rank]), expected = rank == scenario->killed ? 128 + SIGKILL : 0;
        if (status != expected)
            fprintf(stderr, "rank %d of %d workers and %d servers ended with status %d, not %d\n", rank,
                    scenario->workers, scenario->servers, status, expected);
        good = good && status == expected;
    }
    return good;
}

/* In a process of its own, so that this one has read no configuration yet and can set it for its children. */
void skip_if_unusable(void)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        weir_ctx *ctx;
        weir_boot *boot;
        weir_boot_params params = job_params(0, 1, -1);
        EXPECT_STATUS(WEIR_OK, weir_boot_create(&params, &boot));
        weir_ctx_params ctx_params = {.size = sizeof(ctx_params), .exchange = weir_boot_exchange(boot)};
        if (weir_ctx_create(&ctx_params, &ctx) == WEIR_OK) {
            weir_ctx_destroy(ctx);
            weir_boot_destroy(boot);
            _exit(0);
        }
        printf("skipped: %s\n", weir_last_error());
        fflush(stdout);
        _exit(77);
    }
    int status;
    waitpid(pid, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}
