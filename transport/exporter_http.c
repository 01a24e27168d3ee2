/* The listener: GET /metrics gives the statistics, by libmicrohttpd in a thread of its own. */
#include "core/forms.h"
#include "core/log.h"
#include "transport/exporter.h"

#include <stdlib.h>
#include <string.h>

#ifdef WEIR_WITH_HTTP

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>

/* Few of each address, so that who holds connections keeps no other one from its own. */
enum { CLIENTS_MAX = 64, CLIENTS_OF_ADDRESS = 4, CLIENT_PATIENCE_S = 5 };

struct wi_http {
    struct MHD_Daemon *daemon;
};

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned code, char *text, size_t len)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(len, text, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(text);
        return MHD_NO;
    }
    MHD_add_response_header(response, "Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    enum MHD_Result result = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *upload, size_t *upload_len, void **state)
{
    static int seen;
    const struct weir_ctx *ctx = arg;
    size_t len = 0;
    (void)version, (void)upload;
    if (*state == NULL) { /* first only the head has come */
        *state = &seen;
        return MHD_YES;
    }
    if (*upload_len > 0) { /* a body, of no interest; the answer comes after it */
        *upload_len = 0;
        return MHD_YES;
    }
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
        return answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, strdup("GET /metrics\n"), 13);
    if (strcmp(url, "/metrics") != 0)
        return answer(connection, MHD_HTTP_NOT_FOUND, strdup("GET /metrics\n"), 13);
    char *text = wi_exporter_text(ctx, &len);
    return text ? answer(connection, MHD_HTTP_OK, text, len) : MHD_NO;
}

/* Reads the place, with the offset added to a port that is not 0. NULL or a complaint. */
static const char *read_where(const char *where, int offset, struct sockaddr_storage *address)
{
    uint16_t port;
    const char *complaint = wi_read_place(where, address, &port);
    if (complaint || port == 0)
        return complaint;
    if (port + (unsigned)offset > 65535)
        return "with the local rank added the port is beyond 65535; use a smaller one";
    in_port_t number = htons((uint16_t)(port + (unsigned)offset));
    size_t at = address->ss_family == AF_INET6 ? offsetof(struct sockaddr_in6, sin6_port)
                                               : offsetof(struct sockaddr_in, sin_port);
    memcpy((char *)address + at, &number, sizeof(number));
    return NULL;
}

static struct MHD_Daemon *start_daemon(const struct weir_ctx *ctx, const struct sockaddr_storage *address)
{
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL;
    sigset_t all, before;
    if (address->ss_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* signals are the program's business */
    struct MHD_Daemon *daemon =
        MHD_start_daemon(flags, 0, NULL, NULL, on_request, (void *)(uintptr_t)ctx, MHD_OPTION_SOCK_ADDR, address,
                         MHD_OPTION_CONNECTION_LIMIT, (unsigned)CLIENTS_MAX, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
                         (unsigned)CLIENTS_OF_ADDRESS, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)CLIENT_PATIENCE_S,
                         MHD_OPTION_END);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return daemon;
}

struct wi_http *wi_http_start(const struct weir_ctx *ctx, const char *where, int offset)
{
    struct sockaddr_storage address;
    const char *complaint = read_where(where, offset, &address);
    if (complaint) {
        wi_warn("WEIR_METRICS_LISTEN=%s: %s", where, complaint);
        return NULL;
    }
    struct wi_http *http = calloc(1, sizeof(*http));
    if (http)
        http->daemon = start_daemon(ctx, &address);
    if (!http || !http->daemon) {
        wi_warn("WEIR_METRICS_LISTEN=%s: cannot listen (with the local rank %d added to the port): %s", where, offset,
                strerror(errno));
        free(http);
        return NULL;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_BIND_PORT);
    wi_info("statistics are served over HTTP on port %u", info ? info->port : 0);
    return http;
}

void wi_http_stop(struct wi_http *http)
{
    if (!http)
        return;
    MHD_stop_daemon(http->daemon);
    free(http);
}

#else

struct wi_http *wi_http_start(const struct weir_ctx *ctx, const char *where, int offset)
{
    (void)ctx, (void)offset;
    wi_warn("WEIR_METRICS_LISTEN=%s: this libweir was built without libmicrohttpd; use WEIR_METRICS_FILE", where);
    return NULL;
}

void wi_http_stop(struct wi_http *http)
{
    (void)http;
}

#endif
