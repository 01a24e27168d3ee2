/* `weir run`: environment, output, statuses, signals, and that nothing is left behind. Arguments: weir, run_rank. */
#include "core/clock.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const char *weir;
static char *rank_program;

/* A `weir run` under way, or done; its output goes to files without names. */
struct run {
    pid_t pid;
    FILE *out_file;
    FILE *err_file;
    int alive; /* reaches its end when weir run and all that it started are gone */
    int status;
    char out[1 << 18];
    char err[1 << 16];
};

static struct run run;

static void start(const char *const *arguments)
{
    char *argv[32] = {(char *)weir, "run"};
    int alive[2];
    for (int i = 0; arguments[i]; i++)
        argv[i + 2] = (char *)arguments[i];
    run.out_file = tmpfile();
    run.err_file = tmpfile();
    assert_true(run.out_file && run.err_file);
    assert_int_equal(pipe(alive), 0);
    assert_int_equal(fcntl(alive[0], F_SETFD, FD_CLOEXEC), 0);
    run.pid = fork();
    if (run.pid == 0) {
        dup2(fileno(run.out_file), STDOUT_FILENO);
        dup2(fileno(run.err_file), STDERR_FILENO);
        execv(weir, argv);
        _exit(99);
    }
    assert_true(run.pid > 0);
    close(alive[1]);
    run.alive = alive[0];
}

static void read_file(FILE *file, char *text, size_t size)
{
    ssize_t len = pread(fileno(file), text, size - 1, 0);
    text[len > 0 ? len : 0] = '\0';
}

static void read_output(void)
{
    read_file(run.out_file, run.out, sizeof(run.out));
    read_file(run.err_file, run.err, sizeof(run.err));
}

/* Waits until all its processes are gone, at most 30 s. */
static void finish(void)
{
    struct pollfd end = {.fd = run.alive, .events = POLLIN};
    int status;
    int ready = poll(&end, 1, 30000);
    if (ready != 1)
        kill(run.pid, SIGKILL);
    assert_int_equal(waitpid(run.pid, &status, 0), run.pid);
    assert_int_equal(ready, 1);
    run.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    read_output();
    close(run.alive);
    fclose(run.out_file);
    fclose(run.err_file);
}

#define START(...) start((const char *const[]){__VA_ARGS__, NULL})
#define RUN(...)                                                                                                       \
    do {                                                                                                               \
        START(__VA_ARGS__);                                                                                            \
        finish();                                                                                                      \
    } while (0)

/* Waits until the text has been written to standard output so many times. */
static void await_output(const char *text, int times)
{
    uint64_t until_ns = wi_now_ns() + 20 * WI_NS_PER_S;
    for (int found = 0; found < times && wi_now_ns() < until_ns; poll(NULL, 0, 5)) {
        read_output();
        found = 0;
        for (const char *at = run.out; (at = strstr(at, text)); at++)
            found++;
    }
    assert_non_null(strstr(run.out, text));
}

#define SAYS(_where, _text)                                                                                            \
    do {                                                                                                               \
        if (!strstr((_where), (_text)))                                                                                \
            fail_msg("no '%s' in:\n%s\n(errors: %s)", (_text), (_where), run.err);                                     \
    } while (0)

static void ranks_meet(void **state)
{
    (void)state;
    RUN("-n", "3", "--servers", "2", "--", rank_program);
    assert_int_equal(run.status, 0);
    assert_string_equal(run.err, "");
    SAYS(run.out, "[0] worker 0 of 5, local 0, last 4\n");
    SAYS(run.out, "[2] worker 2 of 5, local 2, last 4\n");
    SAYS(run.out, "[3] server 3 of 5, local 3, last 4\n");
    SAYS(run.out, "[4] server 4 of 5, local 4, last 4\n");
}

