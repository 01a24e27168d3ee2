/*
 * The target's side of a connection: made from UCX's connection request, known by the hello that follows, ended with
 * the peer's endpoint. Whoever connects and says nothing, or means somebody else, is turned away after WEIR_TIMEOUT.
 */
#include "core/clock.h"
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/ucx/ucx.h"

#include <stdlib.h>

#define LINGER_NS WI_NS_PER_S

static void conn_error(void *arg, ucp_ep_h ucp, ucs_status_t status)
{
    struct wi_ucx_link *link = arg;
    if (ucp == link->ucp)
        wi_ucx_link_end(link, WEIR_ERR_PEER_GONE, status);
}

/* From UCX's progress: only notes it, or sends it away when too many wait. */
void wi_ucx_conn_request(ucp_conn_request_h request, void *arg)
{
    struct wi_ucx_iface *iface = arg;
    if (iface->closing || iface->request_count == sizeof(iface->requests) / sizeof(iface->requests[0]))
        ucp_listener_reject(iface->listener, request);
    else
        iface->requests[iface->request_count++] = request;
}

/* ---- Which connection is it? By UCX's endpoint until it was greeted, then by the initiator's endpoint ---- */

static uint64_t hash_of_ucp(ucp_ep_h ucp)
{
    return wi_map_hash((uintptr_t)ucp, 0);
}

static uint64_t hash_of_hello(const struct wi_ucx_hello *hello)
{
    return wi_map_hash(hello->from, hello->stream);
}

struct wi_ucx_conn *wi_ucx_conn_stranger(struct wi_ucx_iface *iface, ucp_ep_h ucp)
{
    for (struct wi_map_node *node = wi_map_first(&iface->conns, hash_of_ucp(ucp)); node; node = wi_map_next(node)) {
        struct wi_ucx_conn *conn = WI_MAP_ITEM(node, struct wi_ucx_conn, node);
        if (conn->link.ucp == ucp && !conn->greeted)
            return conn;
    }
    return NULL;
}

void wi_ucx_conn_greeted(struct wi_ucx_conn *conn, const struct wi_ucx_hello *hello)
{
    struct wi_map *conns = &conn->link.iface->conns;
    conn->greeted = true;
    conn->peer_instance = hello->from;
    conn->stream = hello->stream;
    wi_map_remove(conns, &conn->node);
    wi_map_add(conns, &conn->node, hash_of_hello(hello));
}

/* The initiator has lost those connections and makes another one: what still comes over them would mix with the new. */
void wi_ucx_conns_end_earlier(struct wi_ucx_iface *iface, const struct wi_ucx_hello *hello)
{
    struct wi_map_node *node = wi_map_first(&iface->conns, hash_of_hello(hello));
    for (; node; node = wi_map_next(node)) {
        struct wi_ucx_conn *conn = WI_MAP_ITEM(node, struct wi_ucx_conn, node);
        if (conn->greeted && conn->peer_instance == hello->from && conn->stream == hello->stream)
            wi_ucx_link_end(&conn->link, WEIR_ERR_PEER_GONE, UCS_ERR_CONNECTION_RESET);
    }
}

static weir_status conn_create(struct wi_ucx_iface *iface, ucp_conn_request_h request)
{
    weir_status room = wi_ucx_room(WI_UCX_CONNECTION_ROOM, "a connection");
    struct wi_ucx_conn *conn = room == WEIR_OK ? calloc(1, sizeof(*conn)) : NULL;
    if (!conn || wi_ucx_link_init(&conn->link, iface, false) != WEIR_OK) {
        ucp_listener_reject(iface->listener, request);
        free(conn);
        return room != WEIR_OK ? room : wi_error(WEIR_ERR_NO_MEMORY, "UCX: out of memory for a connection");
    }
    conn->accepted_ns = wi_now_ns();
    wi_ucx_clock(&conn->link);
    ucp_ep_params_t params = {
        .field_mask =
            UCP_EP_PARAM_FIELD_CONN_REQUEST | UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
        .conn_request = request,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {conn_error, &conn->link},
    };
    ucs_status_t status = ucp_ep_create(iface->worker, &params, &conn->link.ucp);
    if (status == UCS_OK) {
        wi_map_add(&iface->conns, &conn->node, hash_of_ucp(conn->link.ucp));
        return WEIR_OK;
    }
    conn->link.ucp = NULL;
    wi_ucx_conn_free(conn);
    return wi_ucx_error(status, "cannot accept a connection");
}

