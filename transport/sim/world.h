/*
 * A simulated world: the ranks of a job as fibers of one process, a virtual clock, and a network that loses, delays,
 * reorders, duplicates and cuts, all drawn from one seed. The same seed gives the same run, event by event.
 *
 * The library's own code runs in it unchanged, above the backend "sim" (weir_ctx_params.transport). Time stands still
 * while code runs; when no rank can go on, the clock jumps to the next event.
 *
 * There is one world in a process at a time: it is the process's clock (core/clock.h). A run is
 *
 *     wi_sim_begin(world, &params);
 *     wi_sim_spawn(world, rank, main, arg);   for each
 *     wi_sim_at(world, ns, cut_the_wire, arg); for each fault that has a time
 *     if (!wi_sim_run(world, bound_ns)) ... it hangs
 *
 * The calls below may be made by a rank, or by what wi_sim_at() calls, or between runs.
 */
#ifndef WI_SIM_WORLD_H
#define WI_SIM_WORLD_H

#include <weir/status.h>

#include <stdbool.h>
#include <stdint.h>

enum { WI_SIM_RANKS_MAX = 65536 };

/* Bugs to be built in on purpose: a test that would not see one of these proves nothing. */
enum {
    WI_SIM_BREAK_RETRANSMIT = 1u << 0, /* what was lost is never sent again */
    WI_SIM_BREAK_SIGNAL = 1u << 1,     /* the signal comes with the first part of the data, not the last */
    WI_SIM_BREAK_ORDER = 1u << 2,      /* the target carries out what comes before its turn */
    WI_SIM_BREAK_ONCE = 1u << 3,       /* the target carries out again what comes twice */
    WI_SIM_BREAK_ACK = 1u << 4,        /* an operation ends when it was sent, not when it has arrived */
    WI_SIM_BREAK_CREDITS = 1u << 5,    /* messages are sent without room for them */
    WI_SIM_BREAK_PROBE = 1u << 6,      /* nobody asks again for credits that were lost, nor whether the peer lives */
    WI_SIM_BREAK_EPOCH = 1u << 7,      /* packets of an earlier connection count for the one that follows it */
    WI_SIM_BREAK_WAKE = 1u << 8,       /* an arrival does not wake who sleeps */
};

struct wi_sim_params {
    uint64_t seed;
    uint64_t delay_min_ns, delay_max_ns; /* of a packet */
    uint64_t reorder_ns;                 /* at most, what one that is overtaken is late by */
    uint32_t loss_ppm, duplicate_ppm, reorder_ppm;
    uint32_t mtu;        /* bytes of data in a packet */
    uint32_t window;     /* messages a connection can send before the target has taken some */
    uint32_t depth;      /* operations outstanding on an endpoint */
    uint64_t timeout_ns; /* WEIR_TIMEOUT of the interfaces opened in the world */
    unsigned broken;     /* WI_SIM_BREAK_* */
    void (*log)(void *arg, uint64_t now_ns, const char *line); /* each event as a line, or NULL */
    void *log_arg;
};

struct wi_sim_world;

weir_status wi_sim_world_create(struct wi_sim_world **world);
void wi_sim_world_destroy(struct wi_sim_world *world);

/* Starts a new run at time zero. All contexts of the last one must have been destroyed. */
void wi_sim_begin(struct wi_sim_world *world, const struct wi_sim_params *params);

/* A thread of a rank; `main` starts when the world runs. WEIR_ERR_LIMIT: too many. */
weir_status wi_sim_spawn(struct wi_sim_world *world, int rank, void (*main)(void *arg), void *arg);

/* Calls `action` at a time, outside of all ranks. */
void wi_sim_at(struct wi_sim_world *world, uint64_t at_ns, void (*action)(void *arg), void *arg);

/* Runs until all mains have returned (true), or until `bound_ns`, or until nothing can happen any more (false). */
bool wi_sim_run(struct wi_sim_world *world, uint64_t bound_ns);

/* -- faults -- */

/*
 * Ends a rank for the network: nothing goes from or to what it has open, and its memory is out of reach. With `noticed`
 * its host lives and says so to peers, else there is silence. Its fibers go on, cut off, until their calls fail: so
 * they free what they hold. What they open from then on belongs to the rank's next life.
 */
void wi_sim_kill(struct wi_sim_world *world, int rank, bool noticed);

/* The rank's fibers do not run, as under a debugger; its network card works on. */
void wi_sim_stop(struct wi_sim_world *world, int rank);
void wi_sim_continue(struct wi_sim_world *world, int rank);

/* Breaks all of a rank's endpoints at once, as an error of its network card would; what
 * they sent is still under way. */
void wi_sim_break(struct wi_sim_world *world, int rank);

/* Cuts or mends the way from one rank to another (that way alone). */
void wi_sim_cut(struct wi_sim_world *world, int from, int to, bool cut);

/* -- inside -- */

/* Ends the calling fiber without returning from its main: what it holds stays as it is. */
void wi_sim_park(struct wi_sim_world *world) __attribute__((noreturn));

/* Lets time pass, whatever happens. */
void wi_sim_sleep(struct wi_sim_world *world, uint64_t ns);

/* The calling fiber's rank, -1 outside. */
int wi_sim_rank(const struct wi_sim_world *world);

uint64_t wi_sim_now(const struct wi_sim_world *world);

/* A number of the run's own stream. */
uint64_t wi_sim_random(struct wi_sim_world *world);

/* Adds a line to the events. */
void wi_sim_note(struct wi_sim_world *world, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* -- what came of it -- */

/* Of all events so far: equal for equal runs. */
uint64_t wi_sim_hash(const struct wi_sim_world *world);

struct wi_sim_counts {
    uint64_t events, packets, lost, duplicated, reordered, retransmitted, switches;
    uint64_t overruns;    /* messages that came without room for them: always a bug */
    uint64_t connections; /* that targets hold at this moment */
};

void wi_sim_count(const struct wi_sim_world *world, struct wi_sim_counts *counts);

#endif
