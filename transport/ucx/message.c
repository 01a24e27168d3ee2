/*
 * Active messages: hello and welcome, signals, control messages, flush and acknowledgement. All that a message says is
 * checked; one that cannot be right ends its connection.
 *
 * Control messages are bounded by a window: an initiator has at most WI_UCX_WINDOW messages at a target that the target
 * has not taken, and the target tells in acknowledgements how many it has taken.
 */
#include "core/error.h"
#include "core/log.h"
#include "transport/ucx/ucx.h"

#include <stdlib.h>
#include <string.h>

/* ---- Sending ---- */

void wi_ucx_am_fill(struct wi_ucx_slot *slot, enum wi_ucx_am id, const void *data, size_t len)
{
    _Static_assert(sizeof(struct wi_ucx_hello) <= sizeof(slot->data), "the longest message");
    slot->id = id;
    slot->data_len = (unsigned)len;
    memcpy(slot->data, data, len);
}

/* Sends the slot's message, at once or when UCX can. The slot is used up whatever comes of it. */
weir_status wi_ucx_am_post(struct wi_ucx_slot *slot)
{
    ucp_request_param_t params = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS |
                        UCP_OP_ATTR_FIELD_MEMORY_TYPE,
        .flags = UCP_AM_SEND_FLAG_EAGER | (slot->id == WI_UCX_AM_HELLO ? UCP_AM_SEND_FLAG_REPLY : 0),
        .cb.send = wi_ucx_slot_done,
        .user_data = slot,
        .memory_type = UCS_MEMORY_TYPE_HOST,
    };
    ucs_status_ptr_t result =
        slot->payload ? ucp_am_send_nbx(slot->link->ucp, slot->id, slot->data, slot->data_len, slot->payload,
                                        slot->payload_len, &params)
                      : ucp_am_send_nbx(slot->link->ucp, slot->id, NULL, 0, slot->data, slot->data_len, &params);
    return wi_ucx_slot_started(slot, result, "cannot send a message");
}

/* Sends a short message that is copied. WEIR_ERR_AGAIN: no slot. */
weir_status wi_ucx_am_send(struct wi_ucx_link *link, enum wi_ucx_am id, const void *data, size_t len)
{
    struct wi_ucx_slot *slot = link->ucp ? wi_ucx_slot_get(link, NULL) : NULL;
    if (!slot)
        return WEIR_ERR_AGAIN;
    wi_ucx_am_fill(slot, id, data, len);
    return wi_ucx_am_post(slot);
}

weir_status wi_ucx_send(struct weir_ep *base, const void *data, size_t len)
{
    struct wi_ucx_ep *ep = WI_UCX_CONTAINER(base, struct wi_ucx_ep, base);
    struct wi_ucx_iface *iface = ep->link.iface;
    if (ep->sent - ep->taken >= WI_UCX_WINDOW || !iface->buffer_free || iface->slot_free_count <= WI_UCX_SLOTS_RESERVE)
        return WEIR_ERR_AGAIN;
    struct wi_ucx_slot *slot = wi_ucx_slot_get(&ep->link, NULL);
    slot->buffer = iface->buffer_free;
    memcpy(&iface->buffer_free, slot->buffer, sizeof(iface->buffer_free));
    memcpy(slot->buffer, data, len);
    wi_ucx_am_fill(slot, WI_UCX_AM_MESSAGE, &ep->link.peer_token, sizeof(uint64_t));
    slot->payload = slot->buffer;
    slot->payload_len = len;
    weir_status status = wi_ucx_am_post(slot);
    if (status == WEIR_OK) {
        ep->sent++;
        ep->unacked = true;
    }
    return status;
}

/* ---- Receiving: the callbacks get what a peer sent; a token names the link ---- */

static struct wi_ucx_conn *conn_of(struct wi_ucx_link *link)
{
    return link ? WI_UCX_CONTAINER(link, struct wi_ucx_conn, link) : NULL;
}

/* The link that a message, or head of one, of fixed size is for; NULL: it cannot be right, or its link is gone. */
struct wi_ucx_link *wi_ucx_am_link(void *iface, bool initiator, const void *data, size_t len,
                                   const ucp_am_recv_param_t *params, void *message, size_t size)
{
    if (len != size || (params->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV))
        return NULL;
    memcpy(message, data, size);
    uint64_t token;
    memcpy(&token, message, sizeof(token));
    struct wi_ucx_link *link = wi_ucx_link_find(iface, token, initiator);
    if (!link || link->status != WEIR_OK || !(initiator || conn_of(link)->wanted))
        return NULL;
    return link;
}

static struct wi_ucx_ep *ep_of(struct wi_ucx_link *link)
{
    return link ? WI_UCX_CONTAINER(link, struct wi_ucx_ep, link) : NULL;
}

