/* Several devices as one interface: what its rails do each for themselves, done by all. See rails.h. */
#include "transport/verbs/rails.h"

#include "core/config.h"
#include "core/error.h"
#include "core/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

enum { PART_MAX = 255 };

/* ---- Opening ----------------------------------------------------------------------------------------------------- */

/* Safe on an interface that was made by half. */
static void close_rails(struct wi_iface *base)
{
    struct rails_iface *iface = rails_iface(base);
    for (unsigned i = 0; i < iface->count; i++)
        if (iface->rail[i])
            wi_verbs_ops.close(&iface->rail[i]->base);
    wi_verbs_fences_destroy(iface->fences);
    if (iface->epoll_fd >= 0)
        close(iface->epoll_fd);
    free(iface->records);
    free(iface->base.signals);
    free(iface);
}

static weir_status watch_rails(struct rails_iface *iface)
{
    iface->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned i = 0; iface->epoll_fd >= 0 && i < iface->count; i++) {
        struct epoll_event event = {.events = EPOLLIN};
        if (epoll_ctl(iface->epoll_fd, EPOLL_CTL_ADD, iface->rail[i]->epoll_fd, &event))
            return wi_error(WEIR_ERR_IO, "verbs: descriptor to sleep on: %s", strerror(errno));
    }
    return iface->epoll_fd >= 0 ? WEIR_OK : wi_error(WEIR_ERR_IO, "verbs: no epoll descriptor: %s", strerror(errno));
}

static weir_status make_records(struct rails_iface *iface)
{
    iface->records = calloc(WI_RAILS_RECORDS, sizeof(*iface->records));
    iface->fences = wi_verbs_fences_create(iface->base.signals, iface->base.params.signals);
    if (!iface->records || !iface->fences)
        return wi_error(WEIR_ERR_NO_MEMORY, "verbs: out of memory");
    for (unsigned i = 0; i < WI_RAILS_RECORDS; i++) {
        iface->records[i].next = iface->records_free;
        iface->records_free = &iface->records[i];
    }
    return WEIR_OK;
}

/* All rails share one cookie: by it and its endpoint's number a target finds the links that belong together. */
static weir_status open_rails(struct rails_iface *iface, struct verbs_choice *choices)
{
    uint64_t cookie;
    weir_status status = make_records(iface);
    if (status != WEIR_OK)
        return status;
    if (getrandom(&cookie, sizeof(cookie), 0) != (ssize_t)sizeof(cookie))
        return wi_error(WEIR_ERR_IO, "verbs: no random number: %s", strerror(errno));
    for (unsigned i = 0; i < iface->count; i++) {
        size_t used = strlen(iface->base.device);
        choices[i].address.cookie = cookie;
        status = wi_verbs_open_one(&iface->base.params, &choices[i], iface->base.signals, iface->fences, &iface->rail[i]);
        if (status != WEIR_OK)
            return status;
        iface->speed[i] = iface->rail[i]->device.speed;
        snprintf(iface->base.device + used, sizeof(iface->base.device) - used, "%s%s", i ? "," : "",
                 iface->rail[i]->base.device);
    }
    return watch_rails(iface);
}

static weir_status open_several(const struct wi_iface_params *params, struct verbs_choice *choices, unsigned count,
                                uint64_t *signals, struct wi_iface **out)
{
    if (params->signals > WI_VERBS_IMM_SIGNAL)
        return wi_error(WEIR_ERR_LIMIT, "verbs: several devices at once can have %u signals at most",
                        WI_VERBS_IMM_SIGNAL);
    struct rails_iface *iface = calloc(1, sizeof(*iface));
    if (!iface)
        return wi_error(WEIR_ERR_NO_MEMORY, "verbs: out of memory");
    iface->base.ops = &wi_rails_ops;
    iface->base.params = *params;
    iface->base.wakes_on_signal = true;
    iface->base.signals = signals;
    iface->count = count;
    iface->epoll_fd = -1;
    weir_status status = open_rails(iface, choices);
    if (status != WEIR_OK) {
        iface->base.signals = NULL; /* the caller's until this succeeds */
        close_rails(&iface->base);
        return status;
    }
    *out = &iface->base;
    return WEIR_OK;
}

