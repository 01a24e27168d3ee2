/* The inside of a world, for the files of this folder. */
#ifndef WI_SIM_WORLD_INSIDE_H
#define WI_SIM_WORLD_INSIDE_H

#include "core/map.h"
#include "transport/sim/events.h"
#include "transport/sim/fiber.h"
#include "transport/sim/random.h"
#include "transport/sim/world.h"

#include <stddef.h>

struct sim_iface;

/* A link of the ring of packets that are under way. */
struct sim_packet_link {
    struct sim_packet_link *prev, *next;
};

enum sim_thread_state { SIM_THREAD_NONE, SIM_THREAD_READY, SIM_THREAD_ASLEEP };

/* A thread of a rank. */
struct sim_thread {
    struct wi_fiber fiber; /* its stack is kept from run to run */
    struct wi_sim_world *world;
    int rank;
    enum sim_thread_state state;
    struct sim_thread *of_rank; /* the next one of its rank */
    int place;                 /* among those that can run; -1: it cannot */
    bool light;                /* an arrival ends its sleep */
    struct wi_sim_event *wake; /* the end of its sleep */
    void (*main)(void *arg);
    void *arg;
};

struct sim_rank {
    bool stopped;
    struct sim_thread *threads; /* through of_rank */
    struct sim_iface *ifaces;   /* those that are open, through of_rank */
};

/* The way from one rank to another, once something has gone there. */
struct sim_way {
    struct wi_map_node node;
    struct sim_way *next; /* of all */
    int from, to;
    bool is_cut;
    uint64_t last_arrival_ns; /* what is not overtaken arrives after this */
};

struct wi_sim_world {
    struct wi_sim_params params;
    uint64_t now_ns;
    uint64_t bound_ns;
    uint64_t random; /* the network's draws */
    uint64_t choice; /* who runs next */
    uint64_t hash;
    struct wi_sim_counts counts;
    struct wi_sim_events events;
    struct wi_fiber outside; /* who called wi_sim_run() */
    struct sim_thread **threads; /* made so far; those of this run come first */
    struct sim_thread **able;    /* those that can run, in any order */
    int thread_count, thread_room, able_count;
    int live;
    struct sim_thread *running; /* NULL: outside */
    struct sim_rank *ranks;
    int rank_room;
    struct wi_map ways_by_ends;
    struct sim_way *ways;

    /* Every interface that was opened in this run, by number from 1; NULL: closed. */
    struct sim_iface **ifaces;
    size_t iface_count, iface_room;
    struct sim_packet_link packets;
    uint64_t next_number; /* of endpoints and connections; none is used twice */
};

/* The world of this process, NULL: none. */
struct wi_sim_world *wi_sim_world_here(void);

/* Ends the light sleep of a rank's threads. */
void wi_sim_wake_rank(struct wi_sim_world *world, int rank);

/* Makes room for what is known of a rank. WEIR_ERR_LIMIT, WEIR_ERR_NO_MEMORY. */
weir_status wi_sim_know_rank(struct wi_sim_world *world, int rank);

/* NULL: out of memory. */
struct sim_way *wi_sim_way(struct wi_sim_world *world, int from, int to);

static inline bool wi_sim_is_broken(const struct wi_sim_world *world, unsigned what)
{
    return world->params.broken & what;
}

/* Adds an event to the hash, and to the log where there is one. */
#define wi_sim_trace(_world, _a, _b, ...)                                                                              \
    do {                                                                                                               \
        (_world)->hash = wi_sim_mix((_world)->hash ^ (_world)->now_ns ^ wi_sim_mix((_a) << 32 ^ (_b)));                \
        if ((_world)->params.log)                                                                                      \
            wi_sim_log_line((_world), __VA_ARGS__);                                                                    \
    } while (0)

void wi_sim_log_line(struct wi_sim_world *world, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
