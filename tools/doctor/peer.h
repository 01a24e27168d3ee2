/*
 * The meeting of two doctors, one that serves and one that comes: what its stages share. Both run the same stages in the
 * same order, and tell each other after each how it ended; so both sides can say all that is to be said.
 */
#ifndef DOCTOR_PEER_H
#define DOCTOR_PEER_H

#include "doctor.h"

#include <weir/weir.h>

enum { PEER_SLOT = 1 << 20, PEER_SLOTS = 4, PEER_BUFFER = PEER_SLOTS * PEER_SLOT, PEER_ROOM = PEER_BUFFER + 4096 };

/* How a stage ended, as told to the peer. */
struct peer_outcome {
    int32_t status;
    int32_t stage; /* the reader's own count, against mixing up */
    double value[4]; /* connect: bytes of a packet, as connected and as the port here could; others: measure.c's */
    char text[512]; /* the error's sentence, or what is to be said of this side */
};

/* Who a doctor is. */
struct peer_about {
    char version[32], transport[8], host[64];
    int32_t pid;
};

struct peer {
    struct doctor *doctor;
    bool serves; /* rank 0; the other one measures */
    weir_boot *boot;
    weir_ctx *ctx;
    weir_pool *pool;
    weir_ep *ep;
    weir_rkey *rkey;
    weir_mem *mem, *source_mem;
    unsigned char *window; /* the peer writes here: slots, then a word */
    unsigned char *source; /* written to the peer from here, laid out in the same way */
    uint64_t remote;       /* the peer's window */
    uint32_t signal, remote_signal;
    weir_comp comp[3]; /* of writes: they outlive a stage that ran out of time, until the endpoint is closed */
    int timeout_ms;
    struct peer_about here, there;
    struct peer_outcome mine, theirs; /* of the stage that runs */
};

/* Sets the outcome's sentence for an error that is not the library's. Returns the status. */
weir_status peer_error(struct peer *peer, weir_status status, const char *format, ...) READ_FORMAT(3);

double peer_now_s(void);

/* ---- measure.c: stages; each fills peer->mine ---- */

weir_status peer_latency(struct peer *peer);   /* value: median, best (us), rounds */
weir_status peer_write_to(struct peer *peer);  /* from the one that comes; value: GB/s, bytes */
weir_status peer_write_from(struct peer *peer);
weir_status peer_clock(struct peer *peer); /* value: by how many us the serving clock is ahead, and the error */

#endif
