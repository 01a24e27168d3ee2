/* TCP for the store: listen, connect within a bound, liveness by the kernel, addresses as text. */
#ifndef WI_BOOTSTRAP_NET_H
#define WI_BOOTSTRAP_NET_H

#include <weir/status.h>

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define WI_NET_ADDRESS 80 /* room for a numeric address as text, with an IPv6 scope */

/* A nonblocking listening socket on all addresses, IPv6 and IPv4. Tries for `patience_ns` while the port is in use. */
weir_status wi_net_listen(int port, uint64_t patience_ns, int *fd);

/*
 * A connected nonblocking socket. Resolves `host` and tries all of its addresses, again and again until somebody
 * accepts or `deadline_ns` (of wi_now_ns()) comes. Errors: WEIR_ERR_PEER_UNREACHABLE, WEIR_ERR_LIMIT.
 */
weir_status wi_net_connect(const char *host, int port, uint64_t deadline_ns, int *fd);

/*
 * Small frames go out at once, and the kernels of both sides see to it that a dead host or a cut network ends the
 * connection after about `timeout_ns` (not less than 2 s, for keepalive counts in seconds), whatever the processes do.
 */
void wi_net_tune(int fd, uint64_t timeout_ns);

/* The numeric address of this or the other end; "?" where there is none. */
const char *wi_net_local_address(int fd, char text[WI_NET_ADDRESS]);
const char *wi_net_peer_address(int fd, char text[WI_NET_ADDRESS]);

/* Does the text name this host alone: "localhost" or a numeric loopback address? */
bool wi_net_is_loopback(const char *address);

/* Milliseconds until `deadline_ns` for poll and epoll_wait, rounded up, 0 when it has passed, at most a minute. */
int wi_net_poll_ms(uint64_t deadline_ns);

#endif
