/*
 * What the files of this backend share.
 *
 * A connection takes no step of the target: the initiator opens the target's segment and, for pool memory, its slabs,
 * and reads and writes them directly. Only messages, and fetch_add on memory that cannot be mapped, go through a ring
 * in the initiator's segment, which is announced in the target's table at first use.
 *
 * There may be thousands of peers, of which few do something at a time: whatever happens often touches only those.
 *
 * iface.c: life, progress, sleeping. peer.c: other processes, are they alive. endpoint.c: what is outstanding.
 * channel.c: rings of others that we read. memory.c: regions and keys. operation.c: put, get and so on.
 */
#ifndef WI_SHM_SHM_H
#define WI_SHM_SHM_H

#include "core/list.h"
#include "core/map.h"
#include "transport/ops.h"
#include "transport/shm/segment.h"

#include <sys/types.h>

/* Another process that we know: counted by endpoints, channels, and rings it may still read. */
struct shm_peer {
    struct wi_list all;      /* of the interface; the one that was looked after last is at the end */
    struct wi_map_node node; /* by its cookie */
    uint32_t refs;
    struct shm_name name;
    struct shm_segment segment;
    int wake_fd;
    int pidfd;  /* -1: the kernel has none; it is then looked up in /proc */
    bool gone;  /* ended, or its context was closed */
    bool ended; /* its process has ended */
    struct shm_mapping *mappings;
    struct wi_list eps;      /* to it */
    struct wi_list channels; /* from it */
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

/* A ring of our segment: an endpoint's; or left, while the peer may still read it; or free. */
struct shm_own_ring {
    struct wi_list link; /* left or free: in that list */
    struct shm_ring *ring;
    struct shm_ep *ep;
    struct shm_peer *reader; /* left: who may read it, counted */
};

/* A ring of a peer's, being read. */
struct shm_channel {
    struct wi_list all;     /* of the interface */
    struct wi_list of_peer; /* of the peer's */
    struct wi_list ready;   /* in the queue of those that have messages */
    struct shm_peer *peer;
    struct shm_channel_slot *slot;
    struct shm_ring_view view;
    uint64_t peer_id;
    uint32_t ring;             /* its number at the peer */
    uint32_t stream, again;    /* as in the slot */
    struct shm_channel *after; /* of the same stream, from before it was connected again: to be read first */
};

struct shm_mr {
    struct wi_mr base;
    struct wi_mem_desc desc;
    uint32_t slot; /* in the segment's table of generations */
    uint64_t generation;
    uint64_t inode; /* of desc.fd */
};

/* A range that was exported, with a slot and generation of its own. */
struct shm_export {
    struct wi_export base;
    struct shm_iface *shm;
    uint64_t addr, len;
    uint32_t slot;
    uint64_t generation;
};

struct shm_rkey {
    struct weir_rkey base;
    struct shm_mapping *mapping;    /* NULL: ordinary memory */
    unsigned char *ptr;             /* mapped: where base.addr lies here */
    const uint64_t *generation_now; /* in the peer's table */
    uint64_t generation;
    uint32_t slot;
};

/* An operation that the target has to answer: a request, or a flush behind requests and messages. */
struct shm_pending {
    uint64_t request; /* done when the target has answered so many */
    uint64_t *result; /* NULL: a flush */
    weir_comp *comp;
};

enum {
    SHM_PENDING_MAX = 2 * SHM_RING_REQUESTS,
    SHM_FEW = 4, /* so many are looked at all, which is quicker than finding out which of them has called */
};

struct shm_ep {
    struct weir_ep base;
    struct wi_list all;     /* of the interface */
    struct wi_list of_peer; /* of the peer's */
    struct wi_list waiting; /* with something pending */
    struct shm_iface *shm;
    struct shm_peer *peer;
    uint32_t posts;         /* counts towards the next look at the clock */
    uint32_t stream, again; /* names the endpoint at the target; how often it was connected before */

    const void *copied; /* source of the last long copy, see copy.c */
    bool copied_backwards;

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
    size_t copy_bound; /* from this length on copies are long, see copy.c */

    uint32_t doorbell_seen, announced_seen;
    uint32_t turns; /* calls of progress, towards the next look at the clock */
    bool check_now; /* time has passed: look after the peers at the next progress */
    uint64_t checked_ns;

    struct wi_list peers;
    struct wi_map peers_by_cookie;
    uint32_t peer_count;
    struct wi_list eps;
    uint32_t next_stream;
    struct wi_list waiting; /* endpoints with something pending */
    uint32_t waiting_count;
    struct wi_list channels;
    uint32_t channel_count;
    uint32_t followers;              /* channels that wait for an earlier one of their stream */
    struct shm_channel **by_slot;    /* SHM_CHANNEL_MAX, by place in our table */
    struct shm_own_ring *rings;      /* SHM_RING_MAX, by index */
    struct wi_list left, free_rings; /* of these */
    uint32_t fresh_ring;             /* from here on they were never used */

