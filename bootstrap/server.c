/*
 * One thread owns all of the server's state; epoll tells it what to do next, an eventfd tells it to end.
 *
 * A connection is a stranger until it has said HELLO and got a seat. Strangers are few (when one too many comes, or no
 * descriptor is left, the oldest of the address that has most of them goes), have a bounded time and a bounded frame, and
 * can do nothing: whatever they send does not disturb the job. Where the job has a secret, a stranger has to prove that it knows it before
 * its HELLO is listened to, and is told nothing of the job until then.
 */
#include "bootstrap/server.h"

#include "bootstrap/bytes.h"
#include "bootstrap/net.h"
#include "bootstrap/store.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/log.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#define STRANGERS_MAX        128u
#define STRANGERS_MIN        8u
#define STRANGERS_SHARE      8u /* and this part of the process's descriptors: the job needs the others */
#define STRANGER_PATIENCE_NS (5 * WI_NS_PER_S)
#define STRANGER_FRAME_MAX   1024u
#define ACCEPTS_PER_TURN     32
#define RECEIVES_PER_TURN    8
#define FAILED_LINGER_NS     (2 * WI_NS_PER_S)
#define FLUSH_NS             WI_NS_PER_S
#define REFUSALS_TOLD        8
#define STRANGER             (-1)

struct connection {
    struct wi_link link;  /* strangers, oldest first; or members; or the dead of this turn */
    struct wi_link dirty; /* something to send at the end of this turn */
    struct wi_link waiters;
    int fd; /* -1: dead */
    int rank;
    bool refused; /* closes when what it is to hear has been sent */
    bool challenged, proven;
    uint8_t of_rank[WI_SECRET_NONCE], of_store[WI_SECRET_NONCE];
    bool wants_writable;
    uint64_t until_ns; /* a stranger is dropped then */
    struct wi_bytes in;
    struct wi_bytes out;
    /* Pieces that it gets when what it was sent before is out: all ranks get as many, and nobody's wait here in copies. */
    const struct wi_span *pieces; /* NULL: none */
    uint32_t piece_count, piece_next;
    uint32_t gather; /* the request */
    char peer[WI_NET_ADDRESS];
};

enum seat_state { SEAT_FREE, SEAT_TAKEN, SEAT_LEFT, SEAT_LOST };

struct seat {
    enum seat_state state;
    struct connection *connection;
    uint32_t pid;
    char host[64];
};

struct wi_boot_server {
    pthread_t thread;
    int listener;
    int wake; /* eventfd: linger_ns was set, end */
    int epoll;
    int world;
    int servers;
    int port;
    bool loopback_only;
    char job_id[WI_WIRE_NAME_MAX + 1];
    const struct wi_secret *secret;
    uint64_t timeout_ns;
    uint64_t linger_ns; /* written before `wake`, read after it */

    struct wi_store store;
    struct wi_store meetings;
    struct seat *seats;
    int seated; /* seats that were ever taken */
    int present;
    uint64_t join_until_ns;
    unsigned refusals, accept_failures;
    uint64_t listen_again_ns; /* 0: the listener is being watched */
    bool ending;
    uint64_t end_ns;
    weir_status failure;
    char failure_text[WI_WIRE_TEXT_MAX + 1];

    struct wi_link strangers;
    size_t stranger_count, strangers_max;
    struct wi_link members;
    struct wi_link dirty;
    struct wi_link dead;
    struct wi_boot_server_counts counts;
};

#define OF_LINK(_link)  ((struct connection *)((char *)(_link)-offsetof(struct connection, link)))
#define OF_DIRTY(_link) ((struct connection *)((char *)(_link)-offsetof(struct connection, dirty)))

static void member_lost(struct wi_boot_server *server, int rank, int error);

static void count_one(uint64_t *count)
{
    __atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
}

/* ---- connections ---- */

static void drop(struct wi_boot_server *server, struct connection *connection)
{
    if (connection->fd < 0)
        return;
    if (connection->rank == STRANGER)
        server->stranger_count--;
    close(connection->fd);
    connection->fd = -1;
    wi_store_forget(&connection->waiters);
    wi_link_remove(&connection->dirty);
    wi_link_remove(&connection->link);
    wi_link_append(&server->dead, &connection->link);
}

