#include "job.h"

#include <arpa/inet.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

/* A port of the loopback address that nobody has now, below those that the system gives to connections. */
static int free_port(void)
{
    static unsigned tried;
    for (;;) {
        unsigned port = 10000 + ((unsigned)getpid() * 61 + tried++ * 7) % 22000;
        struct sockaddr_in address = {
            .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int taken = bind(fd, (struct sockaddr *)&address, sizeof(address));
        close(fd);
        if (!taken)
            return (int)port;
    }
}

static void set_number(const char *name, int value)
{
    char text[16];
    snprintf(text, sizeof(text), "%d", value);
    setenv(name, text, 1);
}

static void rank_main(struct job *job, job_case *run, int port)
{
    alarm(300);
    set_number("WEIR_RANK", job->rank);
    set_number("WEIR_WORLD_SIZE", job->ranks);
    set_number("WEIR_MASTER_PORT", port);
    setenv("WEIR_MASTER_ADDR", "127.0.0.1", 0);
    CHECK_OK(weir_boot_create(NULL, &job->boot));
    const weir_ctx_params params = {.size = sizeof(params),
                                    .id = (uint64_t)job->rank,
                                    .bind_address = weir_boot_local_address(job->boot),
                                    .exchange = weir_boot_exchange(job->boot)};
    CHECK_OK(weir_ctx_create(&params, &job->ctx));
    CHECK_OK(weir_pool_create(job->ctx, 0, &job->pool));
    CHECK_OK(weir_comm_create(job->ctx, job->boot, NULL, &job->comm));
    run(job);
    weir_comm_destroy(job->comm);
    weir_pool_destroy(job->pool);
    weir_ctx_destroy(job->ctx);
    weir_boot_destroy(job->boot);
    exit(0);
}

static bool content(int status)
{
    return (WIFEXITED(status) && WEXITSTATUS(status) == 0) || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Waits for all children; those that are late are killed. */
static bool wait_all(const char *name, pid_t *pid, int ranks, unsigned limit_s)
{
    time_t end = time(NULL) + limit_s;
    bool good = true;
    for (int left = ranks; left > 0;) {
        for (int i = 0; i < ranks; i++) {
            int status;
            if (pid[i] == 0 || waitpid(pid[i], &status, WNOHANG) != pid[i])
                continue;
            if (!content(status))
                fprintf(stderr, "%s: rank %d ended with status %#x\n", name, i, (unsigned)status);
            good &= content(status);
            pid[i] = 0;
            left--;
        }
        if (time(NULL) > end) {
            for (int i = 0; i < ranks; i++)
                if (pid[i]) {
                    fprintf(stderr, "%s: rank %d still runs after %u s\n", name, i, limit_s);
                    kill(pid[i], SIGABRT);
                    waitpid(pid[i], NULL, 0);
                }
            return false;
        }
        usleep(2000);
    }
    return good;
}

bool job_run(const char *name, job_case *run, int ranks, unsigned limit_s)
{
    struct job_shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid[JOB_RANKS_MAX] = {0};
    struct timespec begin, end;
    int port = free_port();
    if (shared == MAP_FAILED || ranks > JOB_RANKS_MAX)
        return false;
    fflush(NULL);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < ranks; i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            struct job job = {.rank = i, .ranks = ranks, .shared = shared};
            rank_main(&job, run, port);
        }
    }
    bool good = wait_all(name, pid, ranks, limit_s);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%-16s %2d ranks: %s, %.2f s\n", name, ranks, good ? "ok" : "FAILED",
           (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) * 1e-9);
    munmap(shared, sizeof(*shared));
    return good;
}
