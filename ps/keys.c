/*
 * The memory that servers write weights to: memory of the caller, registered or acquired for the call, or staging memory.
 * A server knows it by a small number; the key itself travels once, in front of the first request that uses it.
 */
#include "ps/client.h"

#include "core/error.h"

#include <stdlib.h>

/* An entry for a new key: an unused one, else the one that nobody has used for the longest time. With the lock. */
static struct wi_ps_key *claim(weir_ps_client *client)
{
    struct wi_ps_key *oldest = NULL;
    if (client->key_count < WI_PS_KEYS_MAX)
        return &client->keys[client->key_count++];
    for (uint32_t i = 0; i < client->key_count; i++) {
        struct wi_ps_key *key = &client->keys[i];
        if (key->users == 0 && (!oldest || key->last_use < oldest->last_use))
            oldest = key;
    }
    return oldest;
}

/* An identity is never used twice, so memory that was registered anew at the same address is not taken for the old. */
static struct wi_ps_key *find(weir_ps_client *client, uint64_t mem_id, const void *addr, size_t len)
{
    for (uint32_t i = 0; i < client->key_count; i++) {
        struct wi_ps_key *key = &client->keys[i];
        if (key->mem_id == mem_id && key->addr == addr && key->len == len)
            return key;
    }
    return NULL;
}

static weir_status key_of(weir_ps_client *client, weir_mem *mem, const void *addr, size_t len, uint32_t *number)
{
    uint64_t mem_id = weir_mem_id(mem);
    pthread_mutex_lock(&client->lock);
    struct wi_ps_key *key = find(client, mem_id, addr, len);
    if (!key && (key = claim(client)))
        *key = (struct wi_ps_key){
            .mem = mem, .mem_id = mem_id, .addr = addr, .len = len, .generation = ++client->key_generation};
    if (key) {
        key->users++;
        key->last_use = ++client->key_clock;
        *number = (uint32_t)(key - client->keys);
    }
    pthread_mutex_unlock(&client->lock);
    return key ? WEIR_OK : WEIR_ERR_KEY;
}

weir_status wi_ps_key_get(weir_ps_client *client, const void *addr, size_t len, weir_mem **acquired, uint32_t *key)
{
    weir_mem *mem;
    *acquired = NULL;
    if (weir_mem_find(client->ctx, addr, len, &mem) != WEIR_OK) {
        if (!client->by_device || !wi_mem_acquire_kept(client->ctx, addr, len, acquired))
            return WEIR_ERR_KEY;
        mem = *acquired;
    }
    weir_status status = key_of(client, mem, addr, len, key);
    if (status != WEIR_OK) {
        weir_mem_release(*acquired);
        *acquired = NULL;
    }
    return status;
}

void wi_ps_key_release(weir_ps_client *client, uint32_t key)
{
    pthread_mutex_lock(&client->lock);
    client->keys[key].users--;
    pthread_mutex_unlock(&client->lock);
}

/* Two threads may both send it: the second time does no harm. */
weir_status wi_ps_key_send(weir_ps_client *client, struct wi_ps_link *link, uint32_t number)
{
    const struct wi_ps_key *key = &client->keys[number]; /* in use, so it does not change */
    if (__atomic_load_n(&link->keys[number], __ATOMIC_ACQUIRE) == key->generation)
        return WEIR_OK;
    uint8_t blob[WEIR_RKEY_MAX];
    size_t blob_len = sizeof(blob);
    weir_status status = wi_lend(&client->lender, key->mem, key->addr, key->len, blob, &blob_len);
    if (status != WEIR_OK)
        return status;
    struct wi_ps_request header = {.op = WI_PS_KEY, .key = number};
    status = wi_ps_link_send(client, link, &header, blob, (uint32_t)blob_len);
    if (status == WEIR_OK)
        __atomic_store_n(&link->keys[number], key->generation, __ATOMIC_RELEASE);
    return status;
}

static weir_status staging_create(weir_ps_client *client, size_t size, struct wi_ps_staging **out)
{
    struct wi_ps_staging *staging = calloc(1, sizeof(*staging));
    weir_mem *mem;
    if (!staging)
        return wi_error(WEIR_ERR_NO_MEMORY, "parameter server: out of memory");
    staging->size = size;
    weir_status status = weir_pool_alloc(client->pool, size, &staging->ptr, &mem);
    if (status == WEIR_OK)
        status = key_of(client, mem, staging->ptr, size, &staging->key);
    if (status == WEIR_ERR_KEY)
        status = wi_error(WEIR_ERR_LIMIT, "parameter server: all %u keys are in use", WI_PS_KEYS_MAX);
    if (status != WEIR_OK) {
        weir_pool_free(client->pool, staging->ptr);
        free(staging);
        return status;
    }
    *out = staging;
    return WEIR_OK;
}

weir_status wi_ps_staging_get(weir_ps_client *client, size_t size, struct wi_ps_staging **out)
{
    size_t class = 4096;
    while (class < size)
        class *= 2;
    pthread_mutex_lock(&client->lock);
    struct wi_ps_staging **link = &client->staging;
    while (*link && (*link)->size != class)
        link = &(*link)->next;
    struct wi_ps_staging *staging = *link;
    if (staging)
        *link = staging->next;
    pthread_mutex_unlock(&client->lock);
    *out = staging;
    return staging ? WEIR_OK : staging_create(client, class, out);
}

void wi_ps_staging_release(weir_ps_client *client, struct wi_ps_staging *staging)
{
    pthread_mutex_lock(&client->lock);
    staging->next = client->staging;
    client->staging = staging;
    pthread_mutex_unlock(&client->lock);
}

void wi_ps_staging_free_all(weir_ps_client *client)
{
    while (client->staging) {
        struct wi_ps_staging *staging = client->staging;
        client->staging = staging->next;
        free(staging); /* the memory goes with the pool */
    }
}
