/*
 * Fuzzes what a rank reads of its neighbours in a collective: the head that says what they called, and the offer of a
 * result buffer.
 */
#include "bytes_of.h"
#include "collectives/comm.h"

#include <stdlib.h>

/* ---- The transport ---- */

struct weir_rkey {
    uint64_t addr, len;
};

static struct weir_rkey key_of_peer = {1 << 20, 1 << 16};
static uint64_t signal_count;

uint64_t weir_signal_read(weir_ctx *ctx, uint32_t signal)
{
    (void)ctx, (void)signal;
    return signal_count;
}

weir_status weir_rkey_import(weir_ep *ep, const void *blob, size_t blob_len, weir_rkey **rkey)
{
    (void)ep;
    check(blob_len <= WEIR_RKEY_MAX);
    if (blob_len == 1 || ((const uint8_t *)blob)[0] == 0xff)
        return WEIR_ERR_KEY;
    *rkey = malloc(sizeof(**rkey));
    **rkey = key_of_peer;
    return WEIR_OK;
}

void weir_rkey_destroy(weir_rkey *rkey)
{
    free(rkey);
}

void weir_rkey_range(const weir_rkey *rkey, uint64_t *addr, uint64_t *len)
{
    *addr = rkey->addr;
    *len = rkey->len;
}

weir_status weir_flush(weir_ep *ep, weir_comp *comp)
{
    (void)ep, (void)comp;
    return WEIR_OK;
}

weir_status weir_wait(weir_ctx *ctx, weir_comp *comp, int timeout_ms)
{
    (void)ctx, (void)comp, (void)timeout_ms;
    return WEIR_OK;
}

void weir_mem_range(const weir_mem *mem, void **addr, size_t *len)
{
    (void)mem, (void)addr, (void)len;
}

uint64_t weir_mem_id(const weir_mem *mem)
{
    (void)mem;
    return 0;
}

weir_status wi_lend(struct wi_lender *lender, weir_mem *mem, const void *addr, size_t len, void *blob, size_t *blob_len)
{
    (void)lender, (void)mem, (void)addr, (void)len, (void)blob, (void)blob_len;
    return WEIR_ERR_KEY;
}

weir_status weir_put_signal(weir_ep *ep, const void *local, weir_mem *mem, size_t len, uint64_t remote_addr,
                            weir_rkey *rkey, uint32_t signal, weir_comp *comp)
{
    (void)ep, (void)local, (void)mem, (void)len, (void)remote_addr, (void)rkey, (void)signal, (void)comp;
    return WEIR_OK;
}

/* ---- */

static struct wi_call take_call(struct bytes_of *input)
{
    return (struct wi_call){
        .kind = take_byte(input) % 6,
        .dtype = take_byte(input) % (WEIR_DTYPES + 1),
        .op = take_byte(input) % (WEIR_REDOPS + 1),
        .root = take_byte(input) % 2,
        .count = take_byte(input),
    };
}

static void read_head(struct weir_comm *comm, struct bytes_of *input)
{
    struct wi_head head;
    struct wi_call theirs = take_call(input);
    wi_head_fill(&head, &theirs, comm->seq);
    ((uint8_t *)&head)[take_byte(input) % sizeof(head)] ^= take_byte(input);
    weir_status status = wi_head_check(comm, &head, 1);
    const struct wi_call *ours = &comm->run.call;
    bool same = head.seq == comm->seq && head.kind == ours->kind && head.dtype == ours->dtype && head.op == ours->op &&
                head.root == ours->root && head.count == ours->count;
    check(status != WEIR_OK || same);
    check(status == WEIR_OK || weir_last_error()[0]);
}

static void read_offer(struct weir_comm *comm, struct bytes_of *input)
{
    uint8_t *place = comm->offers.place + (comm->seq & 1) * WI_OFFER_SIZE;
    struct wi_offer offer = {.seq = comm->seq,
                             .addr = key_of_peer.addr + take_byte(input),
                             .bytes = (uint64_t)take_byte(input) * 4,
                             .region = take_byte(input),
                             .key_len = take_byte(input) % 4 * 8u};
    offer.key[0] = take_byte(input);
    ((uint8_t *)&offer)[take_byte(input) % offsetof(struct wi_offer, key)] ^= take_byte(input);
    memcpy(place, &offer, sizeof(offer));
    signal_count = comm->offers.taken + 1;
    weir_status status = wi_offer_take(comm);
    const struct wi_target *target = &comm->run.target;
    if (status != WEIR_OK || !target->rkey)
        return;
    uint64_t bytes = comm->run.schedule.count * comm->run.schedule.elem, first = key_of_peer.addr;
    check(target->addr >= first && target->addr - first <= key_of_peer.len &&
          bytes <= key_of_peer.len - (target->addr - first));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int world[2] = {0, 1};
    struct bytes_of input = {data, size};
    struct weir_comm *comm = calloc(1, sizeof(*comm));
    struct wi_peer peer = {.rank = 1};
    comm->world = world;
    comm->ranks = 2;
    comm->link[0].to = comm->link[0].from = &peer;
    comm->offers.place = malloc(2 * WI_OFFER_SIZE);
    for (comm->seq = 1; comm->seq < 60 && input.left > 0; comm->seq++) {
        comm->run.call = take_call(&input);
        comm->run.schedule.count = take_byte(&input);
        comm->run.schedule.elem = 4;
        comm->run.target = (struct wi_target){0};
        read_head(comm, &input);
        read_offer(comm, &input);
    }
    wi_offers_fini(&comm->offers);
    free(comm->offers.place);
    free(comm);
    return 0;
}
