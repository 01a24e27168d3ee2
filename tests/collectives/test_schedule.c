/*
 * Runs the schedules of all ranks in one process on plain arrays, in a random order of single steps, and checks
 * results, that every write lands in a free slot, and that no order of steps gets stuck.
 */
#include "collectives/reduce.h"
#include "collectives/schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RANKS_MAX 17u
#define CHUNK     8192u

static uint64_t random_state;

static uint32_t random_below(uint32_t bound)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(random_state >> 33) % bound;
}

/* One direction of one link: messages announced in order, slots at the receiver. */
struct link {
    uint64_t announced, taken;        /* messages */
    uint64_t posted, freed, credited; /* slots used by the sender, emptied by the receiver, known to be so */
    uint64_t next_slot, forward;      /* the receiver's cursors */
    bool full[32], held[32];
    unsigned char slot[32][CHUNK];
};

struct rank {
    struct wi_schedule schedule;
    uint64_t sent, received;
    unsigned char *input, *result;
    struct link in[WI_LINKS_MAX];
};

struct job {
    struct wi_schedule_params params;
    uint32_t slots, batch;
    bool direct; /* neighbours offer their result buffers */
    bool keeps;  /* results are sent on from the result buffer, else from the slot they came in */
    struct rank rank[RANKS_MAX];
};

static bool try_send(struct job *job, uint32_t r)
{
    struct rank *me = &job->rank[r];
    if (me->sent == me->schedule.sends)
        return false;
    struct wi_send send;
    wi_schedule_send(&me->schedule, me->sent, &send);
    if (me->received < send.after)
        return false;
    struct rank *peer = &job->rank[(r + (1u << send.link)) % job->params.ranks];
    struct link *out = &peer->in[send.link], *in = &me->in[0];
    bool direct = send.direct && job->direct;
    if (!direct && out->posted - out->credited == job->slots)
        return false;

    bool from_slot = send.source == WI_FROM_PARTIAL || (send.source == WI_FROM_KEPT && !job->keeps);
    if (in->forward < in->freed)
        in->forward = in->freed;
    while (from_slot && !in->held[in->forward % job->slots])
        assert_true(++in->forward < in->next_slot);
    const unsigned char *data = send.source == WI_FROM_INPUT ? me->input + send.offset : me->result + send.offset;
    if (from_slot)
        data = in->slot[in->forward % job->slots];

    if (direct) {
        memcpy(peer->result + send.offset, data, send.len);
    } else {
        uint32_t slot = (uint32_t)(out->posted++ % job->slots);
        assert_false(out->full[slot]);
        assert_in_range(send.len, 0, CHUNK);
        out->full[slot] = true;
        if (send.len)
            memcpy(out->slot[slot], data, send.len);
    }
    if (from_slot) {
        uint32_t slot = (uint32_t)(in->forward++ % job->slots);
        in->held[slot] = in->full[slot] = false;
    }
    out->announced++;
    me->sent++;
    return true;
}

static void free_slots(struct job *job, struct link *in)
{
    while (in->freed < in->next_slot && !in->full[in->freed % job->slots])
        in->freed++;
    in->credited = in->freed / job->batch * job->batch;
}

static bool try_receive(struct job *job, uint32_t r)
{
    struct rank *me = &job->rank[r];
    free_slots(job, &me->in[0]);
    if (me->received == me->schedule.receives)
        return false;
    struct wi_receive receive;
    wi_schedule_receive(&me->schedule, me->received, &receive);
    struct link *in = &me->in[receive.link];
    if (in->taken == in->announced)
        return false;
    in->taken++;
    me->received++;
    if (receive.direct && job->direct)
        return true;

    uint32_t slot = (uint32_t)(in->next_slot++ % job->slots);
    assert_true(in->full[slot]);
    wi_reduce_fn *sum = wi_reduce_kernel(job->params.elem == 8 ? WEIR_F64 : WEIR_F32, WEIR_SUM, 0);
    bool hold = receive.forward && (receive.action == WI_REDUCE || !job->keeps);
    if (receive.action == WI_REDUCE || receive.action == WI_REDUCE_KEEP)
        sum(in->slot[slot], in->slot[slot], me->input + receive.offset, receive.len);
    if (receive.action == WI_REDUCE_KEEP || receive.action == WI_KEEP)
        memcpy(me->result + receive.offset, in->slot[slot], receive.len);
    in->held[slot] = in->full[slot] = hold;
    free_slots(job, in);
    return true;
}

