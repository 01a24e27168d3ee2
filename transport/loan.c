#include "transport/loan.h"

#include "core/error.h"

#include <stdlib.h>

weir_status wi_loan_take(struct weir_ctx *ctx, const void *addr, size_t len, weir_comp *user, struct wi_loan **out)
{
    struct weir_mem *mem;
    if (wi_config()->reg_cache == 0)
        return WEIR_ERR_KEY;
    weir_status status = wi_mem_borrow(ctx, (void *)(uintptr_t)addr, len, &mem);
    if (status != WEIR_OK)
        return status;
    struct wi_loan *loan = ctx->spare_loans;
    if (loan) {
        ctx->spare_loans = loan->next;
    } else if (!(loan = malloc(sizeof(*loan)))) {
        wi_mem_return(mem);
        return wi_error(WEIR_ERR_NO_MEMORY, "operation: out of memory");
    }
    *loan = (struct wi_loan){.user = user, .mem = mem};
    *out = loan;
    return WEIR_OK;
}

static void end(struct weir_ctx *ctx, struct wi_loan *loan)
{
    wi_mem_return(loan->mem);
    loan->next = ctx->spare_loans;
    ctx->spare_loans = loan;
}

void wi_loan_posted(struct weir_ctx *ctx, struct wi_loan *loan, weir_status status)
{
    bool over = __atomic_load_n(&loan->comp.pending, __ATOMIC_ACQUIRE) == 0;
    if (status == WEIR_OK && (!over || loan->comp.status != WEIR_OK))
        wi_comp_start(loan->user);
    if (status == WEIR_OK && !over) {
        loan->next = ctx->loans;
        ctx->loans = loan;
        return;
    }
    if (status == WEIR_OK && loan->comp.status != WEIR_OK)
        wi_comp_end(loan->user, (weir_status)loan->comp.status);
    end(ctx, loan);
}

void wi_loans_settle(struct weir_ctx *ctx)
{
    struct wi_loan **link = &ctx->loans;
    while (*link) {
        struct wi_loan *loan = *link;
        if (__atomic_load_n(&loan->comp.pending, __ATOMIC_ACQUIRE) != 0) {
            link = &loan->next;
            continue;
        }
        *link = loan->next;
        wi_comp_end(loan->user, (weir_status)loan->comp.status);
        end(ctx, loan);
    }
}

void wi_loans_fini(struct weir_ctx *ctx)
{
    while (ctx->spare_loans) {
        struct wi_loan *loan = ctx->spare_loans;
        ctx->spare_loans = loan->next;
        free(loan);
    }
}
