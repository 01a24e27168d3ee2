/*
 * Fuzzes what an interface over shared memory reads of its peers: announced channels, rings of messages and requests,
 * all of which a peer may change at any time. Shared memory is ordinary memory here, of exact size.
 */
#include "bytes_of.h"
#include "transport/shm/shm.h"

#include <stdlib.h>

enum { PEERS = 3, RINGS = 2 * PEERS, SLOTS = 8, WORDS = 8 };

static struct shm_ring *rings[RINGS]; /* two of each peer */
static struct shm_peer peers[PEERS];
static unsigned maps[RINGS];

weir_status wi_shm_peer_get(struct shm_iface *shm, const struct shm_name *name, struct shm_peer **peer)
{
    (void)shm;
    check(name->pid > 0 && name->fd >= 0);
    if (name->pid > PEERS)
        return WEIR_ERR_PEER_UNREACHABLE;
    *peer = &peers[name->pid - 1];
    (*peer)->refs++;
    return WEIR_OK;
}

void wi_shm_peer_put(struct shm_iface *shm, struct shm_peer *peer)
{
    (void)shm;
    check(peer >= peers && peer < peers + PEERS);
    peer->refs--;
}

void wi_shm_peer_call(struct shm_peer *peer, uint32_t whom)
{
    check(peer >= peers && peer < peers + PEERS);
    check((whom & ~SHM_CALL_RING) < SHM_RING_MAX);
}

void wi_shm_slot_freed(const struct shm_segment *segment, const struct shm_channel_slot *slot)
{
    check(slot >= segment->channels && slot < segment->channels + SLOTS);
}

unsigned wi_shm_ep_poll(struct shm_ep *ep)
{
    check(ep->pending_count > 0);
    return 0;
}

unsigned wi_shm_eps_poll(struct shm_iface *shm)
{
    check(wi_list_empty(&shm->waiting));
    return 0;
}

struct shm_ring *wi_shm_ring_map(const struct shm_segment *segment, uint32_t index)
{
    check(index < SHM_RING_MAX);
    int peer = (int)((const struct shm_peer *)(const void *)((const char *)segment -
                                                            offsetof(struct shm_peer, segment)) -
                     peers);
    int ring = 2 * peer + (int)index;
    if (index > 1 || maps[ring] > 0) /* a ring is read once here, so that what it holds is one channel's */
        return NULL;
    maps[ring]++;
    return rings[ring];
}

void wi_shm_ring_unmap(struct shm_ring *ring)
{
    for (int i = 0; i < RINGS; i++)
        maps[i] -= ring == rings[i];
}

/* ---- What a peer may write ---- */

static void announce(struct shm_iface *shm, struct bytes_of *input)
{
    struct shm_channel_slot *slot = &shm->own.channels[take_byte(input) % SLOTS];
    uint8_t ring = take_byte(input);
    slot->ring = ring % 32 ? ring & 1u : take_word(input);
    slot->stream = ring >> 1 & 1;
    slot->again = ring >> 6;
    slot->sender.pid = take_byte(input) % 6;
    slot->sender.fd = (int8_t)take_byte(input);
    slot->sender_id = take_byte(input);
    /* Only a free slot is claimed by a peer that keeps to the rules. */
    if (slot->state != SHM_CHANNEL_ACCEPTED || take_byte(input) % 8 == 1)
        slot->state = take_byte(input) % 8 ? SHM_CHANNEL_READY : take_byte(input);
    shm->own.header->slots_used = take_byte(input) % 64 ? SLOTS : take_word(input);
    shm->own.header->announced++;
}

/* Calls, with entries that may be missing or name anything. */
static void call(struct shm_iface *shm, struct bytes_of *input)
{
    for (int i = take_byte(input) % 8; i > 0; i--) {
        uint32_t number = ++shm->own.header->doorbell, whom = take_byte(input);
        whom = whom % 16 ? whom % SLOTS : take_word(input);
        if (whom != 7 * SLOTS)
            shm->own.calls[number % SHM_CALLS] = (uint64_t)number << 32 | whom;
    }
    if (take_byte(input) % 16 == 0)
        shm->own.header->doorbell += take_word(input);
}

/* As the sender would, with a length that may be wrong. */
static void write_message(struct shm_ring *ring, struct bytes_of *input)
{
    struct shm_ring_view view = {.ring = ring, .position = ring->tail};
    unsigned char data[300];
    size_t len = take_byte(input);
    memset(data, (int)len, len);
    if (wi_shm_ring_push(&view, data, len) == SHM_RING_OK && take_byte(input) % 8 == 0)
        memcpy(ring->data + (ring->tail - (len + 15) / 8 * 8) % SHM_RING_DATA / 8 * 8, &(uint32_t){take_word(input)}, 4);
}

