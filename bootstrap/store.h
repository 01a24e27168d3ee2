/*
 * The table of keys: values written once, and who waits for which. Plain data, no sockets, one owner.
 *
 * A waiter is a request of a client that its owner wants answered when the key gets its value; `owner` links all
 * waiters of one client so that they can be dropped together.
 */
#ifndef WI_BOOTSTRAP_STORE_H
#define WI_BOOTSTRAP_STORE_H

#include "bootstrap/wire.h"

/* A ring of links; an empty one points to itself. */
struct wi_link {
    struct wi_link *prev;
    struct wi_link *next;
};

void wi_link_init(struct wi_link *head);
void wi_link_append(struct wi_link *head, struct wi_link *link);
void wi_link_remove(struct wi_link *link);

struct wi_store_entry;

struct wi_store {
    struct wi_store_entry **buckets;
    size_t bucket_count; /* a power of two, or 0 */
    size_t entry_count;
};

struct wi_waiter {
    struct wi_link of_entry;
    struct wi_link of_owner;
    void *owner;
    uint32_t request;
};

/* In place; a zeroed store is an empty one. fini frees values and waiters. */
void wi_store_fini(struct wi_store *store);

/* Stores a copy of the value. Errors: WEIR_ERR_MISMATCH (the key has one already), WEIR_ERR_NO_MEMORY. */
weir_status wi_store_put(struct wi_store *store, struct wi_span key, struct wi_span value);

/* The key's value, valid until fini; false when it has none yet. */
bool wi_store_get(const struct wi_store *store, struct wi_span key, struct wi_span *value);

/* Adds a waiter to the key and to its owner's ring `waiters`. */
weir_status wi_store_wait(struct wi_store *store, struct wi_span key, void *owner, struct wi_link *waiters,
                          uint32_t request);

/*
 * One more has come to the meeting that the key names, of `count`, with a piece, its number `index`, whose bytes must live as long
 * as the store. Adds it to the waiters; WEIR_OK: all have come; WEIR_ERR_AGAIN: not all. Meetings are kept in a store of their
 * own, which has no values. Errors: WEIR_ERR_MISMATCH (there is such a piece already, or the others are of another number),
 * WEIR_ERR_NO_MEMORY.
 */
weir_status wi_store_meet(struct wi_store *store, struct wi_span key, uint32_t index, uint32_t count, struct wi_span piece,
                          void *owner, struct wi_link *waiters, uint32_t request);

/* The pieces of a meeting, by number; without data: it has not come. NULL: there is no such meeting. Valid until fini. */
const struct wi_span *wi_store_pieces(const struct wi_store *store, struct wi_span key, uint32_t *count);

/*
 * Stores a copy of the value under the first of the keys QUEUE/0, QUEUE/1, ... that has none, in time that does not grow
 * with them; `at` is that key. Errors: WEIR_ERR_RANGE (the name is too long), WEIR_ERR_NO_MEMORY.
 */
weir_status wi_store_append(struct wi_store *store, struct wi_span queue, struct wi_span value,
                            char at[WEIR_BOOT_KEY_MAX + 1]);

/* Takes one waiter off the key, for whoever stored the value; false when none is left. */
bool wi_store_next_waiter(struct wi_store *store, struct wi_span key, void **owner, uint32_t *request);

/* Drops all waiters of the ring. */
void wi_store_forget(struct wi_link *waiters);

#endif
