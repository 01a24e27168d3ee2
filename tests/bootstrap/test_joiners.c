/* Who comes late, not at all, twice or from elsewhere gets a sentence that names it;
 * strangers do not disturb the job. */
#include "bootstrap/wire.h"
#include "job.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* What a rank gives to weir_boot_create() and gets from it. */
struct joiner {
    weir_boot_params params;
    const char *job_id;
    const char *timeout;
    weir_status status;
    const char *says[3]; /* of the sentence */
    double within_s;
    int start_after_ms;
};

static void join(int rank, void *arg)
{
    const struct joiner *joiner = arg;
    weir_boot *boot;
    weir_boot_params params = joiner->params;
    params.rank = rank;
    if (joiner->job_id)
        setenv("WEIR_JOB_ID", joiner->job_id, 1);
    if (joiner->timeout)
        setenv("WEIR_TIMEOUT", joiner->timeout, 1);
    poll(NULL, 0, joiner->start_after_ms);
    double start = job_now();
    EXPECT_STATUS(joiner->status, weir_boot_create(&params, &boot));
    EXPECT(joiner->within_s == 0 || job_now() - start < joiner->within_s);
    for (int i = 0; i < 3 && joiner->says[i]; i++)
        EXPECT_SAYS(joiner->says[i]);
    if (joiner->status != WEIR_OK)
        return;
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "all", NULL, 0));
    EXPECT_STATUS(WEIR_OK, weir_boot_check(boot));
    weir_boot_destroy(boot);
}

static void missing_ranks_are_named(void **state)
{
    struct joiner joiner = {.params = job_params(0, 7, job_port()), .timeout = "1s", .status = WEIR_ERR_TIMEOUT};
    (void)state;
    joiner.says[0] = "ranks 1, 4-6 of 7 did not come within WEIR_TIMEOUT";
    joiner.within_s = 2.5;
    pid_t pids[] = {job_start(0, join, &joiner), job_start(2, join, &joiner), job_start(3, join, &joiner)};
    for (int i = 0; i < 3; i++)
        assert_int_equal(job_wait(pids[i]), 0);
}

static void late_ranks_are_waited_for(void **state)
{
    int port = job_port();
    struct joiner early = {.params = job_params(0, 3, port), .status = WEIR_OK};
    struct joiner late = early;
    late.start_after_ms = 400;
    (void)state;
    /* Rank 0, with the store, comes last. */
    pid_t pids[] = {job_start(1, join, &early), job_start(2, join, &early), job_start(0, join, &late)};
    for (int i = 0; i < 3; i++)
        assert_int_equal(job_wait(pids[i]), 0);
}

static void no_store_is_said(void **state)
{
    struct joiner joiner = {.params = job_params(1, 2, job_port()), .timeout = "300ms"};
    (void)state;
    joiner.status = WEIR_ERR_PEER_UNREACHABLE;
    joiner.says[0] = "no store at 127.0.0.1 port";
    joiner.says[1] = "Connection refused; is rank 0 running there";
    assert_int_equal(job_wait(job_start(1, join, &joiner)), 0);
    joiner.params.master_addr = "no-such-host.invalid";
    joiner.says[0] = "no store at no-such-host.invalid port";
    joiner.says[1] = NULL;
    assert_int_equal(job_wait(job_start(1, join, &joiner)), 0);
}

/* A job of two ranks; before its last one comes a third process comes, which gets what `third` says. */
static void job_goes_on_beside(struct joiner *third, int third_rank)
{
    struct joiner good = {.params = job_params(0, 2, third->params.master_port), .job_id = "job-a", .status = WEIR_OK};
    third->within_s = 20; /* is turned away, does not time out */
    pid_t first = job_start(0, join, &good);
    int fd = job_connect(third->params.master_port); /* rank 0 has begun to serve */
    assert_true(fd >= 0);
    assert_int_equal(job_wait(job_start(third_rank, join, third)), 0);
    pid_t second = job_start(1, join, &good);
    assert_int_equal(job_wait(first), 0);
    assert_int_equal(job_wait(second), 0);
    close(fd);
}

static void other_job_is_turned_away(void **state)
{
    struct joiner third = {.params = job_params(1, 2, job_port()), .job_id = "job-b", .status = WEIR_ERR_MISMATCH};
    (void)state;
    third.says[0] = "(rank 1 of 2) belongs to job 'job-b'";
    third.says[1] = "serves job 'job-a': WEIR_JOB_ID differs";
    job_goes_on_beside(&third, 1);
}

static void other_world_is_turned_away(void **state)
{
    struct joiner third = {.params = job_params(1, 3, job_port()), .job_id = "job-a", .status = WEIR_ERR_MISMATCH};
    (void)state;
    third.says[0] = "was started with 3 ranks, 0 of them servers; rank 0 with 2 ranks, 0 of them servers";
    job_goes_on_beside(&third, 1);
    third.params = job_params(1, 2, job_port());
    third.params.servers = 1;
    third.says[0] = "was started with 2 ranks, 1 of them servers; rank 0 with 2 ranks, 0 of them servers";
    job_goes_on_beside(&third, 1);
}

