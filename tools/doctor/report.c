/* What was found: kept, and told as text or JSON. */
#include "doctor.h"

#include "../json.h"

#include <weir/config.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const level_names[] = {"ok", "note", "warn", "fail"};
static const char *const level_colours[] = {"32", "36", "33", "31"};

/* Some of it is what peers and files say, which must neither move a terminal's cursor nor look like further lines. */
static void make_plain(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || (unsigned char)*text >= 0x7f)
            *text = '?';
}

void doctor_say(struct doctor *doctor, enum doctor_level level, const char *format, ...)
{
    if (doctor->count == DOCTOR_FINDINGS_MAX)
        return;
    struct doctor_finding *finding = &doctor->findings[doctor->count++];
    char text[sizeof(finding->text) + sizeof(finding->mend)];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    make_plain(text);
    char *mend = strstr(text, " -> ");
    if (mend) {
        *mend = '\0';
        mend += 4;
    }
    *finding = (struct doctor_finding){.area = doctor->area, .check = doctor->check, .level = level};
    snprintf(finding->text, sizeof(finding->text), "%s", text);
    snprintf(finding->mend, sizeof(finding->mend), "%s", mend ? mend : "");
}

enum doctor_level doctor_blame(enum doctor_need need)
{
    return need == DOCTOR_NEEDED ? DOCTOR_FAIL : need == DOCTOR_WANTED ? DOCTOR_WARN : DOCTOR_NOTE;
}

enum doctor_level doctor_worst(const struct doctor *doctor)
{
    enum doctor_level worst = DOCTOR_OK;
    for (size_t i = 0; i < doctor->count; i++)
        worst = doctor->findings[i].level > worst ? doctor->findings[i].level : worst;
    return worst;
}

static size_t count_level(const struct doctor *doctor, enum doctor_level level)
{
    size_t count = 0;
    for (size_t i = 0; i < doctor->count; i++)
        count += doctor->findings[i].level == level;
    return count;
}

/* ---- Text -------------------------------------------------------------------------------------------------------- */

/* https://no-color.org: the variable turns colour off, whatever its value. */
static bool has_colour(void)
{
    const char *off = getenv("NO_COLOR");
    return isatty(STDOUT_FILENO) && !(off && *off);
}

static void print_level(enum doctor_level level)
{
    if (has_colour())
        printf("\033[%sm%-4s\033[0m", level_colours[level], level_names[level]);
    else
        printf("%-4s", level_names[level]);
}

void doctor_print_heading(const struct doctor *doctor)
{
    char host[256] = "?";
    (void)gethostname(host, sizeof(host) - 1);
    printf("weir %s on %s, WEIR_TRANSPORT=%s\n", weir_version(), host, doctor->transport);
}

void doctor_print_findings(const struct doctor *doctor, size_t first, const char **area)
{
    for (size_t i = first; i < doctor->count; i++) {
        const struct doctor_finding *finding = &doctor->findings[i];
        if (!*area || strcmp(*area, finding->area) != 0)
            printf("\n%s\n", finding->area);
        *area = finding->area;
        printf("  ");
        print_level(finding->level);
        printf("  %-11s %s%s%s\n", finding->check, finding->text, finding->mend[0] ? " -> " : "", finding->mend);
    }
    fflush(stdout);
}

void doctor_print_end(const struct doctor *doctor)
{
    size_t fails = count_level(doctor, DOCTOR_FAIL), warns = count_level(doctor, DOCTOR_WARN);
    printf("\n");
    if (fails)
        printf("%zu to mend", fails);
    else
        printf("nothing stands in the way of WEIR_TRANSPORT=%s", doctor->transport);
    if (warns)
        printf(", %zu warning%s", warns, warns == 1 ? "" : "s");
    printf("\n");
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

void doctor_print_findings_json(const struct doctor *doctor)
{
    char host[256] = "?";
    (void)gethostname(host, sizeof(host) - 1);
    printf("{\n  ");
    print_json_member("version", weir_version(), ",\n  ");
    print_json_member("host", host, ",\n  ");
    print_json_member("transport", doctor->transport, ",\n  ");
    print_json_member("worst", level_names[doctor_worst(doctor)], ",\n  \"findings\": [\n");
    for (size_t i = 0; i < doctor->count; i++) {
        const struct doctor_finding *finding = &doctor->findings[i];
        printf("    {");
        print_json_member("area", finding->area, ", ");
        print_json_member("check", finding->check, ", ");
        print_json_member("level", level_names[finding->level], ", ");
        print_json_member("text", finding->text, ", ");
        print_json_member("mend", finding->mend[0] ? finding->mend : NULL, i + 1 < doctor->count ? "},\n" : "}\n");
    }
    printf("  ]");
}
