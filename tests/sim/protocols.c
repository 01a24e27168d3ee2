/* What is run by the thousands: each protocol above the simulated network, with what it promises. */
#include "seeds.h"

#include <string.h>

enum { DONE = 1000 };

static uint64_t draw(struct node *n, uint64_t low, uint64_t high)
{
    return wi_sim_between(&n->random, low, high);
}

static uint64_t now(const struct node *n)
{
    return wi_sim_now(n->run->world);
}

/* ---- Ranks ------------------------------------------------------------------------------------------------------- */

static bool open_rank(struct node *n)
{
    weir_ctx_params params = {.size = sizeof(params), .id = (uint64_t)n->rank, .transport = "sim", .signals = 16};
    n->address_len = sizeof(n->address);
    n->key_len = sizeof(n->key);
    return call_ok(n, "context", weir_ctx_create(&params, &n->ctx)) &&
           call_ok(n, "register", weir_mem_register(n->ctx, n->area, AREA, &n->area_mem)) &&
           call_ok(n, "register", weir_mem_register(n->ctx, n->local, AREA, &n->local_mem)) &&
           call_ok(n, "signal", weir_signal_create(n->ctx, &n->signal)) &&
           call_ok(n, "export", weir_mem_export(n->area_mem, n->area, AREA, n->key, &n->key_len)) &&
           call_ok(n, "address", weir_ctx_address(n->ctx, n->address, &n->address_len));
}

/* Waits until all have come as far, or are through. */
static void meet(struct node *n, int phase)
{
    n->phase = phase;
    for (int i = 0; i < n->run->ranks; i++)
        while (n->run->node[i].phase < phase && !n->run->failure[0])
            weir_ctx_block(n->ctx, 1);
}

static void close_rank(struct node *n)
{
    n->phase = DONE;
    for (int i = 0; i < n->run->ranks; i++)
        weir_ep_close(n->ep[i]);
    weir_ctx_destroy(n->ctx);
}

static bool make_ep(struct node *n, int peer)
{
    const struct node *to = &n->run->node[peer];
    return call_ok(n, "endpoint", weir_ep_create(n->ctx, to->address, to->address_len, &n->ep[peer]));
}

/* Waits for all that was posted to have arrived. */
static bool flush(struct node *n, int peer)
{
    weir_comp comp = WEIR_COMP_INIT;
    uint64_t since_ns = now(n);
    weir_status status = weir_flush(n->ep[peer], &comp);
    if (status == WEIR_OK)
        status = weir_wait(n->ctx, &comp, -1);
    bool good = wait_ok(n, "flush", status, since_ns);
    if (comp.pending > 0) { /* it lies on our stack */
        weir_ep_close(n->ep[peer]);
        n->ep[peer] = NULL;
    }
    return good;
}

static void pause_at_random(struct node *n)
{
    if (draw(n, 0, 3) == 0)
        wi_sim_sleep(n->run->world, draw(n, 0, 300000));
}

/* ---- connect: lazily, both sides at once, closed and made again -------------------------------------------------- */

static bool visit(struct node *n, int peer)
{
    uint64_t since_ns = now(n);
    if (!make_ep(n, peer))
        return false;
    bool good = draw(n, 0, 1) || wait_ok(n, "connecting", weir_ep_wait_ready(n->ep[peer], -1), since_ns);
    if (good) {
        weir_status status = weir_put_signal(n->ep[peer], NULL, NULL, 0, 0, NULL, n->run->node[peer].signal, NULL);
        n->posted[peer] += status == WEIR_OK;
        good = wait_ok(n, "put_signal", status, since_ns);
    }
    if (good && (good = flush(n, peer)))
        n->arrived[peer]++;
    weir_ep_close(n->ep[peer]);
    n->ep[peer] = NULL;
    return good;
}

static uint64_t draw_shared(const struct run *run, uint64_t low, uint64_t high)
{
    uint64_t state = run->seed;
    return wi_sim_between(&state, low, high);
}

static void connect_body(struct node *n)
{
    bool good = open_rank(n);
    meet(n, 1);
    for (uint64_t i = draw(n, 1, 4); good && i > 0; i--) {
        pause_at_random(n);
        good = visit(n, (int)draw(n, 0, (uint64_t)n->run->ranks - 1));
    }
    meet(n, 2);
    n->told[0] = weir_signal_read(n->ctx, n->signal);
    close_rank(n);
}

