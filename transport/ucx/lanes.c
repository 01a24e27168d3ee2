/*
 * Which of UCX's lanes (transport connections) lead to a peer, and what does that mean for puts and signals?
 *
 * Puts are UCX's where they take RDMA lanes, else ours. UCX keeps the order of what goes through one lane, so a signal
 * follows a native put if active messages take the lane that puts take; else it has to wait for a fence.
 * ucp_worker_fence() is no help: in UCX 1.13 it only orders within each transport interface.
 *
 * UCX tells lanes in the text of ucp_ep_print_info() alone. "lane[2]: 5:rc_verbs/rxe0:1.0 ... am am_bw#0" carries
 * active messages, "put[2]: ..." remote memory access. Text that we do not understand means to emulate, or to fence.
 * Which transports a context has is in the text of ucp_context_print_info(): "resource 1 : md 1 dev 1 flags -- tcp/eth0".
 */
#include "core/log.h"
#include "transport/ucx/ucx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lanes {
    int am;              /* -1: none found */
    uint32_t puts, rdma; /* masks of lanes: that puts may take, that are of an RDMA transport */
    bool shared;         /* there is one through shared memory */
    char device[64];     /* transport/device of the lane for active messages */
};

static bool has_word(const char *line, const char *word)
{
    size_t len = strlen(word);
    for (const char *at = strstr(line, word); at; at = strstr(at + 1, word))
        if (at > line && at[-1] == ' ' && (at[len] == ' ' || at[len] == 0))
            return true;
    return false;
}

static bool is_rdma(const char *device)
{
    return strncmp(device, "rc_", 3) == 0 || strncmp(device, "dc_", 3) == 0;
}

static void read_lane(void *arg, const char *line)
{
    struct lanes *lanes = arg;
    int lane;
    char device[sizeof(lanes->device)];
    const char *at;
    if ((at = strstr(line, "lane[")) && sscanf(at, "lane[%d]: %*d:%63s", &lane, device) == 2 && lane >= 0 &&
        lane < 32) {
        wi_debug("UCX: %s", at);
        if (is_rdma(device))
            lanes->rdma |= 1u << lane;
        lanes->shared |= strstr(device, "/memory") != NULL; /* sysv, posix, xpmem */
        if (has_word(at, "am")) {
            lanes->am = lane;
            memcpy(lanes->device, device, sizeof(device));
        }
    } else if ((at = strstr(line, "put[")) && sscanf(at, "put[%d]:", &lane) == 1 && lane >= 0 && lane < 32) {
        lanes->puts |= 1u << lane;
    }
}

typedef void print_fn(const void *object, FILE *stream);
typedef void read_fn(void *found, const char *line);

static void print_endpoint(const void *ucp, FILE *stream)
{
    ucp_ep_print_info((ucp_ep_h)(uintptr_t)ucp, stream);
}

static void print_context(const void *context, FILE *stream)
{
    ucp_context_print_info((ucp_context_h)(uintptr_t)context, stream);
}

/* Hands all lines of what UCX prints to `read`. False: the text could not be had. */
static bool read_text(print_fn *print, const void *object, read_fn *read, void *found)
{
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    if (!stream)
        return false;
    print(object, stream);
    bool complete = fclose(stream) == 0 && text;
    char *rest = text;
    for (char *line; complete && (line = strsep(&rest, "\n"));)
        read(found, line);
    free(text);
    return complete;
}

/* False: the text could not be had, or tells no lane for active messages. */
static bool read_lanes(ucp_ep_h ucp, struct lanes *lanes)
{
    *lanes = (struct lanes){.am = -1};
    return read_text(print_endpoint, ucp, read_lane, lanes) && lanes->am >= 0;
}

struct transports {
    bool any, rdma;
};

static void read_transport(void *arg, const char *line)
{
    struct transports *found = arg;
    char device[64];
    const char *at = strstr(line, "resource ");
    if (!at || sscanf(at, "resource %*d : md %*d dev %*d flags %*s %63s", device) != 1)
        return;
    found->any = true;
    found->rdma |= is_rdma(device);
}

bool wi_ucx_lanes_may_be_rdma(ucp_context_h context)
{
    struct transports found = {false, false};
    return !read_text(print_context, context, read_transport, &found) || !found.any || found.rdma;
}

/* How much of a put fits into one packet of the lane for active messages. */
static size_t piece_of(const struct lanes *lanes)
{
    return strncmp(lanes->device, "tcp/", 4) == 0 ? WI_UCX_TCP_PIECE : WI_UCX_OTHER_PIECE;
}

size_t wi_ucx_lanes_piece(ucp_ep_h ucp, bool *rdma)
{
    struct lanes lanes;
    bool known = read_lanes(ucp, &lanes);
    *rdma = !known || lanes.rdma;
    return piece_of(&lanes);
}

void wi_ucx_lanes_check(struct wi_ucx_ep *ep)
{
    struct lanes lanes;
    bool known = read_lanes(ep->link.ucp, &lanes);
    ep->native = known && lanes.puts && !(lanes.puts & ~lanes.rdma);
    ep->fenced = ep->native && (lanes.puts != 1u << lanes.am || !wi_ucx_protocols_known());
    ep->piece = piece_of(&lanes);
    ep->maps = known && lanes.shared;
    if (known)
        memcpy(ep->link.iface->base.device, lanes.device, sizeof(lanes.device));
    wi_debug("UCX: peer %llu over %s: puts are %s, signals %s", (unsigned long long)ep->base.peer_id,
             known ? lanes.device : "?", ep->native ? "UCX's" : "emulated", ep->fenced ? "are fenced" : "follow");
}