/* One of two with the same rank: ends with 10 when it was the one that was turned away. */
static void join_or_be_turned_away(int rank, void *arg)
{
    weir_boot *boot;
    weir_boot_params params = job_params(rank, 3, *(int *)arg);
    char host[64] = "";
    char says[160];
    gethostname(host, sizeof(host) - 1);
    weir_status status = weir_boot_create(&params, &boot);
    if (status == WEIR_OK) {
        EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "all", NULL, 0));
        weir_boot_destroy(boot);
        return;
    }
    EXPECT(status == WEIR_ERR_MISMATCH);
    EXPECT_SAYS("turned away by the store: rank 1 is process ");
    snprintf(says, sizeof(says), "; process %d on %s (rank 1 of 3) has the same rank", (int)getpid(), host);
    EXPECT_SAYS(says);
    exit(10);
}

static void duplicate_is_turned_away(void **state)
{
    int port = job_port();
    struct joiner good = {.params = job_params(0, 3, port), .status = WEIR_OK};
    int away = 0;
    (void)state;
    pid_t zero = job_start(0, join, &good);
    pid_t twins[] = {job_start(1, join_or_be_turned_away, &port), job_start(1, join_or_be_turned_away, &port)};
    /* The one that is turned away ends first: the other waits for rank 2. */
    siginfo_t info;
    assert_int_equal(waitid(P_ALL, 0, &info, WEXITED | WNOWAIT), 0);
    pid_t two = job_start(2, join, &good);
    for (int i = 0; i < 2; i++) {
        int status = job_wait(twins[i]);
        assert_true(status == 0 || status == 10);
        away += status == 10;
    }
    assert_int_equal(away, 1);
    assert_int_equal(job_wait(zero), 0);
    assert_int_equal(job_wait(two), 0);
}

static void second_rank_0_finds_port_in_use(void **state)
{
    struct joiner second = {.params = job_params(0, 2, job_port()), .status = WEIR_ERR_PEER_UNREACHABLE};
    char says[96];
    (void)state;
    snprintf(says, sizeof(says), "cannot serve the store on port %d: the port is in use", second.params.master_port);
    second.says[0] = says;
    job_goes_on_beside(&second, 0);
}

/* ---- something else at the store's address ---- */

static int listen_somewhere(int *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

struct answerer {
    int listener;
    const char *answer; /* NULL: end the connection */
};

static void answer_all(int rank, void *arg)
{
    const struct answerer *answerer = arg;
    char bytes[1024];
    (void)rank;
    for (;;) {
        int fd = accept(answerer->listener, NULL, NULL);
        if (fd >= 0 && answerer->answer && recv(fd, bytes, sizeof(bytes), 0) > 0 &&
            send(fd, answerer->answer, strlen(answerer->answer), MSG_NOSIGNAL) < 0)
            perror("send");
        close(fd);
    }
}

static void other_servers_are_told_apart(void **state)
{
    struct answerer answerer = {.answer = "HTTP/1.1 400 Bad Request\r\n\r\n"};
    int port;
    (void)state;
    answerer.listener = listen_somewhere(&port);
    struct joiner joiner = {.params = job_params(1, 2, port), .timeout = "20s", .status = WEIR_ERR_PROTOCOL};
    joiner.says[0] = "is not Weir's store (it says 'HTTP/1.1 400 Bad";
    joiner.within_s = 5;
    pid_t server = job_start(-1, answer_all, &answerer);
    assert_int_equal(job_wait(job_start(1, join, &joiner)), 0);
    kill(server, SIGKILL);
    job_wait(server);

    /* Half a word is none, and does not count as the start of what the next connection says. */
    static const char *const no_words[] = {NULL, "WEI"};
    joiner.timeout = "500ms";
    joiner.says[0] = "ends connections without a word";
    for (int i = 0; i < 2; i++) {
        answerer.answer = no_words[i];
        server = job_start(-1, answer_all, &answerer);
        assert_int_equal(job_wait(job_start(1, join, &joiner)), 0);
        kill(server, SIGKILL);
        job_wait(server);
    }

    joiner.status = WEIR_ERR_TIMEOUT; /* nobody accepts: connected, but silent */
    joiner.says[0] = "but says nothing: it is not Weir's store";
    assert_int_equal(job_wait(job_start(1, join, &joiner)), 0);
    close(answerer.listener);
}

/* ---- strangers at the store ---- */

static void send_text(int fd, const void *bytes, size_t len)
{
    if (send(fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        return; /* already turned away */
}

/* Garbage, silence, half frames, frames of members, lengths that lie, and more connections than the store keeps. */
static void disturb(int rank, void *arg)
{
    static const char lies[][24] = {
        "GET / HTTP/1.0\r\n\r\n",
        "WEIR\x01\x01\0\0\xff\xff\xff\xff",
        "WEIR\x01\x04\0\0\xff\xff\0\0",
        "WEIR\x01\x06\0\0\x04\0\0\0\0\0\0\0",
        "WEIR\x01\x01\0\0\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
        "WEIR\x01\x0b\0\0\0\0\0",
        "WEIR\x02\x01\0\0\0\0\0",
    };
    static char flood[1 << 16];
    int silent[300];
    int port = *(int *)arg;
    (void)rank;
    for (int i = 0; i < 300; i++) {
        silent[i] = job_connect_once(port);
        if (silent[i] >= 0 && i % 3 == 0)
            send_text(silent[i], lies[1], 7); /* half a header */
    }
    for (int round = 0; round < 100; round++) {
        int fd = job_connect_once(port);
        if (fd < 0)
            continue;
        send_text(fd, lies[round % 7], sizeof(lies[0]));
        send_text(fd, flood, sizeof(flood));
        close(fd);
    }
    for (int i = 0; i < 300; i++)
        if (silent[i] >= 0)
            close(silent[i]);
}

static void work_for_a_while(weir_boot *boot, void *arg)
{
    char name[32];
    (void)arg;
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "step %d", i);
        EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, name, NULL, 0));
        EXPECT_STATUS(WEIR_OK, weir_boot_check(boot));
        poll(NULL, 0, 2);
    }
}

