/*
 * UCX backend: what its files share. Only transport/ucx includes this.
 *
 * One UCP worker an interface. Where UCX has RDMA lanes to a peer, puts and gets are UCP's. Elsewhere UCX would emulate
 * them by active messages that it carries out unchecked, and whose answer ends the process (ucs_fatal) when the
 * connection is lost meanwhile: there Weir sends its own (emulate.c). Signals, fetch_adds and control messages are
 * active messages always, so that a target checks all it is told. A signal goes through the lane for active messages
 * after the put it announces; lanes.c decides whether that keeps them in order or needs a fence.
 */
#ifndef WI_UCX_H
#define WI_UCX_H

#include "core/list.h"
#include "core/map.h"
#include "transport/ops.h"

#include <stddef.h>
#include <sys/socket.h>
#include <ucp/api/ucp.h>

#define WI_UCX_SLOTS           8192u /* operations under way on one interface */
#define WI_UCX_SLOTS_RESERVE   64u   /* of which this many are left for acknowledgements */
#define WI_UCX_WINDOW          64u   /* control messages a peer may have untaken at the target */
#define WI_UCX_QUESTIONS       64u   /* gets and fetch_adds of one endpoint that are not answered */
#define WI_UCX_PIECES          16u   /* of one endpoint's puts or gets with UCX */
#define WI_UCX_TCP_PIECE       (256u << 10)
#define WI_UCX_OTHER_PIECE     7900u       /* fits the packets of all others */
#define WI_UCX_TARGETS         16u         /* addresses of one peer */
#define WI_UCX_CONTEXT_ROOM    (32u << 20) /* address space that a context may take */
#define WI_UCX_CONNECTION_ROOM (16u << 20) /* and a connection, most of it the first one */

#define WI_UCX_CONTAINER(_ptr, _type, _member) ((_type *)(void *)((char *)(_ptr)-offsetof(_type, _member)))

/* One operation under way. UCX may hold it longer than its link lives: then `link` is NULL and nobody waits for it. */
struct wi_ucx_slot {
    struct wi_list node; /* first; in a list of its link, or (next) in the free list */
    struct wi_ucx_iface *iface;
    struct wi_ucx_link *link;
    weir_comp *comp;
    weir_status status;
    bool counted;    /* the comp counts it already */
    bool posted;     /* UCX will call back */
    uint64_t number; /* of the fence or the flush that it waits for or is */
    uint64_t asked;  /* flush: the question before it; question: its own number */

    /* An active message: `data_len` bytes of `data`, then `payload` if there is one. */
    unsigned id, data_len;
    const void *payload;
    size_t payload_len;
    unsigned char data[48];
    unsigned char *buffer; /* of the interface, to be given back with the slot */

    /* A put in pieces or a get. */
    struct wi_ucx_slot *whole; /* of a piece: what it is of */
    unsigned char *local;
    size_t len, moved;
    unsigned pieces; /* with UCX */
};

/* One UCP endpoint and what is known of its other side: the part that initiators and targets have in common. */
struct wi_ucx_link {
    struct wi_ucx_iface *iface;
    struct wi_list node;  /* in the interface's list of links */
    struct wi_list slots; /* posted operations */
    ucp_ep_h ucp;             /* NULL: none, or closed */
    uint64_t token;           /* names this link in messages of the peer */
    uint64_t peer_token;      /* names the peer's link in our messages */
    bool initiator;           /* embedded in a wi_ucx_ep, else in a wi_ucx_conn */
    struct wi_list todo;      /* waits to be served */
    struct wi_list clock;     /* has a clock running: connecting, not greeted, ended with operations under way */
    weir_status status; /* why it ended, WEIR_OK: it lives */
    ucs_status_t cause;
    uint64_t ended_ns;
};

/* Initiator's side. */
struct wi_ucx_ep {
    struct weir_ep base;
    struct wi_ucx_link link;

    struct sockaddr_storage targets[WI_UCX_TARGETS]; /* tried in turn until one answers with the right instance */
    unsigned target_count, target, rounds;
    uint32_t stream, again; /* names the endpoint at the target; how often it was connected before */
    bool target_refused;    /* the peer said that it is not the one we look for */
    bool target_undecided; /* in this round some target was silent or broke off: it may answer yet */
    uint64_t instance, begin_ns, attempt_ns;
    uint64_t again_ns; /* between two rounds: when the next one begins; else 0 */

