/*
 * What the files of the verbs backend share.
 *
 * An interface has one completion queue and one shared receive queue. An endpoint is a reliable connection made by the
 * initiator; at the target a link stands for it, which receives, and sends no more than credits. So two contexts that
 * reach each other both have two queue pairs, one a direction.
 */
#ifndef WI_VERBS_H
#define WI_VERBS_H

#include "core/list.h"
#include "core/map.h"
#include "transport/ops.h"
#include "transport/verbs/wire.h"

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

/* wr_id: of receives all ones; of an endpoint's sends its handle and the slot's sequence number; of a link's sends the
 * uppermost bit, its serial number and that of its queue pair. */
#define WI_VERBS_RECEIVED (~0ull)
#define WI_VERBS_REPLIED  (1ull << 63)

enum {
    WI_VERBS_CQ_DEPTH = 16384, /* at least, if the device can */
    WI_VERBS_CQ_LOW = 2048,
    WI_VERBS_REPLY_DEPTH = 32, /* sends of a link at a time */
    WI_VERBS_EXPORT_BUCKETS = 1024,
    WI_VERBS_LIST = 8, /* operations that are given to the device at once, at most; longer ones hold up the target */
    WI_VERBS_BURST = 2, /* so many go at once, see doorbell.c */
    WI_VERBS_WINDOWS_MAX = 65536, /* of one connection */
};

/* ---- Device (device.c) ------------------------------------------------------------------------------------------- */

/* A device and port, and the IP addresses by which the connection manager finds them. */
struct verbs_choice {
    char device[64];
    uint8_t port;
    uint8_t slot;          /* place in WEIR_DEVICE */
    uint8_t addresses_max; /* that may be listened at */
    bool hinted;           /* only at those that fit `hint` */
    char hint[64];         /* the interface or address that was asked for */
    struct wi_verbs_address address;
};

struct verbs_device {
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_comp_channel *wakeups;
    struct ibv_cq *cq;
    struct ibv_srq *srq;
    uint64_t max_piece; /* longest single operation */
    uint32_t write_packets; /* of a single write at most, 0: no such limit; see queue.c */
    uint64_t speed;     /* of the port, in units of 2.5 Gb/s */
    enum ibv_mtu mtu;   /* the port's, in force; looked at anew for each connection */
    uint32_t max_depth; /* send queue entries a queue pair can have */
    uint8_t max_reads;  /* reads and atomics outstanding, as initiator */
    uint8_t max_served; /* and as target */
    bool atomics;
    bool lists_only;    /* its driver has no ibv_wr_*, or they are switched off */
    bool windows;       /* it has windows of type 2, and they are not switched off */
    bool spare_entry;   /* its queues have a power of two entries, one of which stays free */
    bool loose_windows; /* it looks at the bounds of a window's region instead of the window's */
    bool binds_again;   /* with a write that it sends again, it binds the windows behind that anew, see window.c */
    bool loose_atomics; /* it may end an atomic well without its result, see queue.c */
    uint64_t no_result; /* then: a random mark of words that wait for one */
    uint32_t srq_depth, cq_depth;
    uint32_t srq_free; /* entries that are no link's share, see wire.h */
};

/*
 * Finds the devices and ports that WEIR_DEVICE, `bind_address` (may be NULL) and WEIR_INTERFACE ask for: one, unless
 * WEIR_DEVICE lists several.
 */
weir_status wi_verbs_choose(const char *bind_address, struct verbs_choice choices[WI_VERBS_RAILS_MAX], unsigned *count);
/* The addresses that the device has now, ports left out. */
weir_status wi_verbs_addresses(const struct verbs_choice *choice, struct wi_verbs_address *address);
weir_status wi_verbs_device_open(struct verbs_device *device, const struct verbs_choice *choice);
void wi_verbs_device_close(struct verbs_device *device); /* safe on a half-open one */

/* How many gaps targets told the port of since its driver was loaded, 0 where it does not count them (gaps.c). */
uint64_t wi_verbs_gaps(const struct verbs_choice *choice);

/* ---- Memory (memory.c) ------------------------------------------------------------------------------------------- */

