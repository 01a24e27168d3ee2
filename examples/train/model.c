/* Forward and backward passes, in terms of matrix products by CBLAS. */
#include "model.h"

#include "fashion.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cblas.h>

enum { HIDDEN = 256 };

static void add_layer(struct model *model, size_t inputs, size_t outputs)
{
    struct layer *layer = &model->layer[model->layers++];
    *layer = (struct layer){inputs, outputs, model->parameters, model->parameters + inputs * outputs};
    model->parameters = layer->biases + outputs;
}

int model_init(struct model *model, enum model_kind kind, size_t batch_max)
{
    *model = (struct model){.batch_max = batch_max};
    if (kind == MODEL_MLP) {
        add_layer(model, FASHION_PIXELS, HIDDEN);
        add_layer(model, HIDDEN, FASHION_CLASSES);
    } else {
        add_layer(model, FASHION_PIXELS, FASHION_CLASSES);
    }
    model->hidden = calloc(batch_max * HIDDEN, sizeof(double));
    model->hidden_gradient = calloc(batch_max * HIDDEN, sizeof(double));
    model->scores = calloc(batch_max * FASHION_CLASSES, sizeof(double));
    model->images = calloc(batch_max * FASHION_PIXELS, sizeof(double));
    model->labels = calloc(batch_max, 1);
    if (model->hidden && model->hidden_gradient && model->scores && model->images && model->labels)
        return 0;
    model_fini(model);
    return -1;
}

void model_fini(struct model *model)
{
    free(model->hidden);
    free(model->hidden_gradient);
    free(model->scores);
    free(model->images);
    free(model->labels);
    *model = (struct model){0};
}

void model_set_row(struct model *model, size_t row, const uint8_t *image, uint8_t label)
{
    fashion_normalize(image, model->images + row * FASHION_PIXELS);
    model->labels[row] = label;
}

/* SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), as a number in [-1, 1). */
static double random_value(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (double)((double)((z ^ (z >> 31)) >> 11) / 4503599627370496.0 - 1.0);
}

void model_randomize(const struct model *model, uint64_t seed, double *parameters)
{
    memset(parameters, 0, model->parameters * sizeof(double));
    for (int i = 0; i < model->layers; i++) {
        const struct layer *layer = &model->layer[i];
        double bound = sqrt(6.0 / (double)layer->inputs);
        for (size_t k = 0; k < layer->inputs * layer->outputs; k++)
            parameters[layer->weights + k] = bound * random_value(&seed);
    }
}

/* outputs = inputs * weights + biases, for `count` rows. */
static void layer_forward(const struct layer *layer, const double *parameters, const double *inputs, size_t count,
                          double *outputs)
{
    for (size_t i = 0; i < count; i++)
        memcpy(outputs + i * layer->outputs, parameters + layer->biases, layer->outputs * sizeof(double));
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, (int)layer->outputs, (int)layer->inputs, 1.0,
                inputs, (int)layer->inputs, parameters + layer->weights, (int)layer->outputs, 1.0, outputs,
                (int)layer->outputs);
}

/* Gradient of the weights and biases from that of the outputs. */
static void layer_backward(const struct layer *layer, const double *inputs, const double *output_gradient, size_t count,
                           double *gradient)
{
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)layer->inputs, (int)layer->outputs, (int)count, 1.0,
                inputs, (int)layer->inputs, output_gradient, (int)layer->outputs, 0.0, gradient + layer->weights,
                (int)layer->outputs);
    double *biases = gradient + layer->biases;
    memset(biases, 0, layer->outputs * sizeof(double));
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < layer->outputs; k++)
            biases[k] += output_gradient[i * layer->outputs + k];
}

static void forward(struct model *model, const double *parameters, size_t count)
{
    const double *inputs = model->images;
    if (model->layers == 2) {
        layer_forward(&model->layer[0], parameters, model->images, count, model->hidden);
        for (size_t i = 0; i < count * HIDDEN; i++)
            model->hidden[i] = model->hidden[i] > 0.0 ? model->hidden[i] : 0.0;
        inputs = model->hidden;
    }
    layer_forward(&model->layer[model->layers - 1], parameters, inputs, count, model->scores);
}

/* Scores become `scale` times the loss's gradient with respect to them; returns the loss. */
static double softmax_loss(double *scores, uint8_t label, double scale)
{
    double top = scores[0];
    double sum = 0.0;
    for (int k = 1; k < FASHION_CLASSES; k++)
        top = scores[k] > top ? scores[k] : top;
    for (int k = 0; k < FASHION_CLASSES; k++)
        sum += exp((double)(scores[k] - top));
    double loss = log(sum) - (double)(scores[label] - top);
    for (int k = 0; k < FASHION_CLASSES; k++)
        scores[k] = scale * ((double)(exp((double)(scores[k] - top)) / sum) - (k == label ? 1.0 : 0.0));
    return loss;
}

double model_loss_gradient(struct model *model, const double *parameters, size_t count, double scale, double *gradient)
{
    double loss = 0.0;
    forward(model, parameters, count);
    for (size_t i = 0; i < count; i++)
        loss += softmax_loss(model->scores + i * FASHION_CLASSES, model->labels[i], scale);
    const struct layer *last = &model->layer[model->layers - 1];
    if (model->layers == 1) {
        layer_backward(last, model->images, model->scores, count, gradient);
        return loss;
    }
    layer_backward(last, model->hidden, model->scores, count, gradient);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)count, HIDDEN, FASHION_CLASSES, 1.0, model->scores,
                FASHION_CLASSES, parameters + last->weights, FASHION_CLASSES, 0.0, model->hidden_gradient, HIDDEN);
    for (size_t i = 0; i < count * HIDDEN; i++)
        if (model->hidden[i] <= 0.0)
            model->hidden_gradient[i] = 0.0;
    layer_backward(&model->layer[0], model->images, model->hidden_gradient, count, gradient);
    return loss;
}

size_t model_count_right(struct model *model, const double *parameters, const uint8_t *images, const uint8_t *labels,
                         size_t count)
{
    size_t right = 0;
    for (size_t start = 0; start < count; start += model->batch_max) {
        size_t rows = count - start < model->batch_max ? count - start : model->batch_max;
        for (size_t i = 0; i < rows; i++)
            model_set_row(model, i, images + (start + i) * FASHION_PIXELS, labels[start + i]);
        forward(model, parameters, rows);
        for (size_t i = 0; i < rows; i++) {
            const double *scores = model->scores + i * FASHION_CLASSES;
            int best = 0;
            for (int k = 1; k < FASHION_CLASSES; k++)
                best = scores[k] > scores[best] ? k : best;
            right += best == labels[start + i];
        }
    }
    return right;
}
