/*
 * Runs protocols in simulated worlds, one for each seed. A seed that fails is printed with the command that repeats it,
 * event by event.
 */
#include "seeds.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BOUND_NS (60 * TIMEOUT_NS) /* of a run, in virtual time */
/* A call may take the timeout of the call and that of the endpoint, and what else one turn of the world takes. */
#define CALL_BOUND_NS (2 * TIMEOUT_NS + 100000000ull)
#define PROMPT_NS     10000000ull

static const struct {
    const char *name;
    unsigned bit;
    const char *protocol; /* which sees it; one that several see has a line for each */
} bugs[] = {
    {"retransmit", WI_SIM_BREAK_RETRANSMIT, "connect"},
    {"retransmit", WI_SIM_BREAK_RETRANSMIT, "at_once"},
    {"signal", WI_SIM_BREAK_SIGNAL, "put_signal"},
    {"order", WI_SIM_BREAK_ORDER, "put_signal"},
    {"once", WI_SIM_BREAK_ONCE, "credits"},
    {"once", WI_SIM_BREAK_ONCE, "atomics"},
    {"ack", WI_SIM_BREAK_ACK, "put_signal"},
    {"ack", WI_SIM_BREAK_ACK, "at_once"},
    {"credits", WI_SIM_BREAK_CREDITS, "credits"},
    {"probe", WI_SIM_BREAK_PROBE, "credits"},
    {"probe", WI_SIM_BREAK_PROBE, "ps"},
    {"epoch", WI_SIM_BREAK_EPOCH, "reconnect"},
    {"wake", WI_SIM_BREAK_WAKE, "connect"},
    {"ps-lost", BREAK_PS_LOST, "ps"},
    {"ps-twice", BREAK_PS_TWICE, "ps"},
    {"ps-early", BREAK_PS_EARLY, "ps"},
};
enum { BUGS = sizeof(bugs) / sizeof(bugs[0]) };

static struct {
    uint64_t first, seeds;
    const char *protocol; /* NULL: all */
    unsigned broken;
    const char *broken_name;
    bool verbose, self_test;
} options = {.first = 1, .seeds = 10000};

/* ---- What a run may and may not do ------------------------------------------------------------------------------- */

void run_failed(struct run *run, const char *format, ...)
{
    va_list args;
    if (run->failure[0])
        return;
    va_start(args, format);
    vsnprintf(run->failure, sizeof(run->failure), format, args);
    va_end(args);
    wi_sim_note(run->world, "FAILED: %s", run->failure);
}

bool call_ok(struct node *n, const char *what, weir_status status)
{
    if (status != WEIR_OK && n->run->harmless)
        run_failed(n->run, "rank %d: %s: %s: %s", n->rank, what, weir_status_string(status), weir_last_error());
    return status == WEIR_OK && !n->run->failure[0];
}

bool wait_ok(struct node *n, const char *what, weir_status status, uint64_t since_ns)
{
    uint64_t took_ns = wi_sim_now(n->run->world) - since_ns;
    uint64_t bound_ns = n->run->prompt ? PROMPT_NS : CALL_BOUND_NS + n->run->protocol->slow_ns;
    if (took_ns > bound_ns)
        run_failed(n->run, "rank %d: %s took %.6f s", n->rank, what, (double)took_ns / 1e9);
    return call_ok(n, what, status);
}

/* ---- Faults ------------------------------------------------------------------------------------------------------ */

static void kill_one(void *arg)
{
    struct run *run = arg;
    int victim = (int)wi_sim_between(&run->random, 0, (uint64_t)run->ranks - 1);
    run->dead |= 1u << victim;
    wi_sim_kill(run->world, victim, wi_sim_draw(&run->random) % 2);
}

static void break_one(void *arg)
{
    struct run *run = arg;
    wi_sim_break(run->world, (int)wi_sim_between(&run->random, 0, (uint64_t)run->ranks - 1));
    if (wi_sim_between(&run->random, 0, 7) > 0)
        wi_sim_at(run->world, wi_sim_now(run->world) + wi_sim_between(&run->random, 0, 2000000), break_one, run);
}

