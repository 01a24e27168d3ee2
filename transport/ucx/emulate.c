/*
 * The initiator's side of operations by active messages: puts in pieces, and questions (gets, fetch_adds) that the
 * target answers in order.
 */
#include "core/error.h"
#include "transport/ucx/ucx.h"

#include <string.h>

static uint64_t key_of(struct weir_rkey *rkey)
{
    return WI_UCX_CONTAINER(rkey, struct wi_ucx_rkey, base)->key;
}

/* The caller has seen that there are slots. `signal` may be WI_UCX_NO_SIGNAL. */
weir_status wi_ucx_emulate_put(struct wi_ucx_ep *ep, const void *local, size_t len, uint64_t remote_addr,
                               struct weir_rkey *rkey, uint64_t signal, weir_comp *comp)
{
    struct wi_ucx_slot *slot = wi_ucx_slot_get(&ep->link, comp);
    struct wi_ucx_put head = {ep->link.peer_token, key_of(rkey), remote_addr, signal};
    wi_ucx_am_fill(slot, WI_UCX_AM_PUT, &head, sizeof(head));
    ep->unacked = true;
    slot->payload = local;
    slot->payload_len = len;
    if (len <= ep->piece && wi_list_empty(&ep->deferred))
        return wi_ucx_am_post(slot);
    slot->number = 0; /* no fence: all is in one lane */
    slot->len = len;
    slot->moved = 0;
    wi_ucx_slot_count(slot);
    wi_list_remove(&slot->node);
    wi_list_append(&ep->deferred, &slot->node);
    wi_ucx_deferred_serve(ep);
    return WEIR_OK;
}

static weir_status post_piece(struct wi_ucx_ep *ep, struct wi_ucx_slot *put)
{
    struct wi_ucx_slot *piece = wi_ucx_slot_get(&ep->link, NULL);
    struct wi_ucx_put head;
    size_t left = put->len - put->moved, len = left < ep->piece ? left : ep->piece;
    memcpy(&head, put->data, sizeof(head));
    head.addr += put->moved;
    if (len < left)
        head.signal = WI_UCX_NO_SIGNAL;
    wi_ucx_am_fill(piece, WI_UCX_AM_PUT, &head, sizeof(head));
    piece->payload = (const char *)put->payload + put->moved;
    piece->payload_len = len;
    piece->whole = put;
    put->moved += len;
    put->pieces++;
    return wi_ucx_am_post(piece);
}

/* Sends as many pieces of the first deferred put as may be under way. The put ends with its last piece. */
void wi_ucx_pieces_post(struct wi_ucx_ep *ep, struct wi_ucx_slot *put)
{
    put->pieces++; /* keeps it from ending in here */
    while (put->moved < put->len && put->pieces <= WI_UCX_PIECES &&
           ep->link.iface->slot_free_count > WI_UCX_SLOTS_RESERVE) {
        if (post_piece(ep, put) != WEIR_OK) {
            wi_ucx_link_end(&ep->link, WEIR_ERR_PEER_GONE, UCS_ERR_CONNECTION_RESET);
            break;
        }
    }
    put->pieces--;
    if (put->moved < put->len) {
        if (put->pieces == 0) /* out of slots: no piece will come back to remind us */
            wi_ucx_todo(&ep->link);
        return;
    }
    wi_list_remove(&put->node);
    wi_list_append(&ep->link.slots, &put->node);
    if (put->pieces == 0)
        wi_ucx_slot_end(put, put->status);
}

/* ---- Questions ---- */