static void write_request(struct shm_ring *ring, struct bytes_of *input, const struct shm_export *export)
{
    struct shm_request *request = &ring->requests[ring->request_tail++ % SHM_RING_REQUESTS];
    request->slot = take_byte(input) % 4;
    request->generation = take_byte(input) % 4 ? export->generation : take_byte(input);
    request->addr = export->addr + (int8_t)take_byte(input) * (take_byte(input) % 8 ? 8 : 1);
    request->value = take_byte(input);
}

static void scribble(struct shm_ring *ring, struct bytes_of *input)
{
    uint64_t word = take_word(input);
    switch (take_byte(input) % 6) {
    case 0:
        ring->tail += word % 70000;
        break;
    case 1:
        ring->tail = word << 32 | word;
        break;
    case 2:
        ring->request_tail += word % 70;
        break;
    case 3:
        ring->request_tail = word << 32 | word;
        break;
    case 4:
        ring->closed = word & 1;
        break;
    default:
        memcpy(ring->data + word % (SHM_RING_DATA - 4), &word, 4);
        break;
    }
}

/* ---- The interface ---- */

static uint32_t slots_read(const struct shm_iface *shm)
{
    uint32_t count = 0;
    for (int at = 0; at < SLOTS; at++)
        count += shm->by_slot[at] != NULL;
    return count;
}

static void look(struct shm_iface *shm, struct bytes_of *input)
{
    wi_shm_calls_answer(shm, shm->own.header->doorbell);
    check(slots_read(shm) == shm->channel_count); /* each once */
    for (int i = 0; i < PEERS && take_byte(input) % 8 == 0; i++)
        wi_shm_peer_channels_look(shm, &peers[i]);
    for (int i = take_byte(input) % 8; i > 0; i--) {
        struct wi_msg *msg = wi_shm_msg_peek(&shm->base);
        if (!msg)
            return;
        check(msg->len <= WEIR_MSG_MAX);
        wi_shm_msg_pop(&shm->base);
    }
}

static void one_turn(struct shm_iface *shm, struct bytes_of *input, const struct shm_export *export)
{
    uint8_t what = take_byte(input);
    struct shm_ring *ring = rings[what / 8 % RINGS];
    switch (what % 8) {
    case 0:
    case 1:
        announce(shm, input);
        break;
    case 2:
        write_message(ring, input);
        break;
    case 3:
        write_request(ring, input, export);
        break;
    case 4:
        scribble(ring, input);
        break;
    case 5:
        call(shm, input);
        break;
    case 6:
        peers[what / 8 % PEERS].gone = what & 0x80;
        break;
    default:
        look(shm, input);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct shm_iface *shm;
    static struct shm_export *exports[SHM_SLOT_MAX];
    struct bytes_of input = {data, size};
    uint64_t *memory = calloc(WORDS, sizeof(*memory)); /* what requests may add to */
    struct shm_export export = {.addr = (uintptr_t)memory, .len = WORDS * sizeof(*memory), .slot = 1, .generation = 77};
    if (!shm) {
        shm = calloc(1, sizeof(*shm));
        shm->own.header = aligned_alloc(64, sizeof(*shm->own.header));
        shm->own.channels = aligned_alloc(64, SHM_CHANNEL_MAX * sizeof(*shm->own.channels));
        memset(shm->own.channels, 0, SHM_CHANNEL_MAX * sizeof(*shm->own.channels));
        shm->own.calls = calloc(SHM_CALLS, sizeof(*shm->own.calls));
        shm->by_slot = calloc(SHM_CHANNEL_MAX, sizeof(struct shm_channel *));
        shm->rings = calloc(SHM_RING_MAX, sizeof(*shm->rings));
        wi_list_init(&shm->channels);
        wi_list_init(&shm->waiting);
        wi_list_init(&shm->ready);
        shm->message = malloc(sizeof(*shm->message) + WEIR_MSG_MAX);
        shm->exports = exports;
        for (int i = 0; i < RINGS; i++)
            rings[i] = aligned_alloc(4096, sizeof(*rings[i]));
    }
    memset(shm->own.header, 0, sizeof(*shm->own.header));
    memset(shm->own.channels, 0, SLOTS * sizeof(*shm->own.channels));
    memset(shm->own.calls, 0, SHM_CALLS * sizeof(*shm->own.calls));
    for (int i = 0; i < RINGS; i++) {
        memset(rings[i], 0, offsetof(struct shm_ring, data) + 4096);
        peers[i / 2] = (struct shm_peer){0};
        wi_list_init(&peers[i / 2].channels);
    }
    shm->announced_seen = shm->doorbell_seen = 0;
    exports[1] = &export;
    for (int turn = 0; turn < 100 && input.left > 0; turn++)
        one_turn(shm, &input, &export);
    wi_shm_channels_close(shm);
    check(shm->channel_count == 0 && shm->followers == 0 && wi_list_empty(&shm->ready));
    for (int i = 0; i < RINGS; i++)
        check(peers[i / 2].refs == 0 && maps[i] == 0);
    free(memory);
    return 0;
}