/* Each signal that was known to have arrived did, and none came twice. */
static void connect_check(struct run *run)
{
    for (int to = 0; to < run->ranks; to++) {
        uint64_t posted = 0, arrived = 0, seen = run->node[to].told[0];
        for (int from = 0; from < run->ranks; from++) {
            posted += run->node[from].posted[to];
            arrived += run->node[from].arrived[to];
        }
        if (seen > posted || (seen < arrived && run->harmless))
            run_failed(run, "rank %d has %llu signals; %llu were sent, of which %llu have arrived for certain", to,
                       (unsigned long long)seen, (unsigned long long)posted, (unsigned long long)arrived);
    }
}

/* ---- put_signal: data before its signal; reads and atomics between ----------------------------------------------- */

enum { SLOT = AREA / 8, COUNTER_AT = AREA - 8 };

static unsigned char pattern(uint64_t round, size_t i)
{
    return (unsigned char)(round * 37 + i * 11 + 1);
}

static size_t slot_len(const struct run *run, uint64_t round)
{
    uint64_t state = run->seed ^ round;
    return wi_sim_between(&state, 1, SLOT);
}

/* Data in one to three parts, of which the last one signals; then some more that the target need not wait for. */
static bool write_round(struct node *n, uint64_t round, weir_rkey *rkey, uint64_t remote)
{
    size_t len = slot_len(n->run, round), at = 0;
    uint64_t since_ns = now(n), place = remote + round % 4 * SLOT;
    weir_comp comp = WEIR_COMP_INIT, counted = WEIR_COMP_INIT;
    uint64_t *result = (uint64_t *)(void *)(n->local + COUNTER_AT);
    for (size_t i = 0; i < len; i++)
        n->local[i] = pattern(round, i);
    weir_status status = WEIR_OK;
    for (int part = 0; part < 2 && status == WEIR_OK && len - at > 1; part++) {
        size_t some = (size_t)draw(n, 1, len - at - 1);
        status = weir_put(n->ep[1], n->local + at, n->local_mem, some, place + at, rkey, &comp);
        at += some;
    }
    if (status == WEIR_OK)
        status = weir_put_signal(n->ep[1], n->local + at, n->local_mem, len - at, place + at, rkey,
                                 n->run->node[1].signal, &comp);
    if (status == WEIR_OK)
        status = weir_fetch_add(n->ep[1], 1, result, n->local_mem, remote + COUNTER_AT, rkey, &counted);
    weir_status ended = weir_wait(n->ctx, &comp, -1);
    bool good = wait_ok(n, "put_signal", status == WEIR_OK ? ended : status, since_ns);
    memset(n->local, 0xee, len); /* the completion says that it may be used again */
    ended = weir_wait(n->ctx, &counted, -1);
    good = good && wait_ok(n, "fetch_add", ended, since_ns);
    if (good && *result != round - 1)
        run_failed(n->run, "fetch_add of round %llu found %llu", (unsigned long long)round,
                   (unsigned long long)*result);
    if (comp.pending + counted.pending > 0) {
        weir_rkey_destroy(rkey);
        weir_ep_close(n->ep[1]);
        n->ep[1] = NULL;
    }
    return good;
}

static void writer(struct node *n, uint64_t rounds)
{
    weir_rkey *rkey = NULL;
    uint64_t remote;
    if (!make_ep(n, 1))
        return;
    const struct node *to = &n->run->node[1];
    if (!call_ok(n, "import", weir_rkey_import(n->ep[1], to->key, to->key_len, &rkey)))
        return;
    weir_rkey_range(rkey, &remote, NULL);
    for (uint64_t round = 1; round <= rounds; round++) {
        pause_at_random(n);
        uint64_t since_ns = now(n);
        if (round > 4 && !wait_ok(n, "wait for room", weir_signal_wait(n->ctx, n->signal, round - 4, -1), since_ns))
            break;
        if (!write_round(n, round, rkey, remote))
            break;
    }
    if (n->ep[1])
        weir_rkey_destroy(rkey);
}