    bool native;                 /* UCX has RDMA lanes to the peer */
    bool fenced;                 /* of these: a signal may overtake a put, a fence must come between */
    size_t piece;                /* of an emulated put */
    bool maps;                   /* UCX shares memory with the peer */
    struct wi_list deferred; /* puts and messages in order, that wait for a fence or for pieces before them */
    uint64_t fence_started, fence_done;

    struct wi_list flushes; /* in order */
    uint64_t flush_asked, flush_acked;
    bool unacked; /* messages were sent after the last flush message */

    uint64_t asked, answered; /* gets and fetch_adds that the peer answers, in order */
    uint64_t sent, taken;     /* control messages */
    struct wi_list questions;
    uint64_t refused, refused_told; /* puts that the peer refused: the flush tells */
};

/* What a target owes for a get or a fetch_add. */
struct wi_ucx_answer {
    uint64_t number, key, addr, len, moved;
    uint64_t value;
    bool is_get;
};

/* Target's side: made when a peer connects, ended with it. */
struct wi_ucx_conn {
    struct wi_ucx_link link;
    struct wi_map_node node; /* by its UCP endpoint; greeted: by its initiator's endpoint */
    uint64_t peer_id, accepted_ns;
    uint64_t peer_instance; /* the initiator's interface, */
    uint32_t stream;        /* and which of its endpoints */
    bool greeted, welcome_due, wanted;
    uint64_t flush_seen, flush_told;
    uint64_t received, taken, taken_told;
    uint64_t refused, refused_told;
    size_t piece;
    unsigned pieces; /* of answers, with UCX */
    struct wi_ucx_answer answers[WI_UCX_QUESTIONS];
    unsigned answer_first, answer_count;
};

struct wi_ucx_message {
    struct wi_ucx_message *free_next;
    uint64_t token; /* link it came from */
    struct wi_msg msg;
};

/*
 * Objects by numbers that are told to peers: an index in the low 20 bits, random ones above it. A number is the right
 * to name the object: whoever reaches UCX's port can send messages, but guesses no number.
 */
#define WI_UCX_TABLE_MAX (1u << 20)

struct wi_ucx_table {
    struct wi_ucx_entry {
        uint64_t number; /* free: index of the next one that is */
        void *object;    /* NULL: free */
    } * entries;
    uint32_t size, free; /* `size`: none is free */
};

#define WI_UCX_PORTS 32u

/* TCP ports that are listened on. */
struct wi_ucx_ports {
    unsigned count;
    uint16_t port[WI_UCX_PORTS];
};

static inline bool wi_ucx_has_port(const struct wi_ucx_ports *ports, uint16_t port)
{
    for (unsigned i = 0; i < ports->count; i++)
        if (ports->port[i] == port)
            return true;
    return false;
}

struct wi_ucx_iface {
    struct wi_iface base;
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_listener_h listener;
    int event_fd; /* UCX's own */
    uint16_t port;
    unsigned char family; /* 4 or 6: of the addresses that UCX has to do with, 0: any */
    uint64_t instance; /* tells this interface from all others at the same address */
    uint32_t next_stream;

    struct wi_list links;
    struct wi_ucx_table tokens; /* of links */
    struct wi_ucx_table exports;
    bool rdma; /* a peer has come through RDMA lanes: what it may reach it reaches by itself */

    struct wi_map conns;     /* of targets, see there */
    struct wi_list todo;     /* links to be served after UCX's progress */
    struct wi_list clocked;  /* links with a clock running */
    ucp_conn_request_h requests[128];
    unsigned request_count;
    bool closing; /* no connection is accepted any more */
    uint64_t watch_ns;
    struct wi_ucx_ports ports;
    unsigned silence_looks; /* at the process's connections that are still to be taken, see silence.c */
    uint64_t silence_ns;    /* when the last one was taken, and the pause after it */
    uint64_t silence_pause_ns;
    uint32_t turns;             /* calls of progress() since the last look at strangers */
    uint64_t strangers_ns;      /* when that was, */
    uint64_t strangers_next_ns; /* and when the next one may be, see strangers.c */

    struct wi_ucx_slot *slots;
    struct wi_list *slot_free;
    uint32_t slot_free_count;
    unsigned char *buffers, *buffer_free;

    struct wi_msg *msg_first, **msg_last;
    struct wi_ucx_message *msg_free;
};

struct wi_ucx_mr {
    struct wi_mr base;
    ucp_mem_h mem;
    unsigned char *addr;
    size_t len;
};

/* What a peer may reach by a key. */
struct wi_ucx_export {
    struct wi_export base;
    struct wi_ucx_iface *iface;
    unsigned char *addr;
    size_t len;
    uint64_t key; /* number in the table */
};

