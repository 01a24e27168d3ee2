/*
 * Memory that nobody registered: used as it is, unmapped and mapped anew behind the transport's back, and more of it than
 * the limit on locked memory allows. WEIR_TRANSPORT chooses the transport; exit status 77: it cannot be used here.
 */
#include "harness.h"

#include <linux/capability.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

enum { LEN = 256 << 10 };

/* Rank 1 has memory for rank 0 to write and read; what both do is up to the test. */
struct target {
    struct area area;
    weir_rkey *rkey;
    uint64_t addr;
};

static void target_open(struct rank *r, struct target *target, size_t len)
{
    rank_open_all(r);
    area_make(r, &target->area, len, true);
    target->rkey = swap_keys(r, &target->area, &target->addr);
}

static void target_close(struct rank *r, struct target *target)
{
    barrier(r);
    weir_rkey_destroy(target->rkey);
    area_free(r, &target->area);
    rank_close(r);
}

static void put(struct rank *r, struct target *target, const void *from, size_t len)
{
    weir_comp comp = WEIR_COMP_INIT;
    CHECK_OK(weir_put(r->ep[1], from, NULL, len, target->addr, target->rkey, &comp));
    CHECK_OK(weir_wait(r->ctx, &comp, -1));
    flush(r, r->ep[1]);
}

static void get(struct rank *r, struct target *target, void *to, size_t len)
{
    weir_comp comp = WEIR_COMP_INIT;
    CHECK_OK(weir_get(r->ep[1], to, NULL, len, target->addr, target->rkey, &comp));
    CHECK_OK(weir_wait(r->ctx, &comp, -1));
}

/* ---- As it is ---- */

static void unregistered_body(struct rank *r)
{
    struct target target;
    static const size_t lens[] = {1, 200, 221, 4096, 70000, LEN};
    target_open(r, &target, LEN);
    for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]) && r->rank == 0; i++) {
        unsigned char *from = malloc(lens[i] + 3), *back = malloc(lens[i]);
        pattern_fill(from + 3, lens[i], (unsigned)i);
        put(r, &target, from + 3, lens[i]);
        get(r, &target, back, lens[i]);
        CHECK(pattern_differs(back, lens[i], (unsigned)i) == lens[i]);
        /* Many at once, and without a completion of their own: their registrations must outlive them. */
        for (int n = 0; n < 100; n++)
            CHECK_OK(weir_put(r->ep[1], from + 3, NULL, lens[i], target.addr, target.rkey, NULL));
        flush(r, r->ep[1]);
        free(from);
        free(back);
    }
    if (r->rank == 0 && transport_is("verbs")) {
        weir_mem_cache_attr attr;
        weir_mem_cache_query(r->ctx, &attr);
        CHECK(attr.hits > 300 && attr.misses > 0 && attr.misses < 40);
    }
    target_close(r, &target);
}

static void test_unregistered(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = unregistered_body});
}

static void acquired_body(struct rank *r)
{
    unsigned char *mine = malloc(LEN);
    weir_mem *mem, *again, *slab;
    rank_open_all(r);
    memset(mine, 0, LEN);
    CHECK_OK(weir_mem_acquire(r->ctx, mine, LEN, &mem));
    CHECK_OK(weir_mem_acquire(r->ctx, mine + 100, 1000, &again));
    CHECK(mem == again);
    publish(r, 0, mem, mine, LEN);
    barrier(r);
    uint64_t there;
    weir_rkey *rkey = import(r, !r->rank, 0, &there);
    unsigned char *from = malloc(LEN);
    pattern_fill(from, LEN, (unsigned)r->rank);
    CHECK_OK(weir_put(r->ep[!r->rank], from, NULL, LEN, there, rkey, NULL));
    flush(r, r->ep[!r->rank]);
    barrier(r);
    CHECK(pattern_differs(mine, LEN, (unsigned)!r->rank) == LEN);
    barrier(r);
    weir_rkey_destroy(rkey);
    weir_mem_release(mem);
    weir_mem_release(again);
    void *pooled;
    CHECK_OK(weir_pool_alloc(r->pool, 100, &pooled, &slab));
    CHECK_OK(weir_mem_acquire(r->ctx, pooled, 100, &mem));
    CHECK(mem == slab);
    weir_mem_release(mem);
    weir_mem_release(NULL);
    free(from);
    free(mine);
    rank_close(r);
}

