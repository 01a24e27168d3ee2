/*
 * Ranks as fibers of a simulated world (transport/sim), on its virtual time. CONFORMANCE_SEED chooses the run: 0 (the
 * default) is a perfect network, any other number draws loss, delay, reordering and duplicates, and whether the peers
 * of a killed rank are told.
 */
#include "harness.h"
#include "transport/sim/random.h"
#include "transport/sim/world.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { WATCHDOG_S = 120 };
#define BOUND_NS 10000000000000ull /* of virtual time: nearly three hours */

/* The world of a job's process. */
static struct {
    struct wi_sim_world *world;
    const struct job *job;
    struct bulletin board;
    struct rank rank[RANKS_MAX];
    bool dead[RANKS_MAX];
    uint64_t seed;
} sim;

uint64_t now_ns(void)
{
    return wi_sim_now(sim.world);
}

void sleep_us(unsigned us)
{
    wi_sim_sleep(sim.world, (uint64_t)us * 1000);
}

void give_way(void)
{
    sleep_us(5);
}

const char *transport_name(void)
{
    return "sim";
}

bool transport_is_missing(void)
{
    return false;
}

void check_failed(const struct rank *r, const char *file, int line, const char *what, weir_status status)
{
    fprintf(stderr, "%s:%d: rank %d at %.6f s of seed %llu: %s: %s; last error: %s\n", file, line, r->rank,
            (double)now_ns() / 1e9, (unsigned long long)sim.seed, what,
            status == WEIR_OK ? "failed" : weir_status_string(status), weir_last_error());
    _exit(1);
}

/* ---- Jobs -------------------------------------------------------------------------------------------------------- */

static uint64_t seed_of_run(void)
{
    const char *text = getenv("CONFORMANCE_SEED");
    return text ? strtoull(text, NULL, 10) : 0;
}

static uint64_t timeout_ns(const char *text)
{
    return (text ? strtoull(text, NULL, 10) : 30) * 1000000000u; /* the suite counts in seconds */
}

static void draw_network(uint64_t seed, struct wi_sim_params *params)
{
    uint64_t state = seed;
    *params = (struct wi_sim_params){
        .seed = seed, .delay_min_ns = 30000, .delay_max_ns = 30000, .mtu = 4096, .window = 64, .depth = 64};
    if (seed == 0)
        return;
    params->delay_max_ns = wi_sim_between(&state, 30000, 90000);
    params->reorder_ns = wi_sim_between(&state, 1, 200000);
    params->loss_ppm = (uint32_t)wi_sim_between(&state, 0, 30000);
    params->duplicate_ppm = (uint32_t)wi_sim_between(&state, 0, 50000);
    params->reorder_ppm = (uint32_t)wi_sim_between(&state, 0, 50000);
    params->mtu = 256u << wi_sim_between(&state, 0, 4);
    params->window = (uint32_t)wi_sim_between(&state, 48, 128); /* the suite sends as many before it takes any */
    params->depth = (uint32_t)wi_sim_between(&state, 2, 64);
}

static void rank_main(void *arg)
{
    struct rank *r = arg;
    sim.job->body(r);
}

/* Runs all ranks in this process, which ends with them. */
static void run_world(const struct job *job)
{
    struct wi_sim_params params;
    alarm(WATCHDOG_S);
    setenv("WEIR_TIMEOUT", job->timeout ? job->timeout : "30s", 1);
    setenv("WEIR_SPIN", job->spin ? job->spin : "2us", 1);
    sim.job = job;
    sim.seed = seed_of_run();
    draw_network(sim.seed, &params);
    params.timeout_ns = timeout_ns(job->timeout);
    if (wi_sim_world_create(&sim.world) != WEIR_OK)
        _exit(1);
    wi_sim_begin(sim.world, &params);
    for (int i = 0; i < job->count; i++) {
        sim.rank[i] = (struct rank){.rank = i, .count = job->count, .board = &sim.board};
        if (wi_sim_spawn(sim.world, i, rank_main, &sim.rank[i]) != WEIR_OK)
            _exit(1);
    }
    if (!wi_sim_run(sim.world, BOUND_NS)) {
        fprintf(stderr, "seed %llu: hung at %.6f s of virtual time\n", (unsigned long long)sim.seed,
                (double)now_ns() / 1e9);
        _exit(1);
    }
    fflush(NULL);
    if (job->killed)
        _exit(0); /* who was killed gave nothing back */
    exit(0);      /* the leak checker has its say */
}

void job_run(const struct job *job)
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        run_world(job);
    assert_true(pid > 0);
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status))
        print_error("the world was ended by signal %d%s\n", WTERMSIG(status),
                    WTERMSIG(status) == SIGALRM ? ": it hung" : "");
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- Death and threads ------------------------------------------------------------------------------------------- */

void rank_kill(struct rank *r, int peer)
{
    (void)r;
    sim.dead[peer] = true;
    wi_sim_kill(sim.world, peer, sim.seed % 2 == 0);
}

void rank_die(struct rank *r)
{
    rank_kill(r, r->rank);
    wi_sim_park(sim.world);
}

void rank_stop(struct rank *r)
{
    (void)r;
    wi_sim_park(sim.world); /* its network card works on */
}

void rank_await_death(struct rank *r, int peer)
{
    (void)r;
    while (!sim.dead[peer])
        give_way();
}

struct helper {
    void (*main)(void *arg);
    void *arg;
    int *left;
};

static void helper_main(void *arg)
{
    struct helper *helper = arg;
    helper->main(helper->arg);
    --*helper->left;
}

void rank_threads(struct rank *r, int count, void (*main)(void *arg), void **args)
{
    struct helper helper[HELPERS_MAX];
    int left = count;
    CHECK(count <= HELPERS_MAX);
    for (int i = 0; i < count; i++) {
        helper[i] = (struct helper){main, args[i], &left};
        CHECK_OK(wi_sim_spawn(sim.world, r->rank, helper_main, &helper[i]));
    }
    while (left > 0)
        give_way();
}
