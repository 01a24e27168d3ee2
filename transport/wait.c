/*
 * Progress and waiting.
 *
 * A waiter polls for WEIR_SPIN and then sleeps on one epoll descriptor over all interfaces. To lose no wake-up, going
 * to sleep takes two calls of weir_ctx_block(): the first arms the interfaces (from then on an arrival makes a
 * descriptor readable) and returns, so that the caller looks at its condition once more; only the next call sleeps.
 *
 * With several threads one of them sleeps on epoll; the others wait on a condition variable and look every millisecond.
 * Whoever makes progress wakes them all, since it may have ended what they wait for.
 */
#include "core/clock.h"
#include "core/error.h"
#include "transport/context.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
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

static weir_status watch(struct weir_ctx *ctx, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(ctx->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        return wi_error(errno == EBADF || errno == EEXIST ? WEIR_ERR_INVALID : WEIR_ERR_IO,
                        "watching descriptor %d: %s", fd, strerror(errno));
    return WEIR_OK;
}

weir_status wi_wait_init(struct weir_ctx *ctx)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&ctx->progressed, &attr);
    pthread_condattr_destroy(&attr);
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
    }
    return status;
}

void wi_wait_fini(struct weir_ctx *ctx)
{
    if (ctx->wake_fd >= 0)
        close(ctx->wake_fd);
    if (ctx->epoll_fd >= 0) {
        close(ctx->epoll_fd);
        pthread_cond_destroy(&ctx->progressed);
    }
}

weir_status weir_ctx_watch(weir_ctx *ctx, int fd)
{
    return watch(ctx, fd);
}

void weir_ctx_unwatch(weir_ctx *ctx, int fd)
{
    epoll_ctl(ctx->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

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
    ctx->armed_by = pthread_self();
    for (int i = 0; i < ctx->iface_count; i++) {
        if (ctx->iface[i]->ops->arm(ctx->iface[i]) != WEIR_OK) {
            disarm(ctx);
            return false;
        }
    }
    return true;
}

unsigned wi_ctx_progress(struct weir_ctx *ctx)
{
    unsigned events = 0;
    for (int i = 0; i < ctx->iface_count; i++)
        events += ctx->iface[i]->ops->progress(ctx->iface[i]);
    if (events == 0 || !ctx->multi)
        return events;
    /* What a waiter waits for may have ended just now, by us: who has armed must look again before it sleeps. A sleeper
     * is woken, but stays the sleeper until it has come back and disarmed, or the next one would be disarmed with it.
     */
    if (!ctx->asleep) {
        disarm(ctx);
    } else if (!ctx->woken) {
        uint64_t one = 1;
        ctx->woken = true;
        if (write(ctx->wake_fd, &one, sizeof(one)) < 0) {
            /* Full means that it will wake anyway. */
        }
    }
    if (ctx->other_waiters > 0)
        pthread_cond_broadcast(&ctx->progressed);
    return events;
}

unsigned weir_progress(weir_ctx *ctx)
{
    wi_ctx_lock(ctx);
    unsigned events = wi_ctx_progress(ctx);
    wi_ctx_unlock(ctx);
    return events;
}

void weir_ctx_attend(void *ctx)
{
    (void)weir_progress(ctx);
}

/* The bound of one sleep on epoll. */
static int sleep_bound_ms(const struct weir_ctx *ctx, int timeout_ms)
{
    int bound_ms = SLEEP_MAX_MS;
    for (int i = 0; i < ctx->iface_count; i++)
        if (!ctx->iface[i]->wakes_on_signal)
            bound_ms = SILENT_SLEEP_MAX_MS;
    return timeout_ms >= 0 && timeout_ms < bound_ms ? timeout_ms : bound_ms;
}

/* Sleeps on epoll, without the lock. */
static void sleep_here(struct weir_ctx *ctx, int timeout_ms)
{
    struct epoll_event events[8];
    int bound_ms = sleep_bound_ms(ctx, timeout_ms);
    ctx->asleep = true;
    wi_ctx_unlock(ctx);
    epoll_wait(ctx->epoll_fd, events, sizeof(events) / sizeof(events[0]), bound_ms);
    wi_ctx_lock(ctx);
    ctx->asleep = ctx->woken = false;
    uint64_t count;
    if (ctx->multi && read(ctx->wake_fd, &count, sizeof(count)) < 0) {
        /* Nobody woke us through it. */
    }
    disarm(ctx);
    if (ctx->other_waiters > 0)
        pthread_cond_broadcast(&ctx->progressed);
}

/* Another thread sleeps on epoll already: wait until it, or anybody, has made progress. */
static void sleep_beside(struct weir_ctx *ctx)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_nsec += (long)(SILENT_SLEEP_MAX_MS * WI_NS_PER_MS);
    if (end.tv_nsec >= (long)WI_NS_PER_S) {
        end.tv_nsec -= (long)WI_NS_PER_S;
        end.tv_sec++;
    }
    ctx->other_waiters++;
    pthread_cond_timedwait(&ctx->progressed, &ctx->lock, &end);
    ctx->other_waiters--;
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
    if (idle_ns < PURE_SPIN_NS) {
        wi_cpu_relax();
        return true;
    }
    wi_ctx_unlock(ctx);
    sched_yield();
    wi_ctx_lock(ctx);
    ctx->last_block_ns = wi_now_ns(); /* others may have run for long: it is the same wait all the same */
    return true;
}

