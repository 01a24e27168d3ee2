/*
 * Latency by ping-pong, half of the round trip, as ib_write_lat and ucx_perftest measure it: put_lat polls the last
 * byte that the partner writes, put_signal_lat the signal.
 */
#include "perf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Polls of the memory between two calls of progress: a target needs none of it for
 * hardware, all of it for emulation. */
enum { POLLS = 32, BOUND_CHECK = 1 << 20 };

/* Leaves the core to the other thread on it, if there is one: it may be the partner's that writes. Not where a device
 * writes: an emulated processor takes so long over this that the byte is seen late. */
static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

typedef weir_status round_fn(struct pair *pair, struct process *process, size_t size, uint64_t round);

static weir_status too_late(const struct pair *pair)
{
    weir_status status = weir_ep_status(pair->ep);
    if (status == WEIR_OK)
        fprintf(stderr, "weir_perf: rank %d has not answered within the bound\n", pair->partner);
    return status == WEIR_OK ? WEIR_ERR_TIMEOUT : status;
}

/* Polls until the last byte of what the partner writes has the round's value. */
static weir_status await_byte(struct pair *pair, struct process *process, size_t size, unsigned char value)
{
    const volatile unsigned char *last = pair->buffer + size - 1;
    double start = 0.0;
    for (unsigned turn = 1;; turn++) {
        for (int i = 0; i < POLLS; i++) {
            if (*last == value)
                return WEIR_OK;
            if (pair->shares_memory)
                relax();
        }
        weir_progress(process->ctx);
        if (turn % BOUND_CHECK)
            continue;
        if (start == 0.0)
            start = now_s();
        if (now_s() - start > 30.0 || weir_ep_status(pair->ep) != WEIR_OK)
            return too_late(pair);
    }
}

static weir_status put_byte(struct pair *pair, size_t size, unsigned char value)
{
    pair->source[size - 1] = value;
    return weir_put(pair->ep, pair->source, pair->source_mem, size, pair->remote, pair->rkey, NULL);
}

static weir_status put_round(struct pair *pair, struct process *process, size_t size, uint64_t round)
{
    unsigned char value = (unsigned char)(round % 255 + 1);
    weir_status status = pair->first ? put_byte(pair, size, value) : WEIR_OK;
    if (status == WEIR_OK)
        status = await_byte(pair, process, size, value);
    if (status == WEIR_OK && !pair->first)
        status = put_byte(pair, size, value);
    return status;
}

static weir_status await_signal(struct pair *pair, struct process *process, uint64_t count)
{
    for (unsigned turn = 1; weir_signal_read(process->ctx, pair->signal) < count; turn++) {
        weir_progress(process->ctx);
        if (turn % BOUND_CHECK == 0)
            return weir_signal_wait(process->ctx, pair->signal, count, -1);
    }
    return WEIR_OK;
}

static weir_status signal_round(struct pair *pair, struct process *process, size_t size, uint64_t round)
{
    weir_status status = WEIR_OK;
    if (!pair->first)
        status = await_signal(pair, process, round + 1);
    if (status == WEIR_OK)
        status = weir_put_signal(pair->ep, pair->source, pair->source_mem, size, pair->remote, pair->rkey,
                                 pair->partner_signal, NULL);
    if (status == WEIR_OK && pair->first)
        status = await_signal(pair, process, round + 1);
    return status;
}

static weir_status await_message(struct pair *pair, struct process *process, size_t size, uint64_t round)
{
    unsigned char message[WEIR_MSG_MAX];
    double start = now_s();
    for (;;) {
        size_t len = sizeof(message);
        weir_status status = weir_recv(process->ctx, message, &len, NULL);
        if (status == WEIR_OK)
            return process->options->check ? check_message(process, message, len, size, round) : WEIR_OK;
        if (status != WEIR_ERR_AGAIN)
            return status;
        if (weir_ep_status(pair->ep) != WEIR_OK || now_s() - start > 30.0)
            return too_late(pair);
    }
}

static weir_status message_round(struct pair *pair, struct process *process, size_t size, uint64_t round)
{
    check_stamp(pair->source, size, round);
    weir_status status = pair->first ? weir_send(pair->ep, pair->source, size) : WEIR_OK;
    if (status == WEIR_OK)
        status = await_message(pair, process, size, round);
    if (status == WEIR_OK && !pair->first)
        status = weir_send(pair->ep, pair->source, size);
    return status;
}

/* Sends a pattern each way and compares what came. */
static weir_status check_size(struct pair *pair, struct process *process, size_t size, uint64_t *round)
{
    check_fill(process, pair->source, size);
    weir_status status = signal_round(pair, process, size, (*round)++);
    return status == WEIR_OK ? check_data(process, pair->buffer, size) : status;
}

static weir_status measure(struct pair *pair, struct process *process, size_t size, round_fn *round, uint64_t *rounds,
                           double *samples)
{
    size_t count = iterations_for(process->options, size);
    size_t warmup = process->options->warmup ? process->options->warmup : count / 10 + 1;
    weir_status status = WEIR_OK;
    for (size_t i = 0; i < warmup && status == WEIR_OK; i++)
        status = round(pair, process, size, (*rounds)++);
    double last = now_s();
    for (size_t i = 0; i < count && status == WEIR_OK; i++) {
        status = round(pair, process, size, (*rounds)++);
        double now = now_s();
        samples[i] = (now - last) / 2.0;
        last = now;
    }
    if (status != WEIR_OK || process->rank != 0)
        return status;
    struct result result;
    result_from_samples(samples, count, 1, size, &result);
    report_result(process, &result);
    return WEIR_OK;
}

/* The checks use signals in both benchmarks, so the numbers of signals and of polled bytes are counted apart. */
static weir_status run_latency(struct process *process, round_fn *round)
{
    const struct options *options = process->options;
    struct pair pair;
    uint64_t put_rounds = 0, signal_rounds = 0; /* the former of messages, too */
    uint64_t *rounds = round == signal_round ? &signal_rounds : &put_rounds;
    double *samples = NULL;
    weir_status status = pair_init(&pair, process);
    if (status == WEIR_OK && process->rank == 0)
        report_begin(process);
    for (int i = 0; i < options->size_count && status == WEIR_OK; i++) {
        size_t size = options->sizes[i];
        free(samples);
        samples = calloc(iterations_for(options, size), sizeof(double));
        if (!samples)
            status = WEIR_ERR_NO_MEMORY;
        if (status == WEIR_OK && options->check)
            status = check_size(&pair, process, size, &signal_rounds);
        /* Both polled bytes start from zero, whatever the check or the last size left there. */
        if (status == WEIR_OK)
            status = pair_meet(&pair, process);
        memset(pair.buffer, 0, pair.room);
        if (status == WEIR_OK)
            status = pair_meet(&pair, process);
        if (status == WEIR_OK)
            status = measure(&pair, process, size, round, rounds, samples);
    }
    if (status == WEIR_OK)
        status = pair_meet(&pair, process);
    if (status == WEIR_OK && process->rank == 0)
        report_end(process);
    free(samples);
    pair_fini(&pair, process);
    return status;
}

weir_status run_put_lat(struct process *process)
{
    return run_latency(process, put_round);
}

weir_status run_put_signal_lat(struct process *process)
{
    return run_latency(process, signal_round);
}

weir_status run_send_lat(struct process *process)
{
    return run_latency(process, message_round);
}
