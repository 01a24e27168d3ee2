/* Gradient exchange over Weir: set-up, one step, and what it cost. */
#include "exchange.h"

#include <stdio.h>

static weir_status serve(struct exchange *exchange)
{
    weir_ps_server *server = NULL;
    weir_status status = weir_ps_server_create(exchange->ctx, exchange->boot, &server);
    if (status == WEIR_OK)
        status = weir_ps_server_run(server);
    weir_ps_server_destroy(server);
    return status;
}

weir_status exchange_init(struct exchange *exchange, enum exchange_mode mode, int *is_server)
{
    *exchange = (struct exchange){.mode = mode};
    *is_server = 0;
    weir_status status = weir_boot_create(NULL, &exchange->boot);
    if (status != WEIR_OK)
        return status;
    weir_ctx_params params = {
        .size = sizeof(params),
        .id = (uint64_t)weir_boot_rank(exchange->boot),
        .bind_address = weir_boot_local_address(exchange->boot),
        .exchange = weir_boot_exchange(exchange->boot),
    };
    status = weir_ctx_create(&params, &exchange->ctx);
    if (status != WEIR_OK)
        return status;
    exchange->servers = weir_boot_servers(exchange->boot);
    exchange->worker = weir_boot_rank(exchange->boot);
    exchange->workers = weir_boot_size(exchange->boot) - exchange->servers;
    if (weir_boot_role(exchange->boot) == WEIR_ROLE_SERVER) {
        *is_server = 1;
        return serve(exchange);
    }
    status = weir_pool_create(exchange->ctx, 0, &exchange->pool);
    if (status == WEIR_OK && mode == EXCHANGE_ALLREDUCE)
        status = weir_comm_create(exchange->ctx, exchange->boot, NULL, &exchange->comm);
    else if (status == WEIR_OK)
        status = weir_ps_client_create(exchange->ctx, exchange->boot, &exchange->client);
    return status;
}

static weir_status open_table(struct exchange *exchange, const double *weights)
{
    weir_ps_table_params params = {
        .size = sizeof(params),
        .name = "weights",
        .count = exchange->parameters,
        .consistency = exchange->mode == EXCHANGE_PS_ASYNC ? WEIR_PS_ASYNC : WEIR_PS_BSP,
        .optimizer = WEIR_PS_SGD,
        .learning_rate = (float)exchange->learning_rate,
    };
    weir_status status = weir_ps_table_open(exchange->client, &params, &exchange->table);
    for (size_t i = 0; i < exchange->parameters; i++)
        exchange->weights32[i] = (float)weights[i];
    if (status == WEIR_OK && exchange->worker == 0)
        status = weir_ps_init(exchange->table, exchange->weights32);
    return status == WEIR_OK ? weir_ps_barrier(exchange->client) : status;
}

/* Takes the weights that a pull has brought. */
static void take_weights(const struct exchange *exchange, double *weights)
{
    for (size_t i = 0; i < exchange->parameters; i++)
        weights[i] = (double)exchange->weights32[i];
}

/* Worker 0's weights become everybody's. */
static weir_status share_weights(struct exchange *exchange, double *weights)
{
    if (exchange->mode == EXCHANGE_ALLREDUCE)
        return weir_broadcast(exchange->comm, weights, exchange->parameters, WEIR_F64, 0);
    size_t size = exchange->parameters * sizeof(float);
    weir_status status = weir_pool_alloc(exchange->pool, size, (void **)&exchange->gradient32, NULL);
    if (status == WEIR_OK)
        status = weir_pool_alloc(exchange->pool, size, (void **)&exchange->weights32, NULL);
    if (status == WEIR_OK)
        status = open_table(exchange, weights);
    if (status == WEIR_OK)
        status = weir_ps_pull(exchange->table, exchange->weights32);
    if (status == WEIR_OK)
        take_weights(exchange, weights);
    return status;
}

weir_status exchange_start(struct exchange *exchange, double *weights, size_t parameters, double learning_rate)
{
    struct exchange_cost cost;
    exchange->parameters = parameters;
    exchange->learning_rate = learning_rate;
    size_t size = parameters * sizeof(double);
    weir_status status = weir_pool_alloc(exchange->pool, size, (void **)&exchange->gradient, NULL);
    if (status == WEIR_OK)
        status = share_weights(exchange, weights);
    if (status == WEIR_OK)
        status = exchange_barrier(exchange);
    exchange_cost(exchange, &cost);
    exchange->start_bytes = cost.bytes;
    exchange->start_time_ns = cost.time_ns;
    return status;
}

