/*
 * One side is active: it streams operations to its partner, or asks for one after the other. With --both each side of a
 * pair streams. Streams keep a window of operations in flight: while one half window is waited for the other one is on
 * its way.
 */
#include "perf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES_MAX = 1 << 20 };

enum { SPOILT = 5, TOLD_AT = 8 };

typedef weir_status post_fn(struct pair *pair, struct process *process, size_t size, weir_comp *comp);

/* Looks, at the side that was sent to, whether all of `count` operations over all sizes have come. */
typedef weir_status verify_fn(struct pair *pair, struct process *process, uint64_t count);

/* One kind of operation. */
struct stream {
    post_fn *post;
    bool each;      /* every operation has a completion; else the last of a half window, on each way, ends those before it */
    bool reads;     /* data comes from the partner */
    bool unlike;    /* it moves no data of the user's from memory to memory */
    verify_fn *verify; /* NULL: there is nothing to count */
};

/* ---- Operations ---------------------------------------------------------------------------------------------------- */

static weir_status post_put(struct pair *pair, struct process *process, size_t size, weir_comp *comp)
{
    (void)process;
    return weir_put(pair->way->ep, pair->source, pair->source_mem, size, pair->remote, pair->way->rkey, comp);
}

/* The second signal of the pair: the first one tells the end. */
static weir_status post_put_signal(struct pair *pair, struct process *process, size_t size, weir_comp *comp)
{
    (void)process;
    return weir_put_signal(pair->way->ep, pair->source, pair->source_mem, size, pair->remote, pair->way->rkey,
                           pair->partner_signal + 1, comp);
}

static weir_status post_get(struct pair *pair, struct process *process, size_t size, weir_comp *comp)
{
    (void)process;
    return weir_get(pair->way->ep, pair->source, pair->source_mem, size, pair->remote, pair->way->rkey, comp);
}

static weir_status post_fetch_add(struct pair *pair, struct process *process, size_t size, weir_comp *comp)
{
    (void)size;
    uint64_t value = process->options->self_test && pair->posted == SPOILT ? 2 : 1;
    return weir_fetch_add(pair->way->ep, value, (uint64_t *)(void *)pair->source, pair->source_mem, pair->remote, pair->way->rkey, comp);
}

/* Messages have no completion of their own: the data is copied before the call returns. */
static weir_status post_send(struct pair *pair, struct process *process, size_t size, weir_comp *comp)
{
    (void)comp;
    bool spoilt = process->options->self_test && pair->posted == SPOILT;
    check_stamp(pair->source, size, spoilt ? 0 : pair->posted);
    return weir_send(pair->ep, pair->source, size);
}

/* ---- What came of them --------------------------------------------------------------------------------------------- */

static weir_status verify_signals(struct pair *pair, struct process *process, uint64_t count)
{
    return check_count(process, "signals", weir_signal_read(process->ctx, pair->signal + 1), count);
}

static weir_status verify_adds(struct pair *pair, struct process *process, uint64_t count)
{
    return check_count(process, "additions", *(const uint64_t *)(const void *)pair->buffer, count);
}

static weir_status verify_messages(struct pair *pair, struct process *process, uint64_t count)
{
    return check_count(process, "messages", pair->came, count);
}

static const struct stream put_stream = {.post = post_put};
static const struct stream put_signal_stream = {.post = post_put_signal, .verify = verify_signals};
static const struct stream get_stream = {.post = post_get, .each = true, .reads = true};
static const struct stream fetch_add_stream = {.post = post_fetch_add, .each = true, .unlike = true, .verify = verify_adds};
static const struct stream send_stream = {.post = post_send, .unlike = true, .verify = verify_messages};

/* ---- Streaming ----------------------------------------------------------------------------------------------------- */

static weir_status post_half(struct pair *pair, struct process *process, const struct stream *stream, size_t size,
                             size_t half, weir_comp *comp)
{
    weir_status status = WEIR_OK;
    size_t ways = process->options->ways;
    for (size_t i = 0; i < half && status == WEIR_OK; i++) {
        status = stream->post(pair, process, size, stream->each || i + ways >= half ? comp : NULL);
        pair->posted++;
        if (++pair->way == pair->ways + ways)
            pair->way = pair->ways;
    }
    return status;
}

