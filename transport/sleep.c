/*
 * Progress, and sleeping without losing a wake-up.
 *
 * A waiter polls for WEIR_SPIN and then sleeps, on one epoll descriptor over all interfaces or, where shared memory is
 * all there is, on a word of it. Going to sleep takes two calls of weir_ctx_block(): the first arms the interfaces and
 * returns, so that the caller looks at its condition once more; only the next call sleeps. Why nothing is lost:
 *
 *   - What arrives before the caller looks is seen by it: looking comes after the call that armed.
 *   - What arrives after the arming ends the sleep, or keeps it from beginning: that is what arm() promises (ops.h).
 *   - What some other thread handles meanwhile makes no event any more. Whoever has handled something therefore rouses
 *     the context (ctx->stirred, acted upon before the lock is given back): it disarms, or wakes the sleeper, so that
 *     nobody sleeps on what he saw before.
 *
 * With several threads all share one arming. Each arming has a number, and a thread sleeps only under the one during
 * which it has looked. One of them sleeps on the descriptor; the others wait beside it, on a condition variable that
 * the sleeper signals when it has come back, for whatever reason.
 *
 * The bound of a sleep is for what makes no event at all, such as a peer that falls silent; no arrival needs it.
 * tests/transport/wakeups.c proves that with sleeps that are practically unbounded.
 */
#include "core/clock.h"
#include "core/error.h"
#include "transport/context.h"
#include "transport/loan.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    SLEEP_MAX_MS = 50,       /* backends look after dead peers in progress(): do not sleep for longer */
    SILENT_SLEEP_MAX_MS = 1, /* where an arrival may make no event */
    PURE_SPIN_NS = 2000,     /* poll this long before giving the core away between polls */
    NEW_WAIT_NS = 20000,     /* a pause of this length between calls: it is another wait */
};

/* The arming of a WEIR_CTX_MULTI context during which this thread has looked at its condition. */
static _Thread_local struct {
    const struct weir_ctx *ctx;
    uint64_t arming;
} seen;

static weir_status watch(struct weir_ctx *ctx, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(ctx->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        return wi_error(errno == EBADF || errno == EEXIST ? WEIR_ERR_INVALID : WEIR_ERR_IO,
                        "watching descriptor %d: %s", fd, strerror(errno));
    return WEIR_OK;
}

static void unwatch(struct weir_ctx *ctx, int fd)
{
    if (epoll_ctl(ctx->epoll_fd, EPOLL_CTL_DEL, fd, NULL) == 0 && ctx->watched > 0)
        ctx->watched--;
}

weir_status wi_sleep_init(struct weir_ctx *ctx)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&ctx->roused, &attr);
    pthread_condattr_destroy(&attr);
    ctx->arming = wi_now_ns(); /* never a number that an earlier context at this address had */
    ctx->sleep_max_ms = SLEEP_MAX_MS;
    ctx->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    ctx->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ctx->epoll_fd < 0 || ctx->wake_fd < 0)
        return wi_error(errno == EMFILE || errno == ENFILE ? WEIR_ERR_LIMIT : WEIR_ERR_IO,
                        "context: no descriptor to sleep on: %s; raise the limit of open files (ulimit -n)",
                        strerror(errno));
    weir_status status = watch(ctx, ctx->wake_fd);
    for (int i = 0; i < ctx->iface_count && status == WEIR_OK; i++) {
        int fd = ctx->iface[i]->ops->event_fd(ctx->iface[i]);
        if (fd >= 0)
            status = watch(ctx, fd);
        if (!ctx->iface[i]->wakes_on_signal)
            ctx->sleep_max_ms = SILENT_SLEEP_MAX_MS;
    }
    return status;
}

void wi_sleep_fini(struct weir_ctx *ctx)
{
    if (ctx->wake_fd >= 0)
        close(ctx->wake_fd);
    if (ctx->epoll_fd >= 0) {
        close(ctx->epoll_fd);
        pthread_cond_destroy(&ctx->roused);
    }
}

weir_status weir_ctx_watch(weir_ctx *ctx, int fd)
{
    weir_status status = wi_process_check(ctx, "weir_ctx_watch");
    if (status != WEIR_OK)
        return status;
    wi_ctx_lock(ctx);
    status = watch(ctx, fd);
    if (status == WEIR_OK) {
        ctx->watched++;
        ctx->stirred = true; /* who sleeps on memory does not see the descriptor */
    }
    wi_ctx_unlock(ctx);
    return status;
}

