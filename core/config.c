/*
 * The configuration: config_vars.h turned into a table, the table into parsing, errors and descriptions. The only file
 * of the library that reads the environment.
 */
#include "core/config.h"

#include "core/error.h"
#include "core/forms.h"
#include "core/log.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

enum kind { KIND_SIZE, KIND_DURATION, KIND_INT, KIND_POWER, KIND_CHOICE, KIND_TEXT };

struct variable {
    enum kind kind;
    const char *name, *fallback, *default_text;
    const char *low, *high; /* as text; NULL for choice and text */
    const char *range;      /* for people; a choice's words */
    const char *help;
    size_t offset;                     /* of its field in struct wi_config */
    const char *(*check)(const char *); /* of a text's form: NULL or what is wrong; NULL: anything goes */
};

#define ROW(_kind, _field, _name, _fallback, _default, _low, _high, _range, _help)                                     \
    {_kind, _name, _fallback, _default, _low, _high, _range, _help, offsetof(struct wi_config, _field), NULL},
#define WI_CONFIG_SIZE(_field, _name, _fallback, _default, _low, _high, _help)                                         \
    ROW(KIND_SIZE, _field, _name, _fallback, _default, _low, _high, _low ".." _high, _help)
#define WI_CONFIG_DURATION(_field, _name, _fallback, _default, _low, _high, _help)                                     \
    ROW(KIND_DURATION, _field, _name, _fallback, _default, _low, _high, _low ".." _high, _help)
