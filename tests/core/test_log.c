/* The log: what is written at which level, how a line looks, and where it goes. */
#include "core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* A folder for each test, and standard error caught in a file of it. */
struct fixture {
    char folder[64];
    int saved_stderr;
};

static char content[1 << 20];

static const char *path_in(const struct fixture *fixture, const char *name)
{
    static char path[128];
    snprintf(path, sizeof(path), "%s/%s", fixture->folder, name);
    return path;
}

static const char *read_file(const struct fixture *fixture, const char *name)
{
    FILE *file = fopen(path_in(fixture, name), "r");
    size_t len = file ? fread(content, 1, sizeof(content) - 1, file) : 0;
    content[len] = '\0';
    if (file)
        fclose(file);
    return content;
}

static int set_up(void **state)
{
    static struct fixture fixture;
    strcpy(fixture.folder, "log-test-XXXXXX");
    if (!mkdtemp(fixture.folder))
        return -1;
    int fd = open(path_in(&fixture, "stderr"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    fixture.saved_stderr = dup(STDERR_FILENO);
    dup2(fd, STDERR_FILENO);
    close(fd);
    wi_log_set_rank(-1);
    wi_log_setup(WI_LOG_WARN, "");
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    static const char *const names[] = {"stderr", "log", "log.3.txt", "log.5.txt"};
    dup2(fixture->saved_stderr, STDERR_FILENO);
    close(fixture->saved_stderr);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        unlink(path_in(fixture, names[i]));
    return rmdir(fixture->folder);
}

static void levels_below_are_not_even_evaluated(void **state)
{
    int evaluated = 0;
    wi_log(WI_LOG_ERROR, "error %d", ++evaluated);
    wi_warn("warning %d", ++evaluated);
    wi_info("information %d", ++evaluated);
    wi_debug("debug %d", ++evaluated);
    assert_int_equal(evaluated, 2);
    assert_string_equal(read_file(*state, "stderr"), "[weir] ERROR error 1\n[weir] WARN warning 2\n");
    wi_log_setup(WI_LOG_TRACE, "");
    wi_trace("trace %d", ++evaluated);
    assert_int_equal(evaluated, 3);
    assert_non_null(strstr(read_file(*state, "stderr"), "[weir] TRACE trace 3 ("));
}

static void rank_stands_in_front(void **state)
{
    wi_log_set_rank(12);
    wi_warn("text");
    assert_string_equal(read_file(*state, "stderr"), "[weir 12] WARN text\n");
}

static void debug_tells_where_within_the_project(void **state)
{
    char expected[128];
    wi_log_setup(WI_LOG_DEBUG, "");
    snprintf(expected, sizeof(expected), "[weir] DEBUG text (tests/core/test_log.c:%d)\n", __LINE__ + 1);
    wi_debug("text");
    assert_string_equal(read_file(*state, "stderr"), expected);
}

static void one_event_is_one_line(void **state)
{
    wi_warn("a\nb\r\tc\x1b[31m\x7f ä");
    assert_string_equal(read_file(*state, "stderr"), "[weir] WARN a b  c [31m  ä\n");
}

static void long_events_are_cut_but_tell_where(void **state)
{
    char text[5000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    wi_log_setup(WI_LOG_DEBUG, "");
    wi_debug("%s", text);
    const char *line = read_file(*state, "stderr");
    size_t len = strlen(line);
    assert_in_range(len, 1200, 1280);
    assert_ptr_equal(strchr(line, '\n'), line + len - 1);
    assert_non_null(strstr(line, "xx (tests/core/test_log.c:"));
}

static void errno_stays(void **state)
{
    (void)state;
    wi_log_setup(WI_LOG_WARN, "no/such/folder/log");
    errno = ERANGE;
    wi_warn("text");
    assert_int_equal(errno, ERANGE);
}

static void file_is_appended_to(void **state)
{
    wi_log_setup(WI_LOG_WARN, path_in(*state, "log"));
    wi_warn("one");
    wi_log_setup(WI_LOG_WARN, path_in(*state, "log"));
    wi_warn("two");
    assert_string_equal(read_file(*state, "log"), "[weir] WARN one\n[weir] WARN two\n");
    assert_string_equal(read_file(*state, "stderr"), "");
}

static void each_rank_has_its_file(void **state)
{
    wi_log_setup(WI_LOG_WARN, path_in(*state, "log.%r.txt"));
    wi_warn("early");
    assert_string_equal(read_file(*state, "stderr"), "[weir] WARN early\n");
    wi_log_set_rank(3);
    wi_warn("text");
    wi_warn("more");
    assert_string_equal(read_file(*state, "log.3.txt"), "[weir 3] WARN text\n[weir 3] WARN more\n");
    pid_t child = fork();
    if (child == 0) {
        wi_log_set_rank(5);
        wi_warn("child");
        _exit(0);
    }
    waitpid(child, NULL, 0);
    assert_string_equal(read_file(*state, "log.5.txt"), "[weir 5] WARN child\n");
    assert_string_equal(read_file(*state, "log.3.txt"), "[weir 3] WARN text\n[weir 3] WARN more\n");
}

static void file_that_cannot_be_opened_is_told_once(void **state)
{
    wi_log_setup(WI_LOG_WARN, "no/such/folder/log");
    wi_warn("one");
    wi_warn("two");
    assert_string_equal(read_file(*state, "stderr"),
                        "[weir] WARN WEIR_LOG_FILE=no/such/folder/log: No such file or directory; the log goes to "
                        "standard error\n[weir] WARN one\n[weir] WARN two\n");
}

enum { THREADS = 4, LINES = 500 };

static void *write_lines(void *arg)
{
    for (int i = 0; i < LINES; i++)
        wi_warn("thread %d line %d end", *(int *)arg, i);
    return NULL;
}

static void lines_of_threads_stay_whole(void **state)
{
    pthread_t threads[THREADS];
    int numbers[THREADS], next[THREADS] = {0}, thread, line, used;
    wi_log_setup(WI_LOG_WARN, path_in(*state, "log"));
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, &numbers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    const char *text = read_file(*state, "log");
    for (int i = 0; i < THREADS * LINES; i++, text += used) {
        used = 0;
        assert_int_equal(sscanf(text, "[weir] WARN thread %d line %d end\n%n", &thread, &line, &used), 2);
        assert_true(used > 0);
        assert_in_range(thread, 0, THREADS - 1);
        assert_int_equal(line, next[thread]++);
    }
    assert_int_equal(*text, '\0');
}

int main(void)
{
#define TEST(_name) cmocka_unit_test_setup_teardown(_name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(levels_below_are_not_even_evaluated),
        TEST(rank_stands_in_front),
        TEST(debug_tells_where_within_the_project),
        TEST(one_event_is_one_line),
        TEST(long_events_are_cut_but_tell_where),
        TEST(errno_stays),
        TEST(file_is_appended_to),
        TEST(each_rank_has_its_file),
        TEST(file_that_cannot_be_opened_is_told_once),
        TEST(lines_of_threads_stay_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
