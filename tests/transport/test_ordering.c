/* A signal is seen only after its data and all earlier data; and no wake-up is lost. */
#include "harness.h"
#include "suite.h"

#include <stdlib.h>
#include <string.h>

enum { PIECES = 5 };
static const size_t piece_size[PIECES] = {8, 100, 4096, 70000, 262144};

static size_t pieces_len(void)
{
    size_t len = 0;
    for (int i = 0; i < PIECES; i++)
        len += piece_size[i];
    return len;
}

/* Marks every 64th byte and the last with the round: cheap, and a late line shows. */
static void mark(unsigned char *ptr, size_t len, unsigned char round)
{
    for (size_t i = 0; i < len; i += 64)
        ptr[i] = round;
    ptr[len - 1] = round;
}

static bool is_marked(const unsigned char *ptr, size_t len, unsigned char round)
{
    for (size_t i = 0; i < len; i += 64)
        if (ptr[i] != round)
            return false;
    return ptr[len - 1] == round;
}

/* Rank 0's side of a round: some pieces by put, in changing order, one more by put_signal. */
static void send_round(struct rank *r, int round, const struct area *local, uint64_t remote, weir_rkey *rkey,
                       uint32_t signal, bool earlier_puts)
{
    size_t at = 0;
    int last = round % PIECES;
    for (int i = 0; i < PIECES; i++) {
        mark(local->ptr + at, piece_size[i], (unsigned char)round);
        at += piece_size[i];
    }
    for (int pass = 0; pass < 2; pass++) {
        at = 0;
        for (int i = 0; i < PIECES; at += piece_size[i++]) {
            if (pass == 0 && i != last && earlier_puts)
                CHECK_OK(weir_put(r->ep[1], local->ptr + at, local->mem, piece_size[i], remote + at, rkey, NULL));
            if (pass == 1 && i == last)
                CHECK_OK(weir_put_signal(r->ep[1], local->ptr + at, local->mem, piece_size[i], remote + at, rkey,
                                         signal, NULL));
        }
    }
}

static void check_round(struct rank *r, int round, const unsigned char *mine, bool earlier_puts)
{
    size_t at = 0;
    for (int i = 0; i < PIECES; at += piece_size[i++])
        if (earlier_puts || i == round % PIECES)
            CHECK(is_marked(mine + at, piece_size[i], (unsigned char)round));
}

static void ordering(struct rank *r, bool earlier_puts, bool pooled)
{
    struct area local, mine;
    uint64_t remote;
    int n = rounds(2000, 100);
    rank_open_all(r);
    area_make(r, &local, pieces_len(), true);
    area_make(r, &mine, pieces_len(), pooled);
    uint32_t signal = signal_open(r, 0);
    weir_rkey *rkey = swap_keys(r, &mine, &remote);
    uint32_t there = signal_of(r, !r->rank, 0);
    for (int round = 1; round <= n; round++) {
        if (r->rank == 0) {
            send_round(r, round, &local, remote, rkey, there, earlier_puts);
            CHECK_OK(weir_signal_wait(r->ctx, signal, (uint64_t)round, -1)); /* it has looked */
        } else {
            while (weir_signal_read(r->ctx, signal) < (uint64_t)round)
                weir_progress(r->ctx);
            check_round(r, round, mine.ptr, earlier_puts);
            CHECK_OK(weir_put_signal(r->ep[0], NULL, NULL, 0, 0, NULL, there, NULL));
        }
    }
    flush(r, r->ep[!r->rank]);
    weir_rkey_destroy(rkey);
    area_free(r, &mine);
    rank_close(r);
}

static void signal_after_data_body(struct rank *r)
{
    ordering(r, false, true);
}

void test_signal_after_data(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = signal_after_data_body});
}

static void earlier_pool_body(struct rank *r)
{
    ordering(r, true, true);
}

static void earlier_user_body(struct rank *r)
{
    ordering(r, true, false);
}

void test_signal_after_earlier_puts(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = earlier_pool_body});
    job_run(&(struct job){.count = 2, .body = earlier_user_body});
}

/* A pause around the length of going to sleep, different from round to round. */
static void random_pause(unsigned *seed)
{
    unsigned draw = (unsigned)rand_r(seed) % 16;
    if (draw < 8)
        for (volatile unsigned i = 0; i < (unsigned)rand_r(seed) % 20000u; i++)
            ;
    else if (draw < 10)
        sleep_us((unsigned)rand_r(seed) % 200u);
}

/* With no spinning every wait sleeps; a lost wake-up would show as waits of many ms (the bound of one sleep). */
static void ping_pong_body(struct rank *r)
{
    unsigned seed = 1234u + (unsigned)r->rank, late = 0;
    int n = rounds(5000, 200), peer = !r->rank;
    rank_open_all(r);
    uint32_t signal = signal_open(r, 0);
    barrier(r);
    uint32_t there = signal_of(r, peer, 0);
    for (int round = 1; round <= n; round++) {
        if (r->rank == 0) {
            random_pause(&seed);
            r->board->number[0][1] = now_ns();
            CHECK_OK(weir_put_signal(r->ep[peer], NULL, NULL, 0, 0, NULL, there, NULL));
        }
        CHECK_OK(weir_signal_wait(r->ctx, signal, (uint64_t)round, -1));
        if (r->rank == 1) {
            random_pause(&seed);
            CHECK_OK(weir_put_signal(r->ep[peer], NULL, NULL, 0, 0, NULL, there, NULL));
        } else if (now_ns() - r->board->number[0][1] > 40000000u) {
            late++;
        }
    }
    /* The machine itself may be late now and then. */
    CHECK(late <= (unsigned)n / 50 + 5);
    rank_close(r);
}

void test_sleeping_ping_pong(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = ping_pong_body, .spin = "0us"});
}

static void await_message(struct rank *r, int expected)
{
    uint64_t end = now_ns() + 20000000000u;
    int got;
    size_t len;
    weir_status status;
    while ((len = sizeof(got), status = weir_recv(r->ctx, &got, &len, NULL)) == WEIR_ERR_AGAIN) {
        CHECK(now_ns() < end);
        weir_ctx_block(r->ctx, 1000);
    }
    CHECK_OK(status);
    CHECK(len == sizeof(got) && got == expected);
}

static void message_ping_pong_body(struct rank *r)
{
    unsigned seed = 99u + (unsigned)r->rank, late = 0;
    int n = rounds(3000, 100), peer = !r->rank;
    rank_open_all(r);
    for (int round = 0; round < n; round++) {
        uint64_t start = now_ns();
        if (r->rank == 1)
            await_message(r, round);
        random_pause(&seed);
        CHECK_OK(weir_send(r->ep[peer], &round, sizeof(round)));
        if (r->rank == 0)
            await_message(r, round);
        if (r->rank == 0 && now_ns() - start > 40000000u)
            late++;
    }
    CHECK(late <= (unsigned)n / 50 + 5);
    rank_close(r);
}

void test_sleeping_messages(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = message_ping_pong_body, .spin = "0us"});
}
