/*
 * The target's side of operations by active messages. Each names an exported range by its number; what lies outside of
 * one that is exported now is refused. Answers go out in the order of the questions.
 */
#include "core/error.h"
#include "transport/ucx/ucx.h"

#include <string.h>

/* The connection that a message is from, and its head; NULL: to be dropped. */
static struct wi_ucx_conn *read_head(void *iface, const void *data, size_t len, const ucp_am_recv_param_t *params,
                                     void *head, size_t size)
{
    struct wi_ucx_link *link = wi_ucx_am_link(iface, false, data, len, params, head, size);
    return link ? WI_UCX_CONTAINER(link, struct wi_ucx_conn, link) : NULL;
}

ucs_status_t wi_ucx_on_put(void *arg, const void *header, size_t header_len, void *data, size_t len,
                           const ucp_am_recv_param_t *params)
{
    struct wi_ucx_iface *iface = arg;
    struct wi_ucx_put put;
    struct wi_ucx_conn *conn = read_head(iface, header, header_len, params, &put, sizeof(put));
    if (!conn)
        return UCS_OK;
    if (put.signal != WI_UCX_NO_SIGNAL && put.signal >= iface->base.params.signals) {
        wi_ucx_link_end(&conn->link, WEIR_ERR_PROTOCOL, UCS_ERR_OUT_OF_RANGE);
        return UCS_OK;
    }
    void *to = wi_ucx_export_at(iface, put.key, put.addr, len);
    if (!to) {
        conn->refused++;
        wi_ucx_todo(&conn->link);
        return UCS_OK;
    }
    memcpy(to, data, len);
    if (put.signal != WI_UCX_NO_SIGNAL)
        wi_ucx_signal_count(iface, put.signal);
    return UCS_OK;
}

/* Keeps in mind what is owed. An initiator with more questions than it may have ends its connection. */
static struct wi_ucx_answer *owe(struct wi_ucx_conn *conn, const struct wi_ucx_question *question)
{
    if (conn->answer_count == WI_UCX_QUESTIONS) {
        wi_ucx_link_end(&conn->link, WEIR_ERR_PROTOCOL, UCS_ERR_EXCEEDS_LIMIT);
        return NULL;
    }
    unsigned at = (conn->answer_first + conn->answer_count++) % WI_UCX_QUESTIONS;
    conn->answers[at] = (struct wi_ucx_answer){.number = question->number};
    wi_ucx_todo(&conn->link);
    return &conn->answers[at];
}

ucs_status_t wi_ucx_on_get(void *iface, const void *header, size_t header_len, void *data, size_t len,
                           const ucp_am_recv_param_t *params)
{
    (void)header, (void)header_len;
    struct wi_ucx_question question;
    struct wi_ucx_conn *conn = read_head(iface, data, len, params, &question, sizeof(question));
    struct wi_ucx_answer *answer = conn ? owe(conn, &question) : NULL;
    if (!answer)
        return UCS_OK;
    answer->is_get = true;
    answer->key = question.key;
    answer->addr = question.addr;
    answer->len = question.value;
    return UCS_OK;
}

ucs_status_t wi_ucx_on_fetch_add(void *iface, const void *header, size_t header_len, void *data, size_t len,
                                 const ucp_am_recv_param_t *params)
{
    (void)header, (void)header_len;
    struct wi_ucx_question question;
    struct wi_ucx_conn *conn = read_head(iface, data, len, params, &question, sizeof(question));
    struct wi_ucx_answer *answer = conn ? owe(conn, &question) : NULL;
    if (!answer)
        return UCS_OK;
    uint64_t *word = wi_ucx_export_at(iface, question.key, question.addr, sizeof(*word));
    if (word && question.addr % sizeof(*word) == 0) {
        answer->len = sizeof(*word);
        answer->value = __atomic_fetch_add(word, question.value, __ATOMIC_ACQ_REL);
    }
    return UCS_OK;
}

static void answer_pop(struct wi_ucx_conn *conn)
{
    conn->answer_first = (conn->answer_first + 1) % WI_UCX_QUESTIONS;
    conn->answer_count--;
}

/* One piece of what a get reads. */
static weir_status send_data(struct wi_ucx_conn *conn, struct wi_ucx_answer *answer, const unsigned char *from)
{
    struct wi_ucx_slot *slot = wi_ucx_slot_get(&conn->link, NULL);
    if (!slot)
        return WEIR_ERR_AGAIN;
    uint64_t left = answer->len - answer->moved, len = left < conn->piece ? left : conn->piece;
    struct wi_ucx_reply head = {conn->link.peer_token, answer->number, answer->moved, 0};
    wi_ucx_am_fill(slot, WI_UCX_AM_DATA, &head, sizeof(head));
    slot->payload = from + answer->moved;
    slot->payload_len = len;
    answer->moved += len;
    conn->pieces++;
    return wi_ucx_am_post(slot);
}

static weir_status send_reply(struct wi_ucx_conn *conn, const struct wi_ucx_answer *answer, bool refused)
{
    struct wi_ucx_reply reply = {conn->link.peer_token, answer->number, answer->value, refused};
    return wi_ucx_am_send(&conn->link, WI_UCX_AM_REPLY, &reply, sizeof(reply));
}

/* Sends what is owed, in order, as far as slots and the bound on pieces under way allow. */
weir_status wi_ucx_answers_serve(struct wi_ucx_conn *conn)
{
    weir_status status = WEIR_OK;
    while (conn->answer_count > 0 && status == WEIR_OK) {
        struct wi_ucx_answer *answer = &conn->answers[conn->answer_first];
        const unsigned char *from =
            answer->is_get ? wi_ucx_export_at(conn->link.iface, answer->key, answer->addr, answer->len) : NULL;
        if (from && conn->pieces >= WI_UCX_PIECES)
            return WEIR_OK; /* goes on when a piece has been sent */
        if (from)
            status = send_data(conn, answer, from);
        else
            status = send_reply(conn, answer, answer->is_get || answer->len == 0);
        if (status == WEIR_OK && (!from || answer->moved == answer->len))
            answer_pop(conn);
    }
    return status;
}
