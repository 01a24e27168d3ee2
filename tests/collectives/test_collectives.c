/*
 * Collectives on real transports: every rank a process. WEIR_TRANSPORT and WEIR_INTRANODE choose what is tested.
 * Usage: test_collectives [--ranks N,N,...] [--without CASE | CASE...]; status 77: the transport cannot be used here.
 */
#include "collectives/comm.h"
#include "job.h"
#include "numbers.h"
#include "transport/context.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 31)) * 0x7fb5d329728ea185ull;
    x = (x ^ (x >> 27)) * 0x81dadef4bc2dd44dull;
    return x ^ (x >> 33);
}

/* ---- Buffers of all kinds ---------------------------------------------------------------------------------------- */

enum memory { POOL, REGISTERED, ORDINARY, MEMORY_KINDS };

struct buffer {
    enum memory kind;
    void *base;
    weir_mem *mem;
    unsigned char *data; /* aligned to an element, not more */
};

static struct buffer buffer_make(struct job *job, enum memory kind, size_t bytes, size_t shift)
{
    struct buffer buffer = {.kind = kind};
    if (kind == POOL) {
        CHECK_OK(weir_pool_alloc(job->pool, bytes + shift + 1, &buffer.base, NULL));
    } else {
        buffer.base = malloc(bytes + shift + 1);
        CHECK(buffer.base);
    }
    if (kind == REGISTERED)
        CHECK_OK(weir_mem_register(job->ctx, buffer.base, bytes + shift + 1, &buffer.mem));
    buffer.data = (unsigned char *)buffer.base + shift;
    buffer.data[bytes] = 0x5a; /* watched: nothing may be written behind the end */
    return buffer;
}

static void buffer_free(struct job *job, struct buffer *buffer, size_t bytes)
{
    CHECK(buffer->data[bytes] == 0x5a);
    weir_mem_deregister(buffer->mem);
    if (buffer->kind == POOL)
        weir_pool_free(job->pool, buffer->base);
    else
        free(buffer->base);
}

/* ---- All-reduce -------------------------------------------------------------------------------------------------- */

/* Small whole numbers: their sums are exact in both types, in any order. */
static double whole(int rank, size_t i)
{
    return (double)((i * 7 + (size_t)rank * 1013) % 2001) - 1000;
}

static double whole_sum(int ranks, size_t i)
{
    double sum = 0;
    for (int r = 0; r < ranks; r++)
        sum += whole(r, i);
    return sum;
}

struct shape {
    size_t count;
    weir_dtype dtype;
    bool in_place;
    enum memory send, recv;
};

static void one_sum(struct job *job, weir_comm *comm, const struct shape *shape)
{
    size_t elem = weir_dtype_size(shape->dtype), bytes = shape->count * elem;
    int me = weir_comm_rank(comm), ranks = weir_comm_size(comm);
    struct buffer recv = buffer_make(job, shape->recv, bytes, elem * (size_t)(me % 3));
    struct buffer send = recv;
    if (!shape->in_place) {
        send = buffer_make(job, shape->send, bytes, elem);
        memset(recv.data, 0xee, bytes);
    }
    for (size_t i = 0; i < shape->count; i++)
        number_store(send.data, i, shape->dtype, whole(me, i));
    CHECK_OK(weir_allreduce(comm, send.data, recv.data, shape->count, shape->dtype, WEIR_SUM));
    for (size_t i = 0; i < shape->count; i++) {
        double got = number_load(recv.data, i, shape->dtype), due = whole_sum(ranks, i);
        if (got != due)
            fprintf(stderr, "rank %d: count %zu type %d in_place %d send %d recv %d: element %zu is %g, not %g\n", me,
                    shape->count, (int)shape->dtype, shape->in_place, (int)shape->send, (int)shape->recv, i, got, due);
        CHECK(got == due);
        CHECK(shape->in_place || number_load(send.data, i, shape->dtype) == whole(me, i));
    }
    if (!shape->in_place)
        buffer_free(job, &send, bytes);
    buffer_free(job, &recv, bytes);
}

static void case_sums(struct job *job)
{
    size_t n = (size_t)job->ranks;
    const size_t counts[] = {0, 1, 2, 3, n - 1, n, n + 1, 7 * n + 1, 1000, 1023, 4097, 65536, 262147};
    unsigned variant = 0;
    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
        for (int dtype = WEIR_F32; dtype <= WEIR_F64; dtype++)
            for (int kind = POOL; kind < MEMORY_KINDS; kind++)
                for (int in_place = 0; in_place < 2; in_place++) {
                    /* Every third time the ranks have different kinds of memory. */
                    unsigned shift = ++variant % 3 == 0 ? (unsigned)job->rank : 0;
                    const struct shape shape = {counts[c], (weir_dtype)dtype, in_place,
                                                (enum memory)(((unsigned)kind + variant + shift) % MEMORY_KINDS),
                                                (enum memory)(((unsigned)kind + shift) % MEMORY_KINDS)};
                    one_sum(job, job->comm, &shape);
                }
}

