#include "metric.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const char *skip_blanks(const char *at)
{
    while (*at == ' ' || *at == '\t')
        at++;
    return at;
}

/* Takes a name (letters, digits, _ and :) off the text. NULL: there is none, or it is too long. */
static const char *take_name(const char *at, char name[METRIC_NAME_MAX])
{
    size_t len = 0;
    while (isalnum((unsigned char)at[len]) || at[len] == '_' || at[len] == ':')
        len++;
    if (len == 0 || len >= METRIC_NAME_MAX)
        return NULL;
    memcpy(name, at, len);
    name[len] = '\0';
    return at + len;
}

/* Takes a quoted value, in which \" \\ and \n stand for themselves. */
static const char *take_quoted(const char *at, char value[METRIC_VALUE_MAX])
{
    size_t len = 0;
    if (*at++ != '"')
        return NULL;
    while (*at != '"') {
        char c = *at++;
        if (c == '\\' && *at)
            c = *at == 'n' ? ' ' : *at, at++;
        if (c == '\0' || c == '\n' || len + 1 >= METRIC_VALUE_MAX)
            return NULL;
        value[len++] = c >= ' ' && c < 0x7f ? c : '?'; /* it will be shown on a terminal, some of which obey bytes above, too */
    }
    value[len] = '\0';
    return at + 1;
}

static const char *take_labels(const char *at, struct metric *metric)
{
    if (*at != '{')
        return at;
    at = skip_blanks(at + 1);
    while (*at != '}') {
        if (metric->label_count == METRIC_LABELS_MAX)
            return NULL;
        at = take_name(at, metric->labels[metric->label_count].name);
        if (!at || *(at = skip_blanks(at)) != '=')
            return NULL;
        at = take_quoted(skip_blanks(at + 1), metric->labels[metric->label_count].value);
        if (!at)
            return NULL;
        metric->label_count++;
        at = skip_blanks(at);
        if (*at == ',')
            at = skip_blanks(at + 1);
        else if (*at != '}')
            return NULL;
    }
    return at + 1;
}

bool metric_parse(const char *line, struct metric *metric)
{
    char *end;
    metric->label_count = 0;
    const char *at = take_name(skip_blanks(line), metric->name);
    if (at)
        at = take_labels(skip_blanks(at), metric);
    if (!at || *(at = skip_blanks(at)) == '\0' || *at == '\n')
        return false;
    metric->value = strtod(at, &end);
    return end != at && strchr(" \t\r\n", *end); /* a time stamp may follow; the final zero is found, too */
}

const char *metric_label(const struct metric *metric, const char *name)
{
    for (int i = 0; i < metric->label_count; i++)
        if (strcmp(metric->labels[i].name, name) == 0)
            return metric->labels[i].value;
    return "";
}
