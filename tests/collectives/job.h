/* A job of forked ranks on this host for tests of collectives. The transport comes from the environment. */
#ifndef TEST_COLLECTIVES_JOB_H
#define TEST_COLLECTIVES_JOB_H

#include <weir/weir.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define JOB_RANKS_MAX 16

/* Memory that all ranks of a job share, for what must not go through what is tested. */
struct job_shared {
    _Atomic uint64_t entered;
    _Atomic uint64_t value[JOB_RANKS_MAX];
};

/* What a rank has. */
struct job {
    int rank, ranks;
    struct job_shared *shared;
    weir_boot *boot;
    weir_ctx *ctx;
    weir_pool *pool;
    weir_comm *comm; /* of all ranks */
};

typedef void job_case(struct job *job);

#define CHECK(_condition)                                                                                              \
    do {                                                                                                               \
        if (!(_condition)) {                                                                                           \
            fprintf(stderr, "%s:%d: rank %d of %d: not so: %s (%s)\n", __FILE__, __LINE__, job->rank, job->ranks,      \
                    #_condition, weir_last_error());                                                                   \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

#define CHECK_OK(_call) CHECK((_call) == WEIR_OK)

/*
 * Runs a case on `ranks` ranks, each in a process of its own, and returns whether all were content. A rank that is
 * killed by its own SIGKILL counts as content. Bounded by `limit_s`.
 */
bool job_run(const char *name, job_case *run, int ranks, unsigned limit_s);

#endif