/* Takes messages that came: the partner waits for room. */
static weir_status take_messages(struct pair *pair, struct process *process, size_t size)
{
    unsigned char message[WEIR_MSG_MAX];
    size_t len = sizeof(message);
    weir_status status;
    while ((status = weir_recv(process->ctx, message, &len, NULL)) == WEIR_OK) {
        if (process->options->check && (status = check_message(process, message, len, size, pair->came)) != WEIR_OK)
            return status;
        pair->came++;
        len = sizeof(message);
    }
    return status == WEIR_ERR_AGAIN ? WEIR_OK : status;
}

/* How much to move, and what came of it. */
struct pumped {
    size_t half, count;  /* operations of a half window; half windows at most */
    double until_s;      /* no new half window from this moment on; 0: no such moment */
    double *samples;     /* room for `room` of them; further ones count for nothing */
    size_t room;
    size_t done;         /* half windows moved */
    double elapsed_s;
};

/*
 * Moves half windows and then flushes; `elapsed_s` is all of it. Sample i is the time between the ends of half windows i
 * and i + 1, while further ones are on their way; the last one counts for nothing.
 */
static weir_status pump(struct pair *pair, struct process *process, const struct stream *stream, size_t size,
                        struct pumped *p)
{
    weir_comp comp[2] = {WEIR_COMP_INIT, WEIR_COMP_INIT}, flushed = WEIR_COMP_INIT;
    double start = now_s(), last = start;
    size_t posted = 1;
    weir_status status = post_half(pair, process, stream, size, p->half, &comp[0]);
    for (p->done = 0; p->done < posted && status == WEIR_OK; p->done++) {
        if (posted < p->count && (p->until_s == 0.0 || last < p->until_s))
            status = post_half(pair, process, stream, size, p->half, &comp[posted++ % 2]);
        if (status == WEIR_OK)
            status = weir_wait(process->ctx, &comp[p->done % 2], -1);
        double now = now_s();
        if (p->done < p->room)
            p->samples[p->done] = now - last;
        last = now;
    }
    for (size_t i = 0; i < process->options->ways && status == WEIR_OK; i++)
        status = weir_flush(pair->ways[i].ep, &flushed);
    if (status == WEIR_OK)
        status = weir_wait(process->ctx, &flushed, -1);
    p->elapsed_s = now_s() - start;
    return status;
}

/* One operation of the one side, or the other; compares what arrived, at the side that received it. */
static weir_status check_way(struct pair *pair, struct process *process, const struct stream *stream, size_t size,
                             bool active)
{
    struct pumped once = {.half = 1, .count = 1};
    bool sender = stream->reads ? !active : active;
    unsigned char *theirs = stream->reads ? pair->buffer : pair->source;
    const unsigned char *ours = stream->reads ? pair->source : pair->buffer;
    if (sender)
        check_fill(process, theirs, size);
    weir_status status = pair_meet(pair, process);
    if (status == WEIR_OK && active)
        status = pump(pair, process, stream, size, &once);
    if (status == WEIR_OK)
        status = pair_meet(pair, process);
    return status == WEIR_OK && !sender ? check_data(process, ours, size) : status;
}

static weir_status check_size(struct pair *pair, struct process *process, const struct stream *stream, size_t size)
{
    weir_status status = check_way(pair, process, stream, size, pair->first);
    return status == WEIR_OK && process->options->both ? check_way(pair, process, stream, size, !pair->first) : status;
}

