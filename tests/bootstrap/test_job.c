/* Jobs in which all goes well, and calls that are refused. */
#include "job.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

static void use_everything(weir_boot *boot, void *arg)
{
    int rank = weir_boot_rank(boot);
    int size = weir_boot_size(boot);
    int values[64] = {0};
    char key[32];
    (void)arg;
    for (int round = 0; round < 3; round++) {
        int mine = rank * 7 + round;
        snprintf(key, sizeof(key), "ints %d", round);
        EXPECT_STATUS(WEIR_OK, weir_boot_allgather(boot, key, NULL, 0, &mine, sizeof(mine), values));
        for (int i = 0; i < size; i++)
            EXPECT(values[i] == i * 7 + round);
        snprintf(key, sizeof(key), "round %d", round);
        EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, key, NULL, 0));
    }
    snprintf(key, sizeof(key), "from %d", rank);
    EXPECT_STATUS(WEIR_OK, weir_boot_put(boot, key, &rank, sizeof(rank)));
    for (int i = 0; i < size; i++) {
        size_t len = sizeof(values[0]);
        snprintf(key, sizeof(key), "from %d", i);
        EXPECT_STATUS(WEIR_OK, weir_boot_get(boot, key, &values[0], &len, -1));
        EXPECT(len == sizeof(values[0]) && values[0] == i);
    }
    EXPECT_STATUS(WEIR_OK, weir_boot_check(boot));
}

static void all_sizes_of_job_work(void **state)
{
    static const int worlds[] = {1, 2, 3, 4, 8, 16};
    (void)state;
    for (size_t i = 0; i < sizeof(worlds) / sizeof(worlds[0]); i++)
        assert_true(job_run("127.0.0.1", worlds[i], use_everything, NULL));
}

static void ipv6_and_names_work(void **state)
{
    (void)state;
    assert_true(job_run("::1", 3, use_everything, NULL));
    assert_true(job_run("localhost", 3, use_everything, NULL));
}

static void expect_facts(weir_boot *boot, void *arg)
{
    const char *address = arg;
    int rank = weir_boot_rank(boot);
    EXPECT(rank == job_rank && weir_boot_size(boot) == 3 && weir_boot_local_rank(boot) == rank);
    EXPECT(strcmp(weir_boot_local_address(boot), address) == 0);
    EXPECT(weir_boot_servers(boot) == 1);
    EXPECT(weir_boot_role(boot) == (rank == 2 ? WEIR_ROLE_SERVER : WEIR_ROLE_WORKER));
    EXPECT(weir_boot_fd(boot) >= 0);
}

static void facts_are_told(void **state)
{
    (void)state;
    setenv("WEIR_SERVERS", "1", 1);
    assert_true(job_run("127.0.0.1", 3, expect_facts, "127.0.0.1"));
    assert_true(job_run("::1", 3, expect_facts, "::1"));
    unsetenv("WEIR_SERVERS");
}

static void fill(uint8_t *bytes, size_t len, int seed)
{
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)(i * 31 + (size_t)seed * 101);
}

static void exchange_large_values(weir_boot *boot, void *arg)
{
    size_t len = WEIR_BOOT_VALUE_MAX;
    int size = weir_boot_size(boot);
    uint8_t *mine = malloc(len + 1);
    uint8_t *all = malloc(len * (size_t)size);
    (void)arg;
    fill(mine, len, weir_boot_rank(boot));
    EXPECT_STATUS(WEIR_OK, weir_boot_allgather(boot, "large", NULL, 0, mine, len, all));
    for (int i = 0; i < size; i++) {
        fill(mine, len, i);
        EXPECT(memcmp(mine, all + len * (size_t)i, len) == 0);
    }
    EXPECT_STATUS(WEIR_ERR_RANGE, weir_boot_put(boot, "too large", mine, len + 1));
    EXPECT_SAYS("65537 bytes; at most 65536");
    EXPECT_STATUS(WEIR_ERR_RANGE, weir_boot_allgather(boot, "larger", NULL, 0, mine, len + 1, all));
    free(mine);
    free(all);
}

static void large_values_arrive_whole(void **state)
{
    (void)state;
    assert_true(job_run("127.0.0.1", 5, exchange_large_values, NULL));
}