/* Several groups of pieces for few ranks, and several lanes for many. */
static void case_large(struct job *job)
{
    const size_t bytes = (job->ranks <= 4 ? 10u : 4u) << 20;
    const struct shape shapes[] = {
        {bytes / 4 + 3, WEIR_F32, false, POOL, POOL},
        {bytes / 8 + 1, WEIR_F64, true, ORDINARY, ORDINARY},
        {bytes / 8, WEIR_F32, true, REGISTERED, REGISTERED},
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        one_sum(job, job->comm, &shapes[i]);
}

/* Fractions: rounding depends on the order, so equal bits prove a fixed order. */
static void case_bitwise(struct job *job)
{
    for (int round = 0; round < 6; round++) {
        size_t count = 1 + mix((uint64_t)round) % 200000;
        weir_dtype dtype = round % 2 ? WEIR_F64 : WEIR_F32;
        size_t bytes = count * weir_dtype_size(dtype);
        struct buffer send = buffer_make(job, ORDINARY, bytes, 0);
        struct buffer recv[2] = {buffer_make(job, (enum memory)((job->rank + round) % 3), bytes, 0),
                                 buffer_make(job, ORDINARY, bytes, 0)};
        for (size_t i = 0; i < count; i++)
            number_store(send.data, i, dtype, (double)(int64_t)mix(i * 16 + (uint64_t)job->rank) * 1e-15);
        for (int again = 0; again < 2; again++)
            CHECK_OK(weir_allreduce(job->comm, send.data, recv[again].data, count, dtype, WEIR_SUM));
        CHECK(memcmp(recv[0].data, recv[1].data, bytes) == 0);
        uint64_t hash = 0;
        for (size_t i = 0; i < bytes; i++)
            hash = mix(hash + recv[0].data[i]);
        atomic_store(&job->shared->value[job->rank], hash);
        CHECK_OK(weir_barrier(job->comm));
        for (int r = 0; r < job->ranks; r++)
            CHECK(atomic_load(&job->shared->value[r]) == hash);
        CHECK_OK(weir_barrier(job->comm));
        buffer_free(job, &recv[1], bytes);
        buffer_free(job, &recv[0], bytes);
        buffer_free(job, &send, bytes);
    }
}

static void case_random(struct job *job)
{
    for (uint64_t seed = 1; seed <= 60; seed++) {
        uint64_t r = mix(seed), own = mix(seed * 64 + (uint64_t)job->rank);
        const struct shape shape = {r % (1ull << (1 + r / 64 % 18)), (weir_dtype)(r >> 40 & 1), r >> 41 & 1,
                                    (enum memory)(own % 3), (enum memory)(own / 3 % 3)};
        one_sum(job, job->comm, &shape);
    }
}

/* What a rank brings to a reduction: small numbers, with which nothing is rounded in any type. */
static double brought(weir_redop op, weir_dtype dtype, int rank, size_t i)
{
    if (op == WEIR_PROD)
        return rank < 5 && (i + (size_t)rank) % 3 == 0 ? 2 : 1;
    if (op == WEIR_AVG)
        return (double)(i % 5) - (number_is_signed(dtype) ? 2 : 0); /* the same everywhere, so it is the average */
    return (double)((i * 7 + (size_t)rank * 3) % 6) - (number_is_signed(dtype) ? 3 : 0);
}

static double combined(weir_redop op, double x, double y)
{
    switch (op) {
    case WEIR_PROD:
        return x * y;
    case WEIR_MIN:
        return x < y ? x : y;
    case WEIR_MAX:
        return x > y ? x : y;
    default:
        return x + y;
    }
}

static void one_reduction(struct job *job, weir_dtype dtype, weir_redop op, size_t count, enum memory kind, bool in_place)
{
    size_t bytes = count * weir_dtype_size(dtype);
    struct buffer recv = buffer_make(job, kind, bytes, weir_dtype_size(dtype));
    struct buffer send = in_place ? recv : buffer_make(job, kind, bytes, 0);
    for (size_t i = 0; i < count; i++)
        number_store(send.data, i, dtype, brought(op, dtype, job->rank, i));
    CHECK_OK(weir_allreduce(job->comm, send.data, recv.data, count, dtype, op));
    for (size_t i = 0; i < count; i++) {
        double due = brought(op, dtype, 0, i), got = number_load(recv.data, i, dtype);
        for (int rank = 1; rank < job->ranks; rank++)
            due = combined(op, due, brought(op, dtype, rank, i));
        if (op == WEIR_AVG)
            due /= job->ranks;
        if (got != due)
            fprintf(stderr, "rank %d: %s of %zu %s: element %zu is %g, not %g\n", job->rank, weir_redop_name(op), count,
                    weir_dtype_name(dtype), i, got, due);
        CHECK(got == due);
    }
    if (!in_place)
        buffer_free(job, &send, bytes);
    buffer_free(job, &recv, bytes);
}

/* Every operation on every type: a few elements, and pieces of which some are held for being sent on. */
static void case_types(struct job *job)
{
    static const size_t counts[] = {1, 77, 30001};
    unsigned variant = 0;
    for (int dtype = 0; dtype < WEIR_DTYPES; dtype++)
        for (int op = 0; op < WEIR_REDOPS; op++)
            for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++, variant++)
                one_reduction(job, (weir_dtype)dtype, (weir_redop)op, counts[c], (enum memory)(variant % MEMORY_KINDS),
                              variant % 2);
}

