/* Shared memory between processes of one host: life, progress and sleeping of an interface. */
#include "core/clock.h"
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/shm/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TURNS_BETWEEN_CHECKS = 16 };

static weir_status probe(void)
{
    if (access("/proc/self/fd", X_OK) != 0)
        return wi_error(WEIR_ERR_UNSUPPORTED, "shm: /proc/self/fd: %s; it needs /proc mounted", strerror(errno));
    int fd = memfd_create("weir-probe", MFD_CLOEXEC);
    if (fd < 0)
        return wi_error(WEIR_ERR_UNSUPPORTED, "shm: memfd_create: %s", strerror(errno));
    close(fd);
    return WEIR_OK;
}

/* The pipe that peers wake us by, and the set with the processes we watch. */
static weir_status open_wakeup(struct shm_iface *shm)
{
    int ends[2];
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0) {
        shm->wake_read_fd = ends[0];
        shm->wake_write_fd = ends[1];
        shm->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    }
    if (shm->epoll_fd < 0 || epoll_ctl(shm->epoll_fd, EPOLL_CTL_ADD, shm->wake_read_fd, &event) != 0)
        return wi_error(errno == EMFILE || errno == ENFILE ? WEIR_ERR_LIMIT : WEIR_ERR_IO,
                        "shm: no descriptors to sleep on: %s; raise the limit of open files (ulimit -n)",
                        strerror(errno));
    return WEIR_OK;
}

/* Safe on an interface made by half. */
static void close_iface(struct wi_iface *base)
{
    struct shm_iface *shm = (struct shm_iface *)base;
    while (!wi_list_empty(&shm->eps))
        wi_shm_ep_close(&WI_LIST_ITEM(shm->eps.next, struct shm_ep, all)->base);
    wi_shm_channels_close(shm);
    if (shm->own.header)
        __atomic_store_n(&shm->own.header->closed, 1, __ATOMIC_SEQ_CST);
    for (uint32_t i = 0; i < shm->fresh_ring; i++) {
        if (shm->rings[i].reader)
            wi_shm_peer_put(shm, shm->rings[i].reader);
        if (shm->rings[i].ring)
            wi_shm_ring_unmap(shm->rings[i].ring);
    }
    wi_shm_segment_close(&shm->own);
    if (shm->epoll_fd >= 0)
        close(shm->epoll_fd);
    if (shm->wake_read_fd >= 0)
        close(shm->wake_read_fd);
    if (shm->wake_write_fd >= 0)
        close(shm->wake_write_fd);
    wi_map_fini(&shm->peers_by_cookie);
    free(shm->by_slot);
    free(shm->rings);
    free(shm->exports);
    free(shm->free_slots);
    free(shm->message);
    free(shm);
}

static weir_status init(struct shm_iface *shm, const struct wi_iface_params *params)
{
    struct stat info;
    shm->exports = calloc(SHM_SLOT_MAX, sizeof(struct shm_export *));
    shm->free_slots = calloc(SHM_SLOT_MAX, sizeof(uint32_t));
    shm->by_slot = calloc(SHM_CHANNEL_MAX, sizeof(struct shm_channel *));
    shm->rings = calloc(SHM_RING_MAX, sizeof(struct shm_own_ring));
    shm->message = calloc(1, sizeof(*shm->message) + WEIR_MSG_MAX);
    if (!shm->exports || !shm->free_slots || !shm->by_slot || !shm->rings || !shm->message)
        return wi_error(WEIR_ERR_NO_MEMORY, "shm: out of memory");
    weir_status status = open_wakeup(shm);
    if (status == WEIR_OK)
        status = wi_shm_segment_create(params->signals, shm->wake_write_fd, &shm->own);
    if (status != WEIR_OK)
        return status;
    if (fstat(shm->own.fd, &info) != 0)
        return wi_error(WEIR_ERR_IO, "shm: fstat: %s", strerror(errno));
    shm->name =
        (struct shm_name){.pid = getpid(), .fd = shm->own.fd, .inode = info.st_ino, .cookie = shm->own.header->cookie};
    /* Under Yama's default only an ancestor may reach our ordinary memory: allow peers, which are of the same user. */
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    return WEIR_OK;
}

static weir_status open_iface(const struct wi_iface_params *params, struct wi_iface **iface)
{
    struct shm_iface *shm = calloc(1, sizeof(*shm));
    if (!shm)
        return wi_error(WEIR_ERR_NO_MEMORY, "shm: out of memory");
    struct wi_list *lists[] = {&shm->peers,    &shm->eps,  &shm->waiting,
                               &shm->channels, &shm->left, &shm->free_rings, &shm->ready};
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        wi_list_init(lists[i]);
    shm->wake_read_fd = shm->wake_write_fd = shm->epoll_fd = -1;
    shm->timeout_ns = wi_config()->timeout_ns;
    shm->copy_bound = wi_shm_copy_bound();
    weir_status status = init(shm, params);
    if (status != WEIR_OK) {
        close_iface(&shm->base);
        return status;
    }
    shm->base =
        (struct wi_iface){.ops = &wi_shm_ops, .params = *params, .signals = shm->own.signals, .wakes_on_signal = true};
    snprintf(shm->base.device, sizeof(shm->base.device), "memfd");
    *iface = &shm->base;
    return WEIR_OK;
}

