/* The job: all have come, some have not, or one is lost. */
#include "bootstrap/serve.h"
#include "core/clock.h"
#include "core/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void wi_serve_fail_job(struct wi_boot_server *server, weir_status status, const char *format, ...)
{
    if (server->failure != WEIR_OK)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(server->failure_text, sizeof(server->failure_text), format, args);
    va_end(args);
    server->failure = status;
    server->join_until_ns = UINT64_MAX;
    if (server->ending && server->end_ns > wi_now_ns() + WI_FAILED_LINGER_NS)
        server->end_ns = wi_now_ns() + WI_FAILED_LINGER_NS;
    wi_info("job failed: %s", server->failure_text);
    for (struct wi_link *link = server->members.next, *next; link != &server->members; link = next) {
        next = link->next;
        wi_serve_tell_status(server, WI_CONNECTION(link), WI_WIRE_FAILED, 0, status, server->failure_text);
    }
}

void wi_serve_rank_lost(struct wi_boot_server *server, int rank, int error)
{
    struct wi_seat *seat = &server->seats[rank];
    seat->connection = NULL;
    seat->state = WI_SEAT_LOST;
    server->present--;
    if (error == 0 || error == ECONNRESET || error == EPIPE)
        wi_serve_fail_job(
            server, WEIR_ERR_PEER_GONE,
            "rank %d (process %u on %s) ended without leaving the job: it crashed, was killed, or ended without "
            "weir_boot_destroy()",
            rank, seat->pid, seat->host);
    else if (error == EPROTO)
        wi_serve_fail_job(server, WEIR_ERR_PROTOCOL,
                          "rank %d (process %u on %s) sent the store something that cannot be right", rank, seat->pid,
                          seat->host);
    else if (error == ENOBUFS || error == ENOMEM)
        wi_serve_fail_job(server, WEIR_ERR_PEER_GONE, "rank %d (process %u on %s) was cut off by the store: %s", rank,
                          seat->pid, seat->host,
                          error == ENOBUFS ? "it does not read its answers" : "rank 0 is out of memory");
    else
        wi_serve_fail_job(server, WEIR_ERR_PEER_GONE,
                          "rank %d (process %u on %s) fell silent: its host is down or the network to it is cut (%s)",
                          rank, seat->pid, seat->host, strerror(error));
}

/* "2, 5-7 of 8 ranks": the seats that are free. */
static void describe_missing(const struct wi_boot_server *server, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (int rank = 0; rank < server->world; rank++) {
        if (server->seats[rank].state != WI_SEAT_FREE)
            continue;
        int last = rank;
        while (last + 1 < server->world && server->seats[last + 1].state == WI_SEAT_FREE)
            last++;
        if (used + 32 > size) {
            snprintf(text + used, size - used, ", ...");
            return;
        }
        used += (size_t)snprintf(text + used, size - used, "%s%d", used ? ", " : "", rank);
        if (last > rank)
            used += (size_t)snprintf(text + used, size - used, "%s%d", last > rank + 1 ? "-" : ", ", last);
        rank = last;
    }
}

void wi_serve_join_timed_out(struct wi_boot_server *server)
{
    char missing[512];
    describe_missing(server, missing, sizeof(missing));
    int count = server->world - server->seated;
    wi_serve_fail_job(server, WEIR_ERR_TIMEOUT,
                      "rank%s %s of %d did not come within WEIR_TIMEOUT: %s not started, stopped early, or %s another "
                      "WEIR_MASTER_ADDR or WEIR_MASTER_PORT",
                      count == 1 ? "" : "s", missing, server->world, count == 1 ? "it was" : "they were",
                      count == 1 ? "has" : "have");
}

/* Where ranks of other hosts reach this one; ranks that came by loopback cannot see it themselves. */
static void find_outward_address(const struct wi_boot_server *server, char text[WI_NET_ADDRESS])
{
    for (int rank = 0; rank < server->world; rank++) {
        if (!wi_net_is_loopback(wi_net_local_address(server->seats[rank].connection->fd, text)))
            return;
    }
    text[0] = '\0';
}

void wi_serve_welcome_all(struct wi_boot_server *server)
{
    char outward[WI_NET_ADDRESS];
    find_outward_address(server, outward);
    server->join_until_ns = UINT64_MAX;
    for (int rank = 0; rank < server->world; rank++) {
        struct wi_connection *connection = server->seats[rank].connection;
        struct wi_message message = {.type = WI_WIRE_WELCOME};
        if (wi_net_is_loopback(connection->peer))
            message.text = wi_span_text(outward);
        wi_serve_tell(server, connection, &message);
        if (server->failure != WEIR_OK)
            return;
    }
    wi_debug("all %d ranks are there", server->world);
}
