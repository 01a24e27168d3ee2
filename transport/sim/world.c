/* The world's clock and scheduler. */
#include "transport/sim/world_inside.h"

#include "core/clock.h"
#include "core/error.h"
#include "transport/sim/nic.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TURN_NS = 100 }; /* what one turn of polling takes */

/* The world of this process. */
static struct wi_sim_world *here;

struct wi_sim_world *wi_sim_world_here(void)
{
    return here;
}

/* ---- Events ------------------------------------------------------------------------------------------------------ */

void wi_sim_log_line(struct wi_sim_world *world, const char *format, ...)
{
    char line[256];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    world->params.log(world->params.log_arg, world->now_ns, line);
}

void wi_sim_note(struct wi_sim_world *world, const char *format, ...)
{
    char line[256];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    uint64_t sum = 0;
    for (const char *at = line; *at; at++)
        sum = wi_sim_mix(sum ^ (unsigned char)*at);
    wi_sim_trace(world, sum, 0ull, "%s", line);
}

/* Lets the next event happen. False: there is none before the bound. */
static bool step(struct wi_sim_world *world)
{
    const struct wi_sim_event *first = wi_sim_events_first(&world->events);
    if (!first || first->at_ns > world->bound_ns)
        return false;
    struct wi_sim_event event = *first;
    wi_sim_events_cancel(&world->events, world->events.heap[0]);
    if (event.at_ns > world->now_ns)
        world->now_ns = event.at_ns;
    world->counts.events++;
    event.happen(event.arg);
    return true;
}

static void catch_up(struct wi_sim_world *world)
{
    const struct wi_sim_event *first;
    while ((first = wi_sim_events_first(&world->events)) && first->at_ns <= world->now_ns && step(world))
        ;
}

/* ---- Who runs ---------------------------------------------------------------------------------------------------- */

/* Enters a thread among those that can run, or takes it out, as its state says. */
static void review(struct sim_thread *thread)
{
    struct wi_sim_world *world = thread->world;
    bool can_run = thread->state == SIM_THREAD_READY && !world->ranks[thread->rank].stopped;
    if (can_run == (thread->place >= 0))
        return;
    if (can_run) {
        thread->place = world->able_count;
        world->able[world->able_count++] = thread;
        return;
    }
    struct sim_thread *last = world->able[--world->able_count];
    world->able[thread->place] = last;
    last->place = thread->place;
    thread->place = -1;
}

static void set_state(struct sim_thread *thread, enum sim_thread_state state)
{
    thread->state = state;
    review(thread);
}

/* One of those that can run, by lot. */
static struct sim_thread *choose(struct wi_sim_world *world)
{
    if (world->able_count <= 1)
        return world->able_count ? world->able[0] : NULL;
    return world->able[wi_sim_draw(&world->choice) % (unsigned)world->able_count];
}

static void switch_to(struct wi_sim_world *world, struct sim_thread *to)
{
    struct sim_thread *from = world->running;
    if (from == to)
        return;
    world->running = to;
    world->counts.switches++;
    wi_fiber_switch(from ? &from->fiber : &world->outside, to ? &to->fiber : &world->outside);
}

/* Goes on with whoever can run, now or after the next events; with wi_sim_run()'s caller when nobody ever will. */
static void schedule(struct wi_sim_world *world)
{
    struct sim_thread *next = choose(world);
    while (!next && world->live > 0 && step(world))
        next = choose(world);
    switch_to(world, next);
}

static void wake(void *arg)
{
    struct sim_thread *thread = arg;
    thread->wake = NULL;
    set_state(thread, SIM_THREAD_READY);
}

static void wake_early(struct sim_thread *thread)
{
    wi_sim_events_cancel(&thread->world->events, thread->wake);
    wake(thread);
}

void wi_sim_wake_rank(struct wi_sim_world *world, int rank)
{
    struct sim_thread *thread = rank < world->rank_room ? world->ranks[rank].threads : NULL;
    for (; thread; thread = thread->of_rank)
        if (thread->state == SIM_THREAD_ASLEEP && thread->light)
            wake_early(thread);
}

static void sleep_for(struct wi_sim_world *world, uint64_t ns, bool light)
{
    struct sim_thread *self = world->running;
    uint64_t at_ns = world->now_ns + ns;
    if (!self) {
        const struct wi_sim_event *first;
        while ((first = wi_sim_events_first(&world->events)) && first->at_ns <= at_ns && step(world))
            ;
        world->now_ns = at_ns;
        return;
    }
    self->light = light;
    self->wake = wi_sim_events_add(&world->events, at_ns, wake, self);
    set_state(self, self->wake ? SIM_THREAD_ASLEEP : SIM_THREAD_READY);
    schedule(world);
}

void wi_sim_sleep(struct wi_sim_world *world, uint64_t ns)
{
    sleep_for(world, ns, false);
}

