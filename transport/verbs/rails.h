/*
 * Several devices at once. A rail is a device with all that one alone would have (struct verbs_iface), and an endpoint has
 * a connection on each rail that both sides list at the same place of WEIR_DEVICE. With one device none of this is used.
 *
 * Long writes and reads are cut in as many shares as there are connections, by the speed of their ports (stripe.c). All
 * else goes over the first connection, the main one.
 *
 * A signal may be seen only after all data before it, on whatever rail. An acknowledged write may still be on its way to
 * memory when another device announces a signal, so the initiator does not wait for acknowledgments: it sends a token, a
 * write with immediate, over each rail that wrote since the last signal, and the signal over the main one names these
 * rails. The target counts it, and what comes behind it, when a token of each has arrived (fence.c): an immediate is seen
 * after the data before it on its own connection, and no round trip is waited for.
 */
#ifndef WI_VERBS_RAILS_H
#define WI_VERBS_RAILS_H

#include "transport/verbs/verbs.h"

enum {
    WI_RAILS_RECORDS = 1024, /* striped operations with a completion that can be outstanding */
    WI_RAILS_BEHIND = 1024,  /* signals that an initiator sends behind one that waits for its tokens */
};

/* A striped operation: its shares end first, then it. */
struct rails_record {
    weir_comp parts;
    weir_comp *user;
    struct rails_ep *ep;
    struct rails_record *next;
};

/* One operation over several rails; what had no room yet is posted from progress. */
struct rails_plan {
    unsigned todo;   /* rails whose share was not posted yet, as bits */
    unsigned tokens; /* rails that a token goes over after that */
    uint32_t imm;    /* of the signal */
    struct {
        enum verbs_kind kind;
        const char *local;
        uint64_t remote_addr;
        uint64_t len;
    } share[WI_VERBS_RAILS_MAX];
    struct wi_mr *mr;
    struct weir_rkey *rkey;
    struct rails_record *record; /* NULL: nobody waits for its end */
};

struct rails_ep {
    struct weir_ep base;
    struct rails_iface *iface;
    struct verbs_ep *rail[WI_VERBS_RAILS_MAX]; /* NULL: the peer has none there */
    unsigned used;                             /* connected rails, as bits */
    unsigned main;
    unsigned dirty; /* rails but the main one that wrote since the last signal */
    bool connecting;
    uint64_t first_ns; /* when the first rail was connected */
    weir_comp fence;   /* tokens under way */
    uint32_t behind;   /* signals posted behind them */
    struct rails_plan plan;
    struct rails_ep *next, *prev;
};

struct rails_iface {
    struct wi_iface base;
    unsigned count;
    struct verbs_iface *rail[WI_VERBS_RAILS_MAX];
    uint64_t speed[WI_VERBS_RAILS_MAX];
    int epoll_fd;
    unsigned turn; /* the rail whose messages are looked at first */
    struct verbs_iface *peeked;
    uint32_t next_stream;
    uint32_t endings; /* of the rails' endpoints, as seen last */
    uint32_t connecting;
    struct rails_ep *eps;
    struct rails_record *records, *records_free, *active;
    struct verbs_fences *fences;
};

struct rails_mr {
    struct wi_mr base;
    struct wi_mr *mr[WI_VERBS_RAILS_MAX];
};

struct rails_export {
    struct wi_export base;
    struct wi_export *of[WI_VERBS_RAILS_MAX];
};

struct rails_rkey {
    struct weir_rkey base;
    struct weir_rkey *key[WI_VERBS_RAILS_MAX];
};

static inline struct rails_iface *rails_iface(struct wi_iface *iface)
{
    return (struct rails_iface *)iface;
}

static inline struct rails_ep *rails_ep(struct weir_ep *ep)
{
    return (struct rails_ep *)ep;
}

/* ---- Endpoints (rails_ep.c) -------------------------------------------------------------------------------------- */

weir_status wi_rails_ep_create(struct wi_iface *iface, const void *address, size_t len, struct weir_ep **ep);
weir_status wi_rails_ep_connect(struct weir_ep *ep);
weir_status wi_rails_ep_reset(struct weir_ep *ep);
void wi_rails_ep_query(const struct weir_ep *ep, weir_ep_attr *attr);
void wi_rails_ep_path(const struct weir_ep *ep, char *text, size_t size);
void wi_rails_ep_close(struct weir_ep *ep);

/* A rail's connection has failed: ends the endpoint with its sentence, and returns its status. */
weir_status wi_rails_ep_failed(struct rails_ep *ep, const struct verbs_ep *rail);

/* Looks at all endpoints: who is connected, whose rail has failed. */
void wi_rails_eps_look(struct rails_iface *iface);

/* ---- Operations (stripe.c) --------------------------------------------------------------------------------------- */

weir_status wi_rails_put(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                         struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_rails_get(struct weir_ep *ep, void *local, struct wi_mr *mr, size_t len, uint64_t remote_addr,
                         struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_rails_put_signal(struct weir_ep *ep, const void *local, struct wi_mr *mr, size_t len,
                                uint64_t remote_addr, struct weir_rkey *rkey, uint32_t signal, weir_comp *comp);
weir_status wi_rails_fetch_add(struct weir_ep *ep, uint64_t value, uint64_t *result, struct wi_mr *mr,
                               uint64_t remote_addr, struct weir_rkey *rkey, weir_comp *comp);
weir_status wi_rails_send(struct weir_ep *ep, const void *data, size_t len);
weir_status wi_rails_flush(struct weir_ep *ep, weir_comp *comp);

/* Posts what had no room, and ends striped operations whose shares have ended; returns how many. */
unsigned wi_rails_plans_progress(struct rails_iface *iface);

/* Ends all striped operations of an endpoint whose rails were ended before. */
void wi_rails_plans_end(struct rails_ep *ep, weir_status status);

extern const struct wi_transport_ops wi_rails_ops;

#endif
