/*
 * A byte ring with one producer, the client that writes frames into it from afar, and one consumer, the server that
 * owns the memory. Pure bookkeeping: positions count bytes since the start, and nothing here touches the network.
 *
 * The producer knows how much is free from the consumer's credits: the position up to which it has read.
 */
#ifndef WI_PS_RING_H
#define WI_PS_RING_H

#include "ps/wire.h"

struct wi_ps_producer {
    uint64_t size;     /* a power of two */
    uint64_t head;     /* where the next frame goes */
    uint64_t consumed; /* credits: what the consumer has freed */
};

/* Room for one frame. */
struct wi_ps_slot {
    uint64_t pad;      /* bytes of a PAD frame (header included) to write first at `position`; 0: none */
    uint64_t position; /* where the PAD frame, else the frame, goes */
    uint32_t payload;  /* bytes of payload there is room for */
};

/*
 * Finds room for a frame with a payload of `max` bytes, or fewer but at least `min`: then a multiple of 64 as long as
 * `min` > 0. False: not before there are more credits. Reserves nothing: see wi_ps_ring_advance(). `min` is at most a
 * quarter of the ring, so that the wait ends.
 */
bool wi_ps_ring_room(const struct wi_ps_producer *producer, uint32_t min, uint32_t max, struct wi_ps_slot *slot);

/* The frame (and the padding before it) was written with `payload` bytes. */
void wi_ps_ring_advance(struct wi_ps_producer *producer, const struct wi_ps_slot *slot, uint32_t payload);

/* New credits from the network. False: they cannot be right; nothing is changed. */
bool wi_ps_ring_credit(struct wi_ps_producer *producer, uint64_t consumed);

struct wi_ps_consumer {
    const unsigned char *base;
    uint64_t size;
    uint64_t tail;     /* next frame to read */
    uint64_t credited; /* what the producer was told last */
    uint64_t frames;   /* read so far, to compare with the signal's count */
};

/*
 * Copies the header of the next frame, which must have been signalled, and checks it. NULL: `request` is right and
 * `payload` points to it; else what is wrong.
 */
const char *wi_ps_ring_read(const struct wi_ps_consumer *consumer, struct wi_ps_request *request, const void **payload);

/* The frame is used: its bytes may be written again. */
void wi_ps_ring_consume(struct wi_ps_consumer *consumer, const struct wi_ps_request *request);

/* Has so much been freed since the last credit that the producer should be told without waiting for a reply? */
static inline bool wi_ps_ring_owes_credit(const struct wi_ps_consumer *consumer)
{
    return consumer->tail - consumer->credited >= consumer->size / 8;
}

#endif