struct wi_ucx_rkey {
    struct weir_rkey base;
    ucp_rkey_h ucp; /* NULL until a native operation needs it */
    ucp_rkey_h map; /* NULL until it is mapped */
    uint32_t again; /* the endpoint's when `ucp` was made: it is for that connection */
    uint64_t key;
    size_t blob_len;
    unsigned char blob[];
};

/* ---- process.c ---- */
weir_status wi_ucx_process_check(void);   /* WEIR_ERR_UNSUPPORTED in a child after fork() where UCX does not work */
void wi_ucx_process_begin(void);          /* an interface is made */
void wi_ucx_process_end(void);            /* and has gone */
bool wi_ucx_fork_copies_registered(void); /* the kernel gives children copies of registered pages */

/* ---- settings.c ---- */
weir_status wi_ucx_settings(bool ipv6, ucp_config_t **config);   /* the user's, completed with ours; listen on IPv6? */
void wi_ucx_settings_done(void);                                 /* the context is made */
weir_status wi_ucx_error(ucs_status_t status, const char *what); /* with UCX's own last words */
weir_status wi_ucx_status(ucs_status_t status);
bool wi_ucx_protocols_known(void); /* do we know how this UCX picks lanes? */
bool wi_ucx_inside_known(void);    /* is it of a version whose inside we know: 1.15 or earlier? */
bool wi_ucx_shares_memory(void);   /* may it take shared memory? */

/* WEIR_ERR_LIMIT: a limit on address space leaves less than that for `what` (room.c). */
weir_status wi_ucx_room(uint64_t bytes, const char *what);

/* Calls `each` for the descriptors of this process; needs none itself (sockets.c). */
void wi_ucx_descriptors(void (*each)(int fd, void *arg), void *arg);

/* Our side's port of an IP socket; 0: it is something else. */
uint16_t wi_ucx_port_of(int fd);
bool wi_ucx_listens(int fd);

/* Ends connections that the listener has accepted and UCX has not told us of; at most 10 ms (drain.c). */
void wi_ucx_drain(struct wi_ucx_iface *iface);

/* How long a connection is idle before the kernel probes it, and the pause between two probes: whole seconds. */
uint64_t wi_ucx_probe_idle_ns(void);
uint64_t wi_ucx_probe_pause_ns(void);

/* ---- silence.c ---- */
void wi_ucx_silence_listeners(struct wi_ucx_ports *ports, const struct wi_ucx_ports *without); /* of this process */
void wi_ucx_silence_bound(struct wi_ucx_iface *iface); /* a connection was made: bound how long it may be silent */
void wi_ucx_silence_watch(struct wi_ucx_iface *iface, uint64_t now_ns);

/* ---- strangers.c ---- */
void wi_ucx_strangers_guard(struct wi_ucx_iface *iface); /* it listens: from now on garbage does not reach UCX */
void wi_ucx_strangers_watch(struct wi_ucx_iface *iface); /* ends connections that have said nothing */

/* ---- address.c ---- */
weir_status wi_ucx_address_write(const struct wi_ucx_iface *iface, unsigned char *buf, size_t *len);
weir_status wi_ucx_address_read(struct wi_ucx_ep *ep, const unsigned char *buf, size_t len);
weir_status wi_ucx_bind_address(const char *text, struct sockaddr_storage *address);
bool wi_ucx_is_loopback6(const struct sockaddr_storage *address);
socklen_t wi_ucx_sockaddr_len(const struct sockaddr_storage *address);
const char *wi_ucx_sockaddr_text(const struct sockaddr_storage *address, char *text, size_t size);

