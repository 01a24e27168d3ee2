/* Connects a process with its partner: endpoint, buffer, key, signal. */
#include "perf.h"

#include <stdlib.h>
#include <string.h>

/* What the two ends tell each other. */
struct hello {
    unsigned char address[WEIR_ADDRESS_MAX], key[WEIR_RKEY_MAX];
    uint64_t address_len, key_len, buffer;
    uint32_t signal;
};

static size_t largest(const struct options *options)
{
    size_t size = 64;
    for (int i = 0; i < options->size_count; i++)
        size = options->sizes[i] > size ? options->sizes[i] : size;
    return (size + 63) / 64 * 64;
}

static weir_status make_buffer(struct pair *pair, struct process *process)
{
    size_t len = 2 * pair->room;
    if (!process->options->ordinary)
        return weir_pool_alloc(process->pool, len, (void **)&pair->buffer, &pair->mem);
    if (posix_memalign((void **)&pair->buffer, 4096, len) != 0)
        return WEIR_ERR_NO_MEMORY;
    return weir_mem_register(process->ctx, pair->buffer, len, &pair->mem);
}

weir_status pair_meet(struct pair *pair, struct process *process)
{
    char word[8];
    size_t len = sizeof(word);
    weir_status status = weir_send(pair->ep, "here", 4);
    while (status == WEIR_OK) {
        weir_ctx_block(process->ctx, 10);
        /* A partner that leaves right after it has met us is no failure: look for its word first. */
        weir_status ended = weir_ep_status(pair->ep);
        weir_status word_status = weir_recv(process->ctx, word, &len, NULL);
        if (word_status != WEIR_ERR_AGAIN)
            return word_status;
        status = ended == WEIR_OK ? weir_boot_check(process->boot) : ended;
    }
    return status;
}

static bool writes_by_itself(const weir_ep *ep)
{
    weir_ep_attr attr;
    weir_ep_query(ep, &attr);
    return strcmp(attr.transport, "shm") == 0;
}

/* One endpoint after the other: the first has met the partner before the second begins. */
static weir_status open_ways(struct pair *pair, struct process *process, const struct hello *theirs)
{
    weir_status status = WEIR_OK;
    pair->way = pair->ways;
    for (size_t i = 0; i < process->options->ways && status == WEIR_OK; i++) {
        struct way *way = &pair->ways[i];
        status = weir_ep_create(process->ctx, theirs->address, theirs->address_len, &way->ep);
        if (status == WEIR_OK)
            status = weir_ep_wait_ready(way->ep, -1);
        if (status == WEIR_OK && i == 0) {
            pair->ep = way->ep;
            pair->shares_memory = writes_by_itself(way->ep);
            status = pair_meet(pair, process);
        }
        if (status == WEIR_OK)
            status = weir_rkey_import(way->ep, theirs->key, theirs->key_len, &way->rkey);
    }
    pair->rkey = pair->ways[0].rkey;
    return status;
}

weir_status pair_init(struct pair *pair, struct process *process)
{
    *pair = (struct pair){.room = largest(process->options)};
    struct hello mine = {.address_len = WEIR_ADDRESS_MAX, .key_len = WEIR_RKEY_MAX};
    struct hello *all = calloc((size_t)process->ranks, sizeof(*all));
    int half = process->ranks / 2;
    pair->first = process->rank < half;
    pair->partner = pair->first ? process->rank + half : process->rank - half;
    weir_status status = all ? make_buffer(pair, process) : WEIR_ERR_NO_MEMORY;
    if (status == WEIR_OK) {
        memset(pair->buffer, 0, 2 * pair->room);
        pair->source = pair->buffer + pair->room;
        if (process->options->unregistered && !(pair->source = pair->unregistered = malloc(pair->room)))
            status = WEIR_ERR_NO_MEMORY;
        mine.buffer = (uintptr_t)pair->buffer;
        pair->source_mem = pair->unregistered ? NULL : pair->mem;
        if (status == WEIR_OK)
            status = weir_signal_create(process->ctx, &pair->signal);
        mine.signal = pair->signal;
    }
    if (status == WEIR_OK)
        status = weir_ctx_address(process->ctx, mine.address, &mine.address_len);
    if (status == WEIR_OK)
        status = weir_mem_export(pair->mem, pair->buffer, 2 * pair->room, mine.key, &mine.key_len);
    if (status == WEIR_OK)
        status = weir_boot_allgather(process->boot, "perf/pair", NULL, 0, &mine, sizeof(mine), all);
    if (status == WEIR_OK) {
        const struct hello *theirs = &all[pair->partner];
        pair->remote = theirs->buffer;
        pair->partner_signal = theirs->signal;
        status = open_ways(pair, process, theirs);
    }
    free(all);
    return status;
}

/* Our last word must arrive, which closing the endpoint would cut off. A partner that has it may be gone: no failure. */
void pair_fini(struct pair *pair, struct process *process)
{
    weir_comp flushed = WEIR_COMP_INIT; /* outlives a wait that runs out of time, until the endpoint is closed */
    if (pair->ep && weir_ep_status(pair->ep) == WEIR_OK && weir_flush(pair->ep, &flushed) == WEIR_OK)
        weir_wait(process->ctx, &flushed, -1);
    for (size_t i = 0; i < WAYS_MAX; i++) {
        weir_rkey_destroy(pair->ways[i].rkey);
        weir_ep_close(pair->ways[i].ep);
    }
    free(pair->unregistered);
    if (process->options->ordinary) {
        weir_mem_deregister(pair->mem);
        free(pair->buffer);
    }
}