void weir_ctx_unwatch(weir_ctx *ctx, int fd)
{
    if (wi_in_child(ctx)) /* the set of descriptors is the parent's as well */
        return;
    wi_ctx_lock(ctx);
    unwatch(ctx, fd);
    wi_ctx_unlock(ctx);
}

/* ---- Arming ---- */

static void disarm(struct weir_ctx *ctx)
{
    if (!ctx->armed)
        return;
    ctx->armed = false;
    for (int i = 0; i < ctx->iface_count; i++)
        ctx->iface[i]->ops->disarm(ctx->iface[i]);
}

/* False: something is there already. */
static bool arm(struct weir_ctx *ctx)
{
    ctx->armed = true;
    ctx->arming++;
    for (int i = 0; i < ctx->iface_count; i++) {
        if (ctx->iface[i]->ops->arm(ctx->iface[i]) != WEIR_OK) {
            disarm(ctx);
            return false;
        }
    }
    return true;
}

/* The caller looks at its condition once this call has returned. */
static void note_look(struct weir_ctx *ctx)
{
    if (ctx->multi) {
        seen.ctx = ctx;
        seen.arming = ctx->arming;
    } else {
        ctx->seen_arming = ctx->arming;
    }
}

/* Has it done so under the present arming? */
static bool has_looked(const struct weir_ctx *ctx)
{
    if (!ctx->armed)
        return false;
    return ctx->multi ? seen.ctx == ctx && seen.arming == ctx->arming : ctx->seen_arming == ctx->arming;
}

void wi_ctx_rouse(struct weir_ctx *ctx)
{
    ctx->stirred = false;
    /* A sleeper stays the sleeper until it has come back and disarmed, or the next one would be disarmed with it. */
    if (!ctx->asleep) {
        disarm(ctx);
    } else if (!ctx->woken) {
        uint64_t one = 1;
        ctx->woken = true;
        if (ctx->on_memory) {
            ctx->iface[0]->ops->rouse(ctx->iface[0]);
        } else if (write(ctx->wake_fd, &one, sizeof(one)) < 0) {
            /* Full means that it will wake anyway. */
        }
    }
    if (ctx->waiters_beside > 0)
        pthread_cond_broadcast(&ctx->roused);
}

/* ---- Progress ---- */

WI_NEAR unsigned wi_ctx_progress(struct weir_ctx *ctx)
{
    unsigned events = 0;
    for (int i = 0; i < ctx->iface_count; i++)
        events += ctx->iface[i]->ops->progress(ctx->iface[i]);
    if (__builtin_expect(ctx->loans != NULL, 0))
        wi_loans_settle(ctx);
    if (events > 0)
        ctx->stirred = true;
    if (__builtin_expect(ctx->stats.samples_busy > 0, 0))
        wi_samples_collect(&ctx->stats);
    return events;
}

WI_NEAR unsigned weir_progress(weir_ctx *ctx)
{
    if (wi_in_child(ctx))
        return 0;
    return wi_ctx_turn(ctx);
}

/* ---- Sleeping ---- */

static int bound_of(const struct weir_ctx *ctx, int timeout_ms)
{
    return timeout_ms >= 0 && timeout_ms < ctx->sleep_max_ms ? timeout_ms : ctx->sleep_max_ms;
}

/* Sleeps without the lock, until something has come or another thread rouses us. */
static void sleep_here(struct weir_ctx *ctx, int timeout_ms)
{
    struct wi_iface *first = ctx->iface[0];
    struct epoll_event events[8];
    uint64_t count;
    int bound_ms = bound_of(ctx, timeout_ms);
    bool nothing_else = ctx->watched == 0 || wi_time_is_virtual();
    bool on_memory = ctx->iface_count == 1 && nothing_else && first->ops->sleep;
    ctx->sleeps++;
    ctx->asleep = true;
    ctx->on_memory = on_memory;
    wi_ctx_unlock(ctx);
    if (on_memory)
        first->ops->sleep(first, bound_ms);
    else
        epoll_wait(ctx->epoll_fd, events, sizeof(events) / sizeof(events[0]), bound_ms);
    wi_ctx_lock(ctx);
    ctx->asleep = ctx->woken = false;
    if (ctx->multi && !on_memory && read(ctx->wake_fd, &count, sizeof(count)) < 0) {
        /* Nobody woke us through it. */
    }
    disarm(ctx);
    if (ctx->waiters_beside > 0)
        pthread_cond_broadcast(&ctx->roused);
}

