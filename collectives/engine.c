/*
 * The engine: runs any schedule. It knows slots, signals and credits, and nothing of what a schedule is for.
 *
 * One turn posts the next send if it may go, takes the next receive if it has come, and gives slots back. A turn
 * without any of these is idle: after some of them the engine leaves it to the context to spin and sleep until there is
 * news.
 */
#include "collectives/comm.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define CHECK_NS   WI_NS_PER_MS /* how often an idle engine looks after the job and the endpoints */
#define SPIN_TURNS 20
#define SLEEP_MS   100 /* the context wakes us; this is a second line */

/* What a message is sent from. */
struct origin {
    const void *data;
    weir_mem *mem;
    weir_comp *comp; /* ends when the data may be changed */
    bool staged;     /* must be copied to the stage first */
    uint32_t slot;   /* of link 0's window, if `held` */
    bool held;
};

static unsigned char *slot_at(unsigned char *slots, const struct wi_link *link, uint32_t slot)
{
    return slots + slot * link->stride;
}

static struct origin find_origin(struct weir_comm *comm, const struct wi_send *send)
{
    struct wi_run *run = &comm->run;
    struct wi_link *ring = &comm->link[0];
    if (send->source == WI_FROM_PARTIAL || (send->source == WI_FROM_KEPT && !run->result_sendable)) {
        if (ring->forward < ring->released)
            ring->forward = ring->released;
        while (!ring->held[ring->forward % comm->slots] && ring->forward < ring->taken)
            ring->forward++;
        uint32_t slot = (uint32_t)(ring->forward % comm->slots);
        return (struct origin){.data = slot_at(ring->window, ring, slot) + WI_HEAD_SIZE,
                               .mem = comm->block_mem,
                               .comp = &ring->sent_on[slot],
                               .slot = slot,
                               .held = true};
    }
    if (send->source == WI_FROM_INPUT)
        return (struct origin){.data = run->input + send->offset,
                               .mem = run->input_mem,
                               .comp = &run->comp,
                               .staged = !run->input_sendable};
    return (struct origin){.data = run->result + send->offset,
                           .mem = run->result_mem,
                           .comp = &run->comp,
                           .staged = !run->result_sendable};
}

/* Slots of the neighbour's window, and of our stage, that may still be in use. */
static uint64_t slots_used(struct weir_comm *comm, const struct wi_link *link)
{
    return link->posted - weir_signal_read(comm->ctx, link->credits) * comm->batch;
}

/* Sends through a slot of the neighbour's window. The first message of a collective on a link has a head in front. */
static weir_status post_slot(struct weir_comm *comm, const struct wi_send *send, const struct origin *origin)
{
    struct wi_link *link = &comm->link[send->link];
    struct wi_peer *to = link->to;
    uint32_t slot = (uint32_t)(link->posted % comm->slots);
    uint64_t remote = link->slots_at + slot * link->stride;
    unsigned char *stage = slot_at(link->stage, link, slot);
    uint32_t announce = to->arrivals[send->link];
    bool first = link->out_seq != comm->seq;
    weir_status status;

    if (first)
        wi_head_fill((struct wi_head *)(void *)stage, &comm->run.call, comm->seq);
    if (origin->staged || (first && send->len <= WI_EAGER_MAX)) {
        size_t skip = first ? 0 : WI_HEAD_SIZE;
        if (send->len > 0)
            memcpy(stage + WI_HEAD_SIZE, origin->data, send->len);
        status = weir_put_signal(to->ep, stage + skip, comm->stage_mem, WI_HEAD_SIZE - skip + send->len, remote + skip,
                                 to->rkey, announce, NULL);
    } else {
        status = WEIR_OK;
        if (first)
            status = weir_put(to->ep, stage, comm->stage_mem, WI_HEAD_SIZE, remote, to->rkey, NULL);
        if (status == WEIR_OK)
            status = weir_put_signal(to->ep, origin->data, origin->mem, send->len, remote + WI_HEAD_SIZE, to->rkey,
                                     announce, origin->comp);
    }
    if (status == WEIR_OK) {
        link->out_seq = comm->seq;
        link->posted++;
    }
    return status;
}

