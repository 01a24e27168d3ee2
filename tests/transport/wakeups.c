/*
 * No wake-up is lost: two ranks bounce signals, messages and completions, and stall at random in between, so that both
 * go to sleep again and again in all phases of what the other one does. A sleep's bound is raised to 20 s here, far
 * beyond any stall: a lost wake-up is a wait as long as that, and fails the test.
 *
 *   wakeups [--rounds N] [--threads N] [--seed N]      WEIR_TRANSPORT, WEIR_INTRANODE: what is tested (default shm)
 *
 * With threads (2 to 4 a rank, in one context) a phase is either everybody's, or one thread's alone while the others
 * sleep until its end: then nobody else's traffic can hide that it was not woken. Exit status 77: the transport cannot
 * be used.
 */
#include "harness.h"
#include "transport/context.h"

#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    THREADS_MAX = 4,
    PHASE_ROUNDS = 64,
    BOUND_MS = 20000, /* of a sleep */
    LATE_MS = 15000,  /* a wait as long as this was not woken */
    WATCHDOG_S = 120, /* of a phase */
    BUCKETS = 4096,   /* of a quarter of a microsecond */
    WORDS = 64,       /* between what two threads write: no shared cache line */
};

/* Numbers of a rank on the bulletin, one a thread. */
enum { BOUNCE_SIGNAL = 0, PHASE_SIGNAL = THREADS_MAX, POSTED_AT = 2 * THREADS_MAX };

enum kind { SIGNAL, MESSAGE, COMPLETION, FLUSH, KINDS };

static struct {
    uint64_t rounds;
    int threads;
    unsigned seed;
} options = {.rounds = 200000, .threads = 1, .seed = 1};

/* What the threads of a rank share. */
struct team {
    struct rank *r;
    int idle_fd; /* never readable: watched now and then, which changes what the context sleeps on */
    struct area pooled, ordinary;
    weir_rkey *put_key, *add_key;
    uint64_t put_addr, add_addr;
};

/* One thread of a rank: it plays with the thread of the same number of the other rank. */
struct player {
    struct team *team;
    int number;
    unsigned stalls; /* state of the generator of its stalls */
    uint64_t bounces, phases, adds;
    uint64_t slept, longest_ns;
    uint32_t woken_after[BUCKETS]; /* how long after the signal was posted, of waits that slept */
    pthread_t thread;
};

/* ---- Stalls and waits ---- */

/* From nothing to some hundred microseconds; most of the length of going to sleep. */
static void stall(struct player *p)
{
    unsigned draw = (unsigned)rand_r(&p->stalls) % 64;
    if (draw < 36) {
        uint64_t end = now_ns() + (unsigned)rand_r(&p->stalls) % (draw < 18 ? 8000u : 30000u);
        while (now_ns() < end)
            ;
    } else if (draw < 38) {
        sleep_us((unsigned)rand_r(&p->stalls) % 300u);
    } else if (draw < 40) {
        sched_yield();
    }
}

static uint64_t sleeps_so_far(struct player *p)
{
    wi_ctx_lock(p->team->r->ctx);
    uint64_t sleeps = p->team->r->ctx->sleeps;
    wi_ctx_unlock(p->team->r->ctx);
    return sleeps;
}

struct wait {
    uint64_t start_ns, sleeps;
};

static struct wait wait_begins(struct player *p)
{
    return (struct wait){.start_ns = now_ns(), .sleeps = sleeps_so_far(p)};
}

static void wait_ends(struct player *p, struct wait wait, const char *what)
{
    uint64_t now = now_ns(), took_ns = now - wait.start_ns;
    if (took_ns > p->longest_ns)
        p->longest_ns = took_ns;
    if (took_ns > LATE_MS * 1000000ull) {
        fprintf(stderr, "rank %d, thread %d: lost wake-up: waiting for a %s took %.1f s, in round %llu of seed %u\n",
                p->team->r->rank, p->number, what, (double)took_ns / 1e9, (unsigned long long)p->bounces, options.seed);
        _exit(1);
    }
    p->slept += sleeps_so_far(p) > wait.sleeps;
}

