/*
 * Channels: rings of others' segments that we read, announced in our table. Callers say which channel they mean, so an
 * idle one costs nothing; those with messages stand in a queue.
 */
#include "core/clock.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/shm/shm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CALL_SPINS = 200 }; /* how often an entry is looked for whose call was counted: it is on its way */

static weir_status open_channel(struct shm_iface *shm, struct shm_channel_slot *slot, struct shm_channel **out)
{
    struct shm_name name = slot->sender;
    uint32_t index = slot->ring;
    struct shm_channel *channel = calloc(1, sizeof(*channel));
    if (!channel)
        return wi_error(WEIR_ERR_NO_MEMORY, "shm: out of memory");
    weir_status status =
        index < SHM_RING_MAX && name.pid > 0 && name.fd >= 0
            ? wi_shm_peer_get(shm, &name, &channel->peer)
            : wi_error(WEIR_ERR_PROTOCOL, "shm: a channel announces ring %u of process %d", index, name.pid);
    if (status == WEIR_OK) {
        channel->view.ring = wi_shm_ring_map(&channel->peer->segment, index);
        if (!channel->view.ring) {
            status = wi_error(WEIR_ERR_NO_MEMORY, "ring of process %d: %s", name.pid, strerror(errno));
            wi_shm_peer_put(shm, channel->peer);
        }
    }
    if (status != WEIR_OK) {
        free(channel);
        return status;
    }
    wi_list_init(&channel->ready);
    channel->slot = slot;
    channel->ring = index;
    channel->peer_id = slot->sender_id;
    channel->stream = slot->stream;
    channel->again = slot->again;
    *out = channel;
    return WEIR_OK;
}

/* ---- Channels of one endpoint, from before and after it was connected again ---- */

/* A channel takes its place behind those from before, whatever the order in which they are found. */
static void line_up(struct shm_iface *shm, struct shm_channel *channel)
{
    struct shm_channel *last = NULL, *next = NULL;
    struct wi_list *all = &channel->peer->channels;
    for (struct wi_list *link = all->next; link != all; link = link->next) {
        struct shm_channel *other = WI_LIST_ITEM(link, struct shm_channel, of_peer);
        if (other->stream != channel->stream)
            continue;
        if (other->again < channel->again && (!last || other->again > last->again))
            last = other;
        if (other->again > channel->again && (!next || other->again < next->again))
            next = other;
    }
    channel->after = last;
    shm->followers += last != NULL;
    if (next) {
        shm->followers += next->after == NULL;
        next->after = channel;
        wi_list_remove(&next->ready);
    }
}

/* It has a message, and none of an earlier connection comes before that. */
static void note_message(struct shm_iface *shm, struct shm_channel *channel)
{
    if (!channel->after && wi_list_empty(&channel->ready) && wi_shm_ring_has_message(&channel->view))
        wi_list_append(&shm->ready, &channel->ready);
}

/* The channel goes: what waited for it moves up. */
static void move_up(struct shm_iface *shm, const struct shm_channel *channel)
{
    struct wi_list *all = &channel->peer->channels;
    shm->followers -= channel->after != NULL;
    for (struct wi_list *link = all->next; shm->followers > 0 && link != all; link = link->next) {
        struct shm_channel *other = WI_LIST_ITEM(link, struct shm_channel, of_peer);
        if (other->after != channel)
            continue;
        other->after = channel->after;
        shm->followers -= other->after == NULL;
        note_message(shm, other);
    }
}

/* ---- Life of a channel ---- */

static void accept_slot(struct shm_iface *shm, uint32_t at)
{
    struct shm_channel_slot *slot = &shm->own.channels[at];
    struct shm_channel *channel = NULL;
    if (open_channel(shm, slot, &channel) != WEIR_OK) {
        wi_warn("messages of rank %llu (process %d) cannot be read: %s", (unsigned long long)slot->sender_id,
                slot->sender.pid, weir_last_error());
        __atomic_store_n(&slot->state, SHM_CHANNEL_REFUSED, __ATOMIC_RELEASE);
        return;
    }
    line_up(shm, channel);
    wi_list_append(&shm->channels, &channel->all);
    wi_list_append(&channel->peer->channels, &channel->of_peer);
    shm->by_slot[at] = channel;
    shm->channel_count++;
    __atomic_store_n(&slot->state, SHM_CHANNEL_ACCEPTED, __ATOMIC_RELEASE);
    wi_shm_peer_call(channel->peer, SHM_CALL_RING | channel->ring); /* it may wait for this in a flush */
}

