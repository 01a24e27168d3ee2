/* `weir run`: starts the processes of a job on this host, passes on their output and
 * signals, and ends them together. */
#include "run_child.h"
#include "run_lines.h"
#include "weir_tool.h"

#include <weir/config.h>

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RANKS_MAX           4096
#define GRACE_S             5.0
#define DRAIN_S             1.0
#define JUDGE_S             0.1
#define SPEAK_S             1.0
#define STATUS_TIMEOUT      124
#define STATUS_NOT_RUNNABLE 126
#define STATUS_NOT_FOUND    127

static const char usage[] =
    "usage: weir run -n RANKS [OPTIONS] [--] PROGRAM [ARGUMENTS]\n"
    "\n"
    "Starts PROGRAM once for each rank on this host, with the environment by which weir_boot_create() finds the "
    "others:\n"
    "WEIR_RANK, WEIR_WORLD_SIZE, WEIR_LOCAL_RANK, WEIR_MASTER_ADDR, WEIR_MASTER_PORT, WEIR_SERVERS, WEIR_JOB_ID, and\n"
    "RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT for others. Standard input is empty.\n"
    "\n"
    "  -n RANKS          how many workers; ranks 0 to RANKS - 1\n"
    "  --servers COUNT   so many parameter servers besides, as the last ranks (default WEIR_SERVERS, else 0)\n"
    "  --port PORT       TCP port of the rendezvous (default: a free one)\n"
    "  --env NAME=VALUE  a variable for all ranks; may be repeated\n"
    "  --timeout TIME    end all ranks after so long (seconds, or e.g. 5min), with status 124\n"
    "  --no-prefix       ranks write to our output themselves, without \"[RANK] \" in front of each line\n"
    "  --help            this text\n"
    "\n"
    "SIGINT, SIGTERM and SIGHUP are passed on. When a rank fails, all others get SIGTERM a second later and, 5 s "
    "after\n"
    "that, SIGKILL. The status is 0 when all ranks end with 0, else that of the rank that failed first (128 + the "
    "signal that killed "
    "it).\n";

struct rank {
    pid_t pid;
    bool ended; /* stays a zombie until all have, so that its number, and its group's, are not given to others */
    struct run_lines *out;
    struct run_lines *err;
};

