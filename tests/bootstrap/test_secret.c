/* WEIR_SECRET_FILE: who knows the secret works as before; who does not learns nothing, and stops nothing. */
#include "../support/folder.h"
#include "job.h"

#include "bootstrap/secret.h"
#include "bootstrap/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char right_file[64], wrong_file[64];

static const char *write_file(char path[64], const char *name, const char *content, size_t len, mode_t mode)
{
    snprintf(path, 64, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, mode), 0);
    return path;
}

/* ---- the file ---- */

static void loads(const char *path, weir_status status, const char *says)
{
    struct wi_secret secret = {.len = 1};
    assert_int_equal(wi_secret_load(path, &secret), status);
    if (status == WEIR_OK)
        return;
    assert_int_equal(secret.len, 0);
    assert_non_null(strstr(weir_last_error(), "WEIR_SECRET_FILE"));
    assert_non_null(strstr(weir_last_error(), says));
}

static void bad_files_are_explained(void **state)
{
    static char long_text[WI_SECRET_MAX + 1];
    char path[64];
    (void)state;
    memset(long_text, 'x', sizeof(long_text));
    loads("/nonexistent/secret", WEIR_ERR_CONFIG, "No such file");
    loads(folder, WEIR_ERR_CONFIG, "not a file");
    loads(write_file(path, "short", "15 bytes is few \n\n", 18, 0600), WEIR_ERR_CONFIG, "at least 16");
    loads(write_file(path, "empty", "", 0, 0600), WEIR_ERR_CONFIG, "at least 16");
    loads(write_file(path, "long", long_text, sizeof(long_text), 0600), WEIR_ERR_CONFIG, "more than 4096");
    loads(write_file(path, "max", long_text, sizeof(long_text) - 1, 0600), WEIR_OK, "");
    loads(write_file(path, "open", long_text, 20, 0622), WEIR_ERR_CONFIG, "may write");
    loads("", WEIR_OK, "");
}

static void white_space_at_the_end_does_not_count(void **state)
{
    struct wi_secret with, without;
    char path[64];
    static const char text[] = "a secret \0with 26 bytes in it \r\n\t";
    (void)state;
    assert_int_equal(wi_secret_load(write_file(path, "with", text, sizeof(text) - 1, 0600), &with), WEIR_OK);
    assert_int_equal(wi_secret_load(write_file(path, "without", text, 29, 0600), &without), WEIR_OK);
    assert_int_equal(with.len, 29);
    assert_memory_equal(with.bytes, without.bytes, 29);
}

/* ---- proofs ---- */

static void a_proof_is_good_for_its_side_and_numbers(void **state)
{
    struct wi_secret secret = {.len = 16, .bytes = "0123456789abcde"}, other = {.len = 16, .bytes = "0123456789abcdf"};
    uint8_t a[WI_SECRET_NONCE] = {1}, b[WI_SECRET_NONCE] = {2}, proof[WI_SECRET_PROOF];
    (void)state;
    assert_true(wi_secret_prove(&secret, WI_SECRET_RANK, a, b, proof));
    assert_true(wi_secret_check(&secret, WI_SECRET_RANK, a, b, proof, sizeof(proof)));
    assert_false(wi_secret_check(&secret, WI_SECRET_STORE, a, b, proof, sizeof(proof)));
    assert_false(wi_secret_check(&secret, WI_SECRET_RANK, b, a, proof, sizeof(proof)));
    assert_false(wi_secret_check(&secret, WI_SECRET_RANK, a, a, proof, sizeof(proof)));
    assert_false(wi_secret_check(&other, WI_SECRET_RANK, a, b, proof, sizeof(proof)));
    assert_false(wi_secret_check(&secret, WI_SECRET_RANK, a, b, proof, sizeof(proof) - 1));
    for (size_t i = 0; i < sizeof(proof); i++) {
        proof[i] ^= 1;
        assert_false(wi_secret_check(&secret, WI_SECRET_RANK, a, b, proof, sizeof(proof)));
        proof[i] ^= 1;
    }
}