/* ---- link.c: slots, links, and their end ---- */
weir_status wi_ucx_pools_init(struct wi_ucx_iface *iface);
void wi_ucx_pools_fini(struct wi_ucx_iface *iface);
struct wi_ucx_slot *wi_ucx_slot_get(struct wi_ucx_link *link, weir_comp *comp);
void wi_ucx_slot_put(struct wi_ucx_slot *slot);
void wi_ucx_slot_end(struct wi_ucx_slot *slot, weir_status status);
void wi_ucx_slot_count(struct wi_ucx_slot *slot);
weir_status wi_ucx_slot_started(struct wi_ucx_slot *slot, ucs_status_ptr_t result, const char *what);
void wi_ucx_slot_done(void *request, ucs_status_t status, void *slot);
weir_status wi_ucx_link_init(struct wi_ucx_link *link, struct wi_ucx_iface *iface, bool initiator);
weir_status wi_ucx_link_rename(struct wi_ucx_link *link);
void wi_ucx_link_fini(struct wi_ucx_link *link);
weir_status wi_ucx_table_enter(struct wi_ucx_table *table, void *object, uint64_t *number);
void wi_ucx_table_remove(struct wi_ucx_table *table, uint64_t number);
void *wi_ucx_table_find(const struct wi_ucx_table *table, uint64_t number);
struct wi_ucx_link *wi_ucx_link_find(struct wi_ucx_iface *iface, uint64_t token, bool initiator);
void wi_ucx_link_close(struct wi_ucx_link *link);
void wi_ucx_link_abandon(struct wi_ucx_link *link, weir_status status);
void wi_ucx_link_end(struct wi_ucx_link *link, weir_status status, ucs_status_t cause);
void wi_ucx_todo(struct wi_ucx_link *link);
void wi_ucx_clock(struct wi_ucx_link *link); /* has it watched until its watch function says that no clock runs */

/* ---- initiator.c, target.c: both sides of a connection ---- */
struct wi_ucx_hello;

weir_status wi_ucx_ep_create(struct wi_iface *iface, const void *address, size_t len, struct weir_ep **ep);
weir_status wi_ucx_ep_connect(struct weir_ep *ep);
weir_status wi_ucx_ep_reset(struct weir_ep *ep);
void wi_ucx_ep_query(const struct weir_ep *ep, weir_ep_attr *attr);
void wi_ucx_ep_close(struct weir_ep *ep);
void wi_ucx_ep_serve(struct wi_ucx_ep *ep);
bool wi_ucx_ep_watch(struct wi_ucx_ep *ep, uint64_t now_ns);
void wi_ucx_lanes_check(struct wi_ucx_ep *ep);
size_t wi_ucx_lanes_piece(ucp_ep_h ucp, bool *rdma); /* rdma: there may be RDMA lanes */
bool wi_ucx_lanes_may_be_rdma(ucp_context_h context); /* of any peer */
void wi_ucx_deferred_serve(struct wi_ucx_ep *ep);
void wi_ucx_flushes_serve(struct wi_ucx_ep *ep);
void wi_ucx_conn_greeted(struct wi_ucx_conn *conn, const struct wi_ucx_hello *hello);
struct wi_ucx_conn *wi_ucx_conn_stranger(struct wi_ucx_iface *iface, ucp_ep_h ucp);
void wi_ucx_conns_end_earlier(struct wi_ucx_iface *iface, const struct wi_ucx_hello *hello);
void wi_ucx_conn_request(ucp_conn_request_h request, void *iface);
void wi_ucx_conn_accept(struct wi_ucx_iface *iface);
void wi_ucx_conn_serve(struct wi_ucx_conn *conn);
bool wi_ucx_conn_watch(struct wi_ucx_conn *conn, uint64_t now_ns);
void wi_ucx_conn_free(struct wi_ucx_conn *conn);

/* ---- message.c: active messages ---- */
struct wi_ucx_hello {
    uint32_t magic, version;
    uint64_t instance; /* who is meant */
    uint64_t id, token;
    uint64_t from;          /* the initiator's instance */
    uint32_t stream, again; /* which of its endpoints, how often connected before */
};

struct wi_ucx_welcome {
    uint64_t token; /* the initiator's */
    uint64_t id, own_token;
    uint64_t wanted; /* 0: you mean somebody else */
};

struct wi_ucx_signal {
    uint64_t token;
    uint64_t signal;
};

struct wi_ucx_flush {
    uint64_t token;
    uint64_t number;
};

struct wi_ucx_ack {
    uint64_t token;
    uint64_t flushed, taken, refused;
};

#define WI_UCX_NO_SIGNAL UINT64_MAX

struct wi_ucx_put { /* the data follow */
    uint64_t token;
    uint64_t key, addr;
    uint64_t signal; /* to be counted afterwards */
};

struct wi_ucx_question { /* get: `value` bytes; fetch_add: `value` is added */
    uint64_t token;
    uint64_t key, addr, value, number;
};

struct wi_ucx_reply { /* get: data follow, or a refusal without any; fetch_add: `value` was there */
    uint64_t token;
    uint64_t number, value;
    uint64_t refused;
};

enum wi_ucx_am {
    WI_UCX_AM_HELLO = 1,
    WI_UCX_AM_WELCOME,
    WI_UCX_AM_SIGNAL,
    WI_UCX_AM_MESSAGE,
    WI_UCX_AM_FLUSH,
    WI_UCX_AM_ACK,
    WI_UCX_AM_PUT,
    WI_UCX_AM_GET,
    WI_UCX_AM_FETCH_ADD,
    WI_UCX_AM_DATA,
    WI_UCX_AM_REPLY,
};