static void environment_is_set(void **state)
{
    (void)state;
    RUN("-n", "1", "--servers", "1", "--env", "COLOR=blue=2", "--env", "WEIR_TIMEOUT=7s", "--", "sh", "-c",
        "echo $WEIR_RANK $RANK $WEIR_LOCAL_RANK $LOCAL_RANK $WEIR_WORLD_SIZE $WORLD_SIZE $WEIR_SERVERS;"
        "echo $WEIR_MASTER_ADDR $MASTER_ADDR $COLOR $WEIR_TIMEOUT; test $WEIR_MASTER_PORT = $MASTER_PORT && echo same;"
        "test -n \"$WEIR_JOB_ID\" && echo named; cat");
    assert_int_equal(run.status, 0);
    SAYS(run.out, "[0] 0 0 0 0 2 2 1\n");
    SAYS(run.out, "[1] 1 1 1 1 2 2 1\n");
    SAYS(run.out, "[0] 127.0.0.1 127.0.0.1 blue=2 7s\n");
    SAYS(run.out, "[1] same\n");
    SAYS(run.out, "[1] named\n");
    RUN("-n", "1", "--port", "4567", "sh", "-c", "echo port $MASTER_PORT");
    assert_string_equal(run.out, "[0] port 4567\n");
}

/* Ranks write in pieces and at the same time; what comes out is whole lines, each with its rank. */
static void lines_stay_whole(void **state)
{
    int counts[4] = {0};
    (void)state;
    RUN("-n", "4", "sh", "-c",
        "i=0; while [ $i -lt 200 ]; do printf 'abc'; printf \"def$RANK\"; printf '\\n'; i=$((i+1)); done");
    assert_int_equal(run.status, 0);
    for (char *line = strtok(run.out, "\n"); line; line = strtok(NULL, "\n")) {
        int rank = line[1] - '0';
        char expected[32];
        assert_in_range(rank, 0, 3);
        snprintf(expected, sizeof(expected), "[%d] abcdef%d", rank, rank);
        assert_string_equal(line, expected);
        counts[rank]++;
    }
    for (int rank = 0; rank < 4; rank++)
        assert_int_equal(counts[rank], 200);
}

static void streams_are_kept_apart(void **state)
{
    (void)state;
    RUN("-n", "2", "sh", "-c", "echo to out; echo to err >&2; echo; printf 'no newline'");
    assert_null(strstr(run.out, "err"));
    SAYS(run.out, "[1] to out\n");
    SAYS(run.out, "[1] \n");
    SAYS(run.out, "[1] no newline\n");
    SAYS(run.err, "[0] to err\n");
    assert_null(strstr(run.err, "out"));
    RUN("-n", "1", "--no-prefix", "sh", "-c", "printf 'as it is'");
    assert_string_equal(run.out, "as it is");
}

static void long_lines_arrive(void **state)
{
    (void)state;
    RUN("-n", "1", "sh", "-c", "head -c 150000 /dev/zero | tr '\\0' x; echo; echo after");
    assert_int_equal(run.status, 0);
    size_t count = 0;
    for (const char *at = run.out; *at; at++)
        count += *at == 'x';
    assert_int_equal(count, 150000);
    SAYS(run.out, "x\n[0] after\n");
}

static void failure_ends_all(void **state)
{
    (void)state;
    RUN("-n", "3", "sh", "-c", "if [ $RANK = 1 ]; then exit 7; fi; sleep 100");
    assert_int_equal(run.status, 7);
    SAYS(run.err, "weir run: rank 1, process ");
    SAYS(run.err, ", ended with status 7; ending the others\n");
    RUN("-n", "2", "--servers", "1", "sh", "-c", "if [ $RANK = 2 ]; then kill -SEGV $$; fi; sleep 100 & wait");
    assert_int_equal(run.status, 128 + SIGSEGV);
    SAYS(run.err, "weir run: rank 2 (a server), process ");
    SAYS(run.err, "was killed by signal 11 (Segmentation fault)");
}

/* The others end with an error because rank 1 was killed; the status is of the cause. */
static void killed_rank_is_the_cause(void **state)
{
    (void)state;
    RUN("-n", "4", "--", rank_program, "die");
    assert_int_equal(run.status, 128 + SIGKILL);
    SAYS(run.err, "weir run: rank 1, process ");
    SAYS(run.err, "was killed by signal 9 (Killed)");
}

