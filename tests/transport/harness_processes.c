/* Ranks as forked processes, on the machine's own time. */
#include "harness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { WATCHDOG_S = 60, SKIPPED = 77 };

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void sleep_us(unsigned us)
{
    struct timespec pause = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&pause, NULL);
}

void give_way(void)
{
    sched_yield();
}

/* Few rounds mean a slow machine: the watchdog has more patience there. */
static unsigned watchdog_s(void)
{
    return rounds(100, 1) < 50 ? 2 * WATCHDOG_S : WATCHDOG_S;
}

const char *transport_name(void)
{
    const char *name = getenv("WEIR_TRANSPORT");
    return name ? name : "shm";
}

bool transport_is_missing(void)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        char why[512];
        if (weir_transport_probe(transport_name(), why, sizeof(why)) == WEIR_OK)
            _exit(0);
        printf("skipped: %s\n", why);
        fflush(stdout);
        _exit(SKIPPED);
    }
    int status;
    waitpid(pid, &status, 0);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void check_failed(const struct rank *r, const char *file, int line, const char *what, weir_status status)
{
    fprintf(stderr, "%s:%d: rank %d: %s: %s; last error: %s\n", file, line, r->rank, what,
            status == WEIR_OK ? "failed" : weir_status_string(status), weir_last_error());
    _exit(1);
}

/* What one rank, as process or as thread, is started with. */
struct start {
    const struct job *job;
    struct rank rank;
};

static void *thread_main(void *arg)
{
    struct start *start = arg;
    start->job->body(&start->rank);
    return NULL;
}

static void run_threads(const struct job *job, struct bulletin *board)
{
    struct start start[RANKS_MAX];
    pthread_t thread[RANKS_MAX];
    for (int i = 0; i < job->count; i++) {
        start[i] = (struct start){job, {.rank = i, .count = job->count, .board = board}};
        board->pid[i] = getpid();
        if (pthread_create(&thread[i], NULL, thread_main, &start[i]) != 0)
            _exit(1);
    }
    for (int i = 0; i < job->count; i++)
        pthread_join(thread[i], NULL);
}

static void run_rank(const struct job *job, struct bulletin *board, int rank)
{
    struct rank r = {.rank = rank, .count = job->count, .board = board};
    static const int caught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    for (size_t i = 0; i < sizeof(caught) / sizeof(caught[0]); i++)
        signal(caught[i], SIG_DFL); /* cmocka's handlers would go on with the next test, in the rank */
    alarm(watchdog_s());
    setenv("WEIR_TIMEOUT", job->timeout ? job->timeout : "30s", 1);
    if (job->spin)
        setenv("WEIR_SPIN", job->spin, 1);
    board->pid[rank] = getpid();
    if (job->threads)
        run_threads(job, board);
    else
        job->body(&r);
    exit(0); /* not _exit: the leak checker has its say */
}

static bool ended_well(const struct job *job, int rank, int status)
{
    if (job->killed >> rank & 1u)
        return true;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        print_error("rank %d: hung; ended by the watchdog\n", rank);
    else if (WIFSIGNALED(status))
        print_error("rank %d: killed by signal %d\n", rank, WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        print_error("rank %d: exit status %d\n", rank, WEXITSTATUS(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int rank_of_pid(const pid_t *pid, int count, pid_t wanted)
{
    int rank = 0;
    while (rank < count && pid[rank] != wanted)
        rank++;
    return rank;
}

/* Waits for all; the first one that fails takes the others with it, so that the test ends at once. */
static bool reap(const struct job *job, pid_t *pid, int count)
{
    bool good = true;
    for (int left = count; left > 0; left--) {
        int status;
        pid_t ended = waitpid(-1, &status, 0);
        int rank = rank_of_pid(pid, count, ended);
        if (rank == count)
            break;
        pid[rank] = -1;
        if (!good || ended_well(job, rank, status))
            continue;
        good = false;
        for (int i = 0; i < count; i++)
            if (pid[i] > 0)
                kill(pid[i], SIGKILL);
    }
    return good;
}

void job_run(const struct job *job)
{
    pid_t pid[RANKS_MAX];
    int count = job->threads ? 1 : job->count;
    struct bulletin *board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(board != MAP_FAILED);
    fflush(NULL);
    for (int i = 0; i < count; i++) {
        pid[i] = fork();
        if (pid[i] == 0)
            run_rank(job, board, i);
        assert_true(pid[i] > 0);
    }
    bool good = reap(job, pid, count);
    munmap(board, sizeof(*board));
    assert_true(good);
}

void rank_die(struct rank *r)
{
    (void)r;
    raise(SIGKILL);
    for (;;)
        pause();
}

void rank_stop(struct rank *r)
{
    (void)r;
    raise(SIGSTOP);
    exit(0);
}

void rank_kill(struct rank *r, int peer)
{
    kill(r->board->pid[peer], SIGKILL);
}

void rank_await_death(struct rank *r, int peer)
{
    while (kill(r->board->pid[peer], 0) == 0 || errno != ESRCH)
        sleep_us(1000);
}

struct helper {
    pthread_t id;
    void (*main)(void *arg);
    void *arg;
};

static void *helper_main(void *arg)
{
    struct helper *helper = arg;
    helper->main(helper->arg);
    return NULL;
}

void rank_threads(struct rank *r, int count, void (*main)(void *arg), void **args)
{
    struct helper helper[HELPERS_MAX];
    CHECK(count <= HELPERS_MAX);
    for (int i = 0; i < count; i++) {
        helper[i] = (struct helper){.main = main, .arg = args[i]};
        CHECK(pthread_create(&helper[i].id, NULL, helper_main, &helper[i]) == 0);
    }
    for (int i = 0; i < count; i++)
        CHECK(pthread_join(helper[i].id, NULL) == 0);
}

void publish_ports(struct rank *r, int first, int room)
{
    int count = 0;
    for (int fd = 0; fd < 1024 && count < room; fd++) {
        struct sockaddr_storage address;
        socklen_t len = sizeof(address), size = sizeof(int);
        int listens = 0;
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens &&
            getsockname(fd, (struct sockaddr *)&address, &len) == 0 && address.ss_family != AF_UNIX)
            r->board->number[r->rank][first + count++] = ntohs(((struct sockaddr_in *)(void *)&address)->sin_port);
    }
    CHECK(count > 0);
}
