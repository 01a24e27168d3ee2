/*
 * Strangers at the ports that a context listens on: they connect more often than the process has descriptors, and then say
 * nothing, a byte, or much that is no protocol, and stay. Whoever belongs to the job connects beside them, and what is
 * connected goes on.
 */
#include "harness.h"
#include "suite.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <cmocka.h>

enum { TARGET, FRIEND, LATE, ATTACKER, RANKS, PORTS = 8, HELD = 200, DESCRIPTORS = 160, LEN = 1000 };

/* What a stranger says: nothing, a byte, text, and numbers that a protocol may take for lengths. */
static size_t words(unsigned number, unsigned char *data, size_t room)
{
    static const unsigned char fills[] = {0, 0, 'A', 0, 0xff, 8};
    size_t lens[] = {0, 1, room, 64, 64, 17};
    unsigned kind = number % (sizeof(fills) / sizeof(fills[0]));
    memset(data, fills[kind], lens[kind]);
    if (kind == 5)
        memset(data + 1, 0, lens[kind] - 1);
    return lens[kind];
}

static void knock(struct rank *r, uint16_t port, unsigned number)
{
    unsigned char data[2000];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(fd >= 0);
    (void)connect(fd, (struct sockaddr *)&to, sizeof(to));
    sleep_us(500);
    size_t len = words(number, data, sizeof(data));
    if (len > 0)
        (void)send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void attack(struct rank *r)
{
    barrier(r);
    barrier(r); /* the friend is connected */
    for (int i = 0; i < PORTS && r->board->number[TARGET][i]; i++)
        for (unsigned number = 0; number < HELD; number++)
            knock(r, (uint16_t)r->board->number[TARGET][i], number);
    barrier(r);
    barrier(r); /* all is written */
}

/* Writes its part of the target's memory, and sees that it came. */
static void write_part(struct rank *r, struct area *local, weir_rkey *key, uint64_t addr, unsigned seed)
{
    weir_comp comp = WEIR_COMP_INIT;
    pattern_fill(local->ptr, LEN, seed);
    CHECK_OK(weir_put(r->ep[TARGET], local->ptr, local->mem, LEN, addr + (uint64_t)r->rank * LEN, key, &comp));
    CHECK_OK(weir_wait(r->ctx, &comp, -1));
    flush(r, r->ep[TARGET]);
}

static void visit(struct rank *r)
{
    struct area local;
    uint64_t addr;
    rank_open(r, 0);
    area_make(r, &local, LEN, true);
    barrier(r);
    if (r->rank == FRIEND)
        rank_connect(r, TARGET);
    barrier(r);
    barrier(r); /* the strangers are there */
    if (r->rank == LATE)
        rank_connect(r, TARGET);
    weir_rkey *key = import(r, TARGET, 0, &addr);
    write_part(r, &local, key, addr, (unsigned)r->rank);
    barrier(r);
    weir_rkey_destroy(key);
    weir_ep_close(r->ep[TARGET]);
    weir_pool_destroy(r->pool);
    weir_ctx_destroy(r->ctx);
}

static void be_target(struct rank *r)
{
    struct area area;
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = DESCRIPTORS;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    rank_open(r, 0);
    area_make(r, &area, RANKS * LEN, true);
    publish(r, 0, area.mem, area.ptr, area.len);
    publish_ports(r, 0, PORTS);
    barrier(r);
    barrier(r);
    barrier(r);
    barrier(r);
    for (int rank = FRIEND; rank <= LATE; rank++)
        CHECK(pattern_differs(area.ptr + rank * LEN, LEN, (unsigned)rank) == LEN);
    weir_pool_destroy(r->pool);
    weir_ctx_destroy(r->ctx);
}

static void body(struct rank *r)
{
    if (r->rank == TARGET)
        be_target(r);
    else if (r->rank == ATTACKER)
        attack(r);
    else
        visit(r);
}

static void test_strangers(void **state)
{
    (void)state;
    job_run(&(struct job){.count = RANKS, .body = body, .timeout = "20s"});
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strangers),
    };
    if (!suite_may_run(argc, argv))
        return 77;
    return cmocka_run_group_tests_name(transport_name(), tests, NULL, NULL);
}