static void test_acquired(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = acquired_body});
}

/* ---- Mapped anew ---- */

static unsigned char *map_at(void *at, int flags)
{
    unsigned char *ptr = mmap(at, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    return ptr == MAP_FAILED ? NULL : ptr;
}

/* Each gives other memory at the same address; NULL: that did not come about. */
static unsigned char *by_munmap(unsigned char *ptr)
{
    munmap(ptr, LEN);
    return map_at(ptr, MAP_FIXED_NOREPLACE);
}

static unsigned char *by_mmap_over(unsigned char *ptr)
{
    return map_at(ptr, MAP_FIXED);
}

static unsigned char *by_dontneed(unsigned char *ptr)
{
    return madvise(ptr, LEN, MADV_DONTNEED) == 0 ? ptr : NULL;
}

/* Moves away to grow. (Not with MREMAP_FIXED: the hook of UCX 1.13 loses the address, whoever set the hooks.) */
static unsigned char *by_mremap(unsigned char *ptr)
{
    unsigned char *behind = map_at(ptr + LEN, MAP_FIXED_NOREPLACE);
    unsigned char *moved = mremap(ptr, LEN, 2 * LEN, MREMAP_MAYMOVE);
    if (behind)
        munmap(behind, LEN);
    if (moved == MAP_FAILED || moved == ptr)
        return NULL;
    ptr = map_at(ptr, MAP_FIXED_NOREPLACE);
    munmap(moved, 2 * LEN);
    return ptr;
}

/* A part in its middle alone. */
static unsigned char *by_half(unsigned char *ptr)
{
    munmap(ptr + LEN / 2, LEN / 4);
    void *part = mmap(ptr + LEN / 2, LEN / 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
                      -1, 0);
    return part == ptr + LEN / 2 ? ptr : NULL;
}

/* A block that malloc mapped for itself. */
static unsigned char *by_free(unsigned char *ptr)
{
    free(ptr);
    unsigned char *again = malloc(LEN - 64);
    if (again != ptr)
        free(again);
    return again == ptr ? ptr : NULL;
}

/* One at the end of the heap, which shrinks by brk. */
static unsigned char *by_trim(unsigned char *ptr)
{
    return by_free(ptr);
}

static const struct way {
    const char *name;
    unsigned char *(*renew)(unsigned char *ptr);
} ways[] = {
    {"munmap", by_munmap}, {"mmap over it", by_mmap_over}, {"madvise", by_dontneed}, {"mremap", by_mremap},
    {"half of it", by_half}, {"free", by_free}, {"trim", by_trim},
};

static bool is_of_malloc(const struct way *way)
{
    return way->renew == by_free || way->renew == by_trim;
}

static unsigned char *first_memory(const struct way *way)
{
    if (way->renew == by_trim) {
        mallopt(M_MMAP_THRESHOLD, 1 << 30);
        mallopt(M_TRIM_THRESHOLD, 4096);
        mallopt(M_TOP_PAD, 0);
    } else {
        mallopt(M_MMAP_THRESHOLD, LEN / 2);
    }
    return is_of_malloc(way) ? malloc(LEN - 64) : map_at(NULL, 0);
}

static void end_memory(const struct way *way, unsigned char *ptr)
{
    if (is_of_malloc(way))
        free(ptr);
    else
        munmap(ptr, LEN);
}

/* Uses memory as source and as destination, then what lies at its address after it was renewed. */
static void renew_once(struct rank *r, struct target *target, const struct way *way, unsigned char *back)
{
    size_t len = LEN - 64;
    unsigned char *ptr = first_memory(way);
    CHECK(ptr);
    for (unsigned turn = 0; turn < 4; turn++) {
        pattern_fill(ptr, len, turn);
        put(r, target, ptr, len);
        get(r, target, back, len);
        CHECK(pattern_differs(back, len, turn) == len);
        pattern_fill(back, len, turn + 10);
        put(r, target, back, len);
        get(r, target, ptr, len);
        CHECK(pattern_differs(ptr, len, turn + 10) == len);
        if (!way->renew(ptr)) {
            printf("%s, turn %u: not at the same address\n", way->name, turn);
            CHECK(is_of_malloc(way)); /* which promises nothing */
            return;
        }
    }
    end_memory(way, ptr);
}

static void renewed_body(struct rank *r)
{
    struct target target;
    weir_mem_cache_attr before, after;
    target_open(r, &target, LEN);
    unsigned char *back = malloc(LEN);
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]) && r->rank == 0; i++) {
        weir_mem_cache_query(r->ctx, &before);
        renew_once(r, &target, &ways[i], back);
        weir_mem_cache_query(r->ctx, &after);
        /* Whether the heap shrinks depends on what else lies at its end. */
        CHECK(!transport_is("verbs") || ways[i].renew == by_trim || after.invalidations > before.invalidations);
    }
    free(back);
    target_close(r, &target);
}