static void leave(struct wi_sim_world *world)
{
    set_state(world->running, SIM_THREAD_NONE);
    world->live--;
    schedule(world);
}

static void thread_main(void *arg)
{
    struct sim_thread *self = arg;
    self->main(self->arg);
    leave(self->world);
}

void wi_sim_park(struct wi_sim_world *world)
{
    for (;;)
        leave(world);
}

/* ---- The library's clock ----------------------------------------------------------------------------------------- */

static uint64_t virtual_now(void)
{
    return here->now_ns;
}

/* An interface that is armed and has news is a descriptor that is readable. */
static void virtual_sleep(uint64_t ns)
{
    if (!here->running || !wi_sim_rank_has_event(here, here->running->rank))
        sleep_for(here, ns, true);
}

static void virtual_turn(void)
{
    here->now_ns += TURN_NS;
    catch_up(here);
    if (here->running)
        schedule(here);
}

static const struct wi_virtual_time virtual_time = {virtual_now, virtual_sleep, virtual_turn};

/* ---- Life -------------------------------------------------------------------------------------------------------- */

weir_status wi_sim_world_create(struct wi_sim_world **out)
{
    if (here)
        return wi_error(WEIR_ERR_INVALID, "sim: there is a world in this process already");
    struct wi_sim_world *world = calloc(1, sizeof(*world));
    if (!world)
        return wi_error(WEIR_ERR_NO_MEMORY, "sim: out of memory");
    here = world;
    wi_virtual_time = &virtual_time;
    *out = world;
    return WEIR_OK;
}

static void forget_ways(struct wi_sim_world *world)
{
    while (world->ways) {
        struct sim_way *way = world->ways;
        world->ways = way->next;
        wi_map_remove(&world->ways_by_ends, &way->node);
        free(way);
    }
}

void wi_sim_world_destroy(struct wi_sim_world *world)
{
    if (!world)
        return;
    wi_sim_drop_packets(world);
    wi_sim_events_fini(&world->events);
    for (int i = 0; i < world->thread_room && world->threads[i]; i++) {
        wi_fiber_fini(&world->threads[i]->fiber);
        free(world->threads[i]);
    }
    free(world->threads);
    free(world->able);
    forget_ways(world);
    wi_map_fini(&world->ways_by_ends);
    free(world->ranks);
    free(world->ifaces);
    free(world);
    here = NULL;
    wi_virtual_time = NULL;
}

void wi_sim_begin(struct wi_sim_world *world, const struct wi_sim_params *params)
{
    wi_sim_drop_packets(world);
    wi_sim_events_clear(&world->events);
    forget_ways(world);
    if (world->ranks)
        memset(world->ranks, 0, (size_t)world->rank_room * sizeof(*world->ranks));
    world->params = *params;
    world->now_ns = 0;
    world->random = wi_sim_mix(params->seed ^ 1);
    world->choice = wi_sim_mix(params->seed ^ 2);
    world->hash = params->seed;
    world->counts = (struct wi_sim_counts){0};
    world->thread_count = world->live = world->able_count = 0;
    world->iface_count = 0;
    world->next_number = 1;
}

weir_status wi_sim_know_rank(struct wi_sim_world *world, int rank)
{
    int room = world->rank_room ? world->rank_room : 16;
    if (rank < 0 || rank >= WI_SIM_RANKS_MAX)
        return wi_error(WEIR_ERR_LIMIT, "sim: rank %d; there can be 0 to %d", rank, WI_SIM_RANKS_MAX - 1);
    while (room <= rank)
        room *= 2;
    if (room == world->rank_room)
        return WEIR_OK;
    struct sim_rank *ranks = realloc(world->ranks, (size_t)room * sizeof(*ranks));
    if (!ranks)
        return wi_error(WEIR_ERR_NO_MEMORY, "sim: out of memory");
    memset(ranks + world->rank_room, 0, (size_t)(room - world->rank_room) * sizeof(*ranks));
    world->ranks = ranks;
    world->rank_room = room;
    return WEIR_OK;
}

static weir_status make_thread_room(struct wi_sim_world *world)
{
    int room = world->thread_room ? 2 * world->thread_room : 64;
    struct sim_thread **threads = realloc(world->threads, (size_t)room * sizeof(struct sim_thread *));
    if (threads)
        world->threads = threads;
    struct sim_thread **able = realloc(world->able, (size_t)room * sizeof(struct sim_thread *));
    if (able)
        world->able = able;
    if (!threads || !able)
        return wi_error(WEIR_ERR_NO_MEMORY, "sim: out of memory");
    for (int i = world->thread_room; i < room; i++)
        threads[i] = NULL;
    world->thread_room = room;
    return WEIR_OK;
}

