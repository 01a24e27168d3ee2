/*
 * What the files of this backend share.
 *
 * A connection takes no step of the target: the initiator opens the target's segment and, for pool memory, its slabs,
 * and reads and writes them directly. Only messages, and fetch_add on memory that cannot be mapped, go through a ring
 * in the initiator's segment, which is announced in the target's table at first use.
 *
 * iface.c: life, progress, sleeping. peer.c: other processes, are they alive. endpoint.c: what is outstanding.
 * channel.c: rings of others that we read. memory.c: regions and keys. operation.c: put, get and so on.
 */
#ifndef WI_SHM_SHM_H
#define WI_SHM_SHM_H

#include "transport/ops.h"
#include "transport/shm/segment.h"

#include <sys/types.h>

/* Another process that we know: counted by endpoints, channels, and rings it may still read. */
struct shm_peer {
    struct shm_peer *next;
    uint32_t refs;
    struct shm_name name;
    struct shm_segment segment;
    int wake_fd;
    int pidfd;  /* -1: the kernel has none; it is then looked up in /proc */
    bool gone;  /* ended, or its context was closed */
    bool ended; /* its process has ended */
    struct shm_mapping *mappings;
};

/* A peer's slab, mapped here once for all its keys. */
struct shm_mapping {
    struct shm_mapping *next;
    uint32_t refs;
    uint32_t region;
    uint64_t generation;
    uint64_t addr; /* of the region at the peer */
    uint64_t len;
    unsigned char *base;
};

/* A ring of our segment. Reusable when it has no endpoint and nobody reads it any more. */
struct shm_own_ring {
    struct shm_ring *ring;
    bool used;
    struct shm_peer *reader; /* counted; who may still read it after our endpoint was closed */
};

/* A ring of a peer's, being read. */
struct shm_channel {
    struct shm_channel *next;
    struct shm_peer *peer;
    struct shm_channel_slot *slot;
    struct shm_ring_view view;
    uint64_t peer_id;
    uint32_t stream, again;    /* as in the slot */
    struct shm_channel *after; /* of the same stream, from before it was connected again: to be read first */
};

struct shm_mr {
    struct wi_mr base;
    struct wi_mem_desc desc;
    uint32_t region; /* index in the segment's table */
    uint64_t generation;
    uint64_t inode; /* of desc.fd */
};

struct shm_rkey {
    struct weir_rkey base;
    struct shm_mapping *mapping;    /* NULL: ordinary memory */
    unsigned char *ptr;             /* mapped: where base.addr lies here */
    const uint64_t *generation_now; /* in the peer's table */
    uint64_t generation;
    uint32_t region;
};

/* An operation that the target has to answer: a request, or a flush behind requests and messages. */
struct shm_pending {
    uint64_t request; /* done when the target has answered so many */
    uint64_t *result; /* NULL: a flush */
    weir_comp *comp;
};

enum { SHM_PENDING_MAX = 2 * SHM_RING_REQUESTS };

struct shm_ep {
    struct weir_ep base;
    struct shm_ep *next;
    struct shm_iface *shm;
    struct shm_peer *peer;
    uint32_t posts;         /* counts towards the next look at the clock */
    uint32_t stream, again; /* names the endpoint at the target; how often it was connected before */

    /* Messages and requests; without an own ring none were sent. */
    struct shm_own_ring *own_ring;
    struct shm_ring_view view;
    struct shm_channel_slot *slot; /* in the peer's table */
    struct shm_pending pending[SHM_PENDING_MAX];
    uint32_t pending_head, pending_count;
    uint64_t waiting_since_ns;
};

struct shm_iface {
    struct wi_iface base;
    struct shm_segment own;
    struct shm_name name;
    int wake_read_fd, wake_write_fd;
    int epoll_fd; /* the pipe and the peers' pidfds; what the front sleeps on */
    bool slept_on_word;
    uint64_t timeout_ns;

    uint32_t doorbell_seen, announced_seen;
    uint32_t turns; /* calls of progress, towards the next look at the clock */
    bool check_now; /* time has passed: look after the peers at the next progress */
    uint64_t checked_ns;

    struct shm_peer *peers;
    struct shm_ep *eps;
    uint32_t next_stream;
    uint32_t pending_total; /* of all endpoints */
    struct shm_channel *channels;
    uint32_t followers; /* channels that wait for an earlier one of their stream */
    struct shm_own_ring rings[SHM_RING_MAX];

