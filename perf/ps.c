/* The parameter server: push, pull or push_pull of tables of each size, from all workers at once. */
#include "perf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum operation { PUSH, PULL, PUSH_PULL };

static enum operation operation_of(const struct options *options)
{
    if (!options->operation || strcmp(options->operation, "push_pull") == 0)
        return PUSH_PULL;
    return strcmp(options->operation, "push") == 0 ? PUSH : PULL;
}

static weir_status once(weir_ps_table *table, enum operation operation, const float *gradient, float *weights)
{
    switch (operation) {
    case PUSH:
        return weir_ps_push(table, gradient);
    case PULL:
        return weir_ps_pull(table, weights);
    default:
        return weir_ps_push_pull(table, gradient, weights);
    }
}

/* With a rate of -1 a gradient of ones adds one: after all pushes each weight is their number, if none was lost. */
static weir_status check(struct process *process, weir_ps_client *client, weir_ps_table *table, float *weights,
                         size_t count, size_t pushes)
{
    weir_status status = weir_ps_barrier(client);
    if (status == WEIR_OK)
        status = weir_ps_pull(table, weights);
    for (size_t i = 0; status == WEIR_OK && i < count; i++)
        if (weights[i] != (float)pushes)
            return check_failed(process, count * sizeof(float), i * sizeof(float));
    return status;
}

static weir_status measure(struct process *process, weir_ps_client *client, size_t size, float *gradient,
                           float *weights)
{
    const struct options *options = process->options;
    enum operation operation = operation_of(options);
    size_t count = size / sizeof(float), rounds = iterations_for(options, size);
    size_t warmup = options->warmup ? options->warmup : rounds / 10 + 1;
    int workers = process->ranks - weir_boot_servers(process->boot);
    char name[32];
    snprintf(name, sizeof(name), "perf-%zu", size);
    weir_ps_table_params params = {
        .size = sizeof(params), .name = name, .count = count, .consistency = WEIR_PS_ASYNC, .learning_rate = -1.0f};
    weir_ps_table *table;
    double *samples = calloc(rounds, sizeof(double));
    weir_status status = samples ? weir_ps_table_open(client, &params, &table) : WEIR_ERR_NO_MEMORY;
    for (size_t i = 0; i < count; i++)
        gradient[i] = i == 0 && options->self_test ? 2.0f : 1.0f;
    for (size_t i = 0; i < warmup && status == WEIR_OK; i++)
        status = once(table, operation, gradient, weights);
    if (status == WEIR_OK)
        status = weir_ps_barrier(client);
    double last = now_s();
    for (size_t i = 0; i < rounds && status == WEIR_OK; i++) {
        status = once(table, operation, gradient, weights);
        double now = now_s();
        samples[i] = now - last;
        last = now;
    }
    if (status == WEIR_OK && options->check)
        status =
            check(process, client, table, weights, count, operation == PULL ? 0 : (warmup + rounds) * (size_t)workers);
    if (status == WEIR_OK && process->rank == 0) {
        struct result result;
        result_from_samples(samples, rounds, 1, size, &result);
        report_result(process, &result);
    }
    free(samples);
    return status;
}

static weir_status serve(struct process *process)
{
    weir_ps_server *server = NULL;
    weir_status status = weir_ps_server_create(process->ctx, process->boot, &server);
    if (status == WEIR_OK)
        status = weir_ps_server_run(server);
    weir_ps_server_destroy(server);
    return status;
}

weir_status run_ps(struct process *process)
{
    const struct options *options = process->options;
    weir_ps_client *client = NULL;
    float *gradient = NULL, *weights = NULL;
    size_t room = 64;
    if (weir_boot_role(process->boot) == WEIR_ROLE_SERVER)
        return serve(process);
    for (int i = 0; i < options->size_count; i++)
        room = options->sizes[i] > room ? options->sizes[i] : room;
    weir_status status = weir_ps_client_create(process->ctx, process->boot, &client);
    if (status == WEIR_OK && options->ordinary) {
        gradient = malloc(room);
        weights = malloc(room);
        status = gradient && weights ? WEIR_OK : WEIR_ERR_NO_MEMORY;
    } else if (status == WEIR_OK) {
        status = weir_pool_alloc(process->pool, room, (void **)&gradient, NULL);
        if (status == WEIR_OK)
            status = weir_pool_alloc(process->pool, room, (void **)&weights, NULL);
    }
    if (status == WEIR_OK && process->rank == 0)
        report_begin(process);
    for (int i = 0; i < options->size_count && status == WEIR_OK; i++)
        status = measure(process, client, options->sizes[i] / sizeof(float) * sizeof(float), gradient, weights);
    if (status == WEIR_OK && process->rank == 0)
        report_end(process);
    weir_ps_client_destroy(client);
    if (options->ordinary) {
        free(gradient);
        free(weights);
    }
    return status;
}
