/* A server's part of a table. */
#include "ps/table.h"

#include "core/error.h"
#include "ps/optimizer.h"

#include <stdlib.h>
#include <string.h>

uint64_t wi_ps_store_bytes(const struct wi_ps_open *open, uint32_t server)
{
    struct wi_ps_map map = wi_ps_map_make(open->name, open->count, open->shards, open->servers);
    return wi_ps_map_run(&map, server).count * sizeof(float);
}

static void init_shards(struct wi_ps_store *store)
{
    for (uint32_t i = 0; i < store->run.shards; i++) {
        struct wi_ps_shard *shard = &store->shards[i];
        shard->first = wi_ps_map_start(&store->map, store->run.shard + i);
        shard->count = wi_ps_map_start(&store->map, store->run.shard + i + 1) - shard->first;
        if (shard->count * sizeof(float) > store->copy_size)
            store->copy_size = shard->count * sizeof(float);
    }
    store->copy_size = wi_ps_round_up(store->copy_size);
}

static weir_status init_bsp(struct wi_ps_store *store)
{
    uint32_t workers = store->open.workers;
    store->parts = calloc((size_t)store->run.shards * 2 * workers, sizeof(*store->parts));
    store->sums = calloc(store->run.count, sizeof(float));
    if (!store->parts || !store->sums)
        return wi_error(WEIR_ERR_NO_MEMORY, "table '%s': no memory for the sums of %llu elements", store->open.name,
                        (unsigned long long)store->run.count);
    for (uint32_t i = 0; i < store->run.shards; i++) {
        struct wi_ps_shard *shard = &store->shards[i];
        shard->part = store->parts + (size_t)i * 2 * workers;
        shard->next = shard->part + workers;
        shard->sum = store->sums + (shard->first - store->run.first);
    }
    return WEIR_OK;
}

weir_status wi_ps_store_init(struct wi_ps_store *store, const struct wi_ps_open *open, uint32_t server, float *weights)
{
    *store = (struct wi_ps_store){.open = *open, .weights = weights};
    store->ready_end = &store->ready;
    store->map = wi_ps_map_make(open->name, open->count, open->shards, open->servers);
    store->run = wi_ps_map_run(&store->map, server);
    if (store->run.count == 0)
        return WEIR_OK;
    memset(weights, 0, store->run.count * sizeof(float));
    store->shards = calloc(store->run.shards, sizeof(*store->shards));
    if (!store->shards)
        return wi_error(WEIR_ERR_NO_MEMORY, "table '%s': no memory for %u shards", open->name, store->run.shards);
    init_shards(store);
    weir_status status = open->consistency == WEIR_PS_BSP ? init_bsp(store) : WEIR_OK;
    if (status != WEIR_OK)
        wi_ps_store_fini(store);
    return status;
}

void wi_ps_store_fini(struct wi_ps_store *store)
{
    if (store->parts)
        for (size_t i = 0; i < (size_t)store->run.shards * 2 * store->open.workers; i++)
            free(store->parts[i].kept);
    while (store->spare) {
        void *copy = store->spare;
        memcpy(&store->spare, copy, sizeof(void *));
        free(copy);
    }
    free(store->parts);
    free(store->sums);
    free(store->shards);
    *store = (struct wi_ps_store){0};
}

bool wi_ps_store_has(const struct wi_ps_store *store, uint64_t first, uint64_t count)
{
    const struct wi_ps_run *run = &store->run;
    return first >= run->first && first - run->first < run->count && count <= run->count - (first - run->first);
}

static float *weights_at(const struct wi_ps_store *store, uint64_t element)
{
    return store->weights + (element - store->run.first);
}

void wi_ps_store_set(struct wi_ps_store *store, uint64_t first, const float *weights, uint64_t count)
{
    memcpy(weights_at(store, first), weights, count * sizeof(float));
}

static struct wi_ps_shard *shard_of(const struct wi_ps_store *store, uint64_t element)
{
    return &store->shards[wi_ps_map_shard(&store->map, element) - store->run.shard];
}

/* A copy's memory comes from the spare ones, so that after the first steps none is allocated. */
static weir_status keep(struct wi_ps_store *store, struct wi_ps_part *part, const float *gradient, uint64_t count)
{
    if (!part->kept && store->spare) {
        part->kept = store->spare;
        memcpy(&store->spare, part->kept, sizeof(void *));
    } else if (!part->kept && !(part->kept = aligned_alloc(WI_PS_LINE, store->copy_size))) {
        return wi_error(WEIR_ERR_NO_MEMORY, "table '%s': no memory to keep a gradient", store->open.name);
    }
    memcpy(part->kept + part->got, gradient, count * sizeof(float));
    part->got += count;
    return WEIR_OK;
}

static void drop_copy(struct wi_ps_store *store, struct wi_ps_part *part)
{
    memcpy(part->kept, &store->spare, sizeof(void *));
    store->spare = part->kept;
    part->kept = NULL;
}

/*
 * Adds elements of the worker whose turn it is. The last worker's complete the sum, so they are applied right away:
 * nobody reads the weights of the step before any more, since all others have pushed and wait for this one.
 */
