/* The calls: arguments are checked here, the rest is the engine's. */
#include "collectives/comm.h"
#include "core/clock.h"
#include "core/error.h"
#include "transport/process.h"

#include <string.h>

static weir_status perform(struct weir_comm *comm, const struct wi_call *call, const void *input, void *result)
{
    weir_status ours = wi_process_check(comm->ctx, "a collective");
    if (ours != WEIR_OK)
        return ours;
    if (comm->status != WEIR_OK)
        return wi_error(comm->status, "communicator '%s' has failed before: %s", comm->name, comm->sentence);
    uint64_t begin_ns = wi_now_ns();
    weir_status status = wi_run(comm, call, input, result);
    if (status != WEIR_OK)
        return wi_comm_fail(comm, status);
    comm->stats.operations++;
    comm->stats.time_ns += wi_now_ns() - begin_ns;
    return WEIR_OK;
}

/* Checks what all calls with data have in common and gives the length in bytes. */
static weir_status check_data(const struct weir_comm *comm, const char *what, const void *buf, size_t count,
                              weir_dtype dtype, size_t *bytes)
{
    size_t elem = weir_dtype_size(dtype);
    if (elem == 0)
        return wi_error(WEIR_ERR_INVALID, "%s: unknown type %d", what, (int)dtype);
    if (count > SIZE_MAX / 2 / elem)
        return wi_error(WEIR_ERR_INVALID, "%s: %zu elements are more than memory can hold", what, count);
    *bytes = count * elem;
    if (!buf && count > 0)
        return wi_error(WEIR_ERR_INVALID, "%s: the buffer is NULL", what);
    if (*bytes > 0 && weir_mem_is_device(comm->ctx, buf, *bytes))
        return wi_error(WEIR_ERR_UNSUPPORTED, "%s: the buffer lies in device memory; copy it to host memory", what);
    return WEIR_OK;
}

weir_status weir_barrier(weir_comm *comm)
{
    if (!comm)
        return wi_error(WEIR_ERR_INVALID, "barrier: comm is NULL");
    return perform(comm, &(struct wi_call){.kind = WI_BARRIER}, NULL, NULL);
}

weir_status weir_broadcast(weir_comm *comm, void *buf, size_t count, weir_dtype dtype, int root)
{
    size_t bytes = 0;
    if (!comm)
        return wi_error(WEIR_ERR_INVALID, "broadcast: comm is NULL");
    if (root < 0 || root >= (int)comm->ranks)
        return wi_error(WEIR_ERR_INVALID, "broadcast: root %d is not a rank of a communicator of %u", root,
                        comm->ranks);
    weir_status status = check_data(comm, "broadcast", buf, count, dtype, &bytes);
    if (status != WEIR_OK)
        return status;
    const struct wi_call call = {.kind = WI_BROADCAST, .dtype = dtype, .root = (uint32_t)root, .count = count};
    return perform(comm, &call, buf, buf);
}

weir_status weir_allreduce(weir_comm *comm, const void *send, void *recv, size_t count, weir_dtype dtype, weir_redop op)
{
    size_t bytes = 0;
    if (!comm)
        return wi_error(WEIR_ERR_INVALID, "all-reduce: comm is NULL");
    if (!weir_redop_name(op))
        return wi_error(WEIR_ERR_INVALID, "all-reduce: unknown operation %d", (int)op);
    weir_status status = check_data(comm, "all-reduce", send && recv ? send : NULL, count, dtype, &bytes);
    if (status == WEIR_OK)
        status = check_data(comm, "all-reduce", recv, count, dtype, &bytes);
    if (status != WEIR_OK)
        return status;
    uintptr_t from = (uintptr_t)send, to = (uintptr_t)recv;
    if (from != to && bytes > 0 && from < to + bytes && to < from + bytes)
        return wi_error(WEIR_ERR_INVALID, "all-reduce: send and recv overlap without being the same");
    const struct wi_call call = {.kind = WI_ALLREDUCE, .dtype = dtype, .op = op, .count = count};
    status = perform(comm, &call, send, recv);
    if (status == WEIR_OK && comm->ranks == 1 && send != recv && send && recv)
        memcpy(recv, send, bytes);
    return status;
}
