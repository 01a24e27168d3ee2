#include "harness.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

static double scale(void)
{
    const char *text = getenv("CONFORMANCE_SCALE");
    double value = text ? strtod(text, NULL) : 1.0;
    return value > 0 ? value : 1.0;
}

int rounds(int usual, int least)
{
    int n = (int)(usual * scale());
    return n < least ? least : n;
}

/* Few rounds mean a slow machine: the watchdog has more patience there. */
static unsigned watchdog_s(void)
{
    return scale() < 0.5 ? 2 * WATCHDOG_S : WATCHDOG_S;
}

const char *transport_name(void)
{
    const char *name = getenv("WEIR_TRANSPORT");
    return name ? name : "shm";
}

bool transport_is(const char *name)
{
    return strcmp(transport_name(), name) == 0;
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

void barrier_with(struct rank *r, unsigned mask)
{
    uint32_t turn = ++r->barriers;
    __atomic_store_n(&r->board->arrived[r->rank], turn, __ATOMIC_SEQ_CST);
    for (int i = 0; i < r->count; i++) {
        if (!(mask >> i & 1u))
            continue;
        while (__atomic_load_n(&r->board->arrived[i], __ATOMIC_SEQ_CST) < turn) {
            if (r->ctx)
                weir_progress(r->ctx);
            sched_yield();
        }
    }
}

void barrier(struct rank *r)
{
    barrier_with(r, ~0u);
}

void rank_open(struct rank *r, unsigned flags)
{
    weir_ctx_params params = {
        .size = sizeof(params), .id = (uint64_t)r->rank, .flags = flags, .transport = transport_name(), .signals = 64};
    size_t len = WEIR_ADDRESS_MAX;
    CHECK_OK(weir_ctx_create(&params, &r->ctx));
    CHECK_OK(weir_pool_create(r->ctx, 0, &r->pool));
    CHECK_OK(weir_ctx_address(r->ctx, r->board->address[r->rank], &len));
    r->board->address_len[r->rank] = (uint32_t)len;
}

void rank_connect(struct rank *r, int peer)
{
    CHECK_OK(weir_ep_create(r->ctx, r->board->address[peer], r->board->address_len[peer], &r->ep[peer]));
    CHECK_OK(weir_ep_wait_ready(r->ep[peer], -1));
}

void rank_open_all(struct rank *r)
{
    rank_open(r, 0);
    barrier(r);
    for (int i = 0; i < r->count; i++)
        rank_connect(r, (r->rank + i) % r->count);
    barrier(r);
}

void rank_close(struct rank *r)
{
    barrier(r);
    for (int i = 0; i < r->count; i++)
        weir_ep_close(r->ep[i]);
    barrier(r);
    weir_pool_destroy(r->pool);
    weir_ctx_destroy(r->ctx);
}

void publish(struct rank *r, int slot, weir_mem *mem, void *ptr, size_t len)
{
    size_t blob_len = WEIR_RKEY_MAX;
    CHECK_OK(weir_mem_export(mem, ptr, len, r->board->key[r->rank][slot], &blob_len));
    r->board->key_len[r->rank][slot] = (uint32_t)blob_len;
}

weir_rkey *import(struct rank *r, int peer, int slot, uint64_t *addr)
{
    weir_rkey *rkey = NULL;
    CHECK_OK(weir_rkey_import(r->ep[peer], r->board->key[peer][slot], r->board->key_len[peer][slot], &rkey));
    weir_rkey_range(rkey, addr, NULL);
    return rkey;
}

/* CRC-32, in the last four bytes. */
void mend_checksum(uint8_t *blob, size_t len)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i + 4 < len; i++) {
        crc ^= blob[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    crc = ~crc;
    for (int i = 0; i < 4; i++)
        blob[len - 4 + (size_t)i] = (uint8_t)(crc >> (8 * i));
}

void flush(struct rank *r, weir_ep *ep)
{
    weir_comp comp = WEIR_COMP_INIT;
    CHECK_OK(weir_flush(ep, &comp));
    CHECK_OK(weir_wait(r->ctx, &comp, -1));
}

weir_comp *comp_new(struct rank *r)
{
    static weir_comp comps[4096];
    static unsigned next;
    weir_comp *comp = &comps[next++ % (sizeof(comps) / sizeof(comps[0]))];
    CHECK(comp->pending == 0); /* else there are too few */
    *comp = (weir_comp)WEIR_COMP_INIT;
    return comp;
}

void area_make(struct rank *r, struct area *area, size_t len, bool pooled)
{
    *area = (struct area){.len = len, .pooled = pooled};
    if (pooled) {
        void *ptr;
        CHECK_OK(weir_pool_alloc(r->pool, len, &ptr, &area->mem));
        area->ptr = ptr;
    } else {
        area->ptr = aligned_alloc(64, (len + 63) / 64 * 64);
        CHECK(area->ptr);
        CHECK_OK(weir_mem_register(r->ctx, area->ptr, len, &area->mem));
    }
}

void area_free(struct rank *r, struct area *area)
{
    if (area->pooled) {
        weir_pool_free(r->pool, area->ptr);
        return;
    }
    weir_mem_deregister(area->mem);
    free(area->ptr);
}

void pattern_fill(unsigned char *ptr, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        ptr[i] = pattern(seed, i);
}

size_t pattern_differs(const unsigned char *ptr, size_t len, unsigned seed)
{
    size_t i = 0;
    while (i < len && ptr[i] == pattern(seed, i))
        i++;
    return i;
}

size_t bytes_differ(const unsigned char *ptr, size_t len, unsigned char value)
{
    size_t i = 0;
    while (i < len && ptr[i] == value)
        i++;
    return i;
}