/* Drops it and draws the consequences for the job when it was a rank's. */
static void lose(struct wi_boot_server *server, struct connection *connection, int error)
{
    int rank = connection->rank;
    drop(server, connection);
    if (rank != STRANGER)
        member_lost(server, rank, error);
}

static void bury(struct wi_boot_server *server)
{
    while (server->dead.next != &server->dead) {
        struct connection *connection = OF_LINK(server->dead.next);
        wi_link_remove(&connection->link);
        wi_bytes_fini(&connection->in);
        wi_bytes_fini(&connection->out);
        free(connection);
    }
}

/* Queues a frame; it goes out at the end of the turn, with all others. */
static void tell(struct wi_boot_server *server, struct connection *connection, const struct wi_message *message)
{
    if (connection->fd < 0)
        return;
    /* What a rank can have asked for at once; who lets more pile up does not read. */
    size_t limit = (size_t)server->world * (WEIR_BOOT_VALUE_MAX + 64u) + (1u << 20);
    if (wi_bytes_count(&connection->out) > limit || !wi_bytes_append(&connection->out, message)) {
        lose(server, connection, ENOBUFS);
        return;
    }
    count_one(&server->counts.queued);
    wi_link_remove(&connection->dirty);
    wi_link_append(&server->dirty, &connection->dirty);
}

static void tell_status(struct wi_boot_server *server, struct connection *connection, enum wi_wire_type type,
                        uint32_t request, weir_status status, const char *text)
{
    struct wi_message message = {.type = type, .request = request, .status = (uint32_t)status};
    message.text = wi_span_text(text);
    tell(server, connection, &message);
}

/* Queues as many of the pieces as go into a frame. */
static bool queue_pieces(struct wi_boot_server *server, struct connection *connection)
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

static void flush(struct wi_boot_server *server, struct connection *connection)
{
    if (connection->pieces && wi_bytes_count(&connection->out) == 0 && !queue_pieces(server, connection)) {
        lose(server, connection, ENOMEM);
        return;
    }
    enum wi_io io = wi_bytes_send(&connection->out, connection->fd);
    if (io == WI_IO_ERROR) {
        lose(server, connection, errno);
        return;
    }
    if (io == WI_IO_DONE && connection->refused)
        (void)shutdown(connection->fd, SHUT_WR);
    bool wants_writable = io == WI_IO_AGAIN || connection->pieces;
    if (wants_writable == connection->wants_writable)
        return;
    struct epoll_event event = {.events = EPOLLIN | (wants_writable ? EPOLLOUT : 0), .data.ptr = connection};
    if (epoll_ctl(server->epoll, EPOLL_CTL_MOD, connection->fd, &event) != 0)
        lose(server, connection, errno);
    connection->wants_writable = wants_writable;
}

static void flush_dirty(struct wi_boot_server *server)
{
    while (server->dirty.next != &server->dirty) {
        struct connection *connection = OF_DIRTY(server->dirty.next);
        wi_link_remove(&connection->dirty);
        flush(server, connection);
    }
}

/* ---- the job ---- */

__attribute__((format(printf, 3, 4))) static void fail_job(struct wi_boot_server *server, weir_status status,
                                                           const char *format, ...)
{
    if (server->failure != WEIR_OK)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(server->failure_text, sizeof(server->failure_text), format, args);
    va_end(args);
    server->failure = status;
    server->join_until_ns = UINT64_MAX;
    if (server->ending && server->end_ns > wi_now_ns() + FAILED_LINGER_NS)
        server->end_ns = wi_now_ns() + FAILED_LINGER_NS;
    wi_info("job failed: %s", server->failure_text);
    for (struct wi_link *link = server->members.next, *next; link != &server->members; link = next) {
        next = link->next;
        tell_status(server, OF_LINK(link), WI_WIRE_FAILED, 0, status, server->failure_text);
    }
}