/* A range of a region that was exported. Who knows the token may have windows on it, where there are such. */
struct verbs_export {
    struct wi_export base;
    struct verbs_iface *iface;
    uint64_t region; /* the region's number */
    uint64_t addr, len;
    uint64_t token[2];
    struct ibv_mr *mr;            /* what windows are bound to, or peers reach: the region's, or one of just this range */
    bool own_mr;                  /* the latter */
    struct verbs_window *windows; /* through export_next */
    struct verbs_export *hash_next; /* by token */
};

struct verbs_mr {
    struct wi_mr base;
    struct ibv_mr *mr;
    uint64_t id; /* names it in keys */
    uint64_t addr, len;
    bool device;     /* memory of a device: nothing but the adapter touches it */
    int dmabuf;      /* device memory: its dma-buf, and where in that it begins */
    uint64_t offset;
};

/* ---- Connections (cm.c) ------------------------------------------------------------------------------------------ */

/* What a connection manager id or queue pair belongs to: the first thing behind its context pointer. */
struct verbs_end {
    enum { VERBS_LISTENER, VERBS_EP, VERBS_LINK } kind;
    struct rdma_cm_id *id;
    struct ibv_qp *qp;
    enum ibv_mtu mtu; /* of its path, once it is up */
};

/* The target's side of a connection. It lives on after the peer has gone until its messages were taken. */
struct verbs_link {
    struct verbs_end end;
    uint64_t peer_id;
    uint64_t from;                  /* the initiator's interface, */
    uint32_t stream, again;         /* which of its endpoints, and how often that was connected before */
    bool established;               /* the initiator can take something */
    struct verbs_link *after;       /* of the same stream, from before: its messages come first */
    struct wi_list all;             /* of the interface; the one that was kept alive last is at the end */
    struct wi_map_node of_stream;   /* by `from` and `stream` */
    struct wi_map_node by_qp;       /* while it receives */
    uint32_t qp_num;
    unsigned char *ring;
    struct ibv_mr *ring_mr;
    uint64_t position;                        /* of the next message to take */
    uint32_t arrived;                         /* messages that can be taken */
    struct verbs_link *turn_next, *turn_prev; /* links with messages, in the order of their turn */

    /* What the initiator is told by writes into its words; see credit.c. */
    uint64_t words_addr;
    uint32_t words_rkey;
    uint32_t share, reserved; /* of the shared receive queue, and what of it counts as taken from srq_free */
    uint64_t received;        /* immediates */
    uint64_t granted;         /* immediates that the initiator was allowed so far */
    uint64_t told_position;
    bool owes; /* in the list of those that have something to tell */
    struct verbs_link *owes_next;

    uint32_t asked; /* request slots to serve, one bit each */
    struct verbs_window *windows;
    uint32_t window_count;

    struct verbs_group *group; /* several devices: the links of the same endpoint */
    uint32_t serial;
    uint32_t replies_posted, replies_done;
    uint64_t failed_ns;
    bool failed; /* one of them has failed */

    struct wi_list unheard; /* in the list of links whose initiators are not up yet */
    uint64_t nonce;    /* of the offer, until its initiator is up; else 0 */
    uint64_t offer_ns; /* when it was taken */
};

/* ---- Sending (queue.c) ------------------------------------------------------------------------------------------- */

enum verbs_kind {
    VERBS_PUT,
    VERBS_GET,
    VERBS_PUT_SIGNAL,
    VERBS_FETCH_ADD,
    VERBS_SEND,
    VERBS_REQUEST,
    VERBS_FLUSH,
    VERBS_SETTLE,
    VERBS_PROBE
};

/* One operation; long ones are posted in pieces. */
struct verbs_op {
    enum verbs_kind kind;
    uint32_t lkey;
    uint32_t rkey;
    uint32_t imm;
    bool device; /* `local` is no address of ours, see verbs_mr */
    const void *local;
    uint64_t len;
    uint64_t remote_addr;
    uint64_t value;   /* fetch_add: what is added */
    uint64_t *result; /* fetch_add: where the result is copied to from the bounce word, or NULL */
    weir_comp *comp;
};

