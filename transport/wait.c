/* Waiting for a completion or a signal, and taking messages. How a wait polls and sleeps is sleep.c's. */
#include "core/clock.h"
#include "core/error.h"
#include "transport/context.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

weir_status weir_test(const weir_comp *comp)
{
    if (__atomic_load_n(&comp->pending, __ATOMIC_ACQUIRE) != 0)
        return WEIR_ERR_AGAIN;
    return (weir_status)__atomic_load_n(&comp->status, __ATOMIC_RELAXED);
}

/* Polls in earnest before the polite waiting of weir_ctx_block(): most waits are short. */
#define SPIN_TURNS 200

/* Polling costs nothing in a simulated world, and shows nothing. */
static int spin_turns(void)
{
    return wi_time_is_virtual() ? 1 : SPIN_TURNS;
}

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

/* The error of an endpoint that has ended since `failures_before`, WEIR_OK if none has:
 * what a wait for it would miss. */
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

enum { RANKS_TEXT = 160 };

/* Adds a rank to a list of ranks, once, while there is room. */
static void add_rank(char ranks[RANKS_TEXT], uint64_t rank)
{
    char text[24];
    size_t used = strlen(ranks), len = (size_t)snprintf(text, sizeof(text), " %llu,", (unsigned long long)rank);
    if (!strstr(ranks, text) && used + len + sizeof(" ...,") <= RANKS_TEXT)
        memcpy(ranks + used, text, len + 1);
    else if (!strstr(ranks, text) && !strstr(ranks, "..."))
        memcpy(ranks + used, " ...,", sizeof(" ...,"));
}

/* The endpoint that was the last one to end with a status, or NULL. `ranks`: the peers of all that have, if several. */
static const struct weir_ep *ended_last(const struct weir_ctx *ctx, weir_status status, char ranks[RANKS_TEXT])
{
    const struct weir_ep *last = NULL;
    bool several = false;
    ranks[0] = '\0';
    for (const struct weir_ep *ep = ctx->eps; ep; ep = ep->next) {
        if (ep->status != status)
            continue;
        add_rank(ranks, ep->peer_id);
        several = several || (last && last->peer_id != ep->peer_id);
        if (!last || ep->ended > last->ended)
            last = ep;
    }
    if (!several)
        ranks[0] = '\0';
    return last;
}

/*
 * The sentence behind a completion's error: an operation failed with its endpoint, or alone. A completion does not tell
 * whose it is, so where endpoints to several peers have ended alike all are named: else one would look at the wrong host.
 */
static weir_status comp_error(weir_ctx *ctx, weir_status status)
{
    char ranks[RANKS_TEXT];
    wi_ctx_lock(ctx);
    const struct weir_ep *ep = ended_last(ctx, status, ranks);
    if (ep && ranks[0])
        wi_error(status, "an operation with one of the ranks%s whose endpoints have ended alike; the last one: %s", ranks,
                 ep->sentence);
    else if (ep)
        wi_error(status, "%s", ep->sentence);
    else if (status == WEIR_ERR_CANCELED)
        wi_error(status, "operations were under way when their endpoint was closed; weir_flush() waits for their end");
    wi_ctx_unlock(ctx);
    return status;
}

/* The part of weir_wait() that may sleep. */
static weir_status wait_long(weir_ctx *ctx, const weir_comp *comp, int timeout_ms)
{
    uint64_t end_ns = wi_now_ns() + bound_of(ctx, timeout_ms);
    weir_status status;
    int left_ms;
    weir_ctx_wait_begin(ctx);
    while ((status = weir_test(comp)) == WEIR_ERR_AGAIN && (left_ms = ms_until(end_ns)) > 0)
        weir_ctx_block(ctx, left_ms);
    wi_ctx_wait_end(ctx);
    if (status == WEIR_ERR_AGAIN)
        return wi_error(WEIR_ERR_TIMEOUT, "%u operations are not complete after %.3f s", comp->pending,
                        (double)bound_of(ctx, timeout_ms) / 1e9);
    return status == WEIR_OK ? WEIR_OK : comp_error(ctx, status);
}

WI_NEAR weir_status weir_wait(weir_ctx *ctx, weir_comp *comp, int timeout_ms)
{
    if (wi_in_child(ctx))
        return wi_process_check(ctx, "weir_wait");
    weir_status status = weir_test(comp);
    for (int turns = spin_turns(); status == WEIR_ERR_AGAIN && turns > 0; turns--) {
        wi_ctx_turn(ctx);
        status = weir_test(comp);
    }
    if (__builtin_expect(status == WEIR_ERR_AGAIN, 0))
        return wait_long(ctx, comp, timeout_ms);
    return __builtin_expect(status == WEIR_OK, 1) ? WEIR_OK : comp_error(ctx, status);
}

/* The part of weir_signal_wait() that may sleep. */
static weir_status signal_wait_long(weir_ctx *ctx, uint32_t signal, uint64_t count, int timeout_ms, uint64_t failures)
{
    uint64_t end_ns = wi_now_ns() + bound_of(ctx, timeout_ms);
    int left_ms;
    while (weir_signal_read(ctx, signal) < count) {
        weir_status status = ended_since(ctx, failures);
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

weir_status weir_signal_wait(weir_ctx *ctx, uint32_t signal, uint64_t count, int timeout_ms)
{
    if (signal >= ctx->signal_count)
        return wi_error(WEIR_ERR_INVALID, "signal %u: there are only %u", signal, ctx->signal_count);
    weir_status status = wi_process_check(ctx, "weir_signal_wait");
    if (status != WEIR_OK)
        return status;
    uint64_t failures_before = __atomic_load_n(&ctx->ep_failures, __ATOMIC_ACQUIRE);
    for (int turn = 0, turns = spin_turns(); turn < turns; turn++) {
        if (weir_signal_read(ctx, signal) >= count)
            return WEIR_OK;
        wi_ctx_turn(ctx);
    }
    weir_ctx_wait_begin(ctx);
    status = signal_wait_long(ctx, signal, count, timeout_ms, failures_before);
    wi_ctx_wait_end(ctx);
    return status;
}

weir_status weir_recv(weir_ctx *ctx, void *buf, size_t *len, uint64_t *peer_id)
{
    weir_status status = wi_process_check(ctx, "weir_recv");
    if (status != WEIR_OK)
        return status;
    status = WEIR_ERR_AGAIN;
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
            wi_stat_add(&ctx->stats.messages, 1);
            wi_stat_add(&ctx->stats.message_bytes, msg->len);
            iface->ops->msg_pop(iface);
            status = WEIR_OK;
        }
        if (status == WEIR_ERR_AGAIN && round == 0)
            wi_ctx_progress(ctx);
    }
    wi_ctx_unlock(ctx);
    if (status == WEIR_ERR_AGAIN)
        wi_turn();
    return status;
}
