/*
 * Endpoints over several rails. A rail that cannot be connected is done without, as long as another one can; a rail that
 * fails later ends the endpoint.
 */
#include "transport/verbs/rails.h"

#include "core/clock.h"
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Creation ---------------------------------------------------------------------------------------------------- */

static weir_status rail_create(struct rails_ep *ep, unsigned i, const void *list, unsigned peer_slot)
{
    size_t len;
    const void *part = wi_verbs_list_find(list, peer_slot, &len);
    struct weir_ep *rail;
    if (!part)
        return WEIR_OK;
    weir_status status = wi_verbs_ep_create(&ep->iface->rail[i]->base, part, len, &rail);
    if (status != WEIR_OK)
        return status;
    ep->rail[i] = verbs_ep(rail);
    rail->iface = &ep->iface->rail[i]->base;
    rail->ops = &wi_verbs_ops;
    ep->rail[i]->peer_slot = (uint8_t)peer_slot;
    return WEIR_OK;
}

static bool has_rail(const struct rails_ep *ep)
{
    for (unsigned i = 0; i < ep->iface->count; i++)
        if (ep->rail[i])
            return true;
    return false;
}

/* Rails lead to the peer's device at the same place of its list; where no place is common, first leads to first. */
weir_status wi_rails_ep_create(struct wi_iface *base, const void *address, size_t len, struct weir_ep **out)
{
    struct rails_iface *iface = rails_iface(base);
    if (!wi_verbs_list_check(address, len))
        return wi_error(WEIR_ERR_PROTOCOL, "the verbs part of its address is damaged or of another version; use one "
                                           "version of Weir on all ranks");
    struct rails_ep *ep = calloc(1, sizeof(*ep));
    if (!ep)
        return wi_error(WEIR_ERR_NO_MEMORY, "verbs: out of memory");
    ep->iface = iface;
    weir_status status = WEIR_OK;
    for (unsigned i = 0; i < iface->count && status == WEIR_OK; i++)
        status = rail_create(ep, i, address, iface->rail[i]->choice.slot);
    if (status == WEIR_OK && !has_rail(ep))
        status = rail_create(ep, 0, address, wi_verbs_list_first(address));
    ep->next = iface->eps;
    if (iface->eps)
        iface->eps->prev = ep;
    iface->eps = ep;
    if (status != WEIR_OK) {
        wi_rails_ep_close(&ep->base);
        return status;
    }
    uint32_t stream = iface->next_stream++;
    for (unsigned i = 0; i < iface->count; i++)
        if (ep->rail[i])
            ep->rail[i]->stream = stream;
    *out = &ep->base;
    return WEIR_OK;
}

void wi_rails_ep_query(const struct weir_ep *base, weir_ep_attr *attr)
{
    const struct rails_ep *ep = (const struct rails_ep *)base;
    attr->max_inline = base->ready ? ep->rail[ep->main]->max_inline : 0;
    attr->ordered_writes = base->ready && ep->used == 1u << ep->main && !ep->rail[ep->main]->relaxed;
    attr->native_signal = 1;
}

void wi_rails_ep_path(const struct weir_ep *base, char *text, size_t size)
{
    const struct rails_ep *ep = (const struct rails_ep *)base;
    size_t used = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < ep->iface->count && used + 3 < size; i++) {
        if (!(ep->used >> i & 1))
            continue;
        used += (size_t)snprintf(text + used, size - used, "%s", used ? "; " : "");
        wi_verbs_ep_path(&ep->rail[i]->base, text + used, size - used);
        used += strlen(text + used);
    }
}

/* ---- Connecting -------------------------------------------------------------------------------------------------- */

/* Does without a rail. The first error of all is kept for the case that none is left. */
static void drop_rail(struct rails_ep *ep, unsigned i, weir_status status, const char *why)
{
    struct verbs_ep *rail = ep->rail[i];
    if (rail->base.status != WEIR_OK)
        return;
    wi_ep_fail(&rail->base, status, "%s", why);
    wi_verbs_ep_abandon(rail);
}

weir_status wi_rails_ep_connect(struct weir_ep *base)
{
    struct rails_ep *ep = rails_ep(base);
    weir_status first = WEIR_OK, status;
    bool any = false;
    for (unsigned i = 0; i < ep->iface->count; i++) {
        struct verbs_ep *rail = ep->rail[i];
        if (!rail)
            continue;
        rail->base.peer_id = base->peer_id;
        status = wi_verbs_ep_connect(&rail->base);
        any = any || status == WEIR_OK;
        if (status == WEIR_OK)
            continue;
        char why[sizeof(rail->base.sentence)];
        snprintf(why, sizeof(why), "%s", weir_last_error());
        drop_rail(ep, i, status, why);
        first = first == WEIR_OK ? status : first;
    }
    if (!any)
        return first;
    ep->connecting = true;
    ep->iface->connecting++;
    return WEIR_OK;
}

