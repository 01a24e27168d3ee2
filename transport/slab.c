/*
 * Slabs: memfd mappings on the pages and the node that were asked for, registered at once. Peers of this host map the
 * memfd.
 */
#include "core/error.h"
#include "core/log.h"
#include "transport/numa.h"
#include "transport/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Peers that have it mapped would die of SIGBUS if it shrank; a refusal to seal changes nothing else. */
static void seal(int fd)
{
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
}

static bool map_memfd(struct wi_slab *slab, unsigned flags)
{
    slab->fd = memfd_create("weir-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
    if (slab->fd < 0)
        return false;
    if (ftruncate(slab->fd, (off_t)slab->len) == 0)
        slab->addr = mmap(NULL, slab->len, PROT_READ | PROT_WRITE, MAP_SHARED, slab->fd, 0);
    if (slab->addr != MAP_FAILED) {
        seal(slab->fd);
        return true;
    }
    int error = errno;
    close(slab->fd);
    slab->fd = -1;
    errno = error;
    return false;
}

/* Reserves huge pages of one size; the largest that the slab consists of comes first. */
static bool map_huge(struct wi_slab *slab)
{
    static const struct {
        size_t size;
        unsigned flag;
    } kinds[] = {{WI_HUGE_1G, MFD_HUGE_1GB}, {WI_HUGE_2M, MFD_HUGE_2MB}};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (slab->len % kinds[i].size == 0 && map_memfd(slab, MFD_HUGETLB | kinds[i].flag)) {
            slab->page_size = kinds[i].size;
            return true;
        }
    }
    return false;
}

static weir_status no_huge_pages(size_t len)
{
    return wi_error(WEIR_ERR_LIMIT,
                    "pool: WEIR_HUGE_PAGES=require, but %zu huge pages of 2 MiB are not free (%s); reserve more, e.g. "
                    "'sysctl vm.nr_hugepages=N', see HugePages_Free in /proc/meminfo",
                    len / WI_HUGE_2M, strerror(errno));
}

static weir_status map_slab(struct wi_slab *slab, int huge_pages)
{
    if (huge_pages != WI_HUGE_PAGES_OFF && map_huge(slab))
        return WEIR_OK;
    if (huge_pages == WI_HUGE_PAGES_REQUIRE)
        return no_huge_pages(slab->len);
    if (!map_memfd(slab, 0))
        return wi_error(errno == EMFILE || errno == ENFILE ? WEIR_ERR_LIMIT : WEIR_ERR_NO_MEMORY,
                        "pool: no memory for a slab of %zu bytes: %s", slab->len, strerror(errno));
    /* A refusal of either changes speed only. */
    if (huge_pages == WI_HUGE_PAGES_OFF)
        slab->page_size = (size_t)sysconf(_SC_PAGESIZE);
    madvise(slab->addr, slab->len, huge_pages == WI_HUGE_PAGES_OFF ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    return WEIR_OK;
}

void wi_slab_free(struct wi_slab *slab)
{
    if (slab->mem)
        wi_mem_remove(slab->mem);
    if (slab->addr != MAP_FAILED && !slab->lent)
        munmap(slab->addr, slab->len);
    if (slab->fd >= 0)
        close(slab->fd);
    free(slab->tags);
    free(slab);
}

static weir_status add_to_table(struct weir_pool *pool, struct wi_slab *slab)
{
    if (pool->slab_count == pool->slab_room) {
        size_t room = pool->slab_room ? 2 * pool->slab_room : 8;
        struct wi_slab **slabs = realloc(pool->slabs, room * sizeof(struct wi_slab *));
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

/* Memory that the backend makes, so that peers can map it; NULL: it does not. */
static struct wi_mr *borrow(struct weir_pool *pool, struct wi_slab *slab)
{
    struct wi_iface *iface = pool->ctx->iface[0];
    struct wi_mr *mr = NULL;
    void *addr;
    if (pool->ctx->iface_count != 1 || !iface->ops->mem_alloc || pool->huge_pages == WI_HUGE_PAGES_REQUIRE ||
        iface->ops->mem_alloc(iface, slab->len, &addr, &mr) != WEIR_OK)
        return NULL;
    slab->addr = addr;
    slab->lent = true;
    slab->page_size = (size_t)sysconf(_SC_PAGESIZE);
    return mr;
}

static void tell_slab(const struct wi_slab *slab, int node)
{
    char where[32] = "no node";
    size_t page = slab->page_size ? slab->page_size : (size_t)sysconf(_SC_PAGESIZE);
    if (node >= 0)
        snprintf(where, sizeof(where), "node %d", node);
    wi_debug("pool: slab of %zu bytes at %p, pages of %zu KiB%s, %s", slab->len, (void *)slab->addr, page / 1024,
             slab->page_size ? "" : " (huge ones where the kernel has any)", where);
}

weir_status wi_slab_new(struct weir_pool *pool, size_t len, size_t tag_bytes, struct wi_slab **out)
{
    struct wi_slab *slab = calloc(1, sizeof(*slab));
    if (!slab)
        return wi_error(WEIR_ERR_NO_MEMORY, "pool: out of memory");
    slab->len = len;
    slab->fd = -1;
    slab->addr = MAP_FAILED;
    slab->tags = calloc(tag_bytes / WI_POOL_GRAIN, 1);
    weir_status status = slab->tags ? WEIR_OK : wi_error(WEIR_ERR_NO_MEMORY, "pool: out of memory");
    struct wi_mr *made = status == WEIR_OK ? borrow(pool, slab) : NULL;
    if (status == WEIR_OK && !made)
        status = map_slab(slab, pool->huge_pages);
    int node = status == WEIR_OK ? wi_numa_place(slab->addr, len, pool->node) : WI_NODE_ANY;
    if (status == WEIR_OK) {
        struct wi_mem_desc desc = {.addr = slab->addr, .len = len, .fd = slab->fd, .made = made};
        status = wi_mem_add(pool->ctx, &desc, WI_MEM_POOL, &slab->mem);
    }
    if (status == WEIR_OK)
        status = add_to_table(pool, slab);
    if (status != WEIR_OK) {
        wi_slab_free(slab);
        return status;
    }
    tell_slab(slab, node);
    *out = slab;
    return WEIR_OK;
}

void wi_slab_remove(struct weir_pool *pool, struct wi_slab *slab)
{
    size_t at = 0;
    while (pool->slabs[at] != slab)
        at++;
    pool->slab_count--;
    memmove(pool->slabs + at, pool->slabs + at + 1, (pool->slab_count - at) * sizeof(struct wi_slab *));
    wi_slab_free(slab);
}

struct wi_slab *wi_slab_find(const struct weir_pool *pool, const void *ptr)
{
    size_t low = 0, high = pool->slab_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        struct wi_slab *slab = pool->slabs[middle];
        if ((const unsigned char *)ptr < slab->addr)
            high = middle;
        else if ((const unsigned char *)ptr >= slab->addr + slab->len)
            low = middle + 1;
        else
            return slab;
    }
    return NULL;
}
