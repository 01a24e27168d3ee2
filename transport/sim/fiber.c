#include "transport/sim/fiber.h"

#include "core/error.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN
#endif
#ifdef WITH_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

enum { STACK_SIZE = 256 * 1024 };

weir_status wi_fiber_init(struct wi_fiber *fiber)
{
    size_t guard = (size_t)sysconf(_SC_PAGESIZE);
    *fiber = (struct wi_fiber){.stack_size = STACK_SIZE};
    void *stack = mmap(NULL, STACK_SIZE + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, guard, PROT_NONE) != 0)
        return wi_error(WEIR_ERR_NO_MEMORY, "sim: no memory for a stack: %s", strerror(errno));
    fiber->stack = (char *)stack + guard;
    return WEIR_OK;
}

void wi_fiber_fini(struct wi_fiber *fiber)
{
    size_t guard = (size_t)sysconf(_SC_PAGESIZE);
    if (fiber->stack)
        munmap((char *)fiber->stack - guard, fiber->stack_size + guard);
    fiber->stack = NULL;
}

/* Says to the sanitizer that the stack changes. */
static void before_switch(struct wi_fiber *from, const struct wi_fiber *to)
{
#ifdef WITH_ASAN
    __sanitizer_start_switch_fiber(&from->shadow, to->stack, to->stack_size);
#else
    (void)from;
    (void)to;
#endif
}

/* And that it has: `self` runs again. The thread's own stack is first told here. */
static void after_switch(struct wi_fiber *self, struct wi_fiber *origin)
{
#ifdef WITH_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(self->shadow, &bottom, &size);
    if (origin && !origin->stack) {
        origin->stack = (void *)(uintptr_t)bottom;
        origin->stack_size = size;
    }
#else
    (void)self;
    (void)origin;
#endif
}

/* makecontext() passes ints: the pointers come in halves. */
static void enter(unsigned high, unsigned low, unsigned origin_high, unsigned origin_low)
{
    struct wi_fiber *self = (struct wi_fiber *)(((uintptr_t)high << 16 << 16) | low);
    struct wi_fiber *origin = (struct wi_fiber *)(((uintptr_t)origin_high << 16 << 16) | origin_low);
    after_switch(self, origin);
    self->main(self->arg);
}

void wi_fiber_load(struct wi_fiber *fiber, void (*main)(void *arg), void *arg)
{
    fiber->main = main;
    fiber->arg = arg;
    fiber->shadow = NULL;
    fiber->sentence[0] = '\0';
    fiber->context.uc_stack.ss_sp = NULL; /* not begun */
}

static void begin(struct wi_fiber *fiber, struct wi_fiber *origin)
{
    uintptr_t self = (uintptr_t)fiber, from = (uintptr_t)origin;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = fiber->stack_size;
    fiber->context.uc_link = NULL;
    makecontext(&fiber->context, (void (*)(void))enter, 4, (unsigned)(self >> 16 >> 16), (unsigned)self,
                (unsigned)(from >> 16 >> 16), (unsigned)from);
}

void wi_fiber_switch(struct wi_fiber *from, struct wi_fiber *to)
{
    snprintf(from->sentence, sizeof(from->sentence), "%s", weir_last_error());
    if (to->main && !to->context.uc_stack.ss_sp)
        begin(to, from);
    before_switch(from, to);
    swapcontext(&from->context, &to->context);
    after_switch(from, NULL);
    if (strcmp(from->sentence, weir_last_error()) != 0)
        wi_error_restore(from->sentence);
}
