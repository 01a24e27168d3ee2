/* The command line of the training program. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: weir run -n 4 [--servers 2] -- train [OPTIONS]\n"
    "Trains a classifier of Fashion-MNIST, data-parallel over the ranks of the job (one rank: alone).\n"
    "\n"
    "  --mode allreduce|ps-bsp|ps-async  how gradients are exchanged (default allreduce; ps-* need servers)\n"
    "  --model mlp|softmax               784-256-10 perceptron or softmax regression (default mlp)\n"
    "  --epochs N                        passes over the data (default 5)\n"
    "  --batch N                         images a step, over all ranks (default 128)\n"
    "  --lr X                            learning rate (default 0.1)\n"
    "  --seed N                          of initial weights and order (default 1)\n"
    "  --limit N                         use the first N training images only (default all)\n"
    "  --data DIR                        folder of the IDX files (default /usr/share/datasets/fashion-mnist)\n"
    "  --svg FILE                        draw the loss curve (default train.svg; '' for none)\n"
    "  --loss-file FILE                  write the loss of each step, one a line\n"
    "  --json FILE                       write the results as JSON\n"
    "  --quiet                           no progress lines\n"
    "  --help                            this text\n"
    "\n"
    "       train plot OUT.svg NAME=LOSSFILE...   draws several runs' loss files into one picture\n";

enum {
    OPT_MODE = 256,
    OPT_MODEL,
    OPT_EPOCHS,
    OPT_BATCH,
    OPT_LR,
    OPT_SEED,
    OPT_LIMIT,
    OPT_DATA,
    OPT_SVG,
    OPT_LOSS_FILE,
    OPT_JSON,
    OPT_QUIET,
    OPT_HELP
};

static const struct option long_options[] = {
    {"mode", required_argument, NULL, OPT_MODE},     {"model", required_argument, NULL, OPT_MODEL},
    {"epochs", required_argument, NULL, OPT_EPOCHS}, {"batch", required_argument, NULL, OPT_BATCH},
    {"lr", required_argument, NULL, OPT_LR},         {"seed", required_argument, NULL, OPT_SEED},
    {"limit", required_argument, NULL, OPT_LIMIT},   {"data", required_argument, NULL, OPT_DATA},
    {"svg", required_argument, NULL, OPT_SVG},       {"loss-file", required_argument, NULL, OPT_LOSS_FILE},
    {"json", required_argument, NULL, OPT_JSON},     {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, OPT_HELP},           {NULL, 0, NULL, 0},
};

static int parse_count(const char *name, const char *text, size_t low, size_t high, size_t *value)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno || *end || end == text || *text == '-' || number < low || number > high) {
        fprintf(stderr, "train: --%s %s: use a number from %zu to %zu\n", name, text, low, high);
        return 2;
    }
    *value = (size_t)number;
    return 0;
}

/* Index of `text` among `words`, or -1 after telling what there is. */
static int parse_word(const char *name, const char *text, const char *const words[], int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(text, words[i]) == 0)
            return i;
    fprintf(stderr, "train: --%s %s: use one of", name, text);
    for (int i = 0; i < count; i++)
        fprintf(stderr, " %s", words[i]);
    fprintf(stderr, "\n");
    return -1;
}

static int parse_rate(const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    if (!*end && end != text && *value > 0.0 && *value < 1000.0)
        return 0;
    fprintf(stderr, "train: --lr %s: use a positive number, e.g. 0.1\n", text);
    return 2;
}

static int parse_one(int option, const char *text, struct options *options)
{
    static const char *const modes[] = {"allreduce", "ps-bsp", "ps-async"};
    static const char *const models[] = {"softmax", "mlp"};
    size_t number;
    int word;
    switch (option) {
    case OPT_MODE:
        if ((word = parse_word("mode", text, modes, 3)) < 0)
            return 2;
        options->mode = (enum exchange_mode)word;
        options->mode_name = modes[word];
        return 0;
    case OPT_MODEL:
        if ((word = parse_word("model", text, models, 2)) < 0)
            return 2;
        options->model = (enum model_kind)word;
        options->model_name = models[word];
        return 0;
    case OPT_EPOCHS:
        return parse_count("epochs", text, 1, 10000, &options->epochs);
    case OPT_BATCH:
        return parse_count("batch", text, 1, 60000, &options->batch);
    case OPT_LR:
        return parse_rate(text, &options->learning_rate);
    case OPT_SEED:
        if (parse_count("seed", text, 0, 1u << 31, &number))
            return 2;
        options->seed = (unsigned long)number;
        return 0;
    case OPT_LIMIT:
        return parse_count("limit", text, 1, 60000, &options->limit);
    case OPT_DATA:
        options->data = text;
        return 0;
    case OPT_SVG:
        options->svg = text;
        return 0;
    case OPT_LOSS_FILE:
        options->loss_file = text;
        return 0;
    case OPT_JSON:
        options->json = text;
        return 0;
    case OPT_QUIET:
        options->quiet = 1;
        return 0;
    case OPT_HELP:
        fputs(usage, stdout);
        return 1;
    default:
        fprintf(stderr, "train --help lists the options\n");
        return 2;
    }
}

int options_parse(int argc, char **argv, struct options *options)
{
    *options = (struct options){
        .mode = EXCHANGE_ALLREDUCE,
        .mode_name = "allreduce",
        .model = MODEL_MLP,
        .model_name = "mlp",
        .data = "/usr/share/datasets/fashion-mnist",
        .epochs = 5,
        .batch = 128,
        .learning_rate = 0.1,
        .seed = 1,
        .svg = "train.svg",
    };
    int option;
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        int result = parse_one(option, optarg, options);
        if (result != 0)
            return result;
    }
    if (optind < argc) {
        fprintf(stderr, "train: '%s' is not an option; train --help lists them\n", argv[optind]);
        return 2;
    }
    return 0;
}
