/* Slots (operations under way) and links (UCP endpoints), and how both end: once, whatever UCX does. */
#include "core/clock.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/ucx/ucx.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BUFFERS     256u
#define BUFFER_SIZE (WEIR_MSG_MAX + 64u)

/* ---- Slots ---- */

weir_status wi_ucx_pools_init(struct wi_ucx_iface *iface)
{
    iface->slots = calloc(WI_UCX_SLOTS, sizeof(*iface->slots));
    iface->buffers = malloc((size_t)BUFFERS * BUFFER_SIZE);
    if (!iface->slots || !iface->buffers)
        return wi_error(WEIR_ERR_NO_MEMORY, "UCX: out of memory for %u operations", WI_UCX_SLOTS);
    for (unsigned i = WI_UCX_SLOTS; i-- > 0;) {
        iface->slots[i].iface = iface;
        wi_ucx_slot_put(&iface->slots[i]);
    }
    for (unsigned i = BUFFERS; i-- > 0;) {
        unsigned char *buffer = iface->buffers + (size_t)i * BUFFER_SIZE;
        memcpy(buffer, &iface->buffer_free, sizeof(iface->buffer_free));
        iface->buffer_free = buffer;
    }
    return WEIR_OK;
}

void wi_ucx_pools_fini(struct wi_ucx_iface *iface)
{
    free(iface->slots);
    free(iface->buffers);
}

/* NULL: all are in use. */
struct wi_ucx_slot *wi_ucx_slot_get(struct wi_ucx_link *link, weir_comp *comp)
{
    struct wi_ucx_iface *iface = link->iface;
    if (!iface->slot_free)
        return NULL;
    struct wi_ucx_slot *slot = (struct wi_ucx_slot *)(void *)iface->slot_free;
    iface->slot_free = slot->node.next;
    iface->slot_free_count--;
    slot->link = link;
    slot->comp = comp;
    slot->status = WEIR_OK;
    slot->counted = slot->posted = false;
    slot->id = 0;
    slot->pieces = 0;
    slot->payload = NULL;
    slot->whole = NULL;
    wi_list_append(&link->slots, &slot->node);
    return slot;
}

/* Gives back a slot that is in no list. */
void wi_ucx_slot_put(struct wi_ucx_slot *slot)
{
    struct wi_ucx_iface *iface = slot->iface;
    if (slot->buffer) {
        memcpy(slot->buffer, &iface->buffer_free, sizeof(iface->buffer_free));
        iface->buffer_free = slot->buffer;
        slot->buffer = NULL;
    }
    slot->link = NULL;
    slot->posted = false;
    slot->node.next = iface->slot_free;
    iface->slot_free = &slot->node;
    iface->slot_free_count++;
}

/* From now on the comp waits for it. */
void wi_ucx_slot_count(struct wi_ucx_slot *slot)
{
    slot->counted = true;
    wi_comp_start(slot->comp);
}

/* A piece of a put or of an answer is sent: more may follow, the whole may be over. */
static void piece_end(struct wi_ucx_link *link, struct wi_ucx_slot *whole, weir_status status)
{
    if (!link->initiator) {
        WI_UCX_CONTAINER(link, struct wi_ucx_conn, link)->pieces--;
        wi_ucx_todo(link);
        return;
    }
    whole->pieces--;
    if (status != WEIR_OK)
        whole->status = status;
    if (whole->moved < whole->len)
        wi_ucx_todo(link);
    else if (whole->pieces == 0)
        wi_ucx_slot_end(whole, whole->status);
}

/* The operation is over: tells its owner. An operation that was lost with its link has the link's status. */
void wi_ucx_slot_end(struct wi_ucx_slot *slot, weir_status status)
{
    struct wi_ucx_link *link = slot->link;
    struct wi_ucx_slot *whole = slot->whole;
    bool piece = whole || (!link->initiator && slot->id == WI_UCX_AM_DATA);
    if (status != WEIR_OK && link->status != WEIR_OK)
        status = link->status;
    wi_list_remove(&slot->node);
    if (slot->counted)
        wi_comp_end(slot->comp, status);
    wi_ucx_slot_put(slot);
    if (piece)
        piece_end(link, whole, status);
    if (link->status != WEIR_OK && wi_list_empty(&link->slots))
        wi_ucx_todo(link);
}