/*
 * Before anything is registered. Writing to a page that a child shares gives the writer another one, and leaves the old
 * one to the device. Linux copies registered pages for children instead, from 5.12 on; where it does not, libibverbs
 * takes them away from children, who crash when they touch them: not to be asked for without need.
 */
static void mind_forks(void)
{
    if (ibv_is_fork_initialized() != IBV_FORK_DISABLED)
        return;
    int error = ibv_fork_init();
    if (error)
        wi_warn("verbs: a fork() can corrupt what is sent from registered memory: %s", strerror(error));
    else
        wi_info("verbs: registered memory is not there in children after fork(), as this kernel does not copy it");
}

weir_status wi_verbs_open(const struct wi_iface_params *params, struct wi_iface **out)
{
    struct verbs_choice choices[WI_VERBS_RAILS_MAX];
    unsigned count;
    weir_status status = wi_verbs_choose(params->bind_address, choices, &count);
    if (status != WEIR_OK)
        return status;
    bool by_store = wi_config()->verbs_connect == WI_VERBS_CONNECT_STORE;
    if (by_store && !params->exchange)
        return wi_error(WEIR_ERR_CONFIG, "WEIR_VERBS_CONNECT=store: this program gives its context no exchange "
                                         "(weir_ctx_params.exchange, e.g. weir_boot_exchange()); use cm");
    size_t size = ((size_t)params->signals * sizeof(uint64_t) + 63) / 64 * 64;
    uint64_t *signals = aligned_alloc(64, size);
    if (!signals)
        return wi_error(WEIR_ERR_NO_MEMORY, "verbs: out of memory");
    memset(signals, 0, size);
    mind_forks();
    struct verbs_iface *one = NULL;
    if (count > 1)
        status = open_several(params, choices, count, signals, out);
    else if ((status = wi_verbs_open_one(params, &choices[0], signals, NULL, &one)) == WEIR_OK)
        *out = &one->base;
    if (status != WEIR_OK)
        free(signals);
    return status;
}

static weir_status address(struct wi_iface *base, void *buf, size_t *len)
{
    struct rails_iface *iface = rails_iface(base);
    size_t room = *len;
    *len = 0;
    for (unsigned i = 0; i < iface->count; i++) {
        unsigned char part[PART_MAX];
        size_t part_len = sizeof(part);
        weir_status status = wi_verbs_address(&iface->rail[i]->base, part, &part_len);
        if (status != WEIR_OK)
            return status;
        if (!wi_verbs_list_add(buf, room, len, iface->rail[i]->choice.slot, part, part_len))
            return wi_error(WEIR_ERR_RANGE, "address: %zu bytes are too little room for the verbs part", room);
    }
    return WEIR_OK;
}

/* ---- Memory: registered with every device ------------------------------------------------------------------------ */

static void mem_deregister(struct wi_mr *base)
{
    struct rails_mr *mr = (struct rails_mr *)base;
    for (unsigned i = 0; i < WI_VERBS_RAILS_MAX; i++)
        if (mr->mr[i])
            wi_verbs_mem_deregister(mr->mr[i]);
    free(mr);
}

typedef weir_status register_fn(struct wi_iface *iface, const struct wi_mem_desc *desc, struct wi_mr **mr);

static weir_status register_each(struct wi_iface *base, const struct wi_mem_desc *desc, register_fn *reg,
                                 struct wi_mr **out)
{
    struct rails_iface *iface = rails_iface(base);
    struct rails_mr *mr = calloc(1, sizeof(*mr));
    if (!mr)
        return wi_error(WEIR_ERR_NO_MEMORY, "registering %zu bytes: out of memory", desc->len);
    for (unsigned i = 0; i < iface->count; i++) {
        weir_status status = reg(&iface->rail[i]->base, desc, &mr->mr[i]);
        if (status != WEIR_OK) {
            mem_deregister(&mr->base);
            return status;
        }
        mr->mr[i]->iface = &iface->rail[i]->base;
    }
    *out = &mr->base;
    return WEIR_OK;
}