void weir_ctx_block(weir_ctx *ctx, int timeout_ms)
{
    wi_ctx_lock(ctx);
    if (wi_ctx_progress(ctx) > 0) {
        ctx->idle_since_ns = wi_now_ns();
        ctx->last_block_ns = ctx->idle_since_ns;
    } else if (ctx->armed && ctx->armed_by == pthread_self() && !ctx->asleep) {
        sleep_here(ctx, timeout_ms);
        wi_ctx_progress(ctx);
    } else if (!spin(ctx)) {
        if (ctx->armed && ctx->asleep)
            sleep_beside(ctx);
        else
            arm(ctx); /* also takes over from a thread that armed and then went away */
    }
    wi_ctx_unlock(ctx);
}

void weir_ctx_wait_begin(weir_ctx *ctx)
{
    wi_ctx_lock(ctx);
    ctx->idle_since_ns = ctx->last_block_ns = wi_now_ns();
    wi_ctx_unlock(ctx);
}

weir_status weir_test(const weir_comp *comp)
{
    if (__atomic_load_n(&comp->pending, __ATOMIC_ACQUIRE) != 0)
        return WEIR_ERR_AGAIN;
    return (weir_status)__atomic_load_n(&comp->status, __ATOMIC_RELAXED);
}

/* Polls in earnest before the polite waiting of weir_ctx_block(): most waits are short. */
#define SPIN_TURNS 200

static int ms_until(uint64_t end_ns)
{
    uint64_t now_ns = wi_now_ns();
    uint64_t left_ms = now_ns >= end_ns ? 0 : (end_ns - now_ns) / WI_NS_PER_MS + 1;
    return left_ms > INT_MAX ? INT_MAX : (int)left_ms;
}

static uint64_t bound_of(const struct weir_ctx *ctx, int timeout_ms)
{
    return timeout_ms < 0 ? ctx->timeout_ns : (uint64_t)timeout_ms * WI_NS_PER_MS;
}

/* The error of an endpoint that has ended since `failures_before`, WEIR_OK if none has: what a wait for it would miss.
 */
static weir_status ended_since(weir_ctx *ctx, uint64_t failures_before)
{
    weir_status status = WEIR_OK;
    if (__atomic_load_n(&ctx->ep_failures, __ATOMIC_ACQUIRE) == failures_before)
        return WEIR_OK;
    wi_ctx_lock(ctx);
    for (const struct weir_ep *ep = ctx->eps; ep && status == WEIR_OK; ep = ep->next)
        status = weir_ep_status(ep);
    wi_ctx_unlock(ctx);
    return status;
}

