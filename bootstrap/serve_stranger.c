/*
 * Strangers: connections that have not said HELLO yet and got a seat. They are few (when one too many comes, or no
 * descriptor is left, the oldest of the address that has most of them goes), have a bounded time and a bounded frame,
 * and can do nothing: whatever they send does not disturb the job. Where the job has a secret, a stranger has to prove
 * that it knows it before its HELLO is listened to, and is told nothing of the job until then.
 */
#include "bootstrap/serve.h"
#include "core/clock.h"
#include "core/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define STRANGERS_MAX        128u
#define STRANGERS_MIN        8u
#define STRANGERS_SHARE      8u /* and this part of the process's descriptors: the job needs the others */
#define STRANGER_PATIENCE_NS (5 * WI_NS_PER_S)
#define ACCEPTS_PER_TURN     32
#define REFUSALS_TOLD        8

/* ---- Who comes ---- */

static void watch_listener(struct wi_boot_server *server, bool watch)
{
    struct epoll_event event = {.events = watch ? EPOLLIN : 0, .data.ptr = &server->listener};
    (void)epoll_ctl(server->epoll, EPOLL_CTL_MOD, server->listener, &event);
}

/* Who crowds the store loses by it, not who waits beside: of the address with most strangers the oldest one. */
static struct wi_connection *most_crowded(const struct wi_boot_server *server)
{
    struct wi_connection *worst = NULL;
    size_t worst_count = 0;
    for (const struct wi_link *one = server->strangers.next; one != &server->strangers; one = one->next) {
        size_t count = 0;
        for (const struct wi_link *other = one; other != &server->strangers; other = other->next)
            count += strcmp(WI_CONNECTION(one)->peer, WI_CONNECTION(other)->peer) == 0;
        if (count > worst_count) {
            worst_count = count;
            worst = WI_CONNECTION(one);
        }
    }
    return worst;
}

/* Few enough to leave the process descriptors for what it does. */
size_t wi_serve_strangers_max(void)
{
    struct rlimit limit;
    size_t share = STRANGERS_MAX;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur / STRANGERS_SHARE < share)
        share = (size_t)limit.rlim_cur / STRANGERS_SHARE;
    return share > STRANGERS_MIN ? share : STRANGERS_MIN;
}

void wi_serve_add_stranger(struct wi_boot_server *server, int fd)
{
    char peer[WI_NET_ADDRESS];
    wi_net_peer_address(fd, peer);
    struct wi_connection *connection = NULL;
    if (!server->loopback_only || wi_net_is_loopback(peer))
        connection = calloc(1, sizeof(*connection));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (!connection || epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        free(connection);
        close(fd);
        return;
    }
    connection->fd = fd;
    connection->rank = WI_STRANGER;
    connection->until_ns = wi_now_ns() + STRANGER_PATIENCE_NS;
    memcpy(connection->peer, peer, sizeof(peer));
    wi_link_init(&connection->dirty);
    wi_link_init(&connection->waiters);
    wi_link_append(&server->strangers, &connection->link);
    if (++server->stranger_count > server->strangers_max)
        wi_serve_drop(server, most_crowded(server));
}

void wi_serve_joiners(struct wi_boot_server *server)
{
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            wi_serve_add_stranger(server, fd);
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
            wi_serve_drop(server, most_crowded(server));
            continue;
        }
        watch_listener(server, false);
        server->listen_again_ns = wi_now_ns() + 100 * WI_NS_PER_MS;
        return;
    }
}

uint64_t wi_serve_strangers_moment(const struct wi_boot_server *server)
{
    uint64_t moment_ns = server->listen_again_ns ? server->listen_again_ns : UINT64_MAX;
    if (server->strangers.next != &server->strangers && WI_CONNECTION(server->strangers.next)->until_ns < moment_ns)
        moment_ns = WI_CONNECTION(server->strangers.next)->until_ns;
    return moment_ns;
}