/* All ways from one rank, or to it, or both. */
static void cut_one(struct run *run, bool cut)
{
    uint64_t state = run->seed ^ 77; /* the same when it is mended */
    int victim = (int)wi_sim_between(&state, 0, (uint64_t)run->ranks - 1);
    uint64_t ways = wi_sim_between(&state, 1, 3);
    for (int other = 0; other < run->ranks; other++) {
        if (ways & 1u && other != victim)
            wi_sim_cut(run->world, victim, other, cut);
        if (ways & 2u && other != victim)
            wi_sim_cut(run->world, other, victim, cut);
    }
}

static void cut(void *arg)
{
    cut_one(arg, true);
}

static void mend(void *arg)
{
    cut_one(arg, false);
}

static void stop(void *arg)
{
    struct run *run = arg;
    wi_sim_stop(run->world, (int)(run->seed % (uint64_t)run->ranks));
}

static void go_on(void *arg)
{
    struct run *run = arg;
    wi_sim_continue(run->world, (int)(run->seed % (uint64_t)run->ranks));
}

/* A third of the runs has a fault that cannot pass unnoticed, a third one that must; in
 * the rest packets suffer alone. */
static void schedule_faults(struct run *run)
{
    uint64_t kind = run->kind, at_ns = wi_sim_between(&run->random, 0, 3000000);
    if (kind == 0) {
        wi_sim_at(run->world, at_ns, run->protocol->reconnects ? break_one : kill_one, run);
    } else if (kind <= 1) {
        wi_sim_at(run->world, at_ns, cut, run);
        wi_sim_at(run->world, at_ns + wi_sim_between(&run->random, TIMEOUT_NS / 2, 3 * TIMEOUT_NS), mend, run);
    } else if (kind == 2) {
        wi_sim_at(run->world, at_ns, cut, run);
        wi_sim_at(run->world, at_ns + wi_sim_between(&run->random, 0, TIMEOUT_NS / 8), mend, run);
    } else if (kind == 3) {
        wi_sim_at(run->world, at_ns, stop, run);
        wi_sim_at(run->world, at_ns + wi_sim_between(&run->random, 0, TIMEOUT_NS / 4), go_on, run);
    }
}

static void log_line(void *arg, uint64_t now_ns, const char *line)
{
    (void)arg;
    printf("%14.3f us  %s\n", (double)now_ns / 1e3, line);
}

static void draw_network(struct run *run)
{
    uint64_t *r = &run->random;
    struct wi_sim_params *params = &run->params;
    *params = (struct wi_sim_params){.seed = run->seed, .timeout_ns = TIMEOUT_NS, .broken = options.broken};
    params->delay_min_ns = wi_sim_between(r, 500, 5000);
    params->delay_max_ns = params->delay_min_ns + wi_sim_between(r, 0, 50000);
    params->reorder_ns = wi_sim_between(r, 1, 500000);
    params->loss_ppm = (uint32_t)wi_sim_between(r, 0, 100000);
    params->duplicate_ppm = (uint32_t)wi_sim_between(r, 0, 100000);
    params->reorder_ppm = (uint32_t)wi_sim_between(r, 0, 100000);
    params->mtu = 64u << wi_sim_between(r, 0, 6);
    params->window = (uint32_t)wi_sim_between(r, 1, 16);
    params->depth = (uint32_t)wi_sim_between(r, 2, 32);
    params->log = options.verbose ? log_line : NULL;
    run->kind = wi_sim_between(r, 0, 5);
    run->harmless = run->kind > 1;
    run->prompt = run->kind == 5 && !run->protocol->lingers;
    if (run->kind == 5)
        params->loss_ppm = params->duplicate_ppm = params->reorder_ppm = 0;
}

/* ---- Runs -------------------------------------------------------------------------------------------------------- */

static void node_main(void *arg)
{
    struct node *n = arg;
    n->run->protocol->body(n);
}

