/* The `weir` tool: finds the subcommand and calls it. */
#include "weir_tool.h"

#include <weir/config.h>

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    int (*main)(int argc, char **argv);
    const char *help;
};

static const struct command commands[] = {
    {"doctor", weir_doctor_main, "is everything there that the transport needs, and what to do when not"},
    {"info", weir_info_main, "what this build and this machine can do; --env lists all variables"},
    {"run", weir_run_main, "start the processes of a job on this host"},
    {"top", weir_top_main, "what the ranks of a job do just now"},
};

enum { COMMAND_COUNT = sizeof(commands) / sizeof(commands[0]) };

static void print_usage(FILE *out)
{
    fprintf(out, "usage: weir COMMAND [ARGUMENTS]\n\ncommands:\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].help);
    fprintf(out, "\n`weir help COMMAND` tells more, `weir --version` the version.\n");
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    fprintf(stderr, "weir: '%s' is not a command; `weir --help` lists them\n", name);
    return NULL;
}

static int help_main(int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stdout);
        return 0;
    }
    const struct command *command = find_command(argv[1]);
    char option[] = "--help";
    char *arguments[] = {argv[1], option, NULL};
    return command ? command->main(2, arguments) : WEIR_TOOL_USAGE;
}

static int run_command(int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return WEIR_TOOL_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
        return help_main(argc - 1, argv + 1);
    if (strcmp(argv[1], "--version") == 0) {
        printf("weir %s\n", weir_version());
        return 0;
    }
    const struct command *command = find_command(argv[1]);
    if (!command)
        return WEIR_TOOL_USAGE;
    char name[32]; /* what getopt's messages begin with */
    snprintf(name, sizeof(name), "weir %s", command->name);
    argv[1] = name;
    return command->main(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
    int result = run_command(argc, argv);
    bool lost = ferror(stdout); /* long ago: errno is of something else by now */
    if (fflush(stdout) == 0 && !lost)
        return result;
    fprintf(stderr, "weir: what it had to say cannot be written: %s\n", lost ? "is the disk full, or has its reader left?" : strerror(errno));
    return result ? result : 1;
}
