/*
 * Fuzzes the store: connections that say anything, near-right frames among it, before and after they have a seat, with
 * and without a secret. The files under test are included, with their system calls replaced: what is received comes from
 * the input, and what is sent is looked at.
 */
#include "bytes_of.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 4, FIRST_FD = 1000 };

static struct bytes_of arrived[CONNECTIONS]; /* for the next recv() of each */
static bool seated[CONNECTIONS], proven[CONNECTIONS], has_secret;

static ssize_t fuzz_recv(int fd, void *data, size_t room, int flags)
{
    (void)flags;
    struct bytes_of *from = &arrived[fd - FIRST_FD];
    size_t len = room;
    const uint8_t *bytes = take_bytes(from, &len);
    if (len > 0) {
        memcpy(data, bytes, len);
        return (ssize_t)len;
    }
    errno = EAGAIN;
    return -1;
}

static ssize_t fuzz_send(int fd, const void *data, size_t len, int flags);

static int fuzz_epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
    (void)epoll, (void)op, (void)fd, (void)event;
    return 0;
}

static int fuzz_close(int fd)
{
    (void)fd;
    return 0;
}

static int fuzz_shutdown(int fd, int how)
{
    (void)fd, (void)how;
    return 0;
}

#define recv      fuzz_recv
#define send      fuzz_send
#define epoll_ctl fuzz_epoll_ctl
#define close     fuzz_close
#define shutdown  fuzz_shutdown
#include "bootstrap/bytes.c"
#include "bootstrap/serve_connection.c"
#include "bootstrap/serve_job.c"
#include "bootstrap/serve_request.c"
#include "bootstrap/serve_stranger.c"
#include "bootstrap/server.c"

/* ---- What net.c would do with sockets ---- */

weir_status wi_net_listen(int port, uint64_t patience_ns, int *fd)
{
    (void)port, (void)patience_ns, (void)fd;
    return WEIR_ERR_IO;
}

void wi_net_tune(int fd, uint64_t timeout_ns)
{
    (void)fd, (void)timeout_ns;
}

const char *wi_net_local_address(int fd, char text[WI_NET_ADDRESS])
{
    snprintf(text, WI_NET_ADDRESS, "10.0.0.%d", fd - FIRST_FD);
    return text;
}

const char *wi_net_peer_address(int fd, char text[WI_NET_ADDRESS])
{
    return wi_net_local_address(fd, text);
}

bool wi_net_is_loopback(const char *address)
{
    return strcmp(address, "10.0.0.0") == 0;
}

int wi_net_poll_ms(uint64_t deadline_ns)
{
    (void)deadline_ns;
    return 0;
}

/* ---- What the store sends must be right, and nothing for strangers ---- */

static ssize_t fuzz_send(int fd, const void *data, size_t len, int flags)
{
    (void)flags;
    int index = fd - FIRST_FD;
    struct wi_message message;
    for (size_t at = 0, frame_len; at < len; at += frame_len) {
        check(wi_wire_decode((const uint8_t *)data + at, len - at, &message, &frame_len) == WI_WIRE_OK);
        if (!seated[index]) {
            bool first_ack = message.type == WI_WIRE_ACK && message.status == WEIR_OK;
            check(message.type == WI_WIRE_REFUSED || message.type == WI_WIRE_CHALLENGE ||
                  message.type == WI_WIRE_PROVEN || (first_ack && (!has_secret || proven[index])));
            seated[index] |= first_ack;
            proven[index] |= message.type == WI_WIRE_PROVEN;
            if (has_secret && !proven[index] && message.type == WI_WIRE_REFUSED) /* nothing of the job */
                check(!memmem(message.text.data, message.text.len, "the-job", 7) &&
                      !memmem(message.text.data, message.text.len, "rank 1", 6));
        }
    }
    return (ssize_t)len;
}

static void check_state(const struct wi_boot_server *server)
{
    size_t strangers = 0;
    int taken = 0;
    for (const struct wi_link *link = server->strangers.next; link != &server->strangers; link = link->next)
        strangers += WI_CONNECTION(link)->rank == WI_STRANGER && WI_CONNECTION(link)->fd >= 0;
    for (int rank = 0; rank < server->world; rank++) {
        const struct wi_seat *seat = &server->seats[rank];
        taken += seat->state == WI_SEAT_TAKEN;
        check((seat->state == WI_SEAT_TAKEN) == (seat->connection != NULL));
        check(!seat->connection || (seat->connection->rank == rank && seat->connection->fd >= 0));
    }
    check(strangers == server->stranger_count && taken == server->present);
}

