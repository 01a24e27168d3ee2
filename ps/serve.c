/* What a server does with each kind of frame. */
#include "core/error.h"
#include "core/log.h"
#include "ps/server.h"

#include <stdlib.h>
#include <string.h>

/* The entry was used a whole ring ago; hardly ever is it still on its way. */
static weir_status wait_for_entry(weir_ps_server *server, struct wi_ps_peer *peer, uint64_t index)
{
    if (__builtin_expect(weir_test(&peer->sent[index]) == WEIR_ERR_AGAIN, 0))
        return weir_wait(server->ctx, &peer->sent[index], -1);
    return WEIR_OK;
}

weir_status wi_ps_send_reply(weir_ps_server *server, struct wi_ps_peer *peer, const struct wi_ps_reply *reply)
{
    uint64_t index = peer->sequence % WI_PS_REPLIES;
    weir_status status = wait_for_entry(server, peer, index);
    if (status != WEIR_OK)
        return status;
    struct wi_ps_reply *entry = &peer->outgoing[index];
    *entry = *reply;
    entry->magic = WI_PS_MAGIC;
    entry->version = WI_PS_VERSION;
    entry->sequence = peer->sequence++;
    entry->consumed = peer->ring.credited = peer->ring.tail;
    return weir_put_signal(peer->replies.ep, entry, peer->outgoing_mem, sizeof(*entry),
                           peer->replies.addr + index * sizeof(*entry), peer->replies.rkey, peer->replies.signal,
                           &peer->sent[index]);
}

/* ---- Parts ------------------------------------------------------------------------------------------------------- */

static bool wants_weights(const struct wi_ps_request *request)
{
    return request->op == WI_PS_PULL || request->op == WI_PS_PUSH_PULL;
}

/* Writes the weights where the client wants them, then tells it. */
static weir_status answer(weir_ps_server *server, struct wi_ps_peer *peer, const struct wi_ps_request *request)
{
    struct wi_ps_reply reply = {.kind = WI_PS_REPLY_DONE, .call = request->call, .first = request->part_first};
    if (wants_weights(request)) {
        const struct wi_ps_dense *table = server->tables[request->table];
        const float *weights = table->store.weights + (request->part_first - table->store.run.first);
        weir_status status = weir_put(peer->replies.ep, weights, table->mem, request->part_count * sizeof(float),
                                      request->addr, peer->keys[request->key], &peer->puts);
        if (status != WEIR_OK)
            return wi_error_prefix(status, "weights of table '%s' for rank %d", table->store.open.name, peer->rank);
        reply.count = request->part_count;
    }
    return wi_ps_send_reply(server, peer, &reply);
}

/* From the spare ones, so that none is allocated once as many have waited as ever wait at once. */
static struct wi_ps_pending *pending_get(weir_ps_server *server)
{
    struct wi_ps_pending *pending = server->spare;
    if (!pending)
        return malloc(sizeof(*pending));
    server->spare = pending->next;
    return pending;
}

static void pending_put(weir_ps_server *server, struct wi_ps_pending *pending)
{
    pending->next = server->spare;
    server->spare = pending;
}

/* A step was applied, so some that waited for it can be answered. */
static weir_status answer_ready(weir_ps_server *server, struct wi_ps_store *store)
{
    weir_status status = WEIR_OK;
    struct wi_ps_waiter *waiter;
    while (status == WEIR_OK && (waiter = wi_ps_store_ready(store))) {
        struct wi_ps_pending *pending = (struct wi_ps_pending *)waiter;
        pending->peer->waiting--;
        status = answer(server, pending->peer, &pending->request);
        pending_put(server, pending);
    }
    return status;
}

/* All of a part is there: answers it now or when its step has been applied. */
static weir_status finish_part(weir_ps_server *server, struct wi_ps_peer *peer, const struct wi_ps_request *request)
{
    struct wi_ps_store *store = &server->tables[request->table]->store;
    if (store->open.consistency == WEIR_PS_ASYNC || request->op == WI_PS_INIT)
        return answer(server, peer, request);
    if (peer->waiting >= WI_PS_CALLS_MAX * WI_PS_PARTS_MAX)
        return wi_error(WEIR_ERR_PROTOCOL, "more parts wait than a client may have");
    struct wi_ps_pending *pending = pending_get(server);
    if (!pending)
        return wi_error(WEIR_ERR_NO_MEMORY, "no memory for a request that waits");
    pending->peer = peer;
    pending->request = *request;
    /* A push is done when it is part of the running step, that is when the step before was applied. */
    uint64_t step = request->op == WI_PS_PUSH ? request->step - 1 : request->step;
    if (!wi_ps_store_wait(store, &pending->waiter, request->part_first, request->part_count, step)) {
        peer->waiting++;
        return WEIR_OK;
    }
    pending_put(server, pending);
    return answer(server, peer, request);
}

