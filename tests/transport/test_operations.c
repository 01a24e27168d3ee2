/* Every operation, at all sizes, alignments and kinds of memory, between two ranks. */
#include "harness.h"
#include "suite.h"

#include <stdlib.h>
#include <string.h>

static const size_t sizes[] = {1, 8, 4096, 65536, (1 << 20) + 3};
static const size_t offsets[] = {0, 1, 7, 64};

enum {
    MARGIN = 256, /* canaries before and after; more than the greatest offset */
    ROOM = (1 << 20) + 3 + 2 * MARGIN,
    CANARY = 0xc5,
};

/* One way to place data: kinds of memory at both sides, size, offsets. */
struct placement {
    struct area *local;
    uint64_t remote; /* first byte of the target's area */
    weir_rkey *rkey;
    size_t size, local_offset, remote_offset;
    unsigned seed;
};

typedef void case_fn(struct rank *r, const struct placement *p, uint32_t signal);

/* The case of the number given; the same walk on both ranks. Returns false after the last. */
static bool nth_case(int n, bool *local_pooled, bool *remote_pooled, struct placement *p)
{
    const int offset_count = sizeof(offsets) / sizeof(offsets[0]), size_count = sizeof(sizes) / sizeof(sizes[0]);
    p->seed = (unsigned)n;
    p->local_offset = MARGIN + offsets[n % offset_count];
    p->remote_offset = MARGIN + offsets[n / offset_count % offset_count];
    n /= offset_count * offset_count;
    p->size = sizes[n % size_count];
    n /= size_count;
    *local_pooled = n & 1;
    *remote_pooled = n >> 1 & 1;
    return n < 4;
}

/* Is the target's area as it must be: the pattern in its place, canaries around it? */
static void check_target(struct rank *r, const unsigned char *area, const struct placement *p)
{
    CHECK(bytes_differ(area, p->remote_offset, CANARY) == p->remote_offset);
    CHECK(pattern_differs(area + p->remote_offset, p->size, p->seed) == p->size);
    size_t rest = ROOM - p->remote_offset - p->size, seen = rest < 4096 ? rest : 4096;
    CHECK(bytes_differ(area + p->remote_offset + p->size, seen, CANARY) == seen);
}

/*
 * Rank 0 writes by `write` into rank 1's memory, which rank 1 checks. Large cases with odd offsets on both sides cost
 * much time and show nothing new, so only some of them run.
 */
static void write_cases(struct rank *r, case_fn *write, bool signals)
{
    struct area area[2];
    uint32_t signal = 0;
    uint64_t signalled = 0;
    weir_rkey *rkey[2] = {NULL, NULL};
    uint64_t remote[2];
    rank_open_all(r);
    signal = signal_open(r, 0);
    for (int kind = 0; kind < 2; kind++) {
        area_make(r, &area[kind], ROOM, kind == 1);
        publish(r, kind, area[kind].mem, area[kind].ptr, ROOM);
    }
    barrier(r);
    for (int kind = 0; kind < 2; kind++)
        rkey[kind] = import(r, !r->rank, kind, &remote[kind]);
    bool local_pooled, remote_pooled;
    struct placement p;
    for (int n = 0; nth_case(n, &local_pooled, &remote_pooled, &p); n++) {
        if (p.size > 4096 && n % 5 != 0)
            continue;
        unsigned char *mine = area[remote_pooled].ptr;
        if (r->rank == 1)
            memset(mine, CANARY, p.size + 2 * MARGIN < ROOM - 4096 ? p.size + 2 * MARGIN + 4096 : ROOM);
        barrier(r);
        p.local = &area[local_pooled];
        p.remote = remote[remote_pooled];
        p.rkey = rkey[remote_pooled];
        if (r->rank == 0)
            write(r, &p, signal_of(r, 1, 0));
        else if (signals)
            CHECK_OK(weir_signal_wait(r->ctx, signal, ++signalled, -1));
        if (!signals)
            barrier(r); /* the writer has flushed */
        if (r->rank == 1)
            check_target(r, mine, &p);
    }
    for (int kind = 0; kind < 2; kind++) {
        weir_rkey_destroy(rkey[kind]);
        area_free(r, &area[kind]);
    }
    rank_close(r);
}

