/*
 * A job of a thousand ranks: all join at once, meet, gather, and hear of a failure, in little more time each than the
 * ranks of a job of a quarter the size. Ranks are threads, since a store cares about connections only; work is counted as
 * the processor time of all of them and of the store together.
 *
 * Usage: test_bootstrap_crowd [RANKS]
 */
#include "job.h"

#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { RANKS = 800, FILES_EACH = 8, ATTEMPTS = 3, STAGES = 4 };

struct crowd {
    int ranks, port;
    pthread_t *threads;
    pthread_barrier_t gate;
    int failed_seen;
};

struct member {
    struct crowd *crowd;
    int rank;
};

static double cpu_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Few bytes each: their number at each rank grows with the ranks, whatever is done. */
static void gather(const struct member *member, weir_boot *boot)
{
    struct {
        int rank;
        char bytes[12];
    } mine = {.rank = member->rank}, *all = malloc((size_t)member->crowd->ranks * sizeof(*all));
    EXPECT(all);
    EXPECT_STATUS(WEIR_OK, weir_boot_allgather(boot, "all", NULL, 0, &mine, sizeof(mine), all));
    for (int i = 0; i < member->crowd->ranks; i++)
        EXPECT(all[i].rank == i);
    free(all);
}

static void *be_rank(void *arg)
{
    const struct member *member = arg;
    struct crowd *crowd = member->crowd;
    weir_boot_params params = job_params(member->rank, crowd->ranks, crowd->port);
    weir_boot *boot = NULL;
    pthread_barrier_wait(&crowd->gate);
    EXPECT_STATUS(WEIR_OK, weir_boot_create(&params, &boot));
    pthread_barrier_wait(&crowd->gate);
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "one", NULL, 0));
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "two", NULL, 0));
    pthread_barrier_wait(&crowd->gate);
    gather(member, boot);
    pthread_barrier_wait(&crowd->gate);
    if (member->rank == crowd->ranks / 2)
        weir_boot_fail(boot, WEIR_ERR_JOB_FAILED, "a rank of the crowd has had enough");
    while (weir_boot_check(boot) == WEIR_OK) {
        struct pollfd news = {.fd = weir_boot_fd(boot), .events = POLLIN};
        EXPECT(poll(&news, 1, 30000) == 1);
    }
    pthread_barrier_wait(&crowd->gate);
    weir_boot_destroy(boot);
    return NULL;
}

/* Processor time of a rank in us: to join, to meet, to gather, to hear of a failure and leave. */
static void run(int ranks, double cost_us[STAGES])
{
    struct crowd crowd = {.ranks = ranks, .port = job_port()};
    struct member *members = calloc((size_t)ranks, sizeof(*members));
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 256 << 10);
    crowd.threads = calloc((size_t)ranks, sizeof(*crowd.threads));
    EXPECT(members && crowd.threads);
    pthread_barrier_init(&crowd.gate, NULL, (unsigned)ranks + 1);
    for (int rank = 0; rank < ranks; rank++) {
        members[rank] = (struct member){&crowd, rank};
        EXPECT(pthread_create(&crowd.threads[rank], &attr, be_rank, &members[rank]) == 0);
    }
    pthread_barrier_wait(&crowd.gate);
    for (int stage = 0; stage < STAGES; stage++) {
        double start_s = cpu_s();
        pthread_barrier_wait(&crowd.gate);
        cost_us[stage] = (cpu_s() - start_s) * 1e6 / ranks;
    }
    for (int rank = 0; rank < ranks; rank++)
        pthread_join(crowd.threads[rank], NULL);
    printf("%5d ranks: each %7.1f us to join, %7.1f us for two barriers, %7.1f us to gather, %7.1f us to hear of a "
           "failure\n",
           ranks, cost_us[0], cost_us[1], cost_us[2], cost_us[3]);
    free(members);
    free(crowd.threads);
}

int main(int argc, char **argv)
{
    int ranks = argc > 1 ? atoi(argv[1]) : RANKS;
    struct rlimit limit;
    EXPECT(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    EXPECT(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur < (rlim_t)ranks * FILES_EACH + 100) {
        printf("skipped: %d ranks need %d descriptors, the limit is %llu\n", ranks, ranks * FILES_EACH + 100,
               (unsigned long long)limit.rlim_cur);
        return 77;
    }
    setenv("WEIR_LOG", "error", 1);
    setenv("WEIR_TIMEOUT", "60s", 1);
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        double few[STAGES], many[STAGES];
        bool good = true;
        run(ranks / 4, few);
        run(ranks, many);
        for (int stage = 0; stage < STAGES; stage++)
            good = good && many[stage] <= 2 * few[stage] + 150;
        if (good)
            return 0;
    }
    printf("four times the ranks cost more than twice as much each\n");
    return 1;
}