/*
 * A direct send from memory that the transport cannot send from: through those slots of the stage that no slot of the
 * window stands for, all free again when what was sent from them has ended.
 */
static weir_status stage_direct(struct weir_comm *comm, const struct wi_send *send, struct origin *origin)
{
    struct wi_run *run = &comm->run;
    struct wi_link *link = &comm->link[send->link];
    if (weir_test(&run->comp) != WEIR_ERR_AGAIN)
        run->staged = 0;
    if (slots_used(comm, link) + run->staged >= comm->slots)
        return WEIR_ERR_AGAIN;
    unsigned char *copy = slot_at(link->stage, link, (uint32_t)((link->posted + run->staged) % comm->slots));
    run->staged++;
    memcpy(copy, origin->data, send->len);
    origin->data = copy;
    origin->mem = comm->stage_mem;
    return WEIR_OK;
}

/* Sends into the neighbour's result buffer. */
static weir_status post_direct(struct weir_comm *comm, const struct wi_send *send, struct origin *origin)
{
    struct wi_peer *to = comm->link[send->link].to;
    const struct wi_target *target = &comm->run.target;
    if (origin->staged) {
        weir_status status = stage_direct(comm, send, origin);
        if (status != WEIR_OK)
            return status;
    }
    return weir_put_signal(to->ep, origin->data, origin->mem, send->len, target->addr + send->offset, target->rkey,
                           to->arrivals[send->link], origin->comp);
}

/* The schedule is asked once for each step, however often a turn comes to look at it. */
static void load_send(struct wi_run *run)
{
    if (run->sent < run->schedule.sends)
        wi_schedule_send(&run->schedule, run->sent, &run->send);
}

static void load_receive(struct wi_run *run)
{
    if (run->received < run->schedule.receives)
        wi_schedule_receive(&run->schedule, run->received, &run->receive);
}

/* Posts the next send. WEIR_ERR_AGAIN: there is none or it may not go yet. */
static weir_status turn_send(struct weir_comm *comm)
{
    struct wi_run *run = &comm->run;
    const struct wi_send *send = &run->send;
    if (run->sent == run->schedule.sends || run->received < send->after)
        return WEIR_ERR_AGAIN;
    if (send->direct && !run->target.known) {
        weir_status status = wi_offer_take(comm);
        if (status != WEIR_OK)
            return status;
    }
    bool direct = send->direct && run->target.rkey;
    if (!direct && slots_used(comm, &comm->link[send->link]) >= comm->slots)
        return WEIR_ERR_AGAIN;
    struct origin origin = find_origin(comm, send);
    weir_status status = direct ? post_direct(comm, send, &origin) : post_slot(comm, send, &origin);
    if (status != WEIR_OK)
        return status;
    if (origin.held)
        comm->link[0].held[origin.slot] = false;
    comm->stats.bytes_sent += send->len;
    run->sent++;
    load_send(run);
    return WEIR_OK;
}

static void take_slot(struct weir_comm *comm, const struct wi_receive *receive, unsigned char *data, bool hold)
{
    struct wi_run *run = &comm->run;
    const unsigned char *input = run->input + receive->offset;
    unsigned char *result = run->result + receive->offset;
    if (receive->action == WI_REDUCE || (receive->action == WI_REDUCE_KEEP && hold))
        run->reduce(data, data, input, receive->len);
    else if (receive->action == WI_REDUCE_KEEP)
        run->reduce(result, data, input, receive->len);
    if (receive->action == WI_REDUCE_KEEP && run->divide)
        run->divide(hold ? data : result, receive->len, comm->ranks);
    if (receive->action == WI_KEEP || (receive->action == WI_REDUCE_KEEP && hold))
        memcpy(result, data, receive->len);
}

