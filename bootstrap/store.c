/* A hash table with chains. Entries are never removed: a key keeps its value for the life of the job. */
#include "bootstrap/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct wi_store_entry {
    struct wi_store_entry *next;
    struct wi_link waiters;
    uint64_t hash;
    uint32_t met;    /* to a meeting so many have come */
    uint32_t number; /* of a queue: the one that is tried first */
    uint32_t piece_count;
    struct wi_span *pieces; /* of a meeting, else NULL */
    void *value; /* NULL: only waited for as yet */
    size_t value_len;
    size_t key_len;
    char key[];
};

#define WAITER(_link, _member) ((struct wi_waiter *)((char *)(_link)-offsetof(struct wi_waiter, _member)))

void wi_link_init(struct wi_link *head)
{
    head->prev = head->next = head;
}

void wi_link_append(struct wi_link *head, struct wi_link *link)
{
    link->prev = head->prev;
    link->next = head;
    head->prev->next = link;
    head->prev = link;
}

void wi_link_remove(struct wi_link *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    wi_link_init(link);
}

/* FNV-1a; the keys come from ranks of the job, not from strangers. */
static uint64_t hash_of(struct wi_span key)
{
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < key.len; i++)
        hash = (hash ^ ((const unsigned char *)key.data)[i]) * 0x100000001b3ull;
    return hash ^ hash >> 32;
}

static struct wi_store_entry *find(const struct wi_store *store, struct wi_span key)
{
    if (store->bucket_count == 0)
        return NULL;
    uint64_t hash = hash_of(key);
    struct wi_store_entry *entry = store->buckets[hash & (store->bucket_count - 1)];
    while (entry && (entry->hash != hash || entry->key_len != key.len || memcmp(entry->key, key.data, key.len) != 0))
        entry = entry->next;
    return entry;
}

static bool grow(struct wi_store *store)
{
    size_t count = store->bucket_count ? store->bucket_count * 2 : 64;
    struct wi_store_entry **buckets = calloc(count, sizeof(*buckets));
    if (!buckets)
        return false;
    for (size_t i = 0; i < store->bucket_count; i++) {
        for (struct wi_store_entry *entry = store->buckets[i], *next; entry; entry = next) {
            next = entry->next;
            entry->next = buckets[entry->hash & (count - 1)];
            buckets[entry->hash & (count - 1)] = entry;
        }
    }
    free(store->buckets);
    store->buckets = buckets;
    store->bucket_count = count;
    return true;
}

static struct wi_store_entry *find_or_add(struct wi_store *store, struct wi_span key)
{
    struct wi_store_entry *entry = find(store, key);
    if (entry)
        return entry;
    if (store->entry_count >= store->bucket_count && !grow(store))
        return NULL;
    entry = calloc(1, sizeof(*entry) + key.len);
    if (!entry)
        return NULL;
    wi_link_init(&entry->waiters);
    entry->hash = hash_of(key);
    entry->key_len = key.len;
    if (key.len > 0)
        memcpy(entry->key, key.data, key.len);
    struct wi_store_entry **bucket = &store->buckets[entry->hash & (store->bucket_count - 1)];
    entry->next = *bucket;
    *bucket = entry;
    store->entry_count++;
    return entry;
}

static void free_waiter(struct wi_waiter *waiter)
{
    wi_link_remove(&waiter->of_entry);
    wi_link_remove(&waiter->of_owner);
    free(waiter);
}

void wi_store_fini(struct wi_store *store)
{
    for (size_t i = 0; i < store->bucket_count; i++) {
        for (struct wi_store_entry *entry = store->buckets[i], *next; entry; entry = next) {
            next = entry->next;
            while (entry->waiters.next != &entry->waiters)
                free_waiter(WAITER(entry->waiters.next, of_entry));
            free(entry->pieces);
            free(entry->value);
            free(entry);
        }
    }
    free(store->buckets);
    *store = (struct wi_store){0};
}