/* UCX calls back: `arg` is the slot. */
void wi_ucx_slot_done(void *request, ucs_status_t status, void *arg)
{
    struct wi_ucx_slot *slot = arg;
    ucp_request_free(request);
    slot->posted = false;
    if (slot->link)
        wi_ucx_slot_end(slot, wi_ucx_status(status));
    else
        wi_ucx_slot_put(slot);
}

/*
 * What UCX said to a nonblocking call: done at once, refused, or under way. An error is returned, and where the comp
 * counted the operation before, told there as well.
 */
weir_status wi_ucx_slot_started(struct wi_ucx_slot *slot, ucs_status_ptr_t result, const char *what)
{
    if (UCS_PTR_IS_PTR(result)) {
        slot->posted = true;
        if (!slot->counted)
            wi_ucx_slot_count(slot);
        return WEIR_OK;
    }
    ucs_status_t status = UCS_PTR_STATUS(result);
    struct wi_ucx_link *link = slot->link;
    wi_ucx_slot_end(slot, wi_ucx_status(status));
    if (__builtin_expect(status == UCS_OK, 1))
        return WEIR_OK;
    if (wi_ucx_status(status) == WEIR_ERR_PEER_GONE) /* UCX's error handler may come later */
        wi_ucx_link_end(link, WEIR_ERR_PEER_GONE, status);
    if (status == UCS_ERR_NO_RESOURCE)
        return WEIR_ERR_AGAIN;
    weir_status ours = wi_ucx_error(status, what);
    return link->initiator
               ? wi_error_prefix(ours, "rank %llu",
                                 (unsigned long long)WI_UCX_CONTAINER(link, struct wi_ucx_ep, link)->base.peer_id)
               : ours;
}

/* ---- Links ---- */

/* Twice as many places; the new ones are free, in order. */
static weir_status table_grow(struct wi_ucx_table *table)
{
    uint32_t size = table->size ? table->size * 2 : 64;
    if (size > WI_UCX_TABLE_MAX)
        return wi_error(WEIR_ERR_LIMIT, "UCX: more than %u connections or exported ranges", WI_UCX_TABLE_MAX);
    struct wi_ucx_entry *entries = realloc(table->entries, size * sizeof(*entries));
    if (!entries)
        return wi_error(WEIR_ERR_NO_MEMORY, "UCX: out of memory for %u connections or exported ranges", size);
    for (uint32_t at = table->size; at < size; at++)
        entries[at] = (struct wi_ucx_entry){.number = at + 1};
    table->entries = entries;
    table->free = table->size;
    table->size = size;
    return WEIR_OK;
}

weir_status wi_ucx_table_enter(struct wi_ucx_table *table, void *object, uint64_t *number)
{
    uint64_t random;
    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return wi_error(WEIR_ERR_IO, "UCX: no random number: %s", strerror(errno));
    weir_status status = table->free == table->size ? table_grow(table) : WEIR_OK;
    if (status != WEIR_OK)
        return status;
    uint32_t at = table->free;
    table->free = (uint32_t)table->entries[at].number;
    *number = (random & ~(uint64_t)(WI_UCX_TABLE_MAX - 1)) | at;
    table->entries[at] = (struct wi_ucx_entry){*number, object};
    return WEIR_OK;
}

void wi_ucx_table_remove(struct wi_ucx_table *table, uint64_t number)
{
    uint32_t at = number % WI_UCX_TABLE_MAX;
    table->entries[at] = (struct wi_ucx_entry){.number = table->free};
    table->free = at;
}

