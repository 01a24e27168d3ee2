/* Fashion-MNIST, read from its four gzip-compressed IDX files (Xiao, Rasul, Vollgraf, arXiv:1708.07747). */
#ifndef TRAIN_FASHION_H
#define TRAIN_FASHION_H

#include <stddef.h>
#include <stdint.h>

enum { FASHION_PIXELS = 28 * 28, FASHION_CLASSES = 10 };

/* Images as rows of FASHION_PIXELS grey values 0..255, labels 0..9. */
struct fashion_set {
    uint8_t *images;
    uint8_t *labels;
    size_t count;
};

/*
 * Reads one set ("train" or "t10k") from `folder`; at most `limit` images, 0: all. Returns 0, or -1 with a sentence in
 * `error` that names the file and what is wrong with it. The caller frees the set with fashion_free().
 */
int fashion_load(const char *folder, const char *name, size_t limit, struct fashion_set *set, char *error,
                 size_t error_size);
void fashion_free(struct fashion_set *set);

/* Writes one image as FASHION_PIXELS normalised values: mean 0 and deviation 1 over the training set. */
void fashion_normalize(const uint8_t *image, double *values);

#endif
