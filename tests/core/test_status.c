/* Names of statuses, and the sentence of the last error, which is a thread's own. */
#include "core/error.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const weir_status all[] = {
    WEIR_OK,
    WEIR_ERR_AGAIN,
    WEIR_ERR_INVALID,
    WEIR_ERR_CONFIG,
    WEIR_ERR_UNSUPPORTED,
    WEIR_ERR_NO_MEMORY,
    WEIR_ERR_LIMIT,
    WEIR_ERR_NO_DEVICE,
    WEIR_ERR_IO,
    WEIR_ERR_CANCELED,
    WEIR_ERR_TIMEOUT,
    WEIR_ERR_KEY,
    WEIR_ERR_RANGE,
    WEIR_ERR_PEER_UNREACHABLE,
    WEIR_ERR_PEER_GONE,
    WEIR_ERR_PROTOCOL,
    WEIR_ERR_MISMATCH,
    WEIR_ERR_JOB_FAILED,
};

enum { STATUS_COUNT = sizeof(all) / sizeof(all[0]) };

static void every_status_has_a_name_of_its_own(void **state)
{
    (void)state;
    const char *unknown = weir_status_string((weir_status)9999);
    assert_string_equal(unknown, "unknown status");
    assert_string_equal(weir_status_string((weir_status)-1), unknown);
    for (size_t i = 0; i < STATUS_COUNT; i++) {
        assert_string_not_equal(weir_status_string(all[i]), unknown);
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(weir_status_string(all[i]), weir_status_string(all[k]));
    }
}

static void error_sets_sentence_and_keeps_errno(void **state)
{
    (void)state;
    errno = EPIPE;
    assert_int_equal(wi_error(WEIR_ERR_KEY, "put to rank %d: %s", 3, "revoked"), WEIR_ERR_KEY);
    assert_int_equal(errno, EPIPE);
    assert_string_equal(weir_last_error(), "put to rank 3: revoked");
}

static void prefix_goes_in_front(void **state)
{
    (void)state;
    wi_error(WEIR_ERR_IO, "bind: refused");
    errno = EAGAIN;
    assert_int_equal(wi_error_prefix(WEIR_ERR_IO, "rank %d", 2), WEIR_ERR_IO);
    assert_int_equal(errno, EAGAIN);
    assert_string_equal(weir_last_error(), "rank 2: bind: refused");
}

static void arguments_may_be_the_old_sentence(void **state)
{
    (void)state;
    wi_error(WEIR_ERR_IO, "inner");
    wi_error(WEIR_ERR_IO, "outer: %s", weir_last_error());
    assert_string_equal(weir_last_error(), "outer: inner");
    wi_error_prefix(WEIR_ERR_IO, "%s again", weir_last_error());
    assert_string_equal(weir_last_error(), "outer: inner again: outer: inner");
}

static void long_sentences_are_cut(void **state)
{
    (void)state;
    char text[3000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    wi_error(WEIR_ERR_IO, "%s", text);
    assert_int_equal(strlen(weir_last_error()), 1023);
    wi_error_prefix(WEIR_ERR_IO, "front");
    assert_int_equal(strlen(weir_last_error()), 1023);
    assert_memory_equal(weir_last_error(), "front: xxx", 10);
    wi_error_prefix(WEIR_ERR_IO, "%s", text);
    assert_int_equal(strlen(weir_last_error()), 1023);
}

/* Sets this thread's sentence many times over while others do, and finds its own each time. */
static void *sentence_of_its_own(void *arg)
{
    char expected[64];
    if (weir_last_error()[0] != '\0')
        return "a new thread begins with a sentence";
    for (int turn = 0; turn < 2000; turn++) {
        snprintf(expected, sizeof(expected), "thread %d turn %d", *(int *)arg, turn);
        wi_error(WEIR_ERR_IO, "thread %d turn %d", *(int *)arg, turn);
        if (strcmp(weir_last_error(), expected) != 0)
            return "a thread reads another one's sentence";
    }
    return NULL;
}

static void sentences_belong_to_threads(void **state)
{
    (void)state;
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    int numbers[THREADS];
    wi_error(WEIR_ERR_IO, "main");
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, sentence_of_its_own, &numbers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *complaint;
        assert_int_equal(pthread_join(threads[i], &complaint), 0);
        if (complaint)
            fail_msg("%s", (const char *)complaint);
    }
    assert_string_equal(weir_last_error(), "main");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_a_name_of_its_own),
        cmocka_unit_test(error_sets_sentence_and_keeps_errno),
        cmocka_unit_test(prefix_goes_in_front),
        cmocka_unit_test(arguments_may_be_the_old_sentence),
        cmocka_unit_test(long_sentences_are_cut),
        cmocka_unit_test(sentences_belong_to_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
