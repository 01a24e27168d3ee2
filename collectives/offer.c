#include "collectives/offer.h"

#include "collectives/comm.h"
#include "core/error.h"

#include <inttypes.h>
#include <string.h>

weir_status wi_offer_send(struct weir_comm *comm)
{
    struct wi_run *run = &comm->run;
    struct wi_peer *left = comm->link[0].from;
    size_t at = (comm->seq & 1) * WI_OFFER_SIZE;
    struct wi_offer *offer = (struct wi_offer *)(void *)(comm->offers.stage + at);
    *offer = (struct wi_offer){
        .seq = comm->seq,
        .addr = (uint64_t)(uintptr_t)run->result,
        .bytes = run->schedule.count * run->schedule.elem,
    };
    if (run->offered) {
        void *addr;
        size_t len, key_len = sizeof(offer->key);
        weir_mem_range(run->result_mem, &addr, &len);
        weir_status status = wi_lend(&comm->lender, run->result_mem, addr, len, offer->key, &key_len);
        if (status != WEIR_OK)
            return status;
        offer->region = weir_mem_id(run->result_mem);
        offer->key_len = (uint32_t)key_len;
    }
    return weir_put_signal(left->ep, offer, comm->stage_mem, offsetof(struct wi_offer, key) + offer->key_len,
                           comm->offers.place_at + at, left->rkey, left->offers, NULL);
}

/* The place for a new key: a free one, or the one used longest ago, after all that still uses it. */
static weir_status make_room(struct weir_comm *comm, struct wi_offer_key **room)
{
    struct wi_offer_key *oldest = &comm->offers.keys[0];
    for (uint32_t i = 1; i < WI_OFFER_KEYS; i++)
        if (comm->offers.keys[i].used < oldest->used)
            oldest = &comm->offers.keys[i];
    if (oldest->rkey) {
        weir_status status = weir_flush(comm->link[0].to->ep, &comm->flushed);
        if (status == WEIR_OK)
            status = weir_wait(comm->ctx, &comm->flushed, -1);
        if (status != WEIR_OK)
            return status;
        weir_rkey_destroy(oldest->rkey);
        *oldest = (struct wi_offer_key){0};
    }
    *room = oldest;
    return WEIR_OK;
}

static weir_status find_key(struct weir_comm *comm, const struct wi_offer *offer, weir_rkey **rkey)
{
    struct wi_offer_key *key = comm->offers.keys;
    for (uint32_t i = 0; i < WI_OFFER_KEYS; i++, key++)
        if (key->rkey && key->region == offer->region) {
            key->used = comm->seq;
            *rkey = key->rkey;
            return WEIR_OK;
        }
    weir_status status = make_room(comm, &key);
    if (status == WEIR_OK)
        status = weir_rkey_import(comm->link[0].to->ep, offer->key, offer->key_len, &key->rkey);
    if (status != WEIR_OK)
        return status;
    key->region = offer->region;
    key->used = comm->seq;
    *rkey = key->rkey;
    return WEIR_OK;
}

/* The offer comes from outside: it must be for this collective, as large as what we will write, and within its key. */
static bool fits(const struct weir_comm *comm, const struct wi_offer *offer, const weir_rkey *rkey)
{
    uint64_t first, len;
    weir_rkey_range(rkey, &first, &len);
    return offer->addr >= first && offer->addr - first <= len && offer->bytes <= len - (offer->addr - first) &&
           offer->bytes >= comm->run.schedule.count * comm->run.schedule.elem;
}

weir_status wi_offer_take(struct weir_comm *comm)
{
    struct wi_offers *offers = &comm->offers;
    if (weir_signal_read(comm->ctx, offers->signal) <= offers->taken)
        return WEIR_ERR_AGAIN;
    struct wi_offer offer;
    memcpy(&offer, offers->place + (comm->seq & 1) * WI_OFFER_SIZE, sizeof(offer));
    weir_rkey *rkey = NULL;
    weir_status status = WEIR_OK;
    if (offer.seq != comm->seq || offer.key_len > sizeof(offer.key))
        status = WEIR_ERR_PROTOCOL;
    else if (offer.key_len > 0)
        status = find_key(comm, &offer, &rkey);
    if (status == WEIR_ERR_PROTOCOL || (rkey && !fits(comm, &offer, rkey)))
        return wi_error(WEIR_ERR_PROTOCOL,
                        "communicator '%s', collective %" PRIu64
                        ": the result buffer that rank %d offered is not right "
                        "(collective %" PRIu64 ", %" PRIu64 " bytes)",
                        comm->name, comm->seq, comm->world[comm->link[0].to->rank], offer.seq, offer.bytes);
    if (status != WEIR_OK)
        return status;
    offers->taken++;
    comm->run.target = (struct wi_target){.known = true, .addr = offer.addr, .rkey = rkey};
    return WEIR_OK;
}

void wi_offers_fini(struct wi_offers *offers)
{
    for (uint32_t i = 0; i < WI_OFFER_KEYS; i++) {
        weir_rkey_destroy(offers->keys[i].rkey);
        offers->keys[i] = (struct wi_offer_key){0};
    }
}
