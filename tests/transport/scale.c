/*
 * Thousands of peers: what a hub pays for connecting, talking and being idle with N of them, against a quarter of that.
 *
 * Rank 0 of the job is the hub; the others play the leaves, each a context of its own (or, where contexts are dear, one
 * that stands for several leaves). Hub and leaves make endpoints to each other and use all of them at once, so that
 * connections cross; every message, write, signal and count is checked. Work is counted as the processor time of the hub,
 * which sleeps while it waits: a peer of N may cost little more than one of N / 4 does.
 *
 * Usage: weir run -n RANKS -- scale [--peers N] [--a-context N] [--factor X]
 * --factor 0: only the many, and no comparison, where the processor's time says nothing (an emulated one).
 */
#include "../support/check.h"
#include "../support/descriptors.h"

#include <weir/weir.h>

#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { WORDS = 8, AREA = WORDS * sizeof(uint64_t), IDLE_CALLS = 20000, MESSAGES = 3000, SKIPPED = 77 };

static void fail(int line, const char *what)
{
    fprintf(stderr, "scale.c:%d: %s: %s\n", line, what, weir_last_error());
    exit(1);
}

/* One direction between the hub and a leaf, at the side that begins it. */
struct line {
    weir_ep *ep;
    weir_rkey *rkey;
    uint64_t row;          /* its place at the other side */
    uint64_t there[WORDS]; /* what is put */
    uint64_t before;       /* result of the fetch_add */
    bool heard;            /* the message of the other direction came */
};

/* A context: the hub has a line to each leaf, a leaf's context one for each leaf that it stands for. */
struct party {
    weir_ctx *ctx;
    weir_mem *mem, *lines_mem;
    uint64_t *area; /* a row for each line that ends here, then the count of fetch_adds */
    struct line *lines;
    uint32_t signal;
    bool is_hub;
    int first, count; /* leaves */
    int heard;
    weir_comp comp;
};

/* What parties tell each other through the store. */
struct card {
    uint32_t address_len, key_len, signal;
    int first, count;
    uint64_t area;
    uint8_t address[WEIR_ADDRESS_MAX], key[WEIR_RKEY_MAX];
};

struct run {
    weir_boot *boot;
    const char *name;
    int peers, a_context;
};

struct cost {
    double use_us, close_us; /* processor time a peer */
    double idle_ns;          /* a call of weir_progress() */
    double message_us;       /* a message of one peer while the others are idle */
};

static uint64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* What is written to the row of a leaf, by the hub or to it. */
static uint64_t word(int leaf, bool by_hub, int i)
{
    return (uint64_t)leaf * 1000003u + (uint64_t)i * 17 + (by_hub ? 1u << 30 : 0);
}

static size_t area_size(const struct party *party)
{
    return ((size_t)party->count * AREA + sizeof(uint64_t) + 4095) / 4096 * 4096;
}

static size_t lines_size(const struct party *party)
{
    return ((size_t)party->count * sizeof(struct line) + 4095) / 4096 * 4096;
}

/* ---- A party's life ---- */

static void *pages(size_t size)
{
    void *memory = aligned_alloc(4096, size);
    CHECK(memory);
    return memset(memory, 0, size);
}

static void open_party(const struct run *run, struct party *party, bool is_hub, int first, int count)
{
    weir_ctx_params params = {
        .size = sizeof(params),
        .id = is_hub ? 0 : (uint64_t)first + 1,
        .bind_address = weir_boot_local_address(run->boot),
        .exchange = weir_boot_exchange(run->boot),
    };
    *party = (struct party){.is_hub = is_hub, .first = first, .count = count};
    CHECK_OK(weir_ctx_create(&params, &party->ctx));
    party->area = pages(area_size(party));
    party->lines = pages(lines_size(party));
    CHECK_OK(weir_mem_register(party->ctx, party->area, area_size(party), &party->mem));
    CHECK_OK(weir_mem_register(party->ctx, party->lines, lines_size(party), &party->lines_mem));
    CHECK_OK(weir_signal_create(party->ctx, &party->signal));
}