static void member_lost(struct wi_boot_server *server, int rank, int error)
{
    struct seat *seat = &server->seats[rank];
    seat->connection = NULL;
    seat->state = SEAT_LOST;
    server->present--;
    if (error == 0 || error == ECONNRESET || error == EPIPE)
        fail_job(server, WEIR_ERR_PEER_GONE,
                 "rank %d (process %u on %s) ended without leaving the job: it crashed, was killed, or ended without "
                 "weir_boot_destroy()",
                 rank, seat->pid, seat->host);
    else if (error == EPROTO)
        fail_job(server, WEIR_ERR_PROTOCOL, "rank %d (process %u on %s) sent the store something that cannot be right",
                 rank, seat->pid, seat->host);
    else if (error == ENOBUFS || error == ENOMEM)
        fail_job(server, WEIR_ERR_PEER_GONE, "rank %d (process %u on %s) was cut off by the store: %s", rank, seat->pid,
                 seat->host, error == ENOBUFS ? "it does not read its answers" : "rank 0 is out of memory");
    else
        fail_job(server, WEIR_ERR_PEER_GONE,
                 "rank %d (process %u on %s) fell silent: its host is down or the network to it is cut (%s)", rank,
                 seat->pid, seat->host, strerror(error));
}

/* "2, 5-7 of 8 ranks": the seats that are free. */
static void describe_missing(const struct wi_boot_server *server, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (int rank = 0; rank < server->world; rank++) {
        if (server->seats[rank].state != SEAT_FREE)
            continue;
        int last = rank;
        while (last + 1 < server->world && server->seats[last + 1].state == SEAT_FREE)
            last++;
        if (used + 32 > size) {
            snprintf(text + used, size - used, ", ...");
            return;
        }
        used += (size_t)snprintf(text + used, size - used, "%s%d", used ? ", " : "", rank);
        if (last > rank)
            used += (size_t)snprintf(text + used, size - used, "%s%d", last > rank + 1 ? "-" : ", ", last);
        rank = last;
    }
}

static void join_timed_out(struct wi_boot_server *server)
{
    char missing[512];
    describe_missing(server, missing, sizeof(missing));
    int count = server->world - server->seated;
    fail_job(server, WEIR_ERR_TIMEOUT,
             "rank%s %s of %d did not come within WEIR_TIMEOUT: %s not started, stopped early, or %s another "
             "WEIR_MASTER_ADDR or WEIR_MASTER_PORT",
             count == 1 ? "" : "s", missing, server->world, count == 1 ? "it was" : "they were",
             count == 1 ? "has" : "have");
}

/* Where ranks of other hosts reach this one; ranks that came by loopback cannot see it themselves. */
static void find_outward_address(const struct wi_boot_server *server, char text[WI_NET_ADDRESS])
{
    for (int rank = 0; rank < server->world; rank++) {
        if (!wi_net_is_loopback(wi_net_local_address(server->seats[rank].connection->fd, text)))
            return;
    }
    text[0] = '\0';
}

static void welcome_all(struct wi_boot_server *server)
{
    char outward[WI_NET_ADDRESS];
    find_outward_address(server, outward);
    server->join_until_ns = UINT64_MAX;
    for (int rank = 0; rank < server->world; rank++) {
        struct connection *connection = server->seats[rank].connection;
        struct wi_message message = {.type = WI_WIRE_WELCOME};
        if (wi_net_is_loopback(connection->peer))
            message.text = wi_span_text(outward);
        tell(server, connection, &message);
        if (server->failure != WEIR_OK)
            return;
    }
    wi_debug("all %d ranks are there", server->world);
}

/* ---- joining ---- */

static void refuse(struct wi_boot_server *server, struct connection *connection, weir_status status, const char *text)
{
    /* Nobody may fill the log of rank 0 by knocking. */
    if (server->refusals++ < REFUSALS_TOLD)
        wi_warn("turned away %s: %s", connection->peer, text);
    tell_status(server, connection, WI_WIRE_REFUSED, 0, status, text);
    connection->refused = true;
}

