/* The command line of the benchmark; letters as perftest's users know them. */
#include "perf.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: weir_perf BENCHMARK [OPTIONS]          (starts its processes on this host)\n"
    "       weir run -n 2 -- weir_perf BENCHMARK   (or any launcher that sets RANK and WORLD_SIZE)\n"
    "\n"
    "  -s, --size LIST       bytes: 8, 64K, a list 8,4K,1M or a range 8..4M in powers of two\n"
    "  -a, --all             sizes 1 to 4M in powers of two\n"
    "  -n, --iterations N    a size (default by size, 20 to 10000); *_bw: in whole halves of the window\n"
    "  -w, --warmup N        not counted (default a tenth)\n"
    "  -D, --duration TIME   *_bw: measure for so long, e.g. 5s, instead of by iterations\n"
    "  -t, --window N        *_bw: operations in flight (default 128; perftest calls it --tx-depth)\n"
    "  -q, --qp N            *_bw: endpoints (queue pairs) to the partner, used in turn (default 1)\n"
    "  -b, --both            *_bw: both sides of a pair send at once; the sum is reported\n"
    "  -d, --device DEVICE   over verbs and this RDMA device, e.g. mlx5_0:1, or list of devices, as if WEIR_DEVICE,\n"
    "                        WEIR_TRANSPORT=verbs and WEIR_INTRANODE=off were set, where the latter are not\n"
    "  -x, --gid-index N     over RoCE: that GID of the device (`weir info` lists them), as if WEIR_INTERFACE were its address;\n"
    "                        without it the GID follows from the route\n"
    "  -F                    taken for the sake of perftest's users; nothing here depends on the CPU's frequency\n"
    "  -r, --ranks N         processes to start (default 2); 2N make N pairs, whose sum *_bw report\n"
    "      --servers N       parameter servers to start besides (default 1 for ps)\n"
    "      --threads N       pool: 1, 2, 4, ... up to so many threads (default 2)\n"
    "  -o, --operation WORD  ps: push, pull, push_pull (default); allreduce: f32 (default),\n"
    "                        f64, f16, bf16, i8 to i64, u8 to u64\n"
    "      --ordinary        memory of malloc, registered, instead of the pool's\n"
    "      --unregistered    memory of malloc that nobody registered at the sending side\n"
    "      --compare         in alternation with ucx_perftest or, over verbs, perftest (perf/compare has more)\n"
    "      --no-check        do not compare the data that arrives, nor count what should have\n"
    "      --self-test       spoil one operation of each size: the run must fail for it\n"
    "      --json            results as JSON\n"
    "  -h, --help            this text\n"
    "\n"
    "perf/compare runs the same beside ib_write_lat, ib_read_bw, ucx_perftest and others, and plots.\n"
    "WEIR_TRANSPORT and WEIR_INTRANODE choose what is measured; `weir info --env` lists all variables.\n"
    "\n"
    "Columns: times are of one operation; GB/s is rank 0's (1e9 bytes a second); bus GB/s, of all-reduce, what each link\n"
    "carries: GB/s * 2 * (ranks - 1) / ranks; all GB/s and all Mop/s, of *_bw, those of all senders together.\n"
    "\n"
    "Benchmarks:\n";

enum { OPT_SERVERS = 256, OPT_THREADS, OPT_ORDINARY, OPT_UNREGISTERED, OPT_COMPARE, OPT_NO_CHECK, OPT_SELF_TEST, OPT_JSON };

