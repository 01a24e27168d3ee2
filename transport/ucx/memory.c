/*
 * Registered memory and remote keys: the number of the exported range in the target's table, and UCX's key, which is one of
 * the whole region, for native operations.
 */
#include "core/error.h"
#include "transport/ucx/ucx.h"

#include <stdlib.h>
#include <string.h>

/* What UCX reads from a packed key is bounded by this: 64 transports, each with a length byte and 255 bytes, and a
 * head. It takes no length, so a damaged key must find zeros behind its end. */
#define UNPACK_ROOM (64 * 256 + 64)
#define PACKED_MIN  9 /* of UCX's packed key: a mask of transports and the kind of memory */

struct key_head {      /* of our blob; UCX's packed key follows */
    uint64_t instance; /* of the interface that exported it */
    uint64_t key;
};

static weir_status map_memory(struct wi_iface *base, const ucp_mem_map_params_t *params, struct wi_mr **out)
{
    struct wi_ucx_iface *iface = WI_UCX_CONTAINER(base, struct wi_ucx_iface, base);
    ucp_mem_attr_t attr = {.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS};
    struct wi_ucx_mr *mr = calloc(1, sizeof(*mr));
    if (!mr)
        return wi_error(WEIR_ERR_NO_MEMORY, "UCX: out of memory for a registration");
    ucs_status_t status = ucp_mem_map(iface->context, params, &mr->mem);
    if (status == UCS_OK && (status = ucp_mem_query(mr->mem, &attr)) != UCS_OK)
        ucp_mem_unmap(iface->context, mr->mem);
    if (status != UCS_OK) {
        free(mr);
        wi_ucx_error(status, "cannot register memory; see 'ulimit -l' for the limit on locked memory");
        return status == UCS_ERR_NO_MEMORY || status == UCS_ERR_IO_ERROR ? WEIR_ERR_LIMIT : wi_ucx_status(status);
    }
    mr->base.iface = base;
    mr->addr = attr.address;
    mr->len = params->length; /* UCX may have made more */
    *out = &mr->base;
    return WEIR_OK;
}

weir_status wi_ucx_mem_register(struct wi_iface *base, const struct wi_mem_desc *desc, struct wi_mr **out)
{
    ucp_mem_map_params_t params = {
        .field_mask =
            UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE,
        .address = desc->addr,
        .length = desc->len,
        .memory_type = UCS_MEMORY_TYPE_HOST,
    };
    return map_memory(base, &params, out);
}

/* Where UCX shares memory with peers it has to be the one who makes it. */
weir_status wi_ucx_mem_alloc(struct wi_iface *base, size_t len, void **addr, struct wi_mr **out)
{
    if (!wi_ucx_shares_memory())
        return WEIR_ERR_UNSUPPORTED;
    ucp_mem_map_params_t params = {
        .field_mask =
            UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_FLAGS | UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE,
        .length = len,
        .flags = UCP_MEM_MAP_ALLOCATE,
        .memory_type = UCS_MEMORY_TYPE_HOST,
    };
    weir_status status = map_memory(base, &params, out);
    if (status == WEIR_OK)
        *addr = WI_UCX_CONTAINER(*out, struct wi_ucx_mr, base)->addr;
    return status;
}

/* Where a peer may read or write; NULL: it may not. */
void *wi_ucx_export_at(struct wi_ucx_iface *iface, uint64_t key, uint64_t addr, uint64_t len)
{
    const struct wi_ucx_export *export = wi_ucx_table_find(&iface->exports, key);
    uint64_t offset = export ? addr - (uint64_t)(uintptr_t)export->addr : 0;
    return export && offset <= export->len && len <= export->len - offset ? export->addr + offset : NULL;
}

void wi_ucx_mem_deregister(struct wi_mr *base)
{
    struct wi_ucx_mr *mr = WI_UCX_CONTAINER(base, struct wi_ucx_mr, base);
    struct wi_ucx_iface *iface = WI_UCX_CONTAINER(base->iface, struct wi_ucx_iface, base);
    ucp_mem_unmap(iface->context, mr->mem);
    free(mr);
}

static weir_status write_key(const struct wi_ucx_export *export, const struct wi_ucx_mr *mr, void *blob, size_t *blob_len)
{
    void *packed;
    size_t packed_len;
    ucs_status_t status = ucp_rkey_pack(export->iface->context, mr->mem, &packed, &packed_len);
    if (status != UCS_OK)
        return wi_ucx_error(status, "cannot export memory");
    weir_status result = WEIR_OK;
    const struct key_head head = {export->iface->instance, export->key};
    if (packed_len + sizeof(head) <= *blob_len) {
        memcpy(blob, &head, sizeof(head));
        memcpy((unsigned char *)blob + sizeof(head), packed, packed_len);
        *blob_len = sizeof(head) + packed_len;
    } else {
        result =
            wi_error(WEIR_ERR_RANGE,
                     "UCX: a key takes %zu bytes, there are %zu; UCX_TLS or UCX_NET_DEVICES with fewer entries help",
                     packed_len + sizeof(head), *blob_len);
    }
    ucp_rkey_buffer_release(packed);
    return result;
}

weir_status wi_ucx_mem_export(struct wi_mr *base, const void *addr, size_t len, void *blob, size_t *blob_len,
                              struct wi_export **out)
{
    struct wi_ucx_mr *mr = WI_UCX_CONTAINER(base, struct wi_ucx_mr, base);
    struct wi_ucx_export *export = calloc(1, sizeof(*export));
    if (!export)
        return wi_error(WEIR_ERR_NO_MEMORY, "UCX: out of memory for an export");
    export->iface = WI_UCX_CONTAINER(base->iface, struct wi_ucx_iface, base);
    export->addr = mr->addr + ((const unsigned char *)addr - mr->addr);
    export->len = len;
    weir_status status = wi_ucx_table_enter(&export->iface->exports, export, &export->key);
    if (status != WEIR_OK) {
        free(export);
        return status;
    }
    status = write_key(export, mr, blob, blob_len);
    if (status != WEIR_OK) {
        wi_ucx_mem_unexport(&export->base);
        return status;
    }
    *out = &export->base;
    return WEIR_OK;
}