/* As Python's hmac computes it. */
static void the_proof_is_hmac_sha256(void **state)
{
    static const uint8_t expected[WI_SECRET_PROOF] = {0xaf, 0x16, 0xff, 0x66, 0xc5, 0x18, 0x92, 0x88, 0x9b, 0x67, 0xa4, 0x68, 0x4b, 0x51, 0x5a, 0x9b, 0xdc, 0xd5, 0xa6, 0x19, 0x39, 0xf6, 0x2b, 0xeb, 0xd6, 0x56, 0x3d, 0x5b, 0x9e, 0xb0, 0x2b, 0x56};
    struct wi_secret secret = {.len = 16, .bytes = "0123456789abcdef"};
    uint8_t a[WI_SECRET_NONCE], b[WI_SECRET_NONCE], proof[WI_SECRET_PROOF];
    (void)state;
    memset(a, 'a', sizeof(a));
    memset(b, 'b', sizeof(b));
    assert_true(wi_secret_prove(&secret, WI_SECRET_RANK, a, b, proof));
    assert_memory_equal(proof, expected, sizeof(proof));
}

/* ---- jobs ---- */

struct joiner {
    weir_boot_params params;
    const char *secret_file;
    unsigned files; /* that rank 0 may open; 0: any number */
    weir_status status;
    const char *says;
};

static void allow_files(unsigned count)
{
    int lowest = dup(STDIN_FILENO);
    rlim_t limit = (rlim_t)lowest + count;
    close(lowest);
    EXPECT(lowest >= 0 && setrlimit(RLIMIT_NOFILE, &(struct rlimit){limit, limit}) == 0);
}

static void join(int rank, void *arg)
{
    const struct joiner *joiner = arg;
    weir_boot *boot;
    weir_boot_params params = joiner->params;
    params.rank = rank;
    setenv("WEIR_JOB_ID", "the-job-name", 1);
    setenv("WEIR_TIMEOUT", "20s", 1);
    if (joiner->files && rank == 0)
        allow_files(joiner->files);
    if (joiner->secret_file)
        setenv("WEIR_SECRET_FILE", joiner->secret_file, 1);
    EXPECT_STATUS(joiner->status, weir_boot_create(&params, &boot));
    if (joiner->says)
        EXPECT_SAYS(joiner->says);
    if (joiner->status != WEIR_OK)
        return;
    char value[8] = "";
    size_t len = sizeof(value);
    if (rank == 1)
        EXPECT_STATUS(WEIR_OK, weir_boot_put(boot, "key", "value", 6));
    EXPECT_STATUS(WEIR_OK, weir_boot_get(boot, "key", value, &len, -1));
    EXPECT(strcmp(value, "value") == 0);
    EXPECT_STATUS(WEIR_OK, weir_boot_barrier(boot, "all", NULL, 0));
    EXPECT_STATUS(WEIR_OK, weir_boot_check(boot));
    weir_boot_destroy(boot);
}

static struct joiner joiner_of(int world, int port, const char *secret_file)
{
    return (struct joiner){.params = job_params(0, world, port), .secret_file = secret_file, .status = WEIR_OK};
}

static void refused(int rank, int port, const char *secret_file, const char *says)
{
    struct joiner joiner = joiner_of(3, port, secret_file);
    joiner.status = WEIR_ERR_MISMATCH;
    joiner.says = says;
    assert_int_equal(job_wait(job_start(rank, join, &joiner)), 0);
}

/* Ranks with another secret, or none, are told so; the job then goes on with the right ones. */
static void the_secret_decides_who_joins(void **state)
{
    int port = job_port();
    struct joiner good = joiner_of(3, port, right_file);
    (void)state;
    pid_t zero = job_start(0, join, &good);
    refused(1, port, wrong_file, "another secret than the job's");
    refused(1, port, NULL, "without a secret");
    pid_t one = job_start(1, join, &good), two = job_start(2, join, &good);
    assert_int_equal(job_wait(zero), 0);
    assert_int_equal(job_wait(one), 0);
    assert_int_equal(job_wait(two), 0);
}

static void a_store_without_secret_is_told_apart(void **state)
{
    int port = job_port();
    struct joiner good = joiner_of(3, port, NULL);
    (void)state;
    pid_t zero = job_start(0, join, &good);
    refused(1, port, right_file, "rank 0 has none");
    pid_t one = job_start(1, join, &good), two = job_start(2, join, &good);
    assert_int_equal(job_wait(zero), 0);
    assert_int_equal(job_wait(one), 0);
    assert_int_equal(job_wait(two), 0);
}

