/*
 * Calls on tables: cut into parts, sent to all servers side by side, answered part by part.
 *
 * A server's range of a table is cut into at most WI_PS_PARTS_MAX parts of whole cache lines; a pull's weights for the
 * first parts arrive while the gradient of the later ones is still being written.
 */
#include "ps/client.h"

#include "core/clock.h"
#include "core/error.h"
#include "core/trace.h"

#include <stdlib.h>
#include <string.h>

enum {
    PART_MIN = 64 << 10,   /* elements: shorter parts cost more than they gain */
    FRAME_MAX = 256 << 10, /* bytes of payload: small enough to stay in the cache from writing to applying */
    DIRECT_MIN = 8 << 10,  /* bytes of payload from which on a write of its own is cheaper than a copy */
};

/* How far a call has got with one server. */
struct progress {
    uint64_t part_size; /* elements */
    uint64_t next;      /* first element not sent */
    uint64_t end;
};

/* A call on a table. */
struct transfer {
    weir_ps_table *table;
    uint8_t op;
    const float *send; /* gradient or weights, NULL: none */
    float *recv;       /* the caller's memory for weights, NULL: none */
    float *landing;    /* where the servers write them: `recv`, or staging memory */
    uint32_t key;      /* of `landing` */
    struct wi_ps_staging *staging;
    weir_mem *acquired; /* registration of `recv` for the time of the call; NULL: none */
    bool direct; /* the gradient needs no copy */
    uint64_t step;
    struct wi_ps_call call;
    struct progress *servers;
    uint32_t copied; /* parts taken from staging memory to `recv` */
};

enum { SERVERS_FEW = 16 }; /* so many need no memory from the heap */

/* Room for what a call keeps of each server and each part. */
struct workspace {
    struct progress servers[SERVERS_FEW];
    struct wi_ps_range done[SERVERS_FEW * WI_PS_PARTS_MAX];
    void *many;
};

static const char *name_of(uint8_t op)
{
    return op == WI_PS_INIT ? "init" : op == WI_PS_PUSH ? "push" : op == WI_PS_PULL ? "pull" : "push_pull";
}

static uint64_t part_size_of(uint64_t count)
{
    uint64_t size = (count + WI_PS_PARTS_MAX - 1) / WI_PS_PARTS_MAX;
    return size < PART_MIN ? PART_MIN : (size + 15) / 16 * 16;
}

/* Cuts the table's ranges into parts; returns how many there are. */
static uint32_t plan(const weir_ps_table *table, struct progress *servers)
{
    uint32_t parts = 0;
    for (uint32_t i = 0; i < table->client->servers; i++) {
        const struct wi_ps_run *run = &table->runs[i];
        servers[i] = (struct progress){part_size_of(run->count), run->first, run->first + run->count};
        parts += (uint32_t)((run->count + servers[i].part_size - 1) / servers[i].part_size);
    }
    return parts;
}

/* Writes the next frame to a server. WEIR_ERR_AGAIN: no room in its ring. */
static weir_status send_next(struct transfer *t, uint32_t server)
{
    struct wi_ps_link *link = &t->table->client->links[server];
    struct progress *p = &t->servers[server];
    uint64_t done = p->next - t->table->runs[server].first;
    uint64_t part_first = p->next - done % p->part_size;
    uint64_t part_end = part_first + p->part_size < p->end ? part_first + p->part_size : p->end;
    struct wi_ps_request header = {
        .op = t->op,
        .call = t->call.id,
        .table = t->table->ids[server],
        .key = t->key,
        .addr = t->landing ? (uintptr_t)(t->landing + part_first) : 0,
        .part_first = part_first,
        .part_count = (uint32_t)(part_end - part_first),
        .offset = (uint32_t)(p->next - part_first),
        .step = t->step,
    };
    uint64_t left = t->send ? (part_end - p->next) * sizeof(float) : 0;
    uint64_t limit = link->ring.size / 8 < FRAME_MAX ? link->ring.size / 8 : FRAME_MAX;
    uint32_t max = (uint32_t)(left < limit ? left : limit);
    uint32_t min = max < limit / 4 ? max : (uint32_t)(limit / 4), sent;
    bool direct = t->direct && max >= DIRECT_MIN && !link->copies;
    weir_status status = wi_ps_link_post(link, &header, t->send ? t->send + p->next : NULL, min, max, direct, &sent);
    if (status == WEIR_OK)
        p->next = t->send ? p->next + sent / sizeof(float) : part_end;
    return status;
}