static void connected_no_more(struct rails_ep *ep)
{
    ep->iface->connecting -= ep->connecting;
    ep->connecting = false;
}

/* Every rail is connected or is done without. */
static void connected(struct rails_ep *ep)
{
    connected_no_more(ep);
    ep->used = 0;
    for (unsigned i = ep->iface->count; i-- > 0;) {
        struct verbs_ep *rail = ep->rail[i];
        if (!rail)
            continue;
        if (rail->base.status == WEIR_OK && rail->base.ready) {
            ep->used |= 1u << i;
            ep->main = i;
            continue;
        }
        drop_rail(ep, i, WEIR_ERR_TIMEOUT, "it was not accepted in time");
        wi_warn("verbs: rank %llu is reached without %s: %s", (unsigned long long)ep->base.peer_id,
                rail->iface->base.device, rail->base.sentence);
    }
    ep->base.ready = true;
}

static void look_connecting(struct rails_ep *ep)
{
    unsigned ready = 0, open = 0;
    const struct verbs_ep *failed = NULL;
    for (unsigned i = 0; i < ep->iface->count; i++) {
        struct verbs_ep *rail = ep->rail[i];
        if (!rail)
            continue;
        if (rail->base.status != WEIR_OK)
            failed = failed ? failed : rail;
        else if (rail->base.ready)
            ready++;
        else
            open++;
    }
    if (ready > 0 && !ep->first_ns)
        ep->first_ns = wi_now_ns();
    if (ready > 0 && (open == 0 || wi_now_ns() - ep->first_ns > wi_config()->timeout_ns / 4))
        connected(ep);
    else if (ready == 0 && open == 0)
        wi_rails_ep_failed(ep, failed);
}

/* ---- End --------------------------------------------------------------------------------------------------------- */

weir_status wi_rails_ep_failed(struct rails_ep *ep, const struct verbs_ep *rail)
{
    connected_no_more(ep);
    const char *device = rail->iface->base.device; /* most sentences name it */
    bool named = strstr(rail->base.sentence, device);
    wi_ep_fail(&ep->base, rail->base.status, "%s%s%s", named ? "" : device, named ? "" : ": ", rail->base.sentence);
    for (unsigned i = 0; i < ep->iface->count; i++)
        if (ep->rail[i])
            drop_rail(ep, i, ep->base.status, ep->base.sentence);
    wi_rails_plans_end(ep, ep->base.status);
    return wi_error(ep->base.status, "%s", ep->base.sentence);
}

void wi_rails_eps_look(struct rails_iface *iface)
{
    for (struct rails_ep *ep = iface->eps; ep; ep = ep->next) {
        if (ep->connecting)
            look_connecting(ep);
        for (unsigned i = 0; i < iface->count && ep->base.ready && ep->base.status == WEIR_OK; i++)
            if (ep->used >> i & 1 && ep->rail[i]->base.status != WEIR_OK)
                wi_rails_ep_failed(ep, ep->rail[i]);
    }
}

weir_status wi_rails_ep_reset(struct weir_ep *base)
{
    struct rails_ep *ep = rails_ep(base);
    weir_status status = WEIR_OK;
    connected_no_more(ep);
    for (unsigned i = 0; i < ep->iface->count; i++) {
        struct verbs_ep *rail = ep->rail[i];
        if (!rail)
            continue;
        weir_status now = wi_verbs_ep_reset(&rail->base);
        status = status == WEIR_OK ? now : status;
        rail->base.status = WEIR_OK;
        rail->base.ready = false;
    }
    wi_rails_plans_end(ep, base->status);
    ep->used = ep->dirty = ep->behind = 0;
    ep->fence = (weir_comp)WEIR_COMP_INIT;
    ep->first_ns = 0;
    return status;
}

void wi_rails_ep_close(struct weir_ep *base)
{
    struct rails_ep *ep = rails_ep(base);
    connected_no_more(ep);
    for (unsigned i = 0; i < ep->iface->count; i++)
        if (ep->rail[i])
            wi_verbs_ep_close(&ep->rail[i]->base);
    wi_rails_plans_end(ep, WEIR_ERR_CANCELED);
    if (ep->next)
        ep->next->prev = ep->prev;
    if (ep->prev)
        ep->prev->next = ep->next;
    else
        ep->iface->eps = ep->next;
    free(ep);
}