/* ---- strangers ---- */

static void send_message(int fd, const struct wi_message *message)
{
    uint8_t bytes[2048];
    size_t size = wi_wire_encode(message, bytes, sizeof(bytes));
    EXPECT(size > 0 && send(fd, bytes, size, MSG_NOSIGNAL) == (ssize_t)size);
}

/* All that comes until the store ends the connection. */
static size_t read_all(int fd, uint8_t *bytes, size_t size)
{
    size_t len = 0;
    struct timeval bound = {.tv_sec = 15};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
    for (ssize_t got; len < size && (got = recv(fd, bytes + len, size - len, 0)) > 0;)
        len += (size_t)got;
    return len;
}

static void greet(int fd, uint8_t of_store[WI_SECRET_NONCE], const uint8_t of_rank[WI_SECRET_NONCE])
{
    uint8_t bytes[256];
    size_t len = 0, frame_len;
    struct wi_message message = {.type = WI_WIRE_GREET, .proof = {of_rank, WI_SECRET_NONCE}};
    send_message(fd, &message);
    while (wi_wire_decode(bytes, len, &message, &frame_len) == WI_WIRE_MORE) {
        ssize_t got = recv(fd, bytes + len, sizeof(bytes) - len, 0);
        EXPECT(got > 0);
        len += (size_t)got;
    }
    EXPECT(message.type == WI_WIRE_CHALLENGE && message.proof.len == WI_SECRET_NONCE);
    memcpy(of_store, message.proof.data, WI_SECRET_NONCE);
}

/* What a refused stranger hears has nothing of the job in it. */
static void expect_refusal(int fd)
{
    uint8_t bytes[4096];
    char host[64] = "";
    size_t len = read_all(fd, bytes, sizeof(bytes));
    EXPECT(gethostname(host, sizeof(host) - 1) == 0);
    EXPECT(len > WI_WIRE_HEADER && bytes[5] == WI_WIRE_REFUSED);
    EXPECT(!memmem(bytes, len, "the-job-name", 12) && !memmem(bytes, len, host, strlen(host)));
    EXPECT(!memmem(bytes, len, "value", 5) && !memmem(bytes, len, "process", 7));
    close(fd);
}

static const struct wi_message stranger_hello = {
    .type = WI_WIRE_HELLO, .rank = 1, .world = 2, .timeout_ms = 1, .job = {"x", 1}, .host = {"y", 1}};

/* Neither a length beyond all bounds, nor one that a member may announce, makes the store wait for more. */
static void announce_much(int port)
{
    static const uint32_t lengths[] = {UINT32_MAX, INT32_MAX, WI_WIRE_BODY_MAX, 4096};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        uint8_t frame[WI_WIRE_HEADER] = {'W', 'E', 'I', 'R', WI_WIRE_VERSION, WI_WIRE_GREET}, byte;
        memcpy(frame + 8, &lengths[i], sizeof(lengths[i])); /* little-endian, as we are */
        int fd = job_connect(port);
        EXPECT(fd >= 0 && send(fd, frame, sizeof(frame), MSG_NOSIGNAL) == (ssize_t)sizeof(frame));
        EXPECT(read_all(fd, &byte, 1) == 0);
        close(fd);
    }
}