/* What the frame says of tables and keys, against what is there. */
static const char *check_against_table(const weir_ps_server *server, const struct wi_ps_peer *peer,
                                       const struct wi_ps_request *request)
{
    if (request->table >= server->table_count)
        return "a table that was not opened";
    const struct wi_ps_store *store = &server->tables[request->table]->store;
    if (!wi_ps_store_has(store, request->part_first, request->part_count))
        return "elements that this server does not have";
    if (store->open.consistency == WEIR_PS_BSP && request->step == 0 && request->op != WI_PS_PULL &&
        request->op != WI_PS_INIT)
        return "a push of step 0";
    if (!wants_weights(request))
        return NULL;
    uint64_t addr, len, bytes = request->part_count * sizeof(float);
    if (!peer->keys[request->key])
        return "a key that was not given";
    weir_rkey_range(peer->keys[request->key], &addr, &len);
    if (request->addr < addr || request->addr - addr > len || bytes > len - (request->addr - addr))
        return "a place for weights that its key does not cover";
    return NULL;
}

static weir_status serve_part(weir_ps_server *server, struct wi_ps_peer *peer, const struct wi_ps_request *request,
                              const float *payload)
{
    const char *wrong = check_against_table(server, peer, request);
    if (wrong)
        return wi_error(WEIR_ERR_PROTOCOL, "%s", wrong);
    struct wi_ps_store *store = &server->tables[request->table]->store;
    uint64_t first = request->part_first + request->offset, count = request->payload / sizeof(float);
    weir_status status = WEIR_OK;
    if (request->op == WI_PS_INIT)
        wi_ps_store_set(store, first, payload, count);
    else if (request->op != WI_PS_PULL)
        status = wi_ps_store_push(store, (uint32_t)peer->rank, request->step, first, payload, count);
    wi_ps_ring_consume(&peer->ring, request);
    if (status == WEIR_OK && (request->op == WI_PS_PULL || request->offset + count == request->part_count))
        status = finish_part(server, peer, request);
    return status == WEIR_OK ? answer_ready(server, store) : status;
}

/* ---- Tables, keys, barriers -------------------------------------------------------------------------------------- */

static weir_status new_table(weir_ps_server *server, const struct wi_ps_open *open)
{
    if (server->table_count == WI_PS_TABLES_MAX)
        return wi_error(WEIR_ERR_LIMIT, "table '%s': a server has at most %u tables", open->name, WI_PS_TABLES_MAX);
    if (server->table_count == server->table_room) {
        uint32_t room = server->table_room ? 2 * server->table_room : 16;
        void *tables = realloc(server->tables, room * sizeof(*server->tables));
        if (!tables)
            return wi_error(WEIR_ERR_NO_MEMORY, "table '%s': out of memory", open->name);
        server->tables = tables;
        server->table_room = room;
    }
    struct wi_ps_dense *table = calloc(1, sizeof(*table));
    if (!table)
        return wi_error(WEIR_ERR_NO_MEMORY, "table '%s': out of memory", open->name);
    void *weights = NULL;
    uint64_t bytes = wi_ps_store_bytes(open, server->index);
    weir_status status = bytes ? weir_pool_alloc(server->pool, bytes, &weights, &table->mem) : WEIR_OK;
    if (status == WEIR_OK)
        status = wi_ps_store_init(&table->store, open, server->index, weights);
    if (status != WEIR_OK) {
        weir_pool_free(server->pool, weights);
        free(table);
        return status;
    }
    server->tables[server->table_count++] = table;
    wi_debug("table '%s': %llu of %llu elements are here", open->name, (unsigned long long)table->store.run.count,
             (unsigned long long)open->count);
    return WEIR_OK;
}

static uint32_t find_table(const weir_ps_server *server, const char *name)
{
    uint32_t i = 0;
    while (i < server->table_count && strcmp(server->tables[i]->store.open.name, name) != 0)
        i++;
    return i;
}

