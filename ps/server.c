/* The server: connects to all clients, then takes their frames in turn until all have said goodbye. */
#include "ps/server.h"

#include "core/error.h"
#include "core/log.h"
#include "transport/process.h"

#include <stdlib.h>

enum {
    FRAMES_A_TURN = 32, /* of one client before the others are looked at */
    SLEEP_MS = 50,
};

static weir_status check_job(weir_ctx *ctx, weir_boot *boot)
{
    if (!ctx || !boot)
        return wi_error(WEIR_ERR_INVALID, "parameter server: context and bootstrap must be given");
    if (weir_boot_role(boot) != WEIR_ROLE_SERVER)
        return wi_error(WEIR_ERR_INVALID, "rank %d is a worker: the servers are the last %d of %d ranks (WEIR_SERVERS)",
                        weir_boot_rank(boot), weir_boot_servers(boot), weir_boot_size(boot));
    if (weir_boot_servers(boot) >= weir_boot_size(boot))
        return wi_error(WEIR_ERR_INVALID, "parameter server: all %d ranks are servers; there must be a worker",
                        weir_boot_size(boot));
    return WEIR_OK;
}

/* The ring of requests is a power of two so that positions wrap with a mask. */
static uint64_t ring_bytes(void)
{
    uint64_t bytes = 4096;
    while (bytes < wi_config()->ps_ring)
        bytes *= 2;
    return bytes;
}

static weir_status peer_init(weir_ps_server *server, struct wi_ps_peer *peer, int rank)
{
    peer->rank = rank;
    weir_status status = wi_ps_ring_memory_init(&peer->memory, server->ctx, server->pool, ring_bytes());
    if (status != WEIR_OK)
        return status;
    peer->ring = (struct wi_ps_consumer){.base = peer->memory.base, .size = peer->memory.size};
    void *outgoing;
    status = weir_pool_alloc(server->pool, WI_PS_REPLIES * sizeof(*peer->outgoing), &outgoing, &peer->outgoing_mem);
    if (status != WEIR_OK)
        return status;
    peer->outgoing = outgoing;
    peer->sent = calloc(WI_PS_REPLIES, sizeof(*peer->sent));
    if (!peer->sent)
        return wi_error(WEIR_ERR_NO_MEMORY, "parameter server: out of memory for rank %d", rank);
    return wi_ps_greet(server->ctx, server->boot, &peer->memory, rank);
}

static void peer_fini(weir_ps_server *server, struct wi_ps_peer *peer)
{
    for (uint32_t i = 0; i < WI_PS_KEYS_MAX; i++)
        weir_rkey_destroy(peer->keys[i]);
    wi_ps_remote_fini(&peer->replies);
    wi_ps_ring_memory_fini(&peer->memory, server->ctx);
    free(peer->sent);
}

/* All tell first, then all ask, then all wait: nobody waits for one that waits for it. */
static weir_status connect_all(weir_ps_server *server)
{
    weir_status status = WEIR_OK;
    for (uint32_t i = 0; i < server->workers && status == WEIR_OK; i++)
        status = peer_init(server, &server->peers[i], (int)i);
    for (uint32_t i = 0; i < server->workers && status == WEIR_OK; i++)
        status =
            wi_ps_meet(server->ctx, server->boot, (int)i, true, &server->peers[i].hello, &server->peers[i].replies);
    for (uint32_t i = 0; i < server->workers && status == WEIR_OK; i++)
        status = wi_ps_remote_ready(&server->peers[i].replies, &server->peers[i].hello, (int)i);
    for (uint32_t i = 0; i < server->workers && status == WEIR_OK; i++)
        status = wi_ps_send_reply(server, &server->peers[i], &(struct wi_ps_reply){.kind = WI_PS_REPLY_HELLO});
    return status;
}

weir_status weir_ps_server_create(weir_ctx *ctx, weir_boot *boot, weir_ps_server **out)
{
    weir_status status = out ? check_job(ctx, boot) : WEIR_ERR_INVALID;
    if (status != WEIR_OK)
        return status;
    weir_ps_server *server = calloc(1, sizeof(*server));
    if (!server)
        return wi_error(WEIR_ERR_NO_MEMORY, "parameter server: out of memory");
    server->ctx = ctx;
    server->boot = boot;
    server->servers = (uint32_t)weir_boot_servers(boot);
    server->workers = (uint32_t)weir_boot_size(boot) - server->servers;
    server->index = (uint32_t)weir_boot_rank(boot) - server->workers;
    server->live = server->workers;
    server->watching = weir_boot_fd(boot) >= 0 && weir_ctx_watch(ctx, weir_boot_fd(boot)) == WEIR_OK;
    server->attending = weir_boot_attend(boot, weir_ctx_attend, ctx) == WEIR_OK;
    server->peers = calloc(server->workers, sizeof(*server->peers));
    status = server->peers ? weir_pool_create(ctx, 0, &server->pool)
                           : wi_error(WEIR_ERR_NO_MEMORY, "parameter server: out of memory for the workers");
    if (status == WEIR_OK)
        status = connect_all(server);
    if (status != WEIR_OK) {
        weir_ps_server_destroy(server);
        return status;
    }
    wi_info("parameter server %u of %u serves %u workers", server->index, server->servers, server->workers);
    *out = server;
    return WEIR_OK;
}

static void free_pending(struct wi_ps_pending *pending)
{
    while (pending) {
        struct wi_ps_pending *next = pending->next;
        free(pending);
        pending = next;
    }
}

