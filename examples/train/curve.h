/* Loss curves: kept as text files of one loss a line, drawn as SVG. */
#ifndef TRAIN_CURVE_H
#define TRAIN_CURVE_H

#include <stddef.h>

struct curve {
    const char *name;
    double *loss; /* one a step */
    size_t steps;
};

/* Writes one loss a line. Returns 0, or -1 with errno set. */
int curve_write_text(const struct curve *curve, const char *path);

/* Reads what curve_write_text() wrote; the caller frees `loss`. Returns 0, or -1 with errno set (EINVAL: not such a
 * file). */
int curve_read_text(struct curve *curve, const char *path);

/* Draws the curves, each smoothed over a hundredth of its length, into an SVG file. Returns 0, or -1 with errno set. */
int curve_write_svg(const struct curve *curves, size_t count, const char *title, const char *path);

#endif