/* Single steps in random order until all are done; a full round of ranks without one is a deadlock. */
static void run(struct job *job)
{
    for (;;) {
        uint32_t r = random_below(job->params.ranks);
        for (uint32_t burst = random_below(6); burst > 0; burst--)
            (void)(random_below(2) ? try_send(job, r) : try_receive(job, r));
        bool done = true, moved = false;
        for (uint32_t i = 0; i < job->params.ranks; i++)
            done &= job->rank[i].sent == job->rank[i].schedule.sends &&
                    job->rank[i].received == job->rank[i].schedule.receives;
        if (done)
            return;
        for (uint32_t i = 0; i < job->params.ranks && !moved; i++) {
            uint32_t other = (r + i) % job->params.ranks;
            moved = try_receive(job, other) || try_send(job, other);
        }
        assert_true(moved);
    }
}

static void fill(struct job *job, struct rank *rank, uint64_t bytes)
{
    for (uint64_t i = 0; i < job->params.count; i++) {
        double value = (random_below(2000001) - 1e6) * 1e-3;
        if (job->params.elem == 8)
            ((double *)(void *)rank->input)[i] = value;
        else
            ((float *)(void *)rank->input)[i] = (float)value;
    }
    if (rank->result != rank->input)
        memset(rank->result, 0xa5, bytes);
}

static double value_at(const struct job *job, const unsigned char *data, uint64_t i)
{
    return job->params.elem == 8 ? ((const double *)(const void *)data)[i]
                                 : (double)((const float *)(const void *)data)[i];
}

static void check_sums(struct job *job, const double *expected)
{
    double tolerance = job->params.elem == 8 ? 1e-9 : 1e-2;
    uint64_t bytes = job->params.count * job->params.elem;
    for (uint32_t r = 0; r < job->params.ranks; r++) {
        for (uint64_t i = 0; i < job->params.count; i++) {
            double error = value_at(job, job->rank[r].result, i) - expected[i];
            assert_true(error < tolerance && error > -tolerance);
        }
        assert_memory_equal(job->rank[r].result, job->rank[0].result, bytes);
    }
}

static void run_allreduce(struct job *job, bool in_place)
{
    uint32_t ranks = job->params.ranks;
    uint64_t bytes = job->params.count * job->params.elem;
    double *expected = calloc(job->params.count + 1, sizeof(*expected));
    assert_non_null(expected);
    for (uint32_t r = 0; r < ranks; r++) {
        struct rank *rank = &job->rank[r];
        memset(rank, 0, sizeof(*rank));
        job->params.rank = r;
        wi_schedule_init(&rank->schedule, &job->params);
        rank->input = malloc(bytes + 1);
        rank->result = in_place ? rank->input : malloc(bytes + 1);
        assert_true(rank->input && rank->result);
        fill(job, rank, bytes);
        for (uint64_t i = 0; i < job->params.count; i++)
            expected[i] += value_at(job, rank->input, i);
    }
    run(job);
    check_sums(job, expected);
    for (uint32_t r = 0; r < ranks; r++) {
        if (!in_place)
            free(job->rank[r].result);
        free(job->rank[r].input);
    }
    free(expected);
}

static struct job *make_job(uint64_t seed)
{
    struct job *job = calloc(1, sizeof(*job));
    assert_non_null(job);
    random_state = seed;
    return job;
}

static void test_allreduce(void **state)
{
    (void)state;
    static const uint64_t counts[] = {1, 2, 3, 7, 16, 17, 1000, 1023, 1024, 4097, 20000, 70001};
    struct job *job = make_job(1);
    for (uint32_t ranks = 2; ranks <= RANKS_MAX; ranks++)
        for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
            uint32_t lanes = 1u << random_below(4);
            job->params =
                (struct wi_schedule_params){WI_ALLREDUCE, ranks, 0, 0, 4u << random_below(2), counts[i], CHUNK, lanes};
            job->slots = 2 * lanes;
            job->batch = lanes > 1 ? lanes / 2 : 1;
            job->direct = random_below(2);
            job->keeps = job->direct || random_below(2);
            run_allreduce(job, random_below(2));
        }
    free(job);
}