static void deaf_ranks_are_killed(void **state)
{
    (void)state;
    RUN("-n", "2", "sh", "-c", "trap '' TERM; if [ $RANK = 1 ]; then exit 3; fi; while :; do sleep 1; done");
    assert_int_equal(run.status, 3);
}

static void timeout_ends_all(void **state)
{
    (void)state;
    RUN("-n", "2", "--timeout", "0.2", "sleep", "100");
    assert_int_equal(run.status, 124);
    SAYS(run.err, "not done after 0.2 s");
    RUN("-n", "2", "--timeout", "300ms", "sleep", "100");
    assert_int_equal(run.status, 124);
    SAYS(run.err, "not done after 0.3 s");
}

static void signals_are_passed_on(void **state)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    (void)state;
    for (int i = 0; i < 3; i++) {
        START("-n", "2", "sh", "-c", "trap 'echo got; exit 0' INT TERM HUP; echo ready; while :; do sleep 0.05; done");
        await_output("ready", 2);
        kill(run.pid, signals[i]);
        finish();
        assert_int_equal(run.status, 0);
        SAYS(run.out, "[0] got\n");
        SAYS(run.out, "[1] got\n");
    }
    START("-n", "2", "sh", "-c", "echo ready; exec sleep 100");
    await_output("ready", 2);
    kill(run.pid, SIGTERM);
    finish();
    assert_int_equal(run.status, 128 + SIGTERM);
}

static void killed_weir_run_leaves_none_behind(void **state)
{
    (void)state;
    START("-n", "2", "sh", "-c", "echo ready; exec sleep 100");
    await_output("ready", 2);
    kill(run.pid, SIGKILL);
    finish();
    assert_int_equal(run.status, 128 + SIGKILL);
}

static void leftovers_are_killed(void **state)
{
    (void)state;
    RUN("-n", "2", "sh", "-c", "sleep 100 & echo done");
    assert_int_equal(run.status, 0);
    SAYS(run.out, "[1] done\n");
}

static void mistakes_are_told(void **state)
{
    (void)state;
    RUN("--help");
    assert_int_equal(run.status, 0);
    SAYS(run.out, "usage: weir run -n RANKS");
    RUN("-n", "2", "no-such-program");
    assert_int_equal(run.status, 127);
    SAYS(run.err, "cannot start rank 0: no-such-program: No such file or directory");
    RUN("-n", "2", "/");
    assert_int_equal(run.status, 126);
    static const char *const wrong[][4] = {
        {"-n", "2", NULL},         {"true", NULL},        {"-n", "0", "true", NULL},  {"-n", "2x", "true", NULL},
        {"--servers", "-1", NULL}, {"--port", "0", NULL}, {"--env", "=5", NULL},      {"--env", "NAME", NULL},
        {"--timeout", "-1", NULL}, {"--no-such", NULL},   {"--timeout", "nan", NULL},
        {"--env", "WEIR_RANK=1", NULL}, {"--env", "MASTER_PORT=1", NULL},
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        start(wrong[i]);
        finish();
        assert_int_equal(run.status, 2);
        SAYS(run.err, "weir run --help");
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_meet),
        cmocka_unit_test(environment_is_set),
        cmocka_unit_test(lines_stay_whole),
        cmocka_unit_test(streams_are_kept_apart),
        cmocka_unit_test(long_lines_arrive),
        cmocka_unit_test(failure_ends_all),
        cmocka_unit_test(killed_rank_is_the_cause),
        cmocka_unit_test(deaf_ranks_are_killed),
        cmocka_unit_test(timeout_ends_all),
        cmocka_unit_test(signals_are_passed_on),
        cmocka_unit_test(killed_weir_run_leaves_none_behind),
        cmocka_unit_test(leftovers_are_killed),
        cmocka_unit_test(mistakes_are_told),
    };
    if (argc != 3) {
        fprintf(stderr, "usage: %s WEIR RUN_RANK\n", argv[0]);
        return 2;
    }
    weir = argv[1];
    rank_program = argv[2];
    return cmocka_run_group_tests_name("weir run", tests, NULL, NULL);
}
