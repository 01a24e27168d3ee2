/* A rank that dies or says it has failed is told to all others at once, with a sentence that names it. */
#include "job.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define WORLD 5

struct scene {
    int port;
    int victim;
    bool in_get; /* the others wait for a value, instead of checking */
    const char *says;
};

static void die_or_see_it(int rank, void *arg)
{
    const struct scene *scene = arg;
    weir_boot *boot;
    char value[4];
    size_t len = sizeof(value);
    weir_boot_params params = job_params(rank, WORLD, scene->port);
    EXPECT_STATUS(WEIR_OK, weir_boot_create(&params, &boot));
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "all", NULL, 0));
    if (rank == scene->victim) {
        poll(NULL, 0, 100);
        kill(getpid(), SIGKILL);
    }
    struct pollfd readable = {.fd = weir_boot_fd(boot), .events = POLLIN};
    weir_status status = WEIR_OK;
    double start = job_now();
    if (scene->in_get)
        status = weir_boot_get(boot, "never", value, &len, -1);
    while (status == WEIR_OK && poll(&readable, 1, 20000) == 1)
        status = weir_boot_check(boot);
    EXPECT(status == WEIR_ERR_PEER_GONE);
    EXPECT_SAYS(scene->says);
    EXPECT(job_now() - start < 10); /* far below WEIR_TIMEOUT: told, not timed out */
    EXPECT_STATUS(WEIR_ERR_PEER_GONE, weir_boot_check(boot));
    EXPECT_SAYS(scene->says);
    EXPECT(poll(&readable, 1, 0) == 1); /* once failed, it stays failed */
    EXPECT_STATUS(WEIR_ERR_PEER_GONE, weir_boot_get(boot, "never", value, &len, -1));
    weir_boot_destroy(boot);
}

static void play(int victim, bool in_get)
{
    pid_t pids[WORLD];
    char says[160];
    char host[64] = "";
    struct scene scene = {job_port(), victim, in_get, says};
    gethostname(host, sizeof(host) - 1);
    pids[victim] = job_start(victim, die_or_see_it, &scene);
    if (victim == 0)
        snprintf(says, sizeof(says), "rank 0, which serves the store at 127.0.0.1 port %d, ended without leaving",
                 scene.port);
    else
        snprintf(says, sizeof(says), "rank %d (process %d on %s) ended without leaving the job", victim,
                 (int)pids[victim], host);
    for (int rank = 0; rank < WORLD; rank++)
        if (rank != victim)
            pids[rank] = job_start(rank, die_or_see_it, &scene);
    for (int rank = 0; rank < WORLD; rank++)
        assert_int_equal(job_wait(pids[rank]), rank == victim ? 128 + SIGKILL : 0);
}

static void killed_rank_is_told(void **state)
{
    (void)state;
    play(3, false);
    play(2, true);
}

static void killed_rank_0_is_told(void **state)
{
    (void)state;
    play(0, false);
    play(0, true);
}

/* A rank that dies before all are there ends the waiting of the others. */
static void join_in_vain(int rank, void *arg)
{
    weir_boot *boot;
    weir_boot_params params = job_params(rank, 3, *(int *)arg);
    double start = job_now();
    EXPECT_STATUS(WEIR_ERR_PEER_GONE, weir_boot_create(&params, &boot));
    EXPECT_SAYS("rank 2 (process");
    EXPECT_SAYS("on raw) ended without leaving the job");
    EXPECT(job_now() - start < 20);
}

static void death_while_joining_is_told(void **state)
{
    int port = job_port();
    (void)state;
    pid_t zero = job_start(0, join_in_vain, &port);
    int fd = job_join_raw(2, 3, port);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(job_wait(zero), 0);
}

/* A member that sends what cannot be right is cut off, and named. */
static void see_protocol_violated(int rank, void *arg)
{
    weir_boot *boot = NULL;
    weir_boot_params params = job_params(rank, 2, *(int *)arg);
    weir_status status = weir_boot_create(&params, &boot); /* may see it already */
    struct pollfd readable = {.fd = boot ? weir_boot_fd(boot) : -1, .events = POLLIN};
    while (status == WEIR_OK && poll(&readable, 1, 20000) == 1)
        status = weir_boot_check(boot);
    EXPECT(status == WEIR_ERR_PROTOCOL);
    EXPECT_SAYS("rank 1 (process");
    EXPECT_SAYS("on raw) sent the store something that cannot be right");
    weir_boot_destroy(boot);
}

