/* Registrations that are kept between uses: the context's cache, what it is made of, and the calls that use it. */
#include "core/error.h"
#include "core/log.h"
#include "transport/context.h"
#include "transport/lend.h"

static weir_status reg(void *ctx, void *addr, size_t len, void **handle)
{
    struct wi_mem_desc desc = {.addr = addr, .len = len, .fd = -1};
    struct weir_mem *mem;
    weir_status status = wi_mem_add(ctx, &desc, WI_MEM_BORROWED, &mem);
    if (status == WEIR_OK)
        *handle = mem;
    return status;
}

static void dereg(void *ctx, void *handle)
{
    (void)ctx;
    wi_mem_remove(handle);
}

/* Made when it is first needed: the hooks are nothing that a program should have without a use. */
static void open_cache(struct weir_ctx *ctx)
{
    static const struct wi_regcache_ops ops = {.reg = reg, .dereg = dereg};
    const char *why;
    ctx->regcache_tried = true;
    if (wi_config()->reg_cache == 0 || wi_regcache_create(&ops, ctx, wi_config()->reg_cache, &ctx->regcache) != WEIR_OK)
        return;
    if (wi_unmap_watch(&ctx->unmap, ctx->regcache, &why))
        return;
    wi_info("registrations are not kept (WEIR_REG_CACHE): nothing tells when memory is unmapped: %s", why);
    wi_regcache_destroy(ctx->regcache);
    ctx->regcache = NULL;
}

void wi_borrow_fini(struct weir_ctx *ctx)
{
    if (!ctx->regcache)
        return;
    wi_unmap_unwatch(&ctx->unmap);
    wi_regcache_destroy(ctx->regcache);
    ctx->regcache = NULL;
}

static bool keeps(struct weir_ctx *ctx)
{
    if (!ctx->regcache_tried)
        open_cache(ctx);
    return ctx->regcache != NULL;
}

weir_status wi_mem_borrow(struct weir_ctx *ctx, void *addr, size_t len, struct weir_mem **mem)
{
    struct wi_regcache_entry *entry;
    if (!keeps(ctx))
        return reg(ctx, addr, len, (void **)mem);
    weir_status status = wi_regcache_get(ctx->regcache, addr, len, &entry);
    if (status != WEIR_OK)
        return status;
    *mem = entry->handle;
    (*mem)->entry = entry;
    return WEIR_OK;
}

void wi_mem_return(struct weir_mem *mem)
{
    if (mem->entry)
        wi_regcache_put(mem->ctx->regcache, mem->entry);
    else
        wi_mem_remove(mem);
}

weir_status weir_mem_acquire(weir_ctx *ctx, void *addr, size_t len, weir_mem **mem)
{
    if (!ctx || !addr || !mem || len == 0 || (uintptr_t)addr + len < (uintptr_t)addr)
        return wi_error(WEIR_ERR_INVALID, "weir_mem_acquire: context, address, length and result must be given");
    weir_status status = wi_process_check(ctx, "weir_mem_acquire");
    if (status != WEIR_OK)
        return status;
    wi_ctx_lock(ctx);
    struct weir_mem *known = wi_mem_lookup(ctx, addr, len);
    if (known)
        *mem = known;
    else
        status = wi_mem_borrow(ctx, addr, len, mem);
    wi_ctx_unlock(ctx);
    return status;
}

bool wi_mem_acquire_kept(weir_ctx *ctx, const void *addr, size_t len, weir_mem **mem)
{
    if (len < WI_ACQUIRE_MIN)
        return false;
    wi_ctx_lock(ctx);
    bool kept = keeps(ctx);
    wi_ctx_unlock(ctx);
    return kept && weir_mem_acquire(ctx, (void *)(uintptr_t)addr, len, mem) == WEIR_OK;
}

void weir_mem_release(weir_mem *mem)
{
    if (!mem || mem->kind != WI_MEM_BORROWED || wi_in_child(mem->ctx))
        return;
    struct weir_ctx *ctx = mem->ctx;
    wi_ctx_lock(ctx);
    wi_mem_return(mem);
    wi_ctx_unlock(ctx);
}

void weir_mem_cache_query(weir_ctx *ctx, weir_mem_cache_attr *attr)
{
    struct wi_regcache_stats stats = {0};
    if (!wi_in_child(ctx)) {
        wi_ctx_lock(ctx);
        if (ctx->regcache)
            wi_regcache_query(ctx->regcache, &stats);
        wi_ctx_unlock(ctx);
    }
    *attr = (weir_mem_cache_attr){
        .hits = stats.hits,
        .misses = stats.misses,
        .evictions = stats.evictions,
        .invalidations = stats.invalidations,
        .entries = stats.entries,
        .bytes = stats.bytes,
    };
}
