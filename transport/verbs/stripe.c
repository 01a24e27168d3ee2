/*
 * Operations over several rails. An operation that needs more than the main rail becomes a plan: a share for each rail it
 * uses. Once a share was posted the rest follows, from later calls or from progress, and until then the endpoint takes no
 * other operation: so what is on a rail is always a prefix of what was asked for.
 */
#include "transport/verbs/rails.h"

#include "core/config.h"
#include "core/error.h"

enum { SHARE_ALIGN = 4096 };

/* ---- Shares ------------------------------------------------------------------------------------------------------ */

static struct wi_mr *mr_of(struct wi_mr *mr, unsigned i)
{
    return mr ? ((struct rails_mr *)mr)->mr[i] : NULL;
}

static struct weir_rkey *key_of(struct weir_rkey *rkey, unsigned i)
{
    return rkey ? ((struct rails_rkey *)rkey)->key[i] : NULL;
}

static weir_status post_share(struct rails_ep *ep, unsigned i)
{
    const struct rails_plan *plan = &ep->plan;
    struct weir_ep *rail = &ep->rail[i]->base;
    struct wi_mr *mr = mr_of(plan->mr, i);
    struct weir_rkey *rkey = key_of(plan->rkey, i);
    const char *local = plan->share[i].local;
    uint64_t len = plan->share[i].len, remote = plan->share[i].remote_addr;
    weir_comp *comp = plan->record ? &plan->record->parts : NULL;
    if (ep->rail[i]->base.status != WEIR_OK)
        return wi_rails_ep_failed(ep, ep->rail[i]);
    switch (plan->share[i].kind) {
    case VERBS_PUT:
        return wi_verbs_put(rail, local, mr, len, remote, rkey, comp);
    case VERBS_GET:
        return wi_verbs_get(rail, (void *)(uintptr_t)local, mr, len, remote, rkey, comp);
    case VERBS_PUT_SIGNAL:
        return wi_verbs_put_signal(rail, local, mr, len, remote, rkey, plan->imm, comp);
    default:
        return wi_verbs_flush(rail, comp);
    }
}

/* The share of a rail, then the token. */
static weir_status push_rail(struct rails_ep *ep, unsigned i)
{
    struct rails_plan *plan = &ep->plan;
    weir_status status = plan->todo >> i & 1 ? post_share(ep, i) : WEIR_OK;
    if (status != WEIR_OK)
        return status;
    plan->todo &= ~(1u << i);
    if (!(plan->tokens >> i & 1))
        return WEIR_OK;
    if (ep->rail[i]->base.status != WEIR_OK)
        return wi_rails_ep_failed(ep, ep->rail[i]);
    status = wi_verbs_put_signal(&ep->rail[i]->base, NULL, NULL, 0, 0, NULL, WI_VERBS_IMM_FENCE, &ep->fence);
    if (status == WEIR_OK)
        plan->tokens &= ~(1u << i);
    return status;
}

/* Posts what can be posted. WEIR_ERR_AGAIN: not all could. */
static weir_status push(struct rails_ep *ep)
{
    for (unsigned i = 0; i < ep->iface->count; i++) {
        weir_status status = push_rail(ep, i);
        if (status == WEIR_OK || status == WEIR_ERR_AGAIN)
            continue;
        if (ep->base.status != WEIR_OK)
            return status;
        wi_ep_fail(&ep->rail[i]->base, status, "%s", weir_last_error());
        return wi_rails_ep_failed(ep, ep->rail[i]);
    }
    return ep->plan.todo | ep->plan.tokens ? WEIR_ERR_AGAIN : WEIR_OK;
}

/* Is a plan still under way? Then nothing else may pass it. */
static inline bool busy(struct rails_ep *ep)
{
    return __builtin_expect((ep->plan.todo | ep->plan.tokens) != 0, 0) && push(ep) != WEIR_OK;
}

/* Takes a record for an operation with a completion. False: all are in use. */
static bool plan_begin(struct rails_ep *ep, weir_comp *comp)
{
    struct rails_iface *iface = ep->iface;
    struct rails_record *record = comp ? iface->records_free : NULL;
    if (comp && !record)
        return false;
    ep->plan.record = record;
    if (record) {
        iface->records_free = record->next;
        *record = (struct rails_record){.user = comp, .ep = ep, .next = iface->active};
        iface->active = record;
    }
    return true;
}

/* The plan is complete: from now on the operation is under way. Errors end the endpoint, and with it the completion. */
static weir_status plan_post(struct rails_ep *ep)
{
    if (ep->plan.record)
        wi_comp_start(ep->plan.record->user);
    push(ep);
    return WEIR_OK;
}

static uint64_t speed_of(const struct rails_ep *ep)
{
    uint64_t speed = 0;
    for (unsigned i = 0; i < ep->iface->count; i++)
        speed += ep->used >> i & 1 ? ep->iface->speed[i] : 0;
    return speed;
}

