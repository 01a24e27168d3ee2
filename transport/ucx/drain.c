/*
 * Ends the TCP connections that a listener has accepted but not identified, before the listener is destroyed.
 *
 * UCX 1.13 keeps such a connection when its listener goes, and calls the freed listener when the connection's first
 * bytes come (ucp_cm_server_conn_request_cb, from its own thread): a peer that connects while this context closes would
 * take the process with it. UCX offers no way to them, but they are sockets of this process on the listener's port.
 */
#include "transport/ucx/ucx.h"

#include <sys/socket.h>
#include <unistd.h>

enum { DRAIN_TURNS = 50, DRAIN_PAUSE_US = 200 };

struct shutting {
    uint16_t port;
    unsigned count;
};

/* Shuts `fd` down if it is a connected socket on our side's port. */
static void shut_connection(int fd, void *arg)
{
    struct shutting *shutting = arg;
    int listens = 0;
    socklen_t size = sizeof(listens);
    if (wi_ucx_port_of(fd) != shutting->port || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 ||
        listens)
        return;
    shutdown(fd, SHUT_RDWR);
    shutting->count++;
}

/* Shuts all such connections down; returns how many there were. */
static unsigned shut_connections(uint16_t port)
{
    struct shutting shutting = {.port = port};
    wi_ucx_descriptors(shut_connection, &shutting);
    return shutting.count;
}

void wi_ucx_drain(struct wi_ucx_iface *iface)
{
    for (int turn = 0; turn < DRAIN_TURNS && shut_connections(iface->port) > 0; turn++) {
        ucp_worker_progress(iface->worker);
        usleep(DRAIN_PAUSE_US); /* UCX's own thread reads their end and closes them */
    }
}
