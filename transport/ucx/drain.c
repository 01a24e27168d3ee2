/*
 * Ends the TCP connections that a listener has accepted but not identified, before the listener is destroyed.
 *
 * UCX 1.13 keeps such a connection when its listener goes, and calls the freed listener when the connection's first
 * bytes come (ucp_cm_server_conn_request_cb, from its own thread): a peer that connects while this context closes would
 * take the process with it. UCX offers no way to them, but they are sockets of this process on the listener's port.
 */
#include "transport/ucx/ucx.h"

#include <linux/filter.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DRAIN_TURNS = 52, DRAIN_PAUSE_US = 200 };

struct shutting {
    uint16_t port;
    unsigned count; /* connections that there still are, on their way to UCX or with it */
};

/* From here on the listener hears nothing: what comes while connections are looked for would be overlooked. */
static void deafen(int fd)
{
    struct sock_filter drop_all = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = {.len = 1, .filter = &drop_all};
    setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

/* Deafens `fd` if it is the listener, and shuts it down if it is a connected socket on our side's port. */
static void shut_connection(int fd, void *arg)
{
    struct shutting *shutting = arg;
    if (wi_ucx_port_of(fd) != shutting->port)
        return;
    if (wi_ucx_listens(fd)) {
        deafen(fd);
        shutting->count += poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0) > 0; /* one waits to be accepted */
    } else {
        shutdown(fd, SHUT_RDWR);
        shutting->count++;
    }
}

/* Shuts all such connections down; returns how many there were. */
static unsigned shut_connections(uint16_t port)
{
    struct shutting shutting = {.port = port};
    wi_ucx_descriptors(shut_connection, &shutting);
    return shutting.count;
}

/* A connection may be accepted while a look is on its way from lower descriptors to the listener: the next one finds it. */
void wi_ucx_drain(struct wi_ucx_iface *iface)
{
    for (int turn = 0, quiet = 0; turn < DRAIN_TURNS && quiet < 2; turn++) {
        quiet = shut_connections(iface->port) > 0 ? 0 : quiet + 1;
        ucp_worker_progress(iface->worker);
        if (quiet == 0)
            usleep(DRAIN_PAUSE_US); /* UCX's own thread reads their end and closes them */
    }
}
