/*
 * The parameter server over the simulated network: no update is lost or applied twice, what was acknowledged is in the
 * table, pulls see what they were promised, and when a rank dies all others get an error in time.
 *
 * A push adds its worker's digit to some of the elements, which ones its number says; so the value of an element tells
 * how many pushes of each worker are in it, and whether they are those that belong there.
 */
#include "boot.h"
#include "seeds.h"

#include "ps/server.h"

#include <stddef.h>
#include <string.h>

enum { ASYNC, BSP, TABLES, COUNT_MAX = AREA / sizeof(float), PUSHES_MAX = 15, RUSH = 40 };

static const struct {
    const char *name;
    unsigned bits; /* of a worker's digit */
} kinds[TABLES] = {{"async", 4}, {"bsp", 3}};

struct table {
    uint64_t seed;
    unsigned count, pushes; /* elements; of each worker */
    bool set;               /* it does not begin with zeros */
    unsigned begun[RANKS], acked[RANKS];
};

/* Of the whole job, which runs in this process. */
static struct {
    struct boot_job job;
    int workers, workers_left;
    bool set; /* the tables have what they begin with */
    uint64_t last_left_ns;
    unsigned broken;
    struct table tables[TABLES];
} ps;

/* ---- What an element must be ------------------------------------------------------------------------------------- */

/* Which pushes of a worker change the element, a bit each. */
static unsigned marks(const struct table *t, uint64_t element, int worker)
{
    return (unsigned)wi_sim_mix(t->seed + element * RANKS + (uint64_t)worker) & ((1u << PUSHES_MAX) - 1);
}

static unsigned marks_until(const struct table *t, uint64_t element, int worker, unsigned pushes)
{
    return (unsigned)__builtin_popcount(marks(t, element, worker) & ((1u << pushes) - 1));
}

static unsigned first_value(const struct table *t, int kind, uint64_t element)
{
    return t->set ? (unsigned)(element & 1) << kinds[kind].bits * (unsigned)ps.workers : 0;
}

/* How many pushes of each worker may be in a table. */
struct window {
    unsigned low[RANKS], high[RANKS];
};

/* Is the element within it? What is wrong with it, or NULL. */
static const char *wrong_element(const struct table *t, int kind, uint64_t element, float weight,
                                 const struct window *window)
{
    unsigned bits = kinds[kind].bits, mask = (1u << bits) - 1;
    if (!(weight > -0.25f && weight < (float)(1 << 24)))
        return "is no sum of gradients";
    unsigned value = (unsigned)(weight + 0.5f);
    float rounded = weight - (float)value;
    if (rounded > 0.25f || rounded < -0.25f)
        return "is no sum of gradients";
    for (int w = 0; w < ps.workers; w++) {
        unsigned digit = value >> bits * (unsigned)w & mask;
        if (digit < marks_until(t, element, w, window->low[w]))
            return "lacks a push that was acknowledged";
        if (digit > marks_until(t, element, w, window->high[w]))
            return "has a push twice, or one that was not made";
    }
    if (value >> bits * (unsigned)ps.workers != first_value(t, kind, element) >> bits * (unsigned)ps.workers)
        return "does not begin with what it was set to";
    return NULL;
}

static bool check_weights(struct node *n, int kind, uint64_t first, const float *weights, uint64_t count,
                          const struct window *window)
{
    for (uint64_t i = 0; i < count; i++) {
        const char *wrong = wrong_element(&ps.tables[kind], kind, first + i, weights[i], window);
        if (!wrong)
            continue;
        run_failed(n->run, "rank %d: table %s: element %llu, %g, %s", n->rank, kinds[kind].name,
                   (unsigned long long)(first + i), (double)weights[i], wrong);
        return false;
    }
    return true;
}

/* ---- Workers ----------------------------------------------------------------------------------------------------- */

/* Under BSP the mean of the gradients is applied: the rate makes it their sum again. */
static bool open_tables(struct node *n, weir_ps_client *client, weir_ps_table **tables)
{
    bool good = true;
    for (int kind = 0; kind < TABLES && good; kind++) {
        weir_ps_table_params params = {.size = sizeof(params),
                                       .name = kinds[kind].name,
                                       .count = ps.tables[kind].count,
                                       .consistency = kind == BSP ? WEIR_PS_BSP : WEIR_PS_ASYNC,
                                       .learning_rate = kind == BSP ? (float)ps.workers : 1};
        uint64_t since_ns = wi_sim_now(n->run->world);
        good = wait_ok(n, "open", weir_ps_table_open(client, &params, &tables[kind]), since_ns);
    }
    return good;
}

static bool set_tables(struct node *n, weir_ps_table **tables)
{
    float *weights = (float *)(void *)n->local;
    bool good = true;
    for (int kind = 0; kind < TABLES && good; kind++) {
        const struct table *t = &ps.tables[kind];
        uint64_t since_ns = wi_sim_now(n->run->world);
        for (unsigned i = 0; i < t->count; i++)
            weights[i] = (float)first_value(t, kind, i);
        good = !t->set || wait_ok(n, "init", weir_ps_init(tables[kind], weights), since_ns);
    }
    return good;
}

