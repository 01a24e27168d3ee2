/* The server's thread, which owns all of its state: epoll tells it what to do next, an eventfd tells it to end. */
#include "bootstrap/serve.h"
#include "core/clock.h"
#include "core/error.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define FLUSH_NS WI_NS_PER_S

static uint64_t next_moment(const struct wi_boot_server *server)
{
    uint64_t moment_ns = server->join_until_ns, strangers_ns = wi_serve_strangers_moment(server);
    if (strangers_ns < moment_ns)
        moment_ns = strangers_ns;
    if (server->ending && server->end_ns < moment_ns)
        moment_ns = server->end_ns;
    return moment_ns;
}

static void on_time(struct wi_boot_server *server)
{
    uint64_t now_ns = wi_now_ns();
    wi_serve_strangers_time(server, now_ns);
    if (server->join_until_ns <= now_ns)
        wi_serve_join_timed_out(server);
}

static void on_wake(struct wi_boot_server *server)
{
    uint64_t count;
    if (read(server->wake, &count, sizeof(count)) < 0)
        return;
    uint64_t linger_ns = server->linger_ns;
    if (server->failure != WEIR_OK && linger_ns > WI_FAILED_LINGER_NS)
        linger_ns = WI_FAILED_LINGER_NS;
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
        struct wi_connection *connection = source;
        if (source == &server->wake) {
            on_wake(server);
        } else if (source == &server->listener) {
            wi_serve_joiners(server);
        } else if (connection->fd >= 0) {
            if (events[i].events & EPOLLOUT)
                wi_serve_flush(server, connection);
            if (connection->fd >= 0 && (events[i].events & ~(uint32_t)EPOLLOUT))
                wi_serve_readable(server, connection);
        }
    }
    on_time(server);
    wi_serve_flush_dirty(server);
    wi_serve_bury(server);
}

/* Tells who is left, and gives what is on its way a moment to arrive. */
static void say_closed(struct wi_boot_server *server)
{
    uint64_t until_ns = wi_now_ns() + FLUSH_NS;
    for (struct wi_link *link = server->members.next, *next; link != &server->members; link = next) {
        struct wi_connection *connection = WI_CONNECTION(link);
        next = link->next;
        wi_serve_tell(server, connection, &(struct wi_message){.type = WI_WIRE_CLOSED});
        if (connection->fd >= 0)
            wi_serve_flush(server, connection);
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
        wi_serve_drop(server, WI_CONNECTION(server->members.next));
    while (server->strangers.next != &server->strangers)
        wi_serve_drop(server, WI_CONNECTION(server->strangers.next));
    wi_serve_bury(server);
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
    struct wi_seat *seats = calloc((size_t)params->world, sizeof(*seats));
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
    server->strangers_max = wi_serve_strangers_max();
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
    if (server->epoll < 0 || !watch(server, server->listener, &server->listener) ||
        !watch(server, server->wake, &server->wake)) {
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