/* What is to be done when a posted operation ends. */
struct verbs_slot {
    weir_comp *comp;
    weir_comp *flush; /* a flush that rides on this operation */
    uint64_t *result;
    uint8_t kind;
    bool signaled;
};

/* Operations that were posted, but not given to the device yet; see doorbell.c. */
struct verbs_list {
    uint32_t count;
    struct ibv_send_wr wrs[WI_VERBS_LIST];
    struct ibv_sge sges[WI_VERBS_LIST];
    unsigned char copies[]; /* of what goes inline, max_inline bytes each */
};

/* A key of a peer's memory; see key.c. */
struct verbs_rkey {
    struct weir_rkey base;
    enum { VERBS_KEY_READY, VERBS_KEY_NEW, VERBS_KEY_ASKED, VERBS_KEY_REFUSED, VERBS_KEY_GIVEN_UP } state;
    uint32_t rkey;  /* valid when ready */
    uint8_t answer; /* refused: a wi_verbs_answer_status */
    bool window;
    uint64_t region, addr, len;
    uint64_t token[2];
    struct verbs_rkey *next, *prev; /* keys of the endpoint that are windows */
    struct verbs_rkey *todo_next;   /* those that wait to be asked for or given back */
};

struct verbs_ep {
    struct weir_ep base;
    struct verbs_end end;
    struct verbs_iface *iface;

    struct verbs_slot *slots; /* of sequence number n: slots[n & mask] */
    uint32_t mask;
    uint32_t depth;
    uint32_t head, tail; /* sequence numbers: next to post, oldest outstanding */
    uint32_t written;    /* `head` after the last write was posted */
    uint32_t handle;
    uint32_t period;     /* one in so many operations is signaled at least */
    uint32_t unsignaled; /* posted since the last signaled one */
    uint32_t max_inline;
    uint64_t max_write; /* longest single write */
    struct ibv_qp_ex *qp_ex; /* of its queue pair, for ibv_wr_*; NULL: it is posted to by lists */

    struct verbs_list *list;
    uint32_t burst_round, burst; /* operations posted since the last call of progress() */
    bool held;                   /* the list is not empty */
    struct verbs_ep *held_next;

    struct verbs_op rest; /* an operation of which not all was posted yet: it is long, or has to wait */
    bool has_rest;
    struct verbs_ep *rest_next;

    /* Messages; see wire.h. */
    unsigned char *block; /* registered: copies of entries on their way, words that the target writes, bounce words */
    struct ibv_mr *block_mr;
    uint64_t ring_addr;
    uint32_t ring_rkey;
    uint64_t position, taken;
    uint64_t announced, granted; /* immediates sent, and allowed so far */

    bool relaxed;     /* writes reach the target's memory in any order */
    uint32_t settled; /* those before this sequence number are behind a read, see wi_verbs_flush() */

    /* Windows; see key.c. */
    struct verbs_rkey *keys;
    struct verbs_rkey *todo, **todo_end;
    struct verbs_rkey *requests[WI_VERBS_REQUESTS]; /* on whose behalf a slot is in use, NULL: free */
    uint8_t sequences[WI_VERBS_REQUESTS];
    uint8_t sequence;
    uint32_t requested; /* slots in use */
    bool asking;        /* in the list of those with keys to ask for or answers to come */
    struct verbs_ep *asking_next;

    struct ibv_wc suspect; /* the target refused this; it may be dying, see completion.c */
    uint64_t suspect_ns;   /* since when, 0: not so */

    uint8_t peer_slot;               /* place of the peer's device in its WEIR_DEVICE */
    weir_comp probe;                 /* a write of nothing, see keepalive.c */
    uint32_t head_seen;              /* `head` at the last look */
    bool connecting;                 /* counted by the interface */
    uint32_t stream, again;          /* names the endpoint at the target; how often it was connected before */
    struct wi_verbs_address address; /* of the peer */
    unsigned attempt;                /* index of the address in use */