/* Cuts an operation into shares, by the speed of the ports. */
static void cut(struct rails_ep *ep, enum verbs_kind kind, const void *local, uint64_t len, uint64_t remote_addr)
{
    uint64_t speed = speed_of(ep), done = 0, passed = 0;
    for (unsigned i = 0; i < ep->iface->count; i++) {
        if (!(ep->used >> i & 1))
            continue;
        passed += ep->iface->speed[i];
        uint64_t end = passed == speed ? len : (uint64_t)((double)len * (double)passed / (double)speed);
        if (end != len)
            end = end / SHARE_ALIGN * SHARE_ALIGN;
        if (end <= done && i != ep->main)
            continue;
        ep->plan.share[i].kind = kind == VERBS_PUT_SIGNAL && i != ep->main ? VERBS_PUT : kind;
        ep->plan.share[i].local = (const char *)local + done;
        ep->plan.share[i].remote_addr = remote_addr + done;
        ep->plan.share[i].len = end - done;
        ep->plan.todo |= 1u << i;
        done = end;
    }
}

static inline bool is_striped(const struct rails_ep *ep, const struct wi_mr *mr, size_t len)
{
    return __builtin_expect(len >= wi_config()->verbs_stripe, 0) && mr && (ep->used & (ep->used - 1));
}

/* A plan is begun only when its key can be used on every rail; until a window was granted on all it is tried again. */
static weir_status keys_ready(struct rails_ep *ep, struct weir_rkey *rkey)
{
    for (unsigned i = 0; rkey && i < ep->iface->count; i++) {
        const struct verbs_rkey *key = (const struct verbs_rkey *)key_of(rkey, i);
        weir_status status = WEIR_OK;
        if (ep->used >> i & 1 && key->state != VERBS_KEY_READY)
            status = wi_verbs_key_pending(ep->rail[i], key);
        if (status != WEIR_OK)
            return status;
    }
    return WEIR_OK;
}

/* ---- Operations -------------------------------------------------------------------------------------------------- */

/* One that is long enough for all rails. */
static weir_status put_or_get(struct rails_ep *ep, enum verbs_kind kind, const void *local, struct wi_mr *mr, size_t len,
                              uint64_t remote_addr, struct weir_rkey *rkey, weir_comp *comp)
{
    weir_status ready = keys_ready(ep, rkey);
    if (ready != WEIR_OK || !plan_begin(ep, comp))
        return ready != WEIR_OK ? ready : WEIR_ERR_AGAIN;
    ep->plan.mr = mr;
    ep->plan.rkey = rkey;
    cut(ep, kind, local, len, remote_addr);
    if (kind == VERBS_PUT)
        ep->dirty |= ep->plan.todo & ~(1u << ep->main);
    return plan_post(ep);
}

weir_status wi_rails_put(struct weir_ep *base, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                         struct weir_rkey *rkey, weir_comp *comp)
{
    struct rails_ep *ep = rails_ep(base);
    struct verbs_ep *main = ep->rail[ep->main];
    if (busy(ep))
        return WEIR_ERR_AGAIN;
    if (__builtin_expect(main->base.status != WEIR_OK, 0))
        return wi_rails_ep_failed(ep, main);
    if (!is_striped(ep, mr, len))
        return wi_verbs_put(&main->base, local, mr_of(mr, ep->main), len, remote_addr, key_of(rkey, ep->main), comp);
    return put_or_get(ep, VERBS_PUT, local, mr, len, remote_addr, rkey, comp);
}

weir_status wi_rails_get(struct weir_ep *base, void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                         struct weir_rkey *rkey, weir_comp *comp)
{
    struct rails_ep *ep = rails_ep(base);
    struct verbs_ep *main = ep->rail[ep->main];
    if (busy(ep))
        return WEIR_ERR_AGAIN;
    if (__builtin_expect(main->base.status != WEIR_OK, 0))
        return wi_rails_ep_failed(ep, main);
    if (!is_striped(ep, mr, len))
        return wi_verbs_get(&main->base, local, mr_of(mr, ep->main), len, remote_addr, key_of(rkey, ep->main), comp);
    return put_or_get(ep, VERBS_GET, local, mr, len, remote_addr, rkey, comp);
}

/* A signal behind one that waits for tokens waits at the target: not too many of them. */
static bool signals_wait(struct rails_ep *ep)
{
    if (__builtin_expect(ep->fence.pending == 0, 1)) {
        ep->behind = 0;
        return false;
    }
    return ep->behind >= WI_RAILS_BEHIND;
}

/* The signal names all rails but its own that wrote since the last one, or write now. */
static void add_tokens(struct rails_ep *ep, uint32_t signal)
{
    uint32_t named = 0;
    ep->plan.tokens = (ep->plan.todo | ep->dirty) & ~(1u << ep->main);
    for (unsigned i = 0; i < ep->iface->count; i++)
        if (ep->plan.tokens >> i & 1)
            named |= 1u << ep->rail[i]->peer_slot;
    ep->plan.imm = WI_VERBS_IMM_FENCE | named << WI_VERBS_IMM_RAILS_SHIFT | signal;
    ep->dirty = 0;
}

