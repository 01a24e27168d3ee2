/* Communicators: creation, failure, end. */
#include "collectives/comm.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/process.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_MIN    4096u
#define CHUNK_MAX    (1ull << 30)
#define LANES        4u
#define WINDOW_BYTES (1u << 20)  /* lanes * chunk, beyond which there are fewer lanes */
#define CAUSE_NS     WI_NS_PER_S /* how long a lost endpoint waits for the job to tell the cause */
#define SETTLE_MS    200

/* Our rank among `ranks`, which must be distinct ranks of the world; -1: not there or not so. `seen`: one of each rank. */
static int find_rank(const weir_boot *boot, const int *ranks, int count, bool *seen)
{
    int own = -1, world = weir_boot_size(boot);
    for (int i = 0; i < count; i++) {
        if (ranks[i] < 0 || ranks[i] >= world || seen[ranks[i]])
            return -1;
        seen[ranks[i]] = true;
        if (ranks[i] == weir_boot_rank(boot))
            own = i;
    }
    return own;
}

static weir_status init_ranks(struct weir_comm *comm, const weir_comm_params *params)
{
    bool all = !params || !params->ranks;
    int count = all ? weir_boot_size(comm->boot) : params->nranks;
    if (count < 1 || count > 1 << WI_LINKS_MAX)
        return wi_error(WEIR_ERR_INVALID, "communicator of %d ranks: 1 to %d can be", count, 1 << WI_LINKS_MAX);
    comm->world = malloc((size_t)count * sizeof(*comm->world));
    if (!comm->world)
        return wi_error(WEIR_ERR_NO_MEMORY, "communicator of %d ranks: out of memory", count);
    for (int i = 0; i < count; i++)
        comm->world[i] = all ? i : params->ranks[i];
    bool *seen = calloc((size_t)weir_boot_size(comm->boot), sizeof(*seen));
    if (!seen)
        return wi_error(WEIR_ERR_NO_MEMORY, "communicator of %d ranks: out of memory", count);
    int rank = all ? weir_boot_rank(comm->boot) : find_rank(comm->boot, comm->world, count, seen);
    free(seen);
    if (rank < 0)
        return wi_error(WEIR_ERR_INVALID,
                        "communicator: the list must have distinct ranks of the world, rank %d among them",
                        weir_boot_rank(comm->boot));
    comm->ranks = (uint32_t)count;
    comm->rank = (uint32_t)rank;
    comm->links = wi_links(comm->ranks);
    return WEIR_OK;
}

static weir_status init_sizes(struct weir_comm *comm, const weir_comm_params *params)
{
    const struct wi_config *config;
    weir_status status = wi_config_load(&config);
    if (status != WEIR_OK)
        return status;
    comm->timeout_ns = config->timeout_ns;
    comm->chunk = params && params->chunk ? params->chunk : config->chunk;
    if (comm->chunk < CHUNK_MIN || comm->chunk > CHUNK_MAX)
        return wi_error(WEIR_ERR_INVALID, "communicator: a chunk of %" PRIu64 " bytes; %u to %llu can be", comm->chunk,
                        CHUNK_MIN, CHUNK_MAX);
    comm->lanes = WINDOW_BYTES / comm->chunk < LANES ? (uint32_t)(WINDOW_BYTES / comm->chunk) : LANES;
    if (comm->lanes == 0)
        comm->lanes = 1;
    /* More slots than lanes, less a batch that is not yet given back: then no order of steps gets stuck. */
    comm->slots = 2 * comm->lanes;
    comm->batch = comm->lanes > 1 ? comm->lanes / 2 : 1;
    comm->reduce_level = wi_reduce_levels() - 1;
    return WEIR_OK;
}

/*
 * The context's sleep shall end when the job has news, and a wait in the bootstrap shall make progress. The descriptor
 * is ours: others may watch the same one.
 */
static weir_status watch_job(struct weir_comm *comm)
{
    int fd = weir_boot_fd(comm->boot);
    if (fd < 0)
        return WEIR_OK;
    fd = dup(fd);
    if (fd < 0)
        return wi_error(WEIR_ERR_LIMIT, "communicator: no further file descriptor; raise the limit (ulimit -n)");
    weir_status status = weir_ctx_watch(comm->ctx, fd);
    if (status == WEIR_OK && (status = weir_boot_attend(comm->boot, weir_ctx_attend, comm->ctx)) != WEIR_OK)
        weir_ctx_unwatch(comm->ctx, fd);
    if (status == WEIR_OK)
        comm->watched_fd = fd;
    else
        close(fd);
    return status;
}

/* Safe on a half-made communicator. */
static void free_comm(struct weir_comm *comm)
{
    wi_disconnect(comm);
    for (uint32_t i = 0; i < comm->signal_count; i++)
        weir_signal_destroy(comm->ctx, comm->signals[i]);
    weir_pool_destroy(comm->pool);
    if (comm->watched_fd >= 0) {
        weir_boot_unattend(comm->boot, weir_ctx_attend, comm->ctx);
        weir_ctx_unwatch(comm->ctx, comm->watched_fd);
        close(comm->watched_fd);
    }
    free(comm->world);
    free(comm);
}

/* Connects the links, and waits until all ranks have: nobody goes off before all can reach it. */
static weir_status open_comm(struct weir_comm *comm, const char *name)
{
    weir_status status = watch_job(comm);
    if (status == WEIR_OK)
        status = wi_connect(comm, name);
    if (status == WEIR_OK)
        status = wi_run(comm, &(struct wi_call){.kind = WI_OPEN}, NULL, NULL);
    return status;
}

