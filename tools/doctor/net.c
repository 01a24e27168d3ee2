/* Checks of the network: the interface, the route to a peer, the store's port. */
#include "doctor.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A job within one host needs no network. */
static enum doctor_level blame_network(const struct doctor *doctor)
{
    return doctor->ucx == DOCTOR_UNUSED && doctor->verbs == DOCTOR_UNUSED ? DOCTOR_NOTE : DOCTOR_FAIL;
}

void check_interface(struct doctor *doctor)
{
    const struct doctor_local *local = &doctor->local;
    if (local->text[0])
        doctor_say(doctor, DOCTOR_OK, "%s with %s is what peers would connect to", local->interface, local->text);
    else if (!doctor->to || strncmp(local->why, "WEIR_INTERFACE", 14) == 0)
        doctor_say(doctor, blame_network(doctor), "%s -> %s", local->why, local->mend);
}

void check_route(struct doctor *doctor)
{
    const struct doctor_local *local = &doctor->local;
    char mtu[32];
    if (!doctor->to)
        return;
    if (!doctor->to_numeric[0])
        doctor_say(doctor, DOCTOR_FAIL, "%s -> correct the name, or enter it in DNS or /etc/hosts of this host",
                   local->why);
    else if (!local->text[0])
        doctor_say(doctor, DOCTOR_FAIL, "to %s (%s): %s -> add a route (ip route add), or set an interface's address",
                   doctor->to, doctor->to_numeric, local->why);
    else {
        bool known = read_text(doctor->root, mtu, sizeof(mtu), "/sys/class/net/%s/mtu", local->interface);
        doctor_say(doctor, DOCTOR_OK, "to %s (%s): out of %s with %s%s%s", doctor->to, doctor->to_numeric,
                   local->interface, local->text, known ? ", MTU " : "", mtu);
    }
}

/* ---- The store's port -------------------------------------------------------------------------------------------- */

static int nonblocking_socket(int family)
{
    return socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

static socklen_t length_of(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static void set_port(struct sockaddr_storage *address, int port)
{
    in_port_t number = htons((uint16_t)port);
    if (address->ss_family == AF_INET)
        ((struct sockaddr_in *)address)->sin_port = number;
    else
        ((struct sockaddr_in6 *)address)->sin6_port = number;
}

/* Where nobody listens, a connection from the very port that it goes to meets itself. */
static bool is_with_itself(int fd)
{
    struct sockaddr_storage here = {0}, there = {0};
    socklen_t here_len = sizeof(here), there_len = sizeof(there);
    return getsockname(fd, (struct sockaddr *)&here, &here_len) == 0 &&
           getpeername(fd, (struct sockaddr *)&there, &there_len) == 0 && here_len == there_len &&
           memcmp(&here, &there, here_len) == 0;
}

int doctor_try_connect(const struct sockaddr_storage *ip, int port, int bound_ms)
{
    struct sockaddr_storage address = *ip;
    int error = 0, fd = nonblocking_socket(address.ss_family);
    socklen_t error_len = sizeof(error);
    struct pollfd writable = {.fd = fd, .events = POLLOUT};
    if (fd < 0)
        return errno;
    set_port(&address, port);
    if (connect(fd, (struct sockaddr *)&address, length_of(&address)) != 0)
        error = errno;
    if (error == EINPROGRESS) {
        error = ETIMEDOUT;
        if (poll(&writable, 1, bound_ms) > 0)
            (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_len);
    }
    if (error == 0 && is_with_itself(fd)) {
        struct linger at_once = {.l_onoff = 1}; /* its end must not keep the port from who is to serve it */
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
        error = ECONNREFUSED;
    }
    close(fd);
    return error;
}

/*
 * Serves the port as rank 0 would and connects to it through the address that peers use. Rules for packets of other hosts
 * alone are not met this way; check_firewall() reads rules, and --peer tries it from outside.
 */
void check_store_port(struct doctor *doctor)
{
    struct sockaddr_storage address = doctor->local.ip;
    int on = 1, port = doctor->port;
    const char *ip = doctor->local.text;
    if (!ip[0] || doctor->visits)
        return;
    set_port(&address, port);
    int listener = nonblocking_socket(address.ss_family);
    (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(listener, (struct sockaddr *)&address, length_of(&address)) != 0 || listen(listener, 4) != 0) {
        if (errno == EADDRINUSE)
            doctor_say(doctor, DOCTOR_NOTE, "port %d is in use, by a job's rank 0 or another program: a second job here "
                                            "needs another one -> WEIR_MASTER_PORT=...", port);
        else
            doctor_say(doctor, DOCTOR_FAIL, "port %d of %s cannot be served: %s -> WEIR_MASTER_PORT=... of 1024 or more",
                       port, ip, strerror(errno));
    } else {
        int error = doctor_try_connect(&address, port, 2000);
        if (error == 0)
            doctor_say(doctor, DOCTOR_OK, "port %d of %s can be served and connected to", port, ip);
        else
            doctor_say(doctor, DOCTOR_FAIL,
                       "port %d of %s is served, but connecting to it ends with: %s; a firewall is in between -> let TCP "
                       "port %d in on %s (nft list ruleset; iptables -S)",
                       port, ip, strerror(error), port, doctor->local.interface);
    }
    if (listener >= 0)
        close(listener);
}