static void add(struct wi_ps_store *store, struct wi_ps_shard *shard, uint64_t offset, const float *gradient,
                uint64_t count)
{
    uint32_t workers = store->open.workers;
    float *sum = shard->sum + offset, *weights = weights_at(store, shard->first + offset);
    float rate = store->open.learning_rate;
    if (workers == 1)
        wi_ps_sgd(weights, gradient, count, rate);
    else if (shard->turn == workers - 1)
        wi_ps_sgd_mean(weights, sum, gradient, count, rate, 1.0f / (float)workers);
    else if (shard->turn == 0)
        memcpy(sum, gradient, count * sizeof(float));
    else
        wi_ps_add(sum, gradient, count);
}

static void wake(struct wi_ps_store *store, struct wi_ps_shard *shard);

/* All workers' parts are in the weights. */
static void end_step(struct wi_ps_store *store, struct wi_ps_shard *shard)
{
    uint32_t workers = store->open.workers;
    struct wi_ps_part *done = shard->part;
    memset(done, 0, workers * sizeof(*done));
    shard->part = shard->next;
    shard->next = done;
    shard->turn = 0;
    shard->step++;
    wake(store, shard);
}

/* Adds what has been kept, worker by worker, as far as the parts are complete; steps on when all are. */
static void take_turns(struct wi_ps_store *store, struct wi_ps_shard *shard)
{
    for (;;) {
        if (shard->turn == store->open.workers)
            end_step(store, shard);
        struct wi_ps_part *part = &shard->part[shard->turn];
        if (part->kept) {
            add(store, shard, 0, part->kept, part->got);
            drop_copy(store, part);
        }
        if (part->got < shard->count)
            return;
        shard->turn++;
    }
}

/* Elements [offset, offset + count) of a shard, from a worker. */
static weir_status push_bsp(struct wi_ps_store *store, struct wi_ps_shard *shard, uint32_t worker, uint64_t step,
                            uint64_t offset, const float *gradient, uint64_t count)
{
    bool running = step == shard->step + 1;
    struct wi_ps_part *part = running ? &shard->part[worker] : &shard->next[worker];
    if (!running && (step != shard->step + 2 || shard->part[worker].got < shard->count))
        return wi_error(WEIR_ERR_PROTOCOL, "worker %u pushed step %llu of table '%s', which is at %llu", worker,
                        (unsigned long long)step, store->open.name, (unsigned long long)shard->step);
    if (offset != part->got)
        return wi_error(WEIR_ERR_PROTOCOL, "worker %u pushed element %llu of a shard of table '%s', not %llu", worker,
                        (unsigned long long)offset, store->open.name, (unsigned long long)part->got);
    if (!running || shard->turn != worker)
        return keep(store, part, gradient, count);
    add(store, shard, offset, gradient, count);
    part->got += count;
    if (part->got == shard->count)
        take_turns(store, shard);
    return WEIR_OK;
}

weir_status wi_ps_store_push(struct wi_ps_store *store, uint32_t worker, uint64_t step, uint64_t first,
                             const float *gradient, uint64_t count)
{
    if (store->open.consistency == WEIR_PS_ASYNC) {
        wi_ps_sgd(weights_at(store, first), gradient, count, store->open.learning_rate);
        return WEIR_OK;
    }
    weir_status status = WEIR_OK;
    while (count > 0 && status == WEIR_OK) {
        struct wi_ps_shard *shard = shard_of(store, first);
        uint64_t offset = first - shard->first;
        uint64_t here = shard->count - offset < count ? shard->count - offset : count;
        status = push_bsp(store, shard, worker, step, offset, gradient, here);
        first += here;
        gradient += here;
        count -= here;
    }
    return status;
}

/* Goes on to the first shard that has not reached the step. True: there is none. */
static bool advance(struct wi_ps_store *store, struct wi_ps_waiter *waiter)
{
    for (; waiter->shard <= waiter->last; waiter->shard++) {
        const struct wi_ps_shard *shard = &store->shards[waiter->shard - store->run.shard];
        if (shard->count > 0 && shard->step < waiter->step)
            return false;
    }
    return true;
}

static void park(struct wi_ps_store *store, struct wi_ps_waiter *waiter)
{
    struct wi_ps_shard *shard = &store->shards[waiter->shard - store->run.shard];
    waiter->next = shard->waiters;
    shard->waiters = waiter;
}

/* A shard has made a step: each that waits there is done or waits at a later shard. */
static void wake(struct wi_ps_store *store, struct wi_ps_shard *shard)
{
    struct wi_ps_waiter *waiter = shard->waiters;
    shard->waiters = NULL;
    while (waiter) {
        struct wi_ps_waiter *next = waiter->next;
        if (!advance(store, waiter)) {
            park(store, waiter);
        } else {
            waiter->next = NULL;
            *store->ready_end = waiter;
            store->ready_end = &waiter->next;
        }
        waiter = next;
    }
}

bool wi_ps_store_wait(struct wi_ps_store *store, struct wi_ps_waiter *waiter, uint64_t first, uint64_t count,
                      uint64_t step)
{
    waiter->shard = wi_ps_map_shard(&store->map, first);
    waiter->last = wi_ps_map_shard(&store->map, first + count - 1);
    waiter->step = step;
    if (advance(store, waiter))
        return true;
    park(store, waiter);
    return false;
}

struct wi_ps_waiter *wi_ps_store_ready(struct wi_ps_store *store)
{
    struct wi_ps_waiter *waiter = store->ready;
    if (waiter && !(store->ready = waiter->next))
        store->ready_end = &store->ready;
    return waiter;
}
