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

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

enum {
    LOOKS = 3,      /* a connection's further lanes come a little after it */
    PAUSE_MS = 100, /* between two looks, at least */
    PAUSE_SHARE = 20, /* and so many times what a look has taken */
    USER_TIMEOUT_MIN_MS = 500,
};

/* How long a connection may be silent, and on which ports we listen. */
struct patience {
    const struct wi_ucx_ports *ports;
    int idle_s, pause_s, timeout_ms;
};

static int option_of(int fd, int level, int option)
{
    int value = -1;
    socklen_t len = sizeof(value);
    return getsockopt(fd, level, option, &value, &len) == 0 ? value : -1;
}

/* Our side's port of a TCP socket; 0: it is something else. */
static uint16_t tcp_port_of(int fd)
{
    return option_of(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP ? wi_ucx_port_of(fd) : 0;
}

/* Ports that are listened on, but for those of `without`. */
struct search {
    struct wi_ucx_ports *ports;
    const struct wi_ucx_ports *without;
};

static void add_listener(int fd, void *arg)
{
    const struct search *search = arg;
    struct wi_ucx_ports *ports = search->ports;
    if (ports->count == WI_UCX_PORTS || !wi_ucx_listens(fd))
        return;
    uint16_t port = tcp_port_of(fd);
    if (port && !(search->without && wi_ucx_has_port(search->without, port)))
        ports->port[ports->count++] = port;
}

void wi_ucx_silence_listeners(struct wi_ucx_ports *ports, const struct wi_ucx_ports *without)
{
    struct search search = {ports, without};
    ports->count = 0;
    wi_ucx_descriptors(add_listener, &search);
}

static bool is_of_ucx(int fd, const struct patience *patience)
{
    if (option_of(fd, IPPROTO_TCP, TCP_USER_TIMEOUT) != 0 || wi_ucx_listens(fd))
        return false; /* not TCP, done already, or a listener */
    if (option_of(fd, SOL_SOCKET, SO_KEEPALIVE) == 1)
        return option_of(fd, IPPROTO_TCP, TCP_KEEPIDLE) == patience->idle_s &&
               option_of(fd, IPPROTO_TCP, TCP_KEEPINTVL) == patience->pause_s;
    return wi_ucx_has_port(patience->ports, tcp_port_of(fd));
}

static void bound(int fd, void *arg)
{
    const struct patience *patience = arg;
    int on = 1;
    if (!is_of_ucx(fd, patience))
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience->timeout_ms, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &patience->idle_s, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &patience->pause_s, sizeof(int));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

static void bound_all(const struct wi_ucx_ports *ports)
{
    uint64_t timeout_ms = wi_config()->timeout_ns / WI_NS_PER_MS / 4 * 3;
    struct patience patience = {
        .ports = ports,
        .idle_s = (int)(wi_ucx_probe_idle_ns() / WI_NS_PER_S),
        .pause_s = (int)(wi_ucx_probe_pause_ns() / WI_NS_PER_S),
        .timeout_ms = timeout_ms < USER_TIMEOUT_MIN_MS ? USER_TIMEOUT_MIN_MS : (int)timeout_ms,
    };
    wi_ucx_descriptors(bound, &patience);
}

void wi_ucx_silence_bound(struct wi_ucx_iface *iface)
{
    if (!wi_config_foreign("UCX_TCP_KEEPIDLE") && !wi_config_foreign("UCX_TCP_KEEPINTVL"))
        iface->silence_looks = LOOKS;
}

/* With thousands of connections a look takes time, and takes a small share of it at most. */
void wi_ucx_silence_watch(struct wi_ucx_iface *iface, uint64_t now_ns)
{
    if (iface->silence_looks == 0 || wi_elapsed_ns(now_ns, iface->silence_ns) < iface->silence_pause_ns)
        return;
    bound_all(&iface->ports);
    iface->silence_ns = wi_now_ns();
    uint64_t pause_ns = (iface->silence_ns - now_ns) * PAUSE_SHARE;
    iface->silence_pause_ns = pause_ns > PAUSE_MS * WI_NS_PER_MS ? pause_ns : PAUSE_MS * WI_NS_PER_MS;
    iface->silence_looks--;
}
