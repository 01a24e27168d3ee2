/* Where frames go in a ring, and how they are read out. */
#include "ps/ring.h"

#include <string.h>

bool wi_ps_ring_room(const struct wi_ps_producer *producer, uint32_t min, uint32_t max, struct wi_ps_slot *slot)
{
    uint64_t free = producer->size - (producer->head - producer->consumed);
    uint64_t to_end = producer->size - producer->head % producer->size;
    uint64_t need = WI_PS_LINE + wi_ps_round_up(min);
    slot->position = producer->head;
    slot->pad = 0;
    if (to_end < need) {
        slot->pad = to_end;
        to_end = producer->size;
        free = free < slot->pad ? 0 : free - slot->pad;
    }
    uint64_t room = free < to_end ? free : to_end;
    if (room < need)
        return false;
    room -= WI_PS_LINE;
    slot->payload = room < max ? (uint32_t)room : max;
    return true;
}

void wi_ps_ring_advance(struct wi_ps_producer *producer, const struct wi_ps_slot *slot, uint32_t payload)
{
    producer->head += slot->pad + WI_PS_LINE + wi_ps_round_up(payload);
}

bool wi_ps_ring_credit(struct wi_ps_producer *producer, uint64_t consumed)
{
    if (consumed < producer->consumed || consumed > producer->head || consumed % WI_PS_LINE != 0)
        return false;
    producer->consumed = consumed;
    return true;
}

const char *wi_ps_ring_read(const struct wi_ps_consumer *consumer, struct wi_ps_request *request, const void **payload)
{
    const unsigned char *frame = consumer->base + consumer->tail % consumer->size;
    memcpy(request, frame, sizeof(*request)); /* the client can change it while we look */
    *payload = frame + WI_PS_LINE;
    return wi_ps_request_check(request, consumer->tail, consumer->size);
}

void wi_ps_ring_consume(struct wi_ps_consumer *consumer, const struct wi_ps_request *request)
{
    consumer->tail += WI_PS_LINE + wi_ps_round_up(request->payload);
    consumer->frames++;
}
