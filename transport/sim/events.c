#include "transport/sim/events.h"

#include <stdbool.h>
#include <stdlib.h>

static bool is_before(const struct wi_sim_event *a, const struct wi_sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void place(struct wi_sim_events *events, struct wi_sim_event *event, size_t index)
{
    events->heap[index] = event;
    event->index = index;
}

static void move_up(struct wi_sim_events *events, struct wi_sim_event *event)
{
    size_t at = event->index;
    for (; at > 0 && is_before(event, events->heap[(at - 1) / 2]); at = (at - 1) / 2)
        place(events, events->heap[(at - 1) / 2], at);
    place(events, event, at);
}

static void move_down(struct wi_sim_events *events, struct wi_sim_event *event)
{
    size_t at = event->index, child;
    while ((child = 2 * at + 1) < events->count) {
        if (child + 1 < events->count && is_before(events->heap[child + 1], events->heap[child]))
            child++;
        if (!is_before(events->heap[child], event))
            break;
        place(events, events->heap[child], at);
        at = child;
    }
    place(events, event, at);
}

static bool make_room(struct wi_sim_events *events)
{
    if (events->count < events->room)
        return true;
    size_t room = events->room ? 2 * events->room : 64;
    struct wi_sim_event **heap = realloc(events->heap, room * sizeof(struct wi_sim_event *));
    if (!heap)
        return false;
    events->heap = heap;
    events->room = room;
    return true;
}

struct wi_sim_event *wi_sim_events_add(struct wi_sim_events *events, uint64_t at_ns, void (*happen)(void *arg),
                                       void *arg)
{
    struct wi_sim_event *event = events->spare;
    if (!make_room(events))
        return NULL;
    if (event)
        events->spare = event->arg;
    else if (!(event = malloc(sizeof(*event))))
        return NULL;
    *event = (struct wi_sim_event){at_ns, events->next_order++, happen, arg, events->count};
    events->heap[events->count++] = event;
    move_up(events, event);
    return event;
}

void wi_sim_events_cancel(struct wi_sim_events *events, struct wi_sim_event *event)
{
    struct wi_sim_event *last = events->heap[--events->count];
    if (last != event) {
        place(events, last, event->index);
        move_up(events, last);
        move_down(events, last);
    }
    event->arg = events->spare;
    events->spare = event;
}

void wi_sim_events_clear(struct wi_sim_events *events)
{
    while (events->count > 0)
        wi_sim_events_cancel(events, events->heap[events->count - 1]);
    events->next_order = 0;
}

void wi_sim_events_fini(struct wi_sim_events *events)
{
    wi_sim_events_clear(events);
    while (events->spare) {
        struct wi_sim_event *event = events->spare;
        events->spare = event->arg;
        free(event);
    }
    free(events->heap);
    *events = (struct wi_sim_events){0};
}