    struct shm_export **exports; /* SHM_SLOT_MAX, by slot; NULL: free, or a region's */
    uint32_t *free_slots;        /* stack of those that were used before */
    uint32_t free_slot_count, fresh_slot;

    struct wi_list ready; /* channels with messages, in the order of their turn */
    struct shm_channel *message_from;
    struct wi_msg *message; /* room for one; holds one while message_from is set */
};

/* -- copy.c -- */

/* The length from which on copies are better made by wi_shm_copy_long(). */
size_t wi_shm_copy_bound(void);

/* Copies without overlap; the last bytes come last, the order of the others is not defined. */
void wi_shm_copy_long(struct shm_ep *ep, void *to, const void *from, size_t len);

/* -- peer.c -- */

/* Finds or opens a peer and counts it. Errors: PEER_UNREACHABLE, PROTOCOL, LIMIT, NO_MEMORY. */
weir_status wi_shm_peer_get(struct shm_iface *shm, const struct shm_name *name, struct shm_peer **peer);
void wi_shm_peer_put(struct shm_iface *shm, struct shm_peer *peer);

/* Has its process ended or closed its context, whether or not polling has found that yet? Asks the system. */
bool wi_shm_peer_has_left(const struct shm_peer *peer);

/* Tells the peer that there is something to do, what for (segment.h), and wakes it if it sleeps. */
void wi_shm_peer_call(struct shm_peer *peer, uint32_t whom);

/* Wakes it if it sleeps: to be called after a sequentially consistent write of what it waits for. */
void wi_shm_peer_wake(struct shm_peer *peer);

/* Takes the word that says how the owner of a segment sleeps, and wakes it. */
void wi_shm_wake(uint32_t *sleeping, int wake_fd);

/*
 * When a few ms have passed since the last time: finds out which processes have ended, and looks after some of the peers,
 * in turn. Fails endpoints; returns how many.
 */
unsigned wi_shm_check_peers(struct shm_iface *shm);

/* -- endpoint.c -- */
weir_status wi_shm_ep_create(struct wi_iface *iface, const void *address, size_t len, struct weir_ep **ep);
weir_status wi_shm_ep_connect(struct weir_ep *ep);
weir_status wi_shm_ep_reset(struct weir_ep *ep);
void wi_shm_ep_query(const struct weir_ep *ep, weir_ep_attr *attr);
void wi_shm_ep_close(struct weir_ep *ep);

/* Ends it with an error, and everything that is outstanding. */
void wi_shm_ep_fail(struct shm_ep *ep, weir_status status, const char *sentence);

/* Ends it where its peer was found to have left. Returns the endpoint's error, with its sentence. */
weir_status wi_shm_ep_left(struct shm_ep *ep);

/* Makes and announces the ring at first use. */
weir_status wi_shm_ep_need_ring(struct shm_ep *ep);

/* Calls the target about the endpoint's channel. */
void wi_shm_ep_call(struct shm_ep *ep);

/* Frees rings that were left and read to their end, looking at so many of those that were left. */
void wi_shm_rings_collect(struct shm_iface *shm, uint32_t looks);

/* Adds to what is outstanding; the caller has checked that pending_count < SHM_PENDING_MAX. */
void wi_shm_ep_add_pending(struct shm_ep *ep, uint64_t *result, weir_comp *comp);

/* Is all that was posted so far complete? */
bool wi_shm_ep_is_flushed(const struct shm_ep *ep);

/* Ends operations that were answered. Returns how many. */
unsigned wi_shm_ep_poll(struct shm_ep *ep);

/* The same of all endpoints. */
unsigned wi_shm_eps_poll(struct shm_iface *shm);

/* -- channel.c -- */

/* The doorbell has been rung: looks after who has called, of channels and of endpoints that wait. */
void wi_shm_calls_answer(struct shm_iface *shm, uint32_t doorbell);

/* Looks at all channels of a peer: answers requests, notes messages, drops those that have ended. */
void wi_shm_peer_channels_look(struct shm_iface *shm, struct shm_peer *peer);
void wi_shm_channels_close(struct shm_iface *shm);
struct wi_msg *wi_shm_msg_peek(struct wi_iface *iface);
void wi_shm_msg_pop(struct wi_iface *iface);

/* -- memory.c -- */
weir_status wi_shm_mem_register(struct wi_iface *iface, const struct wi_mem_desc *desc, struct wi_mr **mr);
void wi_shm_mem_deregister(struct wi_mr *mr);
weir_status wi_shm_mem_export(struct wi_mr *mr, const void *addr, size_t len, void *blob, size_t *blob_len,
                              struct wi_export **export);
bool wi_shm_mem_unexport(struct wi_export *export);
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