    /* Connecting through an exchange; see offer.c. */
    enum { VERBS_OFFER_NONE, VERBS_OFFER_MADE, VERBS_OFFER_STORED } offer;
    struct wi_list offering; /* in the list of endpoints with an offer under way */
    struct wi_verbs_path path; /* our own */
    uint64_t nonce, offer_ns;
};

struct verbs_iface {
    struct wi_iface base;
    struct verbs_device device;
    struct verbs_choice choice;

    struct rdma_event_channel *channel;
    struct verbs_end listeners[WI_VERBS_ADDRESS_MAX];
    int epoll_fd;
    bool armed;              /* the completion queue will make an event */
    unsigned events_unacked; /* of the completion channel */
    bool look_now;           /* look at the slow descriptors in the next progress() */
    uint32_t turns;          /* calls of progress() */
    uint64_t look_ns;        /* when the slow descriptors were looked at last */
    uint64_t kept_ns;        /* when idle connections were looked at last */
    uint32_t kept_ep;        /* the endpoint that is next */
    uint32_t kept_eps_rest, kept_links_rest; /* less than one that is due */
    uint32_t connecting;     /* endpoints that are not connected yet */
    uint32_t suspects;       /* endpoints that wait for more news of their failure */
    uint32_t next_stream;
    uint32_t endings; /* of endpoints */
    bool port_down, addresses_changed;
    bool receives_low; /* they were once */
    uint64_t port_down_ns; /* since when */
    char lost[64];               /* what has become of the device, "": nothing */
    uint64_t gaps_before;        /* that targets told of before it was opened */
    uint64_t gaps_seen;          /* and by the last look */
    uint32_t lossy_looks;        /* that packets count as being lost for */
    const weir_exchange *exchange; /* what connections are made through; NULL: the connection manager */
    bool exchange_over;            /* it has failed */
    uint32_t offers_taken; /* places of its queue that were seen, */
    uint32_t offers_ahead; /* and of those behind, a bit each */
    struct wi_list offering;     /* endpoints that wait for an answer */
    struct wi_list unheard;      /* links whose initiators are not up yet */
    struct verbs_fences *fences; /* several devices: the context's, NULL: this is the only one */

    uint32_t cq_room;      /* completions that can still be outstanding */
    uint32_t cq_owed;      /* of ended queue pairs: come back when the queue was seen empty */
    uint32_t srq_used;     /* receives to post again */
    struct verbs_ep **eps; /* by index, the low half of a handle */
    uint32_t eps_room;
    uint32_t *eps_free; /* indices that are free, the next one last */
    uint32_t eps_free_count;
    uint16_t generation;
    struct verbs_ep *rests;   /* endpoints with a rest to post */
    struct verbs_ep *holding; /* endpoints with operations held back */
    uint32_t rounds;          /* calls of progress() */
    struct verbs_ep *asking;  /* endpoints with keys to ask for */
    struct verbs_export *exports[WI_VERBS_EXPORT_BUCKETS];

    struct wi_list links;
    uint32_t link_count;
    uint32_t followers; /* links that wait for an earlier one of their stream */
    struct wi_map links_by_stream, links_by_qp;
    struct verbs_link *link_last; /* found last by its queue pair, or NULL */
    struct verbs_link *owing;     /* links that have something to tell */
    uint32_t link_serial;
    uint32_t links_failed;     /* of their sends one has failed: their ends are looked for */
    struct verbs_link *turn;   /* whose message is next; ring through turn_next */
    struct verbs_link *peeked; /* whose message is in `msg`, NULL: none */
    struct wi_msg *msg;
};

static inline struct verbs_iface *verbs_iface(struct wi_iface *iface)
{
    return (struct verbs_iface *)iface;
}

static inline struct verbs_ep *verbs_ep(struct weir_ep *ep)
{
    return (struct verbs_ep *)ep;
}

/* A word that the target writes. */
static inline uint64_t *wi_verbs_word(const struct verbs_ep *ep, unsigned index)
{
    return (uint64_t *)(void *)(ep->block + WI_VERBS_LINK_BYTES) + index;
}