/* Why the joiner cannot have its seat; WEIR_OK: it can. */
static weir_status judge(const struct wi_boot_server *server, const struct wi_message *hello, char *text, size_t size)
{
    char job[WI_WIRE_NAME_MAX + 1];
    char host[64];
    char who[128];
    wi_span_copy(hello->job, job, sizeof(job));
    wi_span_copy(hello->host, host, sizeof(host));
    snprintf(who, sizeof(who), "process %u on %s (rank %u of %u)", hello->pid, host, hello->rank, hello->world);
    if (strcmp(job, server->job_id) != 0) {
        snprintf(text, size, "%s belongs to job '%s', the store on port %d serves job '%s': WEIR_JOB_ID differs", who,
                 job, server->port, server->job_id);
        return WEIR_ERR_MISMATCH;
    }
    if (hello->world != (uint32_t)server->world || hello->servers != (uint32_t)server->servers) {
        snprintf(text, size,
                 "%s was started with %u ranks, %u of them servers; rank 0 with %d ranks, %d of them servers: "
                 "WEIR_WORLD_SIZE and WEIR_SERVERS must be the same everywhere",
                 who, hello->world, hello->servers, server->world, server->servers);
        return WEIR_ERR_MISMATCH;
    }
    if (hello->rank >= (uint32_t)server->world) {
        snprintf(text, size, "%s has a rank outside of the world", who);
        return WEIR_ERR_MISMATCH;
    }
    const struct seat *seat = &server->seats[hello->rank];
    if (server->failure != WEIR_OK) {
        snprintf(text, size, "%s came too late, the job has failed: %s", who, server->failure_text);
        return server->failure;
    }
    if (seat->state != SEAT_FREE) {
        snprintf(text, size, "rank %u %s process %u on %s; %s has the same rank: WEIR_RANK must differ in each process",
                 hello->rank, seat->state == SEAT_LEFT ? "was (and has left)" : "is", seat->pid, seat->host, who);
        return WEIR_ERR_MISMATCH;
    }
    return WEIR_OK;
}

/* ---- the secret ---- */

static void on_greet(struct wi_boot_server *server, struct connection *connection, const struct wi_message *message)
{
    if (server->secret->len == 0) {
        refuse(server, connection, WEIR_ERR_MISMATCH,
               "it comes with a secret and rank 0 has none: WEIR_SECRET_FILE must be set on all ranks or on none");
        return;
    }
    if (connection->challenged || message->proof.len != WI_SECRET_NONCE ||
        wi_secret_nonce(connection->of_store) != WEIR_OK) {
        lose(server, connection, EPROTO);
        return;
    }
    memcpy(connection->of_rank, message->proof.data, WI_SECRET_NONCE);
    connection->challenged = true;
    tell(server, connection,
         &(struct wi_message){.type = WI_WIRE_CHALLENGE, .proof = {connection->of_store, WI_SECRET_NONCE}});
}

static void on_proof(struct wi_boot_server *server, struct connection *connection, const struct wi_message *message)
{
    uint8_t ours[WI_SECRET_PROOF];
    if (!connection->challenged ||
        !wi_secret_check(server->secret, WI_SECRET_RANK, connection->of_rank, connection->of_store,
                         message->proof.data, message->proof.len)) {
        refuse(server, connection, WEIR_ERR_MISMATCH,
               "it comes with another secret than the job's: WEIR_SECRET_FILE must have the same content on all ranks");
        return;
    }
    if (!wi_secret_prove(server->secret, WI_SECRET_STORE, connection->of_rank, connection->of_store, ours)) {
        lose(server, connection, EPROTO);
        return;
    }
    connection->proven = true;
    tell(server, connection, &(struct wi_message){.type = WI_WIRE_PROVEN, .proof = {ours, sizeof(ours)}});
}

static void on_hello(struct wi_boot_server *server, struct connection *connection, const struct wi_message *hello)
{
    char text[WI_WIRE_TEXT_MAX + 1];
    if (server->secret->len > 0 && !connection->proven) {
        refuse(server, connection, WEIR_ERR_MISMATCH,
               "it comes without a secret and the job has one: set WEIR_SECRET_FILE on all ranks");
        return;
    }
    weir_status status = judge(server, hello, text, sizeof(text));
    if (status != WEIR_OK) {
        refuse(server, connection, status, text);
        return;
    }
    struct seat *seat = &server->seats[hello->rank];
    *seat = (struct seat){.state = SEAT_TAKEN, .connection = connection, .pid = hello->pid};
    wi_span_copy(hello->host, seat->host, sizeof(seat->host));
    wi_link_remove(&connection->link);
    wi_link_append(&server->members, &connection->link);
    server->stranger_count--;
    connection->rank = (int)hello->rank;
    wi_net_tune(connection->fd, server->timeout_ns);
    server->seated++;
    server->present++;
    wi_debug("rank %u is process %u on %s", hello->rank, seat->pid, seat->host);

    uint64_t until_ns = wi_now_ns() + (uint64_t)hello->timeout_ms * WI_NS_PER_MS;
    if (until_ns < server->join_until_ns)
        server->join_until_ns = until_ns;
    tell_status(server, connection, WI_WIRE_ACK, 0, WEIR_OK, "");
    if (server->seated == server->world && server->failure == WEIR_OK)
        welcome_all(server);
}

