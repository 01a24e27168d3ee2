/*
 * Fibers: threads of one process of which exactly one runs, until it switches to another one. So a world's ranks need
 * no locks, every run of a seed is the same, and a switch costs less than a microsecond.
 *
 * The thread's error sentence is kept a fiber.
 */
#ifndef WI_SIM_FIBER_H
#define WI_SIM_FIBER_H

#include <weir/status.h>

#include <stddef.h>
#include <ucontext.h>

struct wi_fiber {
    ucontext_t context;
    void *stack; /* NULL: the thread's own */
    size_t stack_size;
    void (*main)(void *arg);
    void *arg;
    void *shadow; /* the address sanitizer's, while it does not run */
    char sentence[1024];
};

/* Makes a fiber with a stack, to run any number of mains one after the other. WEIR_ERR_NO_MEMORY. */
weir_status wi_fiber_init(struct wi_fiber *fiber);
void wi_fiber_fini(struct wi_fiber *fiber);

/* Has the fiber begin `main` at the next switch to it. `main` never returns: it ends in a switch that is for good. */
void wi_fiber_load(struct wi_fiber *fiber, void (*main)(void *arg), void *arg);

/* Goes on in `to`. Returns when somebody switches to `from`. */
void wi_fiber_switch(struct wi_fiber *from, struct wi_fiber *to);

#endif