static void make_gradient(const struct node *n, int kind, unsigned push)
{
    float *gradient = (float *)(void *)n->local;
    float digit = (float)(1u << kinds[kind].bits * (unsigned)n->rank);
    for (unsigned i = 0; i < ps.tables[kind].count; i++) /* tables subtract */
        gradient[i] = marks(&ps.tables[kind], i, n->rank) >> (push - 1) & 1 ? -digit : 0;
}

/* What the weights of a pull may be, as far as it is known before it begins; a push_pull has its own push in it. */
static void look_before(const struct node *n, int kind, bool pushed, struct window *window)
{
    const struct table *t = &ps.tables[kind];
    for (int w = 0; w < ps.workers; w++)
        window->low[w] = kind == BSP ? t->begun[n->rank] : t->acked[w];
    if (pushed)
        window->low[n->rank] = t->begun[n->rank];
}

static void look_after(int kind, struct window *window)
{
    for (int w = 0; w < ps.workers; w++)
        window->high[w] = kind == BSP ? window->low[w] : ps.tables[kind].begun[w];
}

/* One call: a push, a pull, or both. */
static bool call(struct node *n, int kind, weir_ps_table *table, bool push, bool pull)
{
    static const char *const names[] = {"pull", "push", "push_pull"};
    struct table *t = &ps.tables[kind];
    float *gradient = (float *)(void *)n->local, *weights = (float *)(void *)n->area;
    struct window window;
    uint64_t since_ns = wi_sim_now(n->run->world);
    if (push)
        make_gradient(n, kind, ++t->begun[n->rank]);
    look_before(n, kind, push, &window);
    weir_status status = !pull  ? weir_ps_push(table, gradient)
                         : push ? weir_ps_push_pull(table, gradient, weights)
                                : weir_ps_pull(table, weights);
    if (!wait_ok(n, names[push + (push && pull)], status, since_ns))
        return false;
    t->acked[n->rank] = t->begun[n->rank];
    look_after(kind, &window);
    return !pull || check_weights(n, kind, 0, weights, t->count, &window);
}

/* All pushes to both tables, in an order of its own, and pulls between. */
static bool work(struct node *n, weir_ps_table **tables)
{
    bool good = true;
    for (;;) {
        unsigned left[TABLES];
        for (int kind = 0; kind < TABLES; kind++)
            left[kind] = ps.tables[kind].pushes - ps.tables[kind].begun[n->rank];
        if (!good || left[ASYNC] + left[BSP] == 0)
            return good;
        int kind = wi_sim_between(&n->random, 1, left[ASYNC] + left[BSP]) <= left[ASYNC] ? ASYNC : BSP;
        uint64_t what = wi_sim_between(&n->random, 0, 4);
        good = call(n, kind, tables[kind], what > 0, what < 2);
        if (good && wi_sim_between(&n->random, 0, 9) == 0)
            wi_sim_sleep(n->run->world, wi_sim_between(&n->random, 0, 300000));
    }
}

static bool barrier(struct node *n, weir_ps_client *client)
{
    uint64_t since_ns = wi_sim_now(n->run->world);
    return wait_ok(n, "barrier", weir_ps_barrier(client), since_ns);
}

static void worker(struct node *n, weir_boot *boot)
{
    weir_ps_client *client = NULL;
    weir_ps_table *tables[TABLES];
    uint64_t since_ns = wi_sim_now(n->run->world);
    bool good = wait_ok(n, "client", weir_ps_client_create(n->ctx, boot, &client), since_ns);
    good = good && open_tables(n, client, tables);
    if (good && n->rank == 0)
        good = set_tables(n, tables);
    good = good && barrier(n, client);
    ps.set |= good;
    good = good && work(n, tables) && barrier(n, client);
    for (int kind = 0; kind < TABLES && good; kind++) /* all is in now */
        good = call(n, kind, tables[kind], false, true);
    weir_ps_client_destroy(client);
    ps.workers_left--;
    ps.last_left_ns = wi_sim_now(n->run->world);
}

/* ---- Servers ----------------------------------------------------------------------------------------------------- */

/* Steps that a part of a shard may have seen: a step that is under way may be in some of its elements. */
static void window_of_shard(const struct table *t, const struct wi_ps_shard *shard, struct window *window)
{
    unsigned step = (unsigned)shard->step, begun = PUSHES_MAX;
    for (int w = 0; w < ps.workers; w++)
        begun = t->begun[w] < begun ? t->begun[w] : begun;
    for (int w = 0; w < ps.workers; w++) {
        window->low[w] = step;
        window->high[w] = step < begun ? step + 1 : step;
    }
}