/* Opens one device. `signals` and `fences` are the context's where there are several, else NULL (verbs.c). */
weir_status wi_verbs_open_one(const struct wi_iface_params *params, const struct verbs_choice *choice,
                              uint64_t *signals, struct verbs_fences *fences, struct verbs_iface **iface);

/* Opens what WEIR_DEVICE asks for, one or several (rails.c). */
weir_status wi_verbs_open(const struct wi_iface_params *params, struct wi_iface **iface);

/* What a context with one device says and hears: lists with one part, or with more where the peer has more (list.c). */
weir_status wi_verbs_list_address(struct wi_iface *iface, void *buf, size_t *len);
weir_status wi_verbs_list_ep_create(struct wi_iface *iface, const void *address, size_t len, struct weir_ep **ep);
weir_status wi_verbs_list_export(struct wi_mr *mr, const void *addr, size_t len, void *blob, size_t *blob_len,
                                 struct wi_export **export);
weir_status wi_verbs_list_import(struct weir_ep *ep, const void *blob, size_t blob_len, uint64_t addr, uint64_t len,
                                 struct weir_rkey **rkey);

weir_status wi_verbs_listen(struct verbs_iface *iface);
void wi_verbs_unlisten(struct verbs_iface *iface);
void wi_verbs_listen_anew(struct verbs_iface *iface); /* its addresses have changed (listen.c) */
unsigned wi_verbs_cm_progress(struct verbs_iface *iface);
weir_status wi_verbs_address(struct wi_iface *iface, void *buf, size_t *len);

/* Starts connecting to the peer's address number ep->attempt, or a later one. */
weir_status wi_verbs_connect(struct verbs_ep *ep);

/* Ends connection and queue pair; what is in flight is over when this returns. Safe to call twice. */
void wi_verbs_end(struct verbs_end *end);

/* Takes a queue pair from its birth to where it sends and receives (qp.c). `peer_mtu`: of the peer's port, 0: it is not
 * known. */
weir_status wi_verbs_qp_up(struct verbs_iface *iface, struct verbs_end *end, unsigned access, uint64_t peer_id,
                           uint32_t peer_mtu);

/* The same without the connection manager, by what both sides told each other. */
weir_status wi_verbs_qp_up_by_hand(struct verbs_iface *iface, struct verbs_end *end, unsigned access, uint64_t peer_id,
                                   const struct wi_verbs_path *own, const struct wi_verbs_path *peer);

/* The GID and LID by which peers reach the port: a GID of RoCE v2 that carries an address of the interface, of the family
 * of `like` where that is given. */
weir_status wi_verbs_own_gid(const struct verbs_iface *iface, const struct wi_verbs_path *like,
                             struct wi_verbs_path *path);

/* What both ways of connecting share (cm.c). */
void wi_verbs_hello_of(const struct verbs_ep *ep, struct wi_verbs_hello *hello);
void wi_verbs_welcome_of(const struct verbs_iface *iface, const struct verbs_link *link,
                         struct wi_verbs_welcome *welcome);
unsigned wi_verbs_link_access(const struct verbs_iface *iface); /* what a link's queue pair allows its initiator */
void wi_verbs_connected(struct verbs_ep *ep, const struct wi_verbs_welcome *welcome);
void wi_verbs_connect_failed(struct verbs_ep *ep, weir_status status, const char *why);

/* ---- Connections through an exchange (offer.c) --------------------------------------------------------------------- */

weir_status wi_verbs_offer(struct verbs_ep *ep);   /* starts connecting */
void wi_verbs_offer_end(struct verbs_ep *ep);      /* gives it up; safe on any endpoint */
void wi_verbs_offer_question(struct verbs_ep *ep); /* asks the target of a suspect whether it is there */
void wi_verbs_offer_heard(struct verbs_iface *iface, struct verbs_link *link); /* the initiator is up, or the link ends */
unsigned wi_verbs_offers_progress(struct verbs_iface *iface);
void wi_verbs_offers_close(struct verbs_iface *iface);

/* ---- Events of the device (events.c) ----------------------------------------------------------------------------- */