static void close_channel(struct shm_iface *shm, struct shm_channel *channel, enum shm_channel_state slot_state)
{
    if (shm->message_from == channel)
        shm->message_from = NULL;
    wi_list_remove(&channel->all);
    wi_list_remove(&channel->of_peer);
    wi_list_remove(&channel->ready);
    move_up(shm, channel);
    shm->channel_count--;
    shm->by_slot[channel->slot - shm->own.channels] = NULL;
    __atomic_store_n(&channel->slot->state, slot_state, __ATOMIC_RELEASE);
    __atomic_store_n(&channel->view.ring->released, 1, __ATOMIC_RELEASE);
    if (slot_state == SHM_CHANNEL_FREE)
        wi_shm_slot_freed(&shm->own, channel->slot);
    else
        wi_shm_peer_call(channel->peer, SHM_CALL_RING | channel->ring);
    wi_shm_ring_unmap(channel->view.ring);
    wi_shm_peer_put(shm, channel->peer);
    free(channel);
}

static void refuse(struct shm_iface *shm, struct shm_channel *channel, const char *what)
{
    wi_warn("%s of rank %llu: its ring is damaged; it is read no more", what, (unsigned long long)channel->peer_id);
    close_channel(shm, channel, SHM_CHANNEL_REFUSED);
}

/* fetch_add on our own memory for a peer: `request` is a private copy. */
static weir_status carry_out(struct shm_iface *shm, const struct shm_request *request, uint64_t *result)
{
    const struct shm_export *export = request->slot < SHM_SLOT_MAX ? shm->exports[request->slot] : NULL;
    if (!export || export->generation != request->generation)
        return WEIR_ERR_KEY;
    uint64_t offset = request->addr - export->addr;
    if (offset > export->len || export->len - offset < sizeof(uint64_t) || request->addr % sizeof(uint64_t) != 0)
        return WEIR_ERR_RANGE;
    *result = __atomic_fetch_add((uint64_t *)(uintptr_t)request->addr, request->value, __ATOMIC_ACQ_REL);
    return WEIR_OK;
}

/* False: the ring is broken. */
static bool answer_requests(struct shm_iface *shm, struct shm_channel *channel)
{
    struct shm_ring_view *view = &channel->view;
    uint64_t waiting = __atomic_load_n(&view->ring->request_tail, __ATOMIC_ACQUIRE) - view->request;
    if (waiting == 0)
        return true;
    if (waiting > SHM_RING_REQUESTS)
        return false;
    for (; waiting > 0; waiting--, view->request++) {
        struct shm_request *shared = &view->ring->requests[view->request % SHM_RING_REQUESTS];
        struct shm_request request;
        uint64_t result = 0;
        memcpy(&request, shared, sizeof(request));
        __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the compiler may not read again what is checked */
        shared->status = carry_out(shm, &request, &result);
        shared->result = result;
    }
    __atomic_store_n(&view->ring->request_done, view->request, __ATOMIC_RELEASE);
    wi_shm_peer_call(channel->peer, SHM_CALL_RING | channel->ring);
    return true;
}

/* Nothing more comes, and everything that came was taken. */
static bool is_at_end(const struct shm_channel *channel)
{
    bool last = __atomic_load_n(&channel->view.ring->closed, __ATOMIC_ACQUIRE) || channel->peer->gone;
    return last && !wi_shm_ring_has_message(&channel->view);
}

/* Something may have come over it: answers requests, notes messages, closes it at its end. */
static void look_at(struct shm_iface *shm, struct shm_channel *channel)
{
    if (!answer_requests(shm, channel))
        refuse(shm, channel, "requests");
    else if (is_at_end(channel))
        close_channel(shm, channel, SHM_CHANNEL_FREE);
    else
        note_message(shm, channel);
}

void wi_shm_peer_channels_look(struct shm_iface *shm, struct shm_peer *peer)
{
    peer->refs++;
    for (struct wi_list *link = peer->channels.next, *next; link != &peer->channels; link = next) {
        next = link->next;
        look_at(shm, WI_LIST_ITEM(link, struct shm_channel, of_peer));
    }
    wi_shm_peer_put(shm, peer);
}

/* ---- Calls ---- */

/* By a slot that is not read already, whatever a peer has written into it since. */
static bool is_announced(const struct shm_iface *shm, uint32_t at)
{
    return !shm->by_slot[at] && __atomic_load_n(&shm->own.channels[at].state, __ATOMIC_ACQUIRE) == SHM_CHANNEL_READY;
}