static void reader(struct node *n, uint64_t rounds)
{
    if (!make_ep(n, 0))
        return;
    for (uint64_t round = 1; round <= rounds; round++) {
        uint64_t since_ns = now(n);
        if (!wait_ok(n, "wait for data", weir_signal_wait(n->ctx, n->signal, round, -1), since_ns))
            return;
        size_t len = slot_len(n->run, round);
        for (size_t i = 0; i < len; i++) {
            if (n->area[round % 4 * SLOT + i] == pattern(round, i))
                continue;
            run_failed(n->run, "round %llu: the signal is here, byte %zu of %zu is not", (unsigned long long)round, i,
                       len);
            return;
        }
        if (!wait_ok(n, "give back", weir_put_signal(n->ep[0], NULL, NULL, 0, 0, NULL, n->run->node[0].signal, NULL),
                     since_ns))
            return;
    }
    flush(n, 0);
}

static void put_signal_body(struct node *n)
{
    uint64_t rounds = draw_shared(n->run, 1, 10);
    bool good = open_rank(n);
    meet(n, 1);
    if (good && n->rank == 0)
        writer(n, rounds);
    else if (good && n->rank == 1)
        reader(n, rounds);
    meet(n, 2);
    close_rank(n);
}

/* ---- credits: many messages, a target that takes its time -------------------------------------------------------- */

struct parcel {
    uint32_t epoch, number;
    unsigned char text[120];
};

static bool send_parcel(struct node *n, int peer, uint32_t epoch, uint32_t number)
{
    struct parcel parcel = {.epoch = epoch, .number = number};
    uint64_t since_ns = now(n);
    return wait_ok(n, "send", weir_send(n->ep[peer], &parcel, sizeof(parcel) - number % 100), since_ns);
}

/* Takes the next message, if there is one. Each connection's numbers run from 0 without a gap. */
static bool take(struct node *n)
{
    struct parcel parcel;
    size_t len = sizeof(parcel);
    uint64_t from;
    if (weir_recv(n->ctx, &parcel, &len, &from) != WEIR_OK)
        return false;
    uint64_t *came = &n->came[from][parcel.epoch % EPOCHS];
    if (len != sizeof(parcel) - parcel.number % 100 || parcel.number != *came)
        run_failed(n->run, "rank %d got message %u of %zu bytes from rank %llu where number %llu was due", n->rank,
                   parcel.number, len, (unsigned long long)from, (unsigned long long)*came);
    ++*came;
    return true;
}

static void sender(struct node *n, uint64_t count)
{
    if (!make_ep(n, 0))
        return;
    for (uint64_t i = 0; i < count; i++) {
        if (!send_parcel(n, 0, 0, (uint32_t)i))
            return;
        n->posted[0]++;
        if (draw(n, 0, 15) == 0)
            pause_at_random(n);
    }
    if (flush(n, 0))
        n->arrived[0] = n->posted[0];
}

static bool all_sent(const struct run *run)
{
    for (int i = 1; i < run->ranks; i++)
        if (run->node[i].phase < 2)
            return false;
    return true;
}

static void credits_body(struct node *n)
{
    bool good = open_rank(n);
    meet(n, 1);
    if (n->rank > 0) {
        if (good)
            sender(n, draw(n, 1, 40));
        meet(n, 2);
    } else {
        while (!n->run->failure[0] && (take(n) || !all_sent(n->run))) {
            pause_at_random(n);
            weir_ctx_block(n->ctx, 1);
        }
        while (take(n))
            ;
        meet(n, 2);
    }
    close_rank(n);
}

static void credits_check(struct run *run)
{
    struct wi_sim_counts counts;
    wi_sim_count(run->world, &counts);
    if (counts.overruns > 0)
        run_failed(run, "%llu messages came without room for them", (unsigned long long)counts.overruns);
    for (int i = 1; i < run->ranks; i++) {
        const struct node *n = &run->node[i];
        if (run->harmless && run->node[0].came[i][0] < n->arrived[0])
            run_failed(run, "rank %d sent %llu messages that arrived; %llu were received", i,
                       (unsigned long long)n->arrived[0], (unsigned long long)run->node[0].came[i][0]);
    }
}

/* ---- reconnect: connections break and are made again; nothing acknowledged is lost, nothing comes twice ---------- */