/* ---- requests of ranks ---- */

/* Tells all who wait for a key. */
static void tell_waiters(struct wi_boot_server *server, struct wi_store *store, struct wi_span key, struct wi_span value)
{
    void *owner;
    struct wi_message answer = {.type = WI_WIRE_VALUE, .value = value};
    while (wi_store_next_waiter(store, key, &owner, &answer.request))
        tell(server, owner, &answer);
}

static void on_put(struct wi_boot_server *server, struct connection *connection, const struct wi_message *message)
{
    weir_status status = wi_store_put(&server->store, message->key, message->value);
    tell_status(server, connection, WI_WIRE_ACK, message->request, status, "");
    if (status == WEIR_OK)
        tell_waiters(server, &server->store, message->key, message->value);
}

static void on_append(struct wi_boot_server *server, struct connection *connection, const struct wi_message *message)
{
    char key[WEIR_BOOT_KEY_MAX + 1];
    weir_status status = wi_store_append(&server->store, message->key, message->value, key);
    tell_status(server, connection, WI_WIRE_ACK, message->request, status, "");
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
        struct connection *connection = owner;
        connection->pieces = pieces;
        connection->piece_count = count;
        connection->piece_next = 0;
        connection->gather = request;
        wi_link_remove(&connection->dirty);
        wi_link_append(&server->dirty, &connection->dirty);
    }
}

/* A frame of each rank, and to each but the frames that all pieces together fill; a barrier has none. */
static void on_meet(struct wi_boot_server *server, struct connection *connection, const struct wi_message *message)
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
        tell_status(server, connection, WI_WIRE_ACK, message->request, status, "");
}

static void on_absent(struct wi_boot_server *server, struct connection *connection, const struct wi_message *message)
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
    tell(server, connection,
         &(struct wi_message){.type = WI_WIRE_VALUE, .request = message->request, .value = {numbers, len}});
}

static void on_get(struct wi_boot_server *server, struct connection *connection, const struct wi_message *message)
{
    struct wi_message answer = {.type = WI_WIRE_VALUE, .request = message->request};
    if (wi_store_get(&server->store, message->key, &answer.value)) {
        tell(server, connection, &answer);
        return;
    }
    weir_status status =
        wi_store_wait(&server->store, message->key, connection, &connection->waiters, message->request);
    if (status != WEIR_OK)
        tell_status(server, connection, WI_WIRE_ACK, message->request, status, "");
}

static void on_fail(struct wi_boot_server *server, struct connection *connection, const struct wi_message *message)
{
    char text[WI_WIRE_TEXT_MAX + 1];
    const struct seat *seat = &server->seats[connection->rank];
    wi_span_copy(message->text, text, sizeof(text));
    fail_job(server, wi_wire_status(message->status), "rank %d (process %u on %s) failed: %s", connection->rank,
             seat->pid, seat->host, text);
}

static void on_bye(struct wi_boot_server *server, struct connection *connection)
{
    struct seat *seat = &server->seats[connection->rank];
    seat->state = SEAT_LEFT;
    seat->connection = NULL;
    server->present--;
    drop(server, connection);
    /* Who leaves before all are there leaves the others waiting for nothing. */
    if (server->seated < server->world)
        fail_job(server, WEIR_ERR_JOB_FAILED, "rank %d (process %u on %s) gave up before all ranks were there",
                 (int)(seat - server->seats), seat->pid, seat->host);
}

