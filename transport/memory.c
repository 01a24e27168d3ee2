/* Registered regions, made known to all backends of the context and found again by address; and keys of peers' regions. */
#include "core/error.h"
#include "transport/blob.h"
#include "transport/context.h"

#include <stdlib.h>
#include <string.h>

struct weir_mem *wi_mem_lookup(struct weir_ctx *ctx, const void *addr, size_t len)
{
    uintptr_t start = (uintptr_t)addr;
    return start + len >= start ? wi_ranges_holding(&ctx->mems, start, start + len) : NULL;
}

static void deregister_all(struct weir_mem *mem)
{
    for (int i = 0; i < WI_IFACE_MAX; i++) {
        if (mem->mr[i]) {
            mem->mr[i]->iface->ops->mem_deregister(mem->mr[i]);
            mem->mr[i] = NULL;
        }
    }
}

/* Leaves `*mr` NULL where the interface has no way to such memory. */
static weir_status register_one(const struct weir_mem *mem, struct wi_iface *iface, struct wi_mr **mr)
{
    const struct wi_transport_ops *ops = iface->ops;
    if (mem->kind == WI_MEM_DEVICE)
        return ops->mem_register_dmabuf ? ops->mem_register_dmabuf(iface, &mem->desc, mr) : WEIR_OK;
    if (!mem->desc.made)
        return ops->mem_register(iface, &mem->desc, mr);
    *mr = mem->desc.made;
    return WEIR_OK;
}

static weir_status register_all(struct weir_mem *mem)
{
    struct weir_ctx *ctx = mem->ctx;
    for (int i = 0; i < ctx->iface_count; i++) {
        weir_status status = register_one(mem, ctx->iface[i], &mem->mr[i]);
        if (status != WEIR_OK) {
            mem->mr[i] = NULL;
            deregister_all(mem);
            return status;
        }
        if (mem->mr[i])
            mem->mr[i]->iface = ctx->iface[i];
    }
    return WEIR_OK;
}

/* Where a limit is met, what is only kept for later use gives way. */
static weir_status register_with_room(struct weir_mem *mem)
{
    weir_status status = register_all(mem);
    while ((status == WEIR_ERR_LIMIT || status == WEIR_ERR_NO_MEMORY) && mem->ctx->regcache &&
           wi_regcache_shed(mem->ctx->regcache, mem->desc.len) > 0)
        status = register_all(mem);
    return status;
}

weir_status wi_mem_add(struct weir_ctx *ctx, const struct wi_mem_desc *desc, enum wi_mem_kind kind,
                       struct weir_mem **out)
{
    bool listed = kind != WI_MEM_BORROWED;
    struct weir_mem *mem = calloc(1, sizeof(*mem));
    if (!mem || (listed && !wi_ranges_reserve(&ctx->mems))) {
        free(mem);
        return wi_error(WEIR_ERR_NO_MEMORY, "registration: out of memory");
    }
    mem->ctx = ctx;
    mem->desc = *desc;
    mem->desc.id = ctx->next_mem_id++;
    mem->kind = kind;
    weir_status status = register_with_room(mem);
    if (status != WEIR_OK) {
        free(mem);
        return status;
    }
    if (listed)
        wi_ranges_insert(&ctx->mems, (uintptr_t)desc->addr, (uintptr_t)desc->addr + desc->len, mem);
    if (kind == WI_MEM_DEVICE)
        __atomic_fetch_add(&ctx->device_regions, 1, __ATOMIC_RELAXED);
    wi_stat_add(&ctx->stats.registered_bytes, desc->len);
    *out = mem;
    return WEIR_OK;
}

void wi_mem_remove(struct weir_mem *mem)
{
    wi_stat_add(&mem->ctx->stats.registered_bytes, -(uint64_t)mem->desc.len);
    wi_exports_end(mem);
    if (mem->kind != WI_MEM_BORROWED)
        wi_ranges_remove(&mem->ctx->mems, (uintptr_t)mem->desc.addr, mem);
    deregister_all(mem);
    if (mem->kind == WI_MEM_DEVICE)
        __atomic_fetch_sub(&mem->ctx->device_regions, 1, __ATOMIC_RELAXED);
    wi_device_addresses_free(&mem->desc);
    free(mem);
}