static void damage_from_member_is_told(void **state)
{
    int port = job_port();
    (void)state;
    pid_t zero = job_start(0, see_protocol_violated, &port);
    int fd = job_join_raw(1, 2, port);
    assert_true(fd >= 0);
    assert_int_equal(send(fd, "WEIR\x01\x04\0\0\xff\xff\xff\xff", 12, MSG_NOSIGNAL), 12);
    assert_int_equal(job_wait(zero), 0);
    close(fd);
}

static void fail_or_see_it(weir_boot *boot, void *arg)
{
    int rank = weir_boot_rank(boot);
    int failing = *(int *)arg;
    char value[4];
    size_t len = sizeof(value);
    char says[64];
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "all", NULL, 0));
    if (rank == failing) {
        weir_boot_fail(boot, WEIR_ERR_MISMATCH, "count 7, not 8\nas others");
        EXPECT_STATUS(WEIR_ERR_MISMATCH, weir_boot_check(boot));
        return;
    }
    snprintf(says, sizeof(says), "rank %d (process", failing);
    EXPECT_STATUS(WEIR_ERR_MISMATCH, weir_boot_get(boot, "never", value, &len, -1));
    EXPECT_SAYS(says);
    EXPECT_SAYS("failed: count 7, not 8?as others");
    EXPECT_STATUS(WEIR_ERR_MISMATCH, weir_boot_check(boot));
}

static void failure_is_told_to_all(void **state)
{
    (void)state;
    for (int failing = 0; failing < 2; failing++)
        assert_true(job_run("127.0.0.1", 4, fail_or_see_it, &failing));
}

/* ---- other threads ---- */

struct watcher {
    weir_boot *boot;
    weir_status status;
};

static void *watch(void *arg)
{
    struct watcher *watcher = arg;
    while ((watcher->status = weir_boot_check(watcher->boot)) == WEIR_OK)
        poll(NULL, 0, 1);
    return NULL;
}

static void *fail_soon(void *arg)
{
    poll(NULL, 0, 100);
    weir_boot_fail(arg, WEIR_ERR_IO, "a disk is full");
    return NULL;
}

/* Calls in one thread, checks in a second, and a failure from a third that ends a call that waits. */
static void use_from_threads(weir_boot *boot, void *arg)
{
    struct watcher watcher = {boot, WEIR_OK};
    pthread_t checking;
    pthread_t failing;
    char value[4];
    size_t len = sizeof(value);
    char name[32];
    (void)arg;
    EXPECT(pthread_create(&checking, NULL, watch, &watcher) == 0);
    for (int i = 0; i < 50; i++) {
        snprintf(name, sizeof(name), "step %d", i);
        EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, name, NULL, 0));
    }
    bool fails = weir_boot_rank(boot) == 1;
    EXPECT(!fails || pthread_create(&failing, NULL, fail_soon, boot) == 0);
    EXPECT_STATUS(WEIR_ERR_IO, weir_boot_get(boot, "never", value, &len, -1));
    EXPECT_SAYS("a disk is full");
    pthread_join(checking, NULL);
    EXPECT(watcher.status == WEIR_ERR_IO);
    if (fails)
        pthread_join(failing, NULL);
}

static void threads_may_check_and_fail(void **state)
{
    (void)state;
    assert_true(job_run("127.0.0.1", 3, use_from_threads, NULL));
}

/* A rank that does not come to a barrier is named to those who wait. */
static void miss_a_barrier(weir_boot *boot, void *arg)
{
    (void)arg;
    if (weir_boot_rank(boot) != 2) {
        EXPECT_STATUS(WEIR_ERR_TIMEOUT, weir_boot_barrier(boot, "step", NULL, 0));
        EXPECT_SAYS("'step': rank 2 did not come within WEIR_TIMEOUT");
    }
    EXPECT_STATUS(WEIR_OK, weir_boot_check(boot));
}

static void missing_rank_of_barrier_is_named(void **state)
{
    (void)state;
    setenv("WEIR_TIMEOUT", "400ms", 1);
    assert_true(job_run("127.0.0.1", 4, miss_a_barrier, NULL));
    unsetenv("WEIR_TIMEOUT");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_rank_is_told),
        cmocka_unit_test(killed_rank_0_is_told),
        cmocka_unit_test(death_while_joining_is_told),
        cmocka_unit_test(damage_from_member_is_told),
        cmocka_unit_test(failure_is_told_to_all),
        cmocka_unit_test(threads_may_check_and_fail),
        cmocka_unit_test(missing_rank_of_barrier_is_named),
    };
    return cmocka_run_group_tests_name("bootstrap: failures", tests, NULL, NULL);
}
