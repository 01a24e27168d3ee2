/* Starts one rank as a child process: its environment, its process group, its output. */
#ifndef RUN_CHILD_H
#define RUN_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

struct run_job {
    char **program;     /* argv of the program, NULL at the end */
    char *const *extra; /* NAME=VALUE texts for all ranks, set last */
    int extra_count;
    int world;
    int servers;
    int port;
    char id[64];
    bool prefix; /* the output comes through pipes; else the ranks have ours */
};

struct run_pipes {
    int out; /* our ends, nonblocking; -1 without prefix */
    int err;
};

/* Is this NAME=VALUE one of the variables that ranks get from here? */
bool run_child_sets(const char *assignment);

/* Picks a port that nobody uses. The socket in `*hold` keeps it from others and lets rank 0 have it; -1 with errno. */
int run_pick_port(int *hold);

/*
 * Starts the rank in a process group of its own; it dies with us. Its signal mask is emptied. Returns its process id,
 * or -1 with errno; `*what` says what failed.
 */
pid_t run_child_start(const struct run_job *job, int rank, struct run_pipes *pipes, const char **what);

#endif
