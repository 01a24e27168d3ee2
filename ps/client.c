/* The client: its making and its end, and how its threads wait. */
#include "ps/client.h"

#include "core/error.h"
#include "core/log.h"
#include "transport/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLEEP_MS = 50 };

/* ---- Failure ----------------------------------------------------------------------------------------------------- */

weir_status wi_ps_client_status(weir_ps_client *client)
{
    int32_t status = __atomic_load_n(&client->status, __ATOMIC_ACQUIRE);
    return status == WEIR_OK ? WEIR_OK : wi_error((weir_status)status, "%s", client->sentence);
}

weir_status wi_ps_client_fail(weir_ps_client *client, weir_status status)
{
    weir_status ours = wi_process_check(client->ctx, "parameter server");
    if (ours != WEIR_OK)
        return ours;
    if (__atomic_load_n(&client->status, __ATOMIC_ACQUIRE) != WEIR_OK)
        return wi_ps_client_status(client);
    status = wi_ps_fail_job(client->boot, status);
    pthread_mutex_lock(&client->lock);
    if (client->status == WEIR_OK) {
        snprintf(client->sentence, sizeof(client->sentence), "%s", weir_last_error());
        __atomic_store_n(&client->status, (int32_t)status, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&client->lock);
    return wi_ps_client_status(client);
}

/* ---- Replies ----------------------------------------------------------------------------------------------------- */

static struct wi_ps_call *call_of(weir_ps_client *client, uint32_t id)
{
    struct wi_ps_call *call = client->calls[id % WI_PS_CALLS_MAX];
    return call && call->id == id ? call : NULL;
}

/* The weights of a part have come. */
static void take_part(weir_ps_client *client, struct wi_ps_call *call, const struct wi_ps_reply *reply)
{
    client->stats.bytes_received += reply->count * sizeof(float);
    if (!call->done)
        return;
    call->done[call->done_count] = (struct wi_ps_range){reply->first, reply->count};
    __atomic_store_n(&call->done_count, call->done_count + 1, __ATOMIC_RELEASE);
}

/* With the client's lock. */
static const char *take_reply(weir_ps_client *client, struct wi_ps_link *link, const struct wi_ps_reply *reply)
{
    pthread_mutex_lock(&link->lock);
    bool right = wi_ps_ring_credit(&link->ring, reply->consumed);
    pthread_mutex_unlock(&link->lock);
    if (!right)
        return "it says that it has read what was not written";
    if (reply->kind == WI_PS_REPLY_HELLO || reply->kind == WI_PS_REPLY_CREDIT)
        return NULL;
    struct wi_ps_call *call = call_of(client, reply->call);
    if (!call || call->pending == 0)
        return "it answers what was not asked";
    if (reply->kind == WI_PS_REPLY_BYE)
        __atomic_store_n(&link->left, true, __ATOMIC_RELEASE);
    else if (reply->kind == WI_PS_REPLY_OPEN)
        call->opened = *reply;
    else
        take_part(client, call, reply);
    __atomic_sub_fetch(&call->pending, 1, __ATOMIC_RELEASE);
    return NULL;
}

static inline bool has_reply(weir_ps_client *client, const struct wi_ps_link *link)
{
    return weir_signal_read(client->ctx, link->memory.signal) > __atomic_load_n(&link->replies, __ATOMIC_RELAXED);
}

/* With the client's lock. What is wrong with a reply, or NULL. */
static const char *take_link(weir_ps_client *client, struct wi_ps_link *link, unsigned *taken)
{
    uint64_t written = weir_signal_read(client->ctx, link->memory.signal);
    for (uint64_t next = link->replies; next < written; next++) {
        struct wi_ps_reply reply;
        memcpy(&reply, link->memory.base + next % WI_PS_REPLIES * sizeof(reply), sizeof(reply));
        const char *wrong = wi_ps_reply_check(&reply, next);
        if (!wrong)
            wrong = take_reply(client, link, &reply);
        if (wrong)
            return wrong;
        __atomic_store_n(&link->replies, next + 1, __ATOMIC_RELAXED);
        ++*taken;
    }
    return NULL;
}

static weir_status take_replies(weir_ps_client *client, unsigned *taken)
{
    for (uint32_t i = 0; i < client->servers; i++) {
        struct wi_ps_link *link = &client->links[i];
        if (!has_reply(client, link))
            continue;
        pthread_mutex_lock(&client->lock);
        const char *wrong = take_link(client, link, taken);
        pthread_mutex_unlock(&client->lock);
        if (!wrong)
            continue;
        return wi_ps_client_fail(
            client,
            wi_error(WEIR_ERR_PROTOCOL, "parameter server on rank %d: a reply is wrong: %s", link->rank, wrong));
    }
    return WEIR_OK;
}

/* ---- Waiting ----------------------------------------------------------------------------------------------------- */

/* Is everybody still there? One of the threads looks, once a millisecond. */
static weir_status check_job(weir_ps_client *client, uint64_t now_ns)
{
    uint64_t next_ns = __atomic_load_n(&client->next_check_ns, __ATOMIC_RELAXED);
    if (now_ns < next_ns || !__atomic_compare_exchange_n(&client->next_check_ns, &next_ns, now_ns + WI_NS_PER_MS, false,
                                                         __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        return wi_ps_client_status(client);
    weir_status status = weir_boot_check(client->boot);
    for (uint32_t i = 0; i < client->servers && status == WEIR_OK; i++) {
        struct wi_ps_link *link = &client->links[i];
        if (!__atomic_load_n(&link->left, __ATOMIC_ACQUIRE) && (status = weir_ep_status(link->requests.ep)) != WEIR_OK)
            wi_error_prefix(status, "parameter server on rank %d", link->rank);
    }
    return status == WEIR_OK ? wi_ps_client_status(client) : wi_ps_client_fail(client, status);
}

static uint32_t pending_of(const struct wi_ps_call *call)
{
    return call ? __atomic_load_n(&call->pending, __ATOMIC_ACQUIRE) : 0;
}

static weir_status check_bound(weir_ps_client *client, struct wi_ps_wait *wait, uint64_t now_ns, const char *what)
{
    if (wait->end_ns == 0)
        wait->end_ns = now_ns + wi_config()->timeout_ns;
    if (now_ns < wait->end_ns)
        return WEIR_OK;
    return wi_ps_client_fail(client, wi_error(WEIR_ERR_TIMEOUT,
                                              "parameter server: waited %.1f s for %s; a server or, "
                                              "under BSP, another worker is late (WEIR_TIMEOUT)",
                                              (double)wi_config()->timeout_ns / 1e9, what));
}

weir_status wi_ps_client_turn(weir_ps_client *client, struct wi_ps_wait *wait, const struct wi_ps_call *call,
                              const char *what)
{
    unsigned taken = 0;
    weir_status status = take_replies(client, &taken);
    uint32_t pending = pending_of(call);
    for (int poll = 0, polls = wi_ps_polls();
         poll < polls && taken == 0 && status == WEIR_OK && pending_of(call) == pending; poll++) {
        weir_progress(client->ctx);
        status = take_replies(client, &taken);
    }
    if (taken > 0 || pending_of(call) != wait->pending) { /* another thread may have taken ours */
        *wait = (struct wi_ps_wait){.pending = pending_of(call)};
        return status;
    }
    uint64_t now_ns = wi_now_ns();
    if (status == WEIR_OK)
        status = check_job(client, now_ns);
    if (status == WEIR_OK)
        status = check_bound(client, wait, now_ns, what);
    if (status == WEIR_OK)
        wi_ps_idle_pause(&wait->idle, client->ctx, now_ns, client->watching ? SLEEP_MS : 1);
    return status;
}

/* ---- Calls ------------------------------------------------------------------------------------------------------- */

/* With the lock. */
static bool claim_slot(weir_ps_client *client, struct wi_ps_call *call)
{
    for (uint32_t slot = 0; slot < WI_PS_CALLS_MAX; slot++) {
        if (client->calls[slot])
            continue;
        client->generation++;
        call->id = (client->generation % (1u << 20) + 1) * WI_PS_CALLS_MAX + slot;
        client->calls[slot] = call;
        return true;
    }
    return false;
}

weir_status wi_ps_call_begin(weir_ps_client *client, struct wi_ps_call *call, uint32_t parts)
{
    struct wi_ps_wait wait = {0};
    *call = (struct wi_ps_call){.pending = parts, .done = call->done};
    weir_status status = wi_process_check(client->ctx, "parameter server");
    if (status == WEIR_OK)
        status = wi_ps_client_status(client);
    while (status == WEIR_OK) {
        pthread_mutex_lock(&client->lock);
        bool claimed = claim_slot(client, call);
        pthread_mutex_unlock(&client->lock);
        if (claimed)
            return WEIR_OK;
        status = wi_ps_client_turn(client, &wait, NULL, "one of the other threads' calls to end");
    }
    return status;
}

weir_status wi_ps_call_wait(weir_ps_client *client, struct wi_ps_call *call, const char *what)
{
    struct wi_ps_wait wait = {0};
    while (pending_of(call) > 0) {
        weir_status status = wi_ps_client_turn(client, &wait, call, what);
        if (status != WEIR_OK)
            return status;
    }
    return WEIR_OK;
}

void wi_ps_call_end(weir_ps_client *client, struct wi_ps_call *call)
{
    if (call->id == 0)
        return;
    pthread_mutex_lock(&client->lock);
    client->calls[call->id % WI_PS_CALLS_MAX] = NULL;
    pthread_mutex_unlock(&client->lock);
}

/* ---- Making and ending ------------------------------------------------------------------------------------------- */

static weir_status link_init(weir_ps_client *client, struct wi_ps_link *link, int rank)
{
    link->rank = rank;
    weir_status status = wi_ps_ring_memory_init(&link->memory, client->ctx, client->pool, WI_PS_REPLIES * WI_PS_LINE);
    return status == WEIR_OK ? wi_ps_greet(client->ctx, client->boot, &link->memory, rank) : status;
}

static weir_status link_ready(weir_ps_client *client, struct wi_ps_link *link)
{
    weir_status status = wi_ps_remote_ready(&link->requests, &link->hello, link->rank);
    if (status != WEIR_OK)
        return status;
    weir_ep_attr attr;
    weir_ep_query(link->requests.ep, &attr);
    client->by_device &= attr.native_signal && !attr.maps_peer;
    link->ring = (struct wi_ps_producer){.size = link->requests.size};
    link->keys = calloc(WI_PS_KEYS_MAX, sizeof(*link->keys));
    if (!link->keys)
        return wi_error(WEIR_ERR_NO_MEMORY, "parameter server's client: out of memory");
    void *mirror;
    status = weir_pool_alloc(client->pool, link->requests.size, &mirror, &link->mirror_mem);
    link->mirror = mirror;
    return status;
}

/* All tell first, then all ask, then all wait; a client is made when every server has connected back to it. */
static weir_status connect_all(weir_ps_client *client)
{
    weir_status status = WEIR_OK;
    for (uint32_t i = 0; i < client->servers && status == WEIR_OK; i++)
        status = link_init(client, &client->links[i], (int)(client->workers + i));
    for (uint32_t i = 0; i < client->servers && status == WEIR_OK; i++) {
        struct wi_ps_link *link = &client->links[i];
        status = wi_ps_meet(client->ctx, client->boot, link->rank, false, &link->hello, &link->requests);
    }
    for (uint32_t i = 0; i < client->servers && status == WEIR_OK; i++)
        status = link_ready(client, &client->links[i]);
    struct wi_ps_wait wait = {0};
    for (uint32_t i = 0; i < client->servers && status == WEIR_OK; i++)
        while (client->links[i].replies == 0 && status == WEIR_OK)
            status = wi_ps_client_turn(client, &wait, NULL, "a server to connect back");
    return status;
}

static weir_status check_params(weir_ctx *ctx, weir_boot *boot)
{
    if (!ctx || !boot)
        return wi_error(WEIR_ERR_INVALID, "parameter server's client: context and bootstrap must be given");
    if (weir_boot_servers(boot) == 0)
        return wi_error(WEIR_ERR_INVALID, "parameter server's client: the job has no servers; set WEIR_SERVERS or "
                                          "`weir run --servers`");
    if (weir_boot_role(boot) != WEIR_ROLE_WORKER)
        return wi_error(WEIR_ERR_INVALID, "parameter server's client: rank %d is a server", weir_boot_rank(boot));
    return WEIR_OK;
}

weir_status weir_ps_client_create(weir_ctx *ctx, weir_boot *boot, weir_ps_client **out)
{
    weir_status status = check_params(ctx, boot);
    if (status != WEIR_OK)
        return status;
    weir_ps_client *client = calloc(1, sizeof(*client));
    if (!client)
        return wi_error(WEIR_ERR_NO_MEMORY, "parameter server's client: out of memory");
    client->ctx = ctx;
    wi_lender_init(&client->lender);
    client->boot = boot;
    client->servers = (uint32_t)weir_boot_servers(boot);
    client->workers = (uint32_t)weir_boot_size(boot) - client->servers;
    client->by_device = true;
    client->watching = weir_boot_fd(boot) >= 0 && weir_ctx_watch(ctx, weir_boot_fd(boot)) == WEIR_OK;
    client->attending = weir_boot_attend(boot, weir_ctx_attend, ctx) == WEIR_OK;
    pthread_mutex_init(&client->lock, NULL);
    client->links = calloc(client->servers, sizeof(*client->links));
    for (uint32_t i = 0; client->links && i < client->servers; i++)
        pthread_mutex_init(&client->links[i].lock, NULL);
    status = client->links ? weir_pool_create(ctx, 0, &client->pool)
                           : wi_error(WEIR_ERR_NO_MEMORY, "parameter server's client: out of memory");
    if (status == WEIR_OK)
        status = connect_all(client);
    if (status != WEIR_OK) {
        status = wi_ps_client_fail(client, status);
        weir_ps_client_destroy(client);
        return status;
    }
    *out = client;
    return WEIR_OK;
}

/* Tells all servers that this worker has finished, and waits until they know. */
static void say_goodbye(weir_ps_client *client)
{
    struct wi_ps_call call = {0};
    weir_status status = wi_ps_call_begin(client, &call, client->servers);
    for (uint32_t i = 0; i < client->servers && status == WEIR_OK; i++) {
        struct wi_ps_request header = {.op = WI_PS_BYE, .call = call.id};
        status = wi_ps_link_send(client, &client->links[i], &header, NULL, 0);
    }
    if (status == WEIR_OK)
        status = wi_ps_call_wait(client, &call, "the servers to take note of the end");
    wi_ps_call_end(client, &call);
    if (status != WEIR_OK)
        wi_warn("leaving the parameter servers: %s", weir_last_error());
}

void weir_ps_client_destroy(weir_ps_client *client)
{
    if (!client || wi_process_check(client->ctx, "weir_ps_client_destroy") != WEIR_OK)
        return;
    if (client->links && client->status == WEIR_OK)
        say_goodbye(client);
    for (uint32_t i = 0; client->links && i < client->servers; i++) {
        wi_ps_remote_fini(&client->links[i].requests);
        wi_ps_ring_memory_fini(&client->links[i].memory, client->ctx);
        pthread_mutex_destroy(&client->links[i].lock);
        free(client->links[i].keys);
    }
    wi_lender_end(&client->lender, client->ctx);
    while (client->tables) {
        weir_ps_table *table = client->tables;
        client->tables = table->next;
        free(table->runs);
        free(table->ids);
        free(table);
    }
    wi_ps_staging_free_all(client);
    weir_pool_destroy(client->pool);
    if (client->attending)
        weir_boot_unattend(client->boot, weir_ctx_attend, client->ctx);
    if (client->watching)
        weir_ctx_unwatch(client->ctx, weir_boot_fd(client->boot));
    pthread_mutex_destroy(&client->lock);
    free(client->links);
    free(client);
}

void weir_ps_client_query(weir_ps_client *client, weir_ps_stats *stats)
{
    *stats = (weir_ps_stats){0};
    if (wi_process_check(client->ctx, "weir_ps_client_query") != WEIR_OK)
        return;
    pthread_mutex_lock(&client->lock);
    *stats = client->stats;
    pthread_mutex_unlock(&client->lock);
}