weir_status weir_comm_create(weir_ctx *ctx, weir_boot *boot, const weir_comm_params *params, weir_comm **comm_out)
{
    const char *name = params ? params->name : NULL;
    if (!ctx || !boot || !comm_out || (params && params->size != sizeof(*params)))
        return wi_error(WEIR_ERR_INVALID, "weir_comm_create: ctx, boot or comm is NULL, or params->size is not set");
    weir_status status = wi_process_check(ctx, "weir_comm_create");
    if (status != WEIR_OK)
        return status;
    struct weir_comm *comm = calloc(1, sizeof(*comm));
    if (!comm)
        return wi_error(WEIR_ERR_NO_MEMORY, "communicator: out of memory");
    comm->ctx = ctx;
    comm->boot = boot;
    comm->watched_fd = -1;
    wi_lender_init(&comm->lender);
    snprintf(comm->name, sizeof(comm->name), "%s", "(unnamed)"); /* until the store has a number for it */
    if (name && (*name == 0 || (size_t)snprintf(comm->name, sizeof(comm->name), "%s", name) >= sizeof(comm->name)))
        status = wi_error(WEIR_ERR_INVALID, "communicator: a name has 1 to %zu bytes", sizeof(comm->name) - 1);
    if (status == WEIR_OK)
        status = init_ranks(comm, params);
    if (status == WEIR_OK)
        status = init_sizes(comm, params);
    if (status == WEIR_OK && comm->ranks > 1) {
        status = open_comm(comm, name);
        if (status != WEIR_OK)
            status = wi_comm_fail(comm, status); /* the others wait for us */
    }
    if (status != WEIR_OK) {
        free_comm(comm);
        return status;
    }
    wi_debug("communicator '%s': rank %" PRIu32 " of %" PRIu32 ", chunk %" PRIu64 ", %" PRIu32 " slots", comm->name,
             comm->rank, comm->ranks, comm->chunk, comm->slots);
    *comm_out = comm;
    return WEIR_OK;
}

/* Did the job fail, or does it within a moment? Returns WEIR_OK when it has nothing to tell. */
static weir_status job_status(struct weir_comm *comm, bool patient)
{
    uint64_t end_ns = wi_now_ns() + CAUSE_NS;
    weir_status status = weir_boot_check(comm->boot);
    while (status == WEIR_OK && patient && wi_now_ns() < end_ns) {
        wi_wait_fd(weir_boot_fd(comm->boot), 1);
        weir_progress(comm->ctx); /* others may want to get rid of what they sent us */
        status = weir_boot_check(comm->boot);
    }
    return status;
}

/*
 * Lets what was sent arrive, for a moment, before the endpoints are closed: a peer that is still reading from a
 * connection takes its sudden end worse than its own error. To a peer that never came nothing was sent.
 */
static void settle(struct weir_comm *comm)
{
    for (uint32_t i = 0; i < comm->peer_count; i++)
        if (comm->peers[i].ep && weir_ep_wait_ready(comm->peers[i].ep, 0) == WEIR_OK)
            (void)weir_flush(comm->peers[i].ep, &comm->flushed);
    weir_wait(comm->ctx, &comm->flushed, SETTLE_MS);
    wi_disconnect(comm);
}

weir_status wi_comm_fail(struct weir_comm *comm, weir_status status)
{
    char own[sizeof(comm->sentence)];
    snprintf(own, sizeof(own), "%s", weir_last_error());
    bool cause = status == WEIR_ERR_MISMATCH || status == WEIR_ERR_TIMEOUT || status == WEIR_ERR_PROTOCOL;
    weir_status job = job_status(comm, !cause);
    if (job == WEIR_OK)
        weir_boot_fail(comm->boot, status, own);
    comm->status = job == WEIR_OK ? status : job;
    snprintf(comm->sentence, sizeof(comm->sentence), "%s", job == WEIR_OK ? own : weir_last_error());
    settle(comm);
    wi_buffers_leave(comm);
    return wi_error(comm->status, "%s", comm->sentence);
}

/* Waits until all ranks are through, then until everything of ours has arrived. */
static void close_comm(struct weir_comm *comm)
{
    comm->closing = true;
    weir_status status = wi_run(comm, &(struct wi_call){.kind = WI_CLOSE}, NULL, NULL);
    for (uint32_t i = 0; i < comm->peer_count && status == WEIR_OK; i++)
        status = weir_flush(comm->peers[i].ep, &comm->flushed);
    if (status == WEIR_OK)
        weir_wait(comm->ctx, &comm->flushed, -1);
    else
        wi_debug("communicator '%s' ends without the others: %s", comm->name, weir_last_error());
}

void weir_comm_destroy(weir_comm *comm)
{
    if (!comm)
        return;
    if (wi_process_check(comm->ctx, "weir_comm_destroy") != WEIR_OK)
        return; /* what it holds is the parent's */
    if (comm->ranks > 1 && comm->status == WEIR_OK)
        close_comm(comm);
    free_comm(comm);
}

int weir_comm_rank(const weir_comm *comm)
{
    return (int)comm->rank;
}

int weir_comm_size(const weir_comm *comm)
{
    return (int)comm->ranks;
}

void weir_comm_query(const weir_comm *comm, weir_comm_stats *stats)
{
    *stats = comm->stats;
}
