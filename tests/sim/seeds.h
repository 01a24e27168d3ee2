/*
 * A run: a few ranks, one protocol, and faults, all drawn from one seed. A protocol checks what it was promised; the
 * first thing that is not so is the run's failure.
 */
#ifndef TESTS_SIM_SEEDS_H
#define TESTS_SIM_SEEDS_H

#include "transport/sim/random.h"
#include "transport/sim/world.h"

#include <weir/weir.h>

enum { RANKS = 8, AREA = 16384, EPOCHS = 64 };

#define TIMEOUT_NS   200000000ull /* WEIR_TIMEOUT of all runs */
#define TIMEOUT_TEXT "200ms"

/* Bugs that are built in here and not in the world (WI_SIM_BREAK_*). */
enum {
    BREAK_PS_LOST = 1u << 24,  /* a server acknowledges a push that it has not applied */
    BREAK_PS_TWICE = 1u << 25, /* it applies one twice */
    BREAK_PS_EARLY = 1u << 26, /* it answers before the step was applied */
};

struct run;

/* One rank. */
struct node {
    struct run *run;
    int rank;
    weir_ctx *ctx;
    weir_ep *ep[RANKS];
    uint64_t random;
    int phase; /* how far it has come; RANKS_DONE: it is through */

    /* What peers may know of it. */
    unsigned char address[WEIR_ADDRESS_MAX], key[WEIR_RKEY_MAX];
    size_t address_len, key_len;
    uint32_t signal;

    _Alignas(64) unsigned char area[AREA];  /* registered: what others write to */
    _Alignas(64) unsigned char local[AREA]; /* registered: what it writes from */
    weir_mem *area_mem, *local_mem;

    weir_comp comp; /* outlives the calls that use it */

    /* Counted for the end: by peer. */
    uint64_t posted[RANKS], arrived[RANKS];
    uint64_t told[EPOCHS];        /* messages of a connection: sent, and known to have arrived */
    uint64_t came[RANKS][EPOCHS]; /* received, by peer */
};

struct protocol;

struct run {
    const struct protocol *protocol;
    struct wi_sim_world *world;
    struct wi_sim_params params;
    uint64_t seed;
    int ranks;
    uint64_t kind; /* of faults */
    bool harmless; /* all faults pass in time: no call may fail */
    bool prompt;   /* there are none: no wait may be long */
    unsigned dead; /* a bit for each rank that was killed */
    uint64_t random;
    struct node node[RANKS];
    char failure[512];
};

struct protocol {
    const char *name, *about;
    bool lingers;     /* its targets let others wait */
    bool reconnects;  /* two ranks, whose connections break instead of their lives */
    uint64_t slow_ns; /* what its calls may take longer than others */
    int ranks_max;
    void (*begin)(struct run *run); /* before the ranks; may be NULL */
    void (*body)(struct node *n);   /* of each rank */
    void (*check)(struct run *run); /* after all have ended; may be NULL */
};

extern const struct protocol protocols[];
extern const int protocol_count;

/* collectives.c */
void collectives_begin(struct run *run);
void collectives_body(struct node *n);

/* parameter_server.c */
void ps_begin(struct run *run);
void ps_body(struct node *n);

/* The run has failed; the first reason counts. */
void run_failed(struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A call of a rank: may it give this? False: it has failed, and the rank has to end. */
bool call_ok(struct node *n, const char *what, weir_status status);

/* The same for a call that waits; `since_ns` is when it began. It must be within the bound. */
bool wait_ok(struct node *n, const char *what, weir_status status, uint64_t since_ns);

#endif