/* Takes the next message. WEIR_ERR_AGAIN: there is none to come or it is not there yet. */
static weir_status turn_receive(struct weir_comm *comm)
{
    struct wi_run *run = &comm->run;
    const struct wi_receive *receive = &run->receive;
    if (run->received == run->schedule.receives)
        return WEIR_ERR_AGAIN;
    struct wi_link *link = &comm->link[receive->link];
    if (link->seen == link->messages)
        link->seen = weir_signal_read(comm->ctx, link->arrivals);
    if (link->seen == link->messages)
        return WEIR_ERR_AGAIN;
    if (!receive->direct || !run->offered) {
        uint32_t slot = (uint32_t)(link->taken % comm->slots);
        unsigned char *head = slot_at(link->window, link, slot);
        if (link->in_seq != comm->seq) {
            weir_status status = wi_head_check(comm, (const struct wi_head *)(void *)head, link->from->rank);
            if (status != WEIR_OK)
                return status;
            link->in_seq = comm->seq;
        }
        bool hold = receive->forward && (receive->action == WI_REDUCE || !run->result_sendable);
        if (receive->len > 0)
            take_slot(comm, receive, head + WI_HEAD_SIZE, hold);
        link->held[slot] = hold;
        link->taken++;
    }
    link->messages++;
    run->received++;
    load_receive(run);
    return WEIR_OK;
}

/* Gives the slots of a link back that are neither held nor being sent on. WEIR_ERR_AGAIN: some still are. */
static weir_status release_slots(struct weir_comm *comm, uint32_t k)
{
    struct wi_link *link = &comm->link[k];
    while (link->released < link->taken) {
        uint32_t slot = (uint32_t)(link->released % comm->slots);
        if (link->held[slot])
            return WEIR_ERR_AGAIN;
        weir_status status = weir_test(&link->sent_on[slot]);
        if (status != WEIR_OK)
            return status;
        link->released++;
    }
    return WEIR_OK;
}

/* Tells the sender of a link which slots are free again, once there are enough. */
static weir_status give_back(struct weir_comm *comm, uint32_t k)
{
    struct wi_link *link = &comm->link[k];
    while (!comm->closing && link->released - link->credited >= comm->batch) {
        weir_status status = weir_put_signal(link->from->ep, NULL, NULL, 0, 0, NULL, link->from->credits[k], NULL);
        if (status != WEIR_OK)
            return status;
        link->credited += comm->batch;
    }
    return WEIR_OK;
}

/* WEIR_OK: nothing of ours is under way any more. */
static weir_status turn_release(struct weir_comm *comm)
{
    weir_status all = weir_test(&comm->run.comp);
    for (uint32_t k = 0; k < comm->links && (all == WEIR_OK || all == WEIR_ERR_AGAIN); k++) {
        weir_status status = release_slots(comm, k);
        if (status == WEIR_OK || status == WEIR_ERR_AGAIN) {
            weir_status given = give_back(comm, k);
            status = given == WEIR_OK ? status : given;
        }
        if (status != WEIR_OK)
            all = status;
    }
    return all;
}

/* Says for whom we have waited in vain. */
static weir_status timed_out(struct weir_comm *comm)
{
    struct wi_run *run = &comm->run;
    char what[128], why[160];
    if (run->received < run->schedule.receives)
        snprintf(why, sizeof(why), "rank %d to send message %" PRIu64 " of %" PRIu64,
                 comm->world[comm->link[run->receive.link].from->rank], run->received + 1, run->schedule.receives);
    else if (run->sent < run->schedule.sends)
        snprintf(why, sizeof(why), "rank %d to take message %" PRIu64 " of %" PRIu64,
                 comm->world[comm->link[run->send.link].to->rank], run->sent + 1, run->schedule.sends);
    else
        snprintf(why, sizeof(why), "the last messages to rank %d to leave", comm->world[comm->link[0].to->rank]);
    return wi_error(WEIR_ERR_TIMEOUT,
                    "communicator '%s', collective %" PRIu64
                    " (%s): rank %d waited %.3g s for %s; is that rank alive and "
                    "in the same call? WEIR_TIMEOUT is the bound",
                    comm->name, comm->seq, wi_call_text(&run->call, what, sizeof(what)), comm->world[comm->rank],
                    (double)comm->timeout_ns / (double)WI_NS_PER_S, why);
}

