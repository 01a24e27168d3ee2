/*
 * The caller's buffers: in which regions they lie, or can be made to. A result that the left neighbour can write to
 * needs no copy out of the window, an input that can be sent from needs none to the stage. Memory that nobody has
 * registered is, for the time of the collective, through the cache that the context keeps; the neighbour then finds the
 * key it has, by the number of the registration, which is another one when the memory was unmapped and mapped anew.
 */
#include "collectives/comm.h"

/* Can all messages of this collective be sent from memory of ours that no region holds? */
static bool sends_from_anywhere(const struct weir_comm *comm)
{
    return comm->link[0].to->max_inline >= comm->chunk;
}

/* The region that holds a buffer; NULL: none does. Where `borrow` says that it is worth it, one is found. */
static weir_mem *find_region(struct weir_comm *comm, const void *buffer, size_t bytes, bool borrow)
{
    weir_mem *mem = NULL;
    if (weir_mem_find(comm->ctx, buffer, bytes, &mem) == WEIR_OK)
        return mem;
    return borrow && !comm->copies && wi_mem_acquire_kept(comm->ctx, buffer, bytes, &mem) ? mem : NULL;
}

/* Over shared memory the window is cheaper than writes into memory that is not the pool's, which the kernel makes. */
void wi_buffers_find(struct weir_comm *comm)
{
    struct wi_run *run = &comm->run;
    size_t bytes = run->schedule.count * run->schedule.elem;
    bool anywhere = sends_from_anywhere(comm);
    if (!run->schedule.large)
        return;
    run->input_mem = find_region(comm, run->input, bytes, !anywhere);
    run->result_mem = find_region(comm, run->result, bytes, !anywhere || (run->schedule.offers && !comm->link[0].from->maps));
    run->input_sendable = run->input_mem || anywhere;
    run->result_sendable = run->result_mem || anywhere;
    run->offered = run->schedule.offers && run->result_mem;
}

void wi_buffers_leave(struct weir_comm *comm)
{
    weir_mem_release(comm->run.input_mem);
    weir_mem_release(comm->run.result_mem);
    comm->run.input_mem = comm->run.result_mem = NULL;
}
