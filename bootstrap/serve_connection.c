/* Connections: what is read from them, frame by frame, what is sent, and their end. */
#include "bootstrap/serve.h"
#include "core/log.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECEIVES_PER_TURN 8

#define OF_DIRTY(_link) ((struct wi_connection *)((char *)(_link)-offsetof(struct wi_connection, dirty)))

void wi_serve_drop(struct wi_boot_server *server, struct wi_connection *connection)
{
    if (connection->fd < 0)
        return;
    if (connection->rank == WI_STRANGER)
        server->stranger_count--;
    close(connection->fd);
    connection->fd = -1;
    wi_store_forget(&connection->waiters);
    wi_link_remove(&connection->dirty);
    wi_link_remove(&connection->link);
    wi_link_append(&server->dead, &connection->link);
}

void wi_serve_lose(struct wi_boot_server *server, struct wi_connection *connection, int error)
{
    int rank = connection->rank;
    wi_serve_drop(server, connection);
    if (rank != WI_STRANGER)
        wi_serve_rank_lost(server, rank, error);
}

void wi_serve_bury(struct wi_boot_server *server)
{
    while (server->dead.next != &server->dead) {
        struct wi_connection *connection = WI_CONNECTION(server->dead.next);
        wi_link_remove(&connection->link);
        wi_bytes_fini(&connection->in);
        wi_bytes_fini(&connection->out);
        free(connection);
    }
}

static void count_one(uint64_t *count)
{
    __atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
}

void wi_serve_tell(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *message)
{
    if (connection->fd < 0)
        return;
    /* What a rank can have asked for at once; who lets more pile up does not read. */
    size_t limit = (size_t)server->world * (WEIR_BOOT_VALUE_MAX + 64u) + (1u << 20);
    if (wi_bytes_count(&connection->out) > limit || !wi_bytes_append(&connection->out, message)) {
        wi_serve_lose(server, connection, ENOBUFS);
        return;
    }
    count_one(&server->counts.queued);
    wi_link_remove(&connection->dirty);
    wi_link_append(&server->dirty, &connection->dirty);
}

void wi_serve_tell_status(struct wi_boot_server *server, struct wi_connection *connection, enum wi_wire_type type,
                          uint32_t request, weir_status status, const char *text)
{
    struct wi_message message = {.type = type, .request = request, .status = (uint32_t)status};
    message.text = wi_span_text(text);
    wi_serve_tell(server, connection, &message);
}

/* Queues as many of the pieces as go into a frame. */
static bool queue_pieces(struct wi_boot_server *server, struct wi_connection *connection)
{
    struct wi_message part = {.type = WI_WIRE_PIECES, .request = connection->gather, .rank = connection->piece_next};
    uint8_t *bytes = malloc(WI_WIRE_PIECES_MAX);
    size_t len = 0;
    while (bytes && connection->piece_next < connection->piece_count) {
        const struct wi_span *piece = &connection->pieces[connection->piece_next];
        if (len + 4 + piece->len > WI_WIRE_PIECES_MAX)
            break;
        len += wi_wire_piece(*piece, bytes + len);
        connection->piece_next++;
    }
    bool more = connection->piece_next < connection->piece_count;
    part.status = more ? WEIR_ERR_AGAIN : WEIR_OK;
    part.value = (struct wi_span){bytes, len};
    bool queued = bytes && wi_bytes_append(&connection->out, &part);
    if (!more)
        connection->pieces = NULL;
    count_one(&server->counts.queued);
    free(bytes);
    return queued;
}

void wi_serve_flush(struct wi_boot_server *server, struct wi_connection *connection)
{
    if (connection->pieces && wi_bytes_count(&connection->out) == 0 && !queue_pieces(server, connection)) {
        wi_serve_lose(server, connection, ENOMEM);
        return;
    }
    enum wi_io io = wi_bytes_send(&connection->out, connection->fd);
    if (io == WI_IO_ERROR) {
        wi_serve_lose(server, connection, errno);
        return;
    }
    if (io == WI_IO_DONE && connection->refused)
        (void)shutdown(connection->fd, SHUT_WR);
    bool wants_writable = io == WI_IO_AGAIN || connection->pieces;
    if (wants_writable == connection->wants_writable)
        return;
    struct epoll_event event = {.events = EPOLLIN | (wants_writable ? EPOLLOUT : 0), .data.ptr = connection};
    if (epoll_ctl(server->epoll, EPOLL_CTL_MOD, connection->fd, &event) != 0)
        wi_serve_lose(server, connection, errno);
    connection->wants_writable = wants_writable;
}

void wi_serve_flush_dirty(struct wi_boot_server *server)
{
    while (server->dirty.next != &server->dirty) {
        struct wi_connection *connection = OF_DIRTY(server->dirty.next);
        wi_link_remove(&connection->dirty);
        wi_serve_flush(server, connection);
    }
}

static bool act(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *message)
{
    return connection->rank == WI_STRANGER ? wi_serve_stranger(server, connection, message)
                                           : wi_serve_member(server, connection, message);
}

/* Handles all complete frames. Returns how many bytes the next one still needs, at least. */
static size_t handle_frames(struct wi_boot_server *server, struct wi_connection *connection)
{
    size_t frame_len = 0;
    while (connection->fd >= 0 && !connection->refused) {
        struct wi_message message;
        size_t count = wi_bytes_count(&connection->in);
        const uint8_t *at = count ? connection->in.data + connection->in.start : (const uint8_t *)"";
        enum wi_wire_result result = wi_wire_decode(at, count, &message, &frame_len);
        bool fits = connection->rank != WI_STRANGER || frame_len <= WI_STRANGER_FRAME_MAX;
        if (result == WI_WIRE_MORE && fits)
            return frame_len - count;
        count_one(&server->counts.received);
        if (result == WI_WIRE_OTHER && connection->rank == WI_STRANGER) {
            wi_serve_refuse(server, connection, WEIR_ERR_PROTOCOL,
                            "it speaks another version of the store's protocol: all ranks need the same libweir");
            return 1;
        }
        if (result != WI_WIRE_OK || !fits || !act(server, connection, &message)) {
            wi_debug("dropped %s, which does not speak the store's protocol", connection->peer);
            wi_serve_lose(server, connection, EPROTO);
            return 1;
        }
        if (connection->fd >= 0)
            wi_bytes_consume(&connection->in, frame_len);
    }
    return 1;
}

void wi_serve_readable(struct wi_boot_server *server, struct wi_connection *connection)
{
    size_t least = 256;
    for (int i = 0; i < RECEIVES_PER_TURN && connection->fd >= 0; i++) {
        enum wi_io io = wi_bytes_receive(&connection->in, connection->fd, least);
        if (io == WI_IO_AGAIN)
            return;
        if (io != WI_IO_DONE) {
            wi_serve_lose(server, connection, io == WI_IO_END ? 0 : errno);
            return;
        }
        if (connection->refused) /* it may go on talking, nobody listens */
            connection->in.start = connection->in.end = 0;
        least = handle_frames(server, connection);
        least = least > 256 ? least : 256;
    }
}
