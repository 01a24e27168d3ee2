/* Jobs of forked workers and servers for the parameter server's tests. */
#ifndef TESTS_PS_RIG_H
#define TESTS_PS_RIG_H

#include "../bootstrap/job.h"

#include <unistd.h>
#include <weir/ps.h>

/* What a rank has in hand. */
struct rank {
    weir_boot *boot;
    weir_ctx *ctx;
    weir_ps_client *client; /* NULL: a server */
    int index;              /* worker or server number */
    int workers, servers;
};

struct scenario {
    int workers, servers;
    unsigned ctx_flags;
    void (*worker)(struct rank *rank); /* with a client */
    void (*server)(struct rank *rank); /* instead of serving to the end; NULL: serve, which must succeed */
    int killed;                        /* world rank that ends by SIGKILL, -1: none */
};

/* Runs it; true when every rank ended as it should. */
bool scenario_run(const struct scenario *scenario);

/* Makes a server, serves, and ends it. The status of weir_ps_server_run(), and its sentence if it failed. */
weir_status serve(struct rank *rank);
extern char serve_sentence[1024];

/* Ends the program with status 77 and the reason where the transport of the environment is not usable. */
void skip_if_unusable(void);

#endif