/* Back to back, nothing in between. */
static void case_small(struct job *job)
{
    for (int round = 0; round < 1000; round++) {
        float data[8];
        size_t count = 1 + (size_t)round % 8;
        for (size_t i = 0; i < count; i++)
            data[i] = (float)whole(job->rank, i + (size_t)round);
        CHECK_OK(weir_allreduce(job->comm, data, data, count, WEIR_F32, WEIR_SUM));
        for (size_t i = 0; i < count; i++)
            CHECK(data[i] == (float)whole_sum(job->ranks, i + (size_t)round));
    }
}

/* ---- Barrier and broadcast --------------------------------------------------------------------------------------- */

static void case_barrier(struct job *job)
{
    for (uint64_t round = 1; round <= 200; round++) {
        if (mix(round + (uint64_t)job->rank) % 16 == 0)
            usleep(500);
        atomic_fetch_add(&job->shared->entered, 1);
        CHECK_OK(weir_barrier(job->comm));
        CHECK(atomic_load(&job->shared->entered) >= round * (uint64_t)job->ranks);
    }
}

static void case_broadcast(struct job *job)
{
    static const size_t counts[] = {0, 1, 100, 1024, 1025, 65536, 1000003};
    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
        for (int root = 0; root < job->ranks; root += 1 + (c > 4 ? 2 : 0)) {
            weir_dtype dtype = root % 2 ? WEIR_F64 : WEIR_F32;
            size_t bytes = counts[c] * weir_dtype_size(dtype);
            struct buffer buf = buffer_make(job, (enum memory)((job->rank + root + (int)c) % 3), bytes, 8);
            for (size_t i = 0; i < bytes; i++)
                buf.data[i] = (unsigned char)(job->rank == root ? mix(i + c) : 0);
            CHECK_OK(weir_broadcast(job->comm, buf.data, counts[c], dtype, root));
            for (size_t i = 0; i < bytes; i++)
                CHECK(buf.data[i] == (unsigned char)mix(i + c));
            buffer_free(job, &buf, bytes);
        }
}

/* More regions than keys are kept, each used again after it was given up. */
static void case_regions(struct job *job)
{
    enum { REGIONS = 3 * WI_OFFER_KEYS / 2, COUNT = 20000 };
    struct buffer recv[REGIONS];
    float *send = malloc(COUNT * sizeof(*send));
    CHECK(send);
    for (int i = 0; i < REGIONS; i++)
        recv[i] = buffer_make(job, REGISTERED, COUNT * sizeof(*send), 0);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < REGIONS; i++) {
            for (size_t e = 0; e < COUNT; e++)
                send[e] = (float)whole(job->rank, e + (size_t)(i + round));
            CHECK_OK(weir_allreduce(job->comm, send, recv[i].data, COUNT, WEIR_F32, WEIR_SUM));
            for (size_t e = 0; e < COUNT; e++)
                CHECK(number_load(recv[i].data, e, WEIR_F32) == whole_sum(job->ranks, e + (size_t)(i + round)));
        }
    for (int i = 0; i < REGIONS; i++)
        buffer_free(job, &recv[i], COUNT * sizeof(*send));
    free(send);
}

static void *map_at(struct job *job, void *where, size_t bytes)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | (where ? MAP_FIXED : 0);
    void *pages = mmap(where, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    CHECK(pages != MAP_FAILED);
    return pages;
}

/* Memory of the user's that comes and goes: what neighbours know of it must not be used for what is there next. */
static void unmap_and_sum(struct job *job)
{
    enum { COUNT = 80000, BYTES = COUNT * sizeof(float) };
    float *send = map_at(job, NULL, BYTES), *recv = map_at(job, NULL, BYTES);
    for (int round = 0; round < 12; round++) {
        if (round % 3 == job->rank % 3) { /* the same addresses, other pages */
            munmap(recv, BYTES);
            munmap(send, BYTES);
            map_at(job, recv, BYTES);
            map_at(job, send, BYTES);
        } else if (round % 4 == 3) { /* kept, but other pages */
            CHECK(madvise(recv, BYTES, MADV_DONTNEED) == 0);
        }
        for (size_t e = 0; e < COUNT; e++)
            send[e] = (float)whole(job->rank, e + (size_t)round);
        CHECK_OK(weir_allreduce(job->comm, send, recv, COUNT, WEIR_F32, WEIR_SUM));
        for (size_t e = 0; e < COUNT; e++)
            CHECK(recv[e] == (float)whole_sum(job->ranks, e + (size_t)round));
    }
    munmap(recv, BYTES);
    munmap(send, BYTES);
}