static bool on_stranger(struct wi_boot_server *server, struct connection *connection, const struct wi_message *message)
{
    switch (message->type) {
    case WI_WIRE_HELLO:
        on_hello(server, connection, message);
        return true;
    case WI_WIRE_GREET:
        on_greet(server, connection, message);
        return true;
    case WI_WIRE_PROOF:
        on_proof(server, connection, message);
        return true;
    default:
        return false;
    }
}

static bool on_message(struct wi_boot_server *server, struct connection *connection, const struct wi_message *message)
{
    if (connection->rank == STRANGER)
        return on_stranger(server, connection, message);
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

/* Handles all complete frames. Returns how many bytes the next one still needs, at least. */
static size_t handle_frames(struct wi_boot_server *server, struct connection *connection)
{
    size_t frame_len = 0;
    while (connection->fd >= 0 && !connection->refused) {
        struct wi_message message;
        size_t count = wi_bytes_count(&connection->in);
        const uint8_t *at = count ? connection->in.data + connection->in.start : (const uint8_t *)"";
        enum wi_wire_result result = wi_wire_decode(at, count, &message, &frame_len);
        bool fits = connection->rank != STRANGER || frame_len <= STRANGER_FRAME_MAX;
        if (result == WI_WIRE_MORE && fits)
            return frame_len - count;
        count_one(&server->counts.received);
        if (result == WI_WIRE_OTHER && connection->rank == STRANGER) {
            refuse(server, connection, WEIR_ERR_PROTOCOL,
                   "it speaks another version of the store's protocol: all ranks need the same libweir");
            return 1;
        }
        if (result != WI_WIRE_OK || !fits || !on_message(server, connection, &message)) {
            wi_debug("dropped %s, which does not speak the store's protocol", connection->peer);
            lose(server, connection, EPROTO);
            return 1;
        }
        if (connection->fd >= 0)
            wi_bytes_consume(&connection->in, frame_len);
    }
    return 1;
}

static void on_readable(struct wi_boot_server *server, struct connection *connection)
{
    size_t least = 256;
    for (int i = 0; i < RECEIVES_PER_TURN && connection->fd >= 0; i++) {
        enum wi_io io = wi_bytes_receive(&connection->in, connection->fd, least);
        if (io == WI_IO_AGAIN)
            return;
        if (io != WI_IO_DONE) {
            lose(server, connection, io == WI_IO_END ? 0 : errno);
            return;
        }
        if (connection->refused) /* it may go on talking, nobody listens */
            connection->in.start = connection->in.end = 0;
        least = handle_frames(server, connection);
        least = least > 256 ? least : 256;
    }
}

/* ---- the listener ---- */

static void watch_listener(struct wi_boot_server *server, bool watch)
{
    struct epoll_event event = {.events = watch ? EPOLLIN : 0, .data.ptr = &server->listener};
    (void)epoll_ctl(server->epoll, EPOLL_CTL_MOD, server->listener, &event);
}

/* Who crowds the store loses by it, not who waits beside: of the address with most strangers the oldest one. */
static struct connection *most_crowded(const struct wi_boot_server *server)
{
    struct connection *worst = NULL;
    size_t worst_count = 0;
    for (const struct wi_link *one = server->strangers.next; one != &server->strangers; one = one->next) {
        size_t count = 0;
        for (const struct wi_link *other = one; other != &server->strangers; other = other->next)
            count += strcmp(OF_LINK(one)->peer, OF_LINK(other)->peer) == 0;
        if (count > worst_count) {
            worst_count = count;
            worst = OF_LINK(one);
        }
    }
    return worst;
}

/* Few enough to leave the process descriptors for what it does. */
static size_t strangers_max(void)
{
    struct rlimit limit;
    size_t share = STRANGERS_MAX;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur / STRANGERS_SHARE < share)
        share = (size_t)limit.rlim_cur / STRANGERS_SHARE;
    return share > STRANGERS_MIN ? share : STRANGERS_MIN;
}