static weir_status serve_open(weir_ps_server *server, struct wi_ps_peer *peer, const struct wi_ps_request *request,
                              const void *payload)
{
    struct wi_ps_open open;
    memcpy(&open, payload, sizeof(open));
    wi_ps_ring_consume(&peer->ring, request);
    const char *field, *wrong = wi_ps_open_check(&open, server->workers, server->servers);
    if (wrong)
        return wi_error(WEIR_ERR_PROTOCOL, "%s", wrong);
    uint32_t id = find_table(server, open.name);
    struct wi_ps_reply reply = {.kind = WI_PS_REPLY_OPEN, .call = request->call, .table = id, .status = WEIR_OK};
    if (id == server->table_count)
        reply.status = new_table(server, &open);
    else if (!wi_ps_open_same(&server->tables[id]->store.open, &open, &field))
        reply.status = WEIR_ERR_MISMATCH;
    if (id < server->table_count)
        open = server->tables[id]->store.open;
    reply.count = open.count;
    reply.consistency = open.consistency;
    reply.optimizer = open.optimizer;
    reply.learning_rate = open.learning_rate;
    reply.shards = open.shards;
    return wi_ps_send_reply(server, peer, &reply);
}

static weir_status serve_key(weir_ps_server *server, struct wi_ps_peer *peer, const struct wi_ps_request *request,
                             const void *payload)
{
    uint8_t blob[WEIR_RKEY_MAX];
    memcpy(blob, payload, request->payload);
    wi_ps_ring_consume(&peer->ring, request);
    weir_rkey **key = &peer->keys[request->key];
    weir_status status = WEIR_OK;
    if (*key && weir_test(&peer->puts) == WEIR_ERR_AGAIN) /* the last writes through the old key */
        status = weir_wait(server->ctx, &peer->puts, -1);
    weir_rkey_destroy(*key);
    *key = NULL;
    return status == WEIR_OK ? weir_rkey_import(peer->replies.ep, blob, request->payload, key) : status;
}

static uint64_t barriers_complete(const weir_ps_server *server)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < server->workers; i++)
        if (server->peers[i].barriers < least)
            least = server->peers[i].barriers;
    return least;
}

static weir_status serve_barrier(weir_ps_server *server, struct wi_ps_peer *peer, const struct wi_ps_request *request)
{
    wi_ps_ring_consume(&peer->ring, request);
    struct wi_ps_pending *pending = pending_get(server);
    if (!pending)
        return wi_error(WEIR_ERR_NO_MEMORY, "no memory for a barrier");
    pending->peer = peer;
    pending->request = *request;
    pending->barrier = ++peer->barriers;
    pending->next = server->barriers;
    server->barriers = pending;
    uint64_t complete = barriers_complete(server);
    weir_status status = WEIR_OK;
    for (struct wi_ps_pending **link = &server->barriers; *link;) {
        struct wi_ps_pending *done = *link;
        if (done->barrier > complete) {
            link = &done->next;
            continue;
        }
        *link = done->next;
        struct wi_ps_reply reply = {.kind = WI_PS_REPLY_DONE, .call = done->request.call};
        if (status == WEIR_OK)
            status = wi_ps_send_reply(server, done->peer, &reply);
        pending_put(server, done);
    }
    return status;
}

static weir_status serve_bye(weir_ps_server *server, struct wi_ps_peer *peer, const struct wi_ps_request *request)
{
    wi_ps_ring_consume(&peer->ring, request);
    struct wi_ps_reply reply = {.kind = WI_PS_REPLY_BYE, .call = request->call};
    weir_status status = wi_ps_send_reply(server, peer, &reply);
    peer->gone = true;
    server->live--;
    return status;
}

weir_status wi_ps_serve_frame(weir_ps_server *server, struct wi_ps_peer *peer, const struct wi_ps_request *request,
                              const void *payload)
{
    switch (request->op) {
    case WI_PS_OPEN:
        return serve_open(server, peer, request, payload);
    case WI_PS_KEY:
        return serve_key(server, peer, request, payload);
    case WI_PS_BARRIER:
        return serve_barrier(server, peer, request);
    case WI_PS_BYE:
        return serve_bye(server, peer, request);
    case WI_PS_PAD:
        wi_ps_ring_consume(&peer->ring, request);
        return WEIR_OK;
    default: /* the check let no others through */
        return serve_part(server, peer, request, payload);
    }
}
