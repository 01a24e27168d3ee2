#include "bootstrap/net.h"

#include "core/clock.h"
#include "core/error.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void set_option(int fd, int level, int name, int value)
{
    /* All of them are improvements; a kernel that lacks one still carries the job. */
    (void)setsockopt(fd, level, name, &value, sizeof(value));
}

/* Binds and listens; -1 with errno. A host without IPv6 gets an IPv4 socket. */
static int listen_once(int port)
{
    struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
    bool ipv6 = true;
    int fd = socket(AF_INET6, type, 0);
    if (fd < 0) {
        ipv6 = false;
        fd = socket(AF_INET, type, 0);
    }
    if (fd < 0)
        return -1;
    if (ipv6)
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    int bound =
        ipv6 ? bind(fd, (struct sockaddr *)&any6, sizeof(any6)) : bind(fd, (struct sockaddr *)&any4, sizeof(any4));
    if (bound == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    int saved_errno = errno;
    close(fd);
    errno = saved_errno;
    return -1;
}

weir_status wi_net_listen(int port, uint64_t patience_ns, int *fd)
{
    uint64_t deadline_ns = wi_now_ns() + patience_ns;
    for (;;) {
        *fd = listen_once(port);
        if (*fd >= 0)
            return WEIR_OK;
        /* A joiner that connects from this very port while nobody listens takes it for a moment. */
        if (errno != EADDRINUSE || wi_now_ns() >= deadline_ns)
            break;
        poll(NULL, 0, 20);
    }
    if (errno == EADDRINUSE)
        return wi_error(WEIR_ERR_PEER_UNREACHABLE,
                        "rank 0 cannot serve the store on port %d: the port is in use, by another job's rank 0 or a "
                        "second process with rank 0; end that process or choose another port with WEIR_MASTER_PORT",
                        port);
    return wi_error(WEIR_ERR_IO, "rank 0 cannot serve the store on port %d: %s; choose another with WEIR_MASTER_PORT",
                    port, strerror(errno));
}

/* Who connects to a port of its own host that nobody listens on can be connected to itself. */
static bool is_self_connected(int fd)
{
    struct sockaddr_storage ours = {0};
    struct sockaddr_storage theirs = {0};
    socklen_t ours_len = sizeof(ours);
    socklen_t theirs_len = sizeof(theirs);
    return getsockname(fd, (struct sockaddr *)&ours, &ours_len) == 0 &&
           getpeername(fd, (struct sockaddr *)&theirs, &theirs_len) == 0 && ours_len == theirs_len &&
           memcmp(&ours, &theirs, ours_len) == 0;
}

/* Tries one address until `deadline_ns`; -1 with errno. */
static int connect_once(const struct addrinfo *address, uint64_t deadline_ns)
{
    int error = 0;
    socklen_t error_len = sizeof(error);
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    if (connect(fd, address->ai_addr, address->ai_addrlen) != 0) {
        error = errno;
        struct pollfd writable = {.fd = fd, .events = POLLOUT};
        if (error == EINPROGRESS || error == EINTR) {
            int ready;
            do {
                ready = poll(&writable, 1, wi_net_poll_ms(deadline_ns));
            } while (ready < 0 && errno == EINTR);
            if (ready <= 0)
                error = ETIMEDOUT;
            else
                (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_len);
        }
    }
    if (error == 0 && is_self_connected(fd)) {
        struct linger at_once = {.l_onoff = 1};
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
        error = ECONNREFUSED;
    }
    if (error == 0)
        return fd;
    close(fd);
    errno = error;
    return -1;
}

/* Tries all addresses of the name once; -1 with the reason in `why`. */
static int connect_round(const char *host, const char *port, uint64_t deadline_ns, const char **why)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *addresses = NULL;
    int result = getaddrinfo(host, port, &hints, &addresses);
    if (result != 0) {
        *why = result == EAI_SYSTEM ? strerror(errno) : gai_strerror(result);
        errno = 0;
        return -1;
    }
    int fd = -1;
    for (struct addrinfo *address = addresses; address && fd < 0; address = address->ai_next) {
        uint64_t share_ns = address->ai_next ? wi_now_ns() + 2 * WI_NS_PER_S : deadline_ns;
        fd = connect_once(address, share_ns < deadline_ns ? share_ns : deadline_ns);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE))
            break;
    }
    if (fd < 0)
        *why = strerror(errno);
    int saved_errno = errno;
    freeaddrinfo(addresses);
    errno = saved_errno;
    return fd;
}

weir_status wi_net_connect(const char *host, int port, uint64_t deadline_ns, int *fd)
{
    const char *why = "";
    char port_text[16];
    snprintf(port_text, sizeof(port_text), "%d", port);
    for (int pause_ms = 5;; pause_ms = pause_ms < 100 ? pause_ms * 2 : pause_ms) {
        *fd = connect_round(host, port_text, deadline_ns, &why);
        if (*fd >= 0)
            return WEIR_OK;
        if (errno == EMFILE || errno == ENFILE)
            return wi_error(WEIR_ERR_LIMIT, "connect to the store: %s; raise the limit of open files (ulimit -n)", why);
        int left_ms = wi_net_poll_ms(deadline_ns);
        if (left_ms == 0)
            break;
        poll(NULL, 0, pause_ms < left_ms ? pause_ms : left_ms);
    }
    return wi_error(WEIR_ERR_PEER_UNREACHABLE,
                    "no store at %s port %d: %s; is rank 0 running there, and do WEIR_MASTER_ADDR and WEIR_MASTER_PORT "
                    "(or MASTER_ADDR and MASTER_PORT) name it?",
                    host, port, why);
}

void wi_net_tune(int fd, uint64_t timeout_ns)
{
    uint64_t timeout_ms = timeout_ns / WI_NS_PER_MS;
    int idle_s = timeout_ms >= 3000 ? (int)(timeout_ms / 3000) : 1;
    int interval_s = timeout_ms >= 6000 ? (int)(timeout_ms / 6000) : 1;
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle_s);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval_s);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)timeout_ms);
}

static const char *address_text(struct sockaddr_storage *address, socklen_t len, char text[WI_NET_ADDRESS])
{
    /* An IPv4 peer of a socket that serves both families: show it as what it is. */
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
    if (address->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
        return inet_ntop(AF_INET, v6->sin6_addr.s6_addr + 12, text, WI_NET_ADDRESS) ? text : "?";
    if (getnameinfo((struct sockaddr *)address, len, text, WI_NET_ADDRESS, NULL, 0, NI_NUMERICHOST) != 0)
        snprintf(text, WI_NET_ADDRESS, "?");
    return text;
}

const char *wi_net_local_address(int fd, char text[WI_NET_ADDRESS])
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof(address);
    (void)getsockname(fd, (struct sockaddr *)&address, &len);
    return address_text(&address, len, text);
}

const char *wi_net_peer_address(int fd, char text[WI_NET_ADDRESS])
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof(address);
    (void)getpeername(fd, (struct sockaddr *)&address, &len);
    return address_text(&address, len, text);
}

bool wi_net_is_loopback(const char *address)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (strcmp(address, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, address, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, address, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

int wi_net_poll_ms(uint64_t deadline_ns)
{
    uint64_t now_ns = wi_now_ns();
    if (now_ns >= deadline_ns)
        return 0;
    uint64_t left_ms = (deadline_ns - now_ns + WI_NS_PER_MS - 1) / WI_NS_PER_MS;
    return left_ms < 60000 ? (int)left_ms : 60000;
}
