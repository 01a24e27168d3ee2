/* All ranks of a job with all-reduces of random lengths, whose sums are exact in f32 and known. */
#include "traffic.h"

#include <stdlib.h>

#define COUNT_MAX 100000u

struct sums {
    struct traffic *t;
    weir_boot *boot;
    weir_ctx *ctx;
    weir_pool *pool;
    weir_comm *comm;
    float *pooled, *ordinary;
};

static weir_status prepare(struct sums *s)
{
    weir_ctx_params params = {.size = sizeof(params)};
    weir_status status = weir_boot_create(NULL, &s->boot);
    if (status != WEIR_OK)
        return status;
    traffic_stage("joined");
    params.id = (uint64_t)weir_boot_rank(s->boot);
    params.bind_address = weir_boot_local_address(s->boot);
    params.exchange = weir_boot_exchange(s->boot);
    status = weir_ctx_create(&params, &s->ctx);
    if (status == WEIR_OK)
        status = weir_pool_create(s->ctx, 0, &s->pool);
    if (status == WEIR_OK)
        status = weir_pool_alloc(s->pool, COUNT_MAX * sizeof(float), (void **)&s->pooled, NULL);
    if (status != WEIR_OK)
        return status;
    traffic_stage("created");
    return weir_comm_create(s->ctx, s->boot, NULL, &s->comm);
}

static weir_status sum(struct sums *s, float *values, size_t count, unsigned turn)
{
    int n = weir_boot_size(s->boot), rank = weir_boot_rank(s->boot);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)((i + turn) % 1000 + (size_t)rank);
    weir_status status = weir_allreduce(s->comm, values, values, count, WEIR_F32, WEIR_SUM);
    for (size_t i = 0; status == WEIR_OK && i < count; i++)
        if (values[i] != (float)((i + turn) % 1000 * (size_t)n + (size_t)(n * (n - 1) / 2)))
            traffic_broken(s->t, "element %zu of all-reduce %u is %g", i, turn, (double)values[i]);
    return status;
}

static void exchange(struct sums *s)
{
    uint64_t random = s->t->seed + 1;
    for (unsigned i = 0; i < s->t->steps; i++) {
        if (i == s->t->steps / 2)
            traffic_stage("half");
        size_t count = traffic_random(&random) % (i % 3 == 0 ? COUNT_MAX : 100);
        if (traffic_failed(s->t, sum(s, i % 2 ? s->pooled : s->ordinary, count, i)))
            return;
    }
    traffic_failed(s->t, weir_barrier(s->comm));
    traffic_stage("done");
}

void traffic_job(struct traffic *t)
{
    struct sums s = {.t = t, .ordinary = malloc(COUNT_MAX * sizeof(float))};
    if (s.ordinary && !traffic_failed(t, prepare(&s)))
        exchange(&s);
    weir_comm_destroy(s.comm);
    weir_pool_destroy(s.pool);
    weir_ctx_destroy(s.ctx);
    weir_boot_destroy(s.boot);
    free(s.ordinary);
}