void wi_ucx_conn_accept(struct wi_ucx_iface *iface)
{
    for (unsigned i = 0; i < iface->request_count; i++) {
        if (conn_create(iface, iface->requests[i]) != WEIR_OK)
            wi_info("%s", weir_last_error());
    }
    iface->request_count = 0;
}

void wi_ucx_conn_free(struct wi_ucx_conn *conn)
{
    wi_map_remove(&conn->link.iface->conns, &conn->node);
    wi_ucx_link_close(&conn->link);
    wi_ucx_link_abandon(&conn->link, WEIR_ERR_CANCELED);
    wi_ucx_link_fini(&conn->link);
    free(conn);
}

static weir_status send_welcome(struct wi_ucx_conn *conn)
{
    struct wi_ucx_link *link = &conn->link;
    struct wi_ucx_welcome welcome = {.token = link->peer_token}; /* who means somebody else learns nothing of us */
    if (conn->wanted)
        welcome = (struct wi_ucx_welcome){link->peer_token, link->iface->base.params.id, link->token, true};
    weir_status status = wi_ucx_am_send(link, WI_UCX_AM_WELCOME, &welcome, sizeof(welcome));
    if (status == WEIR_OK)
        conn->welcome_due = false;
    return status;
}

/* Tells what has been flushed and taken since it was last told; taken messages once there is something to gain. */
static weir_status send_ack(struct wi_ucx_conn *conn)
{
    if (conn->flush_seen == conn->flush_told && conn->refused == conn->refused_told &&
        conn->taken - conn->taken_told < WI_UCX_WINDOW / 2)
        return WEIR_OK;
    struct wi_ucx_ack ack = {conn->link.peer_token, conn->flush_seen, conn->taken, conn->refused};
    weir_status status = wi_ucx_am_send(&conn->link, WI_UCX_AM_ACK, &ack, sizeof(ack));
    if (status == WEIR_OK) {
        conn->flush_told = ack.flushed;
        conn->taken_told = ack.taken;
        conn->refused_told = ack.refused;
    }
    return status;
}

void wi_ucx_conn_serve(struct wi_ucx_conn *conn)
{
    struct wi_ucx_link *link = &conn->link;
    if (link->status != WEIR_OK) {
        wi_ucx_link_close(link);
        if (wi_list_empty(&link->slots)) {
            wi_debug("UCX: peer %llu has left: %s", (unsigned long long)conn->peer_id, ucs_status_string(link->cause));
            wi_ucx_conn_free(conn);
        }
        return;
    }
    weir_status status = conn->welcome_due ? send_welcome(conn) : WEIR_OK;
    if (status == WEIR_OK)
        status = send_ack(conn);
    if (status == WEIR_OK)
        status = wi_ucx_answers_serve(conn);
    if (status == WEIR_ERR_AGAIN)
        wi_ucx_todo(link);
    else if (status != WEIR_OK)
        wi_ucx_link_end(link, status, UCS_ERR_IO_ERROR);
}

bool wi_ucx_conn_watch(struct wi_ucx_conn *conn, uint64_t now_ns)
{
    struct wi_ucx_link *link = &conn->link;
    if (link->status != WEIR_OK) {
        if (wi_elapsed_ns(now_ns, link->ended_ns) > LINGER_NS) {
            wi_ucx_link_abandon(link, link->status);
            wi_ucx_todo(link);
        }
        return true;
    }
    if (!conn->wanted && wi_elapsed_ns(now_ns, conn->accepted_ns) > wi_config()->timeout_ns)
        wi_ucx_link_end(link, WEIR_ERR_TIMEOUT, UCS_ERR_TIMED_OUT);
    return !conn->wanted;
}
