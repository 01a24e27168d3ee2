/*
 * Operations. On pool memory they are loads and stores, complete when they return; ordinary memory is reached by
 * process_vm_writev(2) and process_vm_readv(2).
 */
#include "core/error.h"
#include "transport/shm/shm.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

enum { POSTS_BETWEEN_CHECKS = 16 };

/* A program may do nothing but put: look after the peer from here too, now and then. */
static weir_status check_now_and_then(struct shm_ep *ep)
{
    if (__builtin_expect(++ep->posts % POSTS_BETWEEN_CHECKS != 0, 1))
        return WEIR_OK;
    wi_shm_check_peers(ep->shm);
    return ep->base.status == WEIR_OK ? WEIR_OK : weir_ep_status(&ep->base);
}

static inline weir_status check_key(const struct shm_rkey *rkey, const char *what)
{
    if (__builtin_expect(__atomic_load_n(rkey->generation_now, __ATOMIC_ACQUIRE) == rkey->generation, 1))
        return WEIR_OK;
    return wi_error(WEIR_ERR_KEY, "%s to rank %llu: it has revoked the key", what,
                    (unsigned long long)rkey->base.ep->peer_id);
}

static weir_status vm_error(struct shm_ep *ep, const char *what)
{
    unsigned long long rank = ep->base.peer_id;
    switch (errno) {
    case ESRCH:
        return wi_shm_ep_left(ep);
    case EPERM:
    case ENOSYS:
        return wi_error(WEIR_ERR_UNSUPPORTED,
                        "%s: the system does not let this process reach ordinary memory of rank %llu (process %d: %s); "
                        "take that memory from weir_pool_alloc(), or set kernel.yama.ptrace_scope to 0 or 1",
                        what, rank, ep->peer->name.pid, strerror(errno));
    case EFAULT:
        return wi_error(WEIR_ERR_KEY, "%s to rank %llu: the memory is not mapped, at its end or here", what, rank);
    default:
        return wi_error(WEIR_ERR_IO, "%s to rank %llu: %s", what, rank, strerror(errno));
    }
}

typedef ssize_t vm_fn(pid_t pid, const struct iovec *local, unsigned long local_count, const struct iovec *remote,
                      unsigned long remote_count, unsigned long flags);

/* The kernel moves at most MAX_RW_COUNT bytes a call, and stops early at a page that is not there. */
static weir_status vm_copy(struct shm_ep *ep, vm_fn *copy, void *local, uint64_t remote, size_t len, const char *what)
{
    /* The number of an ended process may go to another one, whose memory this must not touch. */
    wi_shm_check_peers(ep->shm);
    if (ep->base.status != WEIR_OK)
        return weir_ep_status(&ep->base);
    while (len > 0) {
        struct iovec here = {.iov_base = local, .iov_len = len};
        struct iovec there = {.iov_base = (void *)(uintptr_t)remote, .iov_len = len};
        ssize_t done = copy(ep->peer->name.pid, &here, 1, &there, 1, 0);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return vm_error(ep, what);
        local = (unsigned char *)local + done;
        remote += (uint64_t)done;
        len -= (size_t)done;
    }
    return WEIR_OK;
}

/* A word, as flags and counters are, is copied without a call. */
static inline void copy(struct shm_ep *ep, void *to, const void *from, size_t len)
{
    if (len == sizeof(uint64_t))
        memcpy(to, from, sizeof(uint64_t));
    else if (__builtin_expect(len < ep->shm->copy_bound, 1))
        memcpy(to, from, len);
    else
        wi_shm_copy_long(ep, to, from, len);
}

static inline weir_status write_remote(struct shm_ep *ep, const void *local, size_t len, uint64_t remote_addr,
                                       const struct shm_rkey *rkey, const char *what)
{
    weir_status status = check_key(rkey, what);
    if (status != WEIR_OK)
        return status;
    if (!rkey->mapping)
        return vm_copy(ep, process_vm_writev, (void *)(uintptr_t)local, remote_addr, len, what);
    /* Writes of one endpoint land in order: a full barrier on the compiler, and on processors that need one. */
    __atomic_thread_fence(__ATOMIC_RELEASE);
    copy(ep, rkey->ptr + (remote_addr - rkey->base.addr), local, len);
    return WEIR_OK;
}

weir_status wi_shm_put(struct weir_ep *base, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *rkey, weir_comp *comp)
{
    struct shm_ep *ep = (struct shm_ep *)base;
    (void)mr;
    (void)comp; /* complete on return: nothing is ever pending */
    weir_status status = check_now_and_then(ep);
    if (status != WEIR_OK)
        return status;
    return write_remote(ep, local, len, remote_addr, (struct shm_rkey *)rkey, "put");
}