/* What comes by messages is refused from now on. RDMA lanes do not ask. */
bool wi_ucx_mem_unexport(struct wi_export *base)
{
    struct wi_ucx_export *export = WI_UCX_CONTAINER(base, struct wi_ucx_export, base);
    bool revoked = !export->iface->rdma;
    wi_ucx_table_remove(&export->iface->exports, export->key);
    free(export);
    return revoked;
}

/* Needs a connected endpoint: before that UCX does not know which transports the key is for. */
static weir_status unpack(const struct wi_ucx_rkey *rkey, const struct wi_ucx_ep *ep, ucp_rkey_h *ucp)
{
    unsigned char *room = calloc(1, UNPACK_ROOM);
    if (!room)
        return wi_error(WEIR_ERR_NO_MEMORY, "UCX: out of memory for a remote key");
    memcpy(room, rkey->blob, rkey->blob_len);
    ucs_status_t status = ucp_ep_rkey_unpack(ep->link.ucp, room, ucp);
    free(room);
    if (status == UCS_OK)
        return WEIR_OK;
    *ucp = NULL;
    wi_ucx_error(status, "it cannot be used over this connection");
    return wi_error_prefix(WEIR_ERR_KEY, "remote key of rank %llu", (unsigned long long)ep->base.peer_id);
}

weir_status wi_ucx_rkey_unpack(struct wi_ucx_rkey *rkey, const struct wi_ucx_ep *ep)
{
    if (rkey->ucp)
        ucp_rkey_destroy(rkey->ucp); /* of an earlier connection */
    rkey->ucp = NULL;
    rkey->again = ep->again;
    return unpack(rkey, ep, &rkey->ucp);
}

/* The mapping lives in UCX's key: one of its own, which outlasts the connection. */
weir_status wi_ucx_rkey_map(struct weir_rkey *base, uint64_t remote_addr, size_t len, void **ptr)
{
    (void)len;
    struct wi_ucx_rkey *rkey = WI_UCX_CONTAINER(base, struct wi_ucx_rkey, base);
    struct wi_ucx_ep *ep = WI_UCX_CONTAINER(base->ep, struct wi_ucx_ep, base);
    if (!ep->base.ready)
        return wi_error(WEIR_ERR_AGAIN,
                        "UCX: memory of rank %llu can be mapped when the endpoint is connected; wait for that first",
                        (unsigned long long)ep->base.peer_id);
    weir_status status = WEIR_OK;
    if (!rkey->map && ep->maps)
        status = ep->base.status == WEIR_OK ? unpack(rkey, ep, &rkey->map) : weir_ep_status(&ep->base);
    if (status != WEIR_OK)
        return status;
    if (rkey->map && ucp_rkey_ptr(rkey->map, remote_addr, ptr) == UCS_OK)
        return WEIR_OK;
    return wi_error(
        WEIR_ERR_UNSUPPORTED,
        "UCX: this memory of rank %llu cannot be mapped: that takes memory of a pool, on this host, and UCX's "
        "shared memory (UCX_POSIX_ERROR_HANDLING=y on both sides)",
        (unsigned long long)ep->base.peer_id);
}

weir_status wi_ucx_rkey_import(struct weir_ep *base, const void *blob, size_t blob_len, uint64_t addr, uint64_t len,
                               struct weir_rkey **out)
{
    (void)addr, (void)len;
    struct wi_ucx_ep *ep = WI_UCX_CONTAINER(base, struct wi_ucx_ep, base);
    struct key_head head;
    unsigned long long rank = base->peer_id;
    size_t packed_len = blob_len - sizeof(head);
    if (blob_len < sizeof(head) + PACKED_MIN || packed_len > UNPACK_ROOM / 2)
        return wi_error(WEIR_ERR_KEY, "remote key of rank %llu: its UCX part of %zu bytes cannot be right", rank, blob_len);
    memcpy(&head, blob, sizeof(head));
    if (head.instance != ep->instance)
        return wi_error(WEIR_ERR_KEY,
                        "remote key of rank %llu: it was exported by another process than the endpoint leads to", rank);
    struct wi_ucx_rkey *rkey = calloc(1, sizeof(*rkey) + packed_len);
    if (!rkey)
        return wi_error(WEIR_ERR_NO_MEMORY, "UCX: out of memory for a remote key");
    rkey->key = head.key;
    rkey->blob_len = packed_len;
    memcpy(rkey->blob, (const unsigned char *)blob + sizeof(head), packed_len);
    bool connected = base->ready && base->status == WEIR_OK; /* one that has ended may be connected again */
    weir_status status = connected && ep->native ? wi_ucx_rkey_unpack(rkey, ep) : WEIR_OK;
    if (status != WEIR_OK) {
        free(rkey);
        return status;
    }
    *out = &rkey->base;
    return WEIR_OK;
}

void wi_ucx_rkey_destroy(struct weir_rkey *base)
{
    struct wi_ucx_rkey *rkey = WI_UCX_CONTAINER(base, struct wi_ucx_rkey, base);
    if (rkey->ucp)
        ucp_rkey_destroy(rkey->ucp);
    if (rkey->map)
        ucp_rkey_destroy(rkey->map);
    free(rkey);
}