unsigned wi_verbs_events(struct verbs_iface *iface); /* handles what is there; returns how many */

/* Has the device tell when but a quarter of the receives are left. */
void wi_verbs_receives_watch(struct verbs_iface *iface);

/* Ends all endpoints: the device is no more. `why` follows its name, e.g. "was removed". */
void wi_verbs_device_lost(struct verbs_iface *iface, const char *why);

/* Has the port been down for less than a quarter of WEIR_TIMEOUT? Asks the device. */
bool wi_verbs_port_pauses(struct verbs_iface *iface, uint64_t now_ns);

/* May a connection be made? WEIR_ERR_NO_DEVICE: the device is lost, or its port down. */
weir_status wi_verbs_usable(struct verbs_iface *iface);

/* ---- Endpoints (endpoint.c) -------------------------------------------------------------------------------------- */

weir_status wi_verbs_ep_create(struct wi_iface *iface, const void *address, size_t len, struct weir_ep **ep);
weir_status wi_verbs_ep_connect(struct weir_ep *ep);
weir_status wi_verbs_ep_reset(struct weir_ep *ep);
void wi_verbs_ep_query(const struct weir_ep *ep, weir_ep_attr *attr);
void wi_verbs_ep_close(struct weir_ep *ep);
void wi_verbs_ep_path(const struct weir_ep *ep, char *text, size_t size); /* path.c */

/* Ends a failed endpoint's connection and its outstanding operations. Call wi_ep_fail() before. */
void wi_verbs_ep_abandon(struct verbs_ep *ep);

/* ---- Links (link.c) ---------------------------------------------------------------------------------------------- */

weir_status wi_verbs_link_create(struct verbs_iface *iface, struct rdma_cm_id *id, const struct wi_verbs_hello *hello,
                                 struct verbs_link **link);
void wi_verbs_link_ready(struct verbs_iface *iface, struct verbs_link *link); /* its queue pair can receive */
void wi_verbs_link_gone(struct verbs_iface *iface, struct verbs_link *link);  /* its peer has gone */
void wi_verbs_links_free(struct verbs_iface *iface);
struct verbs_link *wi_verbs_link_find(struct verbs_iface *iface, uint32_t qp_num); /* NULL: it is gone */
void wi_verbs_link_message(struct verbs_iface *iface, struct verbs_link *link);    /* one has arrived */
void wi_verbs_links_end_failed(struct verbs_iface *iface);
struct wi_msg *wi_verbs_msg_peek(struct wi_iface *iface);
void wi_verbs_msg_pop(struct wi_iface *iface);

/* ---- Signals that wait for other devices (fence.c); see rails.h -------------------------------------------------- */

struct verbs_fences *wi_verbs_fences_create(uint64_t *signals, uint32_t signal_count); /* NULL: out of memory */
void wi_verbs_fences_destroy(struct verbs_fences *fences);                             /* all links have left */
weir_status wi_verbs_fence_join(struct verbs_fences *fences, struct verbs_link *link);
void wi_verbs_fence_leave(struct verbs_fences *fences, struct verbs_link *link);

/* A signal or token has arrived on the device at place `slot`. False: more of them wait than the protocol allows. */
bool wi_verbs_fence_signal(struct verbs_fences *fences, struct verbs_link *link, unsigned slot, uint32_t imm);

/* ---- Credits (credit.c) ------------------------------------------------------------------------------------------ */

void wi_verbs_credit_open(struct verbs_iface *iface, struct verbs_link *link);  /* takes the link's share */
void wi_verbs_credit_close(struct verbs_iface *iface, struct verbs_link *link); /* gives it back */
void wi_verbs_credit_used(struct verbs_iface *iface, struct verbs_link *link);  /* an immediate has arrived */
void wi_verbs_credit_taken(struct verbs_iface *iface, struct verbs_link *link); /* a message was taken */

void wi_verbs_credit_tell(struct verbs_iface *iface, struct verbs_link *link); /* what the peer may send by now */

/* The initiator's side: may one more immediate be sent? */
bool wi_verbs_credit_left(struct verbs_ep *ep);