static void put_card(const struct run *run, const struct party *party)
{
    struct card card = {
        .signal = party->signal, .first = party->first, .count = party->count, .area = (uintptr_t)party->area};
    size_t address_len = sizeof(card.address), key_len = sizeof(card.key);
    char key[64];
    CHECK_OK(weir_ctx_address(party->ctx, card.address, &address_len));
    CHECK_OK(weir_mem_export(party->mem, party->area, area_size(party), card.key, &key_len));
    card.address_len = (uint32_t)address_len;
    card.key_len = (uint32_t)key_len;
    snprintf(key, sizeof(key), "%s/%s/%d", run->name, party->is_hub ? "hub" : "leaf", party->first);
    CHECK_OK(weir_boot_put(run->boot, key, &card, sizeof(card)));
}

static void get_card(const struct run *run, const char *who, int first, struct card *card)
{
    size_t len = sizeof(*card);
    char key[64];
    snprintf(key, sizeof(key), "%s/%s/%d", run->name, who, first);
    CHECK_OK(weir_boot_get(run->boot, key, card, &len, -1));
    CHECK(len == sizeof(*card));
}

/* Makes a party's endpoints to who gave the card, and begins to connect them all. */
static void connect_lines(struct party *party, const struct card *card)
{
    for (int leaf = party->first; leaf < party->first + party->count; leaf++) {
        struct line *line = &party->lines[leaf - party->first];
        if (leaf < card->first || leaf >= card->first + card->count)
            continue;
        CHECK_OK(weir_ep_create(party->ctx, card->address, card->address_len, &line->ep));
        CHECK_OK(weir_rkey_import(line->ep, card->key, card->key_len, &line->rkey));
        line->row = card->area + (uint64_t)(leaf - card->first) * AREA;
        CHECK_OK(weir_ep_connect(line->ep));
    }
}

static void close_party(struct party *party)
{
    for (int i = 0; i < party->count; i++) {
        weir_rkey_destroy(party->lines[i].rkey);
        weir_ep_close(party->lines[i].ep);
    }
    weir_mem_deregister(party->mem);
    weir_mem_deregister(party->lines_mem);
    weir_ctx_destroy(party->ctx);
    free(party->lines);
    free(party->area);
}

/* ---- Traffic ---- */

/* A write with a signal, a message and a count over each line; each waits until its line is connected. */
static void post_lines(struct party *party, const struct card *card)
{
    for (int leaf = party->first; leaf < party->first + party->count; leaf++) {
        struct line *line = &party->lines[leaf - party->first];
        if (leaf < card->first || leaf >= card->first + card->count)
            continue;
        for (int i = 0; i < WORDS; i++)
            line->there[i] = word(leaf, party->is_hub, i);
        uint64_t count = card->area + (uint64_t)card->count * AREA;
        CHECK_OK(weir_put_signal(line->ep, line->there, party->lines_mem, AREA, line->row, line->rkey, card->signal,
                                 &party->comp));
        CHECK_OK(weir_send(line->ep, &leaf, sizeof(leaf)));
        CHECK_OK(weir_fetch_add(line->ep, 1, &line->before, party->lines_mem, count, line->rkey, &party->comp));
        CHECK_OK(weir_flush(line->ep, &party->comp));
    }
}

/* Takes messages: one for each line, from who it should be from. */
static void hear(const struct run *run, struct party *party)
{
    int leaf;
    uint64_t from;
    size_t len = sizeof(leaf);
    while (weir_recv(party->ctx, &leaf, &len, &from) == WEIR_OK) {
        CHECK(len == sizeof(leaf) && leaf >= party->first && leaf < party->first + party->count);
        CHECK(from == (party->is_hub ? (uint64_t)(leaf - leaf % run->a_context) + 1 : 0));
        CHECK(!party->lines[leaf - party->first].heard);
        party->lines[leaf - party->first].heard = true;
        party->heard++;
    }
}

static bool is_done(const struct run *run, struct party *party)
{
    hear(run, party);
    weir_status status = weir_test(&party->comp);
    CHECK(status == WEIR_OK || status == WEIR_ERR_AGAIN);
    return status == WEIR_OK && party->heard == party->count &&
           weir_signal_read(party->ctx, party->signal) == (uint64_t)party->count;
}

/* After all are done. */
static void check_area(const struct party *party)
{
    for (int i = 0; i < party->count * WORDS; i++)
        CHECK(party->area[i] == word(party->first + i / WORDS, !party->is_hub, i % WORDS));
    CHECK(party->area[party->count * WORDS] == (uint64_t)party->count);
}

