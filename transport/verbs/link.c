/* The target's side of connections, and the messages that arrive over them. */
#include "core/clock.h"
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FAILED_NS = 1000000000 }; /* how long a failed link is kept */

/* ---- Turns ---- */

/* Links take turns: one message each. A link is in the ring of turns while it has messages. */
static void turn_add(struct verbs_iface *iface, struct verbs_link *link)
{
    if (!iface->turn) {
        iface->turn = link->turn_next = link->turn_prev = link;
        return;
    }
    link->turn_next = iface->turn;
    link->turn_prev = iface->turn->turn_prev;
    link->turn_prev->turn_next = link;
    link->turn_next->turn_prev = link;
}

static void turn_remove(struct verbs_iface *iface, struct verbs_link *link)
{
    if (iface->turn == link)
        iface->turn = link->turn_next == link ? NULL : link->turn_next;
    link->turn_next->turn_prev = link->turn_prev;
    link->turn_prev->turn_next = link->turn_next;
}

/* ---- Links ------------------------------------------------------------------------------------------------------- */

static uint64_t hash_of_stream(const struct verbs_link *link)
{
    return wi_map_hash(link->from, link->stream);
}

/* Of the links by stream: the first one, or the next one after `node`, of the same endpoint as `link`. */
static struct verbs_link *of_stream(const struct verbs_iface *iface, const struct verbs_link *link,
                                    const struct wi_map_node *node)
{
    const struct wi_map_node *at =
        node ? wi_map_next(node) : wi_map_first(&iface->links_by_stream, hash_of_stream(link));
    for (; at; at = wi_map_next(at)) {
        struct verbs_link *other = WI_MAP_ITEM(at, struct verbs_link, of_stream);
        if (other->from == link->from && other->stream == link->stream)
            return other;
    }
    return NULL;
}

/* The link has gone: what waited for it moves up. */
static void move_up(struct verbs_iface *iface, const struct verbs_link *link)
{
    iface->followers -= link->after != NULL;
    struct verbs_link *other = iface->followers ? of_stream(iface, link, NULL) : NULL;
    for (; other; other = of_stream(iface, link, &other->of_stream)) {
        if (other->after != link)
            continue;
        other->after = link->after;
        iface->followers -= other->after == NULL;
        if (!other->after && other->arrived > 0)
            turn_add(iface, other);
    }
}

static void link_free(struct verbs_iface *iface, struct verbs_link *link)
{
    move_up(iface, link);
    if (iface->fences)
        wi_verbs_fence_leave(iface->fences, link);
    wi_list_remove(&link->all);
    wi_map_remove(&iface->links_by_stream, &link->of_stream);
    iface->link_count--;
    wi_verbs_block_destroy(link->ring, WI_VERBS_LINK_BYTES, link->ring_mr);
    free(link);
}

struct verbs_link *wi_verbs_link_find(struct verbs_iface *iface, uint32_t qp_num)
{
    struct verbs_link *link = iface->link_last;
    if (link && link->qp_num == qp_num)
        return link;
    struct wi_map_node *node = wi_map_first(&iface->links_by_qp, wi_map_hash(qp_num, 0));
    if (!node)
        return NULL;
    iface->link_last = WI_MAP_ITEM(node, struct verbs_link, by_qp); /* one number, one hash */
    return iface->link_last;
}

static void unhash(struct verbs_iface *iface, struct verbs_link *link)
{
    wi_map_remove(&iface->links_by_qp, &link->by_qp);
    if (iface->link_last == link)
        iface->link_last = NULL;
}

static weir_status create_qp(struct verbs_iface *iface, struct verbs_link *link)
{
    struct ibv_qp_init_attr attr = {
        .qp_context = &link->end,
        .send_cq = iface->device.cq,
        .recv_cq = iface->device.cq,
        .srq = iface->device.srq,
        .cap = {.max_send_wr = WI_VERBS_REPLY_DEPTH, .max_send_sge = 1, .max_inline_data = 2 * sizeof(uint64_t)},
        .qp_type = IBV_QPT_RC,
    };
    link->end.qp = ibv_create_qp(iface->device.pd, &attr);
    if (link->end.qp)
        return WEIR_OK;
    return wi_error(WEIR_ERR_LIMIT, "connection from rank %llu: no queue pair: %s", (unsigned long long)link->peer_id,
                    strerror(errno));
}

/*
 * An initiator that connects again has lost its earlier connections: they end here too before the next one carries
 * anything, so that no write over them comes late. The new link's messages wait until theirs were taken.
 */
static void end_earlier(struct verbs_iface *iface, struct verbs_link *link)
{
    struct verbs_link *other = of_stream(iface, link, NULL), *next;
    for (; other; other = next) {
        next = of_stream(iface, link, &other->of_stream);
        if (other->end.qp)
            wi_verbs_link_gone(iface, other);
    }
    for (other = of_stream(iface, link, NULL); other; other = of_stream(iface, link, &other->of_stream))
        if (!link->after || other->again > link->after->again)
            link->after = other;
    iface->followers += link->after != NULL;
}

