/* What the files of the server share. One thread uses all of it. */
#ifndef WI_PS_SERVER_H
#define WI_PS_SERVER_H

#include "ps/connect.h"
#include "ps/idle.h"
#include "ps/ring.h"
#include "ps/table.h"

/* What the server knows of one worker's client. */
struct wi_ps_peer {
    int rank;
    bool gone; /* said goodbye */
    struct wi_ps_ring_memory memory;
    struct wi_ps_consumer ring;
    struct wi_ps_remote replies;
    struct wi_ps_hello hello;     /* until connected */
    struct wi_ps_reply *outgoing; /* WI_PS_REPLIES entries: where replies are sent from */
    weir_mem *outgoing_mem;
    weir_comp *sent;                 /* [entry]: is it free to be written again? */
    uint64_t sequence;               /* of the next reply */
    weir_comp puts;                  /* all weights on their way */
    weir_comp flushed;               /* everything, at the end */
    weir_rkey *keys[WI_PS_KEYS_MAX]; /* that the client named */
    uint32_t waiting;                /* parts that are not answered yet */
    uint64_t barriers;               /* that it came to */
};

/* A part that is to be answered when its step has been applied, or a barrier. */
struct wi_ps_pending {
    struct wi_ps_waiter waiter; /* first: the store gives it back */
    struct wi_ps_pending *next; /* spare ones, barriers */
    struct wi_ps_peer *peer;
    struct wi_ps_request request;
    uint64_t barrier;
};

struct wi_ps_dense {
    struct wi_ps_store store;
    weir_mem *mem; /* of the weights */
};

struct weir_ps_server {
    weir_ctx *ctx;
    weir_boot *boot;
    weir_pool *pool;
    uint32_t index, servers, workers;
    uint32_t live; /* clients that have not said goodbye */
    bool watching;  /* the job's descriptor wakes the context */
    bool attending; /* a wait in the bootstrap makes progress */
    struct wi_ps_peer *peers;
    struct wi_ps_dense **tables;
    uint32_t table_count, table_room;
    struct wi_ps_pending *spare, *barriers;
    uint64_t next_check_ns;
    struct wi_ps_idle idle;
};

/* Carries out one frame that was read from the peer's ring, and takes it off the ring. */
weir_status wi_ps_serve_frame(weir_ps_server *server, struct wi_ps_peer *peer, const struct wi_ps_request *request,
                              const void *payload);

/* Writes an entry to the client; the fields common to all replies are filled in here. */
weir_status wi_ps_send_reply(weir_ps_server *server, struct wi_ps_peer *peer, const struct wi_ps_reply *reply);

#endif
