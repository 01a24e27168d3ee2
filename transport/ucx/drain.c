/*
 * Ends the TCP connections that a listener has accepted but not identified, before the listener is destroyed.
 *
 * UCX 1.13 keeps such a connection when its listener goes, and calls the freed listener when the connection's first
 * bytes come (ucp_cm_server_conn_request_cb, from its own thread): a peer that connects while this context closes would
 * take the process with it. UCX offers no way to them, but they are sockets of this process on the listener's port.
 */
#include "transport/ucx/ucx.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DRAIN_TURNS = 50, DRAIN_PAUSE_US = 200 };

/* Is `fd` a connected TCP socket on our side's port `port`? */
static bool is_connection_on(int fd, uint16_t port)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);
    in_port_t at;
    if (getsockname(fd, (struct sockaddr *)&address, &len) != 0 ||
        (address.ss_family != AF_INET && address.ss_family != AF_INET6))
        return false;
    memcpy(&at, (const char *)&address + offsetof(struct sockaddr_in, sin_port), sizeof(at)); /* IPv6: same place */
    int listens = 0;
    socklen_t size = sizeof(listens);
    return ntohs(at) == port && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && !listens;
}

/* Shuts `fd` down if it is such a connection; returns whether it was. */
static unsigned shut_connection(int fd, uint16_t port)
{
    if (!is_connection_on(fd, port))
        return 0;
    shutdown(fd, SHUT_RDWR);
    return 1;
}

/* Where descriptors are used up, so that they cannot be listed: nearly all that there may be are there. */
static unsigned shut_unlisted(uint16_t port)
{
    unsigned count = 0;
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 0;
    for (rlim_t fd = 0; fd < limit.rlim_cur && fd <= INT_MAX; fd++)
        count += shut_connection((int)fd, port);
    return count;
}

/* Shuts all such connections down; returns how many there were. */
static unsigned shut_connections(uint16_t port)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (!folder)
        return shut_unlisted(port);
    for (struct dirent *entry; (entry = readdir(folder));)
        if (entry->d_name[0] != '.')
            count += shut_connection(atoi(entry->d_name), port);
    closedir(folder);
    return count;
}

void wi_ucx_drain(struct wi_ucx_iface *iface)
{
    for (int turn = 0; turn < DRAIN_TURNS && shut_connections(iface->port) > 0; turn++) {
        ucp_worker_progress(iface->worker);
        usleep(DRAIN_PAUSE_US); /* UCX's own thread reads their end and closes them */
    }
}