static void prepare(struct run *run, struct wi_sim_world *world, const struct protocol *protocol, uint64_t seed)
{
    memset(run, 0, sizeof(*run));
    run->protocol = protocol;
    run->world = world;
    run->seed = seed;
    run->random = wi_sim_mix(seed);
    run->ranks = (int)wi_sim_between(&run->random, 2, (uint64_t)protocol->ranks_max);
    draw_network(run);
    wi_sim_begin(world, &run->params);
    schedule_faults(run);
    if (protocol->begin)
        protocol->begin(run);
    for (int i = 0; i < run->ranks; i++) {
        run->node[i].run = run;
        run->node[i].rank = i;
        run->node[i].random = wi_sim_mix(run->random + (uint64_t)i);
        if (wi_sim_spawn(world, i, node_main, &run->node[i]) != WEIR_OK)
            run_failed(run, "%s", weir_last_error());
    }
}

/* True: all promises were kept. */
static bool perform(struct run *run, struct wi_sim_world *world, const struct protocol *protocol, uint64_t seed)
{
    struct wi_sim_counts counts;
    prepare(run, world, protocol, seed);
    if (!wi_sim_run(world, BOUND_NS)) {
        run_failed(run, "it hangs");
        return false;
    }
    if (protocol->check)
        protocol->check(run);
    wi_sim_count(world, &counts);
    if (counts.connections > 0)
        run_failed(run, "%" PRIu64 " connections are left", counts.connections);
    return !run->failure[0];
}

static void say_failed(const struct run *run)
{
    printf("%s: seed %" PRIu64 ": %s\n  to see it: sim_seeds --protocol %s --replay %" PRIu64 "%s%s\n",
           run->protocol->name, run->seed, run->failure, run->protocol->name, run->seed,
           options.broken ? " --break " : "", options.broken ? options.broken_name : "");
}

/* All seeds of a protocol; every hundredth runs twice and must be the same. False: one failed. */
static bool campaign(struct run *run, struct wi_sim_world *world, const struct protocol *protocol)
{
    uint64_t packets = 0, virtual_ns = 0;
    struct wi_sim_counts counts;
    for (uint64_t seed = options.first; seed < options.first + options.seeds; seed++) {
        bool good = perform(run, world, protocol, seed);
        uint64_t hash = wi_sim_hash(world);
        if (good && seed % 100 == 0 && (perform(run, world, protocol, seed), wi_sim_hash(world) != hash)) {
            run_failed(run, "two runs of the seed differ");
            good = false;
        }
        if (!good) {
            say_failed(run);
            return false;
        }
        wi_sim_count(world, &counts);
        packets += counts.packets;
        virtual_ns += wi_sim_now(world);
    }
    printf("%-12s %" PRIu64 " seeds from %" PRIu64 ": good; %" PRIu64 " packets, %.1f s of virtual time\n",
           protocol->name, options.seeds, options.first, packets, (double)virtual_ns / 1e9);
    return true;
}

static const struct protocol *find_protocol(const char *name)
{
    for (int i = 0; i < protocol_count; i++)
        if (strcmp(protocols[i].name, name) == 0)
            return &protocols[i];
    return NULL;
}

/* Looks for a seed that shows the bug. Its ranks may hang for good, so this is a process's last deed. */
static int find_bug(struct run *run, int bug)
{
    struct wi_sim_world *world;
    const struct protocol *protocol = find_protocol(bugs[bug].protocol);
    options.broken = bugs[bug].bit;
    if (wi_sim_world_create(&world) != WEIR_OK)
        return 1;
    for (uint64_t seed = options.first; seed < options.first + options.seeds; seed++) {
        if (perform(run, world, protocol, seed))
            continue;
        printf("bug %-12s seen by %s, seed %" PRIu64 ": %s\n", bugs[bug].name, protocol->name, seed, run->failure);
        return 0;
    }
    printf("bug %-12s NOT seen by %s within %" PRIu64 " seeds\n", bugs[bug].name, protocol->name, options.seeds);
    return 1;
}

/* Each bug that can be built in must be seen by the protocol that is there for it. */
static bool self_test(struct run *run)
{
    bool all = true;
    for (int i = 0; i < BUGS; i++) {
        int status;
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            status = find_bug(run, i);
            fflush(stdout);
            _exit(status);
        }
        waitpid(pid, &status, 0);
        all = all && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    return all;
}

