/* Data-parallel training of a classifier of Fashion-MNIST over Weir. `train --help` tells the options. */
#include "curve.h"
#include "exchange.h"
#include "fashion.h"
#include "model.h"
#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* One run: what all its steps work on. */
struct training {
    struct options options;
    struct exchange exchange;
    struct model model;
    struct fashion_set images, tests;
    double *weights;
    uint32_t *order; /* a permutation of the images, the same on all workers */
    double *loss;    /* sum over this worker's rows, by step; after the run, at worker 0: over all rows */
    size_t steps_per_epoch, steps;
    size_t first_row, rows; /* this worker's part of each batch */
    uint64_t order_seed;
    double seconds;
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int complain(weir_status status, const char *what)
{
    fprintf(stderr, "train: %s: %s: %s\n", what, weir_status_string(status), weir_last_error());
    return 1;
}

/* Fisher and Yates's shuffle with a linear congruential generator (Knuth's MMIX): the same everywhere. */
static void shuffle(struct training *run)
{
    for (size_t i = run->images.count - 1; i > 0; i--) {
        run->order_seed = run->order_seed * 6364136223846793005ull + 1442695040888963407ull;
        size_t k = (size_t)((run->order_seed >> 33) % (i + 1));
        uint32_t moved = run->order[i];
        run->order[i] = run->order[k];
        run->order[k] = moved;
    }
}

/* Reads the data and makes the model. The batch is split over the workers in contiguous parts, as equal as can be. */
static int prepare(struct training *run)
{
    const struct options *options = &run->options;
    size_t worker = (size_t)run->exchange.worker, workers = (size_t)run->exchange.workers;
    char error[4400];
    if (fashion_load(options->data, "train", options->limit, &run->images, error, sizeof(error)) != 0 ||
        fashion_load(options->data, "t10k", 0, &run->tests, error, sizeof(error)) != 0) {
        fprintf(stderr, "train: %s\n", error);
        return 1;
    }
    if (options->batch < workers || options->batch > run->images.count) {
        fprintf(stderr, "train: --batch %zu: with %zu workers and %zu images use %zu to %zu\n", options->batch, workers,
                run->images.count, workers, run->images.count);
        return 2;
    }
    run->first_row = options->batch * worker / workers;
    run->rows = options->batch * (worker + 1) / workers - run->first_row;
    run->steps_per_epoch = run->images.count / options->batch;
    run->steps = run->steps_per_epoch * options->epochs;
    run->order_seed = options->seed;
    run->order = malloc(run->images.count * sizeof(uint32_t));
    run->loss = calloc(run->steps, sizeof(double));
    size_t batch_max = run->rows > 256 ? run->rows : 256;
    if (model_init(&run->model, options->model, batch_max) == 0)
        run->weights = malloc(run->model.parameters * sizeof(double));
    if (!run->order || !run->loss || !run->weights) {
        fprintf(stderr, "train: out of memory\n");
        return 1;
    }
    for (size_t i = 0; i < run->images.count; i++)
        run->order[i] = (uint32_t)i;
    return 0;
}

/* This worker's part of one batch: loss and gradient, exchanged, applied. */
static weir_status step(struct training *run, size_t index)
{
    const struct exchange *exchange = &run->exchange;
    const uint32_t *rows = run->order + (index % run->steps_per_epoch) * run->options.batch + run->first_row;
    for (size_t i = 0; i < run->rows; i++)
        model_set_row(&run->model, i, run->images.images + (size_t)rows[i] * FASHION_PIXELS,
                      run->images.labels[rows[i]]);
    double scale = exchange_scale(exchange, run->rows, run->options.batch);
    run->loss[index] = model_loss_gradient(&run->model, run->weights, run->rows, scale, exchange->gradient);
    return exchange_step(&run->exchange, run->weights);
}

/* One line, at most every half second, from worker 0; the loss is its own mean over the steps since the last line. */
static void show_progress(const struct training *run, size_t done, double start_s)
{
    static double last_s;
    static size_t last_done;
    double now = now_s();
    if (run->options.quiet || run->exchange.worker != 0 || (done < run->steps && now - last_s < 0.5))
        return;
    struct exchange_cost cost;
    exchange_cost(&run->exchange, &cost);
    double loss = 0.0;
    for (size_t i = last_done; i < done; i++)
        loss += run->loss[i];
    loss /= (double)((done - last_done) * run->rows);
    printf("epoch %zu/%zu  step %5zu/%zu  loss %.4f  %6.0f images/s  %4.1f %% in communication\n",
           (done - 1) / run->steps_per_epoch + 1, run->options.epochs, done, run->steps, loss,
           (double)(done * run->options.batch) / (now - start_s), (double)cost.time_ns / 1e7 / (now - start_s));
    fflush(stdout);
    last_s = now;
    last_done = done;
}

static int train(struct training *run)
{
    model_randomize(&run->model, run->options.seed, run->weights);
    weir_status status =
        exchange_start(&run->exchange, run->weights, run->model.parameters, run->options.learning_rate);
    if (status != WEIR_OK)
        return complain(status, "starting the exchange");
    double start_s = now_s();
    for (size_t i = 0; i < run->steps; i++) {
        if (i % run->steps_per_epoch == 0)
            shuffle(run);
        if ((status = step(run, i)) != WEIR_OK)
            return complain(status, "exchanging gradients");
        show_progress(run, i + 1, start_s);
    }
    if ((status = exchange_barrier(&run->exchange)) != WEIR_OK)
        return complain(status, "waiting for the other workers");
    run->seconds = now_s() - start_s;
    return 0;
}

static int write_failed(const char *path)
{
    fprintf(stderr, "train: %s: %s\n", path, strerror(errno));
    return 1;
}

static int write_json(const struct training *run, const char *path, double accuracy, const double total[2])
{
    weir_ctx_attr attr;
    weir_ctx_query(run->exchange.ctx, &attr);
    FILE *file = fopen(path, "w");
    if (!file)
        return write_failed(path);
    fprintf(file,
            "{\"mode\": \"%s\", \"model\": \"%s\", \"workers\": %d, \"servers\": %d, \"network\": \"%s\", "
            "\"intranode\": \"%s\", \"epochs\": %zu, \"batch\": %zu, \"accuracy\": %.4f, \"seconds\": %.3f, "
            "\"images_per_second\": %.0f, \"bytes\": %.0f, \"communication_share\": %.4f, \"final_loss\": %.17g}\n",
            run->options.mode_name, run->options.model_name, run->exchange.workers, run->exchange.servers, attr.network,
            attr.intranode, run->options.epochs, run->options.batch, accuracy, run->seconds,
            (double)(run->steps * run->options.batch) / run->seconds, total[0],
            total[1] / 1e9 / run->seconds / run->exchange.workers, run->loss[run->steps - 1]);
    return fclose(file) == 0 ? 0 : write_failed(path);
}

/* Gathers what the workers know, at worker 0, and writes what was asked for. */
static int report(struct training *run)
{
    struct exchange_cost cost;
    exchange_cost(&run->exchange, &cost);
    double total[2] = {(double)cost.bytes, (double)cost.time_ns};
    weir_status status = exchange_sum(&run->exchange, "loss", run->loss, run->steps);
    if (status == WEIR_OK)
        status = exchange_sum(&run->exchange, "cost", total, 2);
    if (status != WEIR_OK)
        return complain(status, "gathering the results");
    if (run->exchange.worker != 0)
        return 0;
    for (size_t i = 0; i < run->steps; i++)
        run->loss[i] /= (double)run->options.batch;
    size_t right = model_count_right(&run->model, run->weights, run->tests.images, run->tests.labels, run->tests.count);
    double accuracy = (double)right / (double)run->tests.count;
    printf("test accuracy %.4f  in %.2f s  %.0f MB exchanged  %.1f %% in communication  (%s, %s, %d workers, %d "
           "servers)\n",
           accuracy, run->seconds, total[0] / 1e6, total[1] / 1e7 / run->seconds / run->exchange.workers,
           run->options.model_name, run->options.mode_name, run->exchange.workers, run->exchange.servers);
    struct curve curve = {run->options.mode_name, run->loss, run->steps};
    const struct options *options = &run->options;
    if (options->loss_file && curve_write_text(&curve, options->loss_file) != 0)
        return write_failed(options->loss_file);
    if (options->svg[0] && curve_write_svg(&curve, 1, "Fashion-MNIST", options->svg) != 0)
        return write_failed(options->svg);
    return options->json ? write_json(run, options->json, accuracy, total) : 0;
}

/* train plot OUT.svg NAME=FILE... */
static int plot(int argc, char **argv)
{
    enum { CURVES_MAX = 16 };
    struct curve curves[CURVES_MAX] = {{0}};
    int count = 0, result = 0;
    if (argc < 4 || argc - 3 > CURVES_MAX) {
        fprintf(stderr, "Usage: train plot OUT.svg NAME=LOSSFILE... (at most %d)\n", CURVES_MAX);
        return 2;
    }
    for (int i = 3; i < argc && result == 0; i++) {
        char *path = strchr(argv[i], '=');
        if (!path) {
            fprintf(stderr, "train plot: '%s': use NAME=LOSSFILE\n", argv[i]);
            result = 2;
            break;
        }
        *path++ = '\0';
        curves[count].name = argv[i];
        result = curve_read_text(&curves[count], path) == 0 ? 0 : write_failed(path);
        count++;
    }
    if (result == 0 && curve_write_svg(curves, (size_t)count, "Fashion-MNIST, training loss", argv[2]) != 0)
        result = write_failed(argv[2]);
    for (int i = 0; i < count; i++)
        free(curves[i].loss);
    return result;
}

/* All-reduce has no use for servers, the other modes need some: told before anybody waits for anybody. */
static bool servers_fit(const struct options *options)
{
    weir_config_entry entry;
    bool has_servers = false;
    for (size_t i = 0; weir_config_get(i, &entry) == WEIR_OK; i++)
        if (strcmp(entry.name, "WEIR_SERVERS") == 0)
            has_servers = atoi(entry.value) > 0;
    if (has_servers == (options->mode != EXCHANGE_ALLREDUCE))
        return true;
    fprintf(stderr, "train: --mode %s %s; start it with weir run -n 4%s -- train ...\n", options->mode_name,
            has_servers ? "has no use for parameter servers" : "needs parameter servers",
            has_servers ? "" : " --servers 2");
    return false;
}

int main(int argc, char **argv)
{
    struct training run = {0};
    int is_server;
    if (argc > 1 && strcmp(argv[1], "plot") == 0)
        return plot(argc, argv);
    int result = options_parse(argc, argv, &run.options);
    if (result != 0)
        return result == 1 ? 0 : result;
    if (!servers_fit(&run.options))
        return 2;
    weir_status status = exchange_init(&run.exchange, run.options.mode, &is_server);
    if (status != WEIR_OK)
        result = complain(status, "joining the job");
    else if (!is_server)
        result = prepare(&run);
    if (result == 0 && !is_server)
        result = train(&run);
    if (result == 0 && !is_server)
        result = report(&run);
    if (result != 0 && run.exchange.boot)
        weir_boot_fail(run.exchange.boot, WEIR_ERR_JOB_FAILED, "train gave up; its own output says why");
    exchange_fini(&run.exchange);
    model_fini(&run.model);
    fashion_free(&run.images);
    fashion_free(&run.tests);
    free(run.weights);
    free(run.order);
    free(run.loss);
    return result;
}
