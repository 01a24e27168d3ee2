/* What is still to happen in a world, ordered by time; at the same time, by when it was decided. */
#ifndef WI_SIM_EVENTS_H
#define WI_SIM_EVENTS_H

#include <weir/status.h>

#include <stddef.h>
#include <stdint.h>

struct wi_sim_event {
    uint64_t at_ns;
    uint64_t order;
    void (*happen)(void *arg);
    void *arg;
    size_t index; /* in the heap */
};

struct wi_sim_events {
    struct wi_sim_event **heap;
    size_t count, room;
    uint64_t next_order;
    struct wi_sim_event *spare; /* free ones, chained by `arg` */
};

/* A zeroed structure is an empty one. */
void wi_sim_events_fini(struct wi_sim_events *events);

/* Forgets all that is still to happen. */
void wi_sim_events_clear(struct wi_sim_events *events);

/* NULL: out of memory. */
struct wi_sim_event *wi_sim_events_add(struct wi_sim_events *events, uint64_t at_ns, void (*happen)(void *arg),
                                       void *arg);

/* Takes an event that has not happened out again. */
void wi_sim_events_cancel(struct wi_sim_events *events, struct wi_sim_event *event);

/* The next one, NULL: none. */
static inline const struct wi_sim_event *wi_sim_events_first(const struct wi_sim_events *events)
{
    return events->count > 0 ? events->heap[0] : NULL;
}

#endif
