/* Opening tables: the first server judges whether all workers mean the same table. */
#include "core/config.h"
#include "core/error.h"
#include "ps/client.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static weir_status check_params(const weir_ps_client *client, const weir_ps_table_params *params)
{
    if (!client || !params || params->size < sizeof(*params) || !params->name || !params->name[0])
        return wi_error(WEIR_ERR_INVALID,
                        "weir_ps_table_open: client, params with their size, and a name must be given");
    if (strlen(params->name) > WI_PS_NAME_MAX)
        return wi_error(WEIR_ERR_INVALID, "table '%s': a name has at most %u bytes", params->name, WI_PS_NAME_MAX);
    if (params->count == 0 || params->count > WI_PS_COUNT_MAX)
        return wi_error(WEIR_ERR_INVALID, "table '%s': %llu elements; it can have 1 to %llu", params->name,
                        (unsigned long long)params->count, (unsigned long long)WI_PS_COUNT_MAX);
    if ((unsigned)params->consistency > WEIR_PS_BSP || (unsigned)params->optimizer > WEIR_PS_SGD)
        return wi_error(WEIR_ERR_INVALID, "table '%s': unknown consistency or optimizer", params->name);
    if (!isfinite(params->learning_rate))
        return wi_error(WEIR_ERR_INVALID, "table '%s': the learning rate is no number", params->name);
    return WEIR_OK;
}

static weir_status mismatch(const struct wi_ps_open *mine, const struct wi_ps_open *theirs)
{
    const char *field;
    wi_ps_open_same(mine, theirs, &field);
    if (!field)
        field = "?";
    if (strcmp(field, "learning_rate") == 0)
        return wi_error(WEIR_ERR_MISMATCH, "table '%s': learning_rate %.9g here, %.9g where it was opened first",
                        mine->name, (double)mine->learning_rate, (double)theirs->learning_rate);
    unsigned long long a = mine->count, b = theirs->count;
    if (strcmp(field, "consistency") == 0)
        a = mine->consistency, b = theirs->consistency;
    else if (strcmp(field, "optimizer") == 0)
        a = mine->optimizer, b = theirs->optimizer;
    else if (strcmp(field, "WEIR_PS_SHARDS") == 0)
        a = mine->shards, b = theirs->shards;
    return wi_error(WEIR_ERR_MISMATCH, "table '%s': %s %llu here, %llu where it was opened first", mine->name, field, a,
                    b);
}

static weir_status open_at(weir_ps_client *client, weir_ps_table *table, uint32_t server)
{
    struct wi_ps_call call = {0};
    struct wi_ps_request header = {.op = WI_PS_OPEN};
    weir_status status = wi_ps_call_begin(client, &call, 1);
    header.call = call.id;
    if (status == WEIR_OK)
        status = wi_ps_link_send(client, &client->links[server], &header, &table->open, sizeof(table->open));
    if (status == WEIR_OK)
        status = wi_ps_call_wait(client, &call, "a server to open a table");
    wi_ps_call_end(client, &call);
    if (status != WEIR_OK)
        return wi_ps_client_fail(client, status);
    const struct wi_ps_reply *reply = &call.opened;
    struct wi_ps_open theirs = {.count = reply->count,
                                .learning_rate = reply->learning_rate,
                                .shards = reply->shards,
                                .consistency = reply->consistency,
                                .optimizer = reply->optimizer};
    if (reply->status == WEIR_ERR_MISMATCH)
        return mismatch(&table->open, &theirs);
    if (reply->status != WEIR_OK)
        return wi_error((weir_status)reply->status, "table '%s': server on rank %d: %s", table->open.name,
                        client->links[server].rank, weir_status_string((weir_status)reply->status));
    table->ids[server] = reply->table;
    return WEIR_OK;
}

static weir_ps_table *table_create(weir_ps_client *client, const struct wi_ps_open *open)
{
    weir_ps_table *table = calloc(1, sizeof(*table));
    if (!table)
        return NULL;
    table->client = client;
    table->open = *open;
    table->runs = calloc(client->servers, sizeof(*table->runs));
    table->ids = calloc(client->servers, sizeof(*table->ids));
    if (!table->runs || !table->ids)
        return table;
    struct wi_ps_map map = wi_ps_map_make(open->name, open->count, open->shards, open->servers);
    for (uint32_t i = 0; i < client->servers; i++)
        table->runs[i] = wi_ps_map_run(&map, i);
    return table;
}

static weir_status open_new(weir_ps_client *client, const struct wi_ps_open *open, weir_ps_table **out)
{
    weir_ps_table *table = table_create(client, open);
    weir_status status = table && table->runs && table->ids
                             ? WEIR_OK
                             : wi_error(WEIR_ERR_NO_MEMORY, "table '%s': out of memory", open->name);
    for (uint32_t i = 0; i < client->servers && status == WEIR_OK; i++)
        status = open_at(client, table, i);
    if (status != WEIR_OK) {
        if (table) {
            free(table->runs);
            free(table->ids);
        }
        free(table);
        return status;
    }
    pthread_mutex_lock(&client->lock);
    table->next = client->tables;
    client->tables = table;
    pthread_mutex_unlock(&client->lock);
    *out = table;
    return WEIR_OK;
}

/* Threads open one after the other, so that a table is not made twice. */
static weir_status begin_opening(weir_ps_client *client)
{
    struct wi_ps_wait wait = {0};
    weir_status status = WEIR_OK;
    for (;;) {
        pthread_mutex_lock(&client->lock);
        bool mine = !client->opening;
        client->opening = true;
        pthread_mutex_unlock(&client->lock);
        if (mine)
            return WEIR_OK;
        if ((status = wi_ps_client_turn(client, &wait, NULL, "another thread's opening of a table")) != WEIR_OK)
            return status;
    }
}

static void end_opening(weir_ps_client *client)
{
    pthread_mutex_lock(&client->lock);
    client->opening = false;
    pthread_mutex_unlock(&client->lock);
}

weir_status weir_ps_table_open(weir_ps_client *client, const weir_ps_table_params *params, weir_ps_table **out)
{
    weir_status status =
        out ? check_params(client, params) : wi_error(WEIR_ERR_INVALID, "weir_ps_table_open: no result");
    if (status == WEIR_OK)
        status = begin_opening(client);
    if (status != WEIR_OK)
        return status;
    struct wi_ps_open open = {
        .count = params->count,
        .learning_rate = params->learning_rate,
        .shards = (uint32_t)wi_config()->ps_shards,
        .workers = client->workers,
        .servers = client->servers,
        .consistency = (uint8_t)params->consistency,
        .optimizer = (uint8_t)params->optimizer,
    };
    memcpy(open.name, params->name, strlen(params->name));
    weir_ps_table *table = client->tables;
    while (table && strcmp(table->open.name, open.name) != 0)
        table = table->next;
    const char *field;
    if (!table)
        status = open_new(client, &open, out);
    else if (wi_ps_open_same(&open, &table->open, &field))
        *out = table;
    else
        status = mismatch(&open, &table->open);
    end_opening(client);
    return status;
}
