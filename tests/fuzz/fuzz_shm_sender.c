/*
 * Fuzzes the sender's side of shared memory: what an endpoint reads while its peer changes it as it likes, that is the
 * ring's head, the answers to requests, the state of its slot, and the hints in the peer's header. Shared memory is
 * ordinary memory here, of exact size. Whatever the peer does, each operation that was posted ends, once.
 */
#include "bytes_of.h"
#include "ep_fail.h"
#include "transport/shm/shm.h"

#include <stdio.h>
#include <stdlib.h>

enum { EPS = 3, COMPS = 16, SIGNALS = 4, WORDS = 8, TURNS = 100 };

static struct shm_iface *shm;
static struct shm_peer peer;
static struct shm_ring *rings[2 * EPS]; /* ours */
static unsigned ring_count;
static struct weir_ep *eps[EPS];
static weir_comp comps[COMPS];
static struct shm_channel_slot *claimed[TURNS * EPS];
static unsigned claimed_count;

/* ---- The rest of the backend ---------------------------------------------------------------------------------------- */

weir_status wi_shm_peer_get(struct shm_iface *iface, const struct shm_name *name, struct shm_peer **found)
{
    check(iface == shm && name->pid == 1);
    *found = &peer;
    peer.refs++;
    return WEIR_OK;
}

void wi_shm_peer_put(struct shm_iface *iface, struct shm_peer *one)
{
    check(iface == shm && one == &peer && peer.refs > 0);
    peer.refs--;
}

void wi_shm_peer_call(struct shm_peer *one, uint32_t whom)
{
    check(one == &peer && whom < SHM_CHANNEL_MAX);
}

void wi_shm_peer_wake(struct shm_peer *one)
{
    check(one == &peer);
}

unsigned wi_shm_check_peers(struct shm_iface *iface)
{
    check(iface == shm);
    return 0;
}

void wi_shm_slot_freed(const struct shm_segment *segment, const struct shm_channel_slot *slot)
{
    check(segment == &peer.segment && slot >= segment->channels && slot < segment->channels + SHM_CHANNEL_MAX);
}

struct shm_ring *wi_shm_ring_map(const struct shm_segment *segment, uint32_t index)
{
    check(segment == &shm->own && index == ring_count);
    return ring_count < 2 * EPS ? rings[ring_count++] : NULL;
}

/* ---- What the peer may write ---------------------------------------------------------------------------------------- */

static void scribble(struct bytes_of *input, struct shm_ring *ring, struct shm_channel_slot *slot)
{
    uint64_t word = take_word(input);
    switch (take_byte(input) % 8) {
    case 0:
        ring->head += word % 70000;
        break;
    case 1:
        ring->head = word << 32 | word;
        break;
    case 2:
        ring->request_done += word % 70;
        break;
    case 3:
        ring->request_done = word << 32 | word;
        break;
    case 4:
        ring->requests[word % SHM_RING_REQUESTS].status = (uint32_t)(word >> 8) % 40;
        break;
    case 5:
        ring->released = word & 1;
        break;
    case 6:
        peer.segment.header->slot_hint = (uint32_t)word;
        peer.segment.header->slots_used = (uint32_t)word >> 16;
        break;
    default:
        slot->state = word % 8 ? (uint32_t)word % 8 : (uint32_t)word;
        slot->ring = (uint32_t)word;
        break;
    }
}

/* Takes messages and answers as it should. */
static void answer(struct shm_ring *ring, struct shm_channel_slot *slot)
{
    if (slot->state == SHM_CHANNEL_READY)
        slot->state = SHM_CHANNEL_ACCEPTED;
    ring->head = ring->tail;
    ring->request_done = ring->request_tail;
}

/* ---- The sender ------------------------------------------------------------------------------------------------------ */

/* Nothing is written over what the head says was not read. */
static void send_message(struct weir_ep *ep, const void *data, size_t len)
{
    const struct shm_ring_view *view = &((const struct shm_ep *)ep)->view;
    if (wi_shm_send(ep, data, len) == WEIR_OK)
        check(view->ring->tail == view->position && view->ring->tail - view->ring->head <= SHM_RING_DATA);
}

/* Answers to what was not asked end the endpoint. */
static void poll_all(void)
{
    bool lies[EPS];
    for (int i = 0; i < EPS; i++) {
        const struct shm_ep *ep = (const struct shm_ep *)eps[i];
        lies[i] = ep->pending_count > 0 && ep->view.ring->request_done > ep->view.request;
    }
    wi_shm_eps_poll(shm);
    for (int i = 0; i < EPS; i++)
        check(!lies[i] || (eps[i]->status == WEIR_ERR_PROTOCOL && ((const struct shm_ep *)eps[i])->pending_count == 0));
}