static void check_shard(struct node *n, const struct wi_ps_store *store, const struct wi_ps_shard *shard)
{
    const float *weights = store->weights + (shard->first - store->run.first);
    const struct table *t = &ps.tables[store->open.consistency == WEIR_PS_BSP];
    struct window window;
    if (store->open.consistency == WEIR_PS_ASYNC) {
        memcpy(window.low, t->acked, sizeof(window.low));
        memcpy(window.high, t->begun, sizeof(window.high));
        check_weights(n, ASYNC, shard->first, weights, shard->count, &window);
        return;
    }
    for (int w = 0; w < ps.workers && shard->count > 0; w++)
        if (shard->step + 1 < t->acked[w] || shard->step > t->begun[w])
            run_failed(n->run, "rank %d: element %llu has had %llu steps; worker %d began %u, %u are acknowledged",
                       n->rank, (unsigned long long)shard->first, (unsigned long long)shard->step, w, t->begun[w],
                       t->acked[w]);
    window_of_shard(t, shard, &window);
    check_weights(n, BSP, shard->first, weights, shard->count, &window);
}

/* Whatever has happened, the tables have what was acknowledged. */
static void check_tables(struct node *n, const weir_ps_server *server)
{
    for (uint32_t i = 0; i < server->table_count && ps.set; i++) {
        const struct wi_ps_store *store = &server->tables[i]->store;
        for (uint32_t k = 0; k < store->run.shards && store->run.count > 0; k++)
            check_shard(n, store, &store->shards[k]);
    }
}

static void serve(struct node *n, weir_boot *boot)
{
    weir_ps_server *server = NULL;
    uint64_t since_ns = wi_sim_now(n->run->world);
    if (!wait_ok(n, "server", weir_ps_server_create(n->ctx, boot, &server), since_ns))
        return;
    weir_status status = weir_ps_server_run(server);
    since_ns = ps.workers_left > 0 ? wi_sim_now(n->run->world) : ps.last_left_ns;
    wait_ok(n, "the end of serving", status, since_ns);
    check_tables(n, server);
    weir_ps_server_destroy(server);
}

/* ---- The protocol ------------------------------------------------------------------------------------------------ */

void ps_body(struct node *n)
{
    weir_ctx_params params = {.size = sizeof(params), .id = (uint64_t)n->rank, .transport = "sim", .signals = 64};
    weir_boot boot = {&ps.job, n->rank};
    bool good = call_ok(n, "context", weir_ctx_create(&params, &n->ctx));
    if (good && wi_sim_between(&n->random, 0, 1)) /* else they are ordinary memory */
        good = call_ok(n, "register", weir_mem_register(n->ctx, n->local, AREA, &n->local_mem)) &&
               call_ok(n, "register", weir_mem_register(n->ctx, n->area, AREA, &n->area_mem));
    if (good && n->rank < ps.workers)
        worker(n, &boot);
    else if (good)
        serve(n, &boot);
    weir_ctx_destroy(n->ctx);
}

void ps_begin(struct run *run)
{
    uint64_t *random = &run->random;
    int servers = (int)wi_sim_between(random, 1, run->ranks > 2 ? 2 : 1);
    boot_begin(&ps.job, run, servers);
    ps.workers = ps.workers_left = run->ranks - servers;
    ps.set = false;
    ps.broken = run->params.broken;
    bool large = wi_sim_between(random, 0, RUSH) == 0;
    for (int kind = 0; kind < TABLES; kind++) {
        struct table *t = &ps.tables[kind];
        *t = (struct table){.seed = wi_sim_draw(random), .set = wi_sim_draw(random) % 2};
        t->count = (unsigned)wi_sim_between(random, 1, large ? COUNT_MAX : 300);
        t->pushes = (unsigned)wi_sim_between(random, 1, large ? (1u << kinds[kind].bits) - 1 : 4);
    }
}

/* ---- Bugs -------------------------------------------------------------------------------------------------------- */

/* The linker gives sim_seeds these in place of the library's (CMakeLists.txt). */
weir_status __real_wi_ps_store_push(struct wi_ps_store *store, uint32_t worker, uint64_t step, uint64_t first,
                                    const float *gradient, uint64_t count);
weir_status __wrap_wi_ps_store_push(struct wi_ps_store *store, uint32_t worker, uint64_t step, uint64_t first,
                                    const float *gradient, uint64_t count);
bool __real_wi_ps_store_wait(struct wi_ps_store *store, struct wi_ps_waiter *waiter, uint64_t first, uint64_t count,
                             uint64_t step);
bool __wrap_wi_ps_store_wait(struct wi_ps_store *store, struct wi_ps_waiter *waiter, uint64_t first, uint64_t count,
                             uint64_t step);

weir_status __wrap_wi_ps_store_push(struct wi_ps_store *store, uint32_t worker, uint64_t step, uint64_t first,
                                    const float *gradient, uint64_t count)
{
    bool at_fault = store->open.consistency == WEIR_PS_ASYNC && first == 0;
    if (at_fault && ps.broken & BREAK_PS_LOST)
        return WEIR_OK;
    if (at_fault && ps.broken & BREAK_PS_TWICE)
        __real_wi_ps_store_push(store, worker, step, first, gradient, count);
    return __real_wi_ps_store_push(store, worker, step, first, gradient, count);
}

bool __wrap_wi_ps_store_wait(struct wi_ps_store *store, struct wi_ps_waiter *waiter, uint64_t first, uint64_t count,
                             uint64_t step)
{
    return ps.broken & BREAK_PS_EARLY || __real_wi_ps_store_wait(store, waiter, first, count, step);
}
