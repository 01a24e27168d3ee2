/* `weir top`: what the ranks of a job do just now, from the metrics that they write or serve. */
#include "top/rates.h"
#include "top/source.h"
#include "weir_tool.h"

#include <weir/config.h>

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char usage[] =
    "usage: weir top [--interval TIME] [--count N | --once] SOURCE...\n"
    "\n"
    "Shows, again and again, what the ranks of a job do: operations and bytes towards each peer, latencies, retransmits.\n"
    "A SOURCE is a file that WEIR_METRICS_FILE names, [HOST:]PORT where WEIR_METRICS_LISTEN is served, or\n"
    "[HOST:]FIRST-LAST for the ranks of a host, which listen at one port after the other.\n"
    "\n"
    "  -i, --interval TIME  between two looks, e.g. 500ms (default 1s)\n"
    "  -n, --count N        end after N tables\n"
    "  -1, --once           one table of all that was counted so far, without rates\n"
    "  -h, --help           this text\n"
    "\n"
    "e.g.  WEIR_METRICS_LISTEN=9400 weir run -n 4 -- ./train &   weir top 9400-9403\n"
    "Times are upper bounds of histogram buckets. Rates are those since the last look.\n";

enum { SOURCES_MAX = 1024 };

struct options {
    char *sources[SOURCES_MAX]; /* owned */
    int source_count;
    uint64_t interval_ns;
    long count; /* tables; 0: without end */
    bool once;
};

/* ---- Options ------------------------------------------------------------------------------------------------------- */

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "weir top: %s: %s\n", what, why);
    return WEIR_TOOL_USAGE;
}

static int keep_source(struct options *options, const char *text, int len, const char *end)
{
    size_t room = (size_t)len + strlen(end) + 1;
    char *source = options->source_count < SOURCES_MAX ? malloc(room) : NULL;
    if (!source)
        return complain(text, "too many sources");
    snprintf(source, room, "%.*s%s", len, text, end);
    options->sources[options->source_count++] = source;
    return 0;
}

/* "[HOST:]FIRST-LAST" becomes one source for each port. */
static int add_source(struct options *options, const char *text)
{
    unsigned first, last;
    int end = 0;
    const char *colon = strrchr(text, ':'), *ports = colon ? colon + 1 : text;
    bool is_range = sscanf(ports, "%5u-%5u%n", &first, &last, &end) == 2 && ports[end] == '\0';
    if (!is_range)
        return keep_source(options, text, (int)strlen(text), "");
    if (first > last || last > 65535)
        return complain(text, "not a range of ports");
    for (unsigned port = first; port <= last; port++) {
        char number[16];
        snprintf(number, sizeof(number), "%u", port);
        int result = keep_source(options, text, (int)(ports - text), number);
        if (result != 0)
            return result;
    }
    return 0;
}

static void forget_sources(struct options *options)
{
    while (options->source_count > 0)
        free(options->sources[--options->source_count]);
}

