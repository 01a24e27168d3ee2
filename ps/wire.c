/* Checks of all that comes from the other side. */
#include "ps/wire.h"

#include <math.h>
#include <string.h>

static bool has_gradient(uint8_t op)
{
    return op == WI_PS_PUSH || op == WI_PS_PUSH_PULL || op == WI_PS_INIT;
}

/* Frames that name a range of a table. */
static const char *check_part(const struct wi_ps_request *request)
{
    if (request->part_count == 0)
        return "an empty part";
    if (request->part_first >= WI_PS_COUNT_MAX || request->part_count > WI_PS_COUNT_MAX - request->part_first)
        return "a part beyond the longest table";
    if (!has_gradient(request->op))
        return request->payload == 0 && request->offset == 0 ? NULL : "a pull with a payload";
    if (request->payload == 0 || request->payload % sizeof(float) != 0)
        return "a payload that is not whole elements";
    if (request->offset >= request->part_count ||
        request->payload / sizeof(float) > request->part_count - request->offset)
        return "a payload that passes the end of its part";
    return NULL;
}

const char *wi_ps_request_check(const struct wi_ps_request *request, uint64_t position, uint64_t ring_size)
{
    if (request->magic != WI_PS_MAGIC || request->version != WI_PS_VERSION)
        return "no frame of this version";
    if (request->position != position)
        return "a frame that belongs elsewhere in the ring";
    uint64_t room = ring_size - position % ring_size - WI_PS_LINE;
    if (request->payload > room)
        return "a payload that passes the end of the ring";
    switch (request->op) {
    case WI_PS_PAD:
        return request->payload == room ? NULL : "padding that does not end with the ring";
    case WI_PS_OPEN:
        return request->payload == sizeof(struct wi_ps_open) ? NULL : "an opening of the wrong length";
    case WI_PS_KEY:
        if (request->key >= WI_PS_KEYS_MAX)
            return "a key number out of range";
        return request->payload > 0 && request->payload <= WEIR_RKEY_MAX ? NULL : "a key of the wrong length";
    case WI_PS_PULL:
    case WI_PS_PUSH_PULL:
        if (request->key >= WI_PS_KEYS_MAX)
            return "a key number out of range";
        return check_part(request);
    case WI_PS_INIT:
    case WI_PS_PUSH:
        return check_part(request);
    case WI_PS_BARRIER:
    case WI_PS_BYE:
        return request->payload == 0 ? NULL : "a payload where there is none";
    default:
        return "an unknown operation";
    }
}

const char *wi_ps_open_check(const struct wi_ps_open *open, uint32_t workers, uint32_t servers)
{
    if (!memchr(open->name, 0, sizeof(open->name)) || open->name[0] == 0)
        return "a table name that is empty or has no end";
    if (open->count == 0 || open->count > WI_PS_COUNT_MAX)
        return "a table length out of range";
    if (open->shards == 0 || open->shards > 65536 || (open->shards & (open->shards - 1)) != 0)
        return "a number of shards that is no power of two up to 65536";
    if (open->consistency > WEIR_PS_BSP || open->optimizer > WEIR_PS_SGD)
        return "an unknown consistency or optimizer";
    if (!isfinite(open->learning_rate))
        return "a learning rate that is no number";
    if (open->workers != workers || open->servers != servers)
        return "another number of workers or servers";
    return NULL;
}

const char *wi_ps_reply_check(const struct wi_ps_reply *reply, uint64_t sequence)
{
    if (reply->magic != WI_PS_MAGIC || reply->version != WI_PS_VERSION)
        return "no reply of this version";
    if (reply->sequence != sequence)
        return "a reply out of order";
    if (reply->kind < WI_PS_REPLY_HELLO || reply->kind > WI_PS_REPLY_BYE)
        return "an unknown kind of reply";
    if ((reply->kind == WI_PS_REPLY_HELLO) != (sequence == 0))
        return "a greeting at the wrong moment";
    if (reply->status < 0 || reply->status > WEIR_ERR_JOB_FAILED)
        return "an unknown status";
    return NULL;
}

const char *wi_ps_hello_check(const struct wi_ps_hello *hello, size_t len, bool reply_ring)
{
    if (len != sizeof(*hello) || hello->magic != WI_PS_MAGIC)
        return "not an address of a parameter server's peer";
    if (hello->version != WI_PS_VERSION)
        return "another version of the library";
    if (hello->address_len == 0 || hello->address_len > WEIR_ADDRESS_MAX || hello->key_len == 0 ||
        hello->key_len > WEIR_RKEY_MAX)
        return "an address or key of impossible length";
    if (reply_ring)
        return hello->ring_size == WI_PS_REPLIES * WI_PS_LINE ? NULL : "a reply ring of another size";
    if (hello->ring_size < 4096 || hello->ring_size > (1ull << 40) || (hello->ring_size & (hello->ring_size - 1)) != 0)
        return "a request ring of impossible size";
    return NULL;
}

bool wi_ps_open_same(const struct wi_ps_open *a, const struct wi_ps_open *b, const char **field)
{
    *field = a->count != b->count                   ? "count"
             : a->consistency != b->consistency     ? "consistency"
             : a->optimizer != b->optimizer         ? "optimizer"
             : a->learning_rate != b->learning_rate ? "learning_rate"
             : a->shards != b->shards               ? "WEIR_PS_SHARDS"
                                                    : NULL;
    return *field == NULL;
}