static void meet(const struct run *run, const char *where)
{
    char name[64];
    snprintf(name, sizeof(name), "%s/%s", run->name, where);
    CHECK_OK(weir_boot_barrier(run->boot, name, NULL, 0));
}

/* ---- The hub ---- */

static long resident_kb(void)
{
    long pages_all = 0, pages_here = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    CHECK(statm && fscanf(statm, "%ld %ld", &pages_all, &pages_here) == 2);
    fclose(statm);
    return pages_here * (sysconf(_SC_PAGESIZE) / 1024);
}

static double idle_ns(weir_ctx *ctx)
{
    for (int i = 0; i < IDLE_CALLS / 10; i++)
        weir_progress(ctx);
    uint64_t start = cpu_ns();
    for (int i = 0; i < IDLE_CALLS; i++)
        weir_progress(ctx);
    return (double)(cpu_ns() - start) / IDLE_CALLS;
}

/* The first leaf sends them. */
static double message_us(weir_ctx *ctx)
{
    uint64_t start = cpu_ns();
    for (int next = 0; next < MESSAGES; weir_ctx_block(ctx, 10)) {
        int number;
        size_t len = sizeof(number);
        while (weir_recv(ctx, &number, &len, NULL) == WEIR_OK)
            CHECK(number == next++);
    }
    return (double)(cpu_ns() - start) / 1e3 / MESSAGES;
}

static struct cost be_hub(const struct run *run)
{
    struct party hub;
    struct cost cost;
    int contexts = (run->peers + run->a_context - 1) / run->a_context;
    struct card *cards = calloc((size_t)contexts, sizeof(*cards));
    CHECK(cards);
    open_party(run, &hub, true, 0, run->peers);
    put_card(run, &hub);
    for (int i = 0; i < contexts; i++)
        get_card(run, "leaf", i * run->a_context, &cards[i]);
    long memory_kb = resident_kb();
    int files = descriptors();
    meet(run, "begin");
    uint64_t start = cpu_ns();
    for (int i = 0; i < contexts; i++)
        connect_lines(&hub, &cards[i]);
    for (int i = 0; i < contexts; i++)
        post_lines(&hub, &cards[i]);
    while (!is_done(run, &hub))
        weir_ctx_block(hub.ctx, 10);
    cost.use_us = (double)(cpu_ns() - start) / 1e3 / run->peers;
    meet(run, "done");
    cost.idle_ns = idle_ns(hub.ctx);
    meet(run, "one talks");
    cost.message_us = message_us(hub.ctx);
    memory_kb = resident_kb() - memory_kb;
    files = descriptors() - files;
    check_area(&hub);
    meet(run, "end");
    start = cpu_ns();
    close_party(&hub);
    cost.close_us = (double)(cpu_ns() - start) / 1e3 / run->peers;
    printf("%5d peers: %8.1f us to connect and talk, %7.1f us to close, %6.1f KiB and %.2f descriptors each; "
           "%.0f ns a weir_progress() when all are idle, %.2f us a message of one\n",
           run->peers, cost.use_us, cost.close_us, (double)memory_kb / run->peers, (double)files / run->peers,
           cost.idle_ns, cost.message_us);
    free(cards);
    return cost;
}

/* ---- The leaves of one process ---- */

