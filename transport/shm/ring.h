/*
 * The ring: how one endpoint's messages and requests reach the target. It lies in the sender's segment, has one writer
 * and one reader, and neither can hang or crash the other: positions and lengths read from it are checked, and a killed
 * sender leaves a ring that can be read to its end.
 *
 * Messages are {32-bit length, 4 bytes unused, payload padded to 8 bytes}, and may wrap at the end. Positions count
 * bytes (messages) and requests since the beginning and never wrap.
 */
#ifndef WI_SHM_RING_H
#define WI_SHM_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SHM_RING_DATA = 65536,
    SHM_RING_REQUESTS = 64,
};

/* fetch_add on memory that the sender cannot map: the target carries it out in its progress. */
struct shm_request {
    _Alignas(64) uint64_t generation;
    uint64_t addr;
    uint64_t value;
    uint64_t result; /* the target's answer */
    uint32_t slot; /* of what was exported */
    uint32_t status; /* the target's answer, a weir_status */
};

/* The shared part. A line each for what the sender and the target write. */
struct shm_ring {
    _Alignas(64) uint64_t tail; /* sender: end of the messages */
    uint64_t request_tail;      /* sender: requests posted */
    uint32_t closed;            /* sender: its endpoint was closed, nothing more comes */
    _Alignas(64) uint64_t head; /* target: messages taken */
    uint64_t request_done;      /* target: requests answered */
    uint32_t released;          /* target: it will not touch the ring again */
    struct shm_request requests[SHM_RING_REQUESTS];
    _Alignas(4096) unsigned char data[SHM_RING_DATA];
};

/* Either side's own view: positions it alone moves are kept here, out of the other's reach. */
struct shm_ring_view {
    struct shm_ring *ring;
    uint64_t position; /* sender: tail; target: head */
    uint64_t request;  /* sender: requests posted; target: requests done */
};

enum shm_ring_result {
    SHM_RING_OK,
    SHM_RING_AGAIN,  /* full; or empty */
    SHM_RING_BROKEN, /* the other side's position or length cannot be right */
};

/* Sender: appends a message and publishes it. */
enum shm_ring_result wi_shm_ring_push(struct shm_ring_view *view, const void *data, size_t len);

/* Target: copies the first message into `data` (room `room`); wi_shm_ring_pop() with its length takes it off. */
enum shm_ring_result wi_shm_ring_peek(const struct shm_ring_view *view, void *data, size_t room, uint32_t *len);
void wi_shm_ring_pop(struct shm_ring_view *view, uint32_t len);

/* Target: is there a message? Says yes for a broken ring too. */
static inline bool wi_shm_ring_has_message(const struct shm_ring_view *view)
{
    return __atomic_load_n(&view->ring->tail, __ATOMIC_ACQUIRE) != view->position;
}

#endif
