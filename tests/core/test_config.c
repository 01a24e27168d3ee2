/*
 * The configuration. It is read once a process, so every case is a child with an environment of its own; what it read
 * and logged comes back through shared memory. This process itself never reads it.
 */
#include "core/config.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { ENTRY_MAX = 128 };

struct outcome {
    weir_status status;
    char sentence[1024];
    char log[8192];
    struct wi_config config; /* when status is WEIR_OK */
    bool rank_is_set, chunk_is_set;
    weir_config_entry entries[ENTRY_MAX];
};

static struct outcome *outcome; /* of the last child */

static void read_configuration(int log_fd)
{
    const struct wi_config *config;
    outcome->status = wi_config_load(&config);
    snprintf(outcome->sentence, sizeof(outcome->sentence), "%s", weir_last_error());
    if (outcome->status == WEIR_OK)
        outcome->config = *config;
    outcome->rank_is_set = wi_config_is_set("WEIR_RANK");
    outcome->chunk_is_set = wi_config_is_set("WEIR_CHUNK");
    for (size_t i = 0; i < weir_config_count(); i++)
        weir_config_get(i, &outcome->entries[i]);
    if (pread(log_fd, outcome->log, sizeof(outcome->log) - 1, 0) < 0)
        _exit(1);
}

/* Runs a child with nothing in its environment but `settings` ("NAME=VALUE"), up to NULL. */
static void load_all(const char *const *settings)
{
    memset(outcome, 0, sizeof(*outcome));
    pid_t child = fork();
    if (child == 0) {
        int log_fd = memfd_create("log", 0);
        dup2(log_fd, STDERR_FILENO);
        clearenv();
        for (; *settings; settings++)
            putenv((char *)*settings);
        read_configuration(log_fd);
        _exit(0);
    }
    int result = -1;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_int_equal(result, 0);
}

#define LOAD(...) load_all((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static void load_one(const char *name, const char *value)
{
    char setting[1024];
    snprintf(setting, sizeof(setting), "%s=%s", name, value);
    LOAD(setting);
}

static void expect_good(const char *name, const char *value)
{
    load_one(name, value);
    if (outcome->status != WEIR_OK)
        fail_msg("%s=%s was refused: %s", name, value, outcome->sentence);
}

/* The sentence begins with the setting and goes on with `complaint`. */
static void expect_bad(const char *name, const char *value, const char *complaint)
{
    char expected[1024];
    snprintf(expected, sizeof(expected), "%s=%s: %s", name, value, complaint);
    load_one(name, value);
    if (outcome->status != WEIR_ERR_CONFIG || strncmp(outcome->sentence, expected, strlen(expected)) != 0)
        fail_msg("%s=%s: expected '%s', got status %d, '%s'", name, value, expected, outcome->status,
                 outcome->sentence);
}

