/* `weir info`: what this build and this machine can do, and the table of variables; as text, JSON or Markdown. */
#include "info_rdma.h"
#include "json.h"
#include "weir_tool.h"

#include <weir/config.h>
#include <weir/transport.h>

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

static const char usage[] = "usage: weir info [--env] [--json | --markdown]\n"
                            "\n"
                            "Without options: version, build, transports and why one cannot be used, processor, and\n"
                            "RDMA ports with their GIDs, those that verbs would use marked.\n"
                            "  --env       every WEIR_* variable with its type, range, default and value in force\n"
                            "  --json      the same as JSON\n"
                            "  --markdown  with --env: as a table in Markdown, without the values in force\n";

enum format { FORMAT_TEXT, FORMAT_JSON, FORMAT_MARKDOWN };

/* A bar would end the cell. */
static void print_markdown_cell(const char *text)
{
    for (; *text; text++)
        printf(*text == '|' ? "\\|" : "%c", *text);
}

/* ---- Processor --------------------------------------------------------------------------------------------------- */

struct feature {
    const char *name;
    bool present;
};

enum { FEATURE_MAX = 8 };

/* Those that reduction kernels and optimizers can choose by. Returns how many. */
static size_t cpu_features(struct feature features[FEATURE_MAX])
{
    size_t count = 0;
#if defined(__x86_64__)
    unsigned a, b, c = 0, d;
    bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) && __builtin_cpu_supports("avx");
    features[count++] = (struct feature){"avx", __builtin_cpu_supports("avx")};
    features[count++] = (struct feature){"avx2", __builtin_cpu_supports("avx2")};
    features[count++] = (struct feature){"fma", __builtin_cpu_supports("fma")};
    features[count++] = (struct feature){"f16c", f16c};
    features[count++] = (struct feature){"avx512f", __builtin_cpu_supports("avx512f")};
    features[count++] = (struct feature){"avx512bw", __builtin_cpu_supports("avx512bw")};
#elif defined(__aarch64__)
    unsigned long caps = getauxval(AT_HWCAP);
    features[count++] = (struct feature){"asimd", caps & HWCAP_ASIMD};
    features[count++] = (struct feature){"fphp", caps & HWCAP_FPHP};
    features[count++] = (struct feature){"atomics", caps & HWCAP_ATOMICS};
    features[count++] = (struct feature){"sve", caps & HWCAP_SVE};
#else
    (void)features;
#endif
    return count;
}

/* ---- weir info --------------------------------------------------------------------------------------------------- */

static const char *const transports[] = {"verbs", "ucx", "shm"};

enum { TRANSPORT_COUNT = sizeof(transports) / sizeof(transports[0]), WHY_SIZE = 512 };

/* A reason begins with the transport's name, which the line has already. */
static const char *without_prefix(const char *why, const char *name)
{
    size_t len = strlen(name);
    return strncmp(why, name, len) == 0 && strncmp(why + len, ": ", 2) == 0 ? why + len + 2 : why;
}

static void print_machine_text(const struct feature *features, size_t count)
{
    char why[WHY_SIZE];
    bool wrong = weir_config_load() != WEIR_OK; /* told at the end, once */
    printf("weir %s\nbuild       %s\n\ntransports\n", weir_version(), weir_build_options());
    for (size_t i = 0; i < TRANSPORT_COUNT; i++) {
        bool usable = weir_transport_probe(transports[i], why, sizeof(why)) == WEIR_OK;
        const char *reason = wrong ? "not tried, for a variable is wrong" : without_prefix(why, transports[i]);
        printf("  %-9s %s\n", transports[i], usable ? "usable" : reason);
    }
    printf("\nprocessor   %ld online;", sysconf(_SC_NPROCESSORS_ONLN));
    for (size_t i = 0; i < count; i++)
        printf(" %s%s", features[i].present ? "" : "no-", features[i].name);
    printf("\n");
    info_print_rdma_text();
}

