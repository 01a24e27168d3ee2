/* Other processes: opened once, watched for their end, woken from sleep. */
#include "core/clock.h"
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
#include <sys/syscall.h>
#include <unistd.h>

enum {
    CHECK_EVERY_MS = 5,
    PEERS_A_CHECK = 64, /* that are looked after, of all */
    LEFT_A_CHECK = 16,  /* rings that were left, likewise */
};

/* A few ms coarse, and a quarter of the price of wi_now_ns(). */
static uint64_t coarse_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * WI_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Is the process still the one that we opened? The slow way; kernels with pidfd tell of its end by themselves. */
static bool is_alive_in_proc(const struct shm_peer *peer)
{
    char path[64];
    struct stat info;
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", peer->name.pid, peer->name.fd);
    return stat(path, &info) == 0 && info.st_ino == peer->name.inode;
}

bool wi_shm_peer_has_left(const struct shm_peer *peer)
{
    return peer->gone || __atomic_load_n(&peer->segment.header->closed, __ATOMIC_ACQUIRE) || !is_alive_in_proc(peer);
}

static weir_status watch_process(struct shm_iface *shm, struct shm_peer *peer)
{
    peer->pidfd = (int)syscall(SYS_pidfd_open, peer->name.pid, 0);
    if (peer->pidfd < 0 && errno == ESRCH)
        return wi_error(WEIR_ERR_PEER_UNREACHABLE, "process %d has ended", peer->name.pid);
    if (peer->pidfd < 0 && (errno == EMFILE || errno == ENFILE))
        return wi_error(WEIR_ERR_LIMIT, "shm: pidfd_open: %s; raise the limit of open files (ulimit -n)",
                        strerror(errno));
    /* Between opening its memory and its pidfd the process may have ended and its number gone to another. */
    if (!is_alive_in_proc(peer))
        return wi_error(WEIR_ERR_PEER_UNREACHABLE, "process %d has ended or has closed its context", peer->name.pid);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    if (peer->pidfd >= 0 && epoll_ctl(shm->epoll_fd, EPOLL_CTL_ADD, peer->pidfd, &event) != 0)
        return wi_error(WEIR_ERR_LIMIT, "shm: watching process %d: %s", peer->name.pid, strerror(errno));
    return WEIR_OK;
}

static void peer_free(struct shm_iface *shm, struct shm_peer *peer)
{
    wi_shm_mappings_trim(peer, true);
    if (peer->pidfd >= 0) {
        epoll_ctl(shm->epoll_fd, EPOLL_CTL_DEL, peer->pidfd, NULL); /* closing is not enough where a child has a copy */
        close(peer->pidfd);
    }
    if (peer->wake_fd >= 0)
        close(peer->wake_fd);
    wi_shm_segment_close(&peer->segment);
    free(peer);
}

static weir_status open_wake_pipe(struct shm_peer *peer)
{
    struct stat info;
    const struct shm_header *header = peer->segment.header;
    peer->wake_fd = wi_shm_open_fd(peer->name.pid, header->wake_fd, S_IFIFO, header->wake_inode, &info);
    if (peer->wake_fd < 0)
        return wi_error(errno == EMFILE || errno == ENFILE ? WEIR_ERR_LIMIT : WEIR_ERR_PEER_UNREACHABLE,
                        "process %d: opening the pipe that wakes it: %s", peer->name.pid, strerror(errno));
    return WEIR_OK;
}

static struct shm_peer *find_peer(const struct shm_iface *shm, const struct shm_name *name, uint64_t hash)
{
    for (struct wi_map_node *node = wi_map_first(&shm->peers_by_cookie, hash); node; node = wi_map_next(node)) {
        struct shm_peer *peer = WI_MAP_ITEM(node, struct shm_peer, node);
        if (peer->name.cookie == name->cookie && peer->name.pid == name->pid && !peer->gone)
            return peer;
    }
    return NULL;
}

weir_status wi_shm_peer_get(struct shm_iface *shm, const struct shm_name *name, struct shm_peer **out)
{
    uint64_t hash = wi_map_hash(name->cookie, (uint64_t)name->pid);
    struct shm_peer *peer = find_peer(shm, name, hash);
    if (peer) {
        peer->refs++;
        *out = peer;
        return WEIR_OK;
    }
    peer = calloc(1, sizeof(*peer));
    if (!peer)
        return wi_error(WEIR_ERR_NO_MEMORY, "shm: out of memory");
    wi_list_init(&peer->eps);
    wi_list_init(&peer->channels);
    peer->name = *name;
    peer->pidfd = peer->wake_fd = -1;
    weir_status status = wi_shm_segment_open(name, &peer->segment);
    if (status == WEIR_OK)
        status = open_wake_pipe(peer);
    if (status == WEIR_OK)
        status = watch_process(shm, peer);
    if (status == WEIR_OK && __atomic_load_n(&peer->segment.header->closed, __ATOMIC_ACQUIRE))
        status = wi_error(WEIR_ERR_PEER_UNREACHABLE, "process %d has closed its context", name->pid);
    if (status != WEIR_OK) {
        peer_free(shm, peer);
        return status;
    }
    peer->refs = 1;
    wi_list_append(&shm->peers, &peer->all);
    wi_map_add(&shm->peers_by_cookie, &peer->node, hash);
    shm->peer_count++;
    *out = peer;
    return WEIR_OK;
}

void wi_shm_peer_put(struct shm_iface *shm, struct shm_peer *peer)
{
    if (--peer->refs > 0)
        return;
    wi_list_remove(&peer->all);
    wi_map_remove(&shm->peers_by_cookie, &peer->node);
    shm->peer_count--;
    peer_free(shm, peer);
}