weir_status wi_shm_get(struct weir_ep *base, void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *base_key, weir_comp *comp)
{
    struct shm_ep *ep = (struct shm_ep *)base;
    const struct shm_rkey *rkey = (const struct shm_rkey *)base_key;
    (void)mr;
    (void)comp;
    weir_status status = check_now_and_then(ep);
    if (status == WEIR_OK)
        status = check_key(rkey, "get");
    if (status != WEIR_OK)
        return status;
    if (!rkey->mapping)
        return vm_copy(ep, process_vm_readv, local, remote_addr, len, "get");
    copy(ep, local, rkey->ptr + (remote_addr - rkey->base.addr), len);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return WEIR_OK;
}

weir_status wi_shm_put_signal(struct weir_ep *base, const void *local, struct wi_mr *mr, size_t len,
                              uint64_t remote_addr, struct weir_rkey *rkey, uint32_t signal, weir_comp *comp)
{
    struct shm_ep *ep = (struct shm_ep *)base;
    const struct shm_segment *segment = &ep->peer->segment;
    (void)mr;
    (void)comp;
    if (signal >= segment->signal_count)
        return wi_error(WEIR_ERR_RANGE, "put_signal to rank %llu: signal %u; it has %u",
                        (unsigned long long)base->peer_id, signal, segment->signal_count);
    weir_status status = check_now_and_then(ep);
    if (status == WEIR_OK && len > 0)
        status = write_remote(ep, local, len, remote_addr, (struct shm_rkey *)rkey, "put_signal");
    if (status != WEIR_OK)
        return status;
    /* Release: the data comes first. Sequentially consistent: the target may be going to sleep, see arm() there. */
    __atomic_fetch_add(&segment->signals[signal], 1, __ATOMIC_SEQ_CST);
    wi_shm_peer_wake(ep->peer);
    return WEIR_OK;
}

static weir_status post_request(struct shm_ep *ep, uint64_t value, uint64_t *result, uint64_t remote_addr,
                                const struct shm_rkey *rkey, weir_comp *comp)
{
    weir_status status = wi_shm_ep_need_ring(ep);
    if (status != WEIR_OK)
        return status;
    /* Requests are ended in order, so this many slots at the end of the ring are in use at most. */
    if (ep->pending_count >= SHM_RING_REQUESTS)
        return WEIR_ERR_AGAIN;
    struct shm_ring *ring = ep->view.ring;
    struct shm_request *request = &ring->requests[ep->view.request % SHM_RING_REQUESTS];
    request->generation = rkey->generation;
    request->slot = rkey->slot;
    request->addr = remote_addr;
    request->value = value;
    ep->view.request++;
    wi_shm_ep_add_pending(ep, result, comp);
    __atomic_store_n(&ring->request_tail, ep->view.request, __ATOMIC_RELEASE);
    wi_shm_ep_call(ep);
    return WEIR_OK;
}

weir_status wi_shm_fetch_add(struct weir_ep *base, uint64_t value, uint64_t *result, struct wi_mr *mr,
                             uint64_t remote_addr, struct weir_rkey *base_key, weir_comp *comp)
{
    struct shm_ep *ep = (struct shm_ep *)base;
    const struct shm_rkey *rkey = (const struct shm_rkey *)base_key;
    (void)mr;
    weir_status status = check_now_and_then(ep);
    if (status == WEIR_OK)
        status = check_key(rkey, "fetch_add");
    if (status != WEIR_OK)
        return status;
    if (!rkey->mapping)
        return post_request(ep, value, result, remote_addr, rkey, comp);
    uint64_t *word = (uint64_t *)(rkey->ptr + (remote_addr - rkey->base.addr));
    *result = __atomic_fetch_add(word, value, __ATOMIC_ACQ_REL);
    return WEIR_OK;
}

weir_status wi_shm_send(struct weir_ep *base, const void *data, size_t len)
{
    struct shm_ep *ep = (struct shm_ep *)base;
    weir_status status = check_now_and_then(ep);
    if (status == WEIR_OK)
        status = wi_shm_ep_need_ring(ep);
    if (status != WEIR_OK)
        return status;
    bool refused = __atomic_load_n(&ep->slot->state, __ATOMIC_ACQUIRE) == SHM_CHANNEL_REFUSED;
    enum shm_ring_result result = refused ? SHM_RING_BROKEN : wi_shm_ring_push(&ep->view, data, len);
    if (result == SHM_RING_AGAIN)
        return WEIR_ERR_AGAIN;
    if (result == SHM_RING_BROKEN) {
        wi_shm_ep_fail(ep, WEIR_ERR_PROTOCOL,
                       "the peer refused the ring of messages: it cannot open this process's "
                       "memory, or found damage in it; its log tells why");
        return weir_ep_status(base);
    }
    wi_shm_ep_call(ep);
    return WEIR_OK;
}

weir_status wi_shm_flush(struct weir_ep *base, weir_comp *comp)
{
    struct shm_ep *ep = (struct shm_ep *)base;
    weir_status status = check_now_and_then(ep);
    if (status != WEIR_OK || wi_shm_ep_is_flushed(ep))
        return status;
    if (ep->pending_count == SHM_PENDING_MAX)
        return WEIR_ERR_AGAIN;
    wi_shm_ep_add_pending(ep, NULL, comp);
    return WEIR_OK;
}