static weir_status mem_register(struct wi_iface *base, const struct wi_mem_desc *desc, struct wi_mr **mr)
{
    return register_each(base, desc, wi_verbs_mem_register, mr);
}

static weir_status mem_register_dmabuf(struct wi_iface *base, const struct wi_mem_desc *desc, struct wi_mr **mr)
{
    return register_each(base, desc, wi_verbs_mem_register_dmabuf, mr);
}

static bool mem_unexport(struct wi_export *base)
{
    struct rails_export *export = (struct rails_export *)base;
    bool revoked = true;
    for (unsigned i = 0; i < WI_VERBS_RAILS_MAX; i++)
        if (export->of[i])
            revoked = wi_verbs_mem_unexport(export->of[i]) && revoked;
    free(export);
    return revoked;
}

static weir_status rail_export(struct verbs_iface *rail, struct wi_mr *mr, const void *addr, size_t len, void *blob,
                               size_t room, size_t *blob_len, struct wi_export **export)
{
    unsigned char part[PART_MAX];
    size_t part_len = sizeof(part);
    weir_status status = wi_verbs_mem_export(mr, addr, len, part, &part_len, export);
    if (status == WEIR_OK && !wi_verbs_list_add(blob, room, blob_len, rail->choice.slot, part, part_len))
        status = wi_error(WEIR_ERR_RANGE, "export: %zu bytes are too little room for a verbs key", room);
    return status;
}

static weir_status mem_export(struct wi_mr *base, const void *addr, size_t len, void *blob, size_t *blob_len,
                              struct wi_export **out)
{
    struct rails_iface *iface = rails_iface(base->iface);
    struct rails_mr *mr = (struct rails_mr *)base;
    struct rails_export *export = calloc(1, sizeof(*export));
    size_t room = *blob_len;
    weir_status status = export ? WEIR_OK : wi_error(WEIR_ERR_NO_MEMORY, "export: out of memory");
    *blob_len = 0;
    for (unsigned i = 0; i < iface->count && status == WEIR_OK; i++)
        status = rail_export(iface->rail[i], mr->mr[i], addr, len, blob, room, blob_len, &export->of[i]);
    if (status == WEIR_OK)
        *out = &export->base;
    else if (export)
        mem_unexport(&export->base);
    return status;
}

static void rkey_destroy(struct weir_rkey *base)
{
    struct rails_rkey *rkey = (struct rails_rkey *)base;
    for (unsigned i = 0; i < WI_VERBS_RAILS_MAX; i++)
        if (rkey->key[i])
            wi_verbs_rkey_destroy(rkey->key[i]);
    free(rkey);
}

static weir_status rkey_import(struct weir_ep *base, const void *blob, size_t blob_len, uint64_t addr, uint64_t len,
                               struct weir_rkey **out)
{
    struct rails_ep *ep = rails_ep(base);
    if (!wi_verbs_list_check(blob, blob_len))
        return wi_error(WEIR_ERR_KEY, "key of rank %llu: its verbs part is damaged", (unsigned long long)base->peer_id);
    struct rails_rkey *rkey = calloc(1, sizeof(*rkey));
    if (!rkey)
        return wi_error(WEIR_ERR_NO_MEMORY, "key of rank %llu: out of memory", (unsigned long long)base->peer_id);
    weir_status status = WEIR_OK;
    for (unsigned i = 0; i < ep->iface->count && status == WEIR_OK; i++) {
        size_t part_len;
        const void *part = ep->rail[i] ? wi_verbs_list_find(blob, ep->rail[i]->peer_slot, &part_len) : NULL;
        if (ep->rail[i] && !part)
            status = wi_error(WEIR_ERR_KEY, "key of rank %llu: it has no part for the device that %s leads to",
                              (unsigned long long)base->peer_id, ep->rail[i]->iface->base.device);
        else if (part)
            status = wi_verbs_rkey_import(&ep->rail[i]->base, part, part_len, addr, len, &rkey->key[i]);
        if (rkey->key[i]) {
            rkey->key[i]->ep = &ep->rail[i]->base;
            rkey->key[i]->addr = addr;
            rkey->key[i]->len = len;
        }
    }
    if (status != WEIR_OK) {
        rkey_destroy(&rkey->base);
        return status;
    }
    *out = &rkey->base;
    return WEIR_OK;
}