weir_status weir_mem_register(weir_ctx *ctx, void *addr, size_t len, weir_mem **mem)
{
    if (!ctx || !addr || !mem || len == 0)
        return wi_error(WEIR_ERR_INVALID, "weir_mem_register: context, address, length and result must be given");
    if ((uintptr_t)addr + len < (uintptr_t)addr)
        return wi_error(WEIR_ERR_INVALID, "weir_mem_register: %zu bytes at %p pass the end of memory", len, addr);
    weir_status status = wi_process_check(ctx, "weir_mem_register");
    if (status != WEIR_OK)
        return status;
    struct wi_mem_desc desc = {.addr = addr, .len = len, .fd = -1};
    wi_ctx_lock(ctx);
    status = wi_mem_add(ctx, &desc, WI_MEM_USER, mem);
    wi_ctx_unlock(ctx);
    return status;
}

void weir_mem_deregister(weir_mem *mem)
{
    if (!mem || (mem->kind != WI_MEM_USER && mem->kind != WI_MEM_DEVICE) || wi_in_child(mem->ctx))
        return;
    struct weir_ctx *ctx = mem->ctx;
    wi_ctx_lock(ctx);
    wi_mem_remove(mem);
    wi_ctx_unlock(ctx);
}

weir_status weir_mem_find(weir_ctx *ctx, const void *addr, size_t len, weir_mem **mem)
{
    if (wi_in_child(ctx))
        return wi_process_check(ctx, "weir_mem_find");
    wi_ctx_lock(ctx);
    *mem = wi_mem_lookup(ctx, addr, len);
    wi_ctx_unlock(ctx);
    /* Not wi_error(): asking is no failure, and callers ask often. */
    return *mem ? WEIR_OK : WEIR_ERR_KEY;
}

uint64_t weir_mem_id(const weir_mem *mem)
{
    return mem->desc.id;
}

void weir_mem_range(const weir_mem *mem, void **addr, size_t *len)
{
    if (addr)
        *addr = mem->desc.addr;
    if (len)
        *len = mem->desc.len;
}

weir_status weir_rkey_import(weir_ep *ep, const void *data, size_t data_len, weir_rkey **out)
{
    struct wi_blob blob;
    const char *why;
    weir_status status = wi_process_check(ep->ctx, "weir_rkey_import");
    if (status != WEIR_OK)
        return status;
    if (wi_blob_read(data, data_len, WI_BLOB_KEY, &blob, &why) != WEIR_OK)
        return wi_error(WEIR_ERR_KEY, "remote key of rank %llu: %s", (unsigned long long)ep->peer_id, why);
    uint64_t addr = blob.field[0], len = blob.field[1];
    size_t section_len;
    const void *section = wi_blob_section(&blob, ep->ops->wire_id, &section_len);
    if (!section || addr + len < addr)
        return wi_error(WEIR_ERR_KEY, "remote key of rank %llu: %s", (unsigned long long)ep->peer_id,
                        section ? "its range passes the end of memory" : "it does not serve this endpoint's transport");
    wi_ctx_lock(ep->ctx);
    weir_rkey *rkey = NULL;
    status = ep->ops->rkey_import(ep, section, section_len, addr, len, &rkey);
    wi_ctx_unlock(ep->ctx);
    if (status != WEIR_OK)
        return status;
    rkey->ep = ep;
    rkey->addr = addr;
    rkey->len = len;
    *out = rkey;
    return WEIR_OK;
}

void weir_rkey_destroy(weir_rkey *rkey)
{
    if (!rkey || wi_in_child(rkey->ep->ctx))
        return;
    struct weir_ctx *ctx = rkey->ep->ctx;
    wi_ctx_lock(ctx);
    rkey->ep->ops->rkey_destroy(rkey);
    wi_ctx_unlock(ctx);
}

void weir_rkey_range(const weir_rkey *rkey, uint64_t *addr, uint64_t *len)
{
    if (addr)
        *addr = rkey->addr;
    if (len)
        *len = rkey->len;
}

weir_status weir_mem_map_peer(weir_rkey *rkey, uint64_t remote_addr, size_t len, void **ptr)
{
    struct weir_ep *ep = rkey->ep;
    weir_status status = wi_process_check(ep->ctx, "weir_mem_map_peer");
    if (status != WEIR_OK)
        return status;
    if (remote_addr < rkey->addr || remote_addr - rkey->addr > rkey->len ||
        len > rkey->len - (remote_addr - rkey->addr))
        return wi_error(WEIR_ERR_RANGE, "map: %zu bytes at 0x%llx are outside of the key of rank %llu", len,
                        (unsigned long long)remote_addr, (unsigned long long)ep->peer_id);
    if (!ep->ops->rkey_map)
        return wi_error(WEIR_ERR_UNSUPPORTED, "map: memory of peers cannot be mapped over %s", ep->ops->name);
    wi_ctx_lock(ep->ctx);
    status = ep->ops->rkey_map(rkey, remote_addr, len, ptr);
    wi_ctx_unlock(ep->ctx);
    return status;
}