weir_status wi_verbs_link_create(struct verbs_iface *iface, struct rdma_cm_id *id, const struct wi_verbs_hello *hello,
                                 struct verbs_link **out)
{
    uint64_t peer_id = hello->id;
    struct verbs_link *link = calloc(1, sizeof(*link));
    if (!link)
        return wi_error(WEIR_ERR_NO_MEMORY, "connection from rank %llu: out of memory", (unsigned long long)peer_id);
    link->end.kind = VERBS_LINK;
    wi_list_init(&link->unheard);
    link->peer_id = peer_id;
    link->from = hello->from;
    link->stream = hello->stream;
    link->again = hello->again;
    link->words_addr = hello->words_addr;
    link->words_rkey = hello->words_rkey;
    link->serial = iface->link_serial++ & 0x7fffffff;
    int read = wi_config()->verbs_relaxed == WI_VERBS_RELAXED_ON ? IBV_ACCESS_REMOTE_READ : 0; /* by its flushes */
    weir_status status =
        wi_verbs_block_create(iface, WI_VERBS_LINK_BYTES, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | read,
                              "connection's message ring", &link->ring, &link->ring_mr);
    if (status != WEIR_OK)
        goto fail_link;
    if (iface->fences && (status = wi_verbs_fence_join(iface->fences, link)) != WEIR_OK)
        goto fail_ring;
    if ((status = create_qp(iface, link)) != WEIR_OK)
        goto fail_fence;
    wi_verbs_credit_open(iface, link);
    link->end.id = id;
    if (id)
        id->context = &link->end;
    if (link->again > 0)
        end_earlier(iface, link);
    wi_list_append(&iface->links, &link->all);
    wi_map_add(&iface->links_by_stream, &link->of_stream, hash_of_stream(link));
    iface->link_count++;
    *out = link;
    return WEIR_OK;

fail_fence:
    if (iface->fences)
        wi_verbs_fence_leave(iface->fences, link);
fail_ring:
    wi_verbs_block_destroy(link->ring, WI_VERBS_LINK_BYTES, link->ring_mr);
fail_link:
    free(link);
    return status;
}

void wi_verbs_link_ready(struct verbs_iface *iface, struct verbs_link *link)
{
    link->qp_num = link->end.qp->qp_num;
    wi_map_add(&iface->links_by_qp, &link->by_qp, wi_map_hash(link->qp_num, 0));
}

/* What came before counts: the queue pair takes nothing more, then what it has reported is seen to. */
void wi_verbs_link_gone(struct verbs_iface *iface, struct verbs_link *link)
{
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
    wi_verbs_offer_heard(iface, link);
    ibv_modify_qp(link->end.qp, &attr, IBV_QP_STATE);
    wi_verbs_drain(iface);
    unhash(iface, link);
    wi_verbs_windows_end(link);
    wi_verbs_end(&link->end);
    wi_verbs_credit_close(iface, link);
    iface->cq_owed += link->replies_posted - link->replies_done;
    link->replies_done = link->replies_posted;
    if (link->failed)
        iface->links_failed--;
    link->failed = false;
    if (link->arrived == 0)
        link_free(iface, link);
}

/*
 * Not at once: a device that refused an access has ended the connection as well, and the initiator takes its end for
 * that of the process when it comes soon after; see completion.c.
 */
void wi_verbs_links_end_failed(struct verbs_iface *iface)
{
    for (struct wi_list *at = iface->links.next, *next; at != &iface->links && iface->links_failed > 0; at = next) {
        struct verbs_link *link = WI_LIST_ITEM(at, struct verbs_link, all);
        next = at->next;
        if (link->failed && wi_now_ns() - link->failed_ns > FAILED_NS)
            wi_verbs_link_gone(iface, link);
    }
}

void wi_verbs_links_free(struct verbs_iface *iface)
{
    while (!wi_list_empty(&iface->links)) {
        struct verbs_link *link = WI_LIST_ITEM(iface->links.next, struct verbs_link, all);
        wi_verbs_windows_end(link);
        wi_verbs_end(&link->end);
        link_free(iface, link);
    }
}

/* ---- Messages ---------------------------------------------------------------------------------------------------- */

void wi_verbs_link_message(struct verbs_iface *iface, struct verbs_link *link)
{
    if (link->arrived++ == 0 && !link->after)
        turn_add(iface, link);
}

/* What the peer wrote into the ring made no sense: its messages are over. */
static void broken(struct verbs_iface *iface, struct verbs_link *link, uint32_t len)
{
    wi_warn("verbs: rank %llu sent a message of %u bytes; its connection is closed", (unsigned long long)link->peer_id,
            len);
    unhash(iface, link); /* nothing more arrives */
    turn_remove(iface, link);
    link->arrived = 0;
    wi_verbs_link_gone(iface, link);
}

/* The message is copied out of the ring, where the peer could still change it. */
struct wi_msg *wi_verbs_msg_peek(struct wi_iface *base)
{
    struct verbs_iface *iface = verbs_iface(base);
    while (!iface->peeked && iface->turn) {
        struct verbs_link *link = iface->turn;
        const unsigned char *entry = link->ring + wi_verbs_ring_offset(link->position);
        uint32_t len = le32toh(__atomic_load_n((const uint32_t *)(const void *)entry, __ATOMIC_RELAXED));
        if (len > WEIR_MSG_MAX) {
            broken(iface, link, len);
            continue;
        }
        iface->msg->peer_id = link->peer_id;
        iface->msg->len = len;
        memcpy(iface->msg->data, entry + WI_VERBS_ENTRY_HEADER, len);
        iface->peeked = link;
    }
    return iface->peeked ? iface->msg : NULL;
}

void wi_verbs_msg_pop(struct wi_iface *base)
{
    struct verbs_iface *iface = verbs_iface(base);
    struct verbs_link *link = iface->peeked;
    iface->peeked = NULL;
    iface->turn = link->turn_next;
    link->position = wi_verbs_ring_next(link->position, iface->msg->len);
    wi_verbs_credit_taken(iface, link);
    if (iface->owing)
        wi_verbs_settle(iface);
    if (--link->arrived > 0)
        return;
    turn_remove(iface, link);
    if (!link->end.qp)
        link_free(iface, link);
}
