/*
 * Bandwidth from the first half of the ranks to their partners, with a window of operations in flight: while one half
 * window is waited for the other one is on its way.
 */
#include "perf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef weir_status post_fn(struct pair *pair, size_t size, weir_comp *comp);

static weir_status post_put(struct pair *pair, size_t size, weir_comp *comp)
{
    return weir_put(pair->ep, pair->source, pair->mem, size, pair->remote, pair->rkey, comp);
}

static weir_status post_get(struct pair *pair, size_t size, weir_comp *comp)
{
    return weir_get(pair->ep, pair->source, pair->mem, size, pair->remote, pair->rkey, comp);
}

/* Posts half a window; only its last operation is waited for, as operations of one endpoint end in order or flush. */
static weir_status post_half(struct pair *pair, post_fn *post, size_t size, size_t half, weir_comp *comp)
{
    weir_status status = WEIR_OK;
    for (size_t i = 0; i < half && status == WEIR_OK; i++)
        status = post(pair, size, post == post_get || i + 1 == half ? comp : NULL);
    return status;
}

/*
 * Moves `count` half windows and then flushes; `*elapsed_s` is all of it. Sample i is the time between the ends of half
 * windows i and i + 1, while further ones are on their way: there are count - 1 of them, the last counts for nothing.
 */
static weir_status pump(struct pair *pair, struct process *process, post_fn *post, size_t size, size_t half,
                        size_t count, double *samples, double *elapsed_s)
{
    weir_comp comp[2] = {WEIR_COMP_INIT, WEIR_COMP_INIT}, flushed = WEIR_COMP_INIT;
    double start = now_s(), last = start;
    weir_status status = post_half(pair, post, size, half, &comp[0]);
    for (size_t i = 0; i < count && status == WEIR_OK; i++) {
        if (i + 1 < count)
            status = post_half(pair, post, size, half, &comp[(i + 1) % 2]);
        if (status == WEIR_OK)
            status = weir_wait(process->ctx, &comp[i % 2], -1);
        double now = now_s();
        samples[i] = now - last;
        last = now;
    }
    if (status == WEIR_OK)
        status = weir_flush(pair->ep, &flushed);
    if (status == WEIR_OK)
        status = weir_wait(process->ctx, &flushed, -1);
    *elapsed_s = now_s() - start;
    return status;
}

/* Compares what arrived, at the side that received it. */
static weir_status check_size(struct pair *pair, struct process *process, post_fn *post, size_t size)
{
    double sample, elapsed_s;
    bool sender = post == post_put ? pair->first : !pair->first;
    unsigned char *theirs = post == post_put ? pair->source : pair->buffer;
    const unsigned char *ours = post == post_put ? pair->buffer : pair->source;
    for (size_t i = 0; sender && i < size; i++)
        theirs[i] = (unsigned char)(i * 31 + size * 7 + 1);
    weir_status status = pair_meet(pair, process);
    if (status == WEIR_OK && pair->first)
        status = pump(pair, process, post, size, 1, 1, &sample, &elapsed_s);
    if (status == WEIR_OK)
        status = pair_meet(pair, process);
    for (size_t i = 0; status == WEIR_OK && !sender && i < size; i++)
        if (ours[i] != (unsigned char)(i * 31 + size * 7 + 1))
            return check_failed(process, size, i);
    return status;
}

static weir_status measure(struct pair *pair, struct process *process, post_fn *post, size_t size)
{
    size_t half = process->options->window / 2 ? process->options->window / 2 : 1;
    size_t count = iterations_for(process->options, size) / half + 3, warmup = count / 10 + 2;
    double elapsed_s, *samples = calloc(count, sizeof(double));
    if (!samples)
        return WEIR_ERR_NO_MEMORY;
    weir_status status = pump(pair, process, post, size, half, warmup, samples, &elapsed_s);
    if (status == WEIR_OK)
        status = pump(pair, process, post, size, half, count, samples, &elapsed_s);
    if (status == WEIR_OK && process->rank == 0) {
        struct result result;
        result_from_samples(samples, count - 1, half, size, &result);
        result.iterations = count * half;
        result.gb_s = (double)(size * count * half) / elapsed_s / 1e9;
        report_result(process, &result);
    }
    free(samples);
    return status;
}

/* The passive side makes progress until the active one is done: emulated transports need it. */
static weir_status serve(struct pair *pair, struct process *process, uint64_t done)
{
    return weir_signal_wait(process->ctx, pair->signal, done, 10 * 60 * 1000);
}

static weir_status run_bandwidth(struct process *process, post_fn *post)
{
    const struct options *options = process->options;
    struct pair pair;
    weir_status status = pair_init(&pair, process);
    if (status == WEIR_OK && process->rank == 0)
        report_begin(process);
    for (int i = 0; i < options->size_count && status == WEIR_OK; i++) {
        size_t size = options->sizes[i];
        if (options->check)
            status = check_size(&pair, process, post, size);
        if (status == WEIR_OK && !pair.first) {
            status = serve(&pair, process, (uint64_t)i + 1);
        } else if (status == WEIR_OK) {
            status = measure(&pair, process, post, size);
            if (status == WEIR_OK)
                status = weir_put_signal(pair.ep, NULL, NULL, 0, 0, NULL, pair.partner_signal, NULL);
        }
    }
    weir_comp flushed = WEIR_COMP_INIT;
    if (status == WEIR_OK && pair.first && (status = weir_flush(pair.ep, &flushed)) == WEIR_OK)
        status = weir_wait(process->ctx, &flushed, -1);
    if (status == WEIR_OK)
        status = pair_meet(&pair, process);
    if (status == WEIR_OK && process->rank == 0)
        report_end(process);
    pair_fini(&pair, process);
    return status;
}

weir_status run_put_bw(struct process *process)
{
    return run_bandwidth(process, post_put);
}

weir_status run_get_bw(struct process *process)
{
    return run_bandwidth(process, post_get);
}