/* Flushes, and takes messages meanwhile. True: all of this connection so far has arrived. */
static bool flush_and_take(struct node *n, int peer)
{
    weir_comp *comp = &n->comp;
    weir_status status = weir_flush(n->ep[peer], comp);
    while (status == WEIR_OK && comp->pending > 0) {
        take(n);
        weir_ctx_block(n->ctx, 1);
    }
    status = status == WEIR_OK ? (weir_status)comp->status : status;
    *comp = (weir_comp)WEIR_COMP_INIT;
    return status == WEIR_OK;
}

/* Sends on, until all is sent (true) or a call fails. */
static bool send_on(struct node *n, uint32_t epoch, uint32_t *number, uint32_t *left)
{
    int peer = 1 - n->rank;
    while (*left > 0 && !n->run->failure[0]) {
        struct parcel parcel = {.epoch = epoch, .number = *number};
        if (weir_send(n->ep[peer], &parcel, sizeof(parcel) - *number % 100) != WEIR_OK)
            return false;
        --*left;
        ++*number;
        while (take(n))
            ;
        pause_at_random(n);
        if (draw(n, 0, 3) > 0)
            continue;
        if (!flush_and_take(n, peer))
            return false;
        n->told[epoch] = *number;
    }
    return true;
}

/* Tries until it is connected again. The peer may be waiting for us to take its messages meanwhile. */
static bool connect_again(struct node *n, int peer)
{
    uint64_t since_ns = now(n);
    weir_status status;
    do {
        while (take(n))
            ;
        wi_sim_sleep(n->run->world, draw(n, 0, 1) * draw(n, 0, 1000000));
        status = weir_ep_reconnect(n->ep[peer]);
        if (status == WEIR_OK)
            status = weir_ep_wait_ready(n->ep[peer], -1);
    } while (status != WEIR_OK && now(n) - since_ns < 10 * TIMEOUT_NS);
    if (status != WEIR_OK)
        run_failed(n->run, "rank %d: not connected again long after all faults were over: %s", n->rank,
                   weir_last_error());
    return status == WEIR_OK;
}

static void exchange(struct node *n, int peer)
{
    uint32_t left = (uint32_t)draw(n, 1, 60), epoch = 0, number = 0;
    while (!send_on(n, epoch, &number, &left)) {
        while (take(n))
            ;
        if (weir_ep_status(n->ep[peer]) == WEIR_OK)
            continue; /* both waited for room: on with the same connection */
        if (n->run->harmless)
            run_failed(n->run, "rank %d: the connection broke without a cause: %s", n->rank, weir_last_error());
        if (n->run->failure[0] || epoch + 1 == EPOCHS || !connect_again(n, peer))
            break;
        epoch++;
        number = 0;
    }
}

static void reconnect_body(struct node *n)
{
    int peer = 1 - n->rank;
    bool good = open_rank(n);
    meet(n, 1);
    if (good && make_ep(n, peer))
        exchange(n, peer);
    n->phase = 2;
    while (n->run->node[peer].phase < 2 && !n->run->failure[0]) {
        while (take(n))
            ;
        weir_ctx_block(n->ctx, 1);
    }
    while (take(n))
        ;
    meet(n, 3);
    close_rank(n);
}

static void reconnect_check(struct run *run)
{
    for (int rank = 0; rank < 2; rank++)
        for (int epoch = 0; epoch < EPOCHS; epoch++)
            if (run->node[1 - rank].came[rank][epoch] < run->node[rank].told[epoch])
                run_failed(run, "rank %d: %llu messages of connection %d had arrived; %llu were received", rank,
                           (unsigned long long)run->node[rank].told[epoch], epoch,
                           (unsigned long long)run->node[1 - rank].came[rank][epoch]);
}

/* ---- at_once: everybody connects to everybody in the same moment, and closes in the same moment ------------------ */

static uint64_t start_ns[EPOCHS]; /* of a round; 0: not known yet */

/* Ranks that meet wake one after the other: the first says when to start. Some draw a little time more. */
static void start_together(struct node *n, uint32_t round)
{
    meet(n, 2 * (int)round + 1);
    if (start_ns[round] == 0)
        start_ns[round] = now(n) + 2000000;
    uint64_t at_ns = start_ns[round] + draw(n, 0, 1) * draw(n, 0, 100000);
    if (at_ns > now(n))
        wi_sim_sleep(n->run->world, at_ns - now(n));
}

