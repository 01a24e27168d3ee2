/* Reads gzip-compressed IDX files with zlib; every length is checked, since files get damaged. */
#include "fashion.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

/* Of the training images, as their authors publish them: the data is shifted and scaled by these. */
#define PIXEL_MEAN      0.2860
#define PIXEL_DEVIATION 0.3530

enum { IDX_BYTES = 0x08, COUNT_MAX = 1 << 24 };

static uint32_t big_endian(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* Reads exactly `len` bytes or tells why not. */
static int read_exactly(gzFile file, const char *path, void *to, size_t len, char *error, size_t error_size)
{
    int got = gzread(file, to, (unsigned)len);
    if (got == (int)len)
        return 0;
    int code;
    const char *text = gzerror(file, &code);
    if (code == Z_OK || code == Z_STREAM_END || code == Z_BUF_ERROR)
        snprintf(error, error_size, "%s: the file ends too early; it is damaged, fetch it again", path);
    else
        snprintf(error, error_size, "%s: damaged (%s); fetch it again", path, text);
    return -1;
}

/* Opens an IDX file of bytes with `dimensions` dimensions and reads their sizes. */
static gzFile open_idx(const char *path, int dimensions, uint32_t *size, char *error, size_t error_size)
{
    unsigned char header[4 + 4 * 3];
    gzFile file = gzopen(path, "rb");
    if (!file) {
        snprintf(error, error_size,
                 "%s: %s; install the package dataset-fashion-mnist or name another folder with --data", path,
                 strerror(errno));
        return NULL;
    }
    size_t len = 4 + 4 * (size_t)dimensions;
    if (read_exactly(file, path, header, len, error, error_size) != 0) {
        gzclose(file);
        return NULL;
    }
    if (header[0] || header[1] || header[2] != IDX_BYTES || header[3] != dimensions) {
        snprintf(error, error_size, "%s: not an IDX file of bytes with %d dimensions", path, dimensions);
        gzclose(file);
        return NULL;
    }
    for (int i = 0; i < dimensions; i++)
        size[i] = big_endian(header + 4 + 4 * i);
    return file;
}

static int read_images(const char *path, size_t limit, struct fashion_set *set, char *error, size_t error_size)
{
    uint32_t size[3];
    gzFile file = open_idx(path, 3, size, error, error_size);
    if (!file)
        return -1;
    int result = -1;
    if (size[0] == 0 || size[0] > COUNT_MAX || size[1] * (uint64_t)size[2] != FASHION_PIXELS) {
        snprintf(error, error_size, "%s: %u images of %u x %u; 28 x 28 are expected", path, size[0], size[1], size[2]);
        goto out;
    }
    set->count = limit && limit < size[0] ? limit : size[0];
    set->images = malloc(set->count * FASHION_PIXELS);
    if (!set->images) {
        snprintf(error, error_size, "%s: no memory for %zu images", path, set->count);
        goto out;
    }
    for (size_t i = 0; i < set->count; i++)
        if (read_exactly(file, path, set->images + i * FASHION_PIXELS, FASHION_PIXELS, error, error_size) != 0)
            goto out;
    result = 0;
out:
    gzclose(file);
    return result;
}

static int read_labels(const char *path, struct fashion_set *set, char *error, size_t error_size)
{
    uint32_t count;
    gzFile file = open_idx(path, 1, &count, error, error_size);
    if (!file)
        return -1;
    int result = -1;
    if (count < set->count) {
        snprintf(error, error_size, "%s: %u labels for %zu images", path, count, set->count);
        goto out;
    }
    set->labels = malloc(set->count);
    if (!set->labels) {
        snprintf(error, error_size, "%s: no memory for %zu labels", path, set->count);
        goto out;
    }
    if (read_exactly(file, path, set->labels, set->count, error, error_size) != 0)
        goto out;
    for (size_t i = 0; i < set->count; i++) {
        if (set->labels[i] >= FASHION_CLASSES) {
            snprintf(error, error_size, "%s: label %zu is %u; 0 to 9 are expected", path, i, set->labels[i]);
            goto out;
        }
    }
    result = 0;
out:
    gzclose(file);
    return result;
}

int fashion_load(const char *folder, const char *name, size_t limit, struct fashion_set *set, char *error,
                 size_t error_size)
{
    char path[4096];
    *set = (struct fashion_set){0};
    snprintf(path, sizeof(path), "%s/%s-images-idx3-ubyte.gz", folder, name);
    if (read_images(path, limit, set, error, error_size) == 0) {
        snprintf(path, sizeof(path), "%s/%s-labels-idx1-ubyte.gz", folder, name);
        if (read_labels(path, set, error, error_size) == 0)
            return 0;
    }
    fashion_free(set);
    return -1;
}

void fashion_normalize(const uint8_t *image, double *values)
{
    for (size_t i = 0; i < FASHION_PIXELS; i++)
        values[i] = ((double)image[i] / 255.0 - PIXEL_MEAN) / PIXEL_DEVIATION;
}

void fashion_free(struct fashion_set *set)
{
    free(set->images);
    free(set->labels);
    *set = (struct fashion_set){0};
}
