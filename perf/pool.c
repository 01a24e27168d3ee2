/*
 * What it takes to allocate and free: the pool beside malloc, in alternation in one run, with one thread and with
 * several. A context for one thread and one for several have pools of their own kind, so both are measured.
 */
#include "perf.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS_MAX = 64, ROUNDS = 15, BATCH = 16 };

struct worker {
    pthread_t thread;
    pthread_barrier_t *start;
    weir_pool *pool; /* NULL: malloc */
    size_t size, pairs;
    double seconds;
    weir_status status;
};

/* Keeps the compiler from leaving out what nobody uses. */
static inline void use(void *ptr)
{
    __asm__ __volatile__("" : : "r"(ptr) : "memory");
}

static weir_status pairs_of_pool(const struct worker *worker)
{
    weir_status status = WEIR_OK;
    for (size_t i = 0; i < worker->pairs && status == WEIR_OK; i++) {
        void *ptr = NULL;
        status = weir_pool_alloc(worker->pool, worker->size, &ptr, NULL);
        use(ptr);
        weir_pool_free(worker->pool, ptr);
    }
    return status;
}

static weir_status pairs_of_malloc(const struct worker *worker)
{
    for (size_t i = 0; i < worker->pairs; i++) {
        void *ptr = malloc(worker->size);
        use(ptr);
        free(ptr);
    }
    return WEIR_OK;
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    pthread_barrier_wait(worker->start);
    double start = now_s();
    worker->status = worker->pool ? pairs_of_pool(worker) : pairs_of_malloc(worker);
    worker->seconds = now_s() - start;
    return NULL;
}

/* Nanoseconds of one alloc and free, when `threads` do it at once. */
static weir_status measure(weir_pool *pool, size_t size, size_t pairs, int threads, double *ns)
{
    struct worker workers[THREADS_MAX];
    pthread_barrier_t start;
    int started = 0;
    double seconds = 0.0;
    weir_status status = WEIR_OK;
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    for (; started < threads; started++) {
        workers[started] = (struct worker){.start = &start, .pool = pool, .size = size, .pairs = pairs};
        if (started + 1 == threads)
            work(&workers[started]); /* this thread takes part */
        else if (pthread_create(&workers[started].thread, NULL, work, &workers[started]) != 0)
            return WEIR_ERR_LIMIT; /* those that wait for it are left behind: the program ends */
    }
    for (int i = 0; i < started; i++) {
        if (i + 1 < threads)
            pthread_join(workers[i].thread, NULL);
        seconds += workers[i].seconds / threads;
        status = status == WEIR_OK ? workers[i].status : status;
    }
    pthread_barrier_destroy(&start);
    *ns = seconds / (double)pairs * 1e9;
    return status;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Pool and malloc take turns; prints the medians. */
static weir_status one_row(const struct process *process, weir_pool *pool, const char *kind, size_t size, int threads)
{
    double ours[ROUNDS], theirs[ROUNDS];
    size_t pairs = process->options->iterations ? process->options->iterations : 1000000;
    weir_status status = WEIR_OK;
    for (int i = 0; i < ROUNDS && status == WEIR_OK; i++) {
        status = measure(pool, size, pairs / ROUNDS + 1, threads, &ours[i]);
        if (status == WEIR_OK)
            status = measure(NULL, size, pairs / ROUNDS + 1, threads, &theirs[i]);
    }
    if (status != WEIR_OK)
        return status;
    qsort(ours, ROUNDS, sizeof(*ours), compare);
    qsort(theirs, ROUNDS, sizeof(*theirs), compare);
    double pool_ns = ours[ROUNDS / 2], malloc_ns = theirs[ROUNDS / 2];
    if (process->options->json)
        printf("{\"context\": \"%s\", \"threads\": %d, \"size\": %zu, \"pool_ns\": %.2f, \"malloc_ns\": %.2f, "
               "\"ratio\": %.3f}\n",
               kind, threads, size, pool_ns, malloc_ns, malloc_ns / pool_ns);
    else
        printf("%-8s %8d %10zu %12.1f %12.1f %8.2f\n", kind, threads, size, pool_ns, malloc_ns, malloc_ns / pool_ns);
    fflush(stdout);
    return WEIR_OK;
}

static weir_status measure_context(const struct process *process, unsigned flags, int threads_max)
{
    const struct options *options = process->options;
    weir_ctx_params params = {.size = sizeof(params), .flags = flags};
    weir_ctx *ctx = NULL;
    weir_pool *pool = NULL;
    weir_status status = weir_ctx_create(&params, &ctx);
    if (status == WEIR_OK)
        status = weir_pool_create(ctx, 0, &pool);
    for (int threads = 1; threads <= threads_max && status == WEIR_OK; threads *= 2)
        for (int i = 0; i < options->size_count && status == WEIR_OK; i++)
            status = one_row(process, pool, flags ? "multi" : "single", options->sizes[i], threads);
    weir_pool_destroy(pool);
    weir_ctx_destroy(ctx);
    return status;
}

weir_status run_pool(struct process *process)
{
    int threads = process->options->threads ? process->options->threads : 2;
    if (process->rank != 0)
        return WEIR_OK;
    if (!process->options->json)
        printf("%-8s %8s %10s %12s %12s %8s\n", "context", "threads", "bytes", "pool ns", "malloc ns", "ratio");
    weir_status status = measure_context(process, 0, 1);
    return status == WEIR_OK ? measure_context(process, WEIR_CTX_MULTI, threads) : status;
}
