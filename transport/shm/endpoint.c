/* Endpoints: an initiator's side of a connection, with its ring and what is outstanding in it. */
#include "core/clock.h"
#include "core/error.h"
#include "transport/shm/shm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEFT_LOOKS = 4 }; /* at rings that were left, for one to use again, before another one is taken into use */

weir_status wi_shm_ep_create(struct wi_iface *iface, const void *address, size_t len, struct weir_ep **out)
{
    struct shm_iface *shm = (struct shm_iface *)iface;
    struct shm_name name;
    if (len != sizeof(name))
        return wi_error(WEIR_ERR_PROTOCOL, "shm: an address of %zu bytes instead of %zu", len, sizeof(name));
    memcpy(&name, address, sizeof(name));
    if (name.pid <= 0 || name.fd < 0)
        return wi_error(WEIR_ERR_PROTOCOL, "shm: the address names process %d, descriptor %d", name.pid, name.fd);
    struct shm_ep *ep = calloc(1, sizeof(*ep));
    if (!ep)
        return wi_error(WEIR_ERR_NO_MEMORY, "shm: out of memory");
    weir_status status = wi_shm_peer_get(shm, &name, &ep->peer);
    if (status != WEIR_OK) {
        free(ep);
        return status;
    }
    ep->shm = shm;
    ep->stream = shm->next_stream++;
    wi_list_init(&ep->waiting);
    wi_list_append(&shm->eps, &ep->all);
    wi_list_append(&ep->peer->eps, &ep->of_peer);
    *out = &ep->base;
    return WEIR_OK;
}

/* The peer's memory is at hand already: opening it takes no step of the peer. */
weir_status wi_shm_ep_connect(struct weir_ep *base)
{
    const struct shm_peer *peer = ((struct shm_ep *)base)->peer;
    if (peer->gone)
        return wi_error(WEIR_ERR_PEER_UNREACHABLE, "process %d has ended or has closed its context", peer->name.pid);
    base->ready = true;
    return WEIR_OK;
}

void wi_shm_ep_query(const struct weir_ep *ep, weir_ep_attr *attr)
{
    (void)ep;
    attr->max_inline = SIZE_MAX;
    attr->ordered_writes = 1;
    attr->native_signal = 1;
}

static void waits_no_more(struct shm_ep *ep)
{
    wi_list_remove(&ep->waiting);
    ep->shm->waiting_count--;
}

static void end_all_pending(struct shm_ep *ep, weir_status status)
{
    if (ep->pending_count > 0)
        waits_no_more(ep);
    for (; ep->pending_count > 0; ep->pending_count--)
        wi_comp_end(ep->pending[ep->pending_head++ % SHM_PENDING_MAX].comp, status);
}

void wi_shm_ep_fail(struct shm_ep *ep, weir_status status, const char *sentence)
{
    wi_ep_fail(&ep->base, status, "%s", sentence);
    end_all_pending(ep, status);
}

weir_status wi_shm_ep_left(struct shm_ep *ep)
{
    char sentence[128];
    if (ep->base.status != WEIR_OK)
        return weir_ep_status(&ep->base);
    bool closed = __atomic_load_n(&ep->peer->segment.header->closed, __ATOMIC_ACQUIRE);
    snprintf(sentence, sizeof(sentence), "rank %llu: process %d %s", (unsigned long long)ep->base.peer_id,
             ep->peer->name.pid, closed ? "has closed its context" : "has ended");
    wi_shm_ep_fail(ep, WEIR_ERR_PEER_GONE, sentence);
    return wi_error(WEIR_ERR_PEER_GONE, "%s", sentence);
}

void wi_shm_ep_call(struct shm_ep *ep)
{
    wi_shm_peer_call(ep->peer, (uint32_t)(ep->slot - ep->peer->segment.channels));
}

/* The target reads the ring to its end also after this. Takes over the endpoint's count of the peer. */
static void leave_ring(struct shm_ep *ep)
{
    struct shm_own_ring *own = ep->own_ring;
    uint32_t refused = SHM_CHANNEL_REFUSED;
    bool unread = __atomic_compare_exchange_n(&ep->slot->state, &refused, SHM_CHANNEL_FREE, false, __ATOMIC_ACQ_REL,
                                              __ATOMIC_RELAXED);
    if (unread)
        wi_shm_slot_freed(&ep->peer->segment, ep->slot);
    own->ep = NULL;
    if (unread || ep->peer->gone) {
        wi_list_append(&ep->shm->free_rings, &own->link);
        wi_shm_peer_put(ep->shm, ep->peer);
        return;
    }
    __atomic_store_n(&own->ring->closed, 1, __ATOMIC_RELEASE);
    wi_shm_ep_call(ep);
    own->reader = ep->peer;
    wi_list_append(&ep->shm->left, &own->link);
}