/* ---- Input ---- */

static struct wi_span take_span(struct bytes_of *input, size_t max)
{
    size_t len = take_byte(input) % (max + 1);
    struct wi_span span = {0};
    span.data = take_bytes(input, &len);
    span.len = len;
    return span;
}

/* A frame that is right but for what it says. */
static size_t make_frame(struct bytes_of *input, const struct wi_connection *connection, uint8_t *frame, size_t room)
{
    static const struct wi_secret right = {.len = 16, .bytes = "0123456789abcdef"};
    uint8_t proof[WI_SECRET_PROOF];
    struct wi_message message = {
        .type = 1 + take_byte(input) % (WI_WIRE_TYPES - 1),
        .request = take_byte(input),
        .rank = take_byte(input) % 4,
        .world = 3 - (take_byte(input) % 16 == 1),
        .servers = 1,
        .pid = 7,
        .timeout_ms = 1000,
        .status = take_byte(input),
    };
    message.job = take_byte(input) % 16 == 1 ? take_span(input, 20) : wi_span_text("the-job");
    message.host = wi_span_text("host");
    message.key = take_span(input, 3);
    message.value = take_span(input, 40);
    message.text = take_span(input, 40);
    if (message.type == WI_WIRE_MEET || message.type == WI_WIRE_ABSENT) /* so that some meet */
        message.text = wi_span_text("all");
    message.proof = take_span(input, 32);
    if (take_byte(input) % 2 == 0) { /* the right number or proof: it could not be guessed */
        wi_secret_prove(&right, WI_SECRET_RANK, connection->of_rank, connection->of_store, proof);
        message.proof = (struct wi_span){proof, sizeof(proof)};
    }
    return wi_wire_encode(&message, frame, room);
}

static void one_turn(struct wi_boot_server *server, struct bytes_of *input, struct wi_connection *connections[])
{
    uint8_t frame[2048];
    uint8_t what = take_byte(input);
    int index = what % CONNECTIONS;
    size_t len = 0;
    if (!connections[index]) {
        wi_serve_add_stranger(server, FIRST_FD + index);
        connections[index] = WI_CONNECTION(server->strangers.prev);
        seated[index] = proven[index] = false;
    }
    if (what & 0x80) {
        len = take_byte(input);
        arrived[index].at = take_bytes(input, &len);
    } else {
        len = make_frame(input, connections[index], frame, sizeof(frame));
        if (what & 0x40) /* damaged */
            frame[take_byte(input) % len] ^= take_byte(input);
        if (what & 0x20) /* cut */
            len = take_byte(input) % len;
        arrived[index].at = frame;
    }
    arrived[index].left = len;
    wi_serve_readable(server, connections[index]);
    wi_serve_flush_dirty(server);
    check_state(server);
    for (int i = 0; i < CONNECTIONS; i++)
        if (connections[i] && connections[i]->fd < 0)
            connections[i] = NULL;
    wi_serve_bury(server);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct wi_secret none, right = {.len = 16, .bytes = "0123456789abcdef"};
    struct bytes_of input = {data, size};
    struct wi_connection *connections[CONNECTIONS] = {NULL};
    has_secret = take_byte(&input) & 1;
    struct wi_boot_server *server = calloc(1, sizeof(*server));
    *server = (struct wi_boot_server){.listener = -1,
                                      .wake = -1,
                                      .epoll = -1,
                                      .world = 3,
                                      .servers = 1,
                                      .job_id = "the-job",
                                      .secret = has_secret ? &right : &none,
                                      .join_until_ns = UINT64_MAX};
    server->seats = calloc(3, sizeof(*server->seats));
    wi_link_init(&server->strangers);
    server->strangers_max = STRANGERS_MAX;
    wi_link_init(&server->members);
    wi_link_init(&server->dirty);
    wi_link_init(&server->dead);
    for (int turn = 0; turn < 64 && input.left > 0; turn++)
        one_turn(server, &input, connections);
    server_free(server);
    return 0;
}