static void operate(struct bytes_of *input, struct weir_ep *ep)
{
    static uint64_t result, remote[WORDS], generation = 5;
    struct shm_rkey rkey = {.base = {.addr = (uintptr_t)remote, .ep = ep}, .generation_now = &generation, .generation = 5};
    weir_comp *comp = &comps[take_byte(input) % COMPS];
    uint8_t data[256] = {1};
    if (ep->status != WEIR_OK)
        return;
    switch (take_byte(input) % 4) {
    case 0:
        send_message(ep, data, take_byte(input));
        break;
    case 1:
        wi_shm_fetch_add(ep, 1, &result, NULL, (uintptr_t)remote, &rkey.base, comp);
        break;
    case 2:
        wi_shm_flush(ep, comp);
        break;
    default:
        wi_shm_put_signal(ep, NULL, NULL, 0, 0, &rkey.base, take_byte(input), comp);
        break;
    }
}

static void one_turn(struct bytes_of *input)
{
    uint8_t what = take_byte(input);
    struct weir_ep **ep = &eps[what / 8 % EPS];
    const struct shm_ep *inside = (const struct shm_ep *)*ep;
    const struct shm_name name = {.pid = 1};
    switch (what % 8) {
    case 0:
    case 1:
    case 2:
        operate(input, *ep);
        break;
    case 3:
        if (inside->own_ring)
            answer(inside->view.ring, inside->slot);
        break;
    case 4:
    case 5:
        if (inside->own_ring)
            scribble(input, inside->view.ring, inside->slot);
        break;
    case 6:
        if (what & 0x80) {
            wi_shm_ep_close(*ep);
            check(wi_shm_ep_create(&shm->base, &name, sizeof(name), ep) == WEIR_OK);
        } else if ((*ep)->status != WEIR_OK) {
            wi_shm_ep_reset(*ep); /* and connected again */
            (*ep)->status = WEIR_OK;
        }
        break;
    default:
        poll_all();
        break;
    }
}

/* ---- The world -------------------------------------------------------------------------------------------------------- */

static void build(void)
{
    shm = calloc(1, sizeof(*shm));
    shm->rings = calloc(SHM_RING_MAX, sizeof(*shm->rings));
    struct shm_segment *segment = &peer.segment;
    segment->header = aligned_alloc(64, sizeof(*segment->header));
    segment->channels = aligned_alloc(64, SHM_CHANNEL_MAX * sizeof(*segment->channels));
    memset(segment->channels, 0, SHM_CHANNEL_MAX * sizeof(*segment->channels));
    segment->signals = calloc(SIGNALS, sizeof(*segment->signals));
    segment->signal_count = SIGNALS;
    for (int i = 0; i < 2 * EPS; i++)
        rings[i] = aligned_alloc(4096, sizeof(*rings[i]));
}

/* Slots that were claimed are few among many: only those are cleared for the next time. */
static void note_slots(void)
{
    for (int i = 0; i < EPS; i++) {
        struct shm_channel_slot *slot = ((const struct shm_ep *)eps[i])->slot;
        if (slot && (claimed_count == 0 || claimed[claimed_count - 1] != slot))
            claimed[claimed_count++] = slot;
    }
}

static void begin(void)
{
    const struct shm_name name = {.pid = 1};
    if (!shm)
        build();
    memset(peer.segment.header, 0, sizeof(*peer.segment.header));
    wi_list_init(&shm->eps);
    wi_list_init(&shm->waiting);
    wi_list_init(&shm->left);
    wi_list_init(&shm->free_rings);
    wi_list_init(&peer.eps);
    memset(shm->rings, 0, (2 * EPS + 1) * sizeof(*shm->rings));
    shm->fresh_ring = ring_count = shm->waiting_count = 0;
    peer.refs = 0;
    memset(comps, 0, sizeof(comps));
    for (int i = 0; i < EPS; i++)
        check(wi_shm_ep_create(&shm->base, &name, sizeof(name), &eps[i]) == WEIR_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes_of input = {data, size};
    begin();
    for (int turn = 0; turn < TURNS && input.left > 0; turn++) {
        one_turn(&input);
        note_slots();
    }
    for (int i = 0; i < EPS; i++)
        wi_shm_ep_close(eps[i]);
    for (int i = 0; i < COMPS; i++)
        check(comps[i].pending == 0);
    while (claimed_count > 0)
        claimed[--claimed_count]->state = SHM_CHANNEL_FREE;
    check(wi_list_empty(&shm->eps) && wi_list_empty(&shm->waiting) && shm->waiting_count == 0);
    return 0;
}