/* NULL: no such object, or no more. Numbers come from peers. */
void *wi_ucx_table_find(const struct wi_ucx_table *table, uint64_t number)
{
    uint32_t at = number % WI_UCX_TABLE_MAX;
    return at < table->size && table->entries[at].number == number ? table->entries[at].object : NULL;
}

weir_status wi_ucx_link_init(struct wi_ucx_link *link, struct wi_ucx_iface *iface, bool initiator)
{
    link->iface = iface;
    link->initiator = initiator;
    wi_list_init(&link->slots);
    wi_list_init(&link->todo);
    wi_list_init(&link->clock);
    weir_status status = wi_ucx_table_enter(&iface->tokens, link, &link->token);
    if (status == WEIR_OK)
        wi_list_append(&iface->links, &link->node);
    return status;
}

/* Gives the link another token. On failure it keeps the one it has. */
weir_status wi_ucx_link_rename(struct wi_ucx_link *link)
{
    uint64_t token;
    weir_status status = wi_ucx_table_enter(&link->iface->tokens, link, &token);
    if (status != WEIR_OK)
        return status;
    wi_ucx_table_remove(&link->iface->tokens, link->token);
    link->token = token;
    return WEIR_OK;
}

/* Takes a closed link out of the interface. */
void wi_ucx_link_fini(struct wi_ucx_link *link)
{
    wi_list_remove(&link->todo);
    wi_list_remove(&link->clock);
    wi_list_remove(&link->node);
    wi_ucx_table_remove(&link->iface->tokens, link->token);
}

/* The link that a peer's message names, if there is one of that kind. */
struct wi_ucx_link *wi_ucx_link_find(struct wi_ucx_iface *iface, uint64_t token, bool initiator)
{
    struct wi_ucx_link *link = wi_ucx_table_find(&iface->tokens, token);
    return link && link->initiator == initiator ? link : NULL;
}

void wi_ucx_todo(struct wi_ucx_link *link)
{
    if (wi_list_empty(&link->todo))
        wi_list_append(&link->iface->todo, &link->todo);
}

void wi_ucx_clock(struct wi_ucx_link *link)
{
    if (wi_list_empty(&link->clock))
        wi_list_append(&link->iface->clocked, &link->clock);
}

/* The first cause counts. UCX's endpoint is closed later, outside of its callbacks. */
void wi_ucx_link_end(struct wi_ucx_link *link, weir_status status, ucs_status_t cause)
{
    if (link->status != WEIR_OK)
        return;
    link->status = status;
    link->cause = cause;
    link->ended_ns = wi_now_ns();
    wi_ucx_clock(link);
    wi_ucx_todo(link);
}

static void closed(void *request, ucs_status_t status, void *arg)
{
    (void)status, (void)arg;
    ucp_request_free(request);
}

/* Closes UCX's endpoint without waiting for the peer; what is posted on it ends in UCX's next progress. */
void wi_ucx_link_close(struct wi_ucx_link *link)
{
    if (!link->ucp)
        return;
    ucp_request_param_t params = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK,
        .flags = UCP_EP_CLOSE_FLAG_FORCE,
        .cb.send = closed,
    };
    ucp_ep_close_nbx(link->ucp, &params);
    link->ucp = NULL;
}

/* Ends operations that UCX did not give back: it may still do so later, then nobody waits for them. */
void wi_ucx_link_abandon(struct wi_ucx_link *link, weir_status status)
{
    for (struct wi_list *node = link->slots.next; node != &link->slots; node = node->next)
        ((struct wi_ucx_slot *)(void *)node)->whole = NULL; /* which ends with them */
    while (!wi_list_empty(&link->slots)) {
        struct wi_ucx_slot *slot = (struct wi_ucx_slot *)(void *)link->slots.next;
        if (!slot->posted) {
            wi_ucx_slot_end(slot, status);
            continue;
        }
        wi_debug("UCX keeps an operation of a closed endpoint");
        wi_list_remove(&slot->node);
        wi_comp_end(slot->comp, link->status != WEIR_OK ? link->status : status);
        slot->link = NULL;
    }
}