    struct shm_mr **regions; /* SHM_REGION_MAX, by index */
    uint32_t *free_regions;  /* stack of indices that were used before */
    uint32_t free_region_count, fresh_region;

    bool maybe_messages; /* a channel may have a message */
    struct shm_channel *message_from;
    struct wi_msg *message; /* room for one; holds one while message_from is set */
};

/* -- peer.c -- */

/* Finds or opens a peer and counts it. Errors: PEER_UNREACHABLE, PROTOCOL, LIMIT, NO_MEMORY. */
weir_status wi_shm_peer_get(struct shm_iface *shm, const struct shm_name *name, struct shm_peer **peer);
void wi_shm_peer_put(struct shm_iface *shm, struct shm_peer *peer);

/* Tells the peer that there is something to do, and wakes it if it sleeps. */
void wi_shm_peer_notify(struct shm_peer *peer);

/* Wakes it if it sleeps: to be called after a sequentially consistent write of what it waits for. */
void wi_shm_peer_wake(struct shm_peer *peer);

/* Takes the word that says how the owner of a segment sleeps, and wakes it. */
void wi_shm_wake(uint32_t *sleeping, int wake_fd);

/* Looks after all peers when a few ms have passed since the last time; fails endpoints. Returns how many. */
unsigned wi_shm_check_peers(struct shm_iface *shm);

/* -- endpoint.c -- */
weir_status wi_shm_ep_create(struct wi_iface *iface, const void *address, size_t len, struct weir_ep **ep);
weir_status wi_shm_ep_connect(struct weir_ep *ep);
weir_status wi_shm_ep_reset(struct weir_ep *ep);
void wi_shm_ep_query(const struct weir_ep *ep, weir_ep_attr *attr);
void wi_shm_ep_close(struct weir_ep *ep);

/* Ends it with an error, and everything that is outstanding. */
void wi_shm_ep_fail(struct shm_ep *ep, weir_status status, const char *sentence);

/* Makes and announces the ring at first use. */
weir_status wi_shm_ep_need_ring(struct shm_ep *ep);

/* Adds to what is outstanding; the caller has checked that pending_count < SHM_PENDING_MAX. */
void wi_shm_ep_add_pending(struct shm_ep *ep, uint64_t *result, weir_comp *comp);

/* Is all that was posted so far complete? */
bool wi_shm_ep_is_flushed(const struct shm_ep *ep);

/* Ends operations that were answered. Returns how many. */
unsigned wi_shm_ep_poll(struct shm_ep *ep);

/* -- channel.c -- */

/* After the doorbell: accepts new channels, answers requests, drops ended channels. */
void wi_shm_channels_scan(struct shm_iface *shm);
void wi_shm_channels_close(struct shm_iface *shm);
struct wi_msg *wi_shm_msg_peek(struct wi_iface *iface);
void wi_shm_msg_pop(struct wi_iface *iface);

/* -- memory.c -- */
weir_status wi_shm_mem_register(struct wi_iface *iface, const struct wi_mem_desc *desc, struct wi_mr **mr);
void wi_shm_mem_deregister(struct wi_mr *mr);
weir_status wi_shm_mem_export(struct wi_mr *mr, const void *addr, size_t len, void *blob, size_t *blob_len);
weir_status wi_shm_rkey_import(struct weir_ep *ep, const void *blob, size_t blob_len, uint64_t addr, uint64_t len,
                               struct weir_rkey **rkey);
void wi_shm_rkey_destroy(struct weir_rkey *rkey);
weir_status wi_shm_rkey_map(struct weir_rkey *rkey, uint64_t remote_addr, size_t len, void **ptr);

/* Unmaps what nobody uses; all: whatever is there. */
void wi_shm_mappings_trim(struct shm_peer *peer, bool all);

/* -- operation.c -- */
weir_status wi_shm_put(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_shm_get(struct weir_ep *ep, void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_shm_put_signal(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                              struct weir_rkey *rkey, uint32_t signal, weir_comp *comp);
weir_status wi_shm_fetch_add(struct weir_ep *ep, uint64_t value, uint64_t *result, struct wi_mr *mr,
                             uint64_t remote_addr, struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_shm_send(struct weir_ep *ep, const void *data, size_t len);
weir_status wi_shm_flush(struct weir_ep *ep, weir_comp *comp);

#endif
