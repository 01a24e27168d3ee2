/* From samples to lines of a table or of JSON. */
#include "perf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__) || defined(__aarch64__)
static double clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The counter that the processor keeps, read without a call: clock_gettime() takes as long as a put. */
uint64_t now_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    uint64_t count;
    __asm__ __volatile__("mrs %0, cntvct_el0" : "=r"(count));
    return count;
#endif
}

/* Seconds a tick takes, by comparing the two clocks over 20 ms, once. */
static double tick_s(void)
{
    static double length;
    if (length > 0.0)
        return length;
    double start_s = clock_s(), end_s;
    uint64_t start = now_ticks();
    do
        end_s = clock_s();
    while (end_s - start_s < 0.02);
    length = (end_s - start_s) / (double)(now_ticks() - start);
    return length;
}
#else
uint64_t now_ticks(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static double tick_s(void)
{
    return 1e-9;
}
#endif

double ticks_s(uint64_t ticks)
{
    return (double)ticks * tick_s();
}

double now_s(void)
{
    return ticks_s(now_ticks());
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void result_from_samples(double *samples, size_t count, size_t per_sample, size_t size, struct result *result)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++)
        sum += samples[i];
    qsort(samples, count, sizeof(*samples), compare);
    double us = 1e6 / (double)per_sample;
    *result = (struct result){
        .size = size,
        .iterations = count * per_sample,
        .min_us = samples[0] * us,
        .median_us = samples[count / 2] * us,
        .p99_us = samples[(count - 1) * 99 / 100] * us,
        .gb_s = sum > 0.0 ? (double)size * (double)(count * per_sample) / sum / 1e9 : 0.0,
    };
}

size_t iterations_for(const struct options *options, size_t size)
{
    if (options->iterations)
        return options->iterations;
    size_t by_bytes = ((size_t)256 << 20) / (size + 1);
    return by_bytes > 10000 ? 10000 : by_bytes < 20 ? 20 : by_bytes;
}

void report_begin(const struct process *process)
{
    weir_ctx_attr attr;
    weir_ctx_query(process->ctx, &attr);
    const struct options *options = process->options;
    if (options->json) {
        printf("{\"benchmark\": \"%s\", \"operation\": \"%s\", \"ranks\": %d, \"servers\": %d, \"endpoints\": %zu, \"network\": \"%s\", "
               "\"intranode\": \"%s\", \"device\": \"%s\", \"results\": [",
               options->benchmark->name, options->operation ? options->operation : "", process->ranks,
               weir_boot_servers(process->boot), options->ways, attr.network, attr.intranode, attr.device);
        return;
    }
    char ways[32] = "";
    if (options->ways > 1)
        snprintf(ways, sizeof(ways), ", %zu endpoints a pair", options->ways);
    printf("# %s%s%s, %d ranks%s, network %s, intranode %s%s%s\n", options->benchmark->name,
           options->operation ? " " : "", options->operation ? options->operation : "", process->ranks, ways, attr.network,
           attr.intranode, attr.device[0] ? ", device " : "", attr.device);
    if (strcmp(attr.intranode, "shm") == 0 && strcmp(attr.network, "none") != 0)
        printf("# between ranks of one host it is shared memory that is measured; WEIR_INTRANODE=off: %s there, too\n",
               attr.network);
    printf("%12s %10s %12s %12s %12s %10s %10s %10s %10s\n", "bytes", "iterations", "min us", "median us", "p99 us",
           "GB/s", "bus GB/s", "all GB/s", "all Mop/s");
    fflush(stdout);
}

void report_result(const struct process *process, const struct result *r)
{
    static bool again;
    if (process->options->json) {
        printf("%s\n  {\"bytes\": %zu, \"iterations\": %zu, \"min_us\": %.3f, \"median_us\": %.3f, \"p99_us\": %.3f, "
               "\"gb_s\": %.4f, \"bus_gb_s\": %.4f, \"total_gb_s\": %.4f, \"total_mops\": %.4f}",
               again ? "," : "", r->size, r->iterations, r->min_us, r->median_us, r->p99_us, r->gb_s, r->bus_gb_s,
               r->total_gb_s, r->total_mops);
        again = true;
        return;
    }
    printf("%12zu %10zu %12.2f %12.2f %12.2f %10.3f", r->size, r->iterations, r->min_us, r->median_us, r->p99_us,
           r->gb_s);
    const double more[] = {r->bus_gb_s, r->total_gb_s, r->total_mops};
    for (size_t i = 0; i < sizeof(more) / sizeof(more[0]); i++) {
        if (more[i] > 0.0)
            printf(" %10.3f", more[i]);
        else
            printf(" %10s", "-");
    }
    printf("\n");
    fflush(stdout);
}

void report_end(const struct process *process)
{
    if (process->options->json)
        printf("\n]}\n");
    fflush(stdout);
}
