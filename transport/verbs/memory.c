/* Regions: registered with the device, and exported. */
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>

static weir_status register_error(const struct verbs_iface *iface, const void *addr, size_t len, int error)
{
    const char *device = iface->choice.device;
    struct rlimit memlock = {0};
    getrlimit(RLIMIT_MEMLOCK, &memlock);
    if ((error == ENOMEM || error == EAGAIN || error == EPERM) && memlock.rlim_cur != RLIM_INFINITY)
        return wi_error(
            WEIR_ERR_LIMIT,
            "registering %zu bytes with %s: %s; the memlock limit is %llu KiB: raise it with 'ulimit -l "
            "unlimited', '* - memlock unlimited' in /etc/security/limits.conf or LimitMEMLOCK=infinity in the "
            "service",
            len, device, strerror(error), (unsigned long long)memlock.rlim_cur / 1024);
    if (error == ENOMEM || error == EAGAIN)
        return wi_error(WEIR_ERR_NO_MEMORY, "registering %zu bytes with %s: %s", len, device, strerror(error));
    if (error == EFAULT)
        return wi_error(WEIR_ERR_INVALID, "registering %zu bytes at %p with %s: not all of it is mapped and writable",
                        len, addr, device);
    return wi_error(WEIR_ERR_IO, "registering %zu bytes at %p with %s: %s", len, addr, device, strerror(error));
}

/* ---- Regions
 * ---------------------------------------------------------------------------------------------------------- */

static struct verbs_mr **bucket(struct verbs_iface *iface, uint64_t id)
{
    return &iface->regions[id % WI_VERBS_REGION_BUCKETS];
}

/*
 * With windows nobody reaches a region but through one of them, whatever key he guesses. Relaxed ordering is for users'
 * memory and pools alone: words and rings of our own are polled, or written again and again (wi_verbs_block_create()).
 */
static int access_flags(const struct verbs_device *device)
{
    int order = wi_config()->verbs_relaxed == WI_VERBS_RELAXED_ON ? IBV_ACCESS_RELAXED_ORDERING : 0;
    if (device->windows)
        return order | IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND;
    return order | IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
           (device->atomics ? IBV_ACCESS_REMOTE_ATOMIC : 0);
}

weir_status wi_verbs_mem_register(struct wi_iface *base, const struct wi_mem_desc *desc, struct wi_mr **out)
{
    struct verbs_iface *iface = verbs_iface(base);
    struct verbs_mr *mr = calloc(1, sizeof(*mr));
    if (!mr)
        return wi_error(WEIR_ERR_NO_MEMORY, "registering %zu bytes: out of memory", desc->len);
    mr->mr = ibv_reg_mr(iface->device.pd, desc->addr, desc->len, access_flags(&iface->device));
    if (!mr->mr) {
        int error = errno;
        free(mr);
        return register_error(iface, desc->addr, desc->len, error);
    }
    wi_debug("verbs: %zu bytes at %p registered, key 0x%x%s", desc->len, desc->addr, mr->mr->rkey,
             wi_config()->verbs_relaxed == WI_VERBS_RELAXED_ON ? ", relaxed ordering" : "");
    mr->id = desc->id;
    mr->hash_next = *bucket(iface, mr->id);
    *bucket(iface, mr->id) = mr;
    *out = &mr->base;
    return WEIR_OK;
}

static void export_free(struct verbs_mr *mr, struct verbs_export *export)
{
    wi_verbs_windows_revoke(verbs_iface(mr->base.iface), export);
    if (export->mr != mr->mr && ibv_dereg_mr(export->mr))
        wi_warn("verbs: an exported range could not be deregistered");
    free(export);
}

void wi_verbs_mem_deregister(struct wi_mr *base)
{
    struct verbs_mr *mr = (struct verbs_mr *)base;
    struct verbs_mr **at = bucket(verbs_iface(base->iface), mr->id);
    while (*at && *at != mr)
        at = &(*at)->hash_next;
    if (*at)
        *at = mr->hash_next;
    while (mr->exports) {
        struct verbs_export *export = mr->exports;
        mr->exports = export->next;
        export_free(mr, export);
    }
    int error = ibv_dereg_mr(mr->mr);
    if (error)
        wi_warn("verbs: a region could not be deregistered: %s", strerror(error));
    free(mr);
}

