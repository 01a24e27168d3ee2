/* Channels: rings of others' segments that we read, announced in our table. */
#include "core/error.h"
#include "core/log.h"
#include "transport/shm/shm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
    channel->slot = slot;
    channel->peer_id = slot->sender_id;
    channel->stream = slot->stream;
    channel->again = slot->again;
    *out = channel;
    return WEIR_OK;
}

/* A channel of an endpoint that was connected again takes its place behind those from before. */
static void line_up(struct shm_iface *shm, struct shm_channel *channel)
{
    struct shm_channel *last = NULL, *next = NULL;
    for (struct shm_channel *other = shm->channels; other; other = other->next) {
        if (other->peer != channel->peer || other->stream != channel->stream)
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
    }
}

/* The channel has gone: what waited for it moves up. */
static void move_up(struct shm_iface *shm, const struct shm_channel *channel)
{
    shm->followers -= channel->after != NULL;
    for (struct shm_channel *other = shm->followers ? shm->channels : NULL; other; other = other->next) {
        if (other->after != channel)
            continue;
        other->after = channel->after;
        shm->followers -= other->after == NULL;
        shm->doorbell_seen--; /* have it looked at */
    }
}

static void accept_slot(struct shm_iface *shm, struct shm_channel_slot *slot)
{
    struct shm_channel *channel = NULL;
    if (open_channel(shm, slot, &channel) != WEIR_OK) {
        wi_warn("messages of rank %llu (process %d) cannot be read: %s", (unsigned long long)slot->sender_id,
                slot->sender.pid, weir_last_error());
        __atomic_store_n(&slot->state, SHM_CHANNEL_REFUSED, __ATOMIC_RELEASE);
        return;
    }
    if (channel->again > 0)
        line_up(shm, channel);
    channel->next = shm->channels;
    shm->channels = channel;
    __atomic_store_n(&slot->state, SHM_CHANNEL_ACCEPTED, __ATOMIC_RELEASE);
    wi_shm_peer_notify(channel->peer); /* it may wait for this in a flush */
}

/* First connections come first: a later one of the same stream then finds its place. */
static void accept_new(struct shm_iface *shm)
{
    for (int again = 0; again < 2; again++) {
        for (uint32_t i = 0; i < SHM_CHANNEL_MAX; i++) {
            struct shm_channel_slot *slot = &shm->own.channels[i];
            if (__atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) == SHM_CHANNEL_READY && (slot->again > 0) == again)
                accept_slot(shm, slot);
        }
    }
}

static void close_channel(struct shm_iface *shm, struct shm_channel *channel, enum shm_channel_state slot_state)
{
    if (shm->message_from == channel)
        shm->message_from = NULL;
    move_up(shm, channel);
    __atomic_store_n(&channel->slot->state, slot_state, __ATOMIC_RELEASE);
    __atomic_store_n(&channel->view.ring->released, 1, __ATOMIC_RELEASE);
    wi_shm_ring_unmap(channel->view.ring);
    wi_shm_peer_put(shm, channel->peer);
    free(channel);
}

/* fetch_add on our own memory for a peer: `request` is a private copy. */
static weir_status carry_out(struct shm_iface *shm, const struct shm_request *request, uint64_t *result)
{
    const struct shm_mr *mr = request->region < SHM_REGION_MAX ? shm->regions[request->region] : NULL;
    if (!mr || mr->generation != request->generation)
        return WEIR_ERR_KEY;
    uint64_t offset = request->addr - (uintptr_t)mr->desc.addr;
    if (offset > mr->desc.len || mr->desc.len - offset < sizeof(uint64_t) || request->addr % sizeof(uint64_t) != 0)
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
        shared->status = carry_out(shm, &request, &result);
        shared->result = result;
    }
    __atomic_store_n(&view->ring->request_done, view->request, __ATOMIC_RELEASE);
    wi_shm_peer_notify(channel->peer);
    return true;
}

/* Nothing more comes, and everything that came was taken. */
static bool is_at_end(const struct shm_channel *channel)
{
    bool last = __atomic_load_n(&channel->view.ring->closed, __ATOMIC_ACQUIRE) || channel->peer->gone;
    return last && !wi_shm_ring_has_message(&channel->view);
}

void wi_shm_channels_scan(struct shm_iface *shm)
{
    uint32_t announced = __atomic_load_n(&shm->own.header->announced, __ATOMIC_ACQUIRE);
    if (announced != shm->announced_seen) {
        shm->announced_seen = announced;
        accept_new(shm);
    }
    for (struct shm_channel **link = &shm->channels; *link;) {
        struct shm_channel *channel = *link;
        bool sound = answer_requests(shm, channel);
        if (sound && !is_at_end(channel)) {
            link = &channel->next;
            continue;
        }
        if (!sound)
            wi_warn("requests of rank %llu: its ring is damaged; it is read no more",
                    (unsigned long long)channel->peer_id);
        *link = channel->next;
        close_channel(shm, channel, sound ? SHM_CHANNEL_FREE : SHM_CHANNEL_REFUSED);
    }
    shm->maybe_messages = true;
}

void wi_shm_channels_close(struct shm_iface *shm)
{
    while (shm->channels) {
        struct shm_channel *channel = shm->channels;
        shm->channels = channel->next;
        close_channel(shm, channel, SHM_CHANNEL_REFUSED);
    }
}

/* Moves a channel to the end of the list, so that all get their turn. */
static void move_last(struct shm_iface *shm, struct shm_channel *channel)
{
    struct shm_channel **link = &shm->channels;
    while (*link != channel)
        link = &(*link)->next;
    *link = channel->next;
    channel->next = NULL;
    while (*link)
        link = &(*link)->next;
    *link = channel;
}

static void drop_broken(struct shm_iface *shm, struct shm_channel **link)
{
    struct shm_channel *channel = *link;
    wi_warn("messages of rank %llu: its ring is damaged; it is read no more", (unsigned long long)channel->peer_id);
    *link = channel->next;
    close_channel(shm, channel, SHM_CHANNEL_REFUSED);
}

struct wi_msg *wi_shm_msg_peek(struct wi_iface *iface)
{
    struct shm_iface *shm = (struct shm_iface *)iface;
    if (shm->message_from)
        return shm->message;
    if (!shm->maybe_messages)
        return NULL;
    for (struct shm_channel **link = &shm->channels; *link;) {
        struct shm_channel *channel = *link;
        enum shm_ring_result result =
            channel->after ? SHM_RING_AGAIN
                           : wi_shm_ring_peek(&channel->view, shm->message->data, WEIR_MSG_MAX, &shm->message->len);
        if (result == SHM_RING_BROKEN) {
            drop_broken(shm, link);
        } else if (result == SHM_RING_AGAIN) {
            link = &channel->next;
        } else {
            shm->message->peer_id = channel->peer_id;
            shm->message_from = channel;
            return shm->message;
        }
    }
    shm->maybe_messages = false;
    return NULL;
}

void wi_shm_msg_pop(struct wi_iface *iface)
{
    struct shm_iface *shm = (struct shm_iface *)iface;
    struct shm_channel *channel = shm->message_from;
    if (!channel)
        return;
    shm->message_from = NULL;
    wi_shm_ring_pop(&channel->view, shm->message->len);
    if (is_at_end(channel))
        shm->doorbell_seen--; /* the next progress drops it */
    move_last(shm, channel);
}
