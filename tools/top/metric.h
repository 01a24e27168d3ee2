/* A line of Prometheus' text format, taken apart; pure. What is read comes from files and from the network. */
#ifndef TOOLS_TOP_METRIC_H
#define TOOLS_TOP_METRIC_H

#include <stdbool.h>
#include <stddef.h>

enum { METRIC_LABELS_MAX = 8, METRIC_NAME_MAX = 64, METRIC_VALUE_MAX = 64 };

struct metric {
    char name[METRIC_NAME_MAX];
    struct {
        char name[METRIC_NAME_MAX], value[METRIC_VALUE_MAX];
    } labels[METRIC_LABELS_MAX];
    int label_count;
    double value;
};

/* False: a comment, an empty line, or one that cannot be right. `line` ends with a zero or a newline. */
bool metric_parse(const char *line, struct metric *metric);

/* The value of a label, "" where there is none. */
const char *metric_label(const struct metric *metric, const char *name);

#endif