static void put_case(struct rank *r, const struct placement *p, uint32_t signal)
{
    unsigned char *local = p->local->ptr + p->local_offset;
    weir_comp comp = WEIR_COMP_INIT;
    (void)signal;
    pattern_fill(local, p->size, p->seed);
    CHECK_OK(weir_put(r->ep[1], local, p->local->mem, p->size, p->remote + p->remote_offset, p->rkey, &comp));
    CHECK_OK(weir_wait(r->ctx, &comp, -1));
    memset(local, 0, p->size); /* the completion says that it may be used again */
    flush(r, r->ep[1]);
}

static void put_body(struct rank *r)
{
    write_cases(r, put_case, false);
}

void test_put(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = put_body});
}

/* The region is left to the library to find, and the target learns by the signal alone. */
static void put_signal_case(struct rank *r, const struct placement *p, uint32_t signal)
{
    unsigned char *local = p->local->ptr + p->local_offset;
    weir_comp comp = WEIR_COMP_INIT;
    pattern_fill(local, p->size, p->seed);
    CHECK_OK(weir_put_signal(r->ep[1], local, NULL, p->size, p->remote + p->remote_offset, p->rkey, signal, &comp));
    CHECK_OK(weir_wait(r->ctx, &comp, -1));
    memset(local, 0, p->size);
}

static void put_signal_body(struct rank *r)
{
    write_cases(r, put_signal_case, true);
}

void test_put_signal(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = put_signal_body});
}

/* Rank 0 reads rank 1's pattern into a field of canaries. */
static void get_body(struct rank *r)
{
    struct area area[2];
    weir_rkey *rkey[2];
    uint64_t remote[2];
    bool local_pooled, remote_pooled;
    struct placement p;
    rank_open_all(r);
    for (int kind = 0; kind < 2; kind++) {
        area_make(r, &area[kind], ROOM, kind == 1);
        publish(r, kind, area[kind].mem, area[kind].ptr, ROOM);
        if (r->rank == 1)
            pattern_fill(area[kind].ptr, ROOM, (unsigned)kind);
    }
    barrier(r);
    for (int kind = 0; kind < 2; kind++)
        rkey[kind] = import(r, !r->rank, kind, &remote[kind]);
    for (int n = 0; r->rank == 0 && nth_case(n, &local_pooled, &remote_pooled, &p); n++) {
        if (p.size > 4096 && n % 5 != 0)
            continue;
        weir_comp comp = WEIR_COMP_INIT;
        unsigned char *field = area[local_pooled].ptr, *to = field + p.local_offset;
        memset(field, CANARY, p.local_offset + p.size + MARGIN / 2);
        CHECK_OK(weir_get(r->ep[1], to, area[local_pooled].mem, p.size, remote[remote_pooled] + p.remote_offset,
                          rkey[remote_pooled], &comp));
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        CHECK(bytes_differ(field, p.local_offset, CANARY) == p.local_offset);
        for (size_t i = 0; i < p.size; i++)
            CHECK(to[i] == pattern(remote_pooled, p.remote_offset + i));
        CHECK(bytes_differ(to + p.size, MARGIN / 2, CANARY) == MARGIN / 2);
    }
    for (int kind = 0; kind < 2; kind++)
        weir_rkey_destroy(rkey[kind]);
    rank_close(r);
    for (int kind = 0; kind < 2; kind++)
        if (!area[kind].pooled)
            free(area[kind].ptr);
}

void test_get(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = get_body});
}

/* All ranks add to one word of rank 0's, of either kind of memory: the sum is right and no result comes twice. */
static void fetch_add_body(struct rank *r)
{
    enum { ADDS = 200 };
    struct area area[2], result;
    uint64_t remote[2];
    int adds = rounds(ADDS, 20);
    rank_open_all(r);
    area_make(r, &result, ADDS * sizeof(uint64_t), true);
    for (int kind = 0; kind < 2; kind++) {
        area_make(r, &area[kind], 64, kind == 1);
        memset(area[kind].ptr, 0, 64);
        publish(r, kind, area[kind].mem, area[kind].ptr, 64);
    }
    barrier(r);
    for (int kind = 0; kind < 2; kind++) {
        uint64_t *got = (uint64_t *)result.ptr, last = 0;
        weir_comp comp = WEIR_COMP_INIT;
        weir_rkey *rkey = import(r, 0, kind, &remote[kind]);
        for (int i = 0; i < adds; i++)
            CHECK_OK(
                weir_fetch_add(r->ep[0], (uint64_t)r->rank + 1, &got[i], result.mem, remote[kind] + 8, rkey, &comp));
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        for (int i = 0; i < adds; last = got[i++])
            CHECK(i == 0 || got[i] >= last + (uint64_t)r->rank + 1); /* nobody else got what we have added */
        barrier(r);
        weir_rkey_destroy(rkey);
        uint64_t *words = (uint64_t *)area[kind].ptr, sum = (uint64_t)adds * (uint64_t)(r->count * (r->count + 1) / 2);
        CHECK(r->rank != 0 || (words[0] == 0 && words[1] == sum && words[2] == 0));
    }
    area_free(r, &result);
    for (int kind = 0; kind < 2; kind++)
        area_free(r, &area[kind]);
    rank_close(r);
}

