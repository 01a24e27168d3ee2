/*
 * Operations: arguments and key ranges are checked here, once for all backends, then the backend posts. Where it has no
 * room, or is still connecting, progress is made until it has, within WEIR_TIMEOUT.
 */
#include "core/clock.h"
#include "core/error.h"
#include "transport/context.h"
#include "transport/loan.h"

/* One operation's arguments, for those that have to be tried again. */
struct post {
    enum wi_op op;
    void *local;
    struct weir_mem *mem;
    size_t len;
    uint64_t remote_addr;
    struct weir_rkey *rkey;
    uint64_t value; /* signal number, or what is added */
    weir_comp *comp;
};

typedef weir_status post_once_fn(struct weir_ep *ep, const struct post *post, struct wi_mr *mr);

/* Posts on the registration of the local memory, if it has one. A region without one is memory of a device. */
static inline weir_status post_local(struct weir_ep *ep, const struct post *post, post_once_fn *once)
{
    struct weir_mem *mem = post->mem;
    if (!mem && post->len > 0)
        mem = wi_mem_lookup(ep->ctx, post->local, post->len);
    struct wi_mr *mr = mem ? mem->mr[wi_iface_index(ep->ctx, ep->iface)] : NULL;
    if (__builtin_expect(mem && !mr, 0))
        return wi_error(WEIR_ERR_UNSUPPORTED,
                        "%s, rank %llu: %s does not reach device memory, where the local %zu bytes at %p are; set "
                        "WEIR_INTRANODE=off for verbs to peers of this host, or copy through host memory",
                        wi_op_names[post->op], (unsigned long long)ep->peer_id, ep->ops->name, post->len, post->local);
    return once(ep, post, mr);
}

enum { TURNS_ALONE = 64 }; /* of polling before other threads are let in */

/* Lets time pass while a queue is full: first polling, then giving the core away. */
static void let_pass(struct weir_ctx *ctx, unsigned turn)
{
    if (turn < TURNS_ALONE && !wi_time_is_virtual()) {
        wi_cpu_relax();
        return;
    }
    wi_ctx_unlock(ctx); /* other threads may hold what we wait for */
    if (turn < 4096 && !wi_time_is_virtual())
        wi_yield();
    else
        wi_sleep_ns(100000);
    wi_ctx_lock(ctx);
}

/* The rest of post() where the first try found no room: off the hot path. */
static weir_status post_slowly(struct weir_ep *ep, const struct post *post, post_once_fn *once)
{
    struct weir_ctx *ctx = ep->ctx;
    uint64_t start_ns = wi_now_ns();
    wi_ep_start(ep);
    for (unsigned turn = 0;; turn++) {
        unsigned events = wi_ctx_progress(ctx);
        if (ep->status != WEIR_OK)
            return weir_ep_status(ep);
        if (ep->ready) {
            weir_status status = post_local(ep, post, once);
            if (status != WEIR_ERR_AGAIN)
                return status;
        }
        if (events > 0 && turn > TURNS_ALONE)
            turn = TURNS_ALONE;
        if (wi_now_ns() - start_ns > ctx->timeout_ns)
            break;
        let_pass(ctx, turn);
    }
    unsigned long long peer = ep->peer_id;
    double bound_s = (double)ctx->timeout_ns / 1e9;
    if (!ep->ready) {
        wi_ep_fail(ep, WEIR_ERR_PEER_UNREACHABLE, "%s to rank %llu: it did not accept the %s connection within %.1f s",
                   wi_op_names[post->op], peer, ep->ops->name, bound_s);
        return weir_ep_status(ep);
    }
    return wi_error(WEIR_ERR_TIMEOUT,
                    "%s to rank %llu: the peer has made no room for it within %.1f s; it must make progress "
                    "(weir_progress() or any wait)",
                    wi_op_names[post->op], peer, bound_s);
}

/* What to do about a first try that came to nothing. A lost connection ends the endpoint at once, not some time later. */
static weir_status not_posted(struct weir_ep *ep, const struct post *post, post_once_fn *once, weir_status status)
{
    if (status == WEIR_ERR_AGAIN)
        return post_slowly(ep, post, once);
    if (ep->status == WEIR_OK && (status == WEIR_ERR_PEER_GONE || status == WEIR_ERR_PEER_UNREACHABLE))
        wi_ctx_progress(ep->ctx);
    return status;
}

static weir_status not_registered(const struct weir_ep *ep, const struct post *post)
{
    return wi_error(WEIR_ERR_KEY,
                    "%s of %zu bytes, rank %llu: the local memory at %p is not registered, which %s needs; use "
                    "weir_pool_alloc() or weir_mem_register(), or let the cache do it (WEIR_REG_CACHE)",
                    wi_op_names[post->op], post->len, (unsigned long long)ep->peer_id, post->local, ep->ops->name);
}

WI_HOT weir_status first_try(struct weir_ep *ep, const struct post *post, post_once_fn *once)
{
    weir_status status = WEIR_ERR_AGAIN;
    if (__builtin_expect(ep->status != WEIR_OK, 0))
        return weir_ep_status(ep);
    if (__builtin_expect(ep->ready, 1))
        status = post_local(ep, post, once);
    if (__builtin_expect(status == WEIR_OK, 1))
        return WEIR_OK;
    struct post again = *post; /* so that only this way needs it in memory */
    return not_posted(ep, &again, once, status);
}

