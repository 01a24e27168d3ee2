/*
 * The `weir` tool: one program, one function a subcommand. A subcommand is a file weir_NAME.c, a declaration here, a row
 * in the table of weir.c and a word in CMakeLists.txt. It uses the public headers of the library alone.
 */
#ifndef WEIR_TOOL_H
#define WEIR_TOOL_H

/* Status of the tool when it was called the wrong way, as of most shells' builtins. */
#define WEIR_TOOL_USAGE 2

/*
 * A subcommand's main: argv[0] is its name ("info"), argv[argc] is NULL, the result is the status of the process. It
 * answers --help on standard output with 0, and a wrong option on standard error with WEIR_TOOL_USAGE.
 */
int weir_doctor_main(int argc, char **argv);
int weir_info_main(int argc, char **argv);
int weir_run_main(int argc, char **argv);
int weir_top_main(int argc, char **argv);

#endif
