/*
 * Pools: registered slabs, cut into objects of size classes. Allocating and freeing move one pointer on a stack.
 *
 * A slab is a memfd mapping, registered once. It is carved, from its start on, into runs: one run holds objects of one
 * class. All bookkeeping lives outside of the slab, since peers can write there. Classes grow by a quarter, so at most
 * a fifth of an object is unused. Objects above a quarter of the slab size get a slab of their own, which goes when
 * they do.
 */
#include "core/error.h"
#include "core/log.h"
#include "transport/context.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    PAGE = 4096,
    HUGE_PAGE = 2 << 20,
    RUN_MIN = 64 << 10, /* bytes carved at once for small objects */
    CLASS_MAX = 160,    /* enough for 64 B to 64 GiB in steps of a quarter */
    OWN_SLAB = 255,     /* class of an object that has a slab to itself */
};

struct slab {
    unsigned char *addr;
    size_t len;
    size_t carved; /* bytes already given to runs */
    int fd;
    struct weir_mem *mem;
    unsigned char *page_class; /* class of the run that each page belongs to */
};

struct size_class {
    size_t size;
    void **free; /* stack; its room is the number of objects that exist */
    size_t free_count, object_count;
};

struct weir_pool {
    struct weir_ctx *ctx;
    struct weir_pool *next;
    size_t slab_size;
    struct slab **slabs; /* ordered by address */
    size_t slab_count, slab_room;
    struct slab *current; /* the one that runs are carved from */
    struct size_class class[CLASS_MAX];
    int class_count;
};

static size_t round_up(size_t value, size_t to)
{
    return (value + to - 1) / to * to;
}

static void init_classes(struct weir_pool *pool)
{
    size_t limit = pool->slab_size / 4;
    for (size_t base = 64; base <= limit && pool->class_count < CLASS_MAX - 4; base *= 2) {
        for (size_t quarter = 0; quarter < 4; quarter++) {
            size_t size = base + quarter * base / 4;
            size = round_up(size, size >= PAGE ? PAGE : 64);
            if (size > limit || (pool->class_count && pool->class[pool->class_count - 1].size >= size))
                continue;
            pool->class[pool->class_count++].size = size;
        }
    }
}