void wi_serve_strangers_time(struct wi_boot_server *server, uint64_t now_ns)
{
    while (server->strangers.next != &server->strangers && WI_CONNECTION(server->strangers.next)->until_ns <= now_ns)
        wi_serve_drop(server, WI_CONNECTION(server->strangers.next));
    if (server->listen_again_ns && server->listen_again_ns <= now_ns) {
        server->listen_again_ns = 0;
        watch_listener(server, true);
    }
}

/* ---- Who gets a seat ---- */

void wi_serve_refuse(struct wi_boot_server *server, struct wi_connection *connection, weir_status status,
                     const char *text)
{
    /* Nobody may fill the log of rank 0 by knocking. */
    if (server->refusals++ < REFUSALS_TOLD)
        wi_warn("turned away %s: %s", connection->peer, text);
    wi_serve_tell_status(server, connection, WI_WIRE_REFUSED, 0, status, text);
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
    const struct wi_seat *seat = &server->seats[hello->rank];
    if (server->failure != WEIR_OK) {
        snprintf(text, size, "%s came too late, the job has failed: %s", who, server->failure_text);
        return server->failure;
    }
    if (seat->state != WI_SEAT_FREE) {
        snprintf(text, size, "rank %u %s process %u on %s; %s has the same rank: WEIR_RANK must differ in each process",
                 hello->rank, seat->state == WI_SEAT_LEFT ? "was (and has left)" : "is", seat->pid, seat->host, who);
        return WEIR_ERR_MISMATCH;
    }
    return WEIR_OK;
}

static void on_hello(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *hello)
{
    char text[WI_WIRE_TEXT_MAX + 1];
    if (server->secret->len > 0 && !connection->proven) {
        wi_serve_refuse(server, connection, WEIR_ERR_MISMATCH,
                        "it comes without a secret and the job has one: set WEIR_SECRET_FILE on all ranks");
        return;
    }
    weir_status status = judge(server, hello, text, sizeof(text));
    if (status != WEIR_OK) {
        wi_serve_refuse(server, connection, status, text);
        return;
    }
    struct wi_seat *seat = &server->seats[hello->rank];
    *seat = (struct wi_seat){.state = WI_SEAT_TAKEN, .connection = connection, .pid = hello->pid};
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
    wi_serve_tell_status(server, connection, WI_WIRE_ACK, 0, WEIR_OK, "");
    if (server->seated == server->world && server->failure == WEIR_OK)
        wi_serve_welcome_all(server);
}

/* ---- The secret ---- */

static void on_greet(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *message)
{
    if (server->secret->len == 0) {
        wi_serve_refuse(
            server, connection, WEIR_ERR_MISMATCH,
            "it comes with a secret and rank 0 has none: WEIR_SECRET_FILE must be set on all ranks or on none");
        return;
    }
    if (connection->challenged || message->proof.len != WI_SECRET_NONCE ||
        wi_secret_nonce(connection->of_store) != WEIR_OK) {
        wi_serve_lose(server, connection, EPROTO);
        return;
    }
    memcpy(connection->of_rank, message->proof.data, WI_SECRET_NONCE);
    connection->challenged = true;
    wi_serve_tell(server, connection,
                  &(struct wi_message){.type = WI_WIRE_CHALLENGE, .proof = {connection->of_store, WI_SECRET_NONCE}});
}

static void on_proof(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *message)
{
    uint8_t ours[WI_SECRET_PROOF];
    if (!connection->challenged || !wi_secret_check(server->secret, WI_SECRET_RANK, connection->of_rank,
                                                    connection->of_store, message->proof.data, message->proof.len)) {
        wi_serve_refuse(
            server, connection, WEIR_ERR_MISMATCH,
            "it comes with another secret than the job's: WEIR_SECRET_FILE must have the same content on all ranks");
        return;
    }
    if (!wi_secret_prove(server->secret, WI_SECRET_STORE, connection->of_rank, connection->of_store, ours)) {
        wi_serve_lose(server, connection, EPROTO);
        return;
    }
    connection->proven = true;
    wi_serve_tell(server, connection, &(struct wi_message){.type = WI_WIRE_PROVEN, .proof = {ours, sizeof(ours)}});
}

bool wi_serve_stranger(struct wi_boot_server *server, struct wi_connection *connection,
                       const struct wi_message *message)
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