static int parse_options(int argc, char **argv, struct options *options)
{
    static const struct option longs[] = {{"interval", required_argument, NULL, 'i'},
                                          {"count", required_argument, NULL, 'n'},
                                          {"once", no_argument, NULL, '1'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    char *end;
    int option, result = 0;
    *options = (struct options){.interval_ns = 1000000000};
    optind = 1;
    while ((option = getopt_long(argc, argv, "i:n:1h", longs, NULL)) != -1) {
        if (option == 'h') {
            fputs(usage, stdout);
            return -1;
        }
        if (option == 'i' && (weir_parse_duration(optarg, &options->interval_ns) != WEIR_OK ||
                              options->interval_ns < 10000000 || options->interval_ns > 3600000000000))
            return complain(optarg, "not an interval; use e.g. 500ms");
        if (option == 'n' && ((options->count = strtol(optarg, &end, 10)) < 1 || *end))
            return complain(optarg, "not a number of tables");
        if (option == '1')
            options->once = true;
        if (option == '?') { /* getopt has told */
            fputs("`weir top --help` tells more\n", stderr);
            return WEIR_TOOL_USAGE;
        }
    }
    for (; optind < argc && result == 0; optind++)
        result = add_source(options, argv[optind]);
    if (result == 0 && options->source_count == 0)
        return complain("no SOURCE given", "weir top --help tells what one is");
    return result;
}

/* ---- Looking ------------------------------------------------------------------------------------------------------- */

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Returns how many sources could be read; tells the first reason why one could not. */
static int look(const struct options *options, struct gathered *gathered, char *why, size_t why_size)
{
    int read = 0;
    why[0] = '\0';
    *gathered = (struct gathered){.at_s = now_s()};
    for (int i = 0; i < options->source_count; i++) {
        char reason[128] = "out of memory";
        char *text = source_read(options->sources[i], reason, sizeof(reason));
        if (text && gather(gathered, text))
            read++;
        else if (!why[0])
            snprintf(why, why_size, "%s: %s", options->sources[i], reason);
        free(text);
    }
    return read;
}

/* ---- Showing ------------------------------------------------------------------------------------------------------- */

static const char *with_unit(double value, char text[16])
{
    static const char units[] = " KMGTP";
    int unit = 0;
    for (; fabs(value) >= 1000.0 && units[unit + 1]; unit++)
        value /= 1000.0;
    snprintf(text, 16, unit && value < 100.0 ? "%.1f%c" : "%.0f%c", value, units[unit]);
    return text;
}

static const char *as_time(double seconds, char text[16])
{
    if (isinf(seconds))
        snprintf(text, 16, "more");
    else if (seconds < 1e-3)
        snprintf(text, 16, "%.3g us", seconds * 1e6);
    else if (seconds < 1.0)
        snprintf(text, 16, "%.3g ms", seconds * 1e3);
    else
        snprintf(text, 16, "%.3g s", seconds);
    return text;
}

/* What came since `before`, a second; without one: all that was counted. A rank that was started anew counts from 0. */
static double rate(double now, double before, double span_s)
{
    double more = now >= before ? now - before : now;
    return span_s > 0.0 ? more / span_s : more;
}

static void show_peers(const struct gathered *now, const struct gathered *before, double span_s)
{
    static const struct peer_row nothing;
    char operations[16], bytes[16];
    printf("%6s %6s %9s %12s %12s %8s %8s\n", "rank", "peer", "transport", span_s > 0.0 ? "operations/s" : "operations",
           span_s > 0.0 ? "bytes/s" : "bytes", "refused", "failed");
    for (int i = 0; i < now->peer_count; i++) {
        const struct peer_row *row = &now->peers[i], *old = before ? find_peer(before, row) : NULL;
        if (!old)
            old = &nothing;
        printf("%6s %6s %9s %12s %12s %8.0f %8.0f\n", row->rank, row->peer, row->transport,
               with_unit(rate(row->operations, old->operations, span_s), operations),
               with_unit(rate(row->bytes, old->bytes, span_s), bytes), row->refused, row->failures);
    }
}

static const struct latency *same_latency(const struct rank_row *row, const char *operation)
{
    for (int i = 0; row && i < row->latency_count; i++)
        if (strcmp(row->latencies[i].operation, operation) == 0)
            return &row->latencies[i];
    return NULL;
}

static void show_ranks(const struct gathered *now, const struct gathered *before, double span_s)
{
    static const struct rank_row nothing;
    char text[6][16];
    printf("\n%6s %10s %10s %12s %10s   latency: operation p50 p99\n", "rank", "registered", "messages", "retransmits",
           "not ready");
    for (int i = 0; i < now->rank_count; i++) {
        const struct rank_row *row = &now->ranks[i], *old = before ? find_rank(before, row->rank) : NULL;
        const struct rank_row *base = old ? old : &nothing;
        printf("%6s %10s %10s %12s %10s  ", row->rank, with_unit(row->registered, text[0]),
               with_unit(rate(row->messages, base->messages, span_s), text[1]),
               with_unit(rate(row->retransmits, base->retransmits, span_s), text[2]),
               with_unit(rate(row->not_ready, base->not_ready, span_s), text[3]));
        const char *separator = " ";
        for (int k = 0; k < row->latency_count; k++) {
            const struct latency *latency = &row->latencies[k], *then = same_latency(old, latency->operation);
            double p50 = quantile_s(latency, then, 0.5), p99 = quantile_s(latency, then, 0.99);
            if (!(p50 > 0.0))
                continue;
            printf("%s%s %s %s", separator, latency->operation, as_time(p50, text[4]), as_time(p99, text[5]));
            separator = "; ";
        }
        printf("\n");
    }
}

static void show(const struct gathered *now, const struct gathered *before, int read, int sources, const char *why)
{
    double span_s = before ? now->at_s - before->at_s : 0.0;
    if (before && isatty(STDOUT_FILENO))
        fputs("\033[H\033[J", stdout);
    show_peers(now, before, span_s);
    show_ranks(now, before, span_s);
    if (read < sources)
        printf("\n%d of %d sources cannot be read, e.g. %s\n", sources - read, sources, why);
    printf("\n");
    fflush(stdout);
}

static int watch(const struct options *options)
{
    struct gathered before = {0}, now;
    struct timespec pause = {(time_t)(options->interval_ns / 1000000000), (long)(options->interval_ns % 1000000000)};
    char why[256];
    int read = look(options, &before, why, sizeof(why)), seen = read;
    if (options->once && read > 0)
        show(&before, NULL, read, options->source_count, why);
    for (long tables = 0; !options->once && read > 0 && (options->count == 0 || tables < options->count); tables++) {
        nanosleep(&pause, NULL);
        read = look(options, &now, why, sizeof(why));
        if (read > 0)
            show(&now, &before, read, options->source_count, why);
        gathered_free(&before);
        before = now;
    }
    gathered_free(&before);
    if (read > 0)
        return 0;
    fprintf(stderr, seen > 0 ? "weir top: the job has ended (%s)\n" : "weir top: nothing to show: %s\n", why);
    return seen > 0 ? 0 : 1;
}

int weir_top_main(int argc, char **argv)
{
    struct options options;
    int result = parse_options(argc, argv, &options);
    if (result == 0)
        result = watch(&options);
    forget_sources(&options);
    return result < 0 ? 0 : result; /* below 0: help was shown */
}