/* A message and a signal to each other rank, the ways there being made meanwhile. */
static bool greet_all(struct node *n, uint32_t round)
{
    int ranks = n->run->ranks, first = (int)draw(n, 1, (uint64_t)ranks - 1);
    bool good = true, lazily = draw(n, 0, 3) == 0;
    for (int i = 0; good && i < ranks - 1; i++) {
        int peer = (n->rank + 1 + (first + i) % (ranks - 1)) % ranks;
        good = make_ep(n, peer) && (lazily || call_ok(n, "connect", weir_ep_connect(n->ep[peer])));
    }
    for (int peer = 0; good && peer < ranks; peer++) {
        uint64_t since_ns = now(n);
        if (peer == n->rank)
            continue;
        good = send_parcel(n, peer, round, 0);
        weir_status status =
            good ? weir_put_signal(n->ep[peer], NULL, NULL, 0, 0, NULL, n->run->node[peer].signal, NULL) : WEIR_OK;
        n->posted[peer] += good && status == WEIR_OK;
        good = good && wait_ok(n, "put_signal", status, since_ns);
    }
    return good;
}

static bool flush_all(struct node *n)
{
    bool good = true;
    for (int peer = 0; good && peer < n->run->ranks; peer++) {
        uint64_t since_ns = now(n);
        if (peer == n->rank)
            continue;
        good = flush_and_take(n, peer);
        n->arrived[peer] += good;
        good = wait_ok(n, "flush", good ? WEIR_OK : WEIR_ERR_PEER_GONE, since_ns);
    }
    return good;
}

static void at_once_begin(struct run *run)
{
    (void)run;
    memset(start_ns, 0, sizeof(start_ns));
}

static void at_once_body(struct node *n)
{
    uint32_t rounds = (uint32_t)draw_shared(n->run, 1, 4);
    bool good = open_rank(n);
    for (uint32_t round = 0; good && round < rounds; round++) {
        start_together(n, round);
        good = greet_all(n, round) && flush_all(n);
        meet(n, 2 * (int)round + 2);
        while (take(n))
            ;
        for (int peer = 0; peer < n->run->ranks; peer++) {
            weir_ep_close(n->ep[peer]);
            n->ep[peer] = NULL;
        }
    }
    meet(n, 2 * (int)rounds + 1);
    n->told[0] = weir_signal_read(n->ctx, n->signal);
    close_rank(n);
}

/* Each signal is counted once, and each message comes once. */
static void at_once_check(struct run *run)
{
    connect_check(run);
    for (int to = 0; to < run->ranks; to++) {
        for (int from = 0; from < run->ranks; from++) {
            uint64_t came = 0, arrived = run->node[from].arrived[to];
            for (int round = 0; round < EPOCHS; round++)
                came += run->node[to].came[from][round];
            if (run->harmless && came != arrived)
                run_failed(run, "rank %d sent %llu messages to rank %d, which got %llu", from,
                           (unsigned long long)arrived, to, (unsigned long long)came);
        }
    }
}

/* ---- atomics: each fetch_add is carried out once, whatever is lost or comes twice -------------------------------- */

enum { ADDS = 20, BATCH = 4 };

struct add {
    uint64_t value, found;
};

/* What each rank has added to the counter of rank 0. Those that were begun last have perhaps not come to an end. */
static struct {
    struct add adds[ADDS];
    int begun, done;
} adders[RANKS];

/* Some at once. False: an error. */
static bool add_some(struct node *n, uint64_t remote, weir_rkey *rkey, int count)
{
    struct add *adds = &adders[n->rank].adds[adders[n->rank].begun];
    uint64_t *found = (uint64_t *)(void *)n->local, since_ns = now(n);
    weir_status status = WEIR_OK;
    for (int i = 0; i < count && status == WEIR_OK; i++) {
        adds[i].value = draw(n, 1, 1000);
        adders[n->rank].begun++;
        status = weir_fetch_add(n->ep[0], adds[i].value, &found[i], n->local_mem, remote, rkey, &n->comp);
    }
    weir_status ended = weir_wait(n->ctx, &n->comp, -1);
    if (!wait_ok(n, "fetch_add", status == WEIR_OK ? ended : status, since_ns))
        return false;
    for (int i = 0; i < count; i++)
        adds[i].found = found[i];
    adders[n->rank].done += count;
    return true;
}

