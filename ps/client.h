/*
 * What the files of the client share.
 *
 * Threads. `lock` guards calls, tables, keys and staging memory; it is never held while waiting. Each link's lock
 * guards its request ring and is held while one frame is written. A thread that waits takes all replies that have come,
 * also those of other threads' calls, so nobody depends on another thread being awake. Order: `lock` before a link's
 * lock.
 */
#ifndef WI_PS_CLIENT_H
#define WI_PS_CLIENT_H

#include "ps/connect.h"
#include "ps/idle.h"
#include "ps/ring.h"
#include "ps/shard_map.h"
#include "transport/lend.h"

#include <pthread.h>

/* The way to one server and back. */
struct wi_ps_link {
    int rank;
    struct wi_ps_remote requests;
    struct wi_ps_hello hello; /* until connected */
    pthread_mutex_t lock;
    struct wi_ps_producer ring; /* under the lock */
    unsigned char *mirror;      /* frames are made here, at the place they have in the ring, and sent from here: a
                                   byte is free again when the server has consumed it */
    weir_mem *mirror_mem;
    bool copies;                     /* the transport reads registered memory only */
    uint32_t *keys;                  /* [key] the generation that the server knows, 0: none */
    bool left;                       /* it has answered the goodbye and may end; atomic */
    struct wi_ps_ring_memory memory; /* replies */
    uint64_t replies;                /* taken so far; atomic, written under the client's lock */
};

/* Elements of a table. */
struct wi_ps_range {
    uint64_t first, count;
};

/* One call of a thread: lives on its stack. */
struct wi_ps_call {
    uint32_t id;               /* 0: not begun */
    uint32_t pending;          /* parts not answered; atomic */
    int32_t status;            /* first error told by a server; atomic */
    struct wi_ps_reply opened; /* OPEN: the reply */
    struct wi_ps_range *done;  /* parts whose weights have come, NULL: not kept; room for all */
    uint32_t done_count;       /* atomic */
};

/* Memory that servers may write weights to, by its number in their tables of keys. */
struct wi_ps_key {
    weir_mem *mem; /* valid while there are users */
    uint64_t mem_id;
    const void *addr;
    size_t len;
    uint32_t users;
    uint32_t generation; /* tells the memory from others that had this number */
    uint64_t last_use;
};

/* Registered memory for callers whose own is not. */
struct wi_ps_staging {
    struct wi_ps_staging *next;
    void *ptr;
    size_t size;
    uint32_t key;
};

struct weir_ps_table {
    struct weir_ps_client *client;
    struct weir_ps_table *next;
    struct wi_ps_open open;
    struct wi_ps_run *runs; /* [server] what it has */
    uint32_t *ids;          /* [server] the table's number there */
    uint64_t begun;         /* BSP: steps pushed, the one on its way included */
    uint64_t pushed;        /* BSP: steps pushed and acknowledged */
    bool pushing;           /* BSP: pushes of one worker go one after the other */
};

struct weir_ps_client {
    weir_ctx *ctx;
    weir_boot *boot;
    weir_pool *pool;
    bool watching;
    bool attending; /* a wait in the bootstrap makes progress */
    /* All servers' writes are made by a device, so landing in the caller's own memory saves a copy. A processor would write
     * there no faster than into staging memory, which is warm, and copied from while more arrives. */
    bool by_device;
    uint32_t servers, workers;
    struct wi_ps_link *links;
    pthread_mutex_t lock;
    struct wi_ps_call *calls[WI_PS_CALLS_MAX];
    uint32_t generation;
    bool opening; /* one opening at a time */
    struct weir_ps_table *tables;
    struct wi_lender lender; /* of keys of memory that servers write to */
    struct wi_ps_key keys[WI_PS_KEYS_MAX];
    uint32_t key_count;
    uint32_t key_generation;
    uint64_t key_clock;
    struct wi_ps_staging *staging; /* free ones */
    int32_t status;                /* what ended the client; atomic, set once under the lock after the sentence */
    char sentence[512];
    uint64_t next_check_ns; /* atomic */
    weir_ps_stats stats;
};

/* One thread's waiting for one thing. All zero at its beginning. */
struct wi_ps_wait {
    uint64_t end_ns;  /* the bound, which starts anew with each sign of life */
    uint32_t pending; /* of the call, when it was last looked at */
    struct wi_ps_idle idle;
};

/* WEIR_OK while the client works, else what ended it, with its sentence. */
weir_status wi_ps_client_status(weir_ps_client *client);

/* Ends the client with this thread's last error, or its cause (wi_ps_fail_job), and
 * tells the job. Returns its status. */
weir_status wi_ps_client_fail(weir_ps_client *client, weir_status status);

/*
 * One turn of waiting: takes replies, else polls or sleeps a little; looks after the job. `what` is for the error at
 * the bound, which starts at the first turn and anew when the call (may be NULL) advances. Without the lock.
 */
weir_status wi_ps_client_turn(weir_ps_client *client, struct wi_ps_wait *wait, const struct wi_ps_call *call,
                              const char *what);

/* Takes a number for a call with `parts` replies to come; `done` is kept. Waits while too many are under way. */
weir_status wi_ps_call_begin(weir_ps_client *client, struct wi_ps_call *call, uint32_t parts);

/* Waits for the replies; the first error of them. */
weir_status wi_ps_call_wait(weir_ps_client *client, struct wi_ps_call *call, const char *what);

/* Gives the number back, whatever happened. */
void wi_ps_call_end(weir_ps_client *client, struct wi_ps_call *call);

/*
 * Writes one frame with up to `max` bytes of payload, at least `min`, as many as there is room for: their number in
 * `*sent`, also in the header. The payload is copied unless `direct`. WEIR_ERR_AGAIN: no room now.
 */
weir_status wi_ps_link_post(struct wi_ps_link *link, struct wi_ps_request *header, const void *payload, uint32_t min,
                            uint32_t max, bool direct, uint32_t *sent);

/* Writes a small frame whole, waiting for room. */
weir_status wi_ps_link_send(weir_ps_client *client, struct wi_ps_link *link, struct wi_ps_request *header,
                            const void *payload, uint32_t len);

/*
 * The number of a key to memory of the caller. `*acquired`: its registration, where it was made for the call; to be given back
 * by weir_mem_release(). WEIR_ERR_KEY, without a sentence: it is not registered, and is better not (or there are too many keys
 * in use): stage. To be released after use.
 */
weir_status wi_ps_key_get(weir_ps_client *client, const void *addr, size_t len, weir_mem **acquired, uint32_t *key);
void wi_ps_key_release(weir_ps_client *client, uint32_t key);

/* Makes the key, which the caller has got, known to a server: to be called before each request that uses it. */
weir_status wi_ps_key_send(weir_ps_client *client, struct wi_ps_link *link, uint32_t key);

/* Registered memory of at least `size` bytes. */
weir_status wi_ps_staging_get(weir_ps_client *client, size_t size, struct wi_ps_staging **staging);
void wi_ps_staging_release(weir_ps_client *client, struct wi_ps_staging *staging);
void wi_ps_staging_free_all(weir_ps_client *client);

#endif