/* Is anything registered that is not ours? */
static bool some_borrowed(struct job *job)
{
    weir_mem_cache_attr attr;
    weir_mem_cache_query(job->ctx, &attr);
    return attr.hits + attr.misses > 0;
}

static void case_unmapped(struct job *job)
{
    unmap_and_sum(job);
    /* As over a network where writes into registered memory, and sends from it, save copies. */
    for (uint32_t i = 0; i < job->comm->peer_count; i++) {
        job->comm->peers[i].max_inline = 200;
        job->comm->peers[i].maps = false;
    }
    unmap_and_sum(job);
    CHECK(job->ranks == 1 || some_borrowed(job) || !job->ctx->regcache);
    case_large(job);
}

/* As over a transport that sends only from registered memory, and keeps no registrations, whatever this one can do. */
static void case_staged(struct job *job)
{
    job->comm->copies = true;
    for (uint32_t i = 0; i < job->comm->peer_count; i++)
        job->comm->peers[i].max_inline = 200;
    case_large(job);
    case_random(job);
    case_broadcast(job);
}

/* ---- What neighbours could write to ------------------------------------------------------------------------------ */

/* Where a rank can be reached by others, beside its communicators. */
struct reach {
    unsigned char address[WEIR_ADDRESS_MAX], key[WEIR_RKEY_MAX];
    size_t address_len, key_len;
};

static weir_ep *reach(struct job *job, const struct buffer *buf, size_t bytes, int peer, struct reach *theirs)
{
    struct reach ours = {.address_len = sizeof(ours.address), .key_len = sizeof(ours.key)};
    char name[32];
    size_t len = sizeof(*theirs), region_len;
    void *region;
    weir_ep *ep;
    weir_mem *mem;
    CHECK_OK(weir_mem_find(job->ctx, buf->data, bytes, &mem));
    weir_mem_range(mem, &region, &region_len);
    CHECK_OK(weir_ctx_address(job->ctx, ours.address, &ours.address_len));
    CHECK_OK(weir_mem_export(mem, region, region_len, ours.key, &ours.key_len));
    snprintf(name, sizeof(name), "reach/%d", job->rank);
    CHECK_OK(weir_boot_put(job->boot, name, &ours, sizeof(ours)));
    snprintf(name, sizeof(name), "reach/%d", peer);
    CHECK_OK(weir_boot_get(job->boot, name, theirs, &len, -1));
    CHECK_OK(weir_ep_create(job->ctx, theirs->address, theirs->address_len, &ep));
    return ep;
}

static weir_status write_to(struct job *job, weir_ep *ep, weir_rkey *key, uint64_t at, uint64_t value)
{
    static weir_comp comp; /* outlives what fails late */
    static uint64_t word;
    word = value;
    weir_status status = weir_put(ep, &word, NULL, sizeof(word), at, key, NULL);
    comp = (weir_comp)WEIR_COMP_INIT;
    if (status == WEIR_OK)
        status = weir_flush(ep, &comp);
    return status == WEIR_OK ? weir_wait(job->ctx, &comp, -1) : status;
}

/* The key of a result buffer that was offered ends with the communicator; what the user exported himself does not. */
static void case_returned(struct job *job)
{
    enum { BYTES = 400000 };
    struct buffer buf = buffer_make(job, REGISTERED, BYTES, 0);
    uint64_t *words = (uint64_t *)(void *)buf.data;
    weir_comm *comm;
    struct wi_offer offer;
    struct reach right;
    memset(buf.data, 0, BYTES);
    CHECK_OK(weir_comm_create(job->ctx, job->boot, NULL, &comm));
    CHECK_OK(weir_allreduce(comm, words, words, BYTES / 4, WEIR_F32, WEIR_SUM));
    memcpy(&offer, comm->offers.place + (comm->seq & 1) * WI_OFFER_SIZE, sizeof(offer));
    CHECK(offer.key_len > 0);
    weir_ep *ep = reach(job, &buf, BYTES, (job->rank + 1) % job->ranks, &right);
    weir_rkey *offered, *exported;
    CHECK_OK(weir_rkey_import(ep, offer.key, offer.key_len, &offered));
    CHECK_OK(weir_rkey_import(ep, right.key, right.key_len, &exported));
    CHECK_OK(write_to(job, ep, offered, offer.addr, 1));
    CHECK_OK(weir_barrier(comm));
    CHECK(words[0] == 1);
    weir_comm_destroy(comm);
    CHECK_OK(weir_boot_barrier(job->boot, "returned", NULL, 0));
    CHECK_OK(write_to(job, ep, exported, offer.addr + 8, 2));
    CHECK(write_to(job, ep, offered, offer.addr, 3) == WEIR_ERR_KEY);
    CHECK_OK(weir_boot_attend(job->boot, weir_ctx_attend, job->ctx)); /* the other one's write may want to be refused yet */
    CHECK_OK(weir_boot_barrier(job->boot, "refused", NULL, 0));
    weir_boot_unattend(job->boot, weir_ctx_attend, job->ctx);
    CHECK(words[0] == 1 && words[1] == 2);
    weir_rkey_destroy(offered);
    weir_rkey_destroy(exported);
    weir_ep_close(ep);
    buffer_free(job, &buf, BYTES);
}