/* One wake-up a sleep: who takes the word makes it. A peer may have written anything there, which then wakes nobody. */
void wi_shm_wake(uint32_t *sleeping, int wake_fd)
{
    uint32_t how = __atomic_exchange_n(sleeping, SHM_AWAKE, __ATOMIC_ACQ_REL);
    if (how == SHM_ON_WORD)
        syscall(SYS_futex, sleeping, FUTEX_WAKE, 1, NULL, NULL, 0);
    else if (how == SHM_ON_PIPE && write(wake_fd, "", 1) < 0)
        wi_debug("shm: waking a process: %s", strerror(errno));
}

void wi_shm_peer_wake(struct shm_peer *peer)
{
    uint32_t *sleeping = &peer->segment.header->sleeping;
    if (__builtin_expect(__atomic_load_n(sleeping, __ATOMIC_SEQ_CST) != SHM_AWAKE, 0))
        wi_shm_wake(sleeping, peer->wake_fd);
}

void wi_shm_peer_call(struct shm_peer *peer, uint32_t whom)
{
    const struct shm_segment *segment = &peer->segment;
    uint32_t number = __atomic_fetch_add(&segment->header->doorbell, 1, __ATOMIC_SEQ_CST) + 1;
    __atomic_store_n(&segment->calls[number % SHM_CALLS], (uint64_t)number << 32 | whom, __ATOMIC_RELEASE);
    wi_shm_peer_wake(peer);
}

static unsigned fail_endpoints(const struct shm_peer *peer, const char *what)
{
    unsigned count = 0;
    for (struct wi_list *link = peer->eps.next; link != &peer->eps; link = link->next) {
        struct shm_ep *ep = WI_LIST_ITEM(link, struct shm_ep, of_peer);
        char sentence[128];
        if (ep->base.status != WEIR_OK)
            continue;
        snprintf(sentence, sizeof(sentence), "rank %llu: process %d %s", (unsigned long long)ep->base.peer_id,
                 peer->name.pid, what);
        wi_shm_ep_fail(ep, WEIR_ERR_PEER_GONE, sentence);
        count++;
    }
    return count;
}

static unsigned peer_is_gone(struct shm_iface *shm, struct shm_peer *peer, bool ended)
{
    peer->gone = true;
    peer->ended |= ended;
    if (ended && peer->pidfd >= 0)
        epoll_ctl(shm->epoll_fd, EPOLL_CTL_DEL, peer->pidfd, NULL);
    unsigned count = fail_endpoints(peer, ended ? "has ended" : "has closed its context");
    wi_shm_peer_channels_look(shm, peer); /* they may be at their end; the peer may go with them */
    return count;
}

/* All that have ended since the last time. */
static unsigned ended_processes(struct shm_iface *shm)
{
    struct epoll_event events[16];
    const int room = sizeof(events) / sizeof(events[0]);
    unsigned count = 0;
    int n;
    do {
        n = epoll_wait(shm->epoll_fd, events, room, 0);
        for (int i = 0; i < n; i++)
            if (events[i].data.ptr)
                count += peer_is_gone(shm, events[i].data.ptr, true);
    } while (n == room);
    return count;
}

/*
 * Has it closed its context, or ended where no descriptor tells? Also looks at its channels, though their calls tell when
 * there is a need: a call may have got lost where a peer has damaged this process's segment.
 */
static unsigned look_after(struct shm_iface *shm, struct shm_peer *peer)
{
    if (peer->ended)
        return 0;
    if (peer->pidfd < 0 && !is_alive_in_proc(peer))
        return peer_is_gone(shm, peer, true);
    if (!peer->gone && __atomic_load_n(&peer->segment.header->closed, __ATOMIC_ACQUIRE))
        return peer_is_gone(shm, peer, false);
    wi_shm_peer_channels_look(shm, peer);
    return 0;
}

/* The target has to answer requests; one that does not for WEIR_TIMEOUT is taken for dead. */
static unsigned check_silent(struct shm_iface *shm)
{
    unsigned count = wi_shm_eps_poll(shm);
    uint64_t now_ns = wi_now_ns(); /* not earlier than what polling has noted */
    for (struct wi_list *link = shm->waiting.next, *next; link != &shm->waiting; link = next) {
        struct shm_ep *ep = WI_LIST_ITEM(link, struct shm_ep, waiting);
        char sentence[128];
        next = link->next;
        if (wi_elapsed_ns(now_ns, ep->waiting_since_ns) <= shm->timeout_ns)
            continue;
        snprintf(sentence, sizeof(sentence), "rank %llu: process %d is there but has not answered for %.1f s",
                 (unsigned long long)ep->base.peer_id, ep->peer->name.pid, (double)shm->timeout_ns / 1e9);
        wi_shm_ep_fail(ep, WEIR_ERR_PEER_GONE, sentence);
        count++;
    }
    return count;
}

unsigned wi_shm_check_peers(struct shm_iface *shm)
{
    uint64_t now_ns = coarse_now_ns();
    shm->check_now = false;
    if (now_ns - shm->checked_ns < CHECK_EVERY_MS * WI_NS_PER_MS)
        return 0;
    shm->checked_ns = now_ns;
    unsigned count = ended_processes(shm);
    for (uint32_t looks = 0; looks < PEERS_A_CHECK && looks < shm->peer_count; looks++) {
        struct shm_peer *peer = WI_LIST_ITEM(shm->peers.next, struct shm_peer, all);
        wi_list_remove(&peer->all);
        wi_list_append(&shm->peers, &peer->all);
        count += look_after(shm, peer);
    }
    wi_shm_rings_collect(shm, LEFT_A_CHECK);
    if (shm->waiting_count > 0)
        count += check_silent(shm);
    return count;
}