/* Is the job whole, are the endpoints, has something moved within WEIR_TIMEOUT? */
static weir_status look_after(struct weir_comm *comm, uint64_t now_ns)
{
    struct wi_run *run = &comm->run;
    run->checked_ns = now_ns;
    weir_status status = weir_boot_check(comm->boot);
    for (uint32_t i = 0; i < comm->peer_count && status == WEIR_OK; i++)
        status = weir_ep_status(comm->peers[i].ep);
    if (status == WEIR_OK && now_ns - run->idle_since_ns > comm->timeout_ns)
        status = timed_out(comm);
    return status;
}

/* A turn in which nothing moved: poll in earnest at first, for most waits are short, then wait politely. */
static weir_status idle(struct weir_comm *comm)
{
    struct wi_run *run = &comm->run;
    if (run->idle_turns++ < SPIN_TURNS) {
        weir_progress(comm->ctx);
        wi_cpu_relax();
        return WEIR_OK;
    }
    uint64_t now_ns = wi_now_ns();
    if (run->idle_since_ns == 0) {
        run->idle_since_ns = run->checked_ns = now_ns;
        weir_ctx_wait_begin(comm->ctx);
    }
    weir_ctx_block(comm->ctx, SLEEP_MS);
    return now_ns - run->checked_ns > CHECK_NS ? look_after(comm, now_ns) : WEIR_OK;
}

static bool failed(weir_status status)
{
    return status != WEIR_OK && status != WEIR_ERR_AGAIN;
}

/* Turns until all is sent, received and given back. */
static weir_status turn(struct weir_comm *comm)
{
    struct wi_run *run = &comm->run;
    for (;;) {
        weir_status sent = turn_send(comm);
        if (failed(sent))
            return sent;
        weir_status received = turn_receive(comm);
        if (failed(received))
            return received;
        weir_status released = turn_release(comm);
        if (failed(released))
            return released;
        if (sent == WEIR_OK || received == WEIR_OK) {
            run->idle_since_ns = run->idle_turns = 0;
            continue;
        }
        if (released == WEIR_OK && run->sent == run->schedule.sends && run->received == run->schedule.receives)
            return WEIR_OK;
        weir_status status = idle(comm);
        if (status != WEIR_OK)
            return status;
    }
}

static weir_status run(struct weir_comm *comm, const struct wi_call *call, const void *input, void *result)
{
    struct wi_run *run = &comm->run;
    comm->seq++;
    *run = (struct wi_run){.call = *call, .input = input, .result = result};
    const struct wi_schedule_params params = {
        .kind = call->kind,
        .ranks = comm->ranks,
        .rank = comm->rank,
        .root = call->root,
        .elem = (uint32_t)weir_dtype_size(call->dtype),
        .count = call->count,
        .chunk = comm->chunk,
        .lanes = comm->lanes,
    };
    wi_schedule_init(&run->schedule, &params);
    load_send(run);
    load_receive(run);
    run->reduce = wi_reduce_kernel(call->dtype, call->op, comm->reduce_level);
    run->divide = call->op == WEIR_AVG ? wi_divide_kernel(call->dtype, comm->reduce_level) : NULL;
    if (comm->ranks == 1)
        return WEIR_OK;
    wi_buffers_find(comm);
    weir_status status = run->schedule.offers ? wi_offer_send(comm) : WEIR_OK;
    if (status == WEIR_OK)
        status = turn(comm);
    if (status == WEIR_OK) /* else once the endpoints are closed: peers may still write */
        wi_buffers_leave(comm);
    return status;
}

weir_status wi_run(struct weir_comm *comm, const struct wi_call *call, const void *input, void *result)
{
    static const char *const names[] = {[WI_BARRIER] = "barrier",
                                        [WI_BROADCAST] = "broadcast",
                                        [WI_ALLREDUCE] = "allreduce",
                                        [WI_OPEN] = "open communicator",
                                        [WI_CLOSE] = "close communicator"};
    if (!wi_trace_on())
        return run(comm, call, input, result);
    uint64_t start_ns = wi_now_ns();
    weir_status status = run(comm, call, input, result);
    wi_trace_span(names[call->kind], "collective", start_ns, wi_now_ns(), "\"count\": %llu, \"status\": \"%s\"",
                  (unsigned long long)call->count, weir_status_string(status));
    return status;
}