void test_fetch_add(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 3, .body = fetch_add_body});
}

static void receive(struct rank *r, unsigned char *buf, size_t *len, uint64_t *from)
{
    uint64_t end = now_ns() + 20000000000u;
    for (;;) {
        *len = WEIR_MSG_MAX;
        weir_status status = weir_recv(r->ctx, buf, len, from);
        if (status == WEIR_OK)
            return;
        CHECK(status == WEIR_ERR_AGAIN && now_ns() < end);
        weir_ctx_block(r->ctx, 100);
    }
}

/* Everybody sends to rank 0, more than any queue holds; each sender's messages come once, whole and in order. */
static void messages_body(struct rank *r)
{
    unsigned char buf[WEIR_MSG_MAX];
    int n = rounds(3000, 200);
    rank_open_all(r);
    if (r->rank == 0) {
        int seen[RANKS_MAX] = {0};
        for (int i = 0; i < n * (r->count - 1); i++) {
            size_t len;
            uint64_t from;
            receive(r, buf, &len, &from);
            CHECK(from > 0 && from < (uint64_t)r->count);
            int k = seen[from]++;
            CHECK(len == (size_t)(k * 37 % 1500));
            CHECK(pattern_differs(buf, len, (unsigned)(k + (int)from)) == len);
        }
        size_t len = sizeof(buf);
        CHECK_STATUS(weir_recv(r->ctx, buf, &len, NULL), WEIR_ERR_AGAIN);
    } else {
        for (int k = 0; k < n; k++) {
            size_t len = (size_t)(k * 37 % 1500);
            pattern_fill(buf, len, (unsigned)(k + r->rank));
            CHECK_OK(weir_send(r->ep[0], buf, len));
        }
        flush(r, r->ep[0]);
    }
    rank_close(r);
}

void test_messages(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 3, .body = messages_body});
}

/* The smallest and the greatest message; too little room leaves a message where it is; one byte too many is refused. */
static void message_sizes_body(struct rank *r)
{
    static const size_t lens[] = {0, 1, 8, WEIR_MSG_MAX - 1, WEIR_MSG_MAX};
    unsigned char buf[WEIR_MSG_MAX + 1];
    rank_open_all(r);
    for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
        size_t len = 0;
        uint64_t from = 99;
        if (r->rank == 0) {
            pattern_fill(buf, lens[i], (unsigned)i);
            CHECK_OK(weir_send(r->ep[1], buf, lens[i]));
            continue;
        }
        if (lens[i] > 0) {
            weir_status status;
            while ((len = lens[i] - 1, status = weir_recv(r->ctx, buf, &len, NULL)) == WEIR_ERR_AGAIN)
                weir_ctx_block(r->ctx, 100);
            CHECK_STATUS(status, WEIR_ERR_RANGE);
        }
        receive(r, buf, &len, &from);
        CHECK(len == lens[i] && from == 0 && pattern_differs(buf, len, (unsigned)i) == len);
    }
    CHECK_STATUS(weir_send(r->ep[!r->rank], buf, WEIR_MSG_MAX + 1), WEIR_ERR_INVALID);
    rank_close(r);
}

void test_message_sizes(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = message_sizes_body});
}