/* Smallest class that fits; class_count if none does. */
static int class_of(const struct weir_pool *pool, size_t size)
{
    int low = 0, high = pool->class_count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (pool->class[middle].size >= size)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Peers that have it mapped would die of SIGBUS if it shrank; a refusal to seal changes nothing else. */
static void seal(int fd)
{
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
}

/* Maps a memfd: on huge pages where the system has some free, else with the advice to use them. */
static weir_status map_slab(struct slab *slab)
{
    slab->fd = -1;
    slab->addr = MAP_FAILED;
    if (slab->len % HUGE_PAGE == 0 && (slab->fd = memfd_create("weir-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB)) >= 0) {
        if (ftruncate(slab->fd, (off_t)slab->len) == 0)
            slab->addr = mmap(NULL, slab->len, PROT_READ | PROT_WRITE, MAP_SHARED, slab->fd, 0);
        if (slab->addr != MAP_FAILED) {
            seal(slab->fd);
            return WEIR_OK;
        }
        close(slab->fd);
    }
    slab->fd = memfd_create("weir-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (slab->fd < 0)
        return wi_error(errno == EMFILE || errno == ENFILE ? WEIR_ERR_LIMIT : WEIR_ERR_IO, "pool: memfd_create: %s",
                        strerror(errno));
    if (ftruncate(slab->fd, (off_t)slab->len) == 0)
        slab->addr = mmap(NULL, slab->len, PROT_READ | PROT_WRITE, MAP_SHARED, slab->fd, 0);
    if (slab->addr == MAP_FAILED)
        return wi_error(WEIR_ERR_NO_MEMORY, "pool: no memory for a slab of %zu bytes: %s", slab->len, strerror(errno));
    seal(slab->fd);
    madvise(slab->addr, slab->len, MADV_HUGEPAGE); /* a refusal changes speed only */
    return WEIR_OK;
}

static void slab_free(struct slab *slab)
{
    if (slab->mem)
        wi_mem_remove(slab->mem);
    if (slab->addr != MAP_FAILED)
        munmap(slab->addr, slab->len);
    if (slab->fd >= 0)
        close(slab->fd);
    free(slab->page_class);
    free(slab);
}

static weir_status add_to_table(struct weir_pool *pool, struct slab *slab)
{
    if (pool->slab_count == pool->slab_room) {
        size_t room = pool->slab_room ? 2 * pool->slab_room : 8;
        struct slab **slabs = realloc(pool->slabs, room * sizeof(struct slab *));
        if (!slabs)
            return wi_error(WEIR_ERR_NO_MEMORY, "pool: out of memory");
        pool->slabs = slabs;
        pool->slab_room = room;
    }
    size_t at = pool->slab_count;
    while (at > 0 && pool->slabs[at - 1]->addr > slab->addr) {
        pool->slabs[at] = pool->slabs[at - 1];
        at--;
    }
    pool->slabs[at] = slab;
    pool->slab_count++;
    return WEIR_OK;
}

static weir_status slab_new(struct weir_pool *pool, size_t len, struct slab **out)
{
    struct slab *slab = calloc(1, sizeof(*slab));
    if (!slab)
        return wi_error(WEIR_ERR_NO_MEMORY, "pool: out of memory");
    slab->len = len;
    slab->page_class = calloc(len / PAGE, 1);
    weir_status status = map_slab(slab);
    if (status == WEIR_OK && !slab->page_class)
        status = wi_error(WEIR_ERR_NO_MEMORY, "pool: out of memory");
    if (status == WEIR_OK) {
        struct wi_mem_desc desc = {.addr = slab->addr, .len = len, .fd = slab->fd};
        status = wi_mem_add(pool->ctx, &desc, true, &slab->mem);
    }
    if (status == WEIR_OK)
        status = add_to_table(pool, slab);
    if (status != WEIR_OK) {
        slab_free(slab);
        return status;
    }
    wi_debug("pool: slab of %zu bytes at %p", len, (void *)slab->addr);
    *out = slab;
    return WEIR_OK;
}

static struct slab *slab_of(const struct weir_pool *pool, const void *ptr)
{
    size_t low = 0, high = pool->slab_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct slab *slab = pool->slabs[middle];
        if ((const unsigned char *)ptr < slab->addr)
            high = middle;
        else if ((const unsigned char *)ptr >= slab->addr + slab->len)
            low = middle + 1;
        else
            return pool->slabs[middle];
    }
    return NULL;
}

/* Carves a run for a class and puts its objects on the class's stack. */
static weir_status grow_class(struct weir_pool *pool, int index)
{
    struct size_class *class = &pool->class[index];
    size_t run = class->size >= RUN_MIN ? class->size : round_up(RUN_MIN, PAGE);
    size_t objects = run / class->size;
    if (!pool->current || pool->current->len - pool->current->carved < run) {
        weir_status status = slab_new(pool, pool->slab_size, &pool->current);
        if (status != WEIR_OK)
            return status;
    }
    void **stack = realloc(class->free, (class->object_count + objects) * sizeof(void *));
    if (!stack)
        return wi_error(WEIR_ERR_NO_MEMORY, "pool: out of memory");
    class->free = stack;
    class->object_count += objects;
    struct slab *slab = pool->current;
    memset(slab->page_class + slab->carved / PAGE, index, round_up(run, PAGE) / PAGE);
    for (size_t i = objects; i-- > 0;)
        class->free[class->free_count++] = slab->addr + slab->carved + i * class->size;
    slab->carved += round_up(run, PAGE);
    return WEIR_OK;
}

static weir_status alloc_own_slab(struct weir_pool *pool, size_t size, void **ptr)
{
    struct slab *slab;
    if (size > SIZE_MAX - HUGE_PAGE)
        return wi_error(WEIR_ERR_NO_MEMORY, "pool: %zu bytes cannot be allocated", size);
    weir_status status = slab_new(pool, round_up(size, HUGE_PAGE), &slab);
    if (status != WEIR_OK)
        return status;
    slab->page_class[0] = OWN_SLAB;
    slab->carved = slab->len;
    *ptr = slab->addr;
    return WEIR_OK;
}

weir_status weir_pool_alloc(weir_pool *pool, size_t size, void **ptr, weir_mem **mem)
{
    weir_status status = WEIR_OK;
    wi_ctx_lock(pool->ctx);
    int index = class_of(pool, size ? size : 1);
    if (index == pool->class_count) {
        status = alloc_own_slab(pool, size, ptr);
    } else {
        struct size_class *class = &pool->class[index];
        if (class->free_count == 0)
            status = grow_class(pool, index);
        if (status == WEIR_OK)
            *ptr = class->free[--class->free_count];
    }
    if (status == WEIR_OK && mem)
        *mem = slab_of(pool, *ptr)->mem;
    wi_ctx_unlock(pool->ctx);
    return status;
}

static void free_own_slab(struct weir_pool *pool, struct slab *slab)
{
    size_t at = 0;
    while (pool->slabs[at] != slab)
        at++;
    pool->slab_count--;
    memmove(pool->slabs + at, pool->slabs + at + 1, (pool->slab_count - at) * sizeof(struct slab *));
    slab_free(slab);
}

static void push_free(struct size_class *class, void *ptr)
{
    if (class->free_count < class->object_count)
        class->free[class->free_count++] = ptr;
    else
        wi_warn("pool: %p was given back twice; ignored", ptr);
}

void weir_pool_free(weir_pool *pool, void *ptr)
{
    if (!ptr)
        return;
    wi_ctx_lock(pool->ctx);
    struct slab *slab = slab_of(pool, ptr);
    if (!slab) {
        wi_warn("pool: %p was given back, but is not of this pool; ignored", ptr);
    } else {
        int index = slab->page_class[(size_t)((unsigned char *)ptr - slab->addr) / PAGE];
        if (index == OWN_SLAB)
            free_own_slab(pool, slab);
        else
            push_free(&pool->class[index], ptr);
    }
    wi_ctx_unlock(pool->ctx);
}

weir_status weir_pool_create(weir_ctx *ctx, size_t slab_size, weir_pool **out)
{
    size_t size = slab_size ? slab_size : wi_config()->pool_slab;
    if (!ctx || !out || size > SIZE_MAX / 2)
        return wi_error(WEIR_ERR_INVALID, "weir_pool_create: context and result must be given");
    struct weir_pool *pool = calloc(1, sizeof(*pool));
    if (!pool)
        return wi_error(WEIR_ERR_NO_MEMORY, "pool: out of memory");
    pool->ctx = ctx;
    pool->slab_size = round_up(size < HUGE_PAGE ? HUGE_PAGE : size, HUGE_PAGE);
    init_classes(pool);
    wi_ctx_lock(ctx);
    pool->next = ctx->pools;
    ctx->pools = pool;
    wi_ctx_unlock(ctx);
    *out = pool;
    return WEIR_OK;
}

void wi_pool_free_all(struct weir_pool *pool)
{
    struct weir_pool **link = &pool->ctx->pools;
    while (*link != pool)
        link = &(*link)->next;
    *link = pool->next;
    for (size_t i = 0; i < pool->slab_count; i++)
        slab_free(pool->slabs[i]);
    for (int i = 0; i < pool->class_count; i++)
        free(pool->class[i].free);
    free(pool->slabs);
    free(pool);
}

void weir_pool_destroy(weir_pool *pool)
{
    if (!pool)
        return;
    struct weir_ctx *ctx = pool->ctx;
    wi_ctx_lock(ctx);
    wi_pool_free_all(pool);
    wi_ctx_unlock(ctx);
}