static void gather_subsets(weir_boot *boot, void *arg)
{
    static const int odd_first[] = {3, 1, 0};
    static const int evens[] = {4, 2};
    int rank = weir_boot_rank(boot);
    int values[5];
    bool is_even = rank == 4 || rank == 2;
    const int *group = is_even ? evens : odd_first;
    int n = is_even ? 2 : 3;
    (void)arg;
    EXPECT_STATUS(WEIR_OK, weir_boot_allgather(boot, is_even ? "b" : "a", group, n, &rank, sizeof(rank), values));
    for (int i = 0; i < n; i++)
        EXPECT(values[i] == group[i]);
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, is_even ? "bb" : "ab", group, n));
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_boot_barrier(boot, "not mine", is_even ? odd_first : evens, 2));
    EXPECT_SAYS("is not in the group");
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_boot_barrier(boot, "no such rank", (const int[]){rank, 5}, 2));
    EXPECT_SAYS("rank 5 is not one of the job's 5");
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_boot_barrier(boot, "twice", (const int[]){rank, 1, 1}, 3));
    EXPECT_SAYS("is twice in the group");
}

static void subsets_gather_in_their_order(void **state)
{
    (void)state;
    assert_true(job_run("127.0.0.1", 5, gather_subsets, NULL));
}

static void write_twice(weir_boot *boot, void *arg)
{
    char value[8] = "";
    size_t len = sizeof(value);
    (void)arg;
    if (weir_boot_rank(boot) == 0) {
        EXPECT_STATUS(WEIR_OK, weir_boot_put(boot, "once", "first", 6));
        EXPECT_STATUS(WEIR_ERR_MISMATCH, weir_boot_put(boot, "once", "second", 7));
        EXPECT_SAYS("key 'once' is taken");
        EXPECT_STATUS(WEIR_OK, weir_boot_put(boot, "empty", NULL, 0));
    }
    EXPECT_STATUS(WEIR_OK, weir_boot_get(boot, "once", value, &len, -1));
    EXPECT(len == 6 && strcmp(value, "first") == 0);
    len = 3;
    EXPECT_STATUS(WEIR_ERR_RANGE, weir_boot_get(boot, "once", value, &len, -1));
    EXPECT_SAYS("has 6 bytes, there is room for 3");
    EXPECT(len == 6);
    EXPECT_STATUS(WEIR_OK, weir_boot_get(boot, "empty", value, &len, -1));
    EXPECT(len == 0);
    EXPECT_STATUS(WEIR_ERR_INVALID, weir_boot_put(boot, "", "x", 1));
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "name", NULL, 0));
    EXPECT_STATUS(WEIR_ERR_MISMATCH, weir_boot_barrier(boot, "name", NULL, 0));
    EXPECT_SAYS("'name' was used before");
}

static void values_are_written_once(void **state)
{
    (void)state;
    assert_true(job_run("127.0.0.1", 1, write_twice, NULL));
    assert_true(job_run("127.0.0.1", 2, write_twice, NULL));
}

static void wait_in_vain(weir_boot *boot, void *arg)
{
    int value = 0;
    size_t len = sizeof(value);
    (void)arg;
    double start = job_now();
    EXPECT_STATUS(WEIR_ERR_TIMEOUT, weir_boot_get(boot, "never", &value, &len, 150));
    EXPECT_SAYS("key 'never': nobody has stored it");
    EXPECT(weir_boot_size(boot) == 1 || job_now() - start >= 0.149);
    EXPECT_STATUS(WEIR_OK, weir_boot_check(boot));
    EXPECT_STATUS(WEIR_ERR_TIMEOUT, weir_boot_get(boot, "late", &value, &len, 0));
    /* A late answer to the call that was given up must not be taken for another's. */
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "all gave up", NULL, 0));
    if (weir_boot_rank(boot) == 0) {
        int late = 5;
        EXPECT_STATUS(WEIR_OK, weir_boot_put(boot, "late", &late, sizeof(late)));
        late = 6;
        EXPECT_STATUS(WEIR_OK, weir_boot_put(boot, "later", &late, sizeof(late)));
    }
    EXPECT_STATUS(WEIR_OK, weir_boot_get(boot, "later", &value, &len, -1));
    EXPECT(value == 6);
    EXPECT_STATUS(WEIR_OK, weir_boot_get(boot, "late", &value, &len, -1));
    EXPECT(value == 5);
}

static void get_is_bounded(void **state)
{
    (void)state;
    assert_true(job_run("127.0.0.1", 1, wait_in_vain, NULL));
    assert_true(job_run("127.0.0.1", 3, wait_in_vain, NULL));
}