/* ---- Communicators ----------------------------------------------------------------------------------------------- */

/* The halves of the world, the world in reverse and the world again, in turn. */
static void case_communicators(struct job *job)
{
    int reverse[JOB_RANKS_MAX], half[JOB_RANKS_MAX], halves = 0;
    for (int r = 0; r < job->ranks; r++) {
        reverse[r] = job->ranks - 1 - r;
        if (r % 2 == job->rank % 2)
            half[halves++] = r;
    }
    const weir_comm_params params[] = {
        {.size = sizeof(params[0]), .name = "reverse", .ranks = reverse, .nranks = job->ranks},
        {.size = sizeof(params[0]), .ranks = half, .nranks = halves, .chunk = 4096},
        {.size = sizeof(params[0])},
    };
    weir_comm *comm[3];
    for (int i = 0; i < 3; i++)
        CHECK_OK(weir_comm_create(job->ctx, job->boot, &params[i], &comm[i]));
    CHECK(weir_comm_rank(comm[0]) == job->ranks - 1 - job->rank);
    CHECK(weir_comm_rank(comm[1]) == job->rank / 2 && weir_comm_size(comm[1]) == halves);
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < 3; i++) {
            const struct shape shape = {mix((uint64_t)round) % 60000, WEIR_F32, round % 2, POOL, POOL};
            one_sum(job, comm[i], &shape);
        }
    weir_comm_stats stats;
    weir_comm_query(comm[2], &stats);
    CHECK(stats.operations == 20 && stats.time_ns > 0 && (stats.bytes_sent > 0) == (job->ranks > 1));
    for (int i = 0; i < 3; i++)
        weir_comm_destroy(comm[i]);
}

static void case_arguments(struct job *job)
{
    float x[4] = {0};
    weir_comm *comm;
    int alien = job->ranks, twice[] = {job->rank, job->rank};
    CHECK(weir_allreduce(NULL, x, x, 1, WEIR_F32, WEIR_SUM) == WEIR_ERR_INVALID);
    CHECK(weir_allreduce(job->comm, x, x, 1, WEIR_DTYPES, WEIR_SUM) == WEIR_ERR_INVALID);
    CHECK(weir_allreduce(job->comm, x, x, 1, WEIR_F32, WEIR_REDOPS) == WEIR_ERR_INVALID);
    CHECK(weir_allreduce(job->comm, NULL, x, 1, WEIR_F32, WEIR_SUM) == WEIR_ERR_INVALID);
    CHECK(weir_allreduce(job->comm, x, x + 1, 2, WEIR_F32, WEIR_SUM) == WEIR_ERR_INVALID);
    CHECK(weir_allreduce(job->comm, x, x, SIZE_MAX / 4, WEIR_F64, WEIR_SUM) == WEIR_ERR_INVALID);
    CHECK(weir_broadcast(job->comm, x, 1, WEIR_F32, job->ranks) == WEIR_ERR_INVALID);
    CHECK(weir_broadcast(job->comm, NULL, 1, WEIR_F32, 0) == WEIR_ERR_INVALID);
    weir_comm_params params = {.size = sizeof(params), .ranks = &alien, .nranks = 1};
    CHECK(weir_comm_create(job->ctx, job->boot, &params, &comm) == WEIR_ERR_INVALID);
    params.ranks = twice;
    params.nranks = 2;
    CHECK(weir_comm_create(job->ctx, job->boot, &params, &comm) == WEIR_ERR_INVALID);
    params = (weir_comm_params){.size = sizeof(params), .chunk = 5};
    CHECK(weir_comm_create(job->ctx, job->boot, &params, &comm) == WEIR_ERR_INVALID);
    CHECK_OK(weir_allreduce(job->comm, NULL, NULL, 0, WEIR_F32, WEIR_SUM)); /* the communicator is none the worse */
    CHECK_OK(weir_barrier(job->comm));
    CHECK(weir_comm_rank(job->comm) == job->rank && weir_comm_size(job->comm) == job->ranks);
    weir_comm_destroy(NULL);
}

/* ---- Ranks that disagree, die or stay away ----------------------------------------------------------------------- */

/* Waits for all ranks without what is tested. */
static void meet(struct job *job)
{
    atomic_fetch_add(&job->shared->entered, 1);
    while (atomic_load(&job->shared->entered) < (uint64_t)job->ranks)
        usleep(100);
}

