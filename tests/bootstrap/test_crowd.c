/*
 * A job of a thousand ranks: all join at once, meet, gather, and hear of a failure, with as little work for each as for the
 * ranks of a job of a quarter the size. Ranks are threads, since a store cares about connections only. Work is judged by
 * the frames that the store gets and sends, which are the same in every run; the processor time of all is printed beside.
 *
 * Usage: test_bootstrap_crowd [RANKS]
 */
#include "bootstrap/boot.h"
#include "job.h"

#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { RANKS = 800, FILES_EACH = 8, STAGES = 4 };

static const char *const stages[STAGES] = {"to join", "for two barriers", "to gather", "to hear of a failure"};

struct crowd {
    int ranks, port;
    pthread_t *threads;
    pthread_barrier_t gate;
    const struct wi_boot_server *server; /* from when all have joined until they leave */
};

/* Of one rank in one stage. */
struct cost {
    double frames, cpu_us;
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

/* All have ended the stage; then all begin the next one, when the counts of this one have been read. */
static void end_stage(struct crowd *crowd)
{
    pthread_barrier_wait(&crowd->gate);
    pthread_barrier_wait(&crowd->gate);
}

static void *be_rank(void *arg)
{
    const struct member *member = arg;
    struct crowd *crowd = member->crowd;
    weir_boot_params params = job_params(member->rank, crowd->ranks, crowd->port);
    weir_boot *boot = NULL;
    pthread_barrier_wait(&crowd->gate);
    EXPECT_STATUS(WEIR_OK, weir_boot_create(&params, &boot));
    if (member->rank == 0)
        crowd->server = boot->server;
    end_stage(crowd);
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "one", NULL, 0));
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "two", NULL, 0));
    end_stage(crowd);
    gather(member, boot);
    end_stage(crowd);
    if (member->rank == crowd->ranks / 2)
        weir_boot_fail(boot, WEIR_ERR_JOB_FAILED, "a rank of the crowd has had enough");
    while (weir_boot_check(boot) == WEIR_OK) {
        struct pollfd news = {.fd = weir_boot_fd(boot), .events = POLLIN};
        EXPECT(poll(&news, 1, 30000) == 1);
    }
    end_stage(crowd);
    weir_boot_destroy(boot);
    return NULL;
}

static double frames(const struct crowd *crowd)
{
    struct wi_boot_server_counts counts = wi_boot_server_counts(crowd->server);
    return (double)(counts.received + counts.queued);
}

static void run(int ranks, struct cost cost[STAGES])
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
    double frames_before = 0.0;
    printf("%5d ranks: each", ranks);
    for (int stage = 0; stage < STAGES; stage++) {
        double start_s = cpu_s();
        pthread_barrier_wait(&crowd.gate);
        double frames_now = frames(&crowd);
        cost[stage] = (struct cost){(frames_now - frames_before) / ranks, (cpu_s() - start_s) * 1e6 / ranks};
        frames_before = frames_now;
        pthread_barrier_wait(&crowd.gate);
        printf(" %5.2f frames (%6.1f us) %s%s", cost[stage].frames, cost[stage].cpu_us, stages[stage],
               stage + 1 < STAGES ? "," : "\n");
    }
    for (int rank = 0; rank < ranks; rank++)
        pthread_join(crowd.threads[rank], NULL);
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
    struct cost few[STAGES], many[STAGES];
    bool good = true;
    run(ranks / 4, few);
    run(ranks, many);
    for (int stage = 0; stage < STAGES; stage++) {
        if (many[stage].frames > few[stage].frames + 1.0) {
            printf("%s a rank of four times as many costs more frames\n", stages[stage]);
            good = false;
        }
    }
    return good ? 0 : 1;
}
