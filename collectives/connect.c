/*
 * How the ranks of a communicator find each other: each writes a record (its context's address, the key of its block,
 * the numbers of its signals) to the store and reads those of the ranks it has links to.
 */
#include "collectives/comm.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/crc.h"
#include "core/error.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define RECORD_MAGIC 0x57434d31u

struct record {
    uint32_t magic;
    uint32_t ranks, ranks_crc; /* of the list of world ranks */
    uint32_t address_len, key_len;
    uint32_t offers;
    uint32_t arrivals[WI_LINKS_MAX], credits[WI_LINKS_MAX];
    uint64_t chunk;
    uint64_t block;
    unsigned char bytes[WEIR_ADDRESS_MAX + WEIR_RKEY_MAX]; /* address, then key */
};

static size_t slot_stride(const struct weir_comm *comm, uint32_t link)
{
    return WI_HEAD_SIZE + (link == 0 ? (comm->chunk + 63) / 64 * 64 : WI_EAGER_MAX);
}

/* Where the window of a link begins in a block; `link` == links: the end of all, where the offers' places are. */
static size_t window_offset(const struct weir_comm *comm, uint32_t link)
{
    size_t offset = 0;
    for (uint32_t k = 0; k < link; k++)
        offset += comm->slots * slot_stride(comm, k);
    return offset;
}

static weir_status make_memory(struct weir_comm *comm)
{
    size_t size = window_offset(comm, comm->links) + 2 * WI_OFFER_SIZE;
    weir_status status = weir_pool_create(comm->ctx, 0, &comm->pool);
    if (status == WEIR_OK)
        status = weir_pool_alloc(comm->pool, size, (void **)&comm->block, &comm->block_mem);
    if (status == WEIR_OK)
        status = weir_pool_alloc(comm->pool, size, (void **)&comm->stage, &comm->stage_mem);
    if (status != WEIR_OK)
        return wi_error_prefix(status, "communicator '%s': %zu bytes for its windows", comm->name, 2 * size);
    for (uint32_t k = 0; k < comm->links; k++) {
        comm->link[k].stride = slot_stride(comm, k);
        comm->link[k].window = comm->block + window_offset(comm, k);
        comm->link[k].stage = comm->stage + window_offset(comm, k);
    }
    comm->offers.place = comm->block + window_offset(comm, comm->links);
    comm->offers.stage = comm->stage + window_offset(comm, comm->links);
    return WEIR_OK;
}

static weir_status make_signals(struct weir_comm *comm)
{
    uint32_t *wanted[2 * WI_LINKS_MAX + 1], count = 0;
    for (uint32_t k = 0; k < comm->links; k++) {
        wanted[count++] = &comm->link[k].arrivals;
        wanted[count++] = &comm->link[k].credits;
    }
    wanted[count++] = &comm->offers.signal;
    while (comm->signal_count < count) {
        weir_status status = weir_signal_create(comm->ctx, wanted[comm->signal_count]);
        if (status != WEIR_OK)
            return status;
        comm->signals[comm->signal_count] = *wanted[comm->signal_count];
        comm->signal_count++;
    }
    return WEIR_OK;
}

static weir_status fill_record(struct weir_comm *comm, struct record *record)
{
    *record = (struct record){
        .magic = RECORD_MAGIC,
        .ranks = comm->ranks,
        .ranks_crc = wi_crc32(comm->world, comm->ranks * sizeof(*comm->world)),
        .offers = comm->offers.signal,
        .chunk = comm->chunk,
        .block = (uint64_t)(uintptr_t)comm->block,
    };
    for (uint32_t k = 0; k < comm->links; k++) {
        record->arrivals[k] = comm->link[k].arrivals;
        record->credits[k] = comm->link[k].credits;
    }
    size_t address_len = WEIR_ADDRESS_MAX, key_len = WEIR_RKEY_MAX;
    weir_status status = weir_ctx_address(comm->ctx, record->bytes, &address_len);
    if (status != WEIR_OK)
        return status;
    status = weir_mem_export(comm->block_mem, comm->block, window_offset(comm, comm->links) + 2 * WI_OFFER_SIZE,
                             record->bytes + address_len, &key_len);
    record->address_len = (uint32_t)address_len;
    record->key_len = (uint32_t)key_len;
    return status;
}

