/* What ranks ask of the store. */
#include "bootstrap/serve.h"

/* Tells all who wait for a key. */
static void tell_waiters(struct wi_boot_server *server, struct wi_store *store, struct wi_span key,
                         struct wi_span value)
{
    void *owner;
    struct wi_message answer = {.type = WI_WIRE_VALUE, .value = value};
    while (wi_store_next_waiter(store, key, &owner, &answer.request))
        wi_serve_tell(server, owner, &answer);
}

static void on_put(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *message)
{
    weir_status status = wi_store_put(&server->store, message->key, message->value);
    wi_serve_tell_status(server, connection, WI_WIRE_ACK, message->request, status, "");
    if (status == WEIR_OK)
        tell_waiters(server, &server->store, message->key, message->value);
}

static void on_append(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *message)
{
    char key[WEIR_BOOT_KEY_MAX + 1];
    weir_status status = wi_store_append(&server->store, message->key, message->value, key);
    wi_serve_tell_status(server, connection, WI_WIRE_ACK, message->request, status, "");
    if (status == WEIR_OK)
        tell_waiters(server, &server->store, wi_span_text(key), message->value);
}

static bool all_empty(const struct wi_span *pieces, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (pieces[i].len > 0)
            return false;
    return true;
}

/* All have come: who still waits gets the pieces. */
static void hand_out(struct wi_boot_server *server, struct wi_span meeting)
{
    void *owner;
    uint32_t request, count;
    const struct wi_span *pieces = wi_store_pieces(&server->meetings, meeting, &count);
    if (all_empty(pieces, count)) {
        tell_waiters(server, &server->meetings, meeting, (struct wi_span){"", 0});
        return;
    }
    while (wi_store_next_waiter(&server->meetings, meeting, &owner, &request)) {
        struct wi_connection *connection = owner;
        connection->pieces = pieces;
        connection->piece_count = count;
        connection->piece_next = 0;
        connection->gather = request;
        wi_link_remove(&connection->dirty);
        wi_link_append(&server->dirty, &connection->dirty);
    }
}

/* A frame of each rank, and to each but the frames that all pieces together fill; a barrier has none. */
static void on_meet(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *message)
{
    struct wi_span piece;
    weir_status status = message->world <= (uint32_t)server->world ? WEIR_OK : WEIR_ERR_PROTOCOL;
    if (status == WEIR_OK)
        status = wi_store_put(&server->store, message->key, message->value);
    if (status == WEIR_OK) {
        tell_waiters(server, &server->store, message->key, message->value);
        wi_store_get(&server->store, message->key, &piece);
        status = wi_store_meet(&server->meetings, message->text, message->rank, message->world, piece, connection,
                               &connection->waiters, message->request);
    }
    if (status == WEIR_OK)
        hand_out(server, message->text);
    else if (status != WEIR_ERR_AGAIN)
        wi_serve_tell_status(server, connection, WI_WIRE_ACK, message->request, status, "");
}

static void on_absent(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *message)
{
    uint8_t numbers[4 * WI_WIRE_ABSENT_MAX];
    uint32_t count;
    size_t len = 0;
    const struct wi_span *pieces = wi_store_pieces(&server->meetings, message->text, &count);
    for (uint32_t i = 0; pieces && i < count && len < sizeof(numbers); i++) {
        if (pieces[i].data)
            continue;
        wi_wire_store32(numbers + len, i);
        len += 4;
    }
    wi_serve_tell(server, connection,
                  &(struct wi_message){.type = WI_WIRE_VALUE, .request = message->request, .value = {numbers, len}});
}

static void on_get(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *message)
{
    struct wi_message answer = {.type = WI_WIRE_VALUE, .request = message->request};
    if (wi_store_get(&server->store, message->key, &answer.value)) {
        wi_serve_tell(server, connection, &answer);
        return;
    }
    weir_status status =
        wi_store_wait(&server->store, message->key, connection, &connection->waiters, message->request);
    if (status != WEIR_OK)
        wi_serve_tell_status(server, connection, WI_WIRE_ACK, message->request, status, "");
}

static void on_fail(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *message)
{
    char text[WI_WIRE_TEXT_MAX + 1];
    const struct wi_seat *seat = &server->seats[connection->rank];
    wi_span_copy(message->text, text, sizeof(text));
    wi_serve_fail_job(server, wi_wire_status(message->status), "rank %d (process %u on %s) failed: %s",
                      connection->rank, seat->pid, seat->host, text);
}

static void on_bye(struct wi_boot_server *server, struct wi_connection *connection)
{
    struct wi_seat *seat = &server->seats[connection->rank];
    seat->state = WI_SEAT_LEFT;
    seat->connection = NULL;
    server->present--;
    wi_serve_drop(server, connection);
    /* Who leaves before all are there leaves the others waiting for nothing. */
    if (server->seated < server->world)
        wi_serve_fail_job(server, WEIR_ERR_JOB_FAILED, "rank %d (process %u on %s) gave up before all ranks were there",
                          (int)(seat - server->seats), seat->pid, seat->host);
}

bool wi_serve_member(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *message)
{
    switch (message->type) {
    case WI_WIRE_PUT:
        on_put(server, connection, message);
        return true;
    case WI_WIRE_GET:
        on_get(server, connection, message);
        return true;
    case WI_WIRE_MEET:
        on_meet(server, connection, message);
        return true;
    case WI_WIRE_ABSENT:
        on_absent(server, connection, message);
        return true;
    case WI_WIRE_APPEND:
        on_append(server, connection, message);
        return true;
    case WI_WIRE_CANCEL:
        wi_store_forget(&connection->waiters);
        connection->pieces = NULL;
        return true;
    case WI_WIRE_FAIL:
        on_fail(server, connection, message);
        return true;
    case WI_WIRE_BYE:
        on_bye(server, connection);
        return true;
    default:
        return false;
    }
}
