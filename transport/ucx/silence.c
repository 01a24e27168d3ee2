/*
 * A peer whose host or network has gone sends no word of it. The kernel's probes notice that on an idle connection, but
 * UCX asks for them at the side alone that has connected; and while anything waits for its acknowledgement the kernel
 * does not probe, it sends again for a quarter of an hour. TCP_USER_TIMEOUT bounds both. UCX has no settings for these, so
 * they are made here on its connections, once they are there.
 *
 * UCX's connections are those of the ports that came to be listened on while its worker was made, and those that have
 * just the pauses between probes that UCX was told. Where the user chooses these pauses, all is left as it is.
 */
#include "core/clock.h"
#include "core/config.h"
#include "transport/ucx/ucx.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    LOOKS = 3,      /* a connection's further lanes come a little after it */
    PAUSE_MS = 100, /* between two looks */
    USER_TIMEOUT_MIN_MS = 500,
};

/* How long a connection may be silent. */
struct patience {
    int idle_s, pause_s, timeout_ms;
};

static int option_of(int fd, int level, int option)
{
    int value = -1;
    socklen_t len = sizeof(value);
    return getsockopt(fd, level, option, &value, &len) == 0 ? value : -1;
}

/* Our side's port of a TCP socket; 0: it is something else. */
static uint16_t port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);
    in_port_t port;
    if (option_of(fd, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP ||
        getsockname(fd, (struct sockaddr *)&address, &len) != 0)
        return 0;
    memcpy(&port, (const char *)&address + offsetof(struct sockaddr_in, sin_port), sizeof(port)); /* IPv6: same place */
    return ntohs(port);
}

static bool has_port(const struct wi_ucx_ports *ports, uint16_t port)
{
    for (unsigned i = 0; i < ports->count; i++)
        if (ports->port[i] == port)
            return true;
    return false;
}

void wi_ucx_silence_listeners(struct wi_ucx_ports *ports, const struct wi_ucx_ports *without)
{
    DIR *folder = opendir("/proc/self/fd");
    ports->count = 0;
    for (struct dirent *entry; folder && (entry = readdir(folder)) && ports->count < WI_UCX_PORTS;) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] == '.' || option_of(fd, SOL_SOCKET, SO_ACCEPTCONN) != 1)
            continue;
        uint16_t port = port_of(fd);
        if (port && !(without && has_port(without, port)))
            ports->port[ports->count++] = port;
    }
    if (folder)
        closedir(folder);
}

static bool is_of_ucx(int fd, const struct wi_ucx_ports *ports, const struct patience *patience)
{
    if (option_of(fd, IPPROTO_TCP, TCP_USER_TIMEOUT) != 0 || option_of(fd, SOL_SOCKET, SO_ACCEPTCONN) != 0)
        return false; /* not TCP, done already, or a listener */
    if (option_of(fd, SOL_SOCKET, SO_KEEPALIVE) == 1)
        return option_of(fd, IPPROTO_TCP, TCP_KEEPIDLE) == patience->idle_s &&
               option_of(fd, IPPROTO_TCP, TCP_KEEPINTVL) == patience->pause_s;
    return has_port(ports, port_of(fd));
}

static void bound(int fd, const struct patience *patience)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience->timeout_ms, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &patience->idle_s, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &patience->pause_s, sizeof(int));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

static void bound_all(const struct wi_ucx_ports *ports)
{
    uint64_t timeout_ms = wi_config()->timeout_ns / WI_NS_PER_MS / 4 * 3;
    const struct patience patience = {
        .idle_s = (int)(wi_ucx_probe_idle_ns() / WI_NS_PER_S),
        .pause_s = (int)(wi_ucx_probe_pause_ns() / WI_NS_PER_S),
        .timeout_ms = timeout_ms < USER_TIMEOUT_MIN_MS ? USER_TIMEOUT_MIN_MS : (int)timeout_ms,
    };
    DIR *folder = opendir("/proc/self/fd");
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && is_of_ucx(fd, ports, &patience))
            bound(fd, &patience);
    }
    if (folder)
        closedir(folder);
}

void wi_ucx_silence_bound(struct wi_ucx_iface *iface)
{
    if (wi_config_foreign("UCX_TCP_KEEPIDLE") || wi_config_foreign("UCX_TCP_KEEPINTVL"))
        return;
    iface->silence_looks = LOOKS;
    iface->clocks = true;
}

bool wi_ucx_silence_watch(struct wi_ucx_iface *iface, uint64_t now_ns)
{
    if (iface->silence_looks == 0 || now_ns - iface->silence_ns < PAUSE_MS * WI_NS_PER_MS)
        return iface->silence_looks > 0;
    bound_all(&iface->ports);
    iface->silence_ns = wi_now_ns();
    return --iface->silence_looks > 0;
}
