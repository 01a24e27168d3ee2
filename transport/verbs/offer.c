/*
 * Connecting through an exchange (the job's store) instead of the connection manager: both sides tell each other their
 * queue pairs, and set them up by hand.
 *
 * The initiator leaves an offer where the target looks: at the end of its device's queue.
 * The target answers under the offer's nonce, and the initiator says under it that it is up: until then it hears nothing,
 * so the target keeps quiet. What fails later is noticed by what is sent, and by keepalive: nobody tells of ends.
 *
 * An offer of queue pair 0 asks whether the target is there.
 */
#include "core/clock.h"
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

enum { OFFERS_PER_LOOK = 64 }; /* of each kind: taken, made, and those whose initiators are not up yet */

typedef char key_text[WEIR_EXCHANGE_KEY_MAX + 1];

/* `slot`: the device's place in the target's WEIR_DEVICE. Its devices have one cookie, but an offer is for one of them. */
static void queue_name(uint64_t cookie, unsigned slot, key_text name)
{
    snprintf(name, sizeof(key_text), "weir/verbs/%016llx/%u", (unsigned long long)cookie, slot);
}

/* A place in our own queue. */
static void offer_key(const struct verbs_iface *iface, uint32_t number, key_text key)
{
    snprintf(key, sizeof(key_text), "weir/verbs/%016llx/%u/%u", (unsigned long long)iface->choice.address.cookie,
             iface->choice.slot, number);
}

static void nonce_key(uint64_t nonce, const char *what, key_text key)
{
    snprintf(key, sizeof(key_text), "weir/verbs/%016llx/%s", (unsigned long long)nonce, what);
}

/* Stores a value whose fate its reader tells. */
static weir_status leave(struct verbs_iface *iface, const char *key, const void *value, size_t len)
{
    weir_status status = iface->exchange->put(iface->exchange->arg, key, value, len);
    if (status == WEIR_ERR_AGAIN) {
        iface->exchange->forget(iface->exchange->arg, key);
        status = WEIR_OK;
    }
    return status;
}

/* What the peer must know of a queue pair. `like`: the peer's path, for the same kind of address, or NULL. */
static weir_status own_path(struct verbs_iface *iface, const struct ibv_qp *qp, const struct wi_verbs_path *like,
                            struct wi_verbs_path *path)
{
    *path = (struct wi_verbs_path){
        .qp_num = qp->qp_num,
        .mtu = (uint8_t)iface->device.mtu,
        .reads = iface->device.max_reads,
        .served = iface->device.max_served,
    };
    if (getrandom(&path->psn, sizeof(path->psn), 0) != (ssize_t)sizeof(path->psn))
        return wi_error(WEIR_ERR_IO, "verbs: no random number: %s", strerror(errno));
    path->psn &= WI_VERBS_24_BITS;
    return wi_verbs_own_gid(iface, like, path);
}

/* ---- Initiator ----------------------------------------------------------------------------------------------------- */

static void begin(struct verbs_ep *ep)
{
    ep->offer = VERBS_OFFER_MADE;
    ep->offer_ns = wi_now_ns();
    wi_list_append(&ep->iface->offering, &ep->offering);
}

static void over(struct verbs_ep *ep)
{
    ep->offer = VERBS_OFFER_NONE;
    wi_list_remove(&ep->offering);
}

weir_status wi_verbs_offer(struct verbs_ep *ep)
{
    struct verbs_iface *iface = ep->iface;
    weir_status status = wi_verbs_usable(iface);
    if (status == WEIR_OK)
        status = own_path(iface, ep->end.qp, NULL, &ep->path);
    if (status != WEIR_OK)
        return status;
    if (getrandom(&ep->nonce, sizeof(ep->nonce), 0) != (ssize_t)sizeof(ep->nonce))
        return wi_error(WEIR_ERR_IO, "verbs: no random number: %s", strerror(errno));
    begin(ep);
    iface->look_now = true;
    return WEIR_OK;
}

