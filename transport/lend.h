/*
 * What communicators and clients of parameter servers do with their users' memory: they register it for a call where that
 * saves copies, and hand out keys of it. Such exports end with who made them, and no others do, whatever else was exported
 * of the same range.
 */
#ifndef WI_TRANSPORT_LEND_H
#define WI_TRANSPORT_LEND_H

#include "core/list.h"

#include <weir/transport.h>

/* A buffer that is new in each call costs as much to register, and to tell peers, as it costs to copy so much. */
#define WI_ACQUIRE_MIN ((size_t)256 << 10)

/*
 * weir_mem_acquire() where it is worth it: from WI_ACQUIRE_MIN on, and where registrations are kept for the next call. False:
 * not so, or a limit is met, or the memory cannot be written to; then it is copied.
 */
bool wi_mem_acquire_kept(weir_ctx *ctx, const void *addr, size_t len, weir_mem **mem);

/* What somebody has handed out. */
struct wi_lender {
    struct wi_list exports; /* guarded by the context's lock */
};

void wi_lender_init(struct wi_lender *lender);

/*
 * weir_mem_export(), for a lender: the same range of a region gives the same blob as long as it has it out. An export
 * that ends with its region is the lender's no more.
 */
weir_status wi_lend(struct wi_lender *lender, weir_mem *mem, const void *addr, size_t len, void *blob, size_t *blob_len);

/*
 * Takes all back, as weir_mem_unexport() does, as far as it can: over RDMA lanes of UCX peers could go on using keys until the
 * region is deregistered. May be called again, and on one that has nothing out.
 */
void wi_lender_end(struct wi_lender *lender, weir_ctx *ctx);

#endif