static void print_machine_json(const struct feature *features, size_t count)
{
    char why[WHY_SIZE];
    printf("{\n  ");
    print_json_member("version", weir_version(), ",\n  ");
    print_json_member("build", weir_build_options(), ",\n  \"transports\": {\n");
    for (size_t i = 0; i < TRANSPORT_COUNT; i++) {
        bool usable = weir_transport_probe(transports[i], why, sizeof(why)) == WEIR_OK;
        printf("    \"%s\": {\"usable\": %s, ", transports[i], usable ? "true" : "false");
        print_json_member("why", usable ? NULL : why, i + 1 < TRANSPORT_COUNT ? "},\n" : "}\n");
    }
    printf("  },\n  \"processors\": %ld,\n  \"features\": {", sysconf(_SC_NPROCESSORS_ONLN));
    for (size_t i = 0; i < count; i++)
        printf("%s\"%s\": %s", i ? ", " : "", features[i].name, features[i].present ? "true" : "false");
    printf("},\n  \"rdma\": ");
    info_print_rdma_json();
    printf("\n}\n");
}

static void print_machine(enum format format)
{
    struct feature features[FEATURE_MAX];
    size_t count = cpu_features(features);
    if (format == FORMAT_JSON)
        print_machine_json(features, count);
    else
        print_machine_text(features, count);
}

/* ---- weir info --env --------------------------------------------------------------------------------------------- */

static void print_variable_text(const weir_config_entry *entry)
{
    printf("%s=%s\n    %s\n    %s%s%s, default %s", entry->name, entry->value, entry->help, entry->type,
           *entry->range ? " " : "", entry->range, *entry->default_value ? entry->default_value : "empty");
    if (entry->fallback_name)
        printf(", else from %s", entry->fallback_name);
    printf("; in force from: %s\n", entry->source);
}

static void print_variable_json(const weir_config_entry *entry)
{
    printf("  {");
    print_json_member("name", entry->name, ", ");
    print_json_member("fallback_name", entry->fallback_name, ", ");
    print_json_member("type", entry->type, ", ");
    print_json_member("range", entry->range, ", ");
    print_json_member("default", entry->default_value, ", ");
    print_json_member("value", entry->value, ", ");
    print_json_member("source", entry->source, ", ");
    print_json_member("help", entry->help, "}");
}

static void print_variable_markdown(const weir_config_entry *entry)
{
    printf("| `%s` | ", entry->name);
    if (entry->range[0] == '\0' || strcmp(entry->type, "choice") != 0)
        printf("%s%s", entry->type, *entry->range ? " " : "");
    print_markdown_cell(entry->range);
    if (*entry->default_value)
        printf(" | `%s` | ", entry->default_value);
    else
        printf(" | | ");
    print_markdown_cell(entry->help);
    if (entry->fallback_name)
        printf(" Without it `%s` counts.", entry->fallback_name);
    printf(" |\n");
}

static int print_variables(enum format format)
{
    size_t count = weir_config_count();
    if (format == FORMAT_JSON)
        printf("[\n");
    if (format == FORMAT_MARKDOWN)
        printf("| Variable | Values | Default | Meaning |\n| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < count; i++) {
        weir_config_entry entry;
        if (weir_config_get(i, &entry) != WEIR_OK) {
            fprintf(stderr, "weir info: %s\n", weir_last_error());
            return 1;
        }
        if (format == FORMAT_TEXT)
            print_variable_text(&entry);
        else if (format == FORMAT_MARKDOWN)
            print_variable_markdown(&entry);
        else {
            print_variable_json(&entry);
            printf(i + 1 < count ? ",\n" : "\n");
        }
    }
    if (format == FORMAT_JSON)
        printf("]\n");
    return 0;
}

/* A bad value is told once the table, which shows it as invalid, is out. */
static int report_environment(void)
{
    if (weir_config_load() == WEIR_OK)
        return 0;
    fprintf(stderr, "weir info: %s\n", weir_last_error());
    return 1;
}

int weir_info_main(int argc, char **argv)
{
    enum format format = FORMAT_TEXT;
    bool environment = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            printf("%s", usage);
            return 0;
        }
        if (strcmp(argv[i], "--env") == 0)
            environment = true;
        else if (strcmp(argv[i], "--json") == 0)
            format = FORMAT_JSON;
        else if (strcmp(argv[i], "--markdown") == 0)
            format = FORMAT_MARKDOWN;
        else {
            fprintf(stderr, "weir info: unknown option '%s'\n%s", argv[i], usage);
            return WEIR_TOOL_USAGE;
        }
    }
    if (format == FORMAT_MARKDOWN && !environment) {
        fprintf(stderr, "weir info: --markdown goes with --env\n%s", usage);
        return WEIR_TOOL_USAGE;
    }
    if (!environment)
        print_machine(format);
    else if (print_variables(format) != 0)
        return 1;
    return report_environment();
}
