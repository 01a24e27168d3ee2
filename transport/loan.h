/*
 * Operations on memory that the caller has not registered, where the backend needs that: they borrow a registration of
 * the context's cache until they have ended. All with the context's lock held.
 */
#ifndef WI_TRANSPORT_LOAN_H
#define WI_TRANSPORT_LOAN_H

#include "transport/context.h"

/* One operation's. It ends the completion of ours, by which we see that it is over and end the user's. */
struct wi_loan {
    weir_comp comp;
    weir_comp *user; /* may be NULL */
    struct weir_mem *mem;
    struct wi_loan *next;
};

/* A loan of a registration that holds [addr, addr + len). WEIR_ERR_KEY: the cache is off. */
weir_status wi_loan_take(struct weir_ctx *ctx, const void *addr, size_t len, weir_comp *user, struct wi_loan **loan);

/* After posting with &loan->comp: `status` is the backend's. Gives back what is over already. */
void wi_loan_posted(struct weir_ctx *ctx, struct wi_loan *loan, weir_status status);

/* Gives back the loans of operations that have ended since. Cheap where there are none. */
void wi_loans_settle(struct weir_ctx *ctx);

void wi_loans_fini(struct weir_ctx *ctx);

#endif
