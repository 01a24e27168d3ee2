/*
 * Fuzzes what reads the environment: the parsers and every variable of the table, with its complaint. The file under
 * test is included, since its parts are static.
 */
#include "core/config.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good)
        __builtin_trap();
}

/* What was read, written out as a plain number, reads the same. */
static void check_parser(bool (*parse)(const char *, uint64_t *), const char *text, const char *unit)
{
    uint64_t value, again;
    char plain[32];
    if (!parse(text, &value))
        return;
    snprintf(plain, sizeof(plain), "%llu%s", (unsigned long long)value, unit);
    check(parse(plain, &again) && again == value);
}

static void check_variable(const struct variable *var, const char *text)
{
    struct wi_config config, before;
    char sentence[sizeof(loaded.sentence)] = "";
    memset(&config, 0xa5, sizeof(config));
    before = config;
    enum verdict verdict = store(var, text, &config);
    if (verdict == FITS)
        return;
    check(memcmp(&config, &before, sizeof(config)) == 0);
    complain(var, var->name, text, verdict, sentence, sizeof(sentence));
    check(strncmp(sentence, var->name, strlen(var->name)) == 0 && strlen(sentence) < sizeof(sentence) - 1);
}

/* The first byte says which variable the rest is for. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const struct variable *var = &variables[data[0] % VARIABLE_COUNT];
    char *text = strndup((const char *)data + 1, size - 1); /* no longer than the input: reading on is found */
    check_parser(wi_parse_size, text, "");
    check_parser(wi_parse_duration, text, "ns");
    check_variable(var, text);
    (void)unlikeness(text, var->name);
    free(text);
    return 0;
}
