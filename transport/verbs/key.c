/*
 * Keys of peers' memory, for the initiator's side. A key of a whole region is ready at once. One that is a window is
 * asked for as soon as the endpoint is connected, through one of its request slots, and operations that use it wait
 * until the target has granted it. Windows belong to one connection: when that is over, they are asked for anew over
 * the next one.
 */
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <stdlib.h>

/* ---- What is to be asked for ------------------------------------------------------------------------------------- */

static void ep_asks(struct verbs_ep *ep)
{
    if (ep->asking || !ep->base.ready || !ep->end.qp)
        return; /* nothing to do until it is connected */
    ep->asking = true;
    ep->asking_next = ep->iface->asking;
    ep->iface->asking = ep;
}

static void ep_asks_no_more(struct verbs_ep *ep)
{
    struct verbs_ep **at = &ep->iface->asking;
    while (*at && *at != ep)
        at = &(*at)->asking_next;
    if (*at)
        *at = ep->asking_next;
    ep->asking = false;
}

static void todo_add(struct verbs_ep *ep, struct verbs_rkey *key)
{
    key->todo_next = NULL;
    *ep->todo_end = key;
    ep->todo_end = &key->todo_next;
    ep_asks(ep);
}

static struct verbs_rkey *todo_take(struct verbs_ep *ep)
{
    struct verbs_rkey *key = ep->todo;
    ep->todo = key->todo_next;
    if (!ep->todo)
        ep->todo_end = &ep->todo;
    return key;
}

static void todo_remove(struct verbs_ep *ep, const struct verbs_rkey *key)
{
    struct verbs_rkey **at = &ep->todo;
    while (*at && *at != key)
        at = &(*at)->todo_next;
    if (!*at)
        return;
    *at = key->todo_next;
    if (!*at)
        ep->todo_end = at;
}

static void key_free(struct verbs_ep *ep, struct verbs_rkey *key)
{
    if (key->window) {
        if (key->next)
            key->next->prev = key->prev;
        if (key->prev)
            key->prev->next = key->next;
        else
            ep->keys = key->next;
    }
    free(key);
}

/* ---- Requests and answers ---------------------------------------------------------------------------------------- */

static bool request(struct verbs_ep *ep, unsigned slot, struct verbs_rkey *key)
{
    struct wi_verbs_request request = {
        .kind = key->state == VERBS_KEY_NEW ? WI_VERBS_ASK_WINDOW : WI_VERBS_GIVE_WINDOW,
        .rkey = key->rkey,
        .region = key->region,
        .addr = key->addr,
        .len = key->len,
        .token = {key->token[0], key->token[1]},
    };
    request.sequence = ++ep->sequence ? ep->sequence : ++ep->sequence;
    __atomic_store_n(wi_verbs_word(ep, WI_VERBS_WORD_ANSWERS + slot), 0, __ATOMIC_RELAXED); /* the last answer */
    if (wi_verbs_request(ep, slot, &request) != WEIR_OK)
        return false;
    if (!ep->end.qp)
        return true; /* that has failed, and ended the connection with all its keys */
    ep->requests[slot] = key;
    ep->sequences[slot] = request.sequence;
    ep->requested++;
    if (key->state == VERBS_KEY_NEW)
        key->state = VERBS_KEY_ASKED;
    return true;
}

static void answered(struct verbs_ep *ep, struct verbs_rkey *key, const struct wi_verbs_answer *answer)
{
    bool granted = answer->status == WI_VERBS_GRANTED;
    if (key->state == VERBS_KEY_ASKED) {
        key->state = granted ? VERBS_KEY_READY : VERBS_KEY_REFUSED;
        key->rkey = answer->rkey;
        key->answer = answer->status;
    } else if (key->rkey == 0 && granted && answer->rkey != 0) {
        key->rkey = answer->rkey; /* it was destroyed before the answer came: now it can be given back */
        todo_add(ep, key);
    } else {
        key_free(ep, key);
    }
}

static void take_answers(struct verbs_ep *ep)
{
    for (unsigned slot = 0; slot < WI_VERBS_REQUESTS; slot++) {
        struct verbs_rkey *key = ep->requests[slot];
        if (!key)
            continue;
        struct wi_verbs_answer answer;
        wi_verbs_answer_decode(__atomic_load_n(wi_verbs_word(ep, WI_VERBS_WORD_ANSWERS + slot), __ATOMIC_ACQUIRE),
                               &answer);
        if (answer.sequence != ep->sequences[slot])
            continue;
        ep->requests[slot] = NULL;
        ep->requested--;
        answered(ep, key, &answer);
    }
}