/* A frame to each server in turn, until all is sent. */
static weir_status send_all(struct transfer *t)
{
    weir_ps_client *client = t->table->client;
    struct wi_ps_wait wait = {0};
    weir_status status = WEIR_OK;
    for (uint32_t i = 0; i < client->servers && t->landing && status == WEIR_OK; i++)
        if (t->servers[i].next != t->servers[i].end)
            status = wi_ps_key_send(client, &client->links[i], t->key);
    while (status == WEIR_OK) {
        bool more = false, any = false;
        for (uint32_t i = 0; i < client->servers; i++) {
            if (t->servers[i].next == t->servers[i].end)
                continue; /* all sent, or it has no part of the table */
            status = send_next(t, i);
            if (status != WEIR_OK && status != WEIR_ERR_AGAIN)
                return status;
            any |= status == WEIR_OK;
            more = true;
        }
        if (!more)
            return WEIR_OK;
        status = WEIR_OK;
        if (any)
            wait.end_ns = 0;
        else
            status = wi_ps_client_turn(client, &wait, &t->call, "room in a server's request ring");
    }
    return status;
}

/* Memory for the weights that servers can write to. */
static weir_status find_landing(struct transfer *t)
{
    size_t len = t->table->open.count * sizeof(float);
    weir_ps_client *client = t->table->client;
    weir_status status = wi_ps_key_get(client, t->recv, len, &t->acquired, &t->key);
    if (status == WEIR_OK)
        t->landing = t->recv;
    if (status != WEIR_ERR_KEY)
        return status;
    status = wi_ps_staging_get(client, len, &t->staging);
    if (status != WEIR_OK)
        return status;
    t->landing = t->staging->ptr;
    t->key = t->staging->key;
    return WEIR_OK;
}

/* After an error servers may still write there; but then the client has failed, and nobody will use it again. */
static void leave_landing(struct transfer *t)
{
    if (t->staging)
        wi_ps_staging_release(t->table->client, t->staging);
    else if (t->landing)
        wi_ps_key_release(t->table->client, t->key);
    weir_mem_release(t->acquired);
}

/* Copies the parts that have come, while others are on their way. */
static weir_status copy_parts(struct transfer *t)
{
    uint64_t count = t->table->open.count;
    uint32_t done = __atomic_load_n(&t->call.done_count, __ATOMIC_ACQUIRE);
    for (; t->staging && t->copied < done; t->copied++) {
        const struct wi_ps_range *part = &t->call.done[t->copied];
        if (part->first > count || part->count > count - part->first)
            return wi_error(WEIR_ERR_PROTOCOL, "a server answers for elements that the table does not have");
        memcpy(t->recv + part->first, t->landing + part->first, part->count * sizeof(float));
    }
    return WEIR_OK;
}

static weir_status receive_all(struct transfer *t)
{
    struct wi_ps_wait wait = {0};
    weir_status status = WEIR_OK;
    while (status == WEIR_OK && __atomic_load_n(&t->call.pending, __ATOMIC_ACQUIRE) > 0) {
        status = wi_ps_client_turn(t->table->client, &wait, &t->call, "the servers' answers");
        if (status == WEIR_OK)
            status = copy_parts(t);
    }
    return status == WEIR_OK ? copy_parts(t) : status;
}

static bool pushes(const struct transfer *t)
{
    return t->op == WI_PS_PUSH || t->op == WI_PS_PUSH_PULL;
}

/* BSP: which step is it? Pushes of several threads go one after the other. */
static weir_status begin_step(struct transfer *t)
{
    weir_ps_table *table = t->table;
    struct wi_ps_wait wait = {0};
    for (;;) {
        pthread_mutex_lock(&table->client->lock);
        bool blocked = pushes(t) && table->pushing;
        if (!blocked && pushes(t)) {
            table->pushing = true;
            t->step = ++table->begun;
        } else {
            t->step = table->pushed;
        }
        pthread_mutex_unlock(&table->client->lock);
        if (!blocked)
            return WEIR_OK;
        weir_status status = wi_ps_client_turn(table->client, &wait, NULL, "another thread's push to the same table");
        if (status != WEIR_OK)
            return status;
    }
}

static void end_step(struct transfer *t)
{
    if (!pushes(t))
        return;
    pthread_mutex_lock(&t->table->client->lock);
    t->table->pushing = false;
    t->table->pushed = t->step;
    pthread_mutex_unlock(&t->table->client->lock);
}

static void count_call(struct transfer *t, uint64_t start_ns)
{
    weir_ps_stats *stats = &t->table->client->stats;
    pthread_mutex_lock(&t->table->client->lock);
    stats->requests++;
    stats->bytes_sent += t->send ? t->table->open.count * sizeof(float) : 0;
    stats->time_ns += wi_now_ns() - start_ns;
    pthread_mutex_unlock(&t->table->client->lock);
}

