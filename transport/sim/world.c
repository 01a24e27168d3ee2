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

static bool can_run(const struct sim_thread *thread)
{
    return thread->state == SIM_THREAD_READY && !thread->world->ranks[thread->rank].stopped;
}

/* One of those that can run, by lot. */
static struct sim_thread *choose(struct wi_sim_world *world)
{
    struct sim_thread *able[WI_SIM_FIBERS_MAX];
    unsigned count = 0;
    for (int i = 0; i < world->thread_count; i++)
        if (can_run(&world->threads[i]))
            able[count++] = &world->threads[i];
    if (count <= 1)
        return count ? able[0] : NULL;
    return able[wi_sim_draw(&world->choice) % count];
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
    thread->state = SIM_THREAD_READY;
}

static void wake_early(struct sim_thread *thread)
{
    wi_sim_events_cancel(&thread->world->events, thread->wake);
    wake(thread);
}

void wi_sim_wake_rank(struct wi_sim_world *world, int rank)
{
    for (int i = 0; i < world->thread_count; i++) {
        struct sim_thread *thread = &world->threads[i];
        if (thread->rank == rank && thread->state == SIM_THREAD_ASLEEP && thread->light)
            wake_early(thread);
    }
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
    self->state = self->wake ? SIM_THREAD_ASLEEP : SIM_THREAD_READY;
    schedule(world);
}

void wi_sim_sleep(struct wi_sim_world *world, uint64_t ns)
{
    sleep_for(world, ns, false);
}

static void leave(struct wi_sim_world *world)
{
    world->running->state = SIM_THREAD_NONE;
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

void wi_sim_world_destroy(struct wi_sim_world *world)
{
    if (!world)
        return;
    wi_sim_drop_packets(world);
    wi_sim_events_fini(&world->events);
    for (int i = 0; i < WI_SIM_FIBERS_MAX; i++)
        wi_fiber_fini(&world->threads[i].fiber);
    free(world->ifaces);
    free(world);
    here = NULL;
    wi_virtual_time = NULL;
}

void wi_sim_begin(struct wi_sim_world *world, const struct wi_sim_params *params)
{
    wi_sim_drop_packets(world);
    wi_sim_events_clear(&world->events);
    memset(world->ranks, 0, sizeof(world->ranks));
    world->params = *params;
    world->now_ns = 0;
    world->random = wi_sim_mix(params->seed ^ 1);
    world->choice = wi_sim_mix(params->seed ^ 2);
    world->hash = params->seed;
    world->counts = (struct wi_sim_counts){0};
    world->thread_count = world->live = 0;
    world->iface_count = 0;
    world->next_number = 1;
}

weir_status wi_sim_spawn(struct wi_sim_world *world, int rank, void (*main)(void *arg), void *arg)
{
    struct sim_thread *thread = &world->threads[world->thread_count];
    if (world->thread_count == WI_SIM_FIBERS_MAX || rank < 0 || rank >= WI_SIM_RANKS_MAX)
        return wi_error(WEIR_ERR_LIMIT, "sim: %d threads and ranks 0 to %d can be", WI_SIM_FIBERS_MAX,
                        WI_SIM_RANKS_MAX - 1);
    if (!thread->fiber.stack) {
        weir_status status = wi_fiber_init(&thread->fiber);
        if (status != WEIR_OK)
            return status;
    }
    thread->world = world;
    thread->rank = rank;
    thread->state = SIM_THREAD_READY;
    thread->wake = NULL;
    thread->main = main;
    thread->arg = arg;
    wi_fiber_load(&thread->fiber, thread_main, thread);
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

void wi_sim_kill(struct wi_sim_world *world, int rank, bool noticed)
{
    wi_sim_note(world, "rank %d is killed, %s", rank, noticed ? "and its host says so" : "in silence");
    for (size_t i = 0; i < world->iface_count; i++)
        if (world->ifaces[i])
            wi_sim_iface_kill(world->ifaces[i], rank, noticed);
    wi_sim_wake_rank(world, rank);
}

void wi_sim_stop(struct wi_sim_world *world, int rank)
{
    wi_sim_note(world, "rank %d is stopped", rank);
    world->ranks[rank].stopped = true;
    if (world->running && world->running->rank == rank)
        schedule(world);
}

void wi_sim_continue(struct wi_sim_world *world, int rank)
{
    wi_sim_note(world, "rank %d goes on", rank);
    world->ranks[rank].stopped = false;
}

void wi_sim_break(struct wi_sim_world *world, int rank)
{
    wi_sim_note(world, "the endpoints of rank %d break", rank);
    for (size_t i = 0; i < world->iface_count; i++)
        if (world->ifaces[i] && world->ifaces[i]->rank == rank)
            wi_sim_iface_break(world->ifaces[i], "sim: an error of the network card");
}

void wi_sim_cut(struct wi_sim_world *world, int from, int to, bool cut)
{
    wi_sim_note(world, "the way from %d to %d is %s", from, to, cut ? "cut" : "mended");
    if (cut)
        world->ranks[from].cut_to |= 1u << to;
    else
        world->ranks[from].cut_to &= ~(1u << to);
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