/* What all moved by the time that the last one took; rank 0 reports. Its own samples stand for all. */
static weir_status report_sum(struct process *process, struct result *result, double elapsed_s, int index)
{
    double mine[2] = {(double)result->iterations, elapsed_s}, operations = 0.0, longest_s = 0.0;
    double *all = calloc((size_t)process->ranks, sizeof(mine));
    char name[48];
    snprintf(name, sizeof(name), "perf/sum.%d", index);
    weir_status status =
        all ? weir_boot_allgather(process->boot, name, NULL, 0, mine, sizeof(mine), all) : WEIR_ERR_NO_MEMORY;
    for (int rank = 0; status == WEIR_OK && rank < process->ranks; rank++) {
        operations += all[2 * rank];
        longest_s = all[2 * rank + 1] > longest_s ? all[2 * rank + 1] : longest_s;
    }
    if (status == WEIR_OK && process->rank == 0) {
        result->total_mops = operations / longest_s / 1e6;
        result->total_gb_s = result->total_mops * (double)result->size / 1e3;
        report_result(process, result);
    }
    free(all);
    return status;
}

static weir_status measure(struct pair *pair, struct process *process, const struct stream *stream, size_t size,
                           struct result *result, double *elapsed_s)
{
    const struct options *options = process->options;
    size_t half = options->window / 2 ? options->window / 2 : 1, iterations = iterations_for(options, size);
    if (half > (iterations + 1) / 2)
        half = (iterations + 1) / 2;
    size_t count = iterations > half ? (iterations + half - 1) / half : 2; /* the last one counts for nothing */
    struct pumped warmup = {.half = half, .count = options->warmup ? options->warmup / half + 1 : count / 10 + 2};
    struct pumped p = {.half = half, .count = count, .room = count};
    if (options->duration_s > 0.0) {
        p.count = SIZE_MAX;
        p.room = SAMPLES_MAX;
    }
    p.samples = calloc(p.room, sizeof(double));
    weir_status status = p.samples ? pump(pair, process, stream, size, &warmup) : WEIR_ERR_NO_MEMORY;
    if (options->duration_s > 0.0)
        p.until_s = now_s() + options->duration_s;
    if (status == WEIR_OK)
        status = pump(pair, process, stream, size, &p);
    if (status == WEIR_OK) {
        size_t samples = p.done < p.room ? p.done : p.room;
        result_from_samples(p.samples, samples > 1 ? samples - 1 : 1, half, size, result);
        result->iterations = p.done * half;
        result->gb_s = (double)(size * p.done * half) / p.elapsed_s / 1e9;
        *elapsed_s = p.elapsed_s;
    }
    free(p.samples);
    return status;
}

/* ---- One after the other ------------------------------------------------------------------------------------------- */

static weir_status measure_single(struct pair *pair, struct process *process, const struct stream *stream, size_t size,
                                  struct result *result, double *elapsed_s)
{
    (void)elapsed_s;
    const struct options *options = process->options;
    size_t count = iterations_for(options, size), warmup = options->warmup ? options->warmup : count / 10 + 1;
    double *samples = calloc(count, sizeof(double));
    uint64_t *ended = calloc(warmup + count, sizeof(*ended)); /* in ticks: an emulated processor takes long over fractions */
    weir_status status = samples && ended ? WEIR_OK : WEIR_ERR_NO_MEMORY;
    for (size_t i = 0; i < warmup + count && status == WEIR_OK; i++) {
        weir_comp comp = WEIR_COMP_INIT;
        status = stream->post(pair, process, size, &comp);
        if (status == WEIR_OK)
            status = weir_wait(process->ctx, &comp, -1);
        ended[i] = now_ticks();
        if (status == WEIR_OK && options->check && stream->verify == verify_adds)
            status = check_count(process, "earlier additions", *(const uint64_t *)(const void *)pair->source, pair->posted);
        pair->posted++;
    }
    for (size_t i = 0; i < count && status == WEIR_OK; i++)
        samples[i] = ticks_s(ended[warmup + i] - ended[warmup + i - 1]);
    free(ended);
    if (status == WEIR_OK)
        result_from_samples(samples, count, 1, size, result);
    free(samples);
    return status;
}

/* ---- Both sides ---------------------------------------------------------------------------------------------------- */