static void ask(struct verbs_ep *ep)
{
    for (unsigned slot = 0; ep->todo && ep->end.qp && slot < WI_VERBS_REQUESTS; slot++) {
        if (ep->requests[slot])
            continue;
        struct verbs_rkey *key = todo_take(ep);
        if (request(ep, slot, key))
            continue;
        key->todo_next = ep->todo; /* no room now: first in line again */
        if (!ep->todo)
            ep->todo_end = &key->todo_next;
        ep->todo = key;
        return;
    }
}

void wi_verbs_keys_progress(struct verbs_iface *iface)
{
    struct verbs_ep *next;
    for (struct verbs_ep *ep = iface->asking; ep; ep = next) {
        next = ep->asking_next;
        if (ep->requested)
            take_answers(ep);
        if (ep->todo)
            ask(ep);
        if (!ep->todo && !ep->requested)
            ep_asks_no_more(ep);
    }
}

void wi_verbs_keys_begin(struct verbs_ep *ep)
{
    if (ep->todo)
        ep_asks(ep);
}

void wi_verbs_keys_end(struct verbs_ep *ep)
{
    struct verbs_rkey *next;
    ep->todo = NULL;
    ep->todo_end = &ep->todo;
    ep->requested = 0;
    for (unsigned slot = 0; slot < WI_VERBS_REQUESTS; slot++)
        ep->requests[slot] = NULL;
    ep_asks_no_more(ep);
    for (struct verbs_rkey *key = ep->keys; key; key = next) {
        next = key->next;
        if (key->state == VERBS_KEY_GIVEN_UP) {
            key_free(ep, key);
            continue;
        }
        key->state = VERBS_KEY_NEW;
        key->rkey = 0;
        todo_add(ep, key);
    }
}

/* ---- Keys -------------------------------------------------------------------------------------------------------- */

weir_status wi_verbs_rkey_import(struct weir_ep *base, const void *blob, size_t blob_len, uint64_t addr, uint64_t len,
                                 struct weir_rkey **out)
{
    struct verbs_ep *ep = verbs_ep(base);
    struct wi_verbs_key wire;
    if (!wi_verbs_key_decode(blob, blob_len, &wire))
        return wi_error(WEIR_ERR_KEY, "key of rank %llu: its verbs part of %zu bytes makes no sense",
                        (unsigned long long)base->peer_id, blob_len);
    struct verbs_rkey *key = calloc(1, sizeof(*key));
    if (!key)
        return wi_error(WEIR_ERR_NO_MEMORY, "key of rank %llu: out of memory", (unsigned long long)base->peer_id);
    wire.window = wire.window && len > 0; /* nothing is reached through a key of nothing */
    *key = (struct verbs_rkey){
        .state = wire.window ? VERBS_KEY_NEW : VERBS_KEY_READY,
        .rkey = wire.window ? 0 : wire.rkey,
        .window = wire.window,
        .region = wire.region,
        .addr = addr,
        .len = len,
        .token = {wire.token[0], wire.token[1]},
    };
    *out = &key->base;
    if (!wire.window)
        return WEIR_OK;
    key->next = ep->keys;
    if (ep->keys)
        ep->keys->prev = key;
    ep->keys = key;
    todo_add(ep, key);
    if (ep->asking)
        ask(ep);
    return WEIR_OK;
}

/* A window is given back; until that is done the key is kept. Without a connection there is nothing to give back. */
void wi_verbs_rkey_destroy(struct weir_rkey *rkey)
{
    struct verbs_rkey *key = (struct verbs_rkey *)rkey;
    struct verbs_ep *ep = verbs_ep(rkey->ep);
    if (key->state == VERBS_KEY_ASKED) {
        key->state = VERBS_KEY_GIVEN_UP; /* the answer is still to come */
        return;
    }
    if (key->state == VERBS_KEY_NEW)
        todo_remove(ep, key);
    if (!key->window || key->state != VERBS_KEY_READY) {
        key_free(ep, key);
        return;
    }
    key->state = VERBS_KEY_GIVEN_UP;
    todo_add(ep, key);
    if (ep->asking)
        ask(ep);
}

weir_status wi_verbs_key_pending(struct verbs_ep *ep, const struct verbs_rkey *key)
{
    unsigned long long peer = ep->base.peer_id;
    if (key->state != VERBS_KEY_REFUSED)
        return WEIR_ERR_AGAIN;
    if (key->answer == WI_VERBS_NO_WINDOWS_LEFT)
        return wi_error(WEIR_ERR_LIMIT,
                        "rank %llu has no memory window left for this key; destroy keys that are not in use, or set "
                        "WEIR_VERBS_WINDOWS=off on all ranks",
                        peer);
    return wi_error(WEIR_ERR_KEY,
                    "rank %llu grants no access with this key: it has not exported such memory, or the memory was "
                    "deregistered",
                    peer);
}