/*
 * Puts our record into the store. Without a name the communicator takes the first number that this rank has not used
 * with this list of ranks; since all its ranks make their communicators in the same order, they come to the same
 * number.
 */
static weir_status publish(struct weir_comm *comm, const char *name, const struct record *record)
{
    char key[WEIR_BOOT_KEY_MAX + 1];
    size_t len = offsetof(struct record, bytes) + record->address_len + record->key_len;
    weir_status status;
    uint32_t number = 0;
    do {
        if (!name)
            snprintf(comm->name, sizeof(comm->name), "%" PRIu32 "-%08" PRIx32 "-%" PRIu32, comm->ranks,
                     record->ranks_crc, number++);
        snprintf(key, sizeof(key), "coll/%s/%" PRIu32, comm->name, comm->rank);
        status = weir_boot_put(comm->boot, key, record, len);
    } while (!name && status == WEIR_ERR_MISMATCH);
    if (status == WEIR_ERR_MISMATCH)
        return wi_error_prefix(status, "communicator '%s' was made before in this job; each needs a name of its own",
                               comm->name);
    return status;
}

static weir_status check_record(const struct weir_comm *comm, const struct record *ours, const struct record *theirs,
                                size_t len, uint32_t rank)
{
    size_t fixed = offsetof(struct record, bytes);
    if (len < fixed || theirs->magic != RECORD_MAGIC || theirs->address_len > WEIR_ADDRESS_MAX ||
        theirs->key_len > WEIR_RKEY_MAX || theirs->address_len + theirs->key_len != len - fixed)
        return wi_error(WEIR_ERR_PROTOCOL, "communicator '%s': the record of rank %d in the store is damaged",
                        comm->name, comm->world[rank]);
    if (theirs->ranks != ours->ranks || theirs->ranks_crc != ours->ranks_crc)
        return wi_error(WEIR_ERR_MISMATCH, "communicator '%s': rank %d and rank %d gave different lists of ranks",
                        comm->name, comm->world[comm->rank], comm->world[rank]);
    if (theirs->chunk != ours->chunk)
        return wi_error(WEIR_ERR_MISMATCH,
                        "communicator '%s': rank %d has a chunk of %" PRIu64 " bytes, rank %d one of %" PRIu64
                        "; set the same WEIR_CHUNK everywhere",
                        comm->name, comm->world[comm->rank], ours->chunk, comm->world[rank], theirs->chunk);
    return WEIR_OK;
}

/* Waits for an endpoint's connection and looks after the job meanwhile. */
static weir_status wait_ready(struct weir_comm *comm, weir_ep *ep)
{
    uint64_t end_ns = wi_now_ns() + comm->timeout_ns;
    weir_status status;
    do {
        status = weir_ep_wait_ready(ep, 50);
        weir_status job = status == WEIR_OK ? WEIR_OK : weir_boot_check(comm->boot);
        if (job != WEIR_OK)
            return job;
    } while (status == WEIR_ERR_TIMEOUT && weir_ep_status(ep) == WEIR_OK && wi_now_ns() < end_ns);
    if (status == WEIR_ERR_TIMEOUT)
        return wi_error(status, "it did not accept the connection within %.3g s (WEIR_TIMEOUT); is it alive?",
                        (double)comm->timeout_ns / (double)WI_NS_PER_S);
    return status;
}

static weir_status read_record(struct weir_comm *comm, const struct record *ours, uint32_t rank, struct record *theirs)
{
    char key[WEIR_BOOT_KEY_MAX + 1];
    size_t len = sizeof(*theirs);
    snprintf(key, sizeof(key), "coll/%s/%" PRIu32, comm->name, rank);
    weir_status status = weir_boot_get(comm->boot, key, theirs, &len, -1);
    if (status != WEIR_OK)
        return wi_error_prefix(status, "communicator '%s': waiting for rank %d to make it too", comm->name,
                               comm->world[rank]);
    return check_record(comm, ours, theirs, len, rank);
}

