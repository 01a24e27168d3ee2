/*
 * Fuzzes the command lines of weir_perf, `weir run` and `weir doctor`: what they take is within the bounds that the rest
 * of them counts on. The rest itself is replaced by functions that check it. (`weir top` has fuzz_top.c.)
 */
#include "bytes_of.h"
#include "perf/perf.h"
#include "tools/doctor/doctor.h"

#include <stdlib.h>

static int status; /* of `weir doctor`'s examination */

/* ---- weir_perf -------------------------------------------------------------------------------------------------------- */

const struct benchmark benchmarks[] = {
    {"put_lat", "", {8, 4096, 65536}, 2, 0, 1, 0, true, NULL},
    {"ps", "", {4, 65536}, 1, 1, 4, 0, false, NULL},
    {"allreduce", "", {8}, 2, 0, 4, 0, false, NULL},
    {0},
};

/* A process that changes its environment ten million times keeps what it was. */
int setenv(const char *name, const char *value, int overwrite)
{
    (void)value, (void)overwrite;
    check(strncmp(name, "WEIR_", 5) == 0);
    return 0;
}

static void benchmark(int count, char **words)
{
    struct options options;
    int result = options_parse(count, words, &options);
    check(result >= 0 && result <= 2);
    if (result != 0)
        return;
    check(options.benchmark && options.size_count >= 1 && options.size_count <= SIZES_MAX);
    for (int i = 0; i < options.size_count; i++)
        check(options.sizes[i] >= 1 && options.sizes[i] <= (size_t)1 << 36);
    check(options.iterations <= 100000000 && options.warmup <= 100000000);
    check(options.window <= 100000 && options.ways <= WAYS_MAX && (options.gid <= 65535 || options.gid == GID_BY_ROUTE));
    check(options.ranks >= 1 && options.ranks <= 256 && options.servers >= 0 && options.servers <= 256);
    check(options.threads >= 0 && options.threads <= 64 && options.duration_s >= 0 && options.duration_s <= 3600);
}

/* ---- weir doctor ------------------------------------------------------------------------------------------------------ */

#define NOTHING(_name)                                                                                                 \
    void _name(struct doctor *doctor)                                                                                  \
    {                                                                                                                  \
        (void)doctor;                                                                                                  \
    }

NOTHING(check_container)
NOTHING(check_processes)
NOTHING(check_sharing)
NOTHING(check_clock)
NOTHING(check_time)
NOTHING(check_memlock)
NOTHING(check_files)
NOTHING(check_huge_pages)
NOTHING(check_interface)
NOTHING(check_route)
NOTHING(check_store_port)
NOTHING(check_firewall)
NOTHING(check_devices)
NOTHING(check_modules)
NOTHING(check_device_files)
NOTHING(check_ports)
NOTHING(check_gids)
NOTHING(check_mtu)
NOTHING(check_traffic)
NOTHING(check_master)
NOTHING(check_secret)
NOTHING(check_metrics)
NOTHING(check_numa)
NOTHING(check_shm)
NOTHING(check_verbs)
NOTHING(check_ucx)
NOTHING(doctor_find_container)
NOTHING(doctor_find_local)

void doctor_read_choice(struct doctor *doctor)
{
    check(doctor->port >= 0 && doctor->port <= 65535);
    check(!doctor->to || strlen(doctor->to) < 300);
    if (!doctor->port)
        doctor->port = 29400;
}

void doctor_meet_peer(struct doctor *doctor, bool serve, bool quiet, const char **area)
{
    (void)quiet, (void)area;
    check(serve != doctor->visits);
    check(serve || (doctor->to && doctor->to[0] && strlen(doctor->to) < 256 && doctor->port >= 1 && doctor->port <= 65535));
}

void doctor_say(struct doctor *doctor, enum doctor_level level, const char *format, ...)
{
    (void)doctor, (void)level, (void)format;
}

void doctor_print_heading(const struct doctor *doctor)
{
    (void)doctor;
}

void doctor_print_findings(const struct doctor *doctor, size_t first, const char **area)
{
    (void)doctor, (void)area;
    check(first == 0);
}

void doctor_print_findings_json(const struct doctor *doctor)
{
    (void)doctor;
}

void doctor_print_end(const struct doctor *doctor)
{
    (void)doctor;
}

enum doctor_level doctor_worst(const struct doctor *doctor)
{
    (void)doctor;
    return status % 2 ? DOCTOR_FAIL : DOCTOR_OK;
}

int doctor_trial_main(void)
{
    return 0;
}

weir_status weir_config_load(void)
{
    return WEIR_OK;
}

/* ---- weir run --------------------------------------------------------------------------------------------------------- */

#define options run_options
#define usage   run_usage
#define now_s   run_now_s
#include "tools/weir_run.c"
#undef options
#undef usage
#undef now_s

static void start_job(int count, char **words)
{
    struct run run = {.job.prefix = true};
    char **extra = calloc((size_t)count + 1, sizeof(*extra));
    if (parse(&run, count, words, extra) == 0) {
        check(run.job.world >= 1 && run.job.world <= 2 * RANKS_MAX);
        check(run.job.servers >= 0 && run.job.servers < run.job.world && run.job.port >= 0 && run.job.port <= 65535);
        check(run.timeout_s >= 0 && run.timeout_s < 1e9 && run.job.program[0] && run.job.extra_count <= count);
        for (int i = 0; i < run.job.extra_count; i++)
            check(strchr(extra[i], '=') > extra[i]);
    }
    free(extra);
}

/* ---- All of them ------------------------------------------------------------------------------------------------------ */

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    stdout = stderr = fopen("/dev/null", "w"); /* usage; the sanitizers' reports and libFuzzer's do not go by these */
    check(stderr != NULL);
    return 0;
}

/* A command line is parsed once a process: getopt keeps where it is in it. */
static void forget_command_line(char **words)
{
    opterr = optind = 0;
    (void)getopt(1, words, "");
    opterr = 1;
}

/* Words end with a newline. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { WORDS = 16 };
    struct bytes_of input = {data, size};
    uint8_t what = take_byte(&input);
    char program[] = "program", *text = strndup((const char *)input.at, input.left), *rest = text;
    char *words[WORDS + 1] = {program};
    int count = 1;
    for (char *word; count < WORDS && (word = strsep(&rest, "\n"));)
        words[count++] = word;
    status = what >> 2;
    switch (what % 3) {
    case 0:
        benchmark(count, words);
        break;
    case 1:
        start_job(count, words);
        break;
    default:
        check(weir_doctor_main(count, words) <= 2);
        break;
    }
    forget_command_line(words);
    free(text);
    return 0;
}