static void atomics_body(struct node *n)
{
    weir_rkey *rkey = NULL;
    uint64_t remote = 0;
    bool good = open_rank(n);
    adders[n->rank].begun = adders[n->rank].done = 0;
    meet(n, 1);
    const struct node *to = &n->run->node[0];
    good = good && make_ep(n, 0) && call_ok(n, "import", weir_rkey_import(n->ep[0], to->key, to->key_len, &rkey));
    if (good)
        weir_rkey_range(rkey, &remote, NULL);
    for (int left = (int)draw(n, 1, ADDS), some; good && left > 0; left -= some) {
        some = (int)draw(n, 1, left < BATCH ? (uint64_t)left : BATCH);
        good = add_some(n, remote, rkey, some);
        pause_at_random(n);
    }
    meet(n, 2);
    weir_rkey_destroy(rkey);
    close_rank(n);
}

/* Did two of them find the counter where it was only once? */
static bool overlap(const struct add *a, const struct add *b)
{
    return a->found < b->found + b->value && b->found < a->found + a->value;
}

static void atomics_check(struct run *run)
{
    static struct add all[RANKS * ADDS];
    uint64_t count = 0, done = 0, begun = 0, counter;
    memcpy(&counter, run->node[0].area, sizeof(counter));
    for (int rank = 0; rank < run->ranks; rank++) {
        for (int i = 0; i < adders[rank].begun; i++) {
            const struct add *add = &adders[rank].adds[i];
            begun += add->value;
            if (i >= adders[rank].done)
                continue;
            done += add->value;
            if (add->found + add->value > counter)
                run_failed(run, "rank %d was told of %llu in a counter that ends at %llu", rank,
                           (unsigned long long)add->found, (unsigned long long)counter);
            for (uint64_t k = 0; k < count; k++)
                if (overlap(add, &all[k]))
                    run_failed(run, "two additions found the counter at %llu", (unsigned long long)add->found);
            all[count++] = *add;
        }
    }
    if (counter < done || counter > begun)
        run_failed(run, "the counter is at %llu; %llu were added for certain, at most %llu",
                   (unsigned long long)counter, (unsigned long long)done, (unsigned long long)begun);
}

const struct protocol protocols[] = {
    {.name = "connect",
     .about = "endpoints made lazily, by all at once, closed and made again",
     .ranks_max = 4,
     .body = connect_body,
     .check = connect_check},
    {.name = "at_once",
     .about = "everybody connects to everybody in the same moment, and closes in the same moment",
     .ranks_max = 5,
     .begin = at_once_begin,
     .body = at_once_body,
     .check = at_once_check},
    {.name = "put_signal",
     .about = "data in parts, its signal after it, atomics between",
     .ranks_max = 4,
     .body = put_signal_body},
    {.name = "atomics",
     .about = "additions of many ranks to one counter",
     .ranks_max = 6,
     .body = atomics_body,
     .check = atomics_check},
    {.name = "credits",
     .about = "more messages than there is room for, to a target that takes its time",
     .ranks_max = 4,
     .lingers = true,
     .body = credits_body,
     .check = credits_check},
    {.name = "reconnect",
     .about = "connections that break and are made again",
     .ranks_max = 2,
     .lingers = true,
     .reconnects = true,
     .body = reconnect_body,
     .check = reconnect_check},
    {.name = "collectives",
     .about = "barriers, broadcasts and all-reduces, with ranks that die",
     .ranks_max = RANKS,
     .lingers = true,
     .slow_ns = 2000000000,
     .begin = collectives_begin,
     .body = collectives_body},
    {.name = "ps",
     .about = "a parameter server, pushes and pulls under BSP and async, with ranks that die",
     .ranks_max = 6,
     .lingers = true,
     .slow_ns = 2000000000,
     .begin = ps_begin,
     .body = ps_body},
};
const int protocol_count = sizeof(protocols) / sizeof(protocols[0]);
