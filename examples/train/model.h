/* Two classifiers of Fashion-MNIST: softmax regression, and a perceptron with one hidden layer (784-256-10, ReLU). */
#ifndef TRAIN_MODEL_H
#define TRAIN_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum model_kind { MODEL_SOFTMAX, MODEL_MLP };

/*
 * Arithmetic is in double precision: then the order in which ranks' gradients are summed changes the loss by 1e-15, and
 * a run on four ranks can be compared step by step with a run on one. In single precision a difference in the last bit
 * grows to 5 % within an epoch, through the kink of ReLU.
 */

/* Where one layer's weights (inputs x outputs, row by row) and biases lie in the flat parameters. */
struct layer {
    size_t inputs, outputs, weights, biases;
};

struct model {
    struct layer layer[2];
    int layers;
    size_t parameters; /* values in all */
    size_t batch_max;
    double *hidden; /* batch_max x hidden outputs, kept from forward to backward */
    double *scores; /* batch_max x classes: scores, then probabilities, then their gradient */
    double *hidden_gradient;
    double *images;  /* batch_max x pixels, normalised: the batch */
    uint8_t *labels; /* of the batch */
};

/* Returns 0, or -1 when memory is out. */
int model_init(struct model *model, enum model_kind kind, size_t batch_max);
void model_fini(struct model *model);

/* Fills `parameters` with small random values (He et al., arXiv:1502.01852), the same for the same seed everywhere. */
void model_randomize(const struct model *model, uint64_t seed, double *parameters);

/* Puts image `image` with its label into row `row` of the batch. */
void model_set_row(struct model *model, size_t row, const uint8_t *image, uint8_t label);

/*
 * The sum of the cross-entropy loss over the batch's first `count` rows; `gradient` becomes the gradient of
 * `scale` times that sum.
 */
double model_loss_gradient(struct model *model, const double *parameters, size_t count, double scale, double *gradient);

/* How many of `count` images are classified right. */
size_t model_count_right(struct model *model, const double *parameters, const uint8_t *images, const uint8_t *labels,
                         size_t count);

#endif