weir_status wi_store_put(struct wi_store *store, struct wi_span key, struct wi_span value)
{
    struct wi_store_entry *entry = find_or_add(store, key);
    if (!entry)
        return WEIR_ERR_NO_MEMORY;
    if (entry->value)
        return WEIR_ERR_MISMATCH;
    entry->value = malloc(value.len ? value.len : 1);
    if (!entry->value)
        return WEIR_ERR_NO_MEMORY;
    if (value.len > 0)
        memcpy(entry->value, value.data, value.len);
    entry->value_len = value.len;
    return WEIR_OK;
}

bool wi_store_get(const struct wi_store *store, struct wi_span key, struct wi_span *value)
{
    const struct wi_store_entry *entry = find(store, key);
    if (!entry || !entry->value)
        return false;
    *value = (struct wi_span){entry->value, entry->value_len};
    return true;
}

weir_status wi_store_wait(struct wi_store *store, struct wi_span key, void *owner, struct wi_link *waiters,
                          uint32_t request)
{
    struct wi_store_entry *entry = find_or_add(store, key);
    struct wi_waiter *waiter = entry ? malloc(sizeof(*waiter)) : NULL;
    if (!waiter)
        return WEIR_ERR_NO_MEMORY;
    waiter->owner = owner;
    waiter->request = request;
    wi_link_append(&entry->waiters, &waiter->of_entry);
    wi_link_append(waiters, &waiter->of_owner);
    return WEIR_OK;
}

weir_status wi_store_meet(struct wi_store *store, struct wi_span key, uint32_t index, uint32_t count, struct wi_span piece,
                          void *owner, struct wi_link *waiters, uint32_t request)
{
    struct wi_store_entry *entry = find_or_add(store, key);
    if (!entry)
        return WEIR_ERR_NO_MEMORY;
    if (!entry->pieces) {
        entry->pieces = calloc(count, sizeof(*entry->pieces));
        entry->piece_count = count;
        if (!entry->pieces)
            return WEIR_ERR_NO_MEMORY;
    }
    if (entry->piece_count != count || index >= count || entry->pieces[index].data)
        return WEIR_ERR_MISMATCH;
    weir_status status = wi_store_wait(store, key, owner, waiters, request);
    if (status != WEIR_OK)
        return status;
    entry->pieces[index] = piece;
    return ++entry->met == count ? WEIR_OK : WEIR_ERR_AGAIN;
}

const struct wi_span *wi_store_pieces(const struct wi_store *store, struct wi_span key, uint32_t *count)
{
    const struct wi_store_entry *entry = find(store, key);
    *count = entry ? entry->piece_count : 0;
    return entry ? entry->pieces : NULL;
}

weir_status wi_store_append(struct wi_store *store, struct wi_span queue, struct wi_span value,
                            char at[WEIR_BOOT_KEY_MAX + 1])
{
    struct wi_store_entry *entry = find_or_add(store, queue);
    weir_status status = entry ? WEIR_ERR_MISMATCH : WEIR_ERR_NO_MEMORY;
    while (status == WEIR_ERR_MISMATCH) {
        int len = snprintf(at, WEIR_BOOT_KEY_MAX + 1, "%.*s/%u", (int)queue.len, (const char *)queue.data, entry->number);
        if (len > (int)WEIR_BOOT_KEY_MAX)
            return WEIR_ERR_RANGE;
        status = wi_store_put(store, wi_span_text(at), value);
        entry->number += status == WEIR_OK || status == WEIR_ERR_MISMATCH;
    }
    return status;
}

bool wi_store_next_waiter(struct wi_store *store, struct wi_span key, void **owner, uint32_t *request)
{
    struct wi_store_entry *entry = find(store, key);
    if (!entry || entry->waiters.next == &entry->waiters)
        return false;
    struct wi_waiter *waiter = WAITER(entry->waiters.next, of_entry);
    *owner = waiter->owner;
    *request = waiter->request;
    free_waiter(waiter);
    return true;
}

void wi_store_forget(struct wi_link *waiters)
{
    while (waiters->next != waiters)
        free_waiter(WAITER(waiters->next, of_owner));
}
