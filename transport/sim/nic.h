/*
 * The simulated network card: what a reliable connection of an RDMA device does, in packets that get lost.
 *
 * An endpoint (initiator) asks the target for a connection until it is accepted by the target's progress. From then on
 * both ends are the cards' own: every packet has a sequence number (psn), the target carries them out in that order,
 * once, and acknowledges; the initiator goes back to what was not acknowledged, and gives up when nothing moves for the
 * timeout. Reads and atomics are acknowledged by their answer. Messages need credits: the target takes `window` of them
 * from a connection before its program has taken some. An idle endpoint asks now and then whether its peer lives.
 *
 * Files: net.c packets and their fates; endpoint.c the initiator's life; requester.c what it sends and hears;
 * responder.c the target's side; operation.c, memory.c, iface.c the ops table.
 */
#ifndef WI_SIM_NIC_H
#define WI_SIM_NIC_H

#include "core/list.h"
#include "transport/ops.h"
#include "transport/sim/world_inside.h"

enum {
    SIM_FLIGHT = 64, /* packets of a connection under way at a time */
    SIM_INLINE = 64, /* bytes of a put that need no registered memory */
};

enum sim_kind {
    SIM_REQUEST, /* to the target: a connection, please */
    SIM_ACCEPT,  /* its answer */
    SIM_DATA,    /* to the target: one packet of an operation */
    SIM_ACK,     /* all before `psn` is done; `consumed` messages were taken; `status` if one was refused */
    SIM_ANSWER,  /* what was read, or was there before an atomic */
    SIM_PROBE,   /* to the target: are you there? */
    SIM_CLOSE,   /* to the target: the endpoint is gone */
    SIM_RESET,   /* there is no such connection */
};

enum sim_verb { SIM_WRITE, SIM_READ, SIM_ADD, SIM_SEND, SIM_FLUSH };

struct sim_packet {
    struct sim_packet_link link; /* all that are under way */
    enum sim_kind kind;
    enum sim_verb verb;
    bool to_target;
    bool signals;     /* SIM_DATA: add one to `signal` */
    bool out_of_turn; /* SIM_ACK: something came before its turn */
    weir_status status;
    int from_rank, to_rank;
    uint64_t from, to; /* interfaces */
    uint64_t ep, conn; /* numbers of the connection's ends; conn 0: not known yet */
    uint64_t id;       /* SIM_REQUEST: the initiator's context */
    uint64_t psn;
    uint64_t consumed;
    uint64_t addr, key, value;
    uint32_t signal;
    uint32_t len;      /* of data, of what is to be read or added to */
    uint32_t data_len; /* what is in `data` */
    unsigned char data[];
};

struct sim_op {
    enum sim_verb verb;
    uint64_t first, count; /* packets */
    unsigned char *local;  /* where the data is, or goes */
    unsigned char *copy;   /* of a message, owned */
    uint64_t local_key;    /* of the region it lies in; 0: inline or copied */
    size_t len;
    uint64_t addr, key, value;
    uint32_t signal;
    bool signals;
    weir_comp *comp;
    unsigned char inlined[SIM_INLINE];
};

enum sim_ep_state { SIM_EP_NEW, SIM_EP_CONNECTING, SIM_EP_CONNECTED, SIM_EP_BROKEN };

struct sim_ep {
    struct weir_ep base;
    struct wi_list all;     /* of its interface */
    struct wi_list telling; /* in the list of those that something has happened to */
    struct wi_map_node by_number;
    struct sim_iface *iface;
    enum sim_ep_state state;
    uint64_t number;
    uint64_t target; /* interface */
    int target_rank;
    uint64_t conn;
    weir_status fault; /* what broke it; told at the next progress */
    char why[160];

    struct sim_op *ops; /* ring of params.depth */
    uint32_t head, count;
    uint64_t una, next_psn, end; /* oldest not done, next to send, next to give out */
    uint64_t done;               /* bit i: una + i is done */
    uint64_t turned_back;        /* psn + 1 that we last went back to on request */

    uint64_t sent, consumed; /* messages */
    bool starved;            /* somebody waits for credits */