/* ---- Replies: what a target sends (reply.c) ---------------------------------------------------------------------- */

/* The link has something to tell its initiator: credits, or the answer to a request. */
void wi_verbs_owe(struct verbs_iface *iface, struct verbs_link *link);
void wi_verbs_owe_no_more(struct verbs_iface *iface, struct verbs_link *link);

/* Puts receives that were used up into the queue again, then tells what can be told. */
void wi_verbs_settle(struct verbs_iface *iface);

/* Is there room for `count` more? */
bool wi_verbs_reply_room(const struct verbs_iface *iface, const struct verbs_link *link, uint32_t count);

/* Writes `count` of the initiator's words from index `first` on. There must be room for one. */
void wi_verbs_reply(struct verbs_iface *iface, struct verbs_link *link, unsigned first, unsigned count,
                    const uint64_t *words);

/* Posts something else, with the same room. False: the connection has failed. */
bool wi_verbs_reply_post(struct verbs_iface *iface, struct verbs_link *link, struct ibv_send_wr *wr);
void wi_verbs_replied(struct verbs_iface *iface, const struct ibv_wc *wc);

/* ---- Posting (post.c) --------------------------------------------------------------------------------------------- */

/* Makes an endpoint's queue pair, and finds how much goes inline and by which calls it is posted to (WEIR_VERBS_POST). */
weir_status wi_verbs_qp_create(struct verbs_ep *ep);

/* Gives the device operations that are linked by `next`. Returns an errno. */
int wi_verbs_give(const struct verbs_ep *ep, struct ibv_send_wr *wrs);

/* ---- Doorbells (doorbell.c) -------------------------------------------------------------------------------------- */

/* Counts one more operation: are there so many that it may be held back? */
static inline bool wi_verbs_burst(struct verbs_ep *ep)
{
    if (ep->burst_round != ep->iface->rounds) {
        ep->burst_round = ep->iface->rounds;
        ep->burst = 0;
    }
    return ++ep->burst > WI_VERBS_BURST;
}

/* Holds the last one of the list back. False: the list is full. */
bool wi_verbs_hold(struct verbs_ep *ep);

/* The list is not among those that are held back any more. */
void wi_verbs_hold_no_more(struct verbs_ep *ep);

/* Gives the list to the device. Returns an errno. */
static inline int wi_verbs_ring(struct verbs_ep *ep)
{
    struct verbs_list *list = ep->list;
    uint32_t count = list->count;
    list->count = 0;
    if (ep->held)
        wi_verbs_hold_no_more(ep);
    if (count == 0 || !ep->end.qp)
        return 0;
    list->wrs[count - 1].next = NULL;
    return wi_verbs_give(ep, list->wrs);
}

void wi_verbs_hold_end(struct verbs_ep *ep);
void wi_verbs_ring_all(struct verbs_iface *iface);

/* ---- Queue (queue.c) --------------------------------------------------------------------------------------------- */

