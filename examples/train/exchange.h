/*
 * What makes the training data-parallel, and all of it that is Weir's: gradients are exchanged by ring all-reduce or
 * through the parameter server. A job of one rank exchanges with nobody.
 */
#ifndef TRAIN_EXCHANGE_H
#define TRAIN_EXCHANGE_H

#include <weir/weir.h>

enum exchange_mode { EXCHANGE_ALLREDUCE, EXCHANGE_PS_BSP, EXCHANGE_PS_ASYNC };

struct exchange {
    enum exchange_mode mode;
    weir_boot *boot;
    weir_ctx *ctx;
    weir_pool *pool;
    weir_comm *comm;        /* all-reduce */
    weir_ps_client *client; /* parameter server */
    weir_ps_table *table;
    int worker, workers, servers;
    size_t parameters;
    double learning_rate;
    double *gradient; /* in registered memory: the caller writes the local gradient here */
    float *gradient32, *weights32;
    uint64_t start_bytes, start_time_ns; /* cost of setting up, which is not counted */
};

/* What the exchange has cost this worker since exchange_start(). */
struct exchange_cost {
    uint64_t bytes; /* payload, sent and received */
    uint64_t time_ns;
};

/* Joins the job. A server serves here until the workers have left, then `*is_server` is 1. Errors: as Weir's. */
weir_status exchange_init(struct exchange *exchange, enum exchange_mode mode, int *is_server);

/*
 * Makes ready to exchange `parameters` values: worker 0's `weights` become everybody's, and all workers are here on
 * return. The learning rate is for the mean gradient of the global batch.
 */
weir_status exchange_start(struct exchange *exchange, double *weights, size_t parameters, double learning_rate);

/* By what a worker scales the sum of its gradients over its `local` rows of the batch of `global` rows. */
double exchange_scale(const struct exchange *exchange, size_t local, size_t global);

/* Exchanges the gradient and brings `weights` up to date. */
weir_status exchange_step(struct exchange *exchange, double *weights);

/* Adds up `values` of all workers into worker 0's `values`. Off the clock, through the store. */
weir_status exchange_sum(struct exchange *exchange, const char *name, double *values, size_t count);

void exchange_cost(const struct exchange *exchange, struct exchange_cost *cost);

/* Waits until all workers are here. */
weir_status exchange_barrier(struct exchange *exchange);

/* Leaves the job; also after an error in any of the above. */
void exchange_fini(struct exchange *exchange);

#endif