static void work_rank(int rank, void *arg)
{
    weir_boot *boot;
    weir_boot_params params = job_params(rank, 4, *(int *)arg);
    EXPECT_STATUS(WEIR_OK, weir_boot_create(&params, &boot));
    work_for_a_while(boot, NULL);
    weir_boot_destroy(boot);
}

static void strangers_do_not_disturb(void **state)
{
    int port = job_port();
    pid_t ranks[4];
    pid_t strangers[4];
    (void)state;
    ranks[0] = job_start(0, work_rank, &port);
    poll(NULL, 0, 50);
    for (int i = 0; i < 4; i++)
        strangers[i] = job_start(-1, disturb, &port);
    poll(NULL, 0, 50);
    for (int rank = 1; rank < 4; rank++)
        ranks[rank] = job_start(rank, work_rank, &port);
    for (int i = 0; i < 4; i++)
        assert_int_equal(job_wait(strangers[i]), 0);
    for (int rank = 0; rank < 4; rank++)
        assert_int_equal(job_wait(ranks[rank]), 0);
}

/* A rank of another version is told so, in a frame whose header it can read. */
static void other_version_is_told(void **state)
{
    int port = job_port();
    struct joiner good = {.params = job_params(0, 2, port), .status = WEIR_OK};
    static const char older_hello[12] = {'W', 'E', 'I', 'R', WI_WIRE_VERSION - 1, WI_WIRE_HELLO};
    static const char refused[6] = {'W', 'E', 'I', 'R', WI_WIRE_VERSION, WI_WIRE_REFUSED};
    char bytes[1024] = "";
    (void)state;
    pid_t zero = job_start(0, join, &good);
    int fd = job_connect(port);
    send_text(fd, older_hello, sizeof(older_hello));
    size_t len = 0;
    for (ssize_t got; (got = recv(fd, bytes + len, sizeof(bytes) - len, 0)) > 0;)
        len += (size_t)got;
    close(fd);
    pid_t one = job_start(1, join, &good);
    assert_true(len > 12 && memcmp(bytes, refused, sizeof(refused)) == 0);
    assert_non_null(memmem(bytes, len, "another version", 15));
    assert_int_equal(job_wait(zero), 0);
    assert_int_equal(job_wait(one), 0);
}

/* And so is a rank that finds a store of another version: at its first frame, whatever that means there. */
static void other_store_is_told(void **state)
{
    static const char older_ack[24] = {'W', 'E', 'I', 'R', WI_WIRE_VERSION - 1, WI_WIRE_ACK, 0, 0, 12};
    int listener = socket(AF_INET, SOCK_STREAM, 0), port = job_port();
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct joiner one = {.params = job_params(1, 2, port),
                         .status = WEIR_ERR_PROTOCOL,
                         .says = {"speaks another version of the protocol: all ranks need the same libweir"}};
    int on = 1;
    (void)state;
    assert_int_equal(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(listener, 1), 0);
    pid_t rank = job_start(1, join, &one);
    int fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    send_text(fd, older_ack, sizeof(older_ack));
    assert_int_equal(job_wait(rank), 0);
    close(fd);
    close(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_ranks_are_named),
        cmocka_unit_test(late_ranks_are_waited_for),
        cmocka_unit_test(no_store_is_said),
        cmocka_unit_test(other_job_is_turned_away),
        cmocka_unit_test(other_world_is_turned_away),
        cmocka_unit_test(duplicate_is_turned_away),
        cmocka_unit_test(second_rank_0_finds_port_in_use),
        cmocka_unit_test(other_servers_are_told_apart),
        cmocka_unit_test(strangers_do_not_disturb),
        cmocka_unit_test(other_version_is_told),
        cmocka_unit_test(other_store_is_told),
    };
    return cmocka_run_group_tests_name("bootstrap: joiners", tests, NULL, NULL);
}