static size_t count_lines(const char *text)
{
    size_t lines = 0;
    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

/* ---- Fields ------------------------------------------------------------------------------------------------------ */

static uint64_t size_of(const char *text)
{
    uint64_t bytes = 0;
    assert_true(wi_parse_size(text, &bytes));
    return bytes;
}

static uint64_t duration_of(const char *text)
{
    uint64_t ns = 0;
    assert_true(wi_parse_duration(text, &ns));
    return ns;
}

static void defaults_reach_their_fields(void **state)
{
    (void)state;
    LOAD();
    assert_int_equal(outcome->status, WEIR_OK);
    assert_string_equal(outcome->log, "");
#define WI_CONFIG_SIZE(_field, _name, _fallback, _default, ...)                                                        \
    assert_int_equal(outcome->config._field, size_of(_default));
#define WI_CONFIG_DURATION(_field, _name, _fallback, _default, ...)                                                    \
    assert_int_equal(outcome->config._field, duration_of(_default));
#define WI_CONFIG_INT(_field, _name, _fallback, _default, ...)                                                         \
    assert_int_equal(outcome->config._field, strtoll(_default, NULL, 10));
#define WI_CONFIG_POWER WI_CONFIG_INT
#define WI_CONFIG_CHOICE(_field, _name, _fallback, _default, _words, ...)                                              \
    assert_in_range(outcome->config._field, 0, strlen(_words));
#define WI_CONFIG_TEXT(_field, _name, _fallback, _default, ...) assert_string_equal(outcome->config._field, _default);
#define WI_CONFIG_FORM WI_CONFIG_TEXT
#include "core/config_vars.h"
#undef WI_CONFIG_SIZE
#undef WI_CONFIG_DURATION
#undef WI_CONFIG_INT
#undef WI_CONFIG_POWER
#undef WI_CONFIG_CHOICE
#undef WI_CONFIG_TEXT
#undef WI_CONFIG_FORM
    assert_int_equal(outcome->config.transport, WI_TRANSPORT_AUTO);
    assert_int_equal(outcome->config.intranode, WI_INTRANODE_SHM);
    assert_int_equal(outcome->config.timeout_ns, 30000000000);
}

/* All at once, each at the upper end of its range: no field is another one's. */
static void settings_reach_their_fields(void **state)
{
    (void)state;
    static const char *const settings[] = {
#define WI_CONFIG_SIZE(_field, _name, _fallback, _default, _low, _high, ...) _name "=" _high,
#define WI_CONFIG_DURATION                                                   WI_CONFIG_SIZE
#define WI_CONFIG_INT(_field, _name, _fallback, _default, _low, _high, ...)  _name "=" #_high,
#define WI_CONFIG_POWER                                                      WI_CONFIG_INT
#define WI_CONFIG_CHOICE(_field, _name, _fallback, _default, ...)            _name "=" _default,
#define WI_CONFIG_TEXT(_field, _name, ...)                                   _name "=" #_field,
#define WI_CONFIG_FORM(...)
#include "core/config_vars.h"
#undef WI_CONFIG_SIZE
#undef WI_CONFIG_DURATION
#undef WI_CONFIG_INT
#undef WI_CONFIG_POWER
#undef WI_CONFIG_CHOICE
#undef WI_CONFIG_TEXT
        "WEIR_DEVICE=rxe0:1", "WEIR_INTERFACE=eth7", "WEIR_METRICS_LISTEN=9400", "WEIR_NUMA=3", NULL,
    };
    load_all(settings);
    assert_string_equal(outcome->sentence, "");
#define WI_CONFIG_SIZE(_field, _name, _fallback, _default, _low, _high, ...)                                           \
    assert_int_equal(outcome->config._field, size_of(_high));
#define WI_CONFIG_DURATION(_field, _name, _fallback, _default, _low, _high, ...)                                       \
    assert_int_equal(outcome->config._field, duration_of(_high));
#define WI_CONFIG_INT(_field, _name, _fallback, _default, _low, _high, ...)                                            \
    assert_int_equal(outcome->config._field, _high);
#define WI_CONFIG_POWER WI_CONFIG_INT
#define WI_CONFIG_CHOICE(...)
#define WI_CONFIG_TEXT(_field, ...) assert_string_equal(outcome->config._field, #_field);
#include "core/config_vars.h"
    assert_string_equal(outcome->config.device, "rxe0:1");
    assert_string_equal(outcome->config.interface, "eth7");
    assert_string_equal(outcome->config.metrics_listen, "9400");
    assert_string_equal(outcome->config.numa, "3");
    unlink("log_file"); /* WEIR_LOG_FILE was among them */
}

/* ---- Every variable, by its description -------------------------------------------------------------------------- */

static void try_size(const char *name, const char *low, const char *high, const char *range)
{
    char beyond[64], complaint[160];
    snprintf(complaint, sizeof(complaint), "out of range; use %s", range);
    expect_bad(name, "12Q", "not a size; use e.g. ");
    expect_good(name, low);
    expect_good(name, high);
    snprintf(beyond, sizeof(beyond), "%llu", (unsigned long long)size_of(high) + 1);
    expect_bad(name, beyond, complaint);
    if (size_of(low) == 0)
        return;
    snprintf(beyond, sizeof(beyond), "%llu", (unsigned long long)size_of(low) - 1);
    expect_bad(name, beyond, complaint);
}

static void try_duration(const char *name, const char *low, const char *high, const char *range)
{
    char beyond[64], complaint[160];
    snprintf(complaint, sizeof(complaint), "out of range; use %s", range);
    expect_bad(name, "12K", "not a duration; use e.g. ");
    expect_good(name, low);
    expect_good(name, high);
    snprintf(beyond, sizeof(beyond), "%lluns", (unsigned long long)duration_of(high) + 1);
    expect_bad(name, beyond, complaint);
    if (duration_of(low) == 0)
        return;
    snprintf(beyond, sizeof(beyond), "%lluns", (unsigned long long)duration_of(low) - 1);
    expect_bad(name, beyond, complaint);
}

static void try_integer(const char *name, const char *low, const char *high, const char *range)
{
    static const char *const bad[] = {"x", "1x", " 1", "+1", "1.0", "0x1", "1 ", "-", "99999999999999999999"};
    char beyond[64], complaint[160];
    snprintf(complaint, sizeof(complaint), "out of range; use %s", range);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        expect_bad(name, bad[i], "not a number; use ");
    expect_good(name, low);
    expect_good(name, high);
    snprintf(beyond, sizeof(beyond), "%lld", strtoll(low, NULL, 10) - 1);
    expect_bad(name, beyond, complaint);
    snprintf(beyond, sizeof(beyond), "%lld", strtoll(high, NULL, 10) + 1);
    expect_bad(name, beyond, complaint);
}

static void try_choice(const char *name, const char *words)
{
    char complaint[160], copy[256], *rest = copy;
    snprintf(complaint, sizeof(complaint), "not a choice; use one of %s", words);
    snprintf(copy, sizeof(copy), "%s", words);
    expect_bad(name, "nonsense", complaint);
    expect_bad(name, words, complaint);
    for (char *word; (word = strsep(&rest, "|"));)
        expect_good(name, word);
}

static void expect_too_long(const char *name)
{
    char text[257];
    memset(text, 'x', 256);
    text[256] = '\0';
    load_one(name, text);
    assert_int_equal(outcome->status, WEIR_ERR_CONFIG);
    assert_non_null(strstr(outcome->sentence, "xxx...: too long; use at most 255 bytes"));
}

static void try_text(const char *name)
{
    char text[256];
    memset(text, 'x', 255);
    text[255] = '\0';
    expect_too_long(name);
    expect_good(name, text);
}

#define NAME_63 "a23456789012345678901234567890123456789012345678901234567890123"
#define DEVICES "not devices and ports; use e.g. mlx5_0:1"
#define PLACE   "not a place to listen; use e.g. 9400, 0.0.0.0:9400 or [::]:9400"
#define NODE    "not a choice; use auto, off or the number of a node"
#define LISTEN  "neither the name of an interface nor a numeric address; use e.g. eth0 or 192.168.1.7"

/* Texts that have a form: what fits, and what does not with the complaint. Every variable with a form is here. */
static const struct form {
    const char *name;
    const char *good[9];
    const char *bad[18][2];
} forms[] = {
    {"WEIR_DEVICE",
     {"mlx5_0", "mlx5_0:1", "rxe0,rxe1:255,a,b", "a:1,a:2", "a:b:1", NAME_63, NAME_63 ":1"},
     {{":1", DEVICES}, {"rxe0:", DEVICES}, {"rxe0:0", DEVICES}, {"rxe0:256", DEVICES}, {"rxe0:x", DEVICES},
      {"rxe0:-1", DEVICES}, {"rxe0:1x", DEVICES}, {",", DEVICES}, {"rxe0,", DEVICES}, {",rxe0", DEVICES},
      {NAME_63 "4:1", NAME_63 "4...: " DEVICES}, {"a,a", "a device is named twice"}, {"a:1,b,a", "a device is named twice"},
      {"a:1,a:1", "a device is named twice"}, {"a,b,c,d,e", "too many; at most 4 devices"}}},
    {"WEIR_METRICS_LISTEN",
     {"9400", "0", "65535", "0.0.0.0:9400", "127.0.0.1:1", "[::]:9400", "[2001:db8::1]:80"},
     {{"nonsense", PLACE}, {"70000", PLACE}, {"-5", PLACE}, {" 9400", PLACE}, {"+9400", PLACE}, {":9400", PLACE},
      {"1.2.3:80", PLACE}, {"::1:9400", PLACE}, {"[1.2.3.4]:80", PLACE}, {"[::1]x:1", PLACE}, {"[x]:1", PLACE},
      {"host:9400", PLACE}, {"[]:1", PLACE}, {"1.2.3.4:", PLACE}}},
    {"WEIR_NUMA",
     {"auto", "off", "0", "7", "1023"},
     {{"foo", NODE}, {"-1", NODE}, {"1024", NODE}, {"1x", NODE}, {" 1", NODE}, {"+1", NODE}, {"0,1", NODE}, {"Auto", NODE}}},
    {"WEIR_INTERFACE",
     {"eth0", "ib0", "eth0:1", "bond0.4095", "a23456789012345", "192.168.100.200", "2001:db8:1:2:3:4:5:6"},
     {{"a234567890123456", LISTEN}, {"eth 0", LISTEN}, {"eth0/1", LISTEN}, {"10.0.0.0/8", LISTEN},
      {"192.168.100.200:80", LISTEN}}},
};

/* Of long values the sentence has the beginning alone: `complaint` then begins with what stands of it. */
static void expect_bad_form(const char *name, const char *value, const char *complaint)
{
    if (strlen(value) <= 64)
        expect_bad(name, value, complaint);
    else {
        load_one(name, value);
        assert_int_equal(outcome->status, WEIR_ERR_CONFIG);
        assert_non_null(strstr(outcome->sentence, complaint));
    }
}

static void try_form(const char *name)
{
    const struct form *form = forms, *end = forms + sizeof(forms) / sizeof(forms[0]);
    while (form < end && strcmp(form->name, name) != 0)
        form++;
    if (form == end)
        fail_msg("%s has a form, but no examples here", name);
    expect_too_long(name);
    for (int i = 0; form->good[i]; i++)
        expect_good(name, form->good[i]);
    for (int i = 0; form->bad[i][0]; i++)
        expect_bad_form(name, form->bad[i][0], form->bad[i][1]);
}

/* `name` is the variable's own or its fallback's. */
static void try_variable(const char *name, const weir_config_entry *entry)
{
    char low[64], high[64];
    if (strcmp(entry->type, "choice") == 0)
        try_choice(name, entry->range);
    else if (strcmp(entry->type, "text") == 0)
        (entry->range[0] ? try_form : try_text)(name);
    else {
        assert_int_equal(sscanf(entry->range, "%63[^.]..%63[^ ,]", low, high), 2);
        if (strcmp(entry->type, "size") == 0)
            try_size(name, low, high, entry->range);
        else if (strcmp(entry->type, "duration") == 0)
            try_duration(name, low, high, entry->range);
        else
            try_integer(name, low, high, entry->range);
    }
}

static void every_variable_takes_what_its_description_says(void **state)
{
    (void)state;
    static weir_config_entry entries[ENTRY_MAX];
    LOAD();
    memcpy(entries, outcome->entries, sizeof(entries));
    for (size_t i = 0; i < weir_config_count(); i++) {
        try_variable(entries[i].name, &entries[i]);
        if (entries[i].fallback_name)
            try_variable(entries[i].fallback_name, &entries[i]);
    }
}

static void shards_are_a_power_of_two(void **state)
{
    (void)state;
    expect_good("WEIR_PS_SHARDS", "64");
    expect_bad("WEIR_PS_SHARDS", "96", "out of range; use 1..65536, a power of two");
}

/* ---- Which setting counts ---------------------------------------------------------------------------------------- */

static void ours_wins_over_the_fallback(void **state)
{
    (void)state;
    LOAD("RANK=4", "WEIR_RANK=7");
    assert_int_equal(outcome->config.rank, 7);
    LOAD("RANK=4", "WEIR_RANK=");
    assert_int_equal(outcome->config.rank, 4);
    assert_true(outcome->rank_is_set);
    assert_false(outcome->chunk_is_set);
    LOAD("RANK=rubbish", "WEIR_RANK=7");
    assert_int_equal(outcome->status, WEIR_OK);
    LOAD("RANK=", "WEIR_CHUNK=8K");
    assert_int_equal(outcome->config.rank, 0);
    assert_false(outcome->rank_is_set);
    assert_true(outcome->chunk_is_set);
}

static void torchrun_keeps_its_port(void **state)
{
    (void)state;
    LOAD("MASTER_PORT=4000");
    assert_int_equal(outcome->config.master_port, 4000);
    LOAD("MASTER_PORT=4000", "TORCHELASTIC_RUN_ID=1");
    assert_int_equal(outcome->config.master_port, 4001);
    LOAD("MASTER_PORT=65535", "TORCHELASTIC_RUN_ID=1");
    assert_int_equal(outcome->config.master_port, 65534);
    LOAD("MASTER_PORT=4000", "TORCHELASTIC_RUN_ID=1", "WEIR_MASTER_PORT=5000");
    assert_int_equal(outcome->config.master_port, 5000);
    LOAD("TORCHELASTIC_RUN_ID=1");
    assert_int_equal(outcome->config.master_port, 29400);
}

static void first_bad_value_is_told_and_the_others_still_count(void **state)
{
    (void)state;
    LOAD("WEIR_CHUNK=12Q", "WEIR_RANK=x", "WEIR_LOG=error", "WEIR_CHNK=1");
    assert_int_equal(outcome->status, WEIR_ERR_CONFIG);
    assert_string_equal(outcome->sentence, "WEIR_RANK=x: not a number; use 0..65535");
    assert_string_equal(outcome->log, "");
    LOAD("WEIR_CHUNK=12Q");
    assert_string_equal(outcome->sentence, "WEIR_CHUNK=12Q: not a size; use e.g. 256K");
}

static void descriptions_tell_value_and_source(void **state)
{
    (void)state;
    size_t seen = 0;
    LOAD("WEIR_CHUNK=1M", "RANK=-5", "WEIR_SPIN=");
    for (size_t i = 0; i < weir_config_count(); i++) {
        const weir_config_entry *entry = &outcome->entries[i];
        const char *value = entry->default_value, *source = "default";
        if (strcmp(entry->name, "WEIR_CHUNK") == 0 && ++seen) {
            value = "1M";
            source = "environment";
        } else if (strcmp(entry->name, "WEIR_RANK") == 0 && ++seen) {
            value = "-5";
            source = "invalid";
        }
        assert_string_equal(entry->value, value);
        assert_string_equal(entry->source, source);
        assert_int_equal(entry->help[strlen(entry->help) - 1], '.');
    }
    assert_int_equal(seen, 2);
    weir_config_entry entry;
    assert_int_equal(weir_config_get(weir_config_count(), &entry), WEIR_ERR_INVALID);
    assert_int_equal(weir_config_get(0, NULL), WEIR_ERR_INVALID);
}

/* ---- Unknown names ----------------------------------------------------------------------------------------------- */

static void unknown_names_are_warned_about_with_the_nearest(void **state)
{
    (void)state;
    static const char *const near[][2] = {
        {"WEIR_CHNK=1M", "WEIR_CHUNK?"},      {"WEIR_TRANSPROT=ucx", "WEIR_TRANSPORT?"},
        {"WEIR_TIMEOUTS=1", "WEIR_TIMEOUT?"}, {"WEIR_CHUNK_SIZE=1", "WEIR_CHUNK?"},
        {"WEIR_rank=1", "WEIR_RANK?"},
    };
    for (size_t i = 0; i < sizeof(near) / sizeof(near[0]); i++) {
        LOAD(near[i][0]);
        assert_int_equal(outcome->status, WEIR_OK);
        if (count_lines(outcome->log) != 1 || !strstr(outcome->log, near[i][1]))
            fail_msg("%s: expected %s, got '%s'", near[i][0], near[i][1], outcome->log);
    }
}

static void each_unknown_name_is_one_line(void **state)
{
    (void)state;
    char longest[400] = "WEIR_";
    memset(longest + 5, 'X', sizeof(longest) - 8);
    strcpy(longest + sizeof(longest) - 3, "=1");
    LOAD("WEIR_CHNK=1M", "WEIR_=1", "WEIR_FOO=1", "WEIR_CHUNK=4K", "RANK=3", "WEIRD=1", "PATH=/bin", longest);
    assert_int_equal(outcome->status, WEIR_OK);
    assert_int_equal(count_lines(outcome->log), 4);
    assert_null(strstr(outcome->log, "WEIRD"));
    assert_memory_equal(outcome->log, "[weir 3] WARN ", 14);
}

/* ---- Threads ----------------------------------------------------------------------------------------------------- */

static void *load_in_thread(void *arg)
{
    const struct wi_config *config = NULL;
    (void)arg;
    return wi_config_load(&config) == WEIR_OK ? (void *)config : NULL;
}

static void threads_that_load_at_once_see_one_configuration(void **state)
{
    (void)state;
    enum { THREADS = 8 };
    pid_t child = fork();
    if (child == 0) {
        pthread_t threads[THREADS];
        bool good = true;
        setenv("WEIR_CHUNK", "64K", 1);
        for (int i = 0; i < THREADS; i++)
            good = good && pthread_create(&threads[i], NULL, load_in_thread, NULL) == 0;
        for (int i = 0; good && i < THREADS; i++) {
            void *config = NULL;
            good = pthread_join(threads[i], &config) == 0 && config == wi_config();
        }
        _exit(good && wi_config()->chunk == 65536 ? 0 : 1);
    }
    int result = -1;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_int_equal(result, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* First: nothing has been read in this process, which the child is a copy of. */
        cmocka_unit_test(threads_that_load_at_once_see_one_configuration),
        cmocka_unit_test(defaults_reach_their_fields),
        cmocka_unit_test(settings_reach_their_fields),
        cmocka_unit_test(every_variable_takes_what_its_description_says),
        cmocka_unit_test(shards_are_a_power_of_two),
        cmocka_unit_test(ours_wins_over_the_fallback),
        cmocka_unit_test(torchrun_keeps_its_port),
        cmocka_unit_test(first_bad_value_is_told_and_the_others_still_count),
        cmocka_unit_test(descriptions_tell_value_and_source),
        cmocka_unit_test(unknown_names_are_warned_about_with_the_nearest),
        cmocka_unit_test(each_unknown_name_is_one_line),
    };
    outcome = mmap(NULL, sizeof(*outcome), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (outcome == MAP_FAILED || weir_config_count() > ENTRY_MAX)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