/* The last rank calls `odd`, the others `even`: every rank must hear of it, and again at the next call. */
static void disagree(struct job *job, weir_status (*even)(weir_comm *, float *),
                     weir_status (*odd)(weir_comm *, float *))
{
    float *data = calloc(100000, sizeof(*data));
    CHECK(data);
    CHECK_OK(even(job->comm, data));
    meet(job); /* nobody fails while another one is still in the first call */
    CHECK((job->rank == job->ranks - 1 ? odd : even)(job->comm, data) == WEIR_ERR_MISMATCH);
    CHECK(strstr(weir_last_error(), "rank"));
    CHECK(weir_barrier(job->comm) == WEIR_ERR_MISMATCH);
    free(data);
}

static weir_status sum_10(weir_comm *comm, float *data)
{
    return weir_allreduce(comm, data, data, 10, WEIR_F32, WEIR_SUM);
}

static weir_status sum_11(weir_comm *comm, float *data)
{
    return weir_allreduce(comm, data, data, 11, WEIR_F32, WEIR_SUM);
}

static weir_status sum_nothing(weir_comm *comm, float *data)
{
    return weir_allreduce(comm, data, data, 0, WEIR_F32, WEIR_SUM);
}

static weir_status sum_10_f64(weir_comm *comm, float *data)
{
    return weir_allreduce(comm, data, data, 10, WEIR_F64, WEIR_SUM);
}

static weir_status sum_100000(weir_comm *comm, float *data)
{
    return weir_allreduce(comm, data, data, 100000, WEIR_F32, WEIR_SUM);
}

static weir_status sum_90000(weir_comm *comm, float *data)
{
    return weir_allreduce(comm, data, data, 90000, WEIR_F32, WEIR_SUM);
}

static weir_status broadcast_from_0(weir_comm *comm, float *data)
{
    return weir_broadcast(comm, data, 10, WEIR_F32, 0);
}

static weir_status broadcast_from_1(weir_comm *comm, float *data)
{
    return weir_broadcast(comm, data, 10, WEIR_F32, 1);
}

static weir_status broadcast_100000(weir_comm *comm, float *data)
{
    return weir_broadcast(comm, data, 100000, WEIR_F32, 1);
}

static weir_status barrier(weir_comm *comm, float *data)
{
    (void)data;
    return weir_barrier(comm);
}

static void case_other_count(struct job *job)
{
    disagree(job, sum_10, sum_11);
}

static void case_other_large(struct job *job)
{
    disagree(job, sum_100000, sum_90000);
}

static void case_no_count(struct job *job)
{
    disagree(job, sum_10, sum_nothing);
}

static void case_count_alone(struct job *job)
{
    disagree(job, sum_nothing, sum_10);
}

static void case_other_type(struct job *job)
{
    disagree(job, sum_10, sum_10_f64);
}

static void case_other_root(struct job *job)
{
    disagree(job, broadcast_from_0, broadcast_from_1);
}

static void case_other_call(struct job *job)
{
    disagree(job, sum_100000, broadcast_100000);
}

static void case_other_barrier(struct job *job)
{
    disagree(job, barrier, sum_10);
}

/* A head that cannot be: the last rank is a collective ahead. */
static void case_damaged(struct job *job)
{
    CHECK_OK(weir_barrier(job->comm));
    meet(job);
    if (job->rank == job->ranks - 1)
        job->comm->seq++;
    CHECK(weir_barrier(job->comm) == WEIR_ERR_PROTOCOL);
}

/* Puts an offer into our own place, as the right neighbour would, and takes it. */
static weir_status take_offer(weir_comm *comm, const struct wi_offer *offer)
{
    comm->offers.taken--;
    comm->run.target.known = false;
    memcpy(comm->offers.place + (comm->seq & 1) * WI_OFFER_SIZE, offer, sizeof(*offer));
    uint64_t taken = comm->offers.taken;
    weir_status status = wi_offer_take(comm);
    comm->offers.taken = taken + 1;
    return status;
}