static weir_status address(struct wi_iface *iface, void *buf, size_t *len)
{
    const struct shm_iface *shm = (const struct shm_iface *)iface;
    if (*len < sizeof(shm->name))
        return wi_error(WEIR_ERR_RANGE, "address: %zu bytes are too little room", *len);
    memcpy(buf, &shm->name, sizeof(shm->name));
    *len = sizeof(shm->name);
    return WEIR_OK;
}

static unsigned progress(struct wi_iface *iface)
{
    struct shm_iface *shm = (struct shm_iface *)iface;
    unsigned events = 0;
    uint32_t doorbell = __atomic_load_n(&shm->own.header->doorbell, __ATOMIC_ACQUIRE);
    if (doorbell != shm->doorbell_seen) {
        wi_shm_calls_answer(shm, doorbell);
        events++;
    }
    if (shm->waiting_count > 0 && shm->waiting_count <= SHM_FEW)
        events += wi_shm_eps_poll(shm);
    if (shm->check_now || ++shm->turns % TURNS_BETWEEN_CHECKS == 0)
        events += wi_shm_check_peers(shm);
    return events;
}

static int event_fd(struct wi_iface *iface)
{
    return ((struct shm_iface *)iface)->epoll_fd;
}

/*
 * We say that we sleep, then look; peers write (signal or doorbell), then look whether we sleep. Both do so with a
 * sequentially consistent write, and a sequentially consistent read or a fence after it, so at least one sees the
 * other, on processors that reorder as well (on aarch64 stlr or ldaddal before ldar). The caller looks at signals after
 * this.
 */
static weir_status arm(struct wi_iface *iface)
{
    struct shm_iface *shm = (struct shm_iface *)iface;
    struct shm_header *header = shm->own.header;
    __atomic_store_n(&header->sleeping, SHM_ON_PIPE, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return __atomic_load_n(&header->doorbell, __ATOMIC_ACQUIRE) == shm->doorbell_seen ? WEIR_OK : WEIR_ERR_AGAIN;
}

/*
 * Whoever has taken the word since arm() has written to the pipe, which we do not look at: then there is no sleep. From
 * the exchange on the word is taken as SHM_ON_WORD, and the kernel compares it once more before it lets us sleep.
 */
static void sleep_on_word(struct wi_iface *iface, int timeout_ms)
{
    struct shm_iface *shm = (struct shm_iface *)iface;
    uint32_t *sleeping = &shm->own.header->sleeping, armed = SHM_ON_PIPE;
    struct timespec bound = {.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * (long)WI_NS_PER_MS};
    if (!__atomic_compare_exchange_n(sleeping, &armed, SHM_ON_WORD, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        return;
    shm->slept_on_word = true;
    syscall(SYS_futex, sleeping, FUTEX_WAIT, SHM_ON_WORD, &bound, NULL, 0);
}

static void rouse(struct wi_iface *iface)
{
    struct shm_iface *shm = (struct shm_iface *)iface;
    wi_shm_wake(&shm->own.header->sleeping, shm->wake_write_fd);
}

static void disarm(struct wi_iface *iface)
{
    struct shm_iface *shm = (struct shm_iface *)iface;
    char bytes[64];
    __atomic_store_n(&shm->own.header->sleeping, SHM_AWAKE, __ATOMIC_RELEASE);
    /* A peer that took the word may write its byte only now: that ends the next sleep early, no more. */
    while (!shm->slept_on_word && read(shm->wake_read_fd, bytes, sizeof(bytes)) == (ssize_t)sizeof(bytes))
        ;
    shm->slept_on_word = false;
    shm->check_now = true;
}

const struct wi_transport_ops wi_shm_ops = {
    .name = "shm",
    .wire_id = WI_WIRE_SHM,
    .probe = probe,
    .open = open_iface,
    .close = close_iface,
    .address = address,
    .mem_register = wi_shm_mem_register,
    .mem_deregister = wi_shm_mem_deregister,
    .mem_export = wi_shm_mem_export,
    .mem_unexport = wi_shm_mem_unexport,
    .rkey_import = wi_shm_rkey_import,
    .rkey_destroy = wi_shm_rkey_destroy,
    .rkey_map = wi_shm_rkey_map,
    .ep_create = wi_shm_ep_create,
    .ep_connect = wi_shm_ep_connect,
    .ep_reset = wi_shm_ep_reset,
    .ep_query = wi_shm_ep_query,
    .ep_close = wi_shm_ep_close,
    .put = wi_shm_put,
    .get = wi_shm_get,
    .put_signal = wi_shm_put_signal,
    .fetch_add = wi_shm_fetch_add,
    .send = wi_shm_send,
    .flush = wi_shm_flush,
    .progress = progress,
    .msg_peek = wi_shm_msg_peek,
    .msg_pop = wi_shm_msg_pop,
    .event_fd = event_fd,
    .arm = arm,
    .disarm = disarm,
    .sleep = sleep_on_word,
    .rouse = rouse,
};