/* ---- Exports
 * ---------------------------------------------------------------------------------------------------------- */

static weir_status export_create(struct verbs_iface *iface, struct verbs_mr *mr, uint64_t addr, uint64_t len,
                                 struct verbs_export **out)
{
    struct verbs_export *export = calloc(1, sizeof(*export));
    if (!export)
        return wi_error(WEIR_ERR_NO_MEMORY, "export of %llu bytes: out of memory", (unsigned long long)len);
    export->addr = addr;
    export->len = len;
    export->mr = mr->mr;
    weir_status status = WEIR_OK;
    if (getrandom(export->token, sizeof(export->token), 0) != (ssize_t)sizeof(export->token))
        status = wi_error(WEIR_ERR_IO, "export of %llu bytes: no random number: %s", (unsigned long long)len,
                          strerror(errno));
    if (status == WEIR_OK && iface->device.loose_windows && len > 0 &&
        (addr != (uintptr_t)mr->mr->addr || len != mr->mr->length)) {
        void *start = (char *)mr->mr->addr + (addr - (uintptr_t)mr->mr->addr);
        export->mr = ibv_reg_mr(iface->device.pd, start, len, access_flags(&iface->device));
        if (!export->mr)
            status = register_error(iface, start, len, errno);
    }
    if (status != WEIR_OK) {
        free(export);
        return status;
    }
    export->next = mr->exports;
    mr->exports = export;
    *out = export;
    return WEIR_OK;
}

struct verbs_export *wi_verbs_export_find(struct verbs_iface *iface, const struct wi_verbs_request *request)
{
    struct verbs_mr *mr = *bucket(iface, request->region);
    while (mr && mr->id != request->region)
        mr = mr->hash_next;
    for (struct verbs_export *export = mr ? mr->exports : NULL; export; export = export->next) {
        uint64_t difference = (export->token[0] ^ request->token[0]) | (export->token[1] ^ request->token[1]);
        if (export->addr == request->addr && export->len == request->len && difference == 0)
            return export;
    }
    return NULL;
}

weir_status wi_verbs_mem_export(struct wi_mr *base, const void *addr, size_t len, void *blob, size_t *blob_len)
{
    struct verbs_iface *iface = verbs_iface(base->iface);
    struct verbs_mr *mr = (struct verbs_mr *)base;
    struct wi_verbs_key key = {.window = iface->device.windows};
    if (*blob_len < WI_VERBS_KEY_SIZE)
        return wi_error(WEIR_ERR_RANGE, "export: %zu bytes are too little room for a verbs key", *blob_len);
    if (key.window) {
        struct verbs_export *export = mr->exports;
        while (export && (export->addr != (uintptr_t)addr || export->len != len))
            export = export->next;
        weir_status status = export ? WEIR_OK : export_create(iface, mr, (uintptr_t)addr, len, &export);
        if (status != WEIR_OK)
            return status;
        key.region = mr->id;
        memcpy(key.token, export->token, sizeof(key.token));
    } else {
        key.rkey = mr->mr->rkey;
    }
    wi_verbs_key_encode(&key, blob);
    *blob_len = WI_VERBS_KEY_SIZE;
    return WEIR_OK;
}

/* ---- Memory of our own
 * ------------------------------------------------------------------------------------------------ */

weir_status wi_verbs_block_create(struct verbs_iface *iface, size_t size, int access, const char *what,
                                  unsigned char **block, struct ibv_mr **mr)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return wi_error(WEIR_ERR_NO_MEMORY, "%s: no memory for %zu bytes", what, size);
    *mr = ibv_reg_mr(iface->device.pd, memory, size, access);
    if (!*mr) {
        weir_status status = register_error(iface, memory, size, errno);
        munmap(memory, size);
        return wi_error_prefix(status, "%s", what);
    }
    *block = memory;
    return WEIR_OK;
}

void wi_verbs_block_destroy(unsigned char *block, size_t size, struct ibv_mr *mr)
{
    if (mr)
        ibv_dereg_mr(mr);
    if (block)
        munmap(block, size);
}