/* The next thread of the run, with a stack; from an earlier run, where there is one. */
static weir_status next_thread(struct wi_sim_world *world, struct sim_thread **out)
{
    weir_status status = world->thread_count < world->thread_room ? WEIR_OK : make_thread_room(world);
    if (status != WEIR_OK)
        return status;
    struct sim_thread **at = &world->threads[world->thread_count];
    if (!*at) {
        struct sim_thread *thread = calloc(1, sizeof(*thread));
        status = thread ? wi_fiber_init(&thread->fiber) : wi_error(WEIR_ERR_NO_MEMORY, "sim: out of memory");
        if (status != WEIR_OK) {
            free(thread);
            return status;
        }
        *at = thread;
    }
    *out = *at;
    return WEIR_OK;
}

weir_status wi_sim_spawn(struct wi_sim_world *world, int rank, void (*main)(void *arg), void *arg)
{
    struct sim_thread *thread;
    weir_status status = wi_sim_know_rank(world, rank);
    if (status == WEIR_OK)
        status = next_thread(world, &thread);
    if (status != WEIR_OK)
        return status;
    thread->world = world;
    thread->rank = rank;
    thread->place = -1;
    thread->wake = NULL;
    thread->main = main;
    thread->arg = arg;
    thread->of_rank = world->ranks[rank].threads;
    world->ranks[rank].threads = thread;
    wi_fiber_load(&thread->fiber, thread_main, thread);
    set_state(thread, SIM_THREAD_READY);
    world->thread_count++;
    world->live++;
    return WEIR_OK;
}

void wi_sim_at(struct wi_sim_world *world, uint64_t at_ns, void (*action)(void *arg), void *arg)
{
    wi_sim_events_add(&world->events, at_ns, action, arg);
}

bool wi_sim_run(struct wi_sim_world *world, uint64_t bound_ns)
{
    world->bound_ns = bound_ns;
    if (world->live > 0)
        schedule(world);
    world->bound_ns = UINT64_MAX;
    return world->live == 0;
}

/* ---- Faults ------------------------------------------------------------------------------------------------------ */

static void review_rank(struct wi_sim_world *world, int rank)
{
    for (struct sim_thread *thread = world->ranks[rank].threads; thread; thread = thread->of_rank)
        review(thread);
}

void wi_sim_kill(struct wi_sim_world *world, int rank, bool noticed)
{
    wi_sim_note(world, "rank %d is killed, %s", rank, noticed ? "and its host says so" : "in silence");
    for (struct sim_iface *iface = world->ranks[rank].ifaces; iface; iface = iface->of_rank)
        wi_sim_iface_kill(iface, noticed);
    wi_sim_wake_rank(world, rank);
}

void wi_sim_stop(struct wi_sim_world *world, int rank)
{
    wi_sim_note(world, "rank %d is stopped", rank);
    world->ranks[rank].stopped = true;
    review_rank(world, rank);
    if (world->running && world->running->rank == rank)
        schedule(world);
}

void wi_sim_continue(struct wi_sim_world *world, int rank)
{
    wi_sim_note(world, "rank %d goes on", rank);
    world->ranks[rank].stopped = false;
    review_rank(world, rank);
}

void wi_sim_break(struct wi_sim_world *world, int rank)
{
    wi_sim_note(world, "the endpoints of rank %d break", rank);
    for (struct sim_iface *iface = world->ranks[rank].ifaces; iface; iface = iface->of_rank)
        wi_sim_iface_break(iface, "sim: an error of the network card");
}

struct sim_way *wi_sim_way(struct wi_sim_world *world, int from, int to)
{
    uint64_t hash = wi_map_hash((uint64_t)from, (uint64_t)to);
    for (struct wi_map_node *node = wi_map_first(&world->ways_by_ends, hash); node; node = wi_map_next(node)) {
        struct sim_way *way = WI_MAP_ITEM(node, struct sim_way, node);
        if (way->from == from && way->to == to)
            return way;
    }
    struct sim_way *way = calloc(1, sizeof(*way));
    if (!way)
        return NULL;
    way->from = from;
    way->to = to;
    way->next = world->ways;
    world->ways = way;
    wi_map_add(&world->ways_by_ends, &way->node, hash);
    return way;
}

void wi_sim_cut(struct wi_sim_world *world, int from, int to, bool cut)
{
    struct sim_way *way = wi_sim_way(world, from, to);
    wi_sim_note(world, "the way from %d to %d is %s", from, to, cut ? "cut" : "mended");
    if (way)
        way->is_cut = cut;
}

/* ---- What is known ----------------------------------------------------------------------------------------------- */

int wi_sim_rank(const struct wi_sim_world *world)
{
    return world->running ? world->running->rank : -1;
}

uint64_t wi_sim_now(const struct wi_sim_world *world)
{
    return world->now_ns;
}

uint64_t wi_sim_random(struct wi_sim_world *world)
{
    return wi_sim_draw(&world->random);
}

uint64_t wi_sim_hash(const struct wi_sim_world *world)
{
    return world->hash;
}

void wi_sim_count(const struct wi_sim_world *world, struct wi_sim_counts *counts)
{
    *counts = world->counts;
}