/* Offers come from outside: one that is false in any field is refused. */
static void case_false_offers(struct job *job)
{
    struct buffer buf = buffer_make(job, POOL, 400000, 0);
    struct wi_offer good, bad;
    memset(buf.data, 0, 400000);
    CHECK_OK(weir_allreduce(job->comm, buf.data, buf.data, 100000, WEIR_F32, WEIR_SUM));
    memcpy(&good, job->comm->offers.place + (job->comm->seq & 1) * WI_OFFER_SIZE, sizeof(good));
    CHECK(good.key_len > 0 && good.bytes == 400000);
    CHECK_OK(take_offer(job->comm, &good));
    bad = good;
    bad.seq++;
    CHECK(take_offer(job->comm, &bad) == WEIR_ERR_PROTOCOL);
    bad = good;
    bad.key_len = sizeof(bad.key) + 1;
    CHECK(take_offer(job->comm, &bad) == WEIR_ERR_PROTOCOL);
    bad = good;
    bad.bytes--;
    CHECK(take_offer(job->comm, &bad) == WEIR_ERR_PROTOCOL);
    bad = good;
    bad.bytes = UINT64_MAX;
    CHECK(take_offer(job->comm, &bad) == WEIR_ERR_PROTOCOL);
    for (int shift = 20; shift < 64; shift += 4) {
        bad = good;
        bad.addr += 1ull << shift; /* 1 MiB away it may still be within the region */
        weir_status status = take_offer(job->comm, &bad);
        CHECK(status == WEIR_ERR_PROTOCOL || (status == WEIR_OK && shift < 28));
    }
    bad = good;
    bad.region += 1000; /* not known yet: the key is looked at */
    bad.key[bad.key_len / 2] ^= 0x40;
    CHECK(take_offer(job->comm, &bad) == WEIR_ERR_KEY);
    bad.key_len = 3;
    CHECK(take_offer(job->comm, &bad) == WEIR_ERR_KEY);
    CHECK_OK(take_offer(job->comm, &good));
    buffer_free(job, &buf, 400000);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* One rank dies amid a loop. All others are told, well before WEIR_TIMEOUT has to help. */
static void case_kill(struct job *job)
{
    struct buffer buf = buffer_make(job, POOL, 400000, 0);
    memset(buf.data, 0, 400000);
    weir_status status = WEIR_OK;
    double begin = seconds(), last = begin;
    for (int round = 0; status == WEIR_OK; round++) {
        CHECK(seconds() - begin < 60);
        if (job->rank == job->ranks - 1 && round == 20)
            kill(getpid(), SIGKILL);
        last = seconds();
        status = weir_allreduce(job->comm, buf.data, buf.data, 100000, WEIR_F32, WEIR_SUM);
    }
    CHECK(status == WEIR_ERR_PEER_GONE);
    CHECK(seconds() - last < 9);
    CHECK(weir_barrier(job->comm) == WEIR_ERR_PEER_GONE);
    buffer_free(job, &buf, 400000);
}

static bool told_of_fork(weir_status status)
{
    return status == WEIR_ERR_INVALID && strstr(weir_last_error(), "forked");
}

/* All that a child of a rank may try with what it has of its parent. */
static void try_in_child(struct job *job)
{
    size_t len = 1;
    char byte = 0;
    float one = 1;
    weir_comm *comm;
    alarm(60);
    CHECK(told_of_fork(weir_allreduce(job->comm, &one, &one, 1, WEIR_F32, WEIR_SUM)));
    CHECK(told_of_fork(weir_broadcast(job->comm, &one, 1, WEIR_F32, 0)));
    CHECK(told_of_fork(weir_barrier(job->comm)));
    CHECK(told_of_fork(weir_boot_put(job->boot, "child", "", 1)));
    CHECK(told_of_fork(weir_boot_get(job->boot, "child", &byte, &len, 100)));
    CHECK(told_of_fork(weir_boot_barrier(job->boot, "child", NULL, 0)));
    CHECK(told_of_fork(weir_boot_check(job->boot)));
    CHECK(weir_comm_create(job->ctx, job->boot, NULL, &comm) != WEIR_OK);
    weir_boot_unattend(job->boot, weir_ctx_attend, job->ctx);
    weir_boot_fail(job->boot, WEIR_ERR_JOB_FAILED, "a child has failed the job");
    weir_comm_destroy(job->comm);
    weir_ctx_destroy(job->ctx);
    weir_boot_destroy(job->boot);
    _exit(0);
}

/* Children of all ranks do what they can, and the job goes on. */
static void case_fork(struct job *job)
{
    const struct shape shapes[] = {{7, WEIR_F32, false, POOL, POOL}, {100000, WEIR_F32, true, ORDINARY, ORDINARY}};
    for (int i = 0; i < 10; i++) {
        int result;
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0)
            try_in_child(job);
        CHECK(pid > 0);
        one_sum(job, job->comm, &shapes[i % 2]);
        CHECK(waitpid(pid, &result, 0) == pid && result == 0);
        CHECK_OK(weir_boot_check(job->boot));
    }
    CHECK_OK(weir_barrier(job->comm));
}

/* One rank does not come: the wait of the others ends, and the sentence says whom they waited for. */
static void case_absent(struct job *job)
{
    if (job->rank == job->ranks - 1) {
        while (weir_boot_check(job->boot) == WEIR_OK)
            usleep(1000);
        return;
    }
    CHECK(weir_barrier(job->comm) == WEIR_ERR_TIMEOUT);
    CHECK(strstr(weir_last_error(), "WEIR_TIMEOUT"));
}

