/* The store as an exchange: what contexts leave each other, beside calls that wait and run out of time. */
#include "job.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static weir_status until_known(const weir_exchange *x, bool is_put, const char *key, char *value, size_t *len)
{
    double end = job_now() + 20;
    weir_status status;
    do {
        struct pollfd news = {.fd = x->fd, .events = POLLIN};
        status = is_put ? x->put(x->arg, key, value, *len) : x->get(x->arg, key, value, len);
        if (status == WEIR_ERR_AGAIN)
            poll(&news, 1, 10);
    } while (status == WEIR_ERR_AGAIN && job_now() < end);
    return status;
}

static void leave_and_find(weir_boot *boot, void *arg)
{
    const weir_exchange *x = weir_boot_exchange(boot);
    char key[32], value[32], small[2];
    size_t len = sizeof(value), small_len = sizeof(small);
    int other = 1 - weir_boot_rank(boot);
    (void)arg;
    snprintf(key, sizeof(key), "weir/test/%d", other);
    EXPECT_STATUS(WEIR_ERR_AGAIN, x->get(x->arg, key, value, &len)); /* nobody has stored it */
    size_t room = sizeof(value);
    EXPECT_STATUS(WEIR_ERR_TIMEOUT, weir_boot_get(boot, "never", small, &room, 50)); /* the store forgets what is asked */
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "asked", NULL, 0));
    snprintf(key, sizeof(key), "weir/test/%d", weir_boot_rank(boot));
    size_t mine = 5;
    EXPECT_STATUS(WEIR_OK, until_known(x, true, key, "hello", &mine));
    EXPECT_STATUS(WEIR_ERR_MISMATCH, until_known(x, true, key, "again", &mine));
    snprintf(key, sizeof(key), "weir/test/%d", other);
    EXPECT_STATUS(WEIR_OK, until_known(x, false, key, value, &len));
    EXPECT(len == 5 && memcmp(value, "hello", 5) == 0);
    EXPECT_STATUS(WEIR_ERR_RANGE, until_known(x, false, key, small, &small_len));
    EXPECT_STATUS(WEIR_ERR_AGAIN, x->get(x->arg, "weir/test/none", value, &len));
    x->forget(x->arg, "weir/test/none");
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "found", NULL, 0));
}

/* Several contexts of a process contend for the same key: one has it, and each is told its own outcome. */
static void contend(weir_boot *boot, void *arg)
{
    const weir_exchange *x = weir_boot_exchange(boot);
    char key[32], value[8], mine[4][8];
    int stored = 0;
    (void)arg;
    weir_status status[4];
    for (int round = 0; round < 50; round++) {
        snprintf(key, sizeof(key), "weir/contend/%d", round);
        for (int i = 0; i < 4; i++) {
            snprintf(mine[i], sizeof(mine[i]), "%d.%d", weir_boot_rank(boot), i);
            status[i] = x->put(x->arg, key, mine[i], 4);
        }
        stored = 0;
        for (int i = 0; i < 4; i++) {
            size_t len = 4;
            if (status[i] == WEIR_ERR_AGAIN)
                status[i] = until_known(x, true, key, mine[i], &len);
            EXPECT(status[i] == WEIR_OK || status[i] == WEIR_ERR_MISMATCH);
            stored += status[i] == WEIR_OK;
        }
        EXPECT(stored <= 1);
        size_t len = sizeof(value);
        EXPECT_STATUS(WEIR_OK, until_known(x, false, key, value, &len));
        EXPECT(len == 4);
        for (int i = 0; i < 4; i++)
            EXPECT((status[i] == WEIR_OK) == (memcmp(value, mine[i], 4) == 0));
    }
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "contended", NULL, 0));
}

/* Many append at once: each value is in the queue once, and there are no gaps. */
static void queue_up(weir_boot *boot, void *arg)
{
    enum { EACH = 40, RANKS = 3 };
    const weir_exchange *x = weir_boot_exchange(boot);
    bool seen[RANKS][EACH] = {{false}};
    char key[32];
    int value[2];
    (void)arg;
    for (int i = 0; i < EACH; i++) {
        int mine[] = {weir_boot_rank(boot), i};
        EXPECT_STATUS(WEIR_OK, x->append(x->arg, "weir/queue", mine, sizeof(mine)));
    }
    for (int i = 0; i < EACH * RANKS; i++) {
        size_t len = sizeof(value);
        snprintf(key, sizeof(key), "weir/queue/%d", i);
        EXPECT_STATUS(WEIR_OK, until_known(x, false, key, (char *)value, &len));
        EXPECT(len == sizeof(value) && !seen[value[0]][value[1]]);
        seen[value[0]][value[1]] = true;
    }
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "queued", NULL, 0));
}

static void test_queue(void **state)
{
    (void)state;
    assert_true(job_run("127.0.0.1", 3, queue_up, NULL));
}

static void test_contention(void **state)
{
    (void)state;
    assert_true(job_run("127.0.0.1", 3, contend, NULL));
}

static void test_two_ranks(void **state)
{
    (void)state;
    assert_true(job_run("127.0.0.1", 2, leave_and_find, NULL));
}

static void test_alone(void **state)
{
    (void)state;
    weir_boot_params params = job_params(0, 1, job_port());
    weir_boot *boot;
    char value[8];
    size_t len = sizeof(value);
    assert_int_equal(weir_boot_create(&params, &boot), WEIR_OK);
    const weir_exchange *x = weir_boot_exchange(boot);
    assert_int_equal(x->get(x->arg, "k", value, &len), WEIR_ERR_AGAIN);
    assert_int_equal(x->put(x->arg, "k", "v", 1), WEIR_OK);
    assert_int_equal(x->put(x->arg, "k", "w", 1), WEIR_ERR_MISMATCH);
    assert_int_equal(x->get(x->arg, "k", value, &len), WEIR_OK);
    assert_true(len == 1 && value[0] == 'v');
    for (char i = '0'; i < '3'; i++)
        assert_int_equal(x->append(x->arg, "q", &i, 1), WEIR_OK);
    assert_int_equal(x->get(x->arg, "q/2", value, &len), WEIR_OK);
    assert_true(len == 1 && value[0] == '2');
    weir_boot_destroy(boot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_two_ranks), cmocka_unit_test(test_contention), cmocka_unit_test(test_queue),
                                       cmocka_unit_test(test_alone)};
    return cmocka_run_group_tests_name("exchange", tests, NULL, NULL);
}