/* An offer of no queue pair: the answer shows that somebody is there. */
void wi_verbs_offer_question(struct verbs_ep *ep)
{
    ep->path = (struct wi_verbs_path){.mtu = IBV_MTU_256};
    ep->nonce++;
    begin(ep);
}

static weir_status append_offer(struct verbs_ep *ep)
{
    const weir_exchange *exchange = ep->iface->exchange;
    struct wi_verbs_offer offer = {.nonce = ep->nonce, .path = ep->path};
    unsigned char value[WI_VERBS_OFFER_SIZE];
    key_text queue;
    wi_verbs_hello_of(ep, &offer.hello);
    wi_verbs_offer_encode(&offer, value);
    queue_name(ep->address.cookie, ep->peer_slot, queue);
    return exchange->append(exchange->arg, queue, value, sizeof(value));
}

static void take_answer(struct verbs_ep *ep, const unsigned char *value, size_t len)
{
    struct wi_verbs_offer_answer answer;
    char why[WI_VERBS_REFUSAL_MAX + 40];
    key_text key;
    over(ep);
    if (!wi_verbs_offer_answer_decode(value, len, &answer) || answer.nonce != ep->nonce ||
        (answer.accepted && answer.welcome.id != ep->base.peer_id)) {
        wi_verbs_connect_failed(ep, WEIR_ERR_PROTOCOL, "its answer in the store is damaged, or not that of this peer");
        return;
    }
    if (ep->suspect_ns) {
        wi_verbs_suspect_end(ep, true);
        return;
    }
    if (!answer.accepted) {
        snprintf(why, sizeof(why), "it refuses: %s", answer.refusal);
        wi_verbs_connect_failed(ep, WEIR_ERR_PEER_UNREACHABLE, why);
        return;
    }
    unsigned access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
    if (wi_verbs_qp_up_by_hand(ep->iface, &ep->end, access, ep->base.peer_id, &ep->path, &answer.path) != WEIR_OK) {
        snprintf(why, sizeof(why), "%.200s", weir_last_error());
        wi_verbs_connect_failed(ep, WEIR_ERR_IO, why);
        return;
    }
    nonce_key(ep->nonce, "up", key);
    (void)leave(ep->iface, key, "up", 2);
    wi_verbs_connected(ep, &answer.welcome);
}

static weir_status pursue(struct verbs_ep *ep)
{
    const weir_exchange *exchange = ep->iface->exchange;
    unsigned char value[WEIR_EXCHANGE_VALUE_MAX];
    size_t len = sizeof(value);
    key_text key;
    if (ep->offer == VERBS_OFFER_MADE) {
        weir_status status = append_offer(ep);
        if (status != WEIR_OK)
            return status;
        ep->offer = VERBS_OFFER_STORED;
    }
    nonce_key(ep->nonce, "answer", key);
    weir_status status = exchange->get(exchange->arg, key, value, &len);
    if (status == WEIR_OK)
        take_answer(ep, value, len);
    return status;
}

/* How long an answer is waited for: a little less than WEIR_TIMEOUT, so that who waits that long is told the reason. */
static uint64_t bound_ns(const struct verbs_ep *ep)
{
    uint64_t timeout_ns = wi_config()->timeout_ns;
    return ep->suspect_ns ? timeout_ns / 4 : timeout_ns - timeout_ns / 8;
}

static void offer_failed(struct verbs_ep *ep, weir_status status)
{
    char why[256];
    if (ep->suspect_ns) {
        wi_verbs_suspect_end(ep, false);
        return;
    }
    if (status == WEIR_ERR_AGAIN)
        snprintf(why, sizeof(why),
                 "it has not answered through the store for %.1f s: it is dead, or makes no progress (weir_progress)",
                 (double)bound_ns(ep) / 1e9);
    else
        snprintf(why, sizeof(why), "the store fails: %.200s", weir_last_error());
    wi_verbs_connect_failed(ep, status == WEIR_ERR_AGAIN ? WEIR_ERR_PEER_UNREACHABLE : status, why);
}