static void test_allreduce_random(void **state)
{
    (void)state;
    struct job *job = make_job(2);
    for (int i = 0; i < 300; i++) {
        uint32_t ranks = 2 + random_below(RANKS_MAX - 1), lanes = 1 + random_below(WI_LANES_MAX);
        uint64_t count = 1 + random_below(1u << (1 + random_below(16)));
        job->params =
            (struct wi_schedule_params){WI_ALLREDUCE, ranks, 0, 0, 4u << random_below(2), count, CHUNK, lanes};
        job->slots = 2 * lanes;
        job->batch = lanes > 1 ? lanes / 2 : 1;
        job->direct = random_below(2);
        job->keeps = job->direct || random_below(2);
        run_allreduce(job, random_below(2));
    }
    free(job);
}

static void run_broadcast(struct job *job)
{
    uint64_t bytes = job->params.count * job->params.elem;
    for (uint32_t r = 0; r < job->params.ranks; r++) {
        struct rank *rank = &job->rank[r];
        memset(rank, 0, sizeof(*rank));
        job->params.rank = r;
        wi_schedule_init(&rank->schedule, &job->params);
        rank->input = rank->result = malloc(bytes + 1);
        assert_non_null(rank->input);
        fill(job, rank, bytes);
    }
    unsigned char *expected = malloc(bytes + 1);
    assert_non_null(expected);
    memcpy(expected, job->rank[job->params.root].input, bytes);
    run(job);
    for (uint32_t r = 0; r < job->params.ranks; r++) {
        assert_memory_equal(job->rank[r].result, expected, bytes);
        free(job->rank[r].input);
    }
    free(expected);
}

static void test_broadcast(void **state)
{
    (void)state;
    static const uint64_t counts[] = {0, 1, 5, 1024, 1025, 30000};
    struct job *job = make_job(3);
    for (uint32_t ranks = 2; ranks <= RANKS_MAX; ranks++)
        for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
            job->params =
                (struct wi_schedule_params){WI_BROADCAST, ranks, 0, random_below(ranks), 4, counts[i], CHUNK, 4};
            job->slots = 8;
            job->batch = 2;
            job->direct = random_below(2);
            job->keeps = job->direct || random_below(2);
            run_broadcast(job);
        }
    free(job);
}

/* Nobody may be through with a barrier before everybody has come to it. */
static void test_barrier(void **state)
{
    (void)state;
    struct job *job = make_job(4);
    for (uint32_t ranks = 2; ranks <= RANKS_MAX; ranks++)
        for (uint32_t late = 0; late < ranks; late++) {
            job->params = (struct wi_schedule_params){WI_BARRIER, ranks, 0, 0, 1, 0, CHUNK, 4};
            job->slots = 8;
            job->batch = 2;
            for (uint32_t r = 0; r < ranks; r++) {
                memset(&job->rank[r], 0, sizeof(job->rank[r]));
                job->params.rank = r;
                wi_schedule_init(&job->rank[r].schedule, &job->params);
            }
            for (bool moved = true; moved;) {
                moved = false;
                for (uint32_t r = 0; r < ranks; r++)
                    if (r != late) {
                        moved |= try_send(job, r);
                        moved |= try_receive(job, r);
                    }
            }
            for (uint32_t r = 0; r < ranks; r++)
                assert_true(job->rank[r].received < job->rank[r].schedule.receives);
            run(job);
        }
    free(job);
}

/* Sizes that no machine has: indices and offsets stay exact. */
static void test_huge(void **state)
{
    (void)state;
    struct wi_schedule schedule;
    struct wi_schedule_params params = {WI_ALLREDUCE, 65535, 65534, 0, 8, 1ull << 59, 1u << 18, 4};
    wi_schedule_init(&schedule, &params);
    uint64_t probes[] = {0, schedule.receives / 3, schedule.receives - 1};
    for (size_t i = 0; i < 3; i++) {
        struct wi_receive receive;
        wi_schedule_receive(&schedule, probes[i], &receive);
        assert_true(receive.len <= params.chunk);
        assert_true(receive.offset + receive.len <= params.count * params.elem);
        struct wi_send send;
        wi_schedule_send(&schedule, probes[i], &send);
        assert_true(send.len <= params.chunk);
        assert_true(send.offset + send.len <= params.count * params.elem);
        assert_true(send.after <= schedule.receives);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allreduce), cmocka_unit_test(test_allreduce_random),
        cmocka_unit_test(test_broadcast), cmocka_unit_test(test_barrier),
        cmocka_unit_test(test_huge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