static void add_stranger(struct wi_boot_server *server, int fd)
{
    char peer[WI_NET_ADDRESS];
    wi_net_peer_address(fd, peer);
    struct connection *connection = NULL;
    if (!server->loopback_only || wi_net_is_loopback(peer))
        connection = calloc(1, sizeof(*connection));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (!connection || epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        free(connection);
        close(fd);
        return;
    }
    connection->fd = fd;
    connection->rank = STRANGER;
    connection->until_ns = wi_now_ns() + STRANGER_PATIENCE_NS;
    memcpy(connection->peer, peer, sizeof(peer));
    wi_link_init(&connection->dirty);
    wi_link_init(&connection->waiters);
    wi_link_append(&server->strangers, &connection->link);
    if (++server->stranger_count > server->strangers_max)
        drop(server, most_crowded(server));
}

static void on_joiners(struct wi_boot_server *server)
{
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            add_stranger(server, fd);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return;
        /* No descriptors or memory: whoever crowds the store makes room, else look again in a moment. */
        if (server->accept_failures++ < REFUSALS_TOLD)
            wi_warn("the store cannot accept a connection: %s%s", strerror(errno),
                    errno == EMFILE ? "; raise the limit of open files (ulimit -n)" : "");
        if (server->stranger_count > 0) {
            drop(server, most_crowded(server));
            continue;
        }
        watch_listener(server, false);
        server->listen_again_ns = wi_now_ns() + 100 * WI_NS_PER_MS;
        return;
    }
}

/* ---- the thread ---- */

static uint64_t next_moment(const struct wi_boot_server *server)
{
    uint64_t moment_ns = server->join_until_ns;
    if (server->listen_again_ns && server->listen_again_ns < moment_ns)
        moment_ns = server->listen_again_ns;
    if (server->ending && server->end_ns < moment_ns)
        moment_ns = server->end_ns;
    if (server->strangers.next != &server->strangers && OF_LINK(server->strangers.next)->until_ns < moment_ns)
        moment_ns = OF_LINK(server->strangers.next)->until_ns;
    return moment_ns;
}

static void on_time(struct wi_boot_server *server)
{
    uint64_t now_ns = wi_now_ns();
    while (server->strangers.next != &server->strangers && OF_LINK(server->strangers.next)->until_ns <= now_ns)
        drop(server, OF_LINK(server->strangers.next));
    if (server->listen_again_ns && server->listen_again_ns <= now_ns) {
        server->listen_again_ns = 0;
        watch_listener(server, true);
    }
    if (server->join_until_ns <= now_ns)
        join_timed_out(server);
}

static void on_wake(struct wi_boot_server *server)
{
    uint64_t count;
    if (read(server->wake, &count, sizeof(count)) < 0)
        return;
    uint64_t linger_ns = server->linger_ns;
    if (server->failure != WEIR_OK && linger_ns > FAILED_LINGER_NS)
        linger_ns = FAILED_LINGER_NS;
    server->ending = true;
    server->end_ns = wi_now_ns() + linger_ns;
}

static bool has_ended(const struct wi_boot_server *server)
{
    return server->ending && (server->present == 0 || wi_now_ns() >= server->end_ns);
}

/* Handles what is there, waiting until `until_ns` for something. */
static void turn(struct wi_boot_server *server, uint64_t until_ns)
{
    struct epoll_event events[64];
    int count = epoll_wait(server->epoll, events, 64, wi_net_poll_ms(until_ns));
    for (int i = 0; i < count; i++) {
        void *source = events[i].data.ptr;
        struct connection *connection = source;
        if (source == &server->wake) {
            on_wake(server);
        } else if (source == &server->listener) {
            on_joiners(server);
        } else if (connection->fd >= 0) {
            if (events[i].events & EPOLLOUT)
                flush(server, connection);
            if (connection->fd >= 0 && (events[i].events & ~(uint32_t)EPOLLOUT))
                on_readable(server, connection);
        }
    }
    on_time(server);
    flush_dirty(server);
    bury(server);
}

/* Tells who is left, and gives what is on its way a moment to arrive. */
static void say_closed(struct wi_boot_server *server)
{
    uint64_t until_ns = wi_now_ns() + FLUSH_NS;
    for (struct wi_link *link = server->members.next, *next; link != &server->members; link = next) {
        struct connection *connection = OF_LINK(link);
        next = link->next;
        tell(server, connection, &(struct wi_message){.type = WI_WIRE_CLOSED});
        if (connection->fd >= 0)
            flush(server, connection);
        if (connection->fd >= 0 && wi_bytes_count(&connection->out) == 0)
            (void)shutdown(connection->fd, SHUT_WR);
    }
    while (server->present > 0 && wi_now_ns() < until_ns)
        turn(server, until_ns);
}