void wi_verbs_offer_end(struct verbs_ep *ep)
{
    key_text key;
    if (ep->offer == VERBS_OFFER_NONE)
        return;
    nonce_key(ep->nonce, "answer", key);
    if (ep->offer == VERBS_OFFER_STORED)
        ep->iface->exchange->forget(ep->iface->exchange->arg, key);
    over(ep);
}

/* ---- Target -------------------------------------------------------------------------------------------------------- */

static void answer_offer(struct verbs_iface *iface, const struct wi_verbs_offer_answer *answer)
{
    unsigned char value[WI_VERBS_OFFER_ANSWER_MAX];
    key_text key;
    nonce_key(answer->nonce, "answer", key);
    if (leave(iface, key, value, wi_verbs_offer_answer_encode(answer, value)) != WEIR_OK)
        wi_warn("verbs: an offer could not be answered: %s", weir_last_error());
}

static weir_status accept_offer(struct verbs_iface *iface, struct verbs_link *link, const struct wi_verbs_offer *offer,
                                struct wi_verbs_offer_answer *answer)
{
    weir_status status = own_path(iface, link->end.qp, &offer->path, &answer->path);
    if (status == WEIR_OK)
        status = wi_verbs_qp_up_by_hand(iface, &link->end, wi_verbs_link_access(iface), link->peer_id, &answer->path,
                                        &offer->path);
    if (status != WEIR_OK)
        return status;
    wi_verbs_link_ready(iface, link);
    answer->accepted = true;
    wi_verbs_welcome_of(iface, link, &answer->welcome);
    return WEIR_OK;
}

static void take_offer(struct verbs_iface *iface, const unsigned char *value, size_t len)
{
    struct wi_verbs_offer offer;
    struct verbs_link *link = NULL;
    if (!wi_verbs_offer_decode(value, len, &offer) || offer.hello.cookie != iface->choice.address.cookie) {
        wi_warn("verbs: an offer in the store is damaged, or not for this process; it is left alone");
        return;
    }
    struct wi_verbs_offer_answer answer = {.nonce = offer.nonce};
    if (offer.path.qp_num == 0) {
        answer_offer(iface, &answer);
        return;
    }
    weir_status status = wi_verbs_usable(iface);
    if (status == WEIR_OK)
        status = wi_verbs_link_create(iface, NULL, &offer.hello, &link);
    if (status == WEIR_OK)
        status = accept_offer(iface, link, &offer, &answer);
    if (status == WEIR_OK) {
        link->nonce = offer.nonce;
        link->offer_ns = wi_now_ns();
        wi_list_append(&iface->unheard, &link->unheard);
    } else {
        wi_warn("verbs: rank %llu could not be connected: %s", (unsigned long long)offer.hello.id, weir_last_error());
        snprintf(answer.refusal, sizeof(answer.refusal), "%.*s", WI_VERBS_REFUSAL_MAX, weir_last_error());
        if (link)
            wi_verbs_link_gone(iface, link);
    }
    answer_offer(iface, &answer);
}

void wi_verbs_offer_heard(struct verbs_iface *iface, struct verbs_link *link)
{
    key_text key;
    if (!link->nonce)
        return;
    nonce_key(link->nonce, "up", key);
    iface->exchange->forget(iface->exchange->arg, key);
    link->nonce = 0;
    wi_list_remove(&link->unheard);
}

/* Is the initiator up? One that never is has died: its link goes. */
static void look_for_word(struct verbs_iface *iface, struct verbs_link *link)
{
    char word[8];
    size_t len = sizeof(word);
    key_text key;
    nonce_key(link->nonce, "up", key);
    weir_status status = iface->exchange->get(iface->exchange->arg, key, word, &len);
    if (status == WEIR_ERR_AGAIN && wi_now_ns() - link->offer_ns < wi_config()->timeout_ns)
        return;
    wi_verbs_offer_heard(iface, link);
    link->established = status == WEIR_OK;
    if (link->established)
        return;
    wi_info("verbs: rank %llu wanted to connect, but never said that it is up", (unsigned long long)link->peer_id);
    wi_verbs_link_gone(iface, link);
}

