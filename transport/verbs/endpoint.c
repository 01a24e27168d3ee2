/* Endpoints: the initiator's side of a connection. */
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- Handles: how a completion finds its endpoint ---------------------------------------------------------------- */

/* Doubles the tables; the new indices are free. */
static weir_status handles_grow(struct verbs_iface *iface)
{
    uint32_t old = iface->eps_room, room = old ? 2 * old : 16;
    if (room > 0x10000)
        return wi_error(WEIR_ERR_LIMIT, "verbs: no room for more endpoints than %u", old);
    struct verbs_ep **eps = realloc(iface->eps, room * sizeof(*eps));
    if (eps)
        iface->eps = eps;
    uint32_t *indices = realloc(iface->eps_free, room * sizeof(*indices));
    if (indices)
        iface->eps_free = indices;
    if (!eps || !indices)
        return wi_error(WEIR_ERR_NO_MEMORY, "verbs: out of memory");
    memset(eps + old, 0, (room - old) * sizeof(*eps));
    for (uint32_t index = room; index-- > old;)
        indices[iface->eps_free_count++] = index;
    iface->eps_room = room;
    return WEIR_OK;
}

/* Index in the low half, a count of uses in the high half: completions of an endpoint that is gone find nobody. */
static weir_status handle_take(struct verbs_iface *iface, struct verbs_ep *ep)
{
    weir_status status = iface->eps_free_count > 0 ? WEIR_OK : handles_grow(iface);
    if (status != WEIR_OK)
        return status;
    uint32_t index = iface->eps_free[--iface->eps_free_count];
    iface->eps[index] = ep;
    ep->handle = (uint32_t)(iface->generation++ & 0x7fff) << 16 | index;
    return WEIR_OK;
}

static void handle_give(struct verbs_ep *ep)
{
    struct verbs_iface *iface = ep->iface;
    uint32_t index = ep->handle & 0xffff;
    if (index >= iface->eps_room || iface->eps[index] != ep)
        return;
    iface->eps[index] = NULL;
    iface->eps_free[iface->eps_free_count++] = index;
}

/* ---- Creation ---------------------------------------------------------------------------------------------------- */

static size_t block_size(const struct verbs_ep *ep)
{
    return WI_VERBS_LINK_BYTES + (WI_VERBS_WORDS + (size_t)ep->mask + 1) * sizeof(uint64_t);
}

/* An endpoint that was connected before has one already. */
static weir_status create_queue(struct verbs_ep *ep)
{
    uint32_t depth = (uint32_t)wi_config()->verbs_depth;
    ep->depth = depth < ep->iface->device.max_depth ? depth : ep->iface->device.max_depth;
    /* A queue of one more entry would take twice the memory: 128 KiB an endpoint of the usual depth. */
    if (ep->iface->device.spare_entry && (ep->depth & (ep->depth - 1)) == 0)
        ep->depth--;
    ep->period = ep->depth / 4 < 32 ? ep->depth / 4 : 32;
    if (ep->period == 0)
        ep->period = 1;
    ep->mask = 15;
    while (ep->mask + 1 < ep->depth)
        ep->mask = 2 * ep->mask + 1;
    if (ep->block)
        return WEIR_OK;
    size_t list_size = sizeof(*ep->list) + WI_VERBS_LIST * (size_t)wi_config()->verbs_inline;
    if (!ep->slots)
        ep->slots = calloc((size_t)ep->mask + 1, sizeof(*ep->slots));
    if (!ep->list)
        ep->list = calloc(1, list_size);
    if (!ep->slots || !ep->list)
        return wi_error(WEIR_ERR_NO_MEMORY, "verbs: out of memory");
    return wi_verbs_block_create(ep->iface, block_size(ep), IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE,
                                 "endpoint's message buffers", &ep->block, &ep->block_mr);
}

static void ep_free(struct verbs_ep *ep)
{
    wi_verbs_end(&ep->end);
    handle_give(ep);
    wi_verbs_block_destroy(ep->block, ep->slots ? block_size(ep) : 0, ep->block_mr);
    free(ep->slots);
    free(ep->list);
    free(ep);
}

