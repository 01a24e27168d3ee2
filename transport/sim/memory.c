/* Regions and keys: a key names an exported range of one interface and is never used again. */
#include "transport/sim/nic.h"

#include "core/error.h"

#include <stdlib.h>
#include <string.h>

struct sim_key {
    uint64_t iface;
    uint64_t key;
};

weir_status wi_sim_mem_register(struct wi_iface *base, const struct wi_mem_desc *desc, struct wi_mr **out)
{
    struct sim_iface *iface = (struct sim_iface *)base;
    struct sim_mr *mr = malloc(sizeof(*mr));
    if (!mr)
        return wi_error(WEIR_ERR_NO_MEMORY, "sim: out of memory");
    *mr = (struct sim_mr){
        .iface = iface, .key = ++iface->next_key, .addr = desc->addr, .len = desc->len, .next = iface->mrs};
    iface->mrs = mr;
    *out = &mr->base;
    return WEIR_OK;
}

void wi_sim_mem_deregister(struct wi_mr *base)
{
    struct sim_mr *mr = (struct sim_mr *)base;
    struct sim_mr **at = &mr->iface->mrs;
    while (*at != mr)
        at = &(*at)->next;
    *at = mr->next;
    free(mr);
}

bool wi_sim_mr_holds(const struct sim_iface *iface, uint64_t key, uint64_t addr, uint64_t len)
{
    const struct sim_mr *mr = iface->mrs;
    while (mr && mr->key != key)
        mr = mr->next;
    if (!mr || addr < (uintptr_t)mr->addr)
        return false;
    uint64_t offset = addr - (uintptr_t)mr->addr;
    return offset <= mr->len && len <= mr->len - offset;
}

/* ---- Exports ----------------------------------------------------------------------------------------------------- */

weir_status wi_sim_mem_export(struct wi_mr *base, const void *addr, size_t len, void *blob, size_t *blob_len,
                              struct wi_export **out)
{
    struct sim_iface *iface = ((struct sim_mr *)base)->iface;
    struct sim_export *export = *blob_len < sizeof(struct sim_key) ? NULL : malloc(sizeof(*export));
    if (!export)
        return wi_error(WEIR_ERR_NO_MEMORY, "sim: no room for a key");
    *export = (struct sim_export){.iface = iface, .key = ++iface->next_key, .addr = (uintptr_t)addr, .len = len,
                                  .next = iface->exports};
    iface->exports = export;
    memcpy(blob, &(struct sim_key){iface->number, export->key}, sizeof(struct sim_key));
    *blob_len = sizeof(struct sim_key);
    *out = &export->base;
    return WEIR_OK;
}

bool wi_sim_mem_unexport(struct wi_export *base)
{
    struct sim_export *export = (struct sim_export *)base;
    struct sim_export **at = &export->iface->exports;
    while (*at != export)
        at = &(*at)->next;
    *at = export->next;
    free(export);
    return true;
}

bool wi_sim_export_holds(const struct sim_iface *iface, uint64_t key, uint64_t addr, uint64_t len)
{
    const struct sim_export *export = iface->exports;
    while (export && export->key != key)
        export = export->next;
    if (!export || addr < export->addr)
        return false;
    uint64_t offset = addr - export->addr;
    return offset <= export->len && len <= export->len - offset;
}

/* ---- Keys of peers ----------------------------------------------------------------------------------------------- */

weir_status wi_sim_rkey_import(struct weir_ep *base, const void *blob, size_t blob_len, uint64_t addr, uint64_t len,
                               struct weir_rkey **out)
{
    const struct sim_ep *ep = (const struct sim_ep *)base;
    struct sim_key key;
    (void)addr;
    (void)len;
    if (blob_len != sizeof(key))
        return wi_error(WEIR_ERR_KEY, "remote key of rank %llu: %zu bytes instead of %zu",
                        (unsigned long long)base->peer_id, blob_len, sizeof(key));
    memcpy(&key, blob, sizeof(key));
    if (key.iface != ep->target)
        return wi_error(WEIR_ERR_KEY, "remote key: it was not exported by rank %llu",
                        (unsigned long long)base->peer_id);
    struct sim_rkey *rkey = calloc(1, sizeof(*rkey));
    if (!rkey)
        return wi_error(WEIR_ERR_NO_MEMORY, "remote key: out of memory");
    rkey->key = key.key;
    *out = &rkey->base;
    return WEIR_OK;
}

void wi_sim_rkey_destroy(struct weir_rkey *rkey)
{
    free(rkey);
}
