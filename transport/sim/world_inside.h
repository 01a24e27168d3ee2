/* The inside of a world, for the files of this folder. */
#ifndef WI_SIM_WORLD_INSIDE_H
#define WI_SIM_WORLD_INSIDE_H

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
    bool light;                /* an arrival ends its sleep */
    struct wi_sim_event *wake; /* the end of its sleep */
    void (*main)(void *arg);
    void *arg;
};

struct sim_rank {
    bool stopped;
    uint32_t cut_to;                            /* bit mask of ranks that nothing reaches from here */
    uint64_t last_arrival_ns[WI_SIM_RANKS_MAX]; /* by sender: what is not overtaken arrives after this */
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
    struct sim_thread threads[WI_SIM_FIBERS_MAX];
    int thread_count;
    int live;
    struct sim_thread *running; /* NULL: outside */
    struct sim_rank ranks[WI_SIM_RANKS_MAX];

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