weir_status wi_verbs_ep_create(struct wi_iface *base, const void *address, size_t len, struct weir_ep **out)
{
    struct verbs_iface *iface = verbs_iface(base);
    struct verbs_ep *ep = calloc(1, sizeof(*ep));
    if (!ep)
        return wi_error(WEIR_ERR_NO_MEMORY, "verbs: out of memory");
    ep->iface = iface;
    ep->todo_end = &ep->todo;
    ep->end.kind = VERBS_EP;
    wi_list_init(&ep->offering);
    ep->stream = iface->next_stream++;
    ep->handle = UINT32_MAX;
    weir_status status = WEIR_OK;
    if (!wi_verbs_address_decode(address, len, &ep->address))
        status = wi_error(WEIR_ERR_PROTOCOL, "the verbs part of its address is damaged or of another version; use one "
                                             "version of Weir on all ranks");
    else if (ep->address.by_store != (iface->exchange != NULL))
        status = wi_error(WEIR_ERR_MISMATCH,
                          "it connects through %s, this process through %s; set WEIR_VERBS_CONNECT alike "
                          "on all ranks",
                          ep->address.by_store ? "the store" : "the connection manager",
                          iface->exchange ? "the store" : "the connection manager");
    if (status == WEIR_OK)
        status = handle_take(iface, ep);
    if (status != WEIR_OK) {
        ep_free(ep);
        return status;
    }
    *out = &ep->base;
    return WEIR_OK;
}

/* What is made by half when this fails goes with the endpoint. */
weir_status wi_verbs_ep_connect(struct weir_ep *base)
{
    struct verbs_ep *ep = verbs_ep(base);
    weir_status status = create_queue(ep);
    if (status == WEIR_OK)
        status = wi_verbs_qp_create(ep);
    if (status == WEIR_OK)
        status = wi_verbs_connect(ep);
    if (status == WEIR_OK) {
        ep->connecting = true;
        ep->iface->connecting++;
    }
    return status;
}

void wi_verbs_ep_query(const struct weir_ep *base, weir_ep_attr *attr)
{
    attr->max_inline = ((const struct verbs_ep *)base)->max_inline;
    attr->ordered_writes = !((const struct verbs_ep *)base)->relaxed;
    attr->native_signal = 1;
}

/* ---- End --------------------------------------------------------------------------------------------------------- */

/* Ends the connection, then the operations: the device touches their memory no more. */
static void ep_end(struct verbs_ep *ep, weir_status status)
{
    wi_verbs_offer_end(ep);
    if (ep->connecting)
        ep->iface->connecting--;
    ep->connecting = false;
    if (ep->suspect_ns)
        ep->iface->suspects--;
    ep->suspect_ns = 0;
    wi_verbs_end(&ep->end);
    wi_verbs_queue_end(ep, status);
    wi_verbs_keys_end(ep);
}

void wi_verbs_ep_abandon(struct verbs_ep *ep)
{
    ep->iface->endings++;
    ep_end(ep, ep->base.status);
}

void wi_verbs_ep_close(struct weir_ep *base)
{
    struct verbs_ep *ep = verbs_ep(base);
    wi_verbs_drain(ep->iface); /* what was done before counts */
    ep_end(ep, WEIR_ERR_CANCELED);
    ep_free(ep);
}

/* The handle changes: completions of the old queue pair may still come, and are for nobody. */
weir_status wi_verbs_ep_reset(struct weir_ep *base)
{
    struct verbs_ep *ep = verbs_ep(base);
    wi_verbs_drain(ep->iface);
    ep_end(ep, base->status);
    handle_give(ep);
    ep->again++;
    ep->attempt = 0;
    ep->head = ep->tail = ep->written = ep->unsignaled = ep->head_seen = ep->settled = 0;
    ep->probe = (weir_comp)WEIR_COMP_INIT;
    ep->position = ep->taken = ep->announced = 0;
    if (ep->block)
        memset(wi_verbs_word(ep, 0), 0, WI_VERBS_WORDS * sizeof(uint64_t));
    return handle_take(ep->iface, ep);
}
