/*
 * How long to poll before sleeping: a short while without a pause, since most answers are a few microseconds away; then
 * for WEIR_SPIN giving the core away between polls, since whoever is waited for may need it; then weir_ctx_block().
 * WEIR_SPIN=0 asks to sleep at once.
 */
#ifndef WI_PS_IDLE_H
#define WI_PS_IDLE_H

#include "core/clock.h"
#include "core/config.h"

#include <weir/transport.h>

/* Polls without a pause. */
static inline int wi_ps_polls(void)
{
    return wi_config()->spin_ns > 0 ? 64 : 1;
}

struct wi_ps_idle {
    uint64_t since_ns; /* 0: something happened just now */
};

/* One turn after the first polls found nothing. */
static inline void wi_ps_idle_pause(struct wi_ps_idle *idle, weir_ctx *ctx, uint64_t now_ns, int sleep_ms)
{
    if (idle->since_ns == 0)
        idle->since_ns = now_ns;
    if (now_ns - idle->since_ns >= wi_config()->spin_ns) {
        weir_ctx_block(ctx, sleep_ms);
        return;
    }
    wi_yield();
    weir_progress(ctx);
}

#endif