double exchange_scale(const struct exchange *exchange, size_t local, size_t global)
{
    /* Summed over the workers (all-reduce, or one by one as they come) it has to be the mean of the global batch; the
     * server under BSP takes the mean of the workers itself. */
    return exchange->mode == EXCHANGE_PS_BSP ? 1.0 / (double)local : 1.0 / (double)global;
}

weir_status exchange_step(struct exchange *exchange, double *weights)
{
    weir_status status;
    if (exchange->mode == EXCHANGE_ALLREDUCE) {
        double *gradient = exchange->gradient;
        status = weir_allreduce(exchange->comm, gradient, gradient, exchange->parameters, WEIR_F64, WEIR_SUM);
        for (size_t i = 0; status == WEIR_OK && i < exchange->parameters; i++)
            weights[i] -= exchange->learning_rate * gradient[i];
        return status;
    }
    for (size_t i = 0; i < exchange->parameters; i++)
        exchange->gradient32[i] = (float)exchange->gradient[i];
    status = weir_ps_push_pull(exchange->table, exchange->gradient32, exchange->weights32);
    if (status == WEIR_OK)
        take_weights(exchange, weights);
    return status;
}

/* A value of the store holds so many doubles. */
enum { PART = 8192 };

/* Names one worker's part of a summed array; used once a job. */
static void part_key(char *key, size_t size, const char *name, int worker, size_t start)
{
    snprintf(key, size, "train/%s/%d/%zu", name, worker, start);
}

static weir_status add_part(struct exchange *exchange, const char *key, double *values, size_t count)
{
    double part[PART];
    size_t len = sizeof(part);
    weir_status status = weir_boot_get(exchange->boot, key, part, &len, -1);
    if (status == WEIR_OK && len != count * sizeof(double))
        return WEIR_ERR_MISMATCH;
    for (size_t i = 0; status == WEIR_OK && i < count; i++)
        values[i] += part[i];
    return status;
}

weir_status exchange_sum(struct exchange *exchange, const char *name, double *values, size_t count)
{
    char key[WEIR_BOOT_KEY_MAX];
    weir_status status = WEIR_OK;
    for (size_t start = 0; start < count && status == WEIR_OK; start += PART) {
        size_t part = count - start < PART ? count - start : PART;
        part_key(key, sizeof(key), name, exchange->worker, start);
        if (exchange->worker > 0)
            status = weir_boot_put(exchange->boot, key, values + start, part * sizeof(double));
        for (int worker = 1; exchange->worker == 0 && worker < exchange->workers && status == WEIR_OK; worker++) {
            part_key(key, sizeof(key), name, worker, start);
            status = add_part(exchange, key, values + start, part);
        }
    }
    return status;
}

void exchange_cost(const struct exchange *exchange, struct exchange_cost *cost)
{
    *cost = (struct exchange_cost){0};
    if (exchange->comm) {
        weir_comm_stats stats;
        weir_comm_query(exchange->comm, &stats);
        *cost = (struct exchange_cost){stats.bytes_sent, stats.time_ns};
    } else if (exchange->client) {
        weir_ps_stats stats;
        weir_ps_client_query(exchange->client, &stats);
        *cost = (struct exchange_cost){stats.bytes_sent + stats.bytes_received, stats.time_ns};
    }
    cost->bytes -= exchange->start_bytes;
    cost->time_ns -= exchange->start_time_ns;
}

weir_status exchange_barrier(struct exchange *exchange)
{
    return exchange->comm ? weir_barrier(exchange->comm) : weir_ps_barrier(exchange->client);
}

void exchange_fini(struct exchange *exchange)
{
    weir_ps_client_destroy(exchange->client);
    weir_comm_destroy(exchange->comm);
    weir_pool_destroy(exchange->pool);
    weir_ctx_destroy(exchange->ctx);
    weir_boot_destroy(exchange->boot);
    *exchange = (struct exchange){0};
}