#define WI_CONFIG_INT(_field, _name, _fallback, _default, _low, _high, _help)                                          \
    ROW(KIND_INT, _field, _name, _fallback, _default, #_low, #_high, #_low ".." #_high, _help)
#define WI_CONFIG_POWER(_field, _name, _fallback, _default, _low, _high, _help)                                        \
    ROW(KIND_POWER, _field, _name, _fallback, _default, #_low, #_high, #_low ".." #_high ", a power of two", _help)
#define WI_CONFIG_CHOICE(_field, _name, _fallback, _default, _words, _help)                                            \
    ROW(KIND_CHOICE, _field, _name, _fallback, _default, NULL, NULL, _words, _help)
#define WI_CONFIG_TEXT(_field, _name, _fallback, _default, _help)                                                      \
    ROW(KIND_TEXT, _field, _name, _fallback, _default, NULL, NULL, "", _help)
#define WI_CONFIG_FORM(_field, _name, _fallback, _default, _check, _form, _help)                                       \
    {KIND_TEXT, _name, _fallback, _default, NULL, NULL, _form, _help, offsetof(struct wi_config, _field), _check},

static const struct variable variables[] = {
#include "core/config_vars.h"
};

enum { VARIABLE_COUNT = sizeof(variables) / sizeof(variables[0]) };
enum { TEXT_SIZE = sizeof(((struct wi_config *)0)->log_file) };

/* What was read, once a process. */
static struct {
    pthread_once_t once;
    struct wi_config config;
    weir_config_entry entries[VARIABLE_COUNT];
    weir_status status;
    char sentence[512];
} loaded = {.once = PTHREAD_ONCE_INIT};

/* ---- One value --------------------------------------------------------------------------------------------------- */

enum verdict { FITS, NOT_OF_KIND, OUT_OF_RANGE };

/* Which of "a|b|c" is `text`? -1: none. */
static int choice_index(const char *words, const char *text)
{
    size_t len = strlen(text);
    for (int index = 0; words; index++) {
        const char *end = strchrnul(words, '|');
        if ((size_t)(end - words) == len && strncmp(words, text, len) == 0)
            return index;
        words = *end ? end + 1 : NULL;
    }
    return -1;
}

static bool parse_int(const char *text, int64_t *value)
{
    char *end;
    if (*text != '-' && (*text < '0' || *text > '9')) /* strtoll() would pass over blanks */
        return false;
    errno = 0;
    *value = strtoll(text, &end, 10);
    return errno == 0 && end != text && *end == '\0';
}

static bool parse_unsigned(const struct variable *var, const char *text, uint64_t *value)
{
    return var->kind == KIND_SIZE ? wi_parse_size(text, value) : wi_parse_duration(text, value);
}

static enum verdict store_unsigned(const struct variable *var, const char *text, void *field)
{
    uint64_t value, low, high;
    if (!parse_unsigned(var, text, &value))
        return NOT_OF_KIND;
    if (!parse_unsigned(var, var->low, &low) || !parse_unsigned(var, var->high, &high) || value < low || value > high)
        return OUT_OF_RANGE;
    memcpy(field, &value, sizeof(value));
    return FITS;
}

static enum verdict store_int(const struct variable *var, const char *text, void *field)
{
    int64_t value, low, high;
    if (!parse_int(text, &value))
        return NOT_OF_KIND;
    if (!parse_int(var->low, &low) || !parse_int(var->high, &high) || value < low || value > high)
        return OUT_OF_RANGE;
    if (var->kind == KIND_POWER && (value & (value - 1)) != 0)
        return OUT_OF_RANGE;
    memcpy(field, &value, sizeof(value));
    return FITS;
}

static enum verdict store_choice(const struct variable *var, const char *text, void *field)
{
    int index = choice_index(var->range, text);
    if (index < 0)
        return NOT_OF_KIND;
    memcpy(field, &index, sizeof(index));
    return FITS;
}

static enum verdict store_text(const struct variable *var, const char *text, void *field)
{
    size_t len = strlen(text);
    if (len >= TEXT_SIZE)
        return OUT_OF_RANGE;
    if (len > 0 && var->check && var->check(text))
        return NOT_OF_KIND;
    memcpy(field, text, len + 1);
    return FITS;
}

/* Parses `text` into the variable's field, which stays as it was unless it fits. */
static enum verdict store(const struct variable *var, const char *text, struct wi_config *config)
{
    void *field = (char *)config + var->offset;
    switch (var->kind) {
    case KIND_SIZE:
    case KIND_DURATION:
        return store_unsigned(var, text, field);
    case KIND_INT:
    case KIND_POWER:
        return store_int(var, text, field);
    case KIND_CHOICE:
        return store_choice(var, text, field);
    case KIND_TEXT:
        return store_text(var, text, field);
    }
    return NOT_OF_KIND;
}

/* The sentence about a value that was refused; `name` is the variable that it came from. */
static void complain(const struct variable *var, const char *name, const char *text, enum verdict verdict,
                     char *sentence, size_t size)
{
    int used = snprintf(sentence, size, "%s=%.64s%s: ", name, text, strlen(text) > 64 ? "..." : "");
    sentence += used;
    size -= (size_t)used;
    if (var->kind == KIND_TEXT && verdict == NOT_OF_KIND)
        snprintf(sentence, size, "%s", var->check(text));
    else if (var->kind == KIND_TEXT)
        snprintf(sentence, size, "too long; use at most %d bytes", TEXT_SIZE - 1);
    else if (var->kind == KIND_CHOICE)
        snprintf(sentence, size, "not a choice; use one of %s", var->range);
    else if (verdict == OUT_OF_RANGE)
        snprintf(sentence, size, "out of range; use %s", var->range);
    else if (var->kind == KIND_SIZE || var->kind == KIND_DURATION)
        snprintf(sentence, size, "not a %s; use e.g. %s", var->kind == KIND_SIZE ? "size" : "duration",
                 var->default_text);
    else
        snprintf(sentence, size, "not a number; use %s", var->range);
}

/* ---- Unknown names ----------------------------------------------------------------------------------------------- */

enum { NAME_MAX_LEN = 64 }; /* what is longer is cut */

/* How many letters must be changed, added or left out (Levenshtein 1966). `b` has at most NAME_MAX_LEN. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t len = strnlen(b, NAME_MAX_LEN), row[NAME_MAX_LEN + 1];
    for (size_t k = 0; k <= len; k++)
        row[k] = k;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t k = 1; k <= len; k++) {
            size_t change = diagonal + (a[i - 1] != b[k - 1]);
            size_t gap = 1 + (row[k] < row[k - 1] ? row[k] : row[k - 1]);
            diagonal = row[k];
            row[k] = change < gap ? change : gap;
        }
    }
    return row[len];
}

static bool is_known(const char *name)
{
    for (size_t i = 0; i < VARIABLE_COUNT; i++)
        if (strcmp(variables[i].name, name) == 0 || (variables[i].fallback && strcmp(variables[i].fallback, name) == 0))
            return true;
    return false;
}

/* How far a name is from one of ours. Of two at the same distance the one that begins alike is meant. */
static size_t unlikeness(const char *name, const char *ours)
{
    size_t alike = 0;
    while (name[alike] && name[alike] == ours[alike])
        alike++;
    return (edit_distance(name, ours) + 1) * (NAME_MAX_LEN + 1) - alike;
}

static void warn_of_unknown(const char *name)
{
    const struct variable *nearest = &variables[0];
    for (size_t i = 1; i < VARIABLE_COUNT; i++)
        if (unlikeness(name, variables[i].name) < unlikeness(name, nearest->name))
            nearest = &variables[i];
    wi_warn("environment: %s is not a variable of Weir; did you mean %s? `weir info --env` lists them", name,
            nearest->name);
}

static void warn_of_all_unknown(void)
{
    for (char **entry = environ; entry && *entry; entry++) { /* NULL: after clearenv() */
        char name[NAME_MAX_LEN + 1];
        size_t len = strcspn(*entry, "=");
        if (strncmp(*entry, "WEIR_", 5) != 0)
            continue;
        snprintf(name, sizeof(name), "%.*s", (int)(len < NAME_MAX_LEN ? len : NAME_MAX_LEN), *entry);
        if (!is_known(name))
            warn_of_unknown(name);
    }
}

/* ---- Loading ----------------------------------------------------------------------------------------------------- */

/* An empty variable counts as one that is not set: shells cannot always tell them apart. */
static const char *value_of(const char *name)
{
    const char *text = name ? getenv(name) : NULL;
    return text && *text ? text : NULL;
}

static void load_variable(const struct variable *var, weir_config_entry *entry)
{
    static const char *const types[] = {"size", "duration", "integer", "integer", "choice", "text"};
    const char *name = var->name, *text = value_of(name);
    if (!text && (text = value_of(var->fallback)))
        name = var->fallback;
    *entry = (weir_config_entry){
        .name = var->name,
        .fallback_name = var->fallback,
        .type = types[var->kind],
        .default_value = var->default_text,
        .range = var->range,
        .help = var->help,
        .source = text ? "environment" : "default",
    };
    snprintf(entry->value, sizeof(entry->value), "%s", text ? text : var->default_text);
    store(var, var->default_text, &loaded.config);
    enum verdict verdict = text ? store(var, text, &loaded.config) : FITS;
    if (verdict == FITS)
        return;
    entry->source = "invalid";
    if (loaded.status == WEIR_OK)
        complain(var, name, text, verdict, loaded.sentence, sizeof(loaded.sentence));
    loaded.status = WEIR_ERR_CONFIG;
}

/* torchrun has a store of its own on the port that it passes on, served by its agent or by PyTorch's rank 0: ours takes the next. */
static void leave_torch_its_port(void)
{
    int64_t port = loaded.config.master_port;
    if (loaded.status != WEIR_OK || !value_of("TORCHELASTIC_RUN_ID") || value_of("WEIR_MASTER_PORT") ||
        !value_of("MASTER_PORT"))
        return;
    loaded.config.master_port = port < 65535 ? port + 1 : port - 1;
    for (size_t i = 0; i < VARIABLE_COUNT; i++)
        if (strcmp(variables[i].name, "WEIR_MASTER_PORT") == 0)
            snprintf(loaded.entries[i].value, sizeof(loaded.entries[i].value), "%d", (int)loaded.config.master_port);
}

static void load(void)
{
    for (size_t i = 0; i < VARIABLE_COUNT; i++)
        load_variable(&variables[i], &loaded.entries[i]);
    leave_torch_its_port();
    wi_log_setup(loaded.config.log_level, loaded.config.log_file);
    if (wi_config_is_set("WEIR_RANK"))
        wi_log_set_rank((int)loaded.config.rank);
    warn_of_all_unknown();
}

weir_status weir_config_load(void)
{
    pthread_once(&loaded.once, load);
    return loaded.status == WEIR_OK ? WEIR_OK : wi_error(loaded.status, "%s", loaded.sentence);
}

weir_status wi_config_load(const struct wi_config **config)
{
    weir_status status = weir_config_load();
    if (status == WEIR_OK)
        *config = &loaded.config;
    return status;
}

const struct wi_config *wi_config(void)
{
    return &loaded.config;
}

const char *wi_config_foreign(const char *name)
{
    return getenv(name);
}

/* ---- Descriptions ------------------------------------------------------------------------------------------------ */

bool wi_config_is_set(const char *name)
{
    for (size_t i = 0; i < VARIABLE_COUNT; i++)
        if (loaded.entries[i].name && strcmp(loaded.entries[i].name, name) == 0)
            return strcmp(loaded.entries[i].source, "environment") == 0;
    return false;
}

size_t weir_config_count(void)
{
    return VARIABLE_COUNT;
}

weir_status weir_config_get(size_t index, weir_config_entry *entry)
{
    if (index >= VARIABLE_COUNT || !entry)
        return wi_error(WEIR_ERR_INVALID, "configuration variable %zu: there are %d", index, VARIABLE_COUNT);
    pthread_once(&loaded.once, load);
    *entry = loaded.entries[index];
    return WEIR_OK;
}