    unsigned tries;
    uint64_t quiet_since_ns; /* last sign that things move */
    uint64_t retry_ns;       /* when to ask again */
    struct wi_sim_event *timer;
};

/* A connection at its target. */
struct sim_conn {
    struct wi_list all;
    struct wi_map_node by_number, by_ep; /* by_ep: of interface and endpoint of the initiator */
    struct sim_iface *iface;
    uint64_t number;
    uint64_t peer, ep; /* interface and endpoint of the initiator */
    int peer_rank;
    uint64_t peer_id;
    uint64_t expected;
    uint64_t complained;              /* psn + 1 that was last asked for */
    weir_status refused;              /* it carries out nothing any more, and says why as often as it is asked */
    uint64_t arrived, consumed, told; /* messages */
    uint64_t heard_ns;
    struct wi_sim_event *timer;
    struct {
        uint64_t psn, value;
    } added[SIM_FLIGHT]; /* what atomics found, should they come again; psn is one more */
};

struct sim_msg {
    struct sim_msg *next;
    uint64_t conn;
    struct wi_msg *msg;
};

struct sim_mr {
    struct wi_mr base;
    struct sim_mr *next;
    struct sim_iface *iface;
    uint64_t key;
    unsigned char *addr;
    size_t len;
};

/* What a peer may reach by a key. */
struct sim_export {
    struct wi_export base;
    struct sim_export *next;
    struct sim_iface *iface;
    uint64_t key, addr, len;
};

struct sim_rkey {
    struct weir_rkey base;
    uint64_t key;
};

/* A connection that was asked for and waits for the target's progress. */
struct sim_asked {
    struct sim_asked *next;
    struct wi_map_node by_ep;
    uint64_t from, ep, id;
    int from_rank;
};

struct sim_iface {
    struct wi_iface base;
    struct wi_sim_world *world;
    int rank;
    uint64_t number;
    bool dead;   /* its rank was killed */
    bool silent; /* and nobody says so */
    bool armed, news;
    struct sim_mr *mrs;
    struct sim_export *exports;
    uint64_t next_key;
    struct wi_list eps, telling, conns; /* oldest first */
    struct wi_map eps_by_number, conns_by_number, conns_by_ep, asked_by_ep;
    struct sim_asked *asked, **asked_end;
    struct sim_iface *of_rank; /* the next one of its rank */
    struct sim_msg *messages, **messages_end;
};

/* -- net.c -- */

/* A zeroed packet with room for data; NULL: out of memory. */
struct sim_packet *wi_sim_packet(enum sim_kind kind, uint32_t data_len);

/* Sends it off; frees it in the end. The caller has set kind and contents, and where it goes. */
void wi_sim_send(const struct sim_iface *from, struct sim_packet *packet);

/* Answers a packet: the other end of its connection, or the whole interface, is gone. */
void wi_sim_reset_sender(struct wi_sim_world *world, const struct sim_packet *about);

/* Frees what is under way. */
void wi_sim_drop_packets(struct wi_sim_world *world);

/* An open interface by its number, NULL: closed. */
struct sim_iface *wi_sim_iface_find(const struct wi_sim_world *world, uint64_t number);

/* -- iface.c -- */

/* Something happened that the program may want to know. */
void wi_sim_raise(struct sim_iface *iface);

/* Would one of the rank's descriptors be readable? */
bool wi_sim_rank_has_event(const struct wi_sim_world *world, int rank);

/* Breaks all endpoints that have begun to connect. */
void wi_sim_iface_break(struct sim_iface *iface, const char *why);

/* Ends the interface. */
void wi_sim_iface_kill(struct sim_iface *iface, bool noticed);

/* -- memory.c -- */
weir_status wi_sim_mem_register(struct wi_iface *iface, const struct wi_mem_desc *desc, struct wi_mr **mr);
void wi_sim_mem_deregister(struct wi_mr *mr);
weir_status wi_sim_mem_export(struct wi_mr *mr, const void *addr, size_t len, void *blob, size_t *blob_len,
                              struct wi_export **export);