weir_status wi_ucx_ask(struct wi_ucx_ep *ep, enum wi_ucx_am id, void *local, size_t len, uint64_t value,
                       uint64_t remote_addr, struct weir_rkey *rkey, weir_comp *comp)
{
    if (ep->asked - ep->answered >= WI_UCX_QUESTIONS || ep->link.iface->slot_free_count < WI_UCX_SLOTS_RESERVE + 2)
        return WEIR_ERR_AGAIN;
    struct wi_ucx_question question = {ep->link.peer_token, key_of(rkey), remote_addr, value, ep->asked + 1};
    weir_status status = wi_ucx_am_send(&ep->link, id, &question, sizeof(question));
    if (status != WEIR_OK)
        return status;
    struct wi_ucx_slot *slot = wi_ucx_slot_get(&ep->link, comp);
    slot->id = id;
    slot->asked = ++ep->asked;
    slot->local = local;
    slot->len = len;
    slot->moved = 0;
    wi_ucx_slot_count(slot);
    wi_list_remove(&slot->node);
    wi_list_append(&ep->questions, &slot->node);
    return WEIR_OK;
}

/* The question that an answer is to: always the oldest. NULL: the answer cannot be right, that ends the connection. */
static struct wi_ucx_slot *question_of(struct wi_ucx_ep *ep, const struct wi_ucx_reply *reply)
{
    struct wi_ucx_slot *slot = (struct wi_ucx_slot *)(void *)ep->questions.next;
    if (!wi_list_empty(&ep->questions) && slot->asked == reply->number)
        return slot;
    wi_ucx_link_end(&ep->link, WEIR_ERR_PROTOCOL, UCS_ERR_OUT_OF_RANGE);
    return NULL;
}

static void answered(struct wi_ucx_ep *ep, struct wi_ucx_slot *slot, weir_status status)
{
    ep->answered++;
    wi_ucx_slot_end(slot, status);
    if (!wi_list_empty(&ep->flushes))
        wi_ucx_todo(&ep->link);
}

/* A part of what a get reads. */
ucs_status_t wi_ucx_on_data(void *iface, const void *header, size_t header_len, void *data, size_t len,
                            const ucp_am_recv_param_t *params)
{
    struct wi_ucx_reply reply;
    struct wi_ucx_link *link = wi_ucx_am_link(iface, true, header, header_len, params, &reply, sizeof(reply));
    struct wi_ucx_ep *ep = link ? WI_UCX_CONTAINER(link, struct wi_ucx_ep, link) : NULL;
    struct wi_ucx_slot *slot = ep ? question_of(ep, &reply) : NULL;
    if (!slot)
        return UCS_OK;
    if (slot->id != WI_UCX_AM_GET || reply.value != slot->moved || len > slot->len - slot->moved) {
        wi_ucx_link_end(link, WEIR_ERR_PROTOCOL, UCS_ERR_OUT_OF_RANGE);
        return UCS_OK;
    }
    memcpy(slot->local + slot->moved, data, len);
    slot->moved += len;
    if (slot->moved == slot->len)
        answered(ep, slot, WEIR_OK);
    return UCS_OK;
}

/* A fetch_add's result, or a refusal. */
ucs_status_t wi_ucx_on_reply(void *iface, const void *header, size_t header_len, void *data, size_t len,
                             const ucp_am_recv_param_t *params)
{
    (void)header, (void)header_len;
    struct wi_ucx_reply reply;
    struct wi_ucx_link *link = wi_ucx_am_link(iface, true, data, len, params, &reply, sizeof(reply));
    struct wi_ucx_ep *ep = link ? WI_UCX_CONTAINER(link, struct wi_ucx_ep, link) : NULL;
    struct wi_ucx_slot *slot = ep ? question_of(ep, &reply) : NULL;
    if (!slot)
        return UCS_OK;
    if (!reply.refused && slot->id != WI_UCX_AM_FETCH_ADD) {
        wi_ucx_link_end(link, WEIR_ERR_PROTOCOL, UCS_ERR_OUT_OF_RANGE);
        return UCS_OK;
    }
    if (!reply.refused)
        memcpy(slot->local, &reply.value, sizeof(reply.value));
    answered(ep, slot, reply.refused ? WEIR_ERR_KEY : WEIR_OK);
    return UCS_OK;
}