/* The sentence behind a completion's error: an operation failed with its endpoint, or alone. */
static weir_status comp_error(weir_ctx *ctx, weir_status status)
{
    wi_ctx_lock(ctx);
    const struct weir_ep *ep = ctx->eps;
    while (ep && ep->status != status)
        ep = ep->next;
    if (ep)
        wi_error(status, "%s", ep->sentence);
    wi_ctx_unlock(ctx);
    return status;
}

weir_status weir_wait(weir_ctx *ctx, weir_comp *comp, int timeout_ms)
{
    weir_status status = weir_test(comp);
    for (int turn = 0; status == WEIR_ERR_AGAIN && turn < SPIN_TURNS; turn++) {
        weir_progress(ctx);
        status = weir_test(comp);
    }
    if (status == WEIR_ERR_AGAIN) {
        uint64_t end_ns = wi_now_ns() + bound_of(ctx, timeout_ms);
        int left_ms;
        weir_ctx_wait_begin(ctx);
        while ((status = weir_test(comp)) == WEIR_ERR_AGAIN && (left_ms = ms_until(end_ns)) > 0)
            weir_ctx_block(ctx, left_ms);
    }
    if (status == WEIR_ERR_AGAIN)
        return wi_error(WEIR_ERR_TIMEOUT, "%u operations are not complete after %.3f s", comp->pending,
                        (double)bound_of(ctx, timeout_ms) / 1e9);
    return status == WEIR_OK ? WEIR_OK : comp_error(ctx, status);
}

weir_status weir_signal_wait(weir_ctx *ctx, uint32_t signal, uint64_t count, int timeout_ms)
{
    if (signal >= ctx->signal_count)
        return wi_error(WEIR_ERR_INVALID, "signal %u: there are only %u", signal, ctx->signal_count);
    uint64_t failures_before = __atomic_load_n(&ctx->ep_failures, __ATOMIC_ACQUIRE);
    for (int turn = 0; turn < SPIN_TURNS; turn++) {
        if (weir_signal_read(ctx, signal) >= count)
            return WEIR_OK;
        weir_progress(ctx);
    }
    uint64_t end_ns = wi_now_ns() + bound_of(ctx, timeout_ms);
    int left_ms;
    weir_ctx_wait_begin(ctx);
    while (weir_signal_read(ctx, signal) < count) {
        weir_status status = ended_since(ctx, failures_before);
        if (status != WEIR_OK && weir_signal_read(ctx, signal) < count)
            return status;
        if ((left_ms = ms_until(end_ns)) <= 0)
            return wi_error(WEIR_ERR_TIMEOUT, "signal %u: at %llu of %llu after %.3f s", signal,
                            (unsigned long long)weir_signal_read(ctx, signal), (unsigned long long)count,
                            (double)bound_of(ctx, timeout_ms) / 1e9);
        weir_ctx_block(ctx, left_ms);
    }
    return WEIR_OK;
}

weir_status weir_recv(weir_ctx *ctx, void *buf, size_t *len, uint64_t *peer_id)
{
    weir_status status = WEIR_ERR_AGAIN;
    wi_ctx_lock(ctx);
    for (int round = 0; round < 2 && status == WEIR_ERR_AGAIN; round++) {
        for (int i = 0; i < ctx->iface_count && status == WEIR_ERR_AGAIN; i++) {
            struct wi_iface *iface = ctx->iface[i];
            struct wi_msg *msg = iface->ops->msg_peek(iface);
            if (!msg)
                continue;
            if (msg->len > *len) {
                status = wi_error(WEIR_ERR_RANGE, "message of %u bytes from rank %llu: room for %zu", msg->len,
                                  (unsigned long long)msg->peer_id, *len);
                break;
            }
            memcpy(buf, msg->data, msg->len);
            *len = msg->len;
            if (peer_id)
                *peer_id = msg->peer_id;
            iface->ops->msg_pop(iface);
            status = WEIR_OK;
        }
        if (status == WEIR_ERR_AGAIN && round == 0)
            wi_ctx_progress(ctx);
    }
    wi_ctx_unlock(ctx);
    return status;
}