weir_status wi_verbs_put(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                         struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_verbs_get(struct weir_ep *ep, void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                         struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_verbs_put_signal(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len,
                                uint64_t remote_addr, struct weir_rkey *rkey, uint32_t signal, weir_comp *comp);
weir_status wi_verbs_fetch_add(struct weir_ep *ep, uint64_t value, uint64_t *result, struct wi_mr *mr,
                               uint64_t remote_addr, struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_verbs_send(struct weir_ep *ep, const void *data, size_t len);
weir_status wi_verbs_flush(struct weir_ep *ep, weir_comp *comp);

/* Sends a request to the target, through a slot that is free. */
weir_status wi_verbs_request(struct verbs_ep *ep, unsigned slot, const struct wi_verbs_request *request);

/* Ends all outstanding operations with a status; the queue pair is gone already. */
void wi_verbs_queue_end(struct verbs_ep *ep, weir_status status);

/* An operation ended well: `sequence` and all before it. False: not so, the endpoint has failed. */
bool wi_verbs_queue_retire(struct verbs_ep *ep, uint32_t sequence);

/* Looks whether packets get lost, now and then, and shortens writes while they do (gaps.c). */
void wi_verbs_gaps_look(struct verbs_iface *iface);

/* The longest single write on a connection that is up. */
uint64_t wi_verbs_longest_write(const struct verbs_ep *ep);

/* Writes nothing to the target, if there is room: its end, well or not, tells whether the target is there. */
void wi_verbs_queue_probe(struct verbs_ep *ep);

/* Gives the device what was held back of an endpoint's operations. */
void wi_verbs_queue_ring(struct verbs_ep *ep);

/* Posts more of the long operations. */
void wi_verbs_queue_rests(struct verbs_iface *iface);

/* ---- Completions (completion.c) ---------------------------------------------------------------------------------- */

/* Handles what is in the completion queue; returns how many. */
unsigned wi_verbs_poll(struct verbs_iface *iface);

/* The same until it is empty, or was full once. */
void wi_verbs_drain(struct verbs_iface *iface);

/* Decides about endpoints whose target refused an access some time ago. */
void wi_verbs_suspects(struct verbs_iface *iface);

/* The same of one, when it was found out whether its target is alive. */
void wi_verbs_suspect_end(struct verbs_ep *ep, bool alive);
weir_status wi_verbs_receives_post(struct verbs_iface *iface); /* all that were used up */

/* ---- Idle connections (keepalive.c) ------------------------------------------------------------------------------ */

/* To be called now and then: finds out whether the peers of connections on which nothing happens are there. */
void wi_verbs_keepalive(struct verbs_iface *iface, uint64_t now_ns);

/* ---- Memory (memory.c), windows (window.c), keys (key.c) --------------------------------------------------------- */

weir_status wi_verbs_mem_register(struct wi_iface *iface, const struct wi_mem_desc *desc, struct wi_mr **mr);
weir_status wi_verbs_mem_register_dmabuf(struct wi_iface *iface, const struct wi_mem_desc *desc, struct wi_mr **mr);
void wi_verbs_mem_deregister(struct wi_mr *mr);
weir_status wi_verbs_mem_export(struct wi_mr *mr, const void *addr, size_t len, void *blob, size_t *blob_len,
                                struct wi_export **export);
bool wi_verbs_mem_unexport(struct wi_export *export);

/* The export that a request names, NULL: there is none. */
struct verbs_export *wi_verbs_export_find(struct verbs_iface *iface, const struct wi_verbs_request *request);

/* Registered memory of our own, in pages of its own. */
weir_status wi_verbs_block_create(struct verbs_iface *iface, size_t size, int access, const char *what,
                                  unsigned char **block, struct ibv_mr **mr);
void wi_verbs_block_destroy(unsigned char *block, size_t size, struct ibv_mr *mr);

/* The target's side: a window on an export, bound to a link's queue pair. */
void wi_verbs_window_asked(struct verbs_iface *iface, struct verbs_link *link, uint32_t slot); /* a request came */
void wi_verbs_windows_serve(struct verbs_iface *iface, struct verbs_link *link);
void wi_verbs_windows_revoke(struct verbs_iface *iface, struct verbs_export *export); /* no peer reaches it any more */
void wi_verbs_windows_end(struct verbs_link *link); /* before the link's queue pair goes */

/* The initiator's side. */
weir_status wi_verbs_rkey_import(struct weir_ep *ep, const void *blob, size_t blob_len, uint64_t addr, uint64_t len,
                                 struct weir_rkey **rkey);
void wi_verbs_rkey_destroy(struct weir_rkey *rkey);

/* What an operation gets whose key is not ready: WEIR_ERR_AGAIN, or why it never will be. */
weir_status wi_verbs_key_pending(struct verbs_ep *ep, const struct verbs_rkey *key);

/* Takes answers, and asks for what is still to be asked for. */
void wi_verbs_keys_progress(struct verbs_iface *iface);

/* The endpoint is connected: asks for what was imported before. */
void wi_verbs_keys_begin(struct verbs_ep *ep);

/* The connection is over: its windows are gone, and must be asked for anew over the next one. */
void wi_verbs_keys_end(struct verbs_ep *ep);

#endif