/* The end of a size is told with how many operations there were, which must not overtake them. */
static weir_status tell_end(struct pair *pair, struct process *process)
{
    weir_comp comp = WEIR_COMP_INIT;
    memcpy(pair->source + TOLD_AT, &pair->posted, sizeof(pair->posted));
    weir_status status = weir_put_signal(pair->ep, pair->source + TOLD_AT, pair->source_mem, sizeof(pair->posted),
                                         pair->remote + TOLD_AT, pair->rkey, pair->partner_signal, &comp);
    return status == WEIR_OK ? weir_wait(process->ctx, &comp, -1) : status;
}

/* The passive side makes progress until the active one is done: emulated transports need it. Then it looks what came. */
static weir_status serve(struct pair *pair, struct process *process, const struct stream *stream, size_t size, uint64_t done)
{
    weir_status status = WEIR_OK;
    if (stream->post != post_send)
        status = weir_signal_wait(process->ctx, pair->signal, done, 60 * 60 * 1000);
    while (stream->post == post_send && status == WEIR_OK && weir_signal_read(process->ctx, pair->signal) < done) {
        status = take_messages(pair, process, size);
        weir_ctx_block(process->ctx, 10);
        if (status == WEIR_OK)
            status = weir_ep_status(pair->ep);
    }
    if (stream->post == post_send && status == WEIR_OK)
        status = take_messages(pair, process, size);
    uint64_t count;
    memcpy(&count, pair->buffer + TOLD_AT, sizeof(count));
    return status == WEIR_OK && stream->verify && process->options->check ? stream->verify(pair, process, count) : status;
}

typedef weir_status measure_fn(struct pair *pair, struct process *process, const struct stream *stream, size_t size,
                               struct result *result, double *elapsed_s);

static weir_status one_size(struct pair *pair, struct process *process, const struct stream *stream, measure_fn *how,
                            int index)
{
    const struct options *options = process->options;
    size_t size = options->sizes[index];
    bool active = pair->first || options->both;
    struct result result = {.size = size};
    double elapsed_s = 0.0;
    weir_status status = WEIR_OK;
    if (options->check && !stream->unlike)
        status = check_size(pair, process, stream, size);
    else if (stream->post == post_send && active)
        check_fill(process, pair->source, size);
    if (status == WEIR_OK)
        status = pair_meet(pair, process);
    if (status == WEIR_OK && active)
        status = how(pair, process, stream, size, &result, &elapsed_s);
    if (status == WEIR_OK && active)
        status = tell_end(pair, process);
    if (status == WEIR_OK && (!active || options->both))
        status = serve(pair, process, stream, size, (uint64_t)index + 1);
    if (status != WEIR_OK || how == measure) /* what one waits for alone has no sum */
        return status == WEIR_OK ? report_sum(process, &result, elapsed_s, index) : status;
    if (process->rank == 0)
        report_result(process, &result);
    return WEIR_OK;
}

static weir_status run(struct process *process, const struct stream *stream, measure_fn *how)
{
    struct pair pair;
    weir_status status = pair_init(&pair, process);
    if (status == WEIR_OK && process->rank == 0)
        report_begin(process);
    for (int i = 0; i < process->options->size_count && status == WEIR_OK; i++)
        status = one_size(&pair, process, stream, how, i);
    weir_comp flushed = WEIR_COMP_INIT;
    if (status == WEIR_OK && (status = weir_flush(pair.ep, &flushed)) == WEIR_OK)
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
    return run(process, &put_stream, measure);
}

weir_status run_put_signal_bw(struct process *process)
{
    return run(process, &put_signal_stream, measure);
}

weir_status run_get_bw(struct process *process)
{
    return run(process, &get_stream, measure);
}

weir_status run_fetch_add_bw(struct process *process)
{
    return run(process, &fetch_add_stream, measure);
}

weir_status run_send_bw(struct process *process)
{
    return run(process, &send_stream, measure);
}

weir_status run_get_lat(struct process *process)
{
    return run(process, &get_stream, measure_single);
}

weir_status run_fetch_add_lat(struct process *process)
{
    return run(process, &fetch_add_stream, measure_single);
}