static void be_leaves(const struct run *run)
{
    int ranks = weir_boot_size(run->boot) - 1, rank = weir_boot_rank(run->boot) - 1, count = 0;
    struct party *parties = calloc((size_t)run->peers, sizeof(*parties));
    struct card card;
    CHECK(parties);
    for (int first = rank * run->a_context; first < run->peers; first += ranks * run->a_context) {
        int leaves = run->peers - first < run->a_context ? run->peers - first : run->a_context;
        open_party(run, &parties[count], false, first, leaves);
        put_card(run, &parties[count++]);
    }
    get_card(run, "hub", 0, &card);
    meet(run, "begin");
    for (int i = 0; i < count; i++)
        connect_lines(&parties[i], &card);
    for (int i = 0; i < count; i++)
        post_lines(&parties[i], &card);
    for (int left = count; left > 0; usleep(left > 0 ? 500 : 0)) {
        left = 0;
        for (int i = 0; i < count; i++)
            left += !is_done(run, &parties[i]);
    }
    /* The hub's flushes may need them yet. */
    for (int i = 0; i < count; i++)
        CHECK_OK(weir_boot_attend(run->boot, weir_ctx_attend, parties[i].ctx));
    meet(run, "done");
    for (int i = 0; i < count; i++)
        weir_boot_unattend(run->boot, weir_ctx_attend, parties[i].ctx);
    for (int i = 0; i < count; i++)
        check_area(&parties[i]);
    meet(run, "one talks");
    for (int number = 0; rank == 0 && number < MESSAGES; number++)
        CHECK_OK(weir_send(parties[0].lines[0].ep, &number, sizeof(number)));
    if (rank == 0)
        CHECK_OK(weir_boot_attend(run->boot, weir_ctx_attend, parties[0].ctx)); /* the last ones may be held back */
    meet(run, "end");
    if (rank == 0)
        weir_boot_unattend(run->boot, weir_ctx_attend, parties[0].ctx);
    for (int i = 0; i < count; i++)
        close_party(&parties[i]);
    free(parties);
}

/* ---- The runs ---- */

static struct cost run_with(weir_boot *boot, int peers, int a_context, int attempt)
{
    char name[32];
    struct run run = {.boot = boot, .name = name, .peers = peers, .a_context = a_context};
    struct cost cost = {0};
    snprintf(name, sizeof(name), "%d.%d", peers, attempt);
    if (weir_boot_rank(boot) == 0)
        cost = be_hub(&run);
    else
        be_leaves(&run);
    return cost;
}

/*
 * Is a peer of many not much dearer than one of few? Where each looked at all others it would be four times as dear; time
 * is noisy, so anything clearly below that passes, in the best of some attempts.
 */
static bool about_linear(const struct cost *few, const struct cost *many, double factor)
{
    return many->use_us <= factor * few->use_us + 20 && many->close_us <= factor * few->close_us + 20 &&
           many->idle_ns <= factor * few->idle_ns + 1000 && many->message_us <= factor * few->message_us + 5;
}

/* The ranks agree through the store on what the hub has seen. */
static bool hub_says(weir_boot *boot, int attempt, bool good)
{
    char key[32];
    size_t len = sizeof(good);
    snprintf(key, sizeof(key), "good/%d", attempt);
    if (weir_boot_rank(boot) == 0)
        CHECK_OK(weir_boot_put(boot, key, &good, sizeof(good)));
    CHECK_OK(weir_boot_get(boot, key, &good, &len, -1));
    return good;
}

static void raise_limit(void)
{
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void skip_without_transport(void)
{
    const char *transport = getenv("WEIR_TRANSPORT");
    char why[256];
    if (!transport || weir_transport_probe(transport, why, sizeof(why)) == WEIR_OK)
        return;
    printf("skipped: %s\n", why);
    exit(SKIPPED);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"peers", required_argument, NULL, 'p'},
                                            {"a-context", required_argument, NULL, 'c'},
                                            {"factor", required_argument, NULL, 'f'},
                                            {NULL, 0, NULL, 0}};
    int peers = 2000, a_context = 1;
    double factor = 3.0;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'p':
            peers = atoi(optarg);
            break;
        case 'c':
            a_context = atoi(optarg);
            break;
        case 'f':
            factor = strtod(optarg, NULL);
            break;
        default:
            fprintf(stderr, "usage: weir run -n RANKS -- scale [--peers N] [--a-context N] [--factor X]\n");
            return 2;
        }
    }
    weir_boot *boot;
    bool good = false;
    skip_without_transport();
    raise_limit();
    CHECK(peers >= 8 && a_context >= 1);
    CHECK_OK(weir_boot_create(NULL, &boot));
    CHECK(weir_boot_size(boot) > 1);
    for (int attempt = 0; attempt < 3 && !good; attempt++) {
        struct cost few = factor > 0 ? run_with(boot, peers / 4, a_context, attempt) : (struct cost){0};
        struct cost many = run_with(boot, peers, a_context, attempt);
        good = hub_says(boot, attempt, factor <= 0 || about_linear(&few, &many, factor));
    }
    if (!good && weir_boot_rank(boot) == 0)
        printf("four times the peers cost more than %.1f times as much each\n", factor);
    weir_boot_destroy(boot);
    return good ? 0 : 1;
}