/* ---- Both ---------------------------------------------------------------------------------------------------------- */

/* Looks at one place of the queue. WEIR_ERR_AGAIN: there is no offer yet. */
static weir_status look_at_offer(struct verbs_iface *iface, uint32_t number)
{
    unsigned char value[WEIR_EXCHANGE_VALUE_MAX];
    size_t len = sizeof(value);
    key_text key;
    offer_key(iface, number, key);
    weir_status status = iface->exchange->get(iface->exchange->arg, key, value, &len);
    if (status == WEIR_OK)
        take_offer(iface, value, len);
    return status == WEIR_ERR_RANGE ? WEIR_OK : status; /* no offer of ours is that long */
}

/* Several places are asked for ahead, so that many offers are not a round trip to the store each. */
static unsigned look_for_offers(struct verbs_iface *iface)
{
    unsigned count = 0;
    for (unsigned i = 0; i < WI_VERBS_OFFERS_AHEAD && count < OFFERS_PER_LOOK && !iface->exchange_over;) {
        weir_status status = WEIR_ERR_AGAIN;
        if (!(iface->offers_ahead >> i & 1))
            status = look_at_offer(iface, iface->offers_taken + i);
        if (status == WEIR_OK) {
            iface->offers_ahead |= 1u << i;
            count++;
        } else if (status != WEIR_ERR_AGAIN) {
            iface->exchange_over = true;
            wi_info("verbs: nobody can connect any more: %s", weir_last_error());
        }
        for (i++; iface->offers_ahead & 1; iface->offers_ahead >>= 1) {
            iface->offers_taken++;
            i -= i > 0;
        }
    }
    if (count == OFFERS_PER_LOOK)
        iface->look_now = true;
    return count;
}

/* Goes on with an endpoint's offer. Returns whether something has come of it. */
static bool go_on(struct verbs_ep *ep)
{
    weir_status status = pursue(ep);
    if (status != WEIR_OK && (status != WEIR_ERR_AGAIN || wi_now_ns() - ep->offer_ns > bound_ns(ep)))
        offer_failed(ep, status);
    return status == WEIR_OK;
}

/* So many at a time, in turn, that thousands do not hold up what is connected already. */
unsigned wi_verbs_offers_progress(struct verbs_iface *iface)
{
    unsigned count = look_for_offers(iface), made = 0;
    struct wi_list now;
    wi_list_take(&now, &iface->unheard);
    for (int i = 0; i < OFFERS_PER_LOOK && !wi_list_empty(&now); i++) {
        struct wi_list *first = now.next;
        wi_list_remove(first);
        wi_list_append(&iface->unheard, first);
        look_for_word(iface, WI_LIST_ITEM(first, struct verbs_link, unheard));
    }
    wi_list_put_first(&iface->unheard, &now);
    wi_list_take(&now, &iface->offering);
    for (int i = 0; i < OFFERS_PER_LOOK && !wi_list_empty(&now); i++) {
        struct wi_list *first = now.next;
        wi_list_remove(first);
        wi_list_append(&iface->offering, first);
        made += go_on(WI_LIST_ITEM(first, struct verbs_ep, offering));
    }
    wi_list_put_first(&iface->offering, &now);
    if (made > 0)
        iface->look_now = true;
    return count + made;
}

void wi_verbs_offers_close(struct verbs_iface *iface)
{
    for (unsigned i = 0; iface->exchange && i < WI_VERBS_OFFERS_AHEAD; i++) {
        key_text key;
        offer_key(iface, iface->offers_taken + i, key);
        iface->exchange->forget(iface->exchange->arg, key);
    }
}