static void give_other_lengths(weir_boot *boot, void *arg)
{
    int rank = weir_boot_rank(boot);
    int all[12];
    (void)arg;
    EXPECT_STATUS(WEIR_ERR_MISMATCH, weir_boot_allgather(boot, "lengths", NULL, 0, all, rank == 1 ? 16 : 8, all));
    EXPECT_SAYS(rank == 1 ? "gives 8 bytes, this rank 16" : "rank 1 gives 16 bytes, this rank 8");
    EXPECT_STATUS(WEIR_ERR_MISMATCH, rank == 1 ? weir_boot_barrier(boot, "mixed", NULL, 0)
                                               : weir_boot_allgather(boot, "mixed", NULL, 0, all, 8, all));
    EXPECT_SAYS(rank == 1 ? "gives 8 bytes, this rank 0" : "rank 1 gives 0 bytes, this rank 8");
}

static void other_lengths_are_told(void **state)
{
    (void)state;
    assert_true(job_run("127.0.0.1", 3, give_other_lengths, NULL));
}

/* Rank 2 does not come; a barrier is used for a gathering's name. */
static void gather_in_vain(weir_boot *boot, void *arg)
{
    int rank = weir_boot_rank(boot), all[4] = {0};
    (void)arg;
    if (rank != 2) {
        EXPECT_STATUS(WEIR_ERR_TIMEOUT, weir_boot_allgather(boot, "vain", NULL, 0, &rank, sizeof(rank), all));
        EXPECT_SAYS("'vain': rank 2 did not come within WEIR_TIMEOUT");
        EXPECT_STATUS(WEIR_ERR_MISMATCH, weir_boot_allgather(boot, "vain", NULL, 0, &rank, sizeof(rank), all));
        EXPECT_SAYS("'vain' was used before");
        EXPECT_STATUS(WEIR_ERR_MISMATCH, weir_boot_barrier(boot, "vain", NULL, 0));
        if (rank == 0)
            EXPECT_STATUS(WEIR_OK, weir_boot_put(boot, "waited", "", 0));
    } else {
        size_t len = 0;
        EXPECT_STATUS(WEIR_OK, weir_boot_get(boot, "waited", NULL, &len, 20000));
    }
    for (int i = 0; i < 3; i++) { /* all is well after that */
        char name[16];
        snprintf(name, sizeof(name), "well %d", i);
        rank += i;
        EXPECT_STATUS(WEIR_OK, weir_boot_allgather(boot, name, NULL, 0, &rank, sizeof(rank), all));
        for (int j = 0; j < 4; j++)
            EXPECT(all[j] == j + (i == 0 ? 0 : i == 1 ? 1 : 3));
    }
}

static void who_does_not_gather_is_named(void **state)
{
    (void)state;
    const char *before = getenv("WEIR_TIMEOUT");
    char kept[32];
    snprintf(kept, sizeof(kept), "%s", before ? before : "");
    setenv("WEIR_TIMEOUT", "2s", 1);
    assert_true(job_run("127.0.0.1", 4, gather_in_vain, NULL));
    if (before)
        setenv("WEIR_TIMEOUT", kept, 1);
    else
        unsetenv("WEIR_TIMEOUT");
}

static void leave_one_by_one(weir_boot *boot, void *arg)
{
    int rank = weir_boot_rank(boot);
    char value[4];
    size_t len = sizeof(value);
    (void)arg;
    /* Rank 0 leaves first, rank 3 last: the store serves on, and who left is no failure. */
    for (int i = 0; i < rank; i++) {
        poll(NULL, 0, 30);
        EXPECT_STATUS(WEIR_OK, weir_boot_check(boot));
    }
    EXPECT_STATUS(WEIR_OK, weir_boot_put(boot, (const char *[]){"a", "b", "c", "d"}[rank], "x", 1));
    EXPECT_STATUS(WEIR_OK, weir_boot_get(boot, "a", value, &len, -1));
}

static void leaving_in_order_is_no_failure(void **state)
{
    (void)state;
    assert_true(job_run("127.0.0.1", 4, leave_one_by_one, NULL));
}

static void stay_longer_than_store(weir_boot *boot, void *arg)
{
    char value[4];
    size_t len = sizeof(value);
    (void)arg;
    if (weir_boot_rank(boot) == 0)
        return;
    double until = job_now() + 1.5;
    while (job_now() < until) {
        EXPECT_STATUS(WEIR_OK, weir_boot_check(boot));
        poll(NULL, 0, 20);
    }
    EXPECT_STATUS(WEIR_ERR_PEER_GONE, weir_boot_get(boot, "a", value, &len, -1));
    EXPECT_SAYS("rank 0 has left the job");
    EXPECT_STATUS(WEIR_OK, weir_boot_check(boot));
    struct pollfd poll_fd = {.fd = weir_boot_fd(boot), .events = POLLIN};
    EXPECT(poll(&poll_fd, 1, 0) == 0);
}

