/*
 * Jobs of forked processes for the bootstrap's tests. The environment decides the rest: each rank is a child that joins
 * with the given parameters, runs a function, and exits with its result.
 */
#ifndef TESTS_BOOTSTRAP_JOB_H
#define TESTS_BOOTSTRAP_JOB_H

#include <weir/bootstrap.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

/* In a rank: says what is wrong and ends the process with status 1. */
#define EXPECT(_condition)                                                                                             \
    do {                                                                                                               \
        if (!(_condition)) {                                                                                           \
            fprintf(stderr, "%s:%d: rank %d: not so: %s (last error: %s)\n", __FILE__, __LINE__, job_rank,             \
                    #_condition, weir_last_error());                                                                   \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

#define EXPECT_STATUS(_status, _call) EXPECT((_call) == (_status))

/* The last error's sentence contains the text. */
#define EXPECT_SAYS(_text) EXPECT(strstr(weir_last_error(), (_text)) != NULL)

extern int job_rank;

typedef void (*job_function)(weir_boot *boot, void *arg);

/* A port that nobody uses, kept for this process. */
int job_port(void);

/* Parameters of a rank at 127.0.0.1. */
weir_boot_params job_params(int rank, int world, int port);

/* Starts a process that runs `run(rank, arg)`; it ends with status 0 when that returns. */
pid_t job_start(int rank, void (*run)(int rank, void *arg), void *arg);

/* Waits for the process, at most 40 s, then kills it. The exit status, or 128 + the signal. */
int job_wait(pid_t pid);

/* Runs a job of `world` ranks at `address`: each joins, calls `function`, and leaves. True when all ended well. */
bool job_run(const char *address, int world, job_function function, void *arg);

/* A connection to 127.0.0.1; tries for 10 s while nobody listens, or once. -1: none. */
int job_connect(int port);
int job_connect_once(int port);

/* Says HELLO as that rank, without Weir's client, and waits until the store has given it the seat. */
int job_join_raw(int rank, int world, int port);

/* Seconds since some moment. */
double job_now(void);

#endif