static void test_renewed(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = renewed_body});
}

/* ---- More than may be locked ---- */

enum { MIB = 1 << 20, ROOM = 4 * MIB, BUFFERS = 8 };

/* Root may lock what it wants, by this capability. */
static bool drop_ipc_lock(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) != 0)
        return false;
    data[0].effective &= ~(1u << CAP_IPC_LOCK);
    return syscall(SYS_capset, &header, data) == 0;
}

static size_t pinned(void)
{
    size_t kib = 0;
    char line[128];
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof(line), file))
        if (strncmp(line, "VmPin:", 6) == 0)
            kib = strtoul(line + 6, NULL, 10);
    if (file)
        fclose(file);
    return kib * 1024;
}

static void memlock_body(struct rank *r)
{
    struct target target;
    CHECK(drop_ipc_lock()); /* before the device is opened: it is for those alone who opened it */
    target_open(r, &target, 2 * ROOM);
    if (r->rank == 0) {
        struct rlimit limit = {pinned() + ROOM, pinned() + ROOM};
        unsigned char *buffers = malloc(BUFFERS * MIB), *back = malloc(MIB);
        CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
        for (int i = 0; i < 2 * BUFFERS; i++) {
            unsigned char *from = buffers + i % BUFFERS * MIB;
            pattern_fill(from, MIB, (unsigned)i);
            put(r, &target, from, MIB);
            get(r, &target, back, MIB);
            CHECK(pattern_differs(back, MIB, (unsigned)i) == MIB);
        }
        weir_mem_cache_attr attr;
        weir_mem_cache_query(r->ctx, &attr);
        CHECK(!transport_is("verbs") || attr.evictions > 0);
        weir_comp comp = WEIR_COMP_INIT;
        weir_status status =
            weir_put(r->ep[1], buffers, NULL, 2 * ROOM - 4096, target.addr, target.rkey, &comp);
        if (transport_is("verbs")) {
            CHECK(status == WEIR_ERR_LIMIT && comp.pending == 0);
            CHECK(strstr(weir_last_error(), "memlock limit is") && strstr(weir_last_error(), "ulimit -l"));
        } else {
            CHECK(status == WEIR_OK);
            CHECK_OK(weir_wait(r->ctx, &comp, -1));
        }
        put(r, &target, buffers, MIB); /* the endpoint is as good as before */
        free(buffers);
        free(back);
    }
    target_close(r, &target);
}

static void test_memlock(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = memlock_body});
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unregistered),
        cmocka_unit_test(test_acquired),
        cmocka_unit_test(test_renewed),
        cmocka_unit_test(test_memlock),
    };
    if (!suite_may_run(argc, argv))
        return 77;
    return cmocka_run_group_tests_name(transport_name(), tests, NULL, NULL);
}
