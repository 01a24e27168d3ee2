/*
 * Offers: a rank tells its left neighbour where its result buffer is and how to write to it, so that results need not
 * go through the window. The neighbour keeps the keys it was offered, by region.
 */
#ifndef WI_COLLECTIVES_OFFER_H
#define WI_COLLECTIVES_OFFER_H

#include <weir/transport.h>

#include <stdbool.h>
#include <stdint.h>

#define WI_OFFER_SIZE ((size_t)1024) /* bytes of the place for an offer; there are two, used in turn */
#define WI_OFFER_KEYS 32u            /* keys that are kept */

struct weir_comm;

/* What an offer says. */
struct wi_offer {
    uint64_t seq;
    uint64_t addr; /* of the result buffer */
    uint64_t bytes;
    uint64_t region;  /* names the region at the offering rank; never used twice there */
    uint32_t key_len; /* 0: the buffer cannot be written to from outside, use the window */
    uint32_t reserved;
    unsigned char key[WEIR_RKEY_MAX];
};

_Static_assert(sizeof(struct wi_offer) <= WI_OFFER_SIZE, "an offer has its place");

struct wi_offers {
    unsigned char *place; /* where the right neighbour's offers arrive */
    unsigned char *stage; /* where ours to the left neighbour are made */
    uint64_t place_at;    /* address of the left neighbour's place */
    uint32_t signal;      /* our signal */
    uint64_t taken;       /* offers taken */
    struct wi_offer_key {
        uint64_t region;
        uint64_t used; /* collective that used it last; 0: none */
        weir_rkey *rkey;
    } keys[WI_OFFER_KEYS];
};

/* The right neighbour's result buffer. */
struct wi_target {
    bool known;
    uint64_t addr;
    weir_rkey *rkey; /* NULL: use its window */
};

/* Tells the left neighbour about the result buffer of the collective under way. */
weir_status wi_offer_send(struct weir_comm *comm);

/* Takes the right neighbour's offer. WEIR_ERR_AGAIN: it is not there yet. */
weir_status wi_offer_take(struct weir_comm *comm);

/* Gives up all keys. */
void wi_offers_fini(struct wi_offers *offers);

#endif