static void free_waiters(struct wi_ps_store *store)
{
    for (uint32_t i = 0; store->shards && i < store->run.shards; i++) {
        while (store->shards[i].waiters) {
            struct wi_ps_waiter *waiter = store->shards[i].waiters;
            store->shards[i].waiters = waiter->next;
            free(waiter);
        }
    }
    for (struct wi_ps_waiter *waiter; (waiter = wi_ps_store_ready(store));)
        free(waiter);
}

void weir_ps_server_destroy(weir_ps_server *server)
{
    if (!server || wi_process_check(server->ctx, "weir_ps_server_destroy") != WEIR_OK)
        return;
    for (uint32_t i = 0; server->peers && i < server->workers; i++)
        peer_fini(server, &server->peers[i]);
    for (uint32_t i = 0; i < server->table_count; i++) {
        free_waiters(&server->tables[i]->store);
        wi_ps_store_fini(&server->tables[i]->store);
        free(server->tables[i]);
    }
    free_pending(server->spare);
    free_pending(server->barriers);
    weir_pool_destroy(server->pool);
    if (server->attending)
        weir_boot_unattend(server->boot, weir_ctx_attend, server->ctx);
    if (server->watching)
        weir_ctx_unwatch(server->ctx, weir_boot_fd(server->boot));
    free(server->tables);
    free(server->peers);
    free(server);
}

/* Something is wrong with a client: everybody has to know, since the job cannot go on without it. */
static weir_status fail(weir_ps_server *server, const struct wi_ps_peer *peer, weir_status status)
{
    wi_error_prefix(status, "parameter server on rank %d, worker on rank %d", weir_boot_rank(server->boot), peer->rank);
    wi_warn("%s; its connection is dropped", weir_last_error());
    return wi_ps_fail_job(server->boot, status);
}

/* Takes the frames that a client has written, at most some. Returns how many, through `frames`. */
static weir_status serve_peer(weir_ps_server *server, struct wi_ps_peer *peer, unsigned *frames)
{
    uint64_t written = weir_signal_read(server->ctx, peer->memory.signal);
    weir_status status = WEIR_OK;
    for (unsigned i = 0; i < FRAMES_A_TURN && peer->ring.frames < written && !peer->gone && status == WEIR_OK; i++) {
        struct wi_ps_request request;
        const void *payload;
        const char *wrong = wi_ps_ring_read(&peer->ring, &request, &payload);
        status = wrong ? wi_error(WEIR_ERR_PROTOCOL, "%s", wrong) : wi_ps_serve_frame(server, peer, &request, payload);
        ++*frames;
        if (status == WEIR_OK && !peer->gone && wi_ps_ring_owes_credit(&peer->ring))
            status = wi_ps_send_reply(server, peer, &(struct wi_ps_reply){.kind = WI_PS_REPLY_CREDIT});
    }
    return status == WEIR_OK ? WEIR_OK : fail(server, peer, status);
}

/* Is everybody still there? Looks at most once a millisecond. */
static weir_status check_peers(weir_ps_server *server, uint64_t now_ns)
{
    if (now_ns < server->next_check_ns)
        return WEIR_OK;
    server->next_check_ns = now_ns + WI_NS_PER_MS;
    weir_status status = weir_boot_check(server->boot);
    for (uint32_t i = 0; i < server->workers && status == WEIR_OK; i++) {
        struct wi_ps_peer *peer = &server->peers[i];
        if (peer->gone)
            continue;
        status = weir_ep_status(peer->replies.ep);
        weir_status puts = weir_test(&peer->puts);
        if (status == WEIR_OK && puts != WEIR_OK && puts != WEIR_ERR_AGAIN)
            status = wi_error(puts, "writing weights into its memory: %s", weir_status_string(puts));
        if (status != WEIR_OK)
            return fail(server, peer, status);
    }
    return status;
}

/* The last replies must have left before the endpoints are closed. Those who have them may be gone: no error. */
static void flush_all(weir_ps_server *server)
{
    for (uint32_t i = 0; i < server->workers; i++) {
        struct wi_ps_peer *peer = &server->peers[i];
        if (weir_ep_status(peer->replies.ep) == WEIR_OK && weir_flush(peer->replies.ep, &peer->flushed) == WEIR_OK)
            weir_wait(server->ctx, &peer->flushed, -1);
    }
}

/* One look at all clients, and again a number of times while they have nothing. */
static weir_status serve_all(weir_ps_server *server, unsigned *frames)
{
    weir_status status = WEIR_OK;
    for (int poll = 0, polls = wi_ps_polls(); poll < polls && *frames == 0 && status == WEIR_OK; poll++) {
        weir_progress(server->ctx);
        for (uint32_t i = 0; i < server->workers && status == WEIR_OK; i++)
            status = serve_peer(server, &server->peers[i], frames);
    }
    return status;
}

weir_status weir_ps_server_run(weir_ps_server *server)
{
    weir_status status = wi_process_check(server->ctx, "weir_ps_server_run");
    while (server->live > 0 && status == WEIR_OK) {
        unsigned frames = 0;
        status = serve_all(server, &frames);
        uint64_t now_ns = wi_now_ns();
        if (status == WEIR_OK)
            status = check_peers(server, now_ns);
        if (frames > 0)
            server->idle.since_ns = 0;
        else if (status == WEIR_OK)
            wi_ps_idle_pause(&server->idle, server->ctx, now_ns, server->watching ? SLEEP_MS : 1);
    }
    if (status == WEIR_OK)
        flush_all(server);
    return status;
}