/* Operations of no length succeed, change nothing, and put_signal still signals, without a key. */
static void empty_body(struct rank *r)
{
    struct area area;
    uint64_t remote;
    rank_open_all(r);
    area_make(r, &area, 128, true);
    memset(area.ptr, CANARY, 128);
    uint32_t signal = signal_open(r, 0);
    publish(r, 0, area.mem, area.ptr + 32, 64);
    barrier(r);
    weir_rkey *rkey = import(r, !r->rank, 0, &remote);
    weir_comp comp = WEIR_COMP_INIT;
    uint32_t there = signal_of(r, !r->rank, 0);
    CHECK_OK(weir_put(r->ep[!r->rank], area.ptr, area.mem, 0, remote, rkey, &comp));
    CHECK_OK(weir_put(r->ep[!r->rank], NULL, NULL, 0, remote + 64, rkey, &comp));
    CHECK_OK(weir_get(r->ep[!r->rank], area.ptr, area.mem, 0, remote, rkey, &comp));
    CHECK_OK(weir_put_signal(r->ep[!r->rank], area.ptr, area.mem, 0, remote, rkey, there, &comp));
    CHECK_OK(weir_put_signal(r->ep[!r->rank], NULL, NULL, 0, 0, NULL, there, &comp));
    CHECK_OK(weir_wait(r->ctx, &comp, -1));
    CHECK_OK(weir_signal_wait(r->ctx, signal, 2, -1));
    flush(r, r->ep[!r->rank]);
    barrier(r);
    CHECK(weir_signal_read(r->ctx, signal) == 2);
    CHECK(bytes_differ(area.ptr, 128, CANARY) == 128);
    CHECK_STATUS(weir_signal_wait(r->ctx, signal, 3, 50), WEIR_ERR_TIMEOUT);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

/* Numbers that no signal has are refused, and touch nothing else: over verbs they would be messages and requests. */
static void no_signal_body(struct rank *r)
{
    static const uint32_t wild[] = {1u << 20, 1u << 26, 0x40000000, 0x80000000, 0xc0000000, UINT32_MAX};
    rank_open_all(r);
    weir_ep *ep = r->ep[!r->rank];
    unsigned char buf[8];
    size_t len = sizeof(buf);
    uint64_t from;
    for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++)
        CHECK_STATUS(weir_put_signal(ep, NULL, NULL, 0, 0, NULL, wild[i], NULL), WEIR_ERR_RANGE);
    CHECK_OK(weir_send(ep, "only", 4));
    receive(r, buf, &len, &from);
    CHECK(len == 4 && memcmp(buf, "only", 4) == 0);
    flush(r, ep);
    barrier(r);
    len = sizeof(buf);
    CHECK_STATUS(weir_recv(r->ctx, buf, &len, NULL), WEIR_ERR_AGAIN);
    rank_close(r);
}

void test_no_signal(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = no_signal_body});
}

void test_empty_operations(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = empty_body});
}

/* Thousands of operations under way before the first is waited for, in both directions; puts without completions. */
static void outstanding_body(struct rank *r)
{
    enum { SLOT = 24 };
    struct area local, mine, back;
    uint64_t remote;
    size_t n = (size_t)rounds(5000, 1000);
    int peer = !r->rank;
    rank_open_all(r);
    area_make(r, &local, n * SLOT, true);
    area_make(r, &mine, n * SLOT, true);
    area_make(r, &back, n * SLOT, true);
    memset(mine.ptr, 0, n * SLOT);
    pattern_fill(local.ptr, n * SLOT, (unsigned)r->rank);
    weir_rkey *rkey = swap_keys(r, &mine, &remote);
    for (size_t i = 0; i < n; i++)
        CHECK_OK(weir_put(r->ep[peer], local.ptr + i * SLOT, local.mem, SLOT, remote + i * SLOT, rkey, NULL));
    flush(r, r->ep[peer]);
    barrier(r);
    CHECK(pattern_differs(mine.ptr, n * SLOT, (unsigned)peer) == n * SLOT);
    weir_comp comp = WEIR_COMP_INIT;
    for (size_t i = 0; i < n; i++)
        CHECK_OK(weir_get(r->ep[peer], back.ptr + i * SLOT, back.mem, SLOT, remote + i * SLOT, rkey, &comp));
    CHECK_OK(weir_wait(r->ctx, &comp, -1));
    CHECK(pattern_differs(back.ptr, n * SLOT, (unsigned)r->rank) == n * SLOT);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

void test_many_outstanding(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = outstanding_body});
}