static void look_at_all(struct shm_iface *shm)
{
    uint32_t announced = __atomic_load_n(&shm->own.header->announced, __ATOMIC_ACQUIRE);
    if (announced != shm->announced_seen) {
        uint32_t used = __atomic_load_n(&shm->own.header->slots_used, __ATOMIC_ACQUIRE);
        shm->announced_seen = announced;
        for (uint32_t at = 0; at < used && at < SHM_CHANNEL_MAX; at++)
            if (is_announced(shm, at))
                accept_slot(shm, at);
    }
    for (struct wi_list *link = shm->channels.next, *next; link != &shm->channels; link = next) {
        next = link->next;
        look_at(shm, WI_LIST_ITEM(link, struct shm_channel, all));
    }
    wi_shm_eps_poll(shm);
}

/* What a peer says that it has called about. */
static void answer_call(struct shm_iface *shm, uint32_t whom)
{
    uint32_t at = whom & ~SHM_CALL_RING;
    if (whom & SHM_CALL_RING) {
        struct shm_ep *ep = at < shm->fresh_ring ? shm->rings[at].ep : NULL;
        if (ep && ep->pending_count > 0)
            wi_shm_ep_poll(ep);
        return;
    }
    if (at >= SHM_CHANNEL_MAX)
        return;
    if (is_announced(shm, at))
        accept_slot(shm, at);
    if (shm->by_slot[at])
        look_at(shm, shm->by_slot[at]);
}

/* The entry of a call; false: it is not there, or one that came later is. */
static bool read_call(const struct shm_iface *shm, uint32_t number, uint32_t *whom)
{
    for (int turn = 0; turn < CALL_SPINS; turn++) {
        uint64_t entry = __atomic_load_n(&shm->own.calls[number % SHM_CALLS], __ATOMIC_ACQUIRE);
        int32_t ahead = (int32_t)((uint32_t)(entry >> 32) - number);
        *whom = (uint32_t)entry;
        if (ahead == 0)
            return true;
        if (ahead > 0)
            return false;
        wi_cpu_relax();
    }
    return false;
}

/* What was called about was there before the bell rang: who looks at all after that misses none of it. */
void wi_shm_calls_answer(struct shm_iface *shm, uint32_t doorbell)
{
    bool few = shm->channel_count <= SHM_FEW && shm->waiting_count <= SHM_FEW;
    bool all = few || doorbell - shm->doorbell_seen > SHM_CALLS;
    while (!all && shm->doorbell_seen != doorbell) {
        uint32_t whom;
        if (read_call(shm, shm->doorbell_seen + 1, &whom)) {
            shm->doorbell_seen++;
            answer_call(shm, whom);
        } else {
            all = true;
        }
    }
    shm->doorbell_seen = doorbell;
    if (all)
        look_at_all(shm);
}

void wi_shm_channels_close(struct shm_iface *shm)
{
    while (!wi_list_empty(&shm->channels))
        close_channel(shm, WI_LIST_ITEM(shm->channels.next, struct shm_channel, all), SHM_CHANNEL_REFUSED);
}

/* ---- Messages: channels take turns ---- */

struct wi_msg *wi_shm_msg_peek(struct wi_iface *iface)
{
    struct shm_iface *shm = (struct shm_iface *)iface;
    while (!shm->message_from && !wi_list_empty(&shm->ready)) {
        struct shm_channel *channel = WI_LIST_ITEM(shm->ready.next, struct shm_channel, ready);
        enum shm_ring_result result =
            wi_shm_ring_peek(&channel->view, shm->message->data, WEIR_MSG_MAX, &shm->message->len);
        if (result == SHM_RING_OK) {
            shm->message->peer_id = channel->peer_id;
            shm->message_from = channel;
        } else if (result == SHM_RING_AGAIN) {
            wi_list_remove(&channel->ready);
        } else {
            refuse(shm, channel, "messages");
        }
    }
    return shm->message_from ? shm->message : NULL;
}

void wi_shm_msg_pop(struct wi_iface *iface)
{
    struct shm_iface *shm = (struct shm_iface *)iface;
    struct shm_channel *channel = shm->message_from;
    if (!channel)
        return;
    shm->message_from = NULL;
    wi_shm_ring_pop(&channel->view, shm->message->len);
    wi_list_remove(&channel->ready);
    if (is_at_end(channel))
        close_channel(shm, channel, SHM_CHANNEL_FREE);
    else
        note_message(shm, channel);
}