static void await_signal(struct player *p, int which, uint64_t count)
{
    struct rank *r = p->team->r;
    struct wait wait = wait_begins(p);
    CHECK_OK(weir_signal_wait(r->ctx, signal_of(r, r->rank, which + p->number), count, BOUND_MS));
    uint64_t now = now_ns(),
             posted = __atomic_load_n(&r->board->number[!r->rank][POSTED_AT + p->number], __ATOMIC_RELAXED);
    if (which == BOUNCE_SIGNAL && posted > wait.start_ns && sleeps_so_far(p) > wait.sleeps) {
        uint64_t bucket = (now - posted) / 250;
        p->woken_after[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    }
    wait_ends(p, wait, "signal");
}

static void await_message(struct player *p)
{
    struct rank *r = p->team->r;
    struct wait wait = wait_begins(p);
    uint64_t got = 0;
    size_t len = sizeof(got);
    weir_status status;
    weir_ctx_wait_begin(r->ctx);
    while ((status = weir_recv(r->ctx, &got, &len, NULL)) == WEIR_ERR_AGAIN &&
           now_ns() - wait.start_ns < BOUND_MS * 1000000ull)
        weir_ctx_block(r->ctx, BOUND_MS);
    CHECK_OK(status);
    CHECK(len == sizeof(got) && got == p->bounces);
    wait_ends(p, wait, "message");
}

static void await_completion(struct player *p, weir_comp *comp, const char *what)
{
    struct rank *r = p->team->r;
    struct wait wait = wait_begins(p);
    CHECK_OK(weir_wait(r->ctx, comp, BOUND_MS));
    wait_ends(p, wait, what);
}

/* ---- One round ---- */

static void post_signal(struct player *p, int rank, int which, int number)
{
    struct rank *r = p->team->r;
    __atomic_store_n(&r->board->number[r->rank][POSTED_AT + p->number], now_ns(), __ATOMIC_RELAXED);
    CHECK_OK(
        weir_put_signal(r->ep[rank], NULL, NULL, 0, 0, NULL, signal_of(r, rank, which + number), NULL));
}

static uint64_t *word(const struct area *area, int number)
{
    return (uint64_t *)(void *)(area->ptr + (size_t)number * WORDS);
}

/* fetch_add on ordinary memory, which over shared memory the target carries out: it is to wake for that. */
static void add_and_wait(struct player *p, int peer)
{
    struct rank *r = p->team->r;
    weir_comp comp = WEIR_COMP_INIT;
    uint64_t *before = word(&p->team->pooled, THREADS_MAX + p->number);
    CHECK_OK(weir_fetch_add(r->ep[peer], 1, before, p->team->pooled.mem, p->team->add_addr + (size_t)p->number * WORDS,
                            p->team->add_key, &comp));
    await_completion(p, &comp, "fetch_add");
    CHECK(*before == p->adds);
    p->adds++;
}

static void put_and_flush(struct player *p, int peer)
{
    struct rank *r = p->team->r;
    weir_comp comp = WEIR_COMP_INIT;
    uint64_t *source = word(&p->team->pooled, 2 * THREADS_MAX + p->number);
    *source = p->bounces;
    CHECK_OK(weir_put(r->ep[peer], source, p->team->pooled.mem, sizeof(*source),
                      p->team->put_addr + (size_t)p->number * WORDS, p->team->put_key, NULL));
    CHECK_OK(weir_flush(r->ep[peer], &comp));
    await_completion(p, &comp, "flush");
}

static void send_turn(struct player *p, enum kind kind)
{
    struct rank *r = p->team->r;
    stall(p);
    if (kind == COMPLETION)
        add_and_wait(p, !r->rank);
    else if (kind == FLUSH)
        put_and_flush(p, !r->rank);
    if (kind == MESSAGE)
        CHECK_OK(weir_send(r->ep[!r->rank], &p->bounces, sizeof(p->bounces)));
    else
        post_signal(p, !r->rank, BOUNCE_SIGNAL, p->number);
}

/* `signals`: how many have come to this thread so far, this one included. */
static void receive_turn(struct player *p, enum kind kind, uint64_t signals)
{
    struct rank *r = p->team->r;
    if (kind == MESSAGE)
        await_message(p);
    else
        await_signal(p, BOUNCE_SIGNAL, signals);
    if (kind == FLUSH)
        CHECK(*word(&p->team->pooled, p->number) == p->bounces);
}

/* The messages of a context go to whoever asks first, so one thread alone exchanges them. */
static enum kind kind_of(const struct player *p, unsigned *script)
{
    enum kind kind = (enum kind)((unsigned)rand_r(script) / 7 % KINDS);
    return kind == MESSAGE && p->number != 0 ? SIGNAL : kind;
}

static void bounce(struct player *p, unsigned *script, uint64_t *signals)
{
    enum kind kind = kind_of(p, script);
    *signals += kind != MESSAGE;
    if (p->team->r->rank == 0)
        send_turn(p, kind);
    receive_turn(p, kind, *signals);
    if (p->team->r->rank == 1)
        send_turn(p, kind);
    p->bounces++;
}

/* ---- Phases ---- */

/* Changes how long this rank polls before it sleeps, and on what it sleeps. */
static void change_sleeping(struct player *p)
{
    struct weir_ctx *ctx = p->team->r->ctx;
    weir_ctx_unwatch(ctx, p->team->idle_fd);
    if (rand_r(&p->stalls) / 3 % 2)
        (void)weir_ctx_watch(ctx, p->team->idle_fd); /* refused where another thread was faster */
    wi_ctx_lock(ctx);
    ctx->spin_ns = rand_r(&p->stalls) / 5 % 4 ? 0 : (unsigned)rand_r(&p->stalls) % 20000u;
    wi_ctx_unlock(ctx);
}

/* The others sleep until the phase is over. */
static void end_solo(struct player *p)
{
    for (int rank = 0; rank < 2; rank++)
        for (int number = 0; number < options.threads; number++)
            if (number != p->number)
                post_signal(p, rank, PHASE_SIGNAL, number);
}

/* Both ranks draw the same phases and rounds from the seed; only the stalls are each thread's own. */
static void *play(void *arg)
{
    struct player *p = arg;
    unsigned phase_script = options.seed;
    uint64_t signals = 0;
    for (uint64_t left = options.rounds; left > 0;) {
        int soloist = (int)((unsigned)rand_r(&phase_script) / 3 % 2 *
                            (unsigned)(1 + rand_r(&phase_script) / 5 % options.threads)) -
                      1;
        uint64_t length = 1 + (unsigned)rand_r(&phase_script) / 3 % PHASE_ROUNDS;
        unsigned script = (unsigned)rand_r(&phase_script);
        length = length < left ? length : left;
        left -= length;
        alarm(WATCHDOG_S);
        if (soloist >= 0 && soloist != p->number) {
            await_signal(p, PHASE_SIGNAL, ++p->phases);
            continue;
        }
        change_sleeping(p);
        for (uint64_t i = 0; i < length; i++)
            bounce(p, &script, &signals);
        if (soloist >= 0 && p->team->r->rank == 0)
            end_solo(p);
    }
    return NULL;
}

/* ---- A rank ---- */

static void team_open(struct team *team, struct rank *r)
{
    *team = (struct team){.r = r, .idle_fd = eventfd(0, EFD_CLOEXEC)};
    CHECK(team->idle_fd >= 0);
    rank_open(r, options.threads > 1 ? WEIR_CTX_MULTI : 0);
    barrier(r);
    rank_connect(r, 0);
    rank_connect(r, 1);
    area_make(r, &team->pooled, 3 * THREADS_MAX * WORDS, true);
    area_make(r, &team->ordinary, THREADS_MAX * WORDS, false);
    memset(team->pooled.ptr, 0, team->pooled.len);
    memset(team->ordinary.ptr, 0, team->ordinary.len);
    publish(r, 0, team->pooled.mem, team->pooled.ptr, team->pooled.len);
    publish(r, 1, team->ordinary.mem, team->ordinary.ptr, team->ordinary.len);
    for (int i = 0; i < options.threads; i++) {
        signal_open(r, BOUNCE_SIGNAL + i);
        signal_open(r, PHASE_SIGNAL + i);
    }
    barrier(r);
    team->put_key = import(r, !r->rank, 0, &team->put_addr);
    team->add_key = import(r, !r->rank, 1, &team->add_addr);
    /* The first operations connect, which may take sleeps that nothing but time ends. */
    flush(r, r->ep[0]);
    flush(r, r->ep[1]);
    barrier(r);
    r->ctx->sleep_max_ms = BOUND_MS;
}

static void team_close(struct team *team)
{
    struct rank *r = team->r;
    barrier(r);
    weir_rkey_destroy(team->put_key);
    weir_rkey_destroy(team->add_key);
    area_free(r, &team->pooled);
    area_free(r, &team->ordinary);
    rank_close(r);
    close(team->idle_fd);
}

static double percentile_us(const uint32_t *buckets, uint64_t total, double share)
{
    uint64_t below = 0;
    for (int i = 0; i < BUCKETS; i++)
        if ((below += buckets[i]) >= (uint64_t)((double)total * share))
            return (i + 0.5) / 4;
    return 0;
}

static void report(const struct team *team, const struct player *players)
{
    static uint32_t buckets[BUCKETS];
    uint64_t total = 0, bounces = 0, slept = 0, longest_ns = 0;
    for (int i = 0; i < options.threads; i++) {
        for (int k = 0; k < BUCKETS; k++) {
            buckets[k] += players[i].woken_after[k];
            total += players[i].woken_after[k];
        }
        bounces += players[i].bounces;
        slept += players[i].slept;
        longest_ns = players[i].longest_ns > longest_ns ? players[i].longest_ns : longest_ns;
    }
    printf("rank %d: %llu round trips, %llu waits slept; longest wait %.1f ms; from signal to woken: median %.1f us, "
           "p99 %.1f us\n",
           team->r->rank, (unsigned long long)bounces, (unsigned long long)slept, (double)longest_ns / 1e6,
           percentile_us(buckets, total, 0.5), percentile_us(buckets, total, 0.99));
}

static void body(struct rank *r)
{
    static struct player players[THREADS_MAX];
    struct team team;
    uint64_t slept = 0;
    team_open(&team, r);
    for (int i = 0; i < options.threads; i++)
        players[i] = (struct player){
            .team = &team, .number = i, .stalls = options.seed * 1000u + (unsigned)(r->rank * THREADS_MAX + i)};
    for (int i = 1; i < options.threads; i++)
        CHECK(pthread_create(&players[i].thread, NULL, play, &players[i]) == 0);
    play(&players[0]);
    for (int i = 1; i < options.threads; i++)
        CHECK(pthread_join(players[i].thread, NULL) == 0);
    for (int i = 0; i < options.threads; i++)
        slept += players[i].slept;
    report(&team, players);
    CHECK(slept > options.rounds / 100); /* else this has tested polling; the faster the machine, the fewer sleep */
    team_close(&team);
}

static void test_wakeups(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = body, .spin = "0us"});
}

static bool parse(int argc, char **argv)
{
    static const struct option longs[] = {{"rounds", required_argument, NULL, 'n'},
                                          {"threads", required_argument, NULL, 't'},
                                          {"seed", required_argument, NULL, 's'},
                                          {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "n:t:s:", longs, NULL)) != -1) {
        if (option == 'n')
            options.rounds = strtoull(optarg, NULL, 10);
        else if (option == 't')
            options.threads = atoi(optarg);
        else if (option == 's')
            options.seed = (unsigned)strtoul(optarg, NULL, 10);
        else
            return false;
    }
    return optind == argc && options.rounds > 0 && options.threads > 0 && options.threads <= THREADS_MAX;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wakeups)};
    if (!parse(argc, argv)) {
        fprintf(stderr, "usage: wakeups [--rounds N] [--threads 1..%d] [--seed N]\n", THREADS_MAX);
        return 2;
    }
    setenv("WEIR_TRANSPORT", "shm", 0);
    if (!transport_is("shm"))
        setenv("WEIR_INTRANODE", "off", 0);
    if (transport_is_missing())
        return 77;
    return cmocka_run_group_tests_name(transport_name(), tests, NULL, NULL);
}