/* ---- Options ----------------------------------------------------------------------------------------------------- */

static void usage(FILE *to)
{
    fprintf(to, "Usage: sim_seeds [OPTIONS]\n"
                "Runs protocols of the library in simulated worlds with a virtual clock and a network that loses,\n"
                "delays, reorders, doubles and cuts, as a seed says. The same seed gives the same run.\n\n"
                "  --seeds N          how many for each protocol (10000)\n"
                "  --first S          the first of them (1)\n"
                "  --protocol NAME    only this one\n"
                "  --replay S         one seed, with all its events\n"
                "  --verbose          all events\n"
                "  --break BUG        with a bug built in on purpose\n"
                "  --self-test        is each of these bugs seen?\n\nProtocols:\n");
    for (int i = 0; i < protocol_count; i++)
        fprintf(to, "  %-18s %s\n", protocols[i].name, protocols[i].about);
    fprintf(to, "\nBugs:");
    for (int i = 0; i < BUGS; i++)
        if (i == 0 || strcmp(bugs[i].name, bugs[i - 1].name) != 0)
            fprintf(to, " %s", bugs[i].name);
    fprintf(to, "\n");
}

static bool parse_number(const char *text, uint64_t *number)
{
    char *end;
    *number = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0';
}

static bool parse_bug(const char *name)
{
    for (int i = 0; i < BUGS; i++) {
        if (strcmp(bugs[i].name, name) != 0)
            continue;
        options.broken = bugs[i].bit;
        options.broken_name = bugs[i].name;
        return true;
    }
    return false;
}

static bool parse_option(int option, const char *value)
{
    switch (option) {
    case 'n':
        return parse_number(value, &options.seeds);
    case 'f':
        return parse_number(value, &options.first);
    case 'p':
        options.protocol = value;
        return find_protocol(value) != NULL;
    case 'r':
        options.seeds = 1;
        options.verbose = true;
        return parse_number(value, &options.first);
    case 'v':
        options.verbose = true;
        return true;
    case 'b':
        return parse_bug(value);
    case 's':
        options.self_test = true;
        return true;
    case 'h':
        usage(stdout);
        exit(0);
    default:
        return false;
    }
}

int main(int argc, char **argv)
{
    static const struct option known[] = {{"seeds", required_argument, NULL, 'n'},
                                          {"first", required_argument, NULL, 'f'},
                                          {"protocol", required_argument, NULL, 'p'},
                                          {"replay", required_argument, NULL, 'r'},
                                          {"verbose", no_argument, NULL, 'v'},
                                          {"break", required_argument, NULL, 'b'},
                                          {"self-test", no_argument, NULL, 's'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    static struct run run;
    struct wi_sim_world *world;
    bool good = true;
    opterr = 0; /* one message is enough */
    for (int option; (option = getopt_long(argc, argv, "h", known, NULL)) != -1;) {
        if (!parse_option(option, optarg)) {
            fprintf(stderr, "sim_seeds: %s: unknown option or value; sim_seeds --help\n", argv[optind - 1]);
            return 2;
        }
    }
    setenv("WEIR_TIMEOUT", TIMEOUT_TEXT, 1);
    setenv("WEIR_SPIN", "0us", 1);
    setenv("WEIR_LOG", "error", 0);   /* ranks die by the thousands */
    setenv("WEIR_PS_RING", "64K", 1); /* the smallest: it is filled often */
    setenv("WEIR_PS_SHARDS", "8", 1);
    if (options.self_test)
        return self_test(&run) ? 0 : 1;
    if (wi_sim_world_create(&world) != WEIR_OK)
        return 1;
    for (int i = 0; i < protocol_count && good; i++)
        if (!options.protocol || strcmp(options.protocol, protocols[i].name) == 0)
            good = campaign(&run, world, &protocols[i]);
    if (good)
        wi_sim_world_destroy(world);
    return good ? 0 : 1;
}