/* The backend needs a registration that the caller does not have: borrows one from the cache. */
static weir_status post_borrowing(struct weir_ep *ep, const struct post *post, post_once_fn *once)
{
    struct wi_loan *loan;
    if (post->mem)
        return not_registered(ep, post);
    weir_status status = wi_loan_take(ep->ctx, post->local, post->len, post->comp, &loan);
    if (status != WEIR_OK)
        return status == WEIR_ERR_KEY ? not_registered(ep, post) : status;
    struct post ours = *post;
    ours.mem = loan->mem;
    ours.comp = &loan->comp;
    status = first_try(ep, &ours, once);
    wi_loan_posted(ep->ctx, loan, status);
    return status;
}

/* Under the lock. */
WI_HOT weir_status try_post(struct weir_ep *ep, const struct post *post, post_once_fn *once)
{
    weir_status status = first_try(ep, post, once);
    if (__builtin_expect(status != WI_NEEDS_MR, 1))
        return status;
    struct post borrower = *post;
    return post_borrowing(ep, &borrower, once);
}

/* The same for an operation that may be timed. */
static weir_status post_observed(struct weir_ep *ep, const struct post *post, post_once_fn *once)
{
    struct wi_stats *stats = &ep->ctx->stats;
    struct wi_sample *sample = wi_sample_begin(stats, ep->stats, post->op, post->len, post->comp);
    if (!sample)
        return try_post(ep, post, once);
    struct post timed = *post;
    timed.comp = &sample->comp;
    weir_status status = try_post(ep, &timed, once);
    wi_sample_posted(stats, sample, status);
    return status;
}

static inline void count(struct weir_ep *ep, const struct post *post, weir_status status)
{
    if (__builtin_expect(status == WEIR_OK, 1)) {
        wi_stat_add(&ep->stats->operations[post->op], 1);
        wi_stat_add(&ep->stats->bytes[post->op], post->len);
    } else {
        wi_stat_add(&ep->stats->refused, 1);
    }
}

/* Where there is something to do besides: a refusal in a child, a lock, a look at the clock. */
static weir_status post_guarded(struct weir_ep *ep, const struct post *post, post_once_fn *once)
{
    struct weir_ctx *ctx = ep->ctx;
    if (wi_in_child(ctx))
        return wi_process_check(ctx, wi_op_names[post->op]);
    wi_ctx_lock(ctx);
    weir_status status = ctx->stats.samples ? post_observed(ep, post, once) : try_post(ep, post, once);
    count(ep, post, status);
    wi_ctx_unlock(ctx);
    return status;
}

WI_HOT weir_status post(struct weir_ep *ep, const struct post *post, post_once_fn *once)
{
    if (__builtin_expect(wi_mark(ep->ctx) != WI_OURS_PLAIN, 0)) { /* the one mark that tells of all that */
        struct post guarded = *post;
        return post_guarded(ep, &guarded, once);
    }
    weir_status status = try_post(ep, post, once);
    count(ep, post, status);
    return status;
}

/* What is wrong with the arguments of an operation on memory. */
static weir_status argument_error(const struct weir_ep *ep, const char *name, const void *local, uint64_t addr,
                                  size_t len, const struct weir_rkey *rkey)
{
    unsigned long long peer = ep->peer_id;
    if (!local && len > 0)
        return wi_error(WEIR_ERR_INVALID, "%s to rank %llu: no local address given for %zu bytes", name, peer, len);
    if (!rkey)
        return wi_error(WEIR_ERR_INVALID, "%s to rank %llu: no remote key given", name, peer);
    if (rkey->ep != ep)
        return wi_error(WEIR_ERR_KEY, "%s to rank %llu: the key was imported for the endpoint to rank %llu", name, peer,
                        (unsigned long long)rkey->ep->peer_id);
    return wi_error(WEIR_ERR_RANGE,
                    "%s to rank %llu: %zu bytes at 0x%llx are outside of the key's %llu bytes at 0x%llx", name, peer,
                    len, (unsigned long long)addr, (unsigned long long)rkey->len, (unsigned long long)rkey->addr);
}

/* Is there local memory, and does the key belong to the endpoint and cover [addr, addr + len)? */
static inline bool arguments_ok(const struct weir_ep *ep, const void *local, const struct weir_rkey *rkey,
                                uint64_t addr, size_t len)
{
    return (local || len == 0) && rkey && rkey->ep == ep && addr >= rkey->addr && addr - rkey->addr <= rkey->len &&
           len <= rkey->len - (addr - rkey->addr);
}

static inline weir_status put_once(struct weir_ep *ep, const struct post *p, struct wi_mr *mr)
{
    return ep->ops->put(ep, p->local, mr, p->len, p->remote_addr, p->rkey, p->comp);
}

static inline weir_status get_once(struct weir_ep *ep, const struct post *p, struct wi_mr *mr)
{
    return ep->ops->get(ep, p->local, mr, p->len, p->remote_addr, p->rkey, p->comp);
}

