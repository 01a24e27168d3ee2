/* Output of a rank, passed on by whole lines with the rank in front. */
#ifndef RUN_LINES_H
#define RUN_LINES_H

#include <stdbool.h>
#include <stddef.h>

#define RUN_LINE_MAX 65536 /* longer lines are cut in pieces of so many bytes */

struct run_lines {
    int source; /* the rank's end of a pipe, nonblocking; -1: ended */
    int target; /* our standard output or standard error */
    char prefix[24];
    size_t len; /* bytes of the line that has not ended yet */
    char line[RUN_LINE_MAX];
};

/* In place; owns `source` until it has ended. */
void run_lines_init(struct run_lines *lines, int source, int target, int rank);

/* Passes on what has come; at the end also a last line without newline. False: the
 * target cannot be written any more. */
bool run_lines_pump(struct run_lines *lines);

/* Gives up the source; passes on what is left of a line. */
void run_lines_close(struct run_lines *lines);

#endif
