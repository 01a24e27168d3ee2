/*
 * Whose context this is. A child after fork() has a copy of the context, but connections, rings and memory are shared
 * with its parent: what it did there would corrupt the parent's. The mark lies on a page that the kernel clears in
 * children, so looking costs one load. (Linux before 4.14 cannot; there no child is told.)
 */
#include "core/error.h"
#include "transport/context.h"

#include <sys/mman.h>
#include <unistd.h>

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

weir_status wi_process_init(struct weir_ctx *ctx)
{
    void *page = mmap(NULL, page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return wi_error(WEIR_ERR_NO_MEMORY, "context: out of memory");
    (void)madvise(page, page_size(), MADV_WIPEONFORK);
    ctx->ours = page;
    __atomic_store_n(ctx->ours, WI_OURS, __ATOMIC_RELAXED);
    return WEIR_OK;
}

void wi_process_fini(struct weir_ctx *ctx)
{
    if (ctx->ours)
        munmap(ctx->ours, page_size());
}

weir_status wi_process_check(const struct weir_ctx *ctx, const char *what)
{
    if (!wi_in_child(ctx))
        return WEIR_OK;
    return wi_error(WEIR_ERR_INVALID,
                    "%s: this context belongs to the process that this one was forked from; make one of your own with "
                    "weir_ctx_create()",
                    what);
}
