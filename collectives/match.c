#include "collectives/match.h"

#include "collectives/comm.h"
#include "core/error.h"

#include <inttypes.h>
#include <stdio.h>

#define HEAD_MAGIC 0x57434f4cu

void wi_head_fill(struct wi_head *head, const struct wi_call *call, uint64_t seq)
{
    *head = (struct wi_head){
        .magic = HEAD_MAGIC,
        .kind = (uint8_t)call->kind,
        .dtype = (uint8_t)call->dtype,
        .op = (uint8_t)call->op,
        .seq = seq,
        .count = call->count,
        .root = call->root,
    };
}

/* These come from outside, so they may be none. */
static const char *dtype_text(weir_dtype dtype)
{
    const char *name = weir_dtype_name(dtype);
    return name ? name : "elements of an unknown type";
}

static const char *op_text(weir_redop op)
{
    const char *name = weir_redop_name(op);
    return name ? name : "unknown operation";
}

const char *wi_call_text(const struct wi_call *call, char *text, size_t size)
{
    switch (call->kind) {
    case WI_BARRIER:
        snprintf(text, size, "a barrier");
        return text;
    case WI_BROADCAST:
        snprintf(text, size, "a broadcast of %" PRIu64 " %s from root %" PRIu32, call->count, dtype_text(call->dtype),
                 call->root);
        return text;
    case WI_ALLREDUCE:
        snprintf(text, size, "an all-reduce of %" PRIu64 " %s (%s)", call->count, dtype_text(call->dtype),
                 op_text(call->op));
        return text;
    case WI_OPEN:
        snprintf(text, size, "the creation of the communicator");
        return text;
    case WI_CLOSE:
        snprintf(text, size, "the end of the communicator");
        return text;
    }
    snprintf(text, size, "an unknown collective (%u)", (unsigned)call->kind);
    return text;
}

weir_status wi_head_check(const struct weir_comm *comm, const struct wi_head *head, uint32_t sender)
{
    const struct wi_call *ours = &comm->run.call;
    if (head->magic != HEAD_MAGIC || head->seq != comm->seq)
        return wi_error(WEIR_ERR_PROTOCOL,
                        "communicator '%s': rank %d got collective %" PRIu64 " from rank %d where number %" PRIu64
                        " was due; its window was overwritten or the two run different versions",
                        comm->name, comm->world[comm->rank], head->seq, comm->world[sender], comm->seq);
    if (head->kind == (uint8_t)ours->kind && head->dtype == (uint8_t)ours->dtype && head->op == (uint8_t)ours->op &&
        head->count == ours->count && head->root == ours->root)
        return WEIR_OK;
    struct wi_call theirs = {(enum wi_kind)head->kind, (weir_dtype)head->dtype, (weir_redop)head->op, head->root,
                             head->count};
    char our_text[128], their_text[128];
    return wi_error(WEIR_ERR_MISMATCH,
                    "communicator '%s', collective %" PRIu64
                    ": rank %d called %s, but rank %d called %s; all ranks have to "
                    "call the same, in the same order",
                    comm->name, comm->seq, comm->world[comm->rank], wi_call_text(ours, our_text, sizeof(our_text)),
                    comm->world[sender], wi_call_text(&theirs, their_text, sizeof(their_text)));
}
