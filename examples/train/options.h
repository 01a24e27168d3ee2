/* The command line of the training program. */
#ifndef TRAIN_OPTIONS_H
#define TRAIN_OPTIONS_H

#include "exchange.h"
#include "model.h"

struct options {
    enum exchange_mode mode;
    enum model_kind model;
    const char *mode_name, *model_name;
    const char *data; /* folder of the data set */
    size_t epochs, batch, limit;
    double learning_rate;
    unsigned long seed;
    const char *svg, *loss_file, *json;
    int quiet;
};

/* Returns 0 to go on, 1 when help was asked for and printed, 2 on a bad option, which was told on standard error. */
int options_parse(int argc, char **argv, struct options *options);

#endif