static void greet(struct wi_ucx_conn *conn, const struct wi_ucx_hello *hello)
{
    struct wi_ucx_iface *iface = conn->link.iface;
    conn->wanted = hello->instance == iface->instance;
    if (conn->wanted && hello->again > 0)
        wi_ucx_conns_end_earlier(iface, hello);
    wi_ucx_conn_greeted(conn, hello);
    conn->welcome_due = true;
    wi_ucx_silence_bound(iface);
    bool rdma;
    conn->piece = wi_ucx_lanes_piece(conn->link.ucp, &rdma);
    iface->rdma |= rdma;
    conn->peer_id = hello->id;
    conn->link.peer_token = hello->token;
    wi_ucx_todo(&conn->link);
}

static ucs_status_t on_hello(void *arg, const void *header, size_t header_len, void *data, size_t len,
                             const ucp_am_recv_param_t *params)
{
    (void)header, (void)header_len;
    struct wi_ucx_iface *iface = arg;
    struct wi_ucx_hello hello;
    if (len != sizeof(hello) || !(params->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) ||
        (params->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV))
        return UCS_OK;
    memcpy(&hello, data, sizeof(hello));
    struct wi_ucx_conn *conn = wi_ucx_conn_stranger(iface, params->reply_ep);
    if (conn && (hello.magic != WI_UCX_MAGIC || hello.version != WI_UCX_VERSION))
        wi_ucx_link_end(&conn->link, WEIR_ERR_PROTOCOL, UCS_ERR_REJECTED);
    else if (conn)
        greet(conn, &hello);
    return UCS_OK;
}

static ucs_status_t on_welcome(void *arg, const void *header, size_t header_len, void *data, size_t len,
                               const ucp_am_recv_param_t *params)
{
    (void)header, (void)header_len;
    struct wi_ucx_welcome welcome;
    struct wi_ucx_ep *ep = ep_of(wi_ucx_am_link(arg, true, data, len, params, &welcome, sizeof(welcome)));
    if (!ep || ep->base.ready)
        return UCS_OK;
    if (!welcome.wanted) {
        ep->target_refused = true;
        wi_ucx_link_end(&ep->link, WEIR_ERR_PEER_UNREACHABLE, UCS_ERR_REJECTED);
        return UCS_OK;
    }
    ep->link.peer_token = welcome.own_token;
    ep->base.peer_id = welcome.id;
    wi_ucx_lanes_check(ep);
    wi_ucx_silence_bound(ep->link.iface);
    __atomic_store_n(&ep->base.ready, true, __ATOMIC_RELEASE);
    return UCS_OK;
}

/* Progress is the only writer; readers may be in other threads. */
void wi_ucx_signal_count(struct wi_ucx_iface *iface, uint64_t signal)
{
    uint64_t *count = &iface->base.signals[signal];
    __atomic_store_n(count, __atomic_load_n(count, __ATOMIC_RELAXED) + 1, __ATOMIC_RELEASE);
}

static ucs_status_t on_signal(void *arg, const void *header, size_t header_len, void *data, size_t len,
                              const ucp_am_recv_param_t *params)
{
    (void)header, (void)header_len;
    struct wi_ucx_iface *iface = arg;
    struct wi_ucx_signal message;
    struct wi_ucx_link *link = wi_ucx_am_link(iface, false, data, len, params, &message, sizeof(message));
    if (!link)
        return UCS_OK;
    if (message.signal >= iface->base.params.signals) {
        wi_ucx_link_end(link, WEIR_ERR_PROTOCOL, UCS_ERR_OUT_OF_RANGE);
        return UCS_OK;
    }
    wi_ucx_signal_count(iface, message.signal);
    return UCS_OK;
}

static struct wi_ucx_message *message_get(struct wi_ucx_iface *iface)
{
    struct wi_ucx_message *message = iface->msg_free;
    if (message)
        iface->msg_free = message->free_next;
    else
        message = malloc(sizeof(*message) + WEIR_MSG_MAX);
    return message;
}

static ucs_status_t on_message(void *arg, const void *header, size_t header_len, void *data, size_t len,
                               const ucp_am_recv_param_t *params)
{
    struct wi_ucx_iface *iface = arg;
    uint64_t token;
    struct wi_ucx_link *link = wi_ucx_am_link(iface, false, header, header_len, params, &token, sizeof(token));
    if (!link || len > WEIR_MSG_MAX)
        return UCS_OK;
    struct wi_ucx_conn *conn = conn_of(link);
    if (conn->received - conn->taken >= WI_UCX_WINDOW) {
        wi_ucx_link_end(link, WEIR_ERR_PROTOCOL, UCS_ERR_EXCEEDS_LIMIT);
        return UCS_OK;
    }
    struct wi_ucx_message *message = message_get(iface);
    if (!message) { /* a message must not get lost: the peer learns it from the end of the connection */
        wi_ucx_link_end(link, WEIR_ERR_NO_MEMORY, UCS_ERR_NO_MEMORY);
        return UCS_OK;
    }
    conn->received++;
    message->token = token;
    message->msg.next = NULL;
    message->msg.peer_id = conn->peer_id;
    message->msg.len = (uint32_t)len;
    if (len > 0)
        memcpy(message->msg.data, data, len);
    *iface->msg_last = &message->msg;
    iface->msg_last = &message->msg.next;
    return UCS_OK;
}