static void *serve(void *arg)
{
    struct wi_boot_server *server = arg;
    while (!has_ended(server))
        turn(server, next_moment(server));
    if (server->failure == WEIR_OK) { /* connections that end from here on are in good order */
        server->failure = WEIR_ERR_CANCELED;
        snprintf(server->failure_text, sizeof(server->failure_text), "rank 0 has left, the job is over");
    }
    server->join_until_ns = UINT64_MAX;
    say_closed(server);
    return NULL;
}

static weir_status start(struct wi_boot_server *server)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* signals are the program's business */
    int error = pthread_create(&server->thread, NULL, serve, server);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        return wi_error(WEIR_ERR_LIMIT, "rank 0 cannot start the store's thread: %s", strerror(error));
    return WEIR_OK;
}

static bool watch(struct wi_boot_server *server, int fd, void *source)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};
    return fd >= 0 && epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static void server_free(struct wi_boot_server *server)
{
    while (server->members.next != &server->members)
        drop(server, OF_LINK(server->members.next));
    while (server->strangers.next != &server->strangers)
        drop(server, OF_LINK(server->strangers.next));
    bury(server);
    wi_store_fini(&server->store);
    wi_store_fini(&server->meetings);
    for (int i = 0; i < 3; i++) {
        int fd = i == 0 ? server->listener : i == 1 ? server->wake : server->epoll;
        if (fd >= 0)
            close(fd);
    }
    free(server->seats);
    free(server);
}

weir_status wi_boot_server_create(const struct wi_boot_server_params *params, struct wi_boot_server **out)
{
    struct wi_boot_server *server = calloc(1, sizeof(*server));
    struct seat *seats = calloc((size_t)params->world, sizeof(*seats));
    if (!server || !seats) {
        free(server);
        free(seats);
        return wi_error(WEIR_ERR_NO_MEMORY, "no memory for a store of %d ranks", params->world);
    }
    server->seats = seats;
    server->world = params->world;
    server->servers = params->servers;
    server->port = params->port;
    server->loopback_only = params->loopback_only;
    server->secret = params->secret;
    server->timeout_ns = params->timeout_ns;
    server->strangers_max = strangers_max();
    server->join_until_ns = UINT64_MAX;
    snprintf(server->job_id, sizeof(server->job_id), "%s", params->job_id);
    wi_link_init(&server->strangers);
    wi_link_init(&server->members);
    wi_link_init(&server->dirty);
    wi_link_init(&server->dead);
    server->listener = server->epoll = -1;
    server->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    uint64_t patience_ns = params->timeout_ns / 4 < WI_NS_PER_S ? params->timeout_ns / 4 : WI_NS_PER_S;
    weir_status status = wi_net_listen(params->port, patience_ns, &server->listener);
    if (status != WEIR_OK)
        goto fail;
    server->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (server->epoll < 0 || !watch(server, server->listener, &server->listener) || !watch(server, server->wake, &server->wake)) {
        status = wi_error(WEIR_ERR_LIMIT, "rank 0 cannot serve the store: %s", strerror(errno));
        goto fail;
    }
    status = start(server);
    if (status != WEIR_OK)
        goto fail;
    *out = server;
    return WEIR_OK;

fail:
    server_free(server);
    return status;
}

struct wi_boot_server_counts wi_boot_server_counts(const struct wi_boot_server *server)
{
    return (struct wi_boot_server_counts){
        .received = __atomic_load_n(&server->counts.received, __ATOMIC_RELAXED),
        .queued = __atomic_load_n(&server->counts.queued, __ATOMIC_RELAXED),
    };
}

void wi_boot_server_destroy(struct wi_boot_server *server, uint64_t linger_ns)
{
    if (!server)
        return;
    server->linger_ns = linger_ns;
    uint64_t one = 1;
    while (write(server->wake, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    pthread_join(server->thread, NULL);
    server_free(server);
}