static void closed_store_is_no_failure(void **state)
{
    (void)state;
    setenv("WEIR_TIMEOUT", "500ms", 1);
    assert_true(job_run("127.0.0.1", 3, stay_longer_than_store, NULL));
    unsetenv("WEIR_TIMEOUT");
}

static void join_by_environment(int rank, void *arg)
{
    weir_boot *boot;
    char text[16];
    bool plain = *(bool *)arg;
    snprintf(text, sizeof(text), "%d", rank);
    setenv(plain ? "RANK" : "WEIR_RANK", text, 1);
    setenv("WORLD_SIZE", plain ? "2" : "9", 1);
    EXPECT_STATUS(WEIR_OK, weir_boot_create(NULL, &boot));
    EXPECT(weir_boot_rank(boot) == rank && weir_boot_size(boot) == 2);
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "all", NULL, 0));
    weir_boot_destroy(boot);
}

static void environment_is_read(void **state)
{
    (void)state;
    for (int plain = 0; plain < 2; plain++) {
        char port[16];
        bool is_plain = plain;
        snprintf(port, sizeof(port), "%d", job_port());
        setenv("MASTER_PORT", port, 1);
        if (!plain)
            setenv("WEIR_WORLD_SIZE", "2", 1);
        pid_t first = job_start(0, join_by_environment, &is_plain);
        pid_t second = job_start(1, join_by_environment, &is_plain);
        unsetenv("WEIR_WORLD_SIZE");
        assert_int_equal(job_wait(first), 0);
        assert_int_equal(job_wait(second), 0);
    }
    unsetenv("MASTER_PORT");
}

static void expect_bad(weir_boot_params params, const char *says)
{
    weir_boot *boot = NULL;
    EXPECT_STATUS(WEIR_ERR_CONFIG, weir_boot_create(&params, &boot));
    EXPECT_SAYS(says);
    EXPECT(boot == NULL);
}

static void give_bad_parameters(int rank, void *arg)
{
    weir_boot_params params = job_params(5, 4, 1000);
    (void)rank, (void)arg;
    expect_bad(params, "rank 5 of 4 ranks");
    params.rank = 1;
    params.servers = 5;
    expect_bad(params, "5 servers of 4 ranks");
    params.servers = 0;
    params.master_port = 0;
    expect_bad(params, "port 0");
    params.world_size = 0;
    expect_bad(params, "a job of 0 ranks");
}

static void stay_alone(int rank, void *arg)
{
    weir_boot *boot;
    int value = 3;
    int all = 0;
    (void)rank, (void)arg;
    EXPECT_STATUS(WEIR_OK, weir_boot_create(NULL, &boot));
    EXPECT(weir_boot_size(boot) == 1 && weir_boot_fd(boot) == -1 && weir_boot_local_address(boot) == NULL);
    EXPECT(weir_boot_role(boot) == WEIR_ROLE_WORKER);
    EXPECT_STATUS(WEIR_OK, weir_boot_allgather(boot, "all", NULL, 0, &value, sizeof(value), &all));
    EXPECT(all == 3);
    EXPECT_STATUS(WEIR_OK, weir_boot_check(boot));
    weir_boot_fail(boot, WEIR_ERR_KEY, "no good");
    weir_boot_fail(boot, WEIR_ERR_IO, "later");
    EXPECT_STATUS(WEIR_ERR_KEY, weir_boot_check(boot));
    EXPECT_SAYS("no good");
    weir_boot_destroy(boot);
    weir_boot_destroy(NULL);
}

static void bad_parameters_are_refused(void **state)
{
    (void)state;
    assert_int_equal(job_wait(job_start(0, give_bad_parameters, NULL)), 0);
}

static void one_rank_needs_nothing(void **state)
{
    (void)state;
    assert_int_equal(job_wait(job_start(0, stay_alone, NULL)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank_needs_nothing),
        cmocka_unit_test(bad_parameters_are_refused),
        cmocka_unit_test(all_sizes_of_job_work),
        cmocka_unit_test(ipv6_and_names_work),
        cmocka_unit_test(facts_are_told),
        cmocka_unit_test(environment_is_read),
        cmocka_unit_test(large_values_arrive_whole),
        cmocka_unit_test(subsets_gather_in_their_order),
        cmocka_unit_test(values_are_written_once),
        cmocka_unit_test(get_is_bounded),
        cmocka_unit_test(other_lengths_are_told),
        cmocka_unit_test(who_does_not_gather_is_named),
        cmocka_unit_test(leaving_in_order_is_no_failure),
        cmocka_unit_test(closed_store_is_no_failure),
    };
    return cmocka_run_group_tests_name("bootstrap: jobs", tests, NULL, NULL);
}