static ucs_status_t on_flush(void *arg, const void *header, size_t header_len, void *data, size_t len,
                             const ucp_am_recv_param_t *params)
{
    (void)header, (void)header_len;
    struct wi_ucx_flush message;
    struct wi_ucx_conn *conn = conn_of(wi_ucx_am_link(arg, false, data, len, params, &message, sizeof(message)));
    if (conn && message.number > conn->flush_seen) {
        conn->flush_seen = message.number;
        wi_ucx_todo(&conn->link);
    }
    return UCS_OK;
}

static ucs_status_t on_ack(void *arg, const void *header, size_t header_len, void *data, size_t len,
                           const ucp_am_recv_param_t *params)
{
    (void)header, (void)header_len;
    struct wi_ucx_ack ack;
    struct wi_ucx_ep *ep = ep_of(wi_ucx_am_link(arg, true, data, len, params, &ack, sizeof(ack)));
    if (!ep)
        return UCS_OK;
    if (ack.flushed > ep->flush_asked || ack.taken > ep->sent || ack.flushed < ep->flush_acked ||
        ack.taken < ep->taken) {
        wi_ucx_link_end(&ep->link, WEIR_ERR_PROTOCOL, UCS_ERR_OUT_OF_RANGE);
        return UCS_OK;
    }
    ep->flush_acked = ack.flushed;
    ep->refused = ack.refused;
    ep->taken = ack.taken;
    wi_ucx_todo(&ep->link);
    return UCS_OK;
}

weir_status wi_ucx_messages_init(struct wi_ucx_iface *iface)
{
    static const ucp_am_recv_callback_t callbacks[] = {
        [WI_UCX_AM_HELLO] = on_hello,
        [WI_UCX_AM_WELCOME] = on_welcome,
        [WI_UCX_AM_SIGNAL] = on_signal,
        [WI_UCX_AM_MESSAGE] = on_message,
        [WI_UCX_AM_FLUSH] = on_flush,
        [WI_UCX_AM_ACK] = on_ack,
        [WI_UCX_AM_PUT] = wi_ucx_on_put,
        [WI_UCX_AM_GET] = wi_ucx_on_get,
        [WI_UCX_AM_FETCH_ADD] = wi_ucx_on_fetch_add,
        [WI_UCX_AM_DATA] = wi_ucx_on_data,
        [WI_UCX_AM_REPLY] = wi_ucx_on_reply,
    };
    iface->msg_last = &iface->msg_first;
    for (unsigned id = WI_UCX_AM_HELLO; id <= WI_UCX_AM_REPLY; id++) {
        ucp_am_handler_param_t params = {
            .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                          UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG,
            .id = id,
            .flags = UCP_AM_FLAG_WHOLE_MSG,
            .cb = callbacks[id],
            .arg = iface,
        };
        ucs_status_t status = ucp_worker_set_am_recv_handler(iface->worker, &params);
        if (status != UCS_OK)
            return wi_ucx_error(status, "cannot receive active messages");
    }
    return WEIR_OK;
}

/* ---- The queue of control messages ---- */

struct wi_msg *wi_ucx_msg_peek(struct wi_iface *base)
{
    return WI_UCX_CONTAINER(base, struct wi_ucx_iface, base)->msg_first;
}

void wi_ucx_msg_pop(struct wi_iface *base)
{
    struct wi_ucx_iface *iface = WI_UCX_CONTAINER(base, struct wi_ucx_iface, base);
    struct wi_msg *msg = iface->msg_first;
    iface->msg_first = msg->next;
    if (!iface->msg_first)
        iface->msg_last = &iface->msg_first;
    struct wi_ucx_message *message = WI_UCX_CONTAINER(msg, struct wi_ucx_message, msg);
    struct wi_ucx_conn *conn = conn_of(wi_ucx_link_find(iface, message->token, false));
    if (conn && ++conn->taken - conn->taken_told >= WI_UCX_WINDOW / 2)
        wi_ucx_todo(&conn->link);
    message->free_next = iface->msg_free;
    iface->msg_free = message;
}