/* ---- Messages: rails take turns ---------------------------------------------------------------------------------- */

static struct wi_msg *msg_peek(struct wi_iface *base)
{
    struct rails_iface *iface = rails_iface(base);
    for (unsigned k = 0; k < iface->count; k++) {
        struct verbs_iface *rail = iface->rail[(iface->turn + k) % iface->count];
        struct wi_msg *msg = iface->peeked && iface->peeked != rail ? NULL : wi_verbs_msg_peek(&rail->base);
        if (!msg)
            continue;
        iface->peeked = rail;
        return msg;
    }
    return NULL;
}

static void msg_pop(struct wi_iface *base)
{
    struct rails_iface *iface = rails_iface(base);
    wi_verbs_msg_pop(&iface->peeked->base);
    iface->peeked = NULL;
    iface->turn++;
}

/* ---- Progress and sleep ------------------------------------------------------------------------------------------ */

static unsigned progress(struct wi_iface *base)
{
    struct rails_iface *iface = rails_iface(base);
    unsigned count = 0;
    uint32_t endings = 0;
    for (unsigned i = 0; i < iface->count; i++) {
        count += wi_verbs_ops.progress(&iface->rail[i]->base);
        endings += iface->rail[i]->endings;
    }
    if (iface->connecting || endings != iface->endings) {
        iface->endings = endings;
        wi_rails_eps_look(iface);
    }
    return count + wi_rails_plans_progress(iface);
}

static int event_fd(struct wi_iface *base)
{
    return rails_iface(base)->epoll_fd;
}

static weir_status arm(struct wi_iface *base)
{
    struct rails_iface *iface = rails_iface(base);
    weir_status status = WEIR_OK;
    for (unsigned i = 0; i < iface->count && status == WEIR_OK; i++)
        status = wi_verbs_ops.arm(&iface->rail[i]->base);
    return status;
}

static void disarm(struct wi_iface *base)
{
    struct rails_iface *iface = rails_iface(base);
    for (unsigned i = 0; i < iface->count; i++)
        wi_verbs_ops.disarm(&iface->rail[i]->base);
}

const struct wi_transport_ops wi_rails_ops = {
    .name = "verbs",
    .wire_id = 3,
    .open = wi_verbs_open,
    .close = close_rails,
    .address = address,
    .mem_register = mem_register,
    .mem_register_dmabuf = mem_register_dmabuf,
    .mem_deregister = mem_deregister,
    .mem_export = mem_export,
    .mem_unexport = mem_unexport,
    .rkey_import = rkey_import,
    .rkey_destroy = rkey_destroy,
    .ep_create = wi_rails_ep_create,
    .ep_connect = wi_rails_ep_connect,
    .ep_reset = wi_rails_ep_reset,
    .ep_query = wi_rails_ep_query,
    .ep_path = wi_rails_ep_path,
    .ep_close = wi_rails_ep_close,
    .put = wi_rails_put,
    .get = wi_rails_get,
    .put_signal = wi_rails_put_signal,
    .fetch_add = wi_rails_fetch_add,
    .send = wi_rails_send,
    .flush = wi_rails_flush,
    .progress = progress,
    .msg_peek = msg_peek,
    .msg_pop = msg_pop,
    .event_fd = event_fd,
    .arm = arm,
    .disarm = disarm,
};