/* Who says nothing, and who says it slowly, has its time: it does not get more of it by every byte. */
static void stay(int rank, void *arg)
{
    int port = *(int *)arg, silent = job_connect(port), slow = job_connect(port);
    uint8_t frame[256], nonce[WI_SECRET_NONCE] = {1}, byte;
    struct wi_message greeting = {.type = WI_WIRE_GREET, .proof = {nonce, sizeof(nonce)}};
    size_t len = wi_wire_encode(&greeting, frame, sizeof(frame)), sent = 0;
    double until = job_now() + 30;
    (void)rank;
    EXPECT(silent >= 0 && slow >= 0);
    while (sent < len && job_now() < until && send(slow, frame + sent, 1, MSG_NOSIGNAL) == 1) {
        sent++;
        poll(NULL, 0, 400);
    }
    EXPECT(sent < len);
    EXPECT(recv(silent, &byte, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET);
}

static void attack(int rank, void *arg)
{
    int port = *(int *)arg, fd;
    uint8_t of_rank[WI_SECRET_NONCE] = {1}, of_store[WI_SECRET_NONCE], proof[WI_SECRET_PROOF], bytes[256];
    struct wi_secret wrong = {.len = 20}, right;
    (void)rank;
    EXPECT_STATUS(WEIR_OK, wi_secret_load(right_file, &right));

    EXPECT((fd = job_connect(port)) >= 0); /* straight to the seat */
    send_message(fd, &stranger_hello);
    expect_refusal(fd);

    EXPECT((fd = job_connect(port)) >= 0); /* a seat without waiting for the verdict on a wrong proof */
    greet(fd, of_store, of_rank);
    EXPECT(wi_secret_prove(&wrong, WI_SECRET_RANK, of_rank, of_store, proof));
    send_message(fd, &(struct wi_message){.type = WI_WIRE_PROOF, .proof = {proof, sizeof(proof)}});
    send_message(fd, &stranger_hello);
    expect_refusal(fd);

    EXPECT((fd = job_connect(port)) >= 0); /* what was right on another connection */
    EXPECT(wi_secret_prove(&right, WI_SECRET_RANK, of_rank, of_store, proof));
    greet(fd, of_store, of_rank);
    send_message(fd, &(struct wi_message){.type = WI_WIRE_PROOF, .proof = {proof, sizeof(proof)}});
    expect_refusal(fd);

    EXPECT((fd = job_connect(port)) >= 0); /* the store's own number sent back */
    greet(fd, of_store, of_rank);
    send_message(fd, &(struct wi_message){.type = WI_WIRE_PROOF, .proof = {of_store, sizeof(of_store)}});
    expect_refusal(fd);

    for (enum wi_wire_type type = WI_WIRE_PUT; type < WI_WIRE_TYPES; type++) { /* anything else ends the connection */
        if (type == WI_WIRE_GREET || type == WI_WIRE_PROOF)
            continue;
        EXPECT((fd = job_connect(port)) >= 0);
        send_message(fd, &(struct wi_message){.type = type, .key = {"key", 3}});
        EXPECT(read_all(fd, bytes, sizeof(bytes)) == 0);
        close(fd);
    }
    announce_much(port);
}

static void strangers_learn_nothing(void **state)
{
    int port = job_port();
    struct joiner good = joiner_of(2, port, right_file);
    (void)state;
    pid_t zero = job_start(0, join, &good), patient = job_start(-1, stay, &port);
    assert_int_equal(job_wait(job_start(-1, attack, &port)), 0);
    assert_int_equal(job_wait(patient), 0);
    pid_t one = job_start(1, join, &good);
    assert_int_equal(job_wait(zero), 0);
    assert_int_equal(job_wait(one), 0);
}

/* Connects again and again from another address and holds all connections, so that the store is always crowded. */
static void crowd(int rank, void *arg)
{
    int port = *(int *)arg;
    int fds[300];
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    from.sin_addr.s_addr = htonl(0x7f000002);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    (void)rank;
    for (unsigned i = 0;; i++) {
        int *fd = &fds[i % 300];
        if (i >= 300)
            close(*fd);
        *fd = socket(AF_INET, SOCK_STREAM, 0);
        EXPECT(*fd >= 0 && bind(*fd, (struct sockaddr *)&from, sizeof(from)) == 0);
        if (connect(*fd, (struct sockaddr *)&to, sizeof(to)) != 0)
            poll(NULL, 0, 1);
    }
}

/* A joiner that takes its time between greeting and proof keeps its place. */
static void join_slowly(int rank, void *arg)
{
    int port = *(int *)arg, fd = job_connect(port);
    uint8_t of_rank[WI_SECRET_NONCE] = {1}, of_store[WI_SECRET_NONCE], proof[WI_SECRET_PROOF], byte[6];
    struct wi_secret secret;
    (void)rank;
    EXPECT(fd >= 0);
    EXPECT_STATUS(WEIR_OK, wi_secret_load(right_file, &secret));
    greet(fd, of_store, of_rank);
    poll(NULL, 0, 700);
    EXPECT(wi_secret_prove(&secret, WI_SECRET_RANK, of_rank, of_store, proof));
    send_message(fd, &(struct wi_message){.type = WI_WIRE_PROOF, .proof = {proof, sizeof(proof)}});
    EXPECT(recv(fd, byte, sizeof(byte), MSG_WAITALL) == sizeof(byte) && byte[5] == WI_WIRE_PROVEN);
}

/* A job of four that come while the store is crowded. */
static void join_through_crowd(unsigned files)
{
    int port = job_port();
    struct joiner good = joiner_of(4, port, right_file);
    pid_t ranks[4];
    good.files = files;
    ranks[0] = job_start(0, join, &good);
    pid_t attacker = job_start(-1, crowd, &port);
    poll(NULL, 0, 100);
    assert_int_equal(job_wait(job_start(-1, join_slowly, &port)), 0);
    for (int rank = 1; rank < 4; rank++)
        ranks[rank] = job_start(rank, join, &good);
    for (int rank = 0; rank < 4; rank++)
        assert_int_equal(job_wait(ranks[rank]), 0);
    kill(attacker, SIGKILL);
    job_wait(attacker);
}

static void crowds_stop_nothing(void **state)
{
    (void)state;
    join_through_crowd(0);
}

/* With a limit that leaves room for a few strangers, or for fewer than are let in: who crowds then makes room for those beside. */
static void crowds_take_no_descriptors(void **state)
{
    (void)state;
    for (unsigned files = 24; files >= 16; files -= 8)
        join_through_crowd(files);
}

/* ---- a false store ---- */

/* Answers a greeting as the store would, but with a made-up proof; then listens what it is told. */
static void serve_falsely(int rank, void *arg)
{
    int listener = *(int *)arg;
    uint8_t bytes[2048], made_up[WI_SECRET_PROOF] = {5};
    (void)rank;
    int fd = accept(listener, NULL, NULL);
    EXPECT(fd >= 0);
    send_message(fd, &(struct wi_message){.type = WI_WIRE_CHALLENGE, .proof = {made_up, sizeof(made_up)}});
    send_message(fd, &(struct wi_message){.type = WI_WIRE_PROVEN, .proof = {made_up, sizeof(made_up)}});
    size_t len = read_all(fd, bytes, sizeof(bytes));
    EXPECT(len >= WI_WIRE_HEADER && bytes[5] == WI_WIRE_GREET);
    EXPECT(!memmem(bytes, len, "the-job-name", 12));
}

static void a_false_store_is_found_out(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    (void)state;
    assert_int_equal(bind(listener, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(listener, 4), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &len), 0);
    pid_t store = job_start(-1, serve_falsely, &listener);
    struct joiner joiner = joiner_of(2, ntohs(address.sin_port), right_file);
    joiner.status = WEIR_ERR_PROTOCOL;
    joiner.says = "does not know the job's secret";
    assert_int_equal(job_wait(job_start(1, join, &joiner)), 0);
    assert_int_equal(job_wait(store), 0);
    close(listener);
}

static int set_up(void **state)
{
    (void)state;
    if (folder_make() != 0)
        return -1;
    write_file(right_file, "right", "7f3a9c5e11d2b4860f", 18, 0600);
    write_file(wrong_file, "wrong", "7f3a9c5e11d2b4860e", 18, 0600);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_files_are_explained),
        cmocka_unit_test(white_space_at_the_end_does_not_count),
        cmocka_unit_test(a_proof_is_good_for_its_side_and_numbers),
        cmocka_unit_test(the_proof_is_hmac_sha256),
        cmocka_unit_test(the_secret_decides_who_joins),
        cmocka_unit_test(a_store_without_secret_is_told_apart),
        cmocka_unit_test(strangers_learn_nothing),
        cmocka_unit_test(crowds_stop_nothing),
        cmocka_unit_test(crowds_take_no_descriptors),
        cmocka_unit_test(a_false_store_is_found_out),
    };
    return cmocka_run_group_tests_name("bootstrap: secret", tests, set_up, folder_remove);
}