static const struct option long_options[] = {
    {"size", required_argument, NULL, 's'},
    {"all", no_argument, NULL, 'a'},
    {"iterations", required_argument, NULL, 'n'},
    {"warmup", required_argument, NULL, 'w'},
    {"window", required_argument, NULL, 't'},
    {"tx-depth", required_argument, NULL, 't'},
    {"qp", required_argument, NULL, 'q'},
    {"ranks", required_argument, NULL, 'r'},
    {"servers", required_argument, NULL, OPT_SERVERS},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"operation", required_argument, NULL, 'o'},
    {"ordinary", no_argument, NULL, OPT_ORDINARY},
    {"unregistered", no_argument, NULL, OPT_UNREGISTERED},
    {"compare", no_argument, NULL, OPT_COMPARE},
    {"duration", required_argument, NULL, 'D'},
    {"both", no_argument, NULL, 'b'},
    {"device", required_argument, NULL, 'd'},
    {"gid-index", required_argument, NULL, 'x'},
    {"no-check", no_argument, NULL, OPT_NO_CHECK},
    {"self-test", no_argument, NULL, OPT_SELF_TEST},
    {"json", no_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static int bad(const char *option, const char *text, const char *mend)
{
    fprintf(stderr, "weir_perf: %s %s: %s\n", option, text, mend);
    return 2;
}

static int parse_count(const char *option, const char *text, size_t low, size_t high, size_t *value)
{
    char *end;
    unsigned long long number = strtoull(text, &end, 10);
    if (*end || *text < '0' || *text > '9' || number < low || number > high) {
        fprintf(stderr, "weir_perf: %s %s: use a number from %zu to %zu\n", option, text, low, high);
        return 2;
    }
    *value = (size_t)number;
    return 0;
}

static int add_size(struct options *options, uint64_t size)
{
    if (options->size_count == SIZES_MAX)
        return bad("-s", "", "at most 64 sizes");
    if (size == 0 || size > (uint64_t)1 << 36)
        return bad("-s", size ? "(more than 64G)" : "0", "sizes are from 1 to 64G");
    options->sizes[options->size_count++] = (size_t)size;
    return 0;
}

/* "A..B": powers of two times A. */
static int add_range(struct options *options, const char *text, char *dots)
{
    uint64_t low, high;
    *dots = '\0';
    bool sizes = weir_parse_size(text, &low) == WEIR_OK && weir_parse_size(dots + 2, &high) == WEIR_OK;
    *dots = '.';
    if (!sizes || low == 0 || low > high)
        return bad("-s", text, "a range has two sizes, the smaller one first, e.g. 8..4M");
    int result = 0;
    for (; low <= high && result == 0; low *= 2)
        result = add_size(options, low);
    return result;
}

static int parse_sizes(struct options *options, char *text)
{
    char *rest = NULL;
    options->size_count = 0;
    for (char *part = strtok_r(text, ",", &rest); part; part = strtok_r(NULL, ",", &rest)) {
        char *dots = strstr(part, "..");
        uint64_t size;
        int result;
        if (dots)
            result = add_range(options, part, dots);
        else if (weir_parse_size(part, &size) != WEIR_OK)
            return bad("-s", part, "not a size; use e.g. 64K");
        else
            result = add_size(options, size);
        if (result != 0)
            return result;
    }
    return options->size_count > 0 ? 0 : bad("-s", "", "no size given; use e.g. 64K");
}

static int parse_all_sizes(struct options *options)
{
    char all[] = "1..4M";
    options->all = true;
    return parse_sizes(options, all);
}

weir_dtype dtype_named(const char *name)
{
    int dtype = 0;
    while (dtype < WEIR_DTYPES && strcmp(weir_dtype_name((weir_dtype)dtype), name) != 0)
        dtype++;
    return (weir_dtype)dtype;
}

static int parse_operation(struct options *options, const char *text)
{
    static const char *const ps[] = {"push", "pull", "push_pull", NULL};
    if (strcmp(options->benchmark->name, "allreduce") == 0) {
        if (dtype_named(text) == WEIR_DTYPES)
            return bad("-o", text, "use f32, f64, f16, bf16, i8, i16, i32, i64, u8, u16, u32 or u64");
        options->operation = weir_dtype_name(dtype_named(text));
        return 0;
    }
    bool is_ps = strcmp(options->benchmark->name, "ps") == 0;
    for (const char *const *word = ps; is_ps && *word; word++) {
        if (strcmp(*word, text) == 0) {
            options->operation = *word;
            return 0;
        }
    }
    return bad("-o", text, is_ps ? "use push, pull or push_pull" : "this benchmark has none");
}

static int parse_duration(struct options *options, const char *text)
{
    uint64_t ns;
    if (weir_parse_duration(text, &ns) != WEIR_OK || ns < 1000000 || ns > 3600000000000)
        return bad("-D", text, "use a duration from 1ms to 1h, e.g. 5s");
    options->duration_s = (double)ns / 1e9;
    return 0;
}

/* -d asks for that device: what would pass it by is not meant. */
static int choose_device(const char *device)
{
    const char *transport = getenv("WEIR_TRANSPORT");
    if (transport && strcmp(transport, "verbs") != 0 && strcmp(transport, "auto") != 0)
        return bad("-d", device, "this is an RDMA device, and WEIR_TRANSPORT is set to another transport; unset that");
    if (setenv("WEIR_DEVICE", device, 1) || setenv("WEIR_TRANSPORT", "verbs", 0) || setenv("WEIR_INTRANODE", "off", 0))
        return bad("-d", device, "out of memory");
    return 0;
}

/* What perftest's users may type, and what it is called here. */
static const struct elsewhere {
    char letter;
    const char *mend;
} elsewhere[] = {
    {'i', "the port goes with the device: -d mlx5_0:1"},
    {'p', "the store's port is WEIR_MASTER_PORT, for processes of a launcher"},
    {'I', "the longest inline write is WEIR_VERBS_INLINE"},
    {'S', "the service level is WEIR_SL"},
    {'T', "the traffic class is WEIR_TC"},
    {'u', "the ack timeout is WEIR_VERBS_ACK_TIMEOUT"},
    {'R', "connections are made by the connection manager anyway (WEIR_VERBS_CONNECT)"},
    {'m', "the MTU is that of the path"},
    {'c', "connections are reliable connections"},
};

static int say_mend(int letter)
{
    const char *mend = "--help lists the options";
    for (size_t i = 0; i < sizeof(elsewhere) / sizeof(elsewhere[0]); i++)
        if (elsewhere[i].letter == letter)
            mend = elsewhere[i].mend;
    fprintf(stderr, "weir_perf: %s\n", mend);
    return 2;
}

static int help(void)
{
    fputs(usage, stdout);
    for (const struct benchmark *b = benchmarks; b->name; b++)
        printf("  %-15s %s\n", b->name, b->help);
    return 1;
}

static int no_benchmark(void)
{
    fputs("weir_perf: no benchmark given; try weir_perf --help\nbenchmarks:", stderr);
    for (const struct benchmark *b = benchmarks; b->name; b++)
        fprintf(stderr, " %s", b->name);
    fputs("\n", stderr);
    return 2;
}

static int parse_one(struct options *options, int option, char *text)
{
    size_t number = 0;
    int result = 0;
    switch (option) {
    case 's':
        options->all = false;
        return parse_sizes(options, text);
    case 'a':
        return parse_all_sizes(options);
    case 'n':
        return parse_count("-n", text, 1, 100000000, &options->iterations);
    case 'w':
        return parse_count("-w", text, 1, 100000000, &options->warmup);
    case 't':
        return parse_count("-t", text, 1, 100000, &options->window);
    case 'q':
        return parse_count("-q", text, 1, WAYS_MAX, &options->ways);
    case 'r':
        result = parse_count("-r", text, 1, RANKS_MAX, &number);
        options->ranks = (int)number;
        return result;
    case OPT_SERVERS:
        result = parse_count("--servers", text, 0, RANKS_MAX, &number);
        options->servers = (int)number;
        return result;
    case OPT_THREADS:
        result = parse_count("--threads", text, 1, 64, &number);
        options->threads = (int)number;
        return result;
    case 'o':
        return parse_operation(options, text);
    case OPT_COMPARE:
        options->compare = true;
        return 0;
    case OPT_UNREGISTERED:
        options->unregistered = true; /* falls through: it is ordinary, too */
        /* fallthrough */
    case OPT_ORDINARY:
        options->ordinary = true;
        return 0;
    case 'D':
        return parse_duration(options, text);
    case 'b':
        options->both = true;
        return 0;
    case 'd':
        options->device = text;
        return choose_device(text);
    case 'x':
        return parse_count("-x", text, 0, 65535, &options->gid);
    case 'F':
        return 0;
    case OPT_NO_CHECK:
        options->check = false;
        return 0;
    case OPT_SELF_TEST:
        options->self_test = true;
        return 0;
    case OPT_JSON:
        options->json = true;
        return 0;
    case 'h':
        return help();
    default: /* getopt has said that there is no such option, or that it needs a value */
        return say_mend(optopt);
    }
}

static const struct benchmark *find_benchmark(const char *name)
{
    for (const struct benchmark *b = benchmarks; b->name; b++)
        if (strcmp(b->name, name) == 0)
            return b;
    return NULL;
}

int options_parse(int argc, char **argv, struct options *options)
{
    *options = (struct options){.check = true, .gid = GID_BY_ROUTE};
    if (argc < 2)
        return no_benchmark();
    if (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0)
        return help();
    if (argv[1][0] == '-')
        return bad("the benchmark comes first, not", argv[1], "e.g. weir_perf put_lat -s 8");
    options->benchmark = find_benchmark(argv[1]);
    if (!options->benchmark)
        return bad("there is no benchmark", argv[1], "weir_perf --help lists them");
    options->ranks = options->benchmark->ranks;
    options->servers = options->benchmark->servers;
    const size_t *sizes = options->benchmark->default_sizes;
    while (sizes[options->size_count] > 0) {
        options->sizes[options->size_count] = sizes[options->size_count];
        options->size_count++;
    }
    int option, result = 0;
    optind = 2;
    while (result == 0 && (option = getopt_long(argc, argv, "s:an:w:q:t:r:o:D:bd:x:Fh", long_options, NULL)) != -1)
        result = parse_one(options, option, optarg);
    if (result == 0 && optind < argc)
        return bad("unexpected", argv[optind],
                   "no host is named here; on several hosts a launcher starts one process each (RANK, WORLD_SIZE, MASTER_ADDR)");
    if (result == 0 && options->gid != GID_BY_ROUTE)
        result = choose_gid(options->device, options->gid);
    return result;
}
