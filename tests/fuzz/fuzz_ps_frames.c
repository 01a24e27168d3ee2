/*
 * Fuzzes what a parameter server does with the frames of its clients: two of them write near-right frames to tables of
 * both kinds, over a transport that only looks whether the memory it is given may be read. A frame that is refused ends
 * the input, as it ends the client.
 */
#include "ps/server.h"

#include <stdlib.h>
#include <string.h>

enum { RING = 8192, COUNT = 1000, WORKERS = 2, BASE = 1 << 20, REMOTE = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- The transport ----------------------------------------------------------------------------------------------- */

struct weir_rkey {
    uint64_t addr, len;
};

static void check(bool good)
{
    if (!good)
        __builtin_trap();
}

weir_status weir_put(weir_ep *ep, const void *local, weir_mem *mem, size_t len, uint64_t remote_addr, weir_rkey *rkey,
                     weir_comp *comp)
{
    (void)ep, (void)mem, (void)comp;
    void *copy = malloc(len);
    memcpy(copy, local, len); /* the sanitizer sees what is beyond the weights */
    free(copy);
    check(remote_addr >= rkey->addr && remote_addr - rkey->addr <= rkey->len &&
          len <= rkey->len - (remote_addr - rkey->addr));
    return WEIR_OK;
}

weir_status weir_put_signal(weir_ep *ep, const void *local, weir_mem *mem, size_t len, uint64_t remote_addr,
                            weir_rkey *rkey, uint32_t signal, weir_comp *comp)
{
    (void)ep, (void)mem, (void)rkey, (void)signal, (void)comp;
    check(len == sizeof(struct wi_ps_reply) && remote_addr < WI_PS_REPLIES * sizeof(struct wi_ps_reply));
    return wi_ps_reply_check(local, ((const struct wi_ps_reply *)local)->sequence) ? WEIR_ERR_PROTOCOL : WEIR_OK;
}

weir_status weir_test(const weir_comp *comp)
{
    return comp->pending ? WEIR_ERR_AGAIN : WEIR_OK;
}

weir_status weir_wait(weir_ctx *ctx, weir_comp *comp, int timeout_ms)
{
    (void)ctx, (void)timeout_ms;
    return weir_test(comp);
}

static unsigned rkeys; /* that there are */

weir_status weir_rkey_import(weir_ep *ep, const void *blob, size_t blob_len, weir_rkey **rkey)
{
    (void)ep, (void)blob;
    *rkey = malloc(sizeof(**rkey));
    **rkey = (weir_rkey){BASE, blob_len < 8 ? 0 : REMOTE};
    rkeys++;
    return WEIR_OK;
}

void weir_rkey_destroy(weir_rkey *rkey)
{
    rkeys -= rkey != NULL;
    free(rkey);
}

void weir_rkey_range(const weir_rkey *rkey, uint64_t *addr, uint64_t *len)
{
    *addr = rkey->addr;
    *len = rkey->len;
}

weir_status weir_pool_alloc(weir_pool *pool, size_t size, void **ptr, weir_mem **mem)
{
    (void)pool;
    *mem = NULL;
    *ptr = size < 1 << 20 ? malloc(size) : NULL;
    return *ptr ? WEIR_OK : WEIR_ERR_NO_MEMORY;
}

void weir_pool_free(weir_pool *pool, void *ptr)
{
    (void)pool;
    free(ptr);
}

/* ---- The server -------------------------------------------------------------------------------------------------- */

/* The large memory of each client is the same in each run: to make it takes longer than all else. */
static struct {
    unsigned char *ring;
    struct wi_ps_reply *outgoing; /* written before it is read */
    weir_comp *sent;              /* stay as they are: this transport ends all at once */
} kept[WORKERS];

static void begin(weir_ps_server *server)
{
    *server = (weir_ps_server){.servers = 2, .workers = WORKERS, .live = WORKERS};
    server->peers = calloc(WORKERS, sizeof(*server->peers));
    for (int i = 0; i < WORKERS; i++) {
        if (!kept[i].ring) {
            kept[i].ring = malloc(RING);
            kept[i].outgoing = malloc(WI_PS_REPLIES * sizeof(*kept[i].outgoing));
            kept[i].sent = calloc(WI_PS_REPLIES, sizeof(*kept[i].sent));
        }
        memset(kept[i].ring, 0, RING);
        struct wi_ps_peer *peer = &server->peers[i];
        peer->rank = i;
        peer->memory.base = kept[i].ring;
        peer->ring = (struct wi_ps_consumer){.base = peer->memory.base, .size = RING};
        peer->outgoing = kept[i].outgoing;
        peer->sent = kept[i].sent;
        peer->sequence = 1;
    }
}

static void free_list(struct wi_ps_pending *pending)
{
    while (pending) {
        struct wi_ps_pending *next = pending->next;
        free(pending);
        pending = next;
    }
}

static void free_table(struct wi_ps_dense *table)
{
    for (uint32_t i = 0; table->store.shards && i < table->store.run.shards; i++) {
        for (struct wi_ps_waiter *next, *waiter = table->store.shards[i].waiters; waiter; waiter = next) {
            next = waiter->next;
            free(waiter);
        }
    }
    for (struct wi_ps_waiter *waiter; (waiter = wi_ps_store_ready(&table->store));)
        free(waiter);
    free(table->store.weights);
    wi_ps_store_fini(&table->store);
    free(table);
}

static void end(weir_ps_server *server)
{
    for (int i = 0; i < WORKERS; i++) {
        struct wi_ps_peer *peer = &server->peers[i];
        for (uint32_t k = 0; k < WI_PS_KEYS_MAX && rkeys > 0; k++)
            weir_rkey_destroy(peer->keys[k]);
    }
    for (uint32_t i = 0; i < server->table_count; i++)
        free_table(server->tables[i]);
    check(rkeys == 0);
    free_list(server->spare);
    free_list(server->barriers);
    free(server->tables);
    free(server->peers);
}

/* ---- The clients ------------------------------------------------------------------------------------------------- */

/* Writes a frame where the next is read, and lets the server have it. False: it was refused. */
static bool deliver(weir_ps_server *server, struct wi_ps_peer *peer, struct wi_ps_request *request, const void *payload,
                    size_t len)
{
    uint64_t at = peer->ring.tail % RING;
    memcpy(peer->memory.base + at, request, sizeof(*request));
    if (len <= RING - at - sizeof(*request))
        memcpy(peer->memory.base + at + sizeof(*request), payload, len);
    struct wi_ps_request read;
    const void *bytes;
    return !peer->gone && !wi_ps_ring_read(&peer->ring, &read, &bytes) &&
           wi_ps_serve_frame(server, peer, &read, bytes) == WEIR_OK;
}

static struct wi_ps_open opening(int kind, const uint8_t *word)
{
    struct wi_ps_open open = {.count = kind < 2 ? COUNT : word[4] * 8u,
                              .shards = kind < 2 ? 8 : word[5],
                              .learning_rate = 0.5f,
                              .workers = WORKERS,
                              .servers = 2,
                              .consistency = kind & 1};
    open.name[0] = (char)('a' + kind);
    return open;
}

/* 16 bytes of input make one frame; the last two change any byte of it. */
static bool one_frame(weir_ps_server *server, const uint8_t *word)
{
    struct wi_ps_peer *peer = &server->peers[word[0] & 1];
    struct wi_ps_request request = {
        .magic = WI_PS_MAGIC,
        .version = WI_PS_VERSION,
        .op = word[1] % 10,
        .position = peer->ring.tail,
        .table = word[2] % 3,
        .key = word[3] % 4,
        .addr = BASE + word[4] * 16u,
        .part_first = word[5] * 4u,
        .part_count = 1 + word[6] * 4u,
        .offset = word[7],
        .payload = word[8] * 16u + word[9] % 8u * 4u,
        .step = word[10] % 4,
    };
    struct wi_ps_open open = opening(word[11] % 4, word);
    float gradient[COUNT + 100] = {0};
    const void *payload = gradient;
    if (request.op == WI_PS_OPEN) {
        request.payload = sizeof(open);
        payload = &open;
    } else if (request.op == WI_PS_PAD) {
        request.payload = (uint32_t)(RING - peer->ring.tail % RING - WI_PS_LINE);
    } else if (request.op == WI_PS_PULL || request.op == WI_PS_BARRIER || request.op == WI_PS_BYE) {
        request.payload = request.offset = 0;
    }
    ((uint8_t *)&request)[word[12] % sizeof(request)] ^= word[13];
    ((uint8_t *)&open)[word[14] % sizeof(open)] ^= word[15];
    return deliver(server, peer, &request, payload, request.payload < sizeof(open) ? request.payload : sizeof(open));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    weir_ps_server server;
    begin(&server);
    static const uint8_t tables[2][16] = {{0, WI_PS_OPEN}, {[1] = WI_PS_OPEN, [11] = 1}};
    check(one_frame(&server, tables[0]) && one_frame(&server, tables[1]));
    for (size_t at = 0; at + 16 <= size && one_frame(&server, data + at); at += 16)
        continue;
    end(&server);
    return 0;
}