#define WI_UCX_MAGIC   0x72696577u
#define WI_UCX_VERSION 2u

weir_status wi_ucx_messages_init(struct wi_ucx_iface *iface);
void wi_ucx_am_fill(struct wi_ucx_slot *slot, enum wi_ucx_am id, const void *data, size_t len);
weir_status wi_ucx_am_post(struct wi_ucx_slot *slot);
weir_status wi_ucx_am_send(struct wi_ucx_link *link, enum wi_ucx_am id, const void *data, size_t len);
weir_status wi_ucx_send(struct weir_ep *ep, const void *data, size_t len);
struct wi_msg *wi_ucx_msg_peek(struct wi_iface *iface);
void wi_ucx_msg_pop(struct wi_iface *iface);

struct wi_ucx_link *wi_ucx_am_link(void *iface, bool initiator, const void *data, size_t len,
                                   const ucp_am_recv_param_t *params, void *message, size_t size);
void wi_ucx_signal_count(struct wi_ucx_iface *iface, uint64_t signal);

/* ---- emulate.c, answer.c: operations by active messages ---- */
weir_status wi_ucx_emulate_put(struct wi_ucx_ep *ep, const void *local, size_t len, uint64_t remote_addr,
                               struct weir_rkey *rkey, uint64_t signal, weir_comp *comp);
weir_status wi_ucx_ask(struct wi_ucx_ep *ep, enum wi_ucx_am id, void *local, size_t len, uint64_t value,
                       uint64_t remote_addr, struct weir_rkey *rkey, weir_comp *comp);
void wi_ucx_pieces_post(struct wi_ucx_ep *ep, struct wi_ucx_slot *put);
ucs_status_t wi_ucx_on_data(void *iface, const void *header, size_t header_len, void *data, size_t len,
                            const ucp_am_recv_param_t *params);
ucs_status_t wi_ucx_on_reply(void *iface, const void *header, size_t header_len, void *data, size_t len,
                             const ucp_am_recv_param_t *params);
ucs_status_t wi_ucx_on_put(void *iface, const void *header, size_t header_len, void *data, size_t len,
                           const ucp_am_recv_param_t *params);
ucs_status_t wi_ucx_on_get(void *iface, const void *header, size_t header_len, void *data, size_t len,
                           const ucp_am_recv_param_t *params);
ucs_status_t wi_ucx_on_fetch_add(void *iface, const void *header, size_t header_len, void *data, size_t len,
                                 const ucp_am_recv_param_t *params);
weir_status wi_ucx_answers_serve(struct wi_ucx_conn *conn);

/* ---- operation.c, memory.c ---- */
weir_status wi_ucx_put(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_ucx_get(struct weir_ep *ep, void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_ucx_put_signal(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                              struct weir_rkey *rkey, uint32_t signal, weir_comp *comp);
weir_status wi_ucx_fetch_add(struct weir_ep *ep, uint64_t value, uint64_t *result, struct wi_mr *mr,
                             uint64_t remote_addr, struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_ucx_flush(struct weir_ep *ep, weir_comp *comp);
weir_status wi_ucx_mem_register(struct wi_iface *iface, const struct wi_mem_desc *desc, struct wi_mr **mr);
void wi_ucx_mem_deregister(struct wi_mr *mr);
weir_status wi_ucx_mem_alloc(struct wi_iface *iface, size_t len, void **addr, struct wi_mr **mr);
weir_status wi_ucx_mem_export(struct wi_mr *mr, const void *addr, size_t len, void *blob, size_t *blob_len,
                              struct wi_export **export);
bool wi_ucx_mem_unexport(struct wi_export *export);
weir_status wi_ucx_rkey_import(struct weir_ep *ep, const void *blob, size_t blob_len, uint64_t addr, uint64_t len,
                               struct weir_rkey **rkey);
void wi_ucx_rkey_destroy(struct weir_rkey *rkey);
weir_status wi_ucx_rkey_map(struct weir_rkey *rkey, uint64_t remote_addr, size_t len, void **ptr);
void *wi_ucx_export_at(struct wi_ucx_iface *iface, uint64_t key, uint64_t addr, uint64_t len);
weir_status wi_ucx_rkey_unpack(struct wi_ucx_rkey *rkey, const struct wi_ucx_ep *ep);

#endif
