/* How clients and servers find each other: greetings in the job's store, then an endpoint each way. */
#ifndef WI_PS_CONNECT_H
#define WI_PS_CONNECT_H

#include "ps/wire.h"

/* A ring in this process's memory that one peer writes into. */
struct wi_ps_ring_memory {
    unsigned char *base;
    uint64_t size;
    weir_mem *mem;
    uint32_t signal;
    bool has_signal;
};

/* A ring in a peer's memory, and the way there. */
struct wi_ps_remote {
    weir_ep *ep;
    weir_rkey *rkey;
    uint64_t addr;
    uint64_t size;
    uint32_t signal;
};

/* Allocates a cleared ring from the pool, and a signal. */
weir_status wi_ps_ring_memory_init(struct wi_ps_ring_memory *ring, weir_ctx *ctx, weir_pool *pool, uint64_t size);

/* Safe on zeros. The memory goes with the pool. */
void wi_ps_ring_memory_fini(struct wi_ps_ring_memory *ring, weir_ctx *ctx);

/* Tells rank `peer` through the store where this process's ring for it is. */
weir_status wi_ps_greet(weir_ctx *ctx, weir_boot *boot, const struct wi_ps_ring_memory *ring, int peer);

/* Reads rank `peer`'s greeting into `hello` and starts to connect. `reply_ring`: is the peer a client? */
weir_status wi_ps_meet(weir_ctx *ctx, weir_boot *boot, int peer, bool reply_ring, struct wi_ps_hello *hello,
                       struct wi_ps_remote *remote);

/* Waits until connected and takes the ring's key. */
weir_status wi_ps_remote_ready(struct wi_ps_remote *remote, const struct wi_ps_hello *hello, int peer);

/*
 * A peer cannot be worked with any more (this thread's last error tells why): tells the job. When the job has failed
 * already, or is just about to be told so, that is the cause and this its echo: then the job's status and sentence are
 * returned.
 */
weir_status wi_ps_fail_job(weir_boot *boot, weir_status status);

/* Safe on zeros. */
void wi_ps_remote_fini(struct wi_ps_remote *remote);

#endif
