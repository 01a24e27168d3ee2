/* A context with one device: its part in what it tells, and the part for it in what it hears. */
#include "core/error.h"
#include "transport/verbs/verbs.h"

enum { PART_MAX = 255 };

weir_status wi_verbs_list_address(struct wi_iface *iface, void *buf, size_t *len)
{
    unsigned char part[PART_MAX];
    size_t part_len = sizeof(part), room = *len;
    weir_status status = wi_verbs_address(iface, part, &part_len);
    *len = 0;
    if (status == WEIR_OK && !wi_verbs_list_add(buf, room, len, verbs_iface(iface)->choice.slot, part, part_len))
        status = wi_error(WEIR_ERR_RANGE, "address: %zu bytes are too little room for the verbs part", room);
    return status;
}

/* The peer's device at the same place of WEIR_DEVICE, else its first one. */
weir_status wi_verbs_list_ep_create(struct wi_iface *iface, const void *address, size_t len, struct weir_ep **ep)
{
    if (!wi_verbs_list_check(address, len))
        return wi_error(WEIR_ERR_PROTOCOL, "endpoint: the verbs part of the address is damaged or of another version");
    unsigned slot = verbs_iface(iface)->choice.slot;
    size_t part_len;
    const void *part = wi_verbs_list_find(address, slot, &part_len);
    if (!part) {
        slot = wi_verbs_list_first(address);
        part = wi_verbs_list_find(address, slot, &part_len);
    }
    weir_status status = wi_verbs_ep_create(iface, part, part_len, ep);
    if (status == WEIR_OK)
        verbs_ep(*ep)->peer_slot = (uint8_t)slot;
    return status;
}

weir_status wi_verbs_list_export(struct wi_mr *mr, const void *addr, size_t len, void *blob, size_t *blob_len,
                                 struct wi_export **export)
{
    unsigned char part[PART_MAX];
    size_t part_len = sizeof(part), room = *blob_len;
    weir_status status = wi_verbs_mem_export(mr, addr, len, part, &part_len, export);
    *blob_len = 0;
    if (status != WEIR_OK || wi_verbs_list_add(blob, room, blob_len, verbs_iface(mr->iface)->choice.slot, part, part_len))
        return status;
    wi_verbs_mem_unexport(*export);
    *export = NULL;
    return wi_error(WEIR_ERR_RANGE, "export: %zu bytes are too little room for a verbs key", room);
}

weir_status wi_verbs_list_import(struct weir_ep *ep, const void *blob, size_t blob_len, uint64_t addr, uint64_t len,
                                 struct weir_rkey **rkey)
{
    size_t part_len;
    const void *part =
        wi_verbs_list_check(blob, blob_len) ? wi_verbs_list_find(blob, verbs_ep(ep)->peer_slot, &part_len) : NULL;
    if (!part)
        return wi_error(WEIR_ERR_KEY, "key of rank %llu: it has no part for the device that the endpoint leads to",
                        (unsigned long long)ep->peer_id);
    return wi_verbs_rkey_import(ep, part, part_len, addr, len, rkey);
}
