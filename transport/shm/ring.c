/* Messages in a ring between two processes that do not trust each other. */
#include "transport/shm/ring.h"

#include <string.h>

enum { FRAME_HEADER = 8 };

static uint64_t frame_len(uint64_t len)
{
    return FRAME_HEADER + (len + 7) / 8 * 8;
}

static void copy_in(struct shm_ring *ring, uint64_t position, const void *data, size_t len)
{
    size_t at = position % SHM_RING_DATA;
    size_t first = len < SHM_RING_DATA - at ? len : SHM_RING_DATA - at;
    memcpy(ring->data + at, data, first);
    memcpy(ring->data, (const unsigned char *)data + first, len - first);
}

static void copy_out(const struct shm_ring *ring, uint64_t position, void *data, size_t len)
{
    size_t at = position % SHM_RING_DATA;
    size_t first = len < SHM_RING_DATA - at ? len : SHM_RING_DATA - at;
    memcpy(data, ring->data + at, first);
    memcpy((unsigned char *)data + first, ring->data, len - first);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the compiler may not read again what will be checked */
}

enum shm_ring_result wi_shm_ring_push(struct shm_ring_view *view, const void *data, size_t len)
{
    struct shm_ring *ring = view->ring;
    uint64_t used = view->position - __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);
    if (used > SHM_RING_DATA)
        return SHM_RING_BROKEN;
    if (len > SHM_RING_DATA || frame_len(len) > SHM_RING_DATA - used)
        return SHM_RING_AGAIN;
    uint32_t header[2] = {(uint32_t)len, 0};
    copy_in(ring, view->position, header, sizeof(header));
    if (len > 0)
        copy_in(ring, view->position + FRAME_HEADER, data, len);
    view->position += frame_len(len);
    __atomic_store_n(&ring->tail, view->position, __ATOMIC_RELEASE);
    return SHM_RING_OK;
}

enum shm_ring_result wi_shm_ring_peek(const struct shm_ring_view *view, void *data, size_t room, uint32_t *len)
{
    const struct shm_ring *ring = view->ring;
    uint64_t filled = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) - view->position;
    if (filled == 0)
        return SHM_RING_AGAIN;
    uint32_t header[2];
    if (filled > SHM_RING_DATA || filled < FRAME_HEADER)
        return SHM_RING_BROKEN;
    copy_out(ring, view->position, header, sizeof(header));
    if (header[0] > room || frame_len(header[0]) > filled)
        return SHM_RING_BROKEN;
    copy_out(ring, view->position + FRAME_HEADER, data, header[0]);
    *len = header[0];
    return SHM_RING_OK;
}

void wi_shm_ring_pop(struct shm_ring_view *view, uint32_t len)
{
    view->position += frame_len(len);
    __atomic_store_n(&view->ring->head, view->position, __ATOMIC_RELEASE);
}