static weir_status exchange(struct transfer *t)
{
    weir_ps_client *client = t->table->client;
    bool bsp = t->table->open.consistency == WEIR_PS_BSP;
    weir_status status = wi_ps_call_begin(client, &t->call, plan(t->table, t->servers));
    if (status == WEIR_OK && t->recv)
        status = find_landing(t);
    if (status == WEIR_OK && bsp)
        status = begin_step(t);
    if (status == WEIR_OK) {
        status = send_all(t);
        if (status == WEIR_OK)
            status = receive_all(t);
        if (status != WEIR_OK) /* some of it is under way: nothing that follows could be right */
            status = wi_ps_client_fail(client, status);
        if (bsp)
            end_step(t);
    }
    leave_landing(t);
    wi_ps_call_end(client, &t->call);
    return status;
}

static weir_status workspace_init(struct workspace *space, struct transfer *t)
{
    uint32_t servers = t->table->client->servers;
    size_t each = sizeof(struct progress) + WI_PS_PARTS_MAX * sizeof(struct wi_ps_range);
    t->servers = space->servers;
    t->call.done = space->done;
    space->many = NULL;
    if (servers <= SERVERS_FEW)
        return WEIR_OK;
    space->many = calloc(servers, each);
    if (!space->many)
        return wi_error(WEIR_ERR_NO_MEMORY, "parameter server %s: out of memory", name_of(t->op));
    t->servers = space->many;
    t->call.done = (struct wi_ps_range *)(void *)(t->servers + servers);
    return WEIR_OK;
}

static weir_status run(weir_ps_table *table, uint8_t op, const float *send, float *recv)
{
    if (!table || (op != WI_PS_PULL && !send) || ((op == WI_PS_PULL || op == WI_PS_PUSH_PULL) && !recv))
        return wi_error(WEIR_ERR_INVALID, "parameter server %s: table and memory must be given", name_of(op));
    weir_ctx *ctx = table->client->ctx;
    size_t bytes = table->open.count * sizeof(float);
    if ((send && weir_mem_is_device(ctx, send, bytes)) || (recv && weir_mem_is_device(ctx, recv, bytes)))
        return wi_error(WEIR_ERR_UNSUPPORTED,
                        "parameter server %s: the memory is a device's; copy it to or from host memory", name_of(op));
    uint64_t start_ns = wi_now_ns();
    struct workspace space;
    struct transfer t = {.table = table, .op = op, .send = send, .recv = recv, .direct = true};
    weir_status status = workspace_init(&space, &t);
    if (status != WEIR_OK)
        return status;
    status = exchange(&t);
    free(space.many);
    if (wi_trace_on())
        wi_trace_span(name_of(op), "parameter server", start_ns, wi_now_ns(), "\"count\": %llu, \"status\": \"%s\"",
                      (unsigned long long)table->open.count, weir_status_string(status));
    if (status == WEIR_OK) {
        count_call(&t, start_ns);
        return WEIR_OK;
    }
    return wi_error_prefix(status, "%s of table '%s'", name_of(op), table->open.name);
}

weir_status weir_ps_init(weir_ps_table *table, const float *weights)
{
    return run(table, WI_PS_INIT, weights, NULL);
}

weir_status weir_ps_push(weir_ps_table *table, const float *gradient)
{
    return run(table, WI_PS_PUSH, gradient, NULL);
}

weir_status weir_ps_pull(weir_ps_table *table, float *weights)
{
    return run(table, WI_PS_PULL, NULL, weights);
}

weir_status weir_ps_push_pull(weir_ps_table *table, const float *gradient, float *weights)
{
    return run(table, WI_PS_PUSH_PULL, gradient, weights);
}

weir_status weir_ps_barrier(weir_ps_client *client)
{
    if (!client)
        return wi_error(WEIR_ERR_INVALID, "parameter server barrier: a client must be given");
    struct wi_ps_call call = {0};
    struct wi_ps_request header = {.op = WI_PS_BARRIER};
    weir_status status = wi_ps_call_begin(client, &call, 1);
    header.call = call.id;
    if (status == WEIR_OK)
        status = wi_ps_link_send(client, &client->links[0], &header, NULL, 0);
    if (status == WEIR_OK)
        status = wi_ps_call_wait(client, &call, "all workers to come to the barrier");
    wi_ps_call_end(client, &call);
    return status == WEIR_OK ? WEIR_OK : wi_ps_client_fail(client, status);
}