weir_status wi_rails_put_signal(struct weir_ep *base, const void *local, struct wi_mr *mr, size_t len,
                                uint64_t remote_addr, struct weir_rkey *rkey, uint32_t signal, weir_comp *comp)
{
    struct rails_ep *ep = rails_ep(base);
    struct verbs_ep *main = ep->rail[ep->main];
    bool striped = is_striped(ep, mr, len);
    if (busy(ep) || signals_wait(ep))
        return WEIR_ERR_AGAIN;
    if (__builtin_expect(main->base.status != WEIR_OK, 0))
        return wi_rails_ep_failed(ep, main);
    if (!striped && ep->dirty == 0) {
        weir_status status = wi_verbs_put_signal(&main->base, local, mr_of(mr, ep->main), len, remote_addr,
                                                 key_of(rkey, ep->main), signal, comp);
        ep->behind += status == WEIR_OK;
        return status;
    }
    if (!striped && !mr && len > main->max_inline) /* the error for memory that is not registered */
        return wi_verbs_put_signal(&main->base, local, NULL, len, remote_addr, key_of(rkey, ep->main), signal, comp);
    weir_status ready = keys_ready(ep, rkey);
    if (ready != WEIR_OK || !plan_begin(ep, comp))
        return ready != WEIR_OK ? ready : WEIR_ERR_AGAIN;
    ep->plan.mr = mr;
    ep->plan.rkey = rkey;
    if (striped) {
        cut(ep, VERBS_PUT_SIGNAL, local, len, remote_addr);
    } else {
        ep->plan.share[ep->main].kind = VERBS_PUT_SIGNAL;
        ep->plan.share[ep->main].local = local;
        ep->plan.share[ep->main].len = len;
        ep->plan.share[ep->main].remote_addr = remote_addr;
        ep->plan.todo = 1u << ep->main;
    }
    add_tokens(ep, signal);
    ep->behind++;
    return plan_post(ep);
}

weir_status wi_rails_fetch_add(struct weir_ep *base, uint64_t value, uint64_t *result, struct wi_mr *mr,
                               uint64_t remote_addr, struct weir_rkey *rkey, weir_comp *comp)
{
    struct rails_ep *ep = rails_ep(base);
    struct verbs_ep *main = ep->rail[ep->main];
    if (busy(ep))
        return WEIR_ERR_AGAIN;
    if (main->base.status != WEIR_OK)
        return wi_rails_ep_failed(ep, main);
    return wi_verbs_fetch_add(&main->base, value, result, mr_of(mr, ep->main), remote_addr, key_of(rkey, ep->main),
                              comp);
}

weir_status wi_rails_send(struct weir_ep *base, const void *data, size_t len)
{
    struct rails_ep *ep = rails_ep(base);
    struct verbs_ep *main = ep->rail[ep->main];
    if (busy(ep))
        return WEIR_ERR_AGAIN;
    if (main->base.status != WEIR_OK)
        return wi_rails_ep_failed(ep, main);
    return wi_verbs_send(&main->base, data, len);
}

weir_status wi_rails_flush(struct weir_ep *base, weir_comp *comp)
{
    struct rails_ep *ep = rails_ep(base);
    if (busy(ep) || !plan_begin(ep, comp))
        return WEIR_ERR_AGAIN;
    for (unsigned i = 0; i < ep->iface->count; i++)
        ep->plan.share[i].kind = VERBS_FLUSH;
    ep->plan.todo = ep->used;
    return plan_post(ep);
}

/* ---- End of striped operations ----------------------------------------------------------------------------------- */

/* Posting is over when the endpoint's plan is another one, or complete. */
static bool has_ended(const struct rails_record *record)
{
    bool posted = record->ep->plan.record != record || record->ep->plan.todo == 0;
    return posted && __atomic_load_n(&record->parts.pending, __ATOMIC_ACQUIRE) == 0;
}

static void record_end(struct rails_iface *iface, struct rails_record *record, weir_status status)
{
    if (record->ep->plan.record == record)
        record->ep->plan.record = NULL;
    wi_comp_end(record->user, status);
    record->next = iface->records_free;
    iface->records_free = record;
}

unsigned wi_rails_plans_progress(struct rails_iface *iface)
{
    unsigned count = 0;
    for (struct rails_ep *ep = iface->eps; ep; ep = ep->next)
        if ((ep->plan.todo | ep->plan.tokens) && ep->base.status == WEIR_OK)
            push(ep);
    for (struct rails_record **at = &iface->active; *at;) {
        struct rails_record *record = *at;
        if (!has_ended(record)) {
            at = &record->next;
            continue;
        }
        *at = record->next;
        record_end(iface, record, (weir_status)record->parts.status);
        count++;
    }
    return count;
}

void wi_rails_plans_end(struct rails_ep *ep, weir_status status)
{
    ep->plan.todo = ep->plan.tokens = 0;
    for (struct rails_record **at = &ep->iface->active; *at;) {
        struct rails_record *record = *at;
        if (record->ep != ep) {
            at = &record->next;
            continue;
        }
        *at = record->next;
        record_end(ep->iface, record, status);
    }
}