void wi_shm_ep_close(struct weir_ep *base)
{
    struct shm_ep *ep = (struct shm_ep *)base;
    end_all_pending(ep, WEIR_ERR_CANCELED);
    wi_list_remove(&ep->all);
    wi_list_remove(&ep->of_peer);
    if (ep->own_ring)
        leave_ring(ep);
    else
        wi_shm_peer_put(ep->shm, ep->peer);
    free(ep);
}

/* The ring is left to the target; the next one is announced as the same stream's. */
weir_status wi_shm_ep_reset(struct weir_ep *base)
{
    struct shm_ep *ep = (struct shm_ep *)base;
    end_all_pending(ep, base->status);
    if (ep->own_ring) {
        ep->peer->refs++; /* leave_ring() gives the endpoint's count away */
        leave_ring(ep);
    }
    ep->own_ring = NULL;
    ep->slot = NULL;
    ep->again++;
    return WEIR_OK;
}

void wi_shm_rings_collect(struct shm_iface *shm, uint32_t looks)
{
    struct wi_list *last = shm->left.prev, *link;
    bool more = !wi_list_empty(&shm->left);
    for (; more && looks > 0; looks--) {
        link = shm->left.next;
        more = link != last;
        wi_list_remove(link);
        struct shm_own_ring *own = WI_LIST_ITEM(link, struct shm_own_ring, link);
        if (!own->reader->gone && !__atomic_load_n(&own->ring->released, __ATOMIC_ACQUIRE)) {
            wi_list_append(&shm->left, link);
            continue;
        }
        wi_shm_peer_put(shm, own->reader);
        own->reader = NULL;
        wi_list_append(&shm->free_rings, link);
    }
}

/* One that was used before, if there is one; NULL: all are in use. */
static struct shm_own_ring *find_ring(struct shm_iface *shm)
{
    if (wi_list_empty(&shm->free_rings))
        wi_shm_rings_collect(shm, shm->fresh_ring < SHM_RING_MAX ? LEFT_LOOKS : SHM_RING_MAX);
    if (!wi_list_empty(&shm->free_rings))
        return WI_LIST_ITEM(shm->free_rings.next, struct shm_own_ring, link);
    if (shm->fresh_ring == SHM_RING_MAX)
        return NULL;
    struct shm_own_ring *own = &shm->rings[shm->fresh_ring++];
    wi_list_append(&shm->free_rings, &own->link);
    return own;
}

static weir_status take_ring(struct shm_ep *ep, uint32_t *index)
{
    struct shm_iface *shm = ep->shm;
    struct shm_own_ring *own = find_ring(shm);
    if (!own)
        return wi_error(WEIR_ERR_LIMIT, "rank %llu: all %d rings of messages are in use; close endpoints that are not needed",
                        (unsigned long long)ep->base.peer_id, SHM_RING_MAX);
    *index = (uint32_t)(own - shm->rings);
    if (!own->ring && !(own->ring = wi_shm_ring_map(&shm->own, *index)))
        return wi_error(WEIR_ERR_NO_MEMORY, "rank %llu: no memory for a ring of messages: %s",
                        (unsigned long long)ep->base.peer_id, strerror(errno));
    own->ring->tail = own->ring->head = 0;
    own->ring->request_tail = own->ring->request_done = 0;
    own->ring->closed = own->ring->released = 0;
    wi_list_remove(&own->link);
    own->ep = ep;
    ep->own_ring = own;
    ep->view = (struct shm_ring_view){.ring = own->ring};
    return WEIR_OK;
}

/* Tells the owner how far its table was ever used, before it is told of the slot. */
static void note_used(struct shm_header *header, uint32_t end)
{
    uint32_t used = __atomic_load_n(&header->slots_used, __ATOMIC_RELAXED);
    while (used < end && !__atomic_compare_exchange_n(&header->slots_used, &used, end, false, __ATOMIC_RELEASE,
                                                      __ATOMIC_RELAXED))
        ;
}

/* The first one that is free: the hint is past those that were in use, and goes back when one of them is freed. */
static struct shm_channel_slot *claim_slot(struct shm_ep *ep)
{
    const struct shm_segment *segment = &ep->peer->segment;
    uint32_t first = __atomic_load_n(&segment->header->slot_hint, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < SHM_CHANNEL_MAX; i++) {
        uint32_t at = (first + i) % SHM_CHANNEL_MAX, none = SHM_CHANNEL_FREE;
        struct shm_channel_slot *slot = &segment->channels[at];
        if (!__atomic_compare_exchange_n(&slot->state, &none, SHM_CHANNEL_CLAIMED, false, __ATOMIC_ACQUIRE,
                                         __ATOMIC_RELAXED))
            continue;
        __atomic_store_n(&segment->header->slot_hint, at + 1, __ATOMIC_RELAXED);
        note_used(segment->header, at + 1);
        return slot;
    }
    return NULL;
}