bool wi_sim_mem_unexport(struct wi_export *export);
weir_status wi_sim_rkey_import(struct weir_ep *ep, const void *blob, size_t blob_len, uint64_t addr, uint64_t len,
                               struct weir_rkey **rkey);
void wi_sim_rkey_destroy(struct weir_rkey *rkey);

/* Does the region still hold all of that? The same of what a peer's key stands for. */
bool wi_sim_mr_holds(const struct sim_iface *iface, uint64_t key, uint64_t addr, uint64_t len);
bool wi_sim_export_holds(const struct sim_iface *iface, uint64_t key, uint64_t addr, uint64_t len);

/* -- endpoint.c -- */
weir_status wi_sim_address(struct wi_iface *iface, void *buf, size_t *len);
weir_status wi_sim_ep_create(struct wi_iface *iface, const void *address, size_t len, struct weir_ep **ep);
weir_status wi_sim_ep_connect(struct weir_ep *ep);
void wi_sim_ep_query(const struct weir_ep *ep, weir_ep_attr *attr);
weir_status wi_sim_ep_reset(struct weir_ep *ep);
void wi_sim_ep_close(struct weir_ep *ep);

struct sim_ep *wi_sim_ep_find(const struct sim_iface *iface, uint64_t number); /* NULL: it is gone */

/* Something has happened to it: the next progress collects it. */
void wi_sim_ep_raise(struct sim_ep *ep);

/* Breaks it: told to the front at the next progress. */
void wi_sim_ep_break(struct sim_ep *ep, weir_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Things move: patience starts anew. */
void wi_sim_ep_moves(struct sim_ep *ep);

/* It waits for something from now on: ask soon. */
void wi_sim_ep_hurry(struct sim_ep *ep);

/* Tells the front what has become of it. Returns how much. */
unsigned wi_sim_ep_collect(struct sim_ep *ep);

/* -- requester.c -- */

/* Sends what may be sent. */
void wi_sim_pump(struct sim_ep *ep);

/* Goes back to the oldest packet that is not done. */
void wi_sim_send_again(struct sim_ep *ep);

/* A packet without data to the target. */
void wi_sim_tell_target(struct sim_ep *ep, enum sim_kind kind);

void wi_sim_on_accept(struct sim_ep *ep, const struct sim_packet *packet);
void wi_sim_on_ack(struct sim_ep *ep, const struct sim_packet *packet);
void wi_sim_on_answer(struct sim_ep *ep, const struct sim_packet *packet);

/* -- responder.c -- */
void wi_sim_on_request(struct sim_iface *iface, const struct sim_packet *packet);
void wi_sim_on_data(struct sim_conn *conn, struct sim_packet *packet);

/* Acknowledges what is done so far, and tells how many messages were taken. */
void wi_sim_conn_ack(struct sim_conn *conn, weir_status status, bool out_of_turn);

/* Accepts what was asked for. Returns how many. */
unsigned wi_sim_accept(struct sim_iface *iface);
void wi_sim_conn_free(struct sim_conn *conn);

/* Tells the initiator that the connection is no more. */
void wi_sim_conn_reset(const struct sim_conn *conn);
struct sim_conn *wi_sim_conn_find(const struct sim_iface *iface, uint64_t number);
struct sim_conn *wi_sim_conn_from(const struct sim_iface *iface, uint64_t peer); /* the last one of that interface */
struct wi_msg *wi_sim_msg_peek(struct wi_iface *iface);
void wi_sim_msg_pop(struct wi_iface *iface);

/* -- operation.c -- */
weir_status wi_sim_put(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_sim_get(struct weir_ep *ep, void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                       struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_sim_put_signal(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                              struct weir_rkey *rkey, uint32_t signal, weir_comp *comp);
weir_status wi_sim_fetch_add(struct weir_ep *ep, uint64_t value, uint64_t *result, struct wi_mr *mr,
                             uint64_t remote_addr, struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_sim_post_send(struct weir_ep *ep, const void *data, size_t len);
weir_status wi_sim_flush(struct weir_ep *ep, weir_comp *comp);

#endif
