/* weir_perf: latency and bandwidth of Weir's operations. `weir_perf --help` tells how. */
#include "perf.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Name, help, default sizes; ranks and servers when started by hand; what sizes are multiples of, and at most; pairs. */
const struct benchmark benchmarks[] = {
    {"put_lat", "half round trip of puts into polled memory (as ib_write_lat)", {8, 4096, 65536}, 2, 0, 1, 0, true, run_put_lat},
    {"put_signal_lat", "half round trip of puts with a signal", {8, 4096, 65536}, 2, 0, 1, 0, true, run_put_signal_lat},
    {"send_lat", "half round trip of control messages", {8, 1024, 4096}, 2, 0, 1, WEIR_MSG_MAX, true, run_send_lat},
    {"get_lat", "a get and its end (as ib_read_lat)", {8, 4096, 65536}, 2, 0, 1, 0, true, run_get_lat},
    {"fetch_add_lat", "a fetch_add and its end (as ib_atomic_lat)", {8}, 2, 0, 8, 8, true, run_fetch_add_lat},
    {"put_bw", "bandwidth and rate of puts (as ib_write_bw)", {8, 4096, 65536, 1 << 20}, 2, 0, 1, 0, true, run_put_bw},
    {"put_signal_bw", "of puts with a signal each", {8, 4096, 65536, 1 << 20}, 2, 0, 1, 0, true, run_put_signal_bw},
    {"get_bw", "of gets (as ib_read_bw)", {8, 4096, 65536, 1 << 20}, 2, 0, 1, 0, true, run_get_bw},
    {"fetch_add_bw", "rate of fetch_adds (as ib_atomic_bw)", {8}, 2, 0, 8, 8, true, run_fetch_add_bw},
    {"send_bw", "bandwidth and rate of control messages", {8, 1024, 4096}, 2, 0, 1, WEIR_MSG_MAX, true, run_send_bw},
    {"allreduce", "ring all-reduce over all ranks", {8, 65536, 1 << 20, 64 << 20}, 2, 0, 4, 0, false, run_allreduce},
    {"ps", "requests to the parameter server", {4, 65536, 4 << 20}, 1, 1, 4, 0, false, run_ps},
    {"pool", "alloc and free of pool memory beside malloc and free", {64, 4096, 65536}, 1, 0, 1, 0, false, run_pool},
    {0},
};

/* Ranks that were started with other arguments would wait for, or find, something else. */
static weir_status agree(const struct process *process)
{
    const struct options *o = process->options;
    char ours[1500], theirs[sizeof(ours)];
    size_t len = sizeof(theirs) - 1;
    int used = snprintf(ours, sizeof(ours), "%s -o %s -n %zu -w %zu -t %zu -q %zu -D %g -s ", o->benchmark->name,
                        o->operation ? o->operation : "-", o->iterations, o->warmup, o->window, o->ways, o->duration_s);
    for (int i = 0; i < o->size_count; i++)
        used += snprintf(ours + used, sizeof(ours) - (size_t)used, "%s%zu", i ? "," : "", o->sizes[i]);
    snprintf(ours + used, sizeof(ours) - (size_t)used, "%s%s%s%s%s", o->both ? " -b" : "", o->check ? "" : " --no-check",
             o->self_test ? " --self-test" : "", o->ordinary ? " --ordinary" : "", o->unregistered ? " --unregistered" : "");
    if (process->rank == 0)
        return weir_boot_put(process->boot, "weir_perf", ours, strlen(ours));
    weir_status status = weir_boot_get(process->boot, "weir_perf", theirs, &len, -1);
    theirs[status == WEIR_OK ? len : 0] = '\0';
    if (status != WEIR_OK || strcmp(ours, theirs) == 0)
        return status;
    fprintf(stderr, "weir_perf: rank %d has other arguments than rank 0; give the same on all\n  rank 0: %s\n  rank %d: %s\n",
            process->rank, theirs, process->rank, ours);
    return WEIR_ERR_MISMATCH;
}

static weir_status start(struct process *process)
{
    weir_status status = weir_boot_create(NULL, &process->boot);
    if (status != WEIR_OK)
        return status;
    process->rank = weir_boot_rank(process->boot);
    process->ranks = weir_boot_size(process->boot);
    status = agree(process);
    if (status != WEIR_OK)
        return status;
    weir_ctx_params params = {
        .size = sizeof(params),
        .id = (uint64_t)process->rank,
        .bind_address = weir_boot_local_address(process->boot),
        .exchange = weir_boot_exchange(process->boot),
    };
    status = weir_ctx_create(&params, &process->ctx);
    /* Partners may need our progress while we wait for all to tell their results. */
    if (status == WEIR_OK)
        status = weir_boot_attend(process->boot, weir_ctx_attend, process->ctx);
    return status == WEIR_OK ? weir_pool_create(process->ctx, 0, &process->pool) : status;
}

/* A launcher chose how many there are. */
static bool ranks_fit(const struct process *process)
{
    const struct benchmark *benchmark = process->options->benchmark;
    if (!benchmark->pairs || process->ranks % 2 == 0)
        return true;
    fprintf(stderr, "weir_perf: %s needs an even number of ranks, not %d\n", benchmark->name, process->ranks);
    return false;
}

static int run(int argc, char **argv)
{
    struct options options;
    int result = options_parse(argc, argv, &options);
    if (result != 0)
        return result == 1 ? 0 : result;
    if (!options_fit(&options))
        return 2;
    if (options.compare)
        return compare_instead(&options);
    if (launch_local(&options, &result))
        return result;
    struct process process = {.options = &options};
    weir_status status = start(&process);
    if (status == WEIR_OK)
        status = ranks_fit(&process) ? options.benchmark->run(&process) : WEIR_ERR_INVALID;
    if (status != WEIR_OK) {
        char who[32] = "";
        if (process.boot) /* before that nobody has told which one it is */
            snprintf(who, sizeof(who), "rank %d: ", process.rank);
        fprintf(stderr, "weir_perf: %s%s%s%s\n", who, weir_status_string(status), weir_last_error()[0] ? ": " : "",
                weir_last_error());
        if (process.boot)
            weir_boot_fail(process.boot, status, weir_last_error()[0] ? weir_last_error() : "weir_perf gave up");
    }
    if (process.ctx)
        weir_boot_unattend(process.boot, weir_ctx_attend, process.ctx);
    weir_pool_destroy(process.pool);
    weir_ctx_destroy(process.ctx);
    weir_boot_destroy(process.boot);
    return status == WEIR_OK ? 0 : 1;
}

int main(int argc, char **argv)
{
    int result = run(argc, argv);
    bool lost = ferror(stdout); /* long ago: errno is of something else by now */
    if (fflush(stdout) == 0 && !lost)
        return result;
    fprintf(stderr, "weir_perf: the results cannot be written: %s\n", lost ? "is the disk full, or has its reader left?" : strerror(errno));
    return result ? result : 1;
}
