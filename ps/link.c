/* Writing frames into a server's request ring. */
#include "ps/client.h"

#include <string.h>

/* A frame lies in the mirror: put it where it belongs. */
static weir_status put_frame(struct wi_ps_link *link, uint64_t position, size_t len)
{
    uint64_t offset = position % link->ring.size;
    return weir_put_signal(link->requests.ep, link->mirror + offset, link->mirror_mem, len,
                           link->requests.addr + offset, link->requests.rkey, link->requests.signal, NULL);
}

static void write_header(struct wi_ps_link *link, const struct wi_ps_request *header, uint64_t position)
{
    struct wi_ps_request *frame = (struct wi_ps_request *)(void *)(link->mirror + position % link->ring.size);
    *frame = *header;
    frame->magic = WI_PS_MAGIC;
    frame->version = WI_PS_VERSION;
    frame->position = position;
}

static weir_status put_pad(struct wi_ps_link *link, const struct wi_ps_slot *slot)
{
    struct wi_ps_request header = {.op = WI_PS_PAD, .payload = (uint32_t)(slot->pad - WI_PS_LINE)};
    write_header(link, &header, slot->position);
    return put_frame(link, slot->position, WI_PS_LINE);
}

/* The payload straight from the caller's memory. False: it has to be copied. */
static bool put_direct(struct wi_ps_link *link, const void *payload, uint32_t len, uint64_t position,
                       weir_status *status)
{
    *status = weir_put(link->requests.ep, payload, NULL, len, link->requests.addr + position % link->ring.size,
                       link->requests.rkey, NULL);
    if (*status != WEIR_ERR_KEY)
        return true;
    link->copies = true; /* not registered, and this transport reads no other memory */
    return false;
}

static weir_status post_locked(struct wi_ps_link *link, struct wi_ps_request *header, const void *payload, uint32_t min,
                               uint32_t max, bool direct, uint32_t *sent)
{
    struct wi_ps_slot slot;
    if (!wi_ps_ring_room(&link->ring, min, max, &slot))
        return WEIR_ERR_AGAIN;
    weir_status status = slot.pad ? put_pad(link, &slot) : WEIR_OK;
    if (status != WEIR_OK)
        return status;
    uint64_t position = slot.position + slot.pad, payload_position = position + WI_PS_LINE;
    header->payload = *sent = slot.payload;
    write_header(link, header, position);
    bool there = direct && put_direct(link, payload, slot.payload, payload_position, &status);
    if (!there && slot.payload > 0)
        memcpy(link->mirror + payload_position % link->ring.size, payload, slot.payload);
    if (!there || status == WEIR_OK)
        status = put_frame(link, position, WI_PS_LINE + (there ? 0 : slot.payload));
    if (status == WEIR_OK)
        wi_ps_ring_advance(&link->ring, &slot, slot.payload);
    return status;
}

weir_status wi_ps_link_post(struct wi_ps_link *link, struct wi_ps_request *header, const void *payload, uint32_t min,
                            uint32_t max, bool direct, uint32_t *sent)
{
    pthread_mutex_lock(&link->lock);
    weir_status status = post_locked(link, header, payload, min, max, direct, sent);
    pthread_mutex_unlock(&link->lock);
    return status;
}

weir_status wi_ps_link_send(weir_ps_client *client, struct wi_ps_link *link, struct wi_ps_request *header,
                            const void *payload, uint32_t len)
{
    struct wi_ps_wait wait = {0};
    uint32_t sent;
    weir_status status;
    while ((status = wi_ps_link_post(link, header, payload, len, len, false, &sent)) == WEIR_ERR_AGAIN)
        if ((status = wi_ps_client_turn(client, &wait, NULL, "room in a server's request ring")) != WEIR_OK)
            break;
    return status;
}