/* The others published how to reach them, then stopped: waiting for their connections is bounded once, not for each. */
static void case_stopped(struct job *job)
{
    weir_comm_params params = {.size = sizeof(params), .name = "stopped"};
    weir_comm *comm;
    int pids[JOB_RANKS_MAX], pid = getpid();
    CHECK_OK(weir_boot_allgather(job->boot, "pids", NULL, 0, &pid, sizeof(pid), pids));
    if (job->rank > 0) { /* stopped while waiting for rank 0's record */
        CHECK(weir_comm_create(job->ctx, job->boot, &params, &comm) != WEIR_OK);
        return;
    }
    for (int rank = 1; rank < job->ranks; rank++) {
        char key[64], record[4096];
        size_t len = sizeof(record);
        snprintf(key, sizeof(key), "coll/stopped/%d", rank);
        CHECK_OK(weir_boot_get(job->boot, key, record, &len, -1));
        CHECK(kill(pids[rank], SIGSTOP) == 0);
    }
    double begin = seconds();
    weir_status status = weir_comm_create(job->ctx, job->boot, &params, &comm);
    double took = seconds() - begin;
    for (int rank = 1; rank < job->ranks; rank++)
        CHECK(kill(pids[rank], SIGCONT) == 0);
    CHECK(status == WEIR_ERR_TIMEOUT);
    CHECK(strstr(weir_last_error(), "WEIR_TIMEOUT") && strstr(weir_last_error(), "rank "));
    CHECK(took < 8);
}

/* ---- Main ---------------------------------------------------------------------------------------------------------- */

struct entry {
    const char *name;
    job_case *run;
    int ranks_min;
    const char *timeout; /* WEIR_TIMEOUT, where it matters */
};

static const struct entry entries[] = {
    {"sums", case_sums, 1, NULL},
    {"large", case_large, 1, NULL},
    {"bitwise", case_bitwise, 1, NULL},
    {"random", case_random, 1, NULL},
    {"types", case_types, 1, NULL},
    {"small", case_small, 1, NULL},
    {"barrier", case_barrier, 1, NULL},
    {"broadcast", case_broadcast, 1, NULL},
    {"regions", case_regions, 1, NULL},
    {"staged", case_staged, 2, NULL},
    {"unmapped", case_unmapped, 1, NULL},
    {"returned", case_returned, 2, NULL},
    {"communicators", case_communicators, 1, NULL},
    {"arguments", case_arguments, 1, NULL},
    {"other_count", case_other_count, 2, NULL},
    {"other_large", case_other_large, 2, NULL},
    {"no_count", case_no_count, 2, NULL},
    {"count_alone", case_count_alone, 2, NULL},
    {"other_type", case_other_type, 2, NULL},
    {"other_root", case_other_root, 2, NULL},
    {"other_call", case_other_call, 2, NULL},
    {"other_barrier", case_other_barrier, 2, NULL},
    {"damaged", case_damaged, 2, NULL},
    {"false_offers", case_false_offers, 2, NULL},
    {"fork", case_fork, 1, NULL},
    {"kill", case_kill, 2, "10s"},
    {"absent", case_absent, 2, "4s"},
    {"stopped", case_stopped, 2, "4s"},
};

static bool run_entry(const struct entry *entry, const char *ranks)
{
    bool good = true;
    char list[256];
    snprintf(list, sizeof(list), "%s", ranks);
    for (char *next = list, *word; (word = strsep(&next, ","));) {
        int count = atoi(word);
        if (count < entry->ranks_min)
            continue;
        const char *before = getenv("WEIR_TIMEOUT");
        if (entry->timeout)
            setenv("WEIR_TIMEOUT", entry->timeout, 1);
        good &= job_run(entry->name, entry->run, count, 120);
        if (entry->timeout && !before)
            unsetenv("WEIR_TIMEOUT");
    }
    return good;
}

/* Asked in a process of its own: the library reads the environment once, and each rank shall have its own. */
static bool usable(void)
{
    const char *transport = getenv("WEIR_TRANSPORT");
    int status = 1;
    pid_t pid = fork();
    if (pid == 0) {
        char why[256] = "";
        bool good = !transport || strcmp(transport, "auto") == 0 ||
                    weir_transport_probe(transport, why, sizeof(why)) == WEIR_OK;
        if (!good)
            printf("skipped: %s\n", why);
        exit(good ? 0 : 1);
    }
    return waitpid(pid, &status, 0) == pid && status == 0;
}

static bool named(char **names, const char *name)
{
    while (*names)
        if (strcmp(*names++, name) == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    const char *ranks = "1,2,3,4";
    char **names = argv + 1;
    bool good = true, without = false;
    if (argc > 2 && strcmp(names[0], "--ranks") == 0) {
        ranks = names[1];
        names += 2;
    }
    if (*names && strcmp(*names, "--without") == 0) {
        without = true;
        names++;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!usable())
        return 77;
    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++)
        if (!*names || named(names, entries[i].name) != without)
            good &= run_entry(&entries[i], ranks);
    return good ? 0 : 1;
}