/* The peer of that rank, connected to at the first call. */
static weir_status get_peer(struct weir_comm *comm, const struct record *ours, uint32_t rank, struct wi_peer **found)
{
    struct record theirs;
    for (uint32_t i = 0; i < comm->peer_count; i++)
        if (comm->peers[i].rank == rank) {
            *found = &comm->peers[i];
            return WEIR_OK;
        }
    weir_status status = read_record(comm, ours, rank, &theirs);
    if (status != WEIR_OK)
        return status;
    struct wi_peer *peer = &comm->peers[comm->peer_count++];
    *peer = (struct wi_peer){.rank = rank, .block = theirs.block, .offers = theirs.offers};
    memcpy(peer->arrivals, theirs.arrivals, sizeof(peer->arrivals));
    memcpy(peer->credits, theirs.credits, sizeof(peer->credits));
    status = weir_ep_create(comm->ctx, theirs.bytes, theirs.address_len, &peer->ep);
    if (status == WEIR_OK)
        status = weir_rkey_import(peer->ep, theirs.bytes + theirs.address_len, theirs.key_len, &peer->rkey);
    if (status == WEIR_OK)
        status = weir_ep_connect(peer->ep); /* all at the same time */
    *found = peer;
    if (status != WEIR_OK)
        return wi_error_prefix(status, "communicator '%s': connecting to rank %d", comm->name, comm->world[rank]);
    return WEIR_OK;
}

static weir_status connect_link(struct weir_comm *comm, const struct record *ours, uint32_t k)
{
    struct wi_link *link = &comm->link[k];
    uint32_t distance = 1u << k;
    weir_status status = get_peer(comm, ours, (comm->rank + distance) % comm->ranks, &link->to);
    if (status == WEIR_OK)
        status = get_peer(comm, ours, (comm->rank + comm->ranks - distance) % comm->ranks, &link->from);
    if (status == WEIR_OK)
        link->slots_at = link->to->block + window_offset(comm, k);
    return status;
}

static weir_status wait_peers(struct weir_comm *comm)
{
    for (uint32_t i = 0; i < comm->peer_count; i++) {
        struct wi_peer *peer = &comm->peers[i];
        weir_status status = wait_ready(comm, peer->ep);
        if (status != WEIR_OK)
            return wi_error_prefix(status, "communicator '%s': connecting to rank %d", comm->name,
                                   comm->world[peer->rank]);
        weir_ep_attr attr;
        weir_ep_query(peer->ep, &attr);
        peer->max_inline = attr.max_inline;
        peer->maps = attr.maps_peer;
    }
    return WEIR_OK;
}

weir_status wi_connect(struct weir_comm *comm, const char *name)
{
    struct record ours;
    weir_status status = make_memory(comm);
    if (status == WEIR_OK)
        status = make_signals(comm);
    if (status == WEIR_OK)
        status = fill_record(comm, &ours);
    if (status == WEIR_OK)
        status = publish(comm, name, &ours);
    for (uint32_t k = 0; k < comm->links && status == WEIR_OK; k++)
        status = connect_link(comm, &ours, k);
    if (status == WEIR_OK)
        status = wait_peers(comm);
    if (status == WEIR_OK)
        comm->offers.place_at = comm->link[0].from->block + window_offset(comm, comm->links);
    return status;
}

void wi_disconnect(struct weir_comm *comm)
{
    wi_offers_fini(&comm->offers);
    wi_lender_end(&comm->lender, comm->ctx);
    for (uint32_t i = 0; i < comm->peer_count; i++) {
        weir_rkey_destroy(comm->peers[i].rkey);
        weir_ep_close(comm->peers[i].ep);
        comm->peers[i].rkey = NULL;
        comm->peers[i].ep = NULL;
    }
}
