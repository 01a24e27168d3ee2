/* Do the options fit the benchmark? Told once, before any process is started. */
#include "perf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool __attribute__((format(printf, 2, 3))) no(const struct options *options, const char *format, ...)
{
    va_list arguments;
    fprintf(stderr, "weir_perf: %s: ", options->benchmark->name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return false;
}

static bool streams(const struct benchmark *benchmark)
{
    size_t len = strlen(benchmark->name);
    return len > 3 && strcmp(benchmark->name + len - 3, "_bw") == 0;
}

/* Sizes are whole elements, and no longer than the operation can be. Of --all those are left that fit. */
static bool fit_sizes(struct options *options)
{
    const struct benchmark *benchmark = options->benchmark;
    size_t unit = benchmark->unit;
    if (options->operation && strcmp(options->operation, "f64") == 0)
        unit = sizeof(double);
    int kept = 0;
    for (int i = 0; i < options->size_count; i++) {
        size_t size = options->sizes[i];
        bool fits = size % unit == 0 && (benchmark->size_max == 0 || size <= benchmark->size_max);
        if (fits)
            options->sizes[kept++] = size;
        else if (!options->all && benchmark->size_max == unit)
            return no(options, "-s %zu: its operations have %zu bytes each", size, unit);
        else if (!options->all && size % unit != 0)
            return no(options, "-s %zu: sizes are multiples of %zu", size, unit);
        else if (!options->all)
            return no(options, "-s %zu: at most %zu bytes", size, benchmark->size_max);
    }
    options->size_count = kept;
    return kept > 0 || no(options, "-s: no size is left");
}

/* Started by hand, all processes are on this host, and each has two buffers of the largest size. */
static bool fit_memory(const struct options *options)
{
    double need = 0.0, have = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < options->size_count; i++)
        need = (double)options->sizes[i] > need ? (double)options->sizes[i] : need;
    int processes = options->ranks + options->servers;
    need *= 2.0 * processes;
    return need < have || no(options, "-s: %d processes with two buffers each need %.1f GiB, this host has %.1f", processes,
                             need / (1 << 30), have / (1 << 30));
}

static bool fit_ranks(const struct options *options)
{
    const struct benchmark *benchmark = options->benchmark;
    if (benchmark->pairs && options->ranks % 2 != 0)
        return no(options, "-r %d: it needs an even number of ranks", options->ranks);
    return fit_memory(options);
}

bool options_fit(struct options *options)
{
    const struct benchmark *benchmark = options->benchmark;
    if ((options->both || options->duration_s > 0.0 || options->window > 0 || options->ways > 0) && !streams(benchmark))
        return no(options, "-b, -D, -t and -q are for the *_bw benchmarks");
    if (options->window == 0)
        options->window = 128;
    if (options->ways == 0)
        options->ways = 1;
    if (options->ways > 1 && strcmp(benchmark->name, "send_bw") == 0)
        return no(options, "-q: messages are counted in their order, which is that of one endpoint");
    if (options->both && strcmp(benchmark->name, "send_bw") == 0)
        return no(options, "-b: messages wait for somebody who takes them; one side has to");
    if (options->compare && !compares(benchmark))
        return no(options, "--compare has peers for put_lat, put_bw, get_lat, get_bw and fetch_add_lat alone");
    if (options->compare && (options->both || options->duration_s > 0.0 || options->ordinary || options->json || options->ways > 1 ||
                             options->ranks != benchmark->ranks))
        return no(options, "--compare takes -s, -a, -n and -d alone; perf/compare has --json");
    return fit_sizes(options) && fit_ranks(options);
}