struct run {
    struct run_job job;
    double timeout_s; /* 0: none */
    struct rank *ranks;
    int started;
    int running;
    int signals;   /* signalfd */
    int passed_on; /* the last signal that we passed on, 0: none */
    int failed;    /* the rank that failed first, as far as is known; -1: none */
    siginfo_t failure;
    double judge_s; /* until then a death by signal may still turn up as the cause of the failure */
    int status;     /* to end with */
    bool told;      /* which rank failed */
    double term_s;  /* when told: SIGTERM to the others then; until then they may say what they saw */
    bool ending;
    bool killed;
    double start_s;
    double kill_s; /* when ending: SIGKILL then */
    struct pollfd *polls;
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- options ---- */

static bool parse_int(const char *text, int min, int max, int *value)
{
    char *end;
    errno = 0;
    long number = strtol(text, &end, 10);
    *value = (int)number;
    return *text && !*end && errno == 0 && number >= min && number <= max;
}

static int bad_option(const char *option, const char *text, const char *wanted)
{
    fprintf(stderr, "weir run: %s %s: %s; `weir run --help` tells more\n", option, text, wanted);
    return WEIR_TOOL_USAGE;
}

/* One option; 0, or the status to end with. */
static int take_option(struct run *run, int option, char **extra)
{
    uint64_t timeout_ns;
    int workers;
    switch (option) {
    case 'n':
        if (!parse_int(optarg, 1, RANKS_MAX, &workers))
            return bad_option("-n", optarg, "not a number of ranks from 1 to 4096");
        run->job.world = workers;
        return 0;
    case 's':
        if (!parse_int(optarg, 0, RANKS_MAX, &run->job.servers))
            return bad_option("--servers", optarg, "not a number of servers from 0 to 4096");
        return 0;
    case 'p':
        if (!parse_int(optarg, 1, 65535, &run->job.port))
            return bad_option("--port", optarg, "not a port from 1 to 65535");
        return 0;
    case 't':
        if (weir_parse_duration(optarg, &timeout_ns) != WEIR_OK || timeout_ns == 0)
            return bad_option("--timeout", optarg, "not a time above 0; use a number of seconds, or e.g. 5min");
        run->timeout_s = (double)timeout_ns / 1e9;
        return 0;
    case 'e':
        if (!strchr(optarg, '=') || *optarg == '=')
            return bad_option("--env", optarg, "not of the form NAME=VALUE");
        if (run_child_sets(optarg))
            return bad_option("--env", optarg, "this variable is another one in each rank, or the job's: `weir run` sets it");
        extra[run->job.extra_count++] = optarg;
        return 0;
    case 'x':
        run->job.prefix = false;
        return 0;
    default:
        fprintf(stderr, "`weir run --help` tells more\n");
        return WEIR_TOOL_USAGE;
    }
}

/* 0: go on; else the status to end with, -1 for success. `extra` has room for argc texts. */
static int parse(struct run *run, int argc, char **argv, char **extra)
{
    static const struct option options[] = {
        {"servers", required_argument, NULL, 's'},
        {"port", required_argument, NULL, 'p'},
        {"env", required_argument, NULL, 'e'},
        {"timeout", required_argument, NULL, 't'},
        {"no-prefix", no_argument, NULL, 'x'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    const char *servers = getenv("WEIR_SERVERS");
    if (servers && *servers && !parse_int(servers, 0, RANKS_MAX, &run->job.servers))
        return bad_option("WEIR_SERVERS", servers, "not a number of servers from 0 to 4096");
    optind = 1;
    for (int option; (option = getopt_long(argc, argv, "+n:h", options, NULL)) != -1;) {
        if (option == 'h') {
            printf("%s", usage);
            return -1;
        }
        int status = take_option(run, option, extra);
        if (status != 0)
            return status;
    }
    if (run->job.world == 0 || optind == argc) {
        fprintf(stderr, "weir run: %s, e.g. weir run -n 4 -- ./program; `weir run --help` tells more\n",
                run->job.world == 0 ? "say how many ranks with -n" : "no program given");
        return WEIR_TOOL_USAGE;
    }
    run->job.program = argv + optind;
    run->job.extra = extra;
    run->job.world += run->job.servers;
    return 0;
}

/* ---- ending ---- */

/* To the process groups of all ranks, so that what they started hears it as well. */
static void signal_all(const struct run *run, int signal)
{
    for (int i = 0; i < run->started; i++)
        (void)kill(-run->ranks[i].pid, signal);
}

static void end_all(struct run *run, int status)
{
    if (run->ending)
        return;
    run->ending = true;
    run->status = status;
    run->kill_s = now_s() + GRACE_S;
    signal_all(run, SIGTERM);
}

static void tell_failure(const struct run *run)
{
    const siginfo_t *failure = &run->failure;
    const char *role = run->failed < run->job.world - run->job.servers ? "" : " (a server)";
    const char *others = run->running > 0 ? "; ending the others" : "";
    if (failure->si_code == CLD_EXITED)
        fprintf(stderr, "weir run: rank %d%s, process %d, ended with status %d%s\n", run->failed, role,
                (int)failure->si_pid, failure->si_status, others);
    else if (failure->si_status != run->passed_on)
        fprintf(stderr, "weir run: rank %d%s, process %d, was killed by signal %d (%s)%s\n", run->failed, role,
                (int)failure->si_pid, failure->si_status, strsignal(failure->si_status), others);
}

/*
 * A rank that is killed makes others end with an error, and they may be seen to end before it is: its connections close
 * first. So a death by signal counts as the cause, and a moment is given for it to turn up.
 */
static void judge(struct run *run)
{
    if (run->failed < 0 || run->ending || run->told)
        return;
    bool by_signal = run->failure.si_code != CLD_EXITED;
    if (!by_signal && run->running > 0 && now_s() < run->judge_s)
        return;
    tell_failure(run);
    run->told = true;
    run->term_s = now_s() + SPEAK_S;
    run->status = by_signal ? 128 + run->failure.si_status : run->failure.si_status;
}

/* Notes who has ended, and the first failure. */
static void note_ended(struct run *run)
{
    for (int i = 0; i < run->started; i++) {
        siginfo_t info = {0};
        if (run->ranks[i].ended)
            continue;
        if (waitid(P_PID, (id_t)run->ranks[i].pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0)
            continue;
        run->ranks[i].ended = true;
        run->running--;
        bool good = info.si_code == CLD_EXITED && info.si_status == 0;
        bool is_cause = run->failed < 0 || (run->failure.si_code == CLD_EXITED && info.si_code != CLD_EXITED);
        if (!good && is_cause) {
            if (run->failed < 0)
                run->judge_s = now_s() + JUDGE_S;
            run->failed = i;
            run->failure = info;
        }
    }
}

/* ---- the loop ---- */

static void on_signals(struct run *run)
{
    struct signalfd_siginfo info;
    while (read(run->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGCHLD)
            continue;
        run->passed_on = (int)info.ssi_signo;
        signal_all(run, run->passed_on);
    }
    note_ended(run);
    judge(run);
}

static void on_time(struct run *run)
{
    if (!run->ending && run->timeout_s > 0 && now_s() >= run->start_s + run->timeout_s) {
        fprintf(stderr, "weir run: not done after %g s (--timeout); ending all ranks\n", run->timeout_s);
        end_all(run, STATUS_TIMEOUT);
    }
    if (run->told && !run->ending && now_s() >= run->term_s)
        end_all(run, run->status);
    if (run->ending && !run->killed && now_s() >= run->kill_s) {
        run->killed = true;
        signal_all(run, SIGKILL);
    }
}

static int poll_ms(const struct run *run, double until_s)
{
    double next_s = until_s;
    if (!run->ending && run->timeout_s > 0 && run->start_s + run->timeout_s < next_s)
        next_s = run->start_s + run->timeout_s;
    if (run->failed >= 0 && !run->ending && !run->told && run->judge_s < next_s)
        next_s = run->judge_s;
    if (run->told && !run->ending && run->term_s < next_s)
        next_s = run->term_s;
    if (run->ending && !run->killed && run->kill_s < next_s)
        next_s = run->kill_s;
    double left_s = next_s - now_s();
    return left_s <= 0 ? 0 : left_s > 1000 ? 1000000 : (int)(left_s * 1000) + 1;
}

/* The k-th stream of the job: output and errors of rank 0, of rank 1, ... */
static struct run_lines *stream(const struct run *run, int k)
{
    return k % 2 == 0 ? run->ranks[k / 2].out : run->ranks[k / 2].err;
}

static bool has_open_stream(const struct run *run)
{
    for (int k = 0; run->job.prefix && k < 2 * run->started; k++)
        if (stream(run, k)->source >= 0)
            return true;
    return false;
}

/* Handles what is there, waiting until `until_s` for something. */
static void turn(struct run *run, double until_s)
{
    int streams = run->job.prefix ? 2 * run->started : 0;
    run->polls[0] = (struct pollfd){.fd = run->signals, .events = POLLIN};
    for (int k = 0; k < streams; k++)
        run->polls[1 + k] = (struct pollfd){.fd = stream(run, k)->source, .events = POLLIN};
    if (poll(run->polls, (nfds_t)streams + 1, poll_ms(run, until_s)) < 0)
        return;
    for (int k = 0; k < streams; k++)
        if (run->polls[1 + k].revents && !run_lines_pump(stream(run, k)))
            end_all(run, 128 + SIGPIPE); /* nobody reads us */
    on_signals(run);
    on_time(run);
}

/* ---- starting ---- */

static bool catch_signals(struct run *run)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    run->signals =
        sigprocmask(SIG_BLOCK, &signals, NULL) == 0 ? signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK) : -1;
    return run->signals >= 0;
}

static bool start_rank(struct run *run, int index, const char **what)
{
    struct rank *rank = &run->ranks[index];
    struct run_pipes pipes;
    *what = "out of memory";
    rank->out = malloc(sizeof(*rank->out));
    rank->err = malloc(sizeof(*rank->err));
    if (!rank->out || !rank->err)
        return false;
    rank->pid = run_child_start(&run->job, index, &pipes, what);
    if (rank->pid < 0)
        return false;
    run_lines_init(rank->out, pipes.out, STDOUT_FILENO, index);
    run_lines_init(rank->err, pipes.err, STDERR_FILENO, index);
    run->started++;
    run->running++;
    return true;
}

static void start_all(struct run *run)
{
    for (int i = 0; i < run->job.world; i++) {
        const char *what;
        if (!start_rank(run, i, &what)) {
            bool missing = errno == ENOENT;
            fprintf(stderr, "weir run: cannot start rank %d: %s: %s\n", i, what, strerror(errno));
            end_all(run, missing ? STATUS_NOT_FOUND : STATUS_NOT_RUNNABLE);
            return;
        }
    }
}

static int supervise(struct run *run)
{
    start_all(run);
    while (run->running > 0)
        turn(run, now_s() + 1000);
    /* What the ranks left in the pipes; processes that they left behind may keep them open. */
    double until_s = now_s() + DRAIN_S;
    while (has_open_stream(run) && now_s() < until_s)
        turn(run, until_s);
    signal_all(run, SIGKILL);
    for (int i = 0; i < run->started; i++) {
        if (run->job.prefix) {
            run_lines_close(run->ranks[i].out);
            run_lines_close(run->ranks[i].err);
        }
        waitpid(run->ranks[i].pid, NULL, 0);
    }
    return run->status;
}

static bool prepare(struct run *run, int *hold)
{
    unsigned long long random = 0;
    if (getrandom(&random, sizeof(random), 0) < 0)
        random = (unsigned long long)(now_s() * 1e9);
    snprintf(run->job.id, sizeof(run->job.id), "run-%d-%llx", (int)getpid(), random);
    run->start_s = now_s();
    run->ranks = calloc((size_t)run->job.world, sizeof(*run->ranks));
    run->polls = calloc((size_t)run->job.world * 2 + 1, sizeof(*run->polls));
    if (run->job.port == 0)
        run->job.port = run_pick_port(hold);
    return run->ranks && run->polls && run->job.port > 0 && catch_signals(run);
}

int weir_run_main(int argc, char **argv)
{
    struct run run = {.job.prefix = true, .signals = -1, .failed = -1};
    int hold = -1;
    char **extra = calloc((size_t)argc + 1, sizeof(*extra));
    int status = extra ? parse(&run, argc, argv, extra) : WEIR_TOOL_USAGE;
    if (status != 0) {
        free(extra);
        return status < 0 ? 0 : status;
    }
    if (prepare(&run, &hold)) {
        status = supervise(&run);
    } else {
        fprintf(stderr, "weir run: %s\n", strerror(errno));
        status = STATUS_NOT_RUNNABLE;
    }
    for (int i = 0; run.ranks && i < run.job.world; i++) {
        free(run.ranks[i].out);
        free(run.ranks[i].err);
    }
    free(run.ranks);
    free(run.polls);
    free(extra);
    if (run.signals >= 0)
        close(run.signals);
    if (hold >= 0)
        close(hold);
    return status;
}