static inline weir_status put_signal_once(struct weir_ep *ep, const struct post *p, struct wi_mr *mr)
{
    return ep->ops->put_signal(ep, p->local, mr, p->len, p->remote_addr, p->rkey, (uint32_t)p->value, p->comp);
}

static inline weir_status fetch_add_once(struct weir_ep *ep, const struct post *p, struct wi_mr *mr)
{
    return ep->ops->fetch_add(ep, p->value, p->local, mr, p->remote_addr, p->rkey, p->comp);
}

static inline weir_status send_once(struct weir_ep *ep, const struct post *p, struct wi_mr *mr)
{
    (void)mr;
    return ep->ops->send(ep, p->local, p->len);
}

static inline weir_status flush_once(struct weir_ep *ep, const struct post *p, struct wi_mr *mr)
{
    (void)mr;
    return ep->ops->flush(ep, p->comp);
}

WI_NEAR weir_status weir_put(weir_ep *ep, const void *local, weir_mem *mem, size_t len, uint64_t remote_addr, weir_rkey *rkey,
                     weir_comp *comp)
{
    if (__builtin_expect(!arguments_ok(ep, local, rkey, remote_addr, len), 0))
        return argument_error(ep, "put", local, remote_addr, len, rkey);
    if (__builtin_expect(len == 0, 0))
        return weir_ep_status(ep);
    return post(ep, &(struct post){WI_OP_PUT, (void *)(uintptr_t)local, mem, len, remote_addr, rkey, 0, comp}, put_once);
}

WI_NEAR weir_status weir_get(weir_ep *ep, void *local, weir_mem *mem, size_t len, uint64_t remote_addr, weir_rkey *rkey,
                     weir_comp *comp)
{
    if (__builtin_expect(!arguments_ok(ep, local, rkey, remote_addr, len), 0))
        return argument_error(ep, "get", local, remote_addr, len, rkey);
    if (__builtin_expect(len == 0, 0))
        return weir_ep_status(ep);
    return post(ep, &(struct post){WI_OP_GET, local, mem, len, remote_addr, rkey, 0, comp}, get_once);
}

WI_NEAR weir_status weir_put_signal(weir_ep *ep, const void *local, weir_mem *mem, size_t len, uint64_t remote_addr,
                            weir_rkey *rkey, uint32_t signal, weir_comp *comp)
{
    if (__builtin_expect(len > 0 && !arguments_ok(ep, local, rkey, remote_addr, len), 0))
        return argument_error(ep, "put_signal", local, remote_addr, len, rkey);
    if (__builtin_expect(signal >= WI_SIGNALS_MAX, 0)) /* backends have other uses for what is above */
        return wi_error(WEIR_ERR_RANGE, "put_signal to rank %llu: %u is no number of a signal; tell it the one that "
                        "weir_signal_create() gave there", (unsigned long long)ep->peer_id, signal);
    return post(ep, &(struct post){WI_OP_PUT_SIGNAL, (void *)(uintptr_t)local, mem, len, remote_addr, rkey, signal, comp},
                put_signal_once);
}

WI_NEAR weir_status weir_fetch_add(weir_ep *ep, uint64_t value, uint64_t *result, weir_mem *mem, uint64_t remote_addr,
                           weir_rkey *rkey, weir_comp *comp)
{
    if (__builtin_expect(!arguments_ok(ep, result, rkey, remote_addr, sizeof(uint64_t)), 0))
        return argument_error(ep, "fetch_add", result, remote_addr, sizeof(uint64_t), rkey);
    if (remote_addr % 8 != 0 || (uintptr_t)result % 8 != 0)
        return wi_error(WEIR_ERR_INVALID, "fetch_add to rank %llu: both addresses must be multiples of 8",
                        (unsigned long long)ep->peer_id);
    return post(ep, &(struct post){WI_OP_FETCH_ADD, result, mem, sizeof(uint64_t), remote_addr, rkey, value, comp},
                fetch_add_once);
}

weir_status weir_send(weir_ep *ep, const void *data, size_t len)
{
    if (len > WEIR_MSG_MAX || (!data && len > 0))
        return wi_error(WEIR_ERR_INVALID, "send to rank %llu: a message of %zu bytes; at most %u",
                        (unsigned long long)ep->peer_id, len, WEIR_MSG_MAX);
    if (len > 0 && weir_mem_is_device(ep->ctx, data, len))
        return wi_error(WEIR_ERR_INVALID, "send to rank %llu: the message lies in device memory; put it, or copy it out",
                        (unsigned long long)ep->peer_id);
    struct post args = {.op = WI_OP_SEND, .local = (void *)(uintptr_t)data, .len = len};
    return post(ep, &args, send_once);
}

weir_status weir_flush(weir_ep *ep, weir_comp *comp)
{
    if (!comp)
        return wi_error(WEIR_ERR_INVALID, "flush to rank %llu: it needs a completion", (unsigned long long)ep->peer_id);
    return post(ep, &(struct post){.op = WI_OP_FLUSH, .comp = comp}, flush_once);
}
