/*
 * Device memory: regions that a dma-buf stands for, in place of addresses of ours. The CPU never touches them: their
 * addresses are names, which operations and keys use, and only backends that have the network adapter reach the memory by
 * itself know such regions. Where one does not, the region has no registration with it (mr is NULL).
 */
#include "core/error.h"
#include "transport/context.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#define DMA_BUF_MAGIC 0x444d4142 /* of the file system that dma-bufs are files of, <linux/magic.h> */

/* Has a backend of the context a way to device memory? Names all that have not. */
static weir_status check_backends(const struct weir_ctx *ctx)
{
    char names[64] = "";
    for (int i = 0; i < ctx->iface_count; i++) {
        size_t used = strlen(names);
        if (ctx->iface[i]->ops->mem_register_dmabuf)
            return WEIR_OK;
        snprintf(names + used, sizeof(names) - used, "%s%s", i ? " and " : "", ctx->iface[i]->ops->name);
    }
    return wi_error(WEIR_ERR_UNSUPPORTED,
                    "weir_mem_register_dmabuf: device memory is reached over verbs alone, this context has %s; set "
                    "WEIR_TRANSPORT=verbs, or copy through host memory",
                    names);
}

static weir_status check_buffer(int fd, uint64_t offset, size_t len)
{
    struct statfs fs;
    if (fcntl(fd, F_GETFD) < 0)
        return wi_error(WEIR_ERR_INVALID, "weir_mem_register_dmabuf: descriptor %d is not open", fd);
    if (fstatfs(fd, &fs) || fs.f_type != DMA_BUF_MAGIC)
        return wi_error(WEIR_ERR_INVALID,
                        "weir_mem_register_dmabuf: descriptor %d is no dma-buf; have the device's library export one (CUDA: "
                        "cuMemGetHandleForAddressRange(), ROCm: hsa_amd_portable_export_dmabuf())",
                        fd);
    off_t size = lseek(fd, 0, SEEK_END);
    if (size >= 0 && (offset > (uint64_t)size || len > (uint64_t)size - offset))
        return wi_error(WEIR_ERR_RANGE,
                        "weir_mem_register_dmabuf: %zu bytes from %llu on are not within the dma-buf's %llu", len,
                        (unsigned long long)offset, (unsigned long long)size);
    return WEIR_OK;
}

/* Addresses that nothing else has, and that cannot be read or written. */
static weir_status reserve(uint64_t offset, size_t len, struct wi_mem_desc *desc)
{
    size_t shift = (size_t)(offset % (uint64_t)sysconf(_SC_PAGESIZE));
    void *start = len + shift < len ? MAP_FAILED
                                    : mmap(NULL, len + shift, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        return wi_error(WEIR_ERR_NO_MEMORY, "weir_mem_register_dmabuf: no addresses for %zu bytes: %s", len,
                        strerror(errno));
    desc->reserved = start;
    desc->addr = (char *)start + shift;
    return WEIR_OK;
}

/* Both name the same memory by the page, so they must agree within one. */
static weir_status check_address(uint64_t offset, size_t len, const void *addr)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if ((uintptr_t)addr % page != offset % page)
        return wi_error(WEIR_ERR_INVALID,
                        "weir_mem_register_dmabuf: offset %llu and address %p differ in where they lie within a page",
                        (unsigned long long)offset, addr);
    if ((uintptr_t)addr + len < (uintptr_t)addr)
        return wi_error(WEIR_ERR_INVALID, "weir_mem_register_dmabuf: %zu bytes at %p pass the end of memory", len, addr);
    return WEIR_OK;
}

static weir_status add(struct weir_ctx *ctx, const struct wi_mem_desc *desc, weir_mem **mem)
{
    weir_status status;
    uintptr_t start = (uintptr_t)desc->addr;
    wi_ctx_lock(ctx);
    if (wi_ranges_touching(&ctx->mems, start, start + desc->len))
        status = wi_error(WEIR_ERR_INVALID, "weir_mem_register_dmabuf: another region has addresses among %zu bytes at %p",
                          desc->len, desc->addr);
    else
        status = wi_mem_add(ctx, desc, WI_MEM_DEVICE, mem);
    wi_ctx_unlock(ctx);
    return status;
}

weir_status weir_mem_register_dmabuf(weir_ctx *ctx, int fd, uint64_t offset, size_t len, void *addr, weir_mem **mem)
{
    if (!ctx || !mem || len == 0)
        return wi_error(WEIR_ERR_INVALID, "weir_mem_register_dmabuf: context, length and result must be given");
    struct wi_mem_desc desc = {.addr = addr, .len = len, .fd = fd, .fd_offset = offset};
    weir_status status = wi_process_check(ctx, "weir_mem_register_dmabuf");
    if (status == WEIR_OK)
        status = check_backends(ctx);
    if (status == WEIR_OK)
        status = check_buffer(fd, offset, len);
    if (status == WEIR_OK)
        status = addr ? check_address(offset, len, addr) : reserve(offset, len, &desc);
    if (status == WEIR_OK)
        status = add(ctx, &desc, mem);
    if (status != WEIR_OK)
        wi_device_addresses_free(&desc);
    return status;
}

void wi_device_addresses_free(const struct wi_mem_desc *desc)
{
    if (desc->reserved)
        munmap(desc->reserved, desc->len + (size_t)((char *)desc->addr - (char *)desc->reserved));
}

int weir_mem_is_device(weir_ctx *ctx, const void *addr, size_t len)
{
    if (__builtin_expect(__atomic_load_n(&ctx->device_regions, __ATOMIC_RELAXED) == 0, 1))
        return 0;
    wi_ctx_lock(ctx);
    const struct weir_mem *mem = wi_ranges_touching(&ctx->mems, (uintptr_t)addr, (uintptr_t)addr + len);
    bool device = mem && mem->kind == WI_MEM_DEVICE;
    wi_ctx_unlock(ctx);
    return device;
}