weir_status wi_shm_ep_need_ring(struct shm_ep *ep)
{
    if (ep->own_ring)
        return WEIR_OK;
    uint32_t index = 0;
    weir_status status = take_ring(ep, &index);
    if (status != WEIR_OK)
        return status;
    ep->slot = claim_slot(ep);
    if (!ep->slot) {
        wi_list_append(&ep->shm->free_rings, &ep->own_ring->link);
        ep->own_ring->ep = NULL;
        ep->own_ring = NULL;
        return wi_error(WEIR_ERR_LIMIT, "rank %llu: %d peers send messages to it already",
                        (unsigned long long)ep->base.peer_id, SHM_CHANNEL_MAX);
    }
    ep->slot->ring = index;
    ep->slot->sender = ep->shm->name;
    ep->slot->sender_id = ep->shm->base.params.id;
    ep->slot->stream = ep->stream;
    ep->slot->again = ep->again;
    __atomic_store_n(&ep->slot->state, SHM_CHANNEL_READY, __ATOMIC_RELEASE);
    __atomic_fetch_add(&ep->peer->segment.header->announced, 1, __ATOMIC_RELEASE);
    return WEIR_OK;
}

void wi_shm_ep_add_pending(struct shm_ep *ep, uint64_t *result, weir_comp *comp)
{
    if (ep->pending_count == 0) {
        ep->waiting_since_ns = wi_now_ns();
        wi_list_append(&ep->shm->waiting, &ep->waiting);
        ep->shm->waiting_count++;
    }
    ep->pending[(ep->pending_head + ep->pending_count) % SHM_PENDING_MAX] =
        (struct shm_pending){.request = ep->view.request, .result = result, .comp = comp};
    ep->pending_count++;
    wi_comp_start(comp);
}

bool wi_shm_ep_is_flushed(const struct shm_ep *ep)
{
    if (!ep->own_ring)
        return true;
    /* Once the target has the ring mapped it can read what is there, whatever becomes of us. */
    return ep->pending_count == 0 && __atomic_load_n(&ep->slot->state, __ATOMIC_ACQUIRE) == SHM_CHANNEL_ACCEPTED;
}

/* Ends the first pending operation if it was answered. */
static bool end_first(struct shm_ep *ep, uint64_t done)
{
    const struct shm_pending *pending = &ep->pending[ep->pending_head % SHM_PENDING_MAX];
    weir_status status = WEIR_OK;
    if (done < pending->request)
        return false;
    if (pending->result) {
        const struct shm_request *request = &ep->view.ring->requests[(pending->request - 1) % SHM_RING_REQUESTS];
        status = request->status == WEIR_OK ? WEIR_OK : WEIR_ERR_KEY;
        if (status == WEIR_OK)
            *pending->result = request->result;
    } else if (__atomic_load_n(&ep->slot->state, __ATOMIC_ACQUIRE) != SHM_CHANNEL_ACCEPTED) {
        return false;
    }
    ep->pending_head++;
    if (--ep->pending_count == 0)
        waits_no_more(ep);
    wi_comp_end(pending->comp, status);
    return true;
}

unsigned wi_shm_ep_poll(struct shm_ep *ep)
{
    unsigned events = 0;
    uint64_t done = __atomic_load_n(&ep->view.ring->request_done, __ATOMIC_ACQUIRE);
    if (done > ep->view.request) {
        wi_shm_ep_fail(ep, WEIR_ERR_PROTOCOL, "the peer answered requests that were not made: its memory is damaged");
        return 1;
    }
    while (ep->pending_count > 0 && end_first(ep, done))
        events++;
    if (events > 0)
        ep->waiting_since_ns = wi_now_ns();
    else if (__atomic_load_n(&ep->slot->state, __ATOMIC_ACQUIRE) == SHM_CHANNEL_REFUSED)
        wi_shm_ep_fail(ep, WEIR_ERR_PEER_UNREACHABLE,
                       "the peer cannot open this process's memory, or found damage in it; its log tells why");
    return events;
}

unsigned wi_shm_eps_poll(struct shm_iface *shm)
{
    unsigned events = 0;
    for (struct wi_list *link = shm->waiting.next, *next; link != &shm->waiting; link = next) {
        next = link->next;
        events += wi_shm_ep_poll(WI_LIST_ITEM(link, struct shm_ep, waiting));
    }
    return events;
}