/* Another thread sleeps under the same arming: whatever wakes it wakes us. */
static void sleep_beside(struct weir_ctx *ctx, int timeout_ms)
{
    uint64_t bound_ms = (uint64_t)bound_of(ctx, timeout_ms);
    uint64_t end_ns = wi_now_ns() + bound_ms * WI_NS_PER_MS;
    struct timespec end = {.tv_sec = (time_t)(end_ns / WI_NS_PER_S), .tv_nsec = (long)(end_ns % WI_NS_PER_S)};
    ctx->sleeps++;
    if (wi_time_is_virtual()) {
        wi_ctx_unlock(ctx);
        wi_virtual_time->sleep(bound_ms * WI_NS_PER_MS);
        wi_ctx_lock(ctx);
        return;
    }
    ctx->waiters_beside++;
    pthread_cond_timedwait(&ctx->roused, &ctx->lock, &end);
    ctx->waiters_beside--;
}

/* One turn of polling, while the wait is young. True: still young. */
static bool spin(struct weir_ctx *ctx)
{
    uint64_t now_ns = wi_now_ns();
    if (now_ns - ctx->last_block_ns > NEW_WAIT_NS)
        ctx->idle_since_ns = now_ns;
    ctx->last_block_ns = now_ns;
    uint64_t idle_ns = now_ns - ctx->idle_since_ns;
    if (idle_ns >= ctx->spin_ns)
        return false;
    if (idle_ns < PURE_SPIN_NS && !wi_time_is_virtual()) {
        wi_cpu_relax();
        return true;
    }
    wi_ctx_unlock(ctx);
    wi_yield();
    wi_ctx_lock(ctx);
    ctx->last_block_ns = wi_now_ns(); /* others may have run for long: it is the same wait all the same */
    return true;
}

/* One step of a wait, with the lock held: polls, arms or sleeps. */
static void step(struct weir_ctx *ctx, int timeout_ms, bool spins)
{
    wi_ctx_progress(ctx);
    if (ctx->stirred) {
        wi_ctx_rouse(ctx);
        ctx->idle_since_ns = ctx->last_block_ns = wi_now_ns();
    } else if (!has_looked(ctx)) {
        if (!(spins && spin(ctx)) && (ctx->armed || arm(ctx)))
            note_look(ctx);
    } else if (ctx->asleep) {
        sleep_beside(ctx, timeout_ms);
    } else {
        sleep_here(ctx, timeout_ms);
        wi_ctx_progress(ctx);
    }
}

void weir_ctx_block(weir_ctx *ctx, int timeout_ms)
{
    if (wi_in_child(ctx)) {
        wi_sleep_ns((uint64_t)bound_of(ctx, timeout_ms) * WI_NS_PER_MS); /* callers ask again and again */
        return;
    }
    wi_ctx_lock(ctx);
    step(ctx, timeout_ms, true);
    wi_ctx_unlock(ctx);
}

/* Peers would go on waking us, and the next wait would sleep at once, if what a wait has armed stayed so after it. */
static void stay_awake(struct weir_ctx *ctx)
{
    if (ctx->armed && !ctx->asleep)
        disarm(ctx);
}

void weir_ctx_wait_begin(weir_ctx *ctx)
{
    if (wi_in_child(ctx))
        return;
    wi_ctx_lock(ctx);
    stay_awake(ctx);
    ctx->idle_since_ns = ctx->last_block_ns = wi_now_ns();
    wi_ctx_unlock(ctx);
}

void wi_ctx_wait_end(struct weir_ctx *ctx)
{
    wi_ctx_lock(ctx);
    stay_awake(ctx);
    wi_ctx_unlock(ctx);
}

/* The descriptor is watched for this sleep alone: whoever sleeps here later must not wake for it again and again. */
int weir_ctx_attend(void *arg, int fd, int timeout_ms)
{
    struct weir_ctx *ctx = arg;
    (void)weir_progress(ctx);
    if (wi_in_child(ctx) || fd < 0 || timeout_ms <= 0)
        return 0;
    wi_ctx_lock(ctx);
    bool watched = watch(ctx, fd) == WEIR_OK;
    if (watched) {
        ctx->watched++;
        wi_ctx_rouse(ctx); /* who sleeps on memory does not see the descriptor */
        step(ctx, timeout_ms, false);
        step(ctx, timeout_ms, false);
        unwatch(ctx, fd);
        stay_awake(ctx);
    }
    wi_ctx_unlock(ctx);
    return watched;
}
