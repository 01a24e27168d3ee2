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

/*
 * Relaxed ordering is for users' memory and pools alone: words and rings of our own are polled, or written again and again
 * (wi_verbs_block_create()).
 */
static int relaxed(void)
{
    return wi_config()->verbs_relaxed == WI_VERBS_RELAXED_ON ? IBV_ACCESS_RELAXED_ORDERING : 0;
}

/* Nobody reaches a region but through what was exported of it, whatever key he guesses. */
static int region_access(const struct verbs_device *device)
{
    return relaxed() | IBV_ACCESS_LOCAL_WRITE | (device->windows ? IBV_ACCESS_MW_BIND : 0);
}

weir_status wi_verbs_mem_register(struct wi_iface *base, const struct wi_mem_desc *desc, struct wi_mr **out)
{
    struct verbs_iface *iface = verbs_iface(base);
    struct verbs_mr *mr = calloc(1, sizeof(*mr));
    if (!mr)
        return wi_error(WEIR_ERR_NO_MEMORY, "registering %zu bytes: out of memory", desc->len);
    mr->mr = ibv_reg_mr(iface->device.pd, desc->addr, desc->len, region_access(&iface->device));
    if (!mr->mr) {
        int error = errno;
        free(mr);
        return register_error(iface, desc->addr, desc->len, error);
    }
    wi_debug("verbs: %zu bytes at %p registered, key 0x%x%s", desc->len, desc->addr, mr->mr->rkey,
             wi_config()->verbs_relaxed == WI_VERBS_RELAXED_ON ? ", relaxed ordering" : "");
    mr->id = desc->id;
    *out = &mr->base;
    return WEIR_OK;
}

void wi_verbs_mem_deregister(struct wi_mr *base)
{
    struct verbs_mr *mr = (struct verbs_mr *)base;
    int error = ibv_dereg_mr(mr->mr);
    if (error)
        wi_warn("verbs: a region could not be deregistered: %s", strerror(error));
    free(mr);
}

/* ---- Exports
 * ---------------------------------------------------------------------------------------------------------- */

static struct verbs_export **bucket(struct verbs_iface *iface, uint64_t token)
{
    return &iface->exports[token % WI_VERBS_EXPORT_BUCKETS];
}

static int export_access(const struct verbs_device *device)
{
    if (device->windows)
        return region_access(device);
    return relaxed() | IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
           (device->atomics ? IBV_ACCESS_REMOTE_ATOMIC : 0);
}

/*
 * A window keeps a peer to its range. Without them, or where the device looks at the bounds of a window's region, the range
 * is registered once more, by itself.
 */
static weir_status own_registration(struct verbs_export *export, const struct verbs_mr *mr)
{
    const struct verbs_device *device = &export->iface->device;
    bool whole = export->addr == (uintptr_t)mr->mr->addr && export->len == mr->mr->length;
    export->mr = mr->mr;
    if (export->len == 0 || (device->windows && (whole || !device->loose_windows)))
        return WEIR_OK;
    void *start = (char *)mr->mr->addr + (export->addr - (uintptr_t)mr->mr->addr);
    struct ibv_mr *own = ibv_reg_mr(device->pd, start, export->len, export_access(device));
    if (!own)
        return register_error(export->iface, start, export->len, errno);
    export->mr = own;
    export->own_mr = true;
    return WEIR_OK;
}

static weir_status export_create(struct verbs_mr *mr, uint64_t addr, uint64_t len, struct verbs_export **out)
{
    struct verbs_iface *iface = verbs_iface(mr->base.iface);
    struct verbs_export *export = calloc(1, sizeof(*export));
    if (!export)
        return wi_error(WEIR_ERR_NO_MEMORY, "export of %llu bytes: out of memory", (unsigned long long)len);
    export->iface = iface;
    export->region = mr->id;
    export->addr = addr;
    export->len = len;
    weir_status status = own_registration(export, mr);
    if (status == WEIR_OK && getrandom(export->token, sizeof(export->token), 0) != (ssize_t)sizeof(export->token)) {
        status = wi_error(WEIR_ERR_IO, "export of %llu bytes: no random number: %s", (unsigned long long)len,
                          strerror(errno));
        if (export->own_mr)
            ibv_dereg_mr(export->mr);
    }
    if (status != WEIR_OK) {
        free(export);
        return status;
    }
    struct verbs_export **at = bucket(iface, export->token[0]);
    export->hash_next = *at;
    *at = export;
    *out = export;
    return WEIR_OK;
}

bool wi_verbs_mem_unexport(struct wi_export *base)
{
    struct verbs_export *export = (struct verbs_export *)base;
    struct verbs_export **at = bucket(export->iface, export->token[0]);
    while (*at != export)
        at = &(*at)->hash_next;
    *at = export->hash_next; /* no new windows from now on */
    wi_verbs_windows_revoke(export->iface, export);
    int error = export->own_mr ? ibv_dereg_mr(export->mr) : 0;
    if (error)
        wi_warn("verbs: an exported range could not be deregistered: %s", strerror(error));
    free(export);
    return error == 0;
}

struct verbs_export *wi_verbs_export_find(struct verbs_iface *iface, const struct wi_verbs_request *request)
{
    for (struct verbs_export *export = *bucket(iface, request->token[0]); export; export = export->hash_next) {
        uint64_t difference = (export->token[0] ^ request->token[0]) | (export->token[1] ^ request->token[1]);
        if (export->region == request->region && export->addr == request->addr && export->len == request->len &&
            difference == 0)
            return export;
    }
    return NULL;
}

weir_status wi_verbs_mem_export(struct wi_mr *base, const void *addr, size_t len, void *blob, size_t *blob_len,
                                struct wi_export **out)
{
    struct verbs_mr *mr = (struct verbs_mr *)base;
    struct wi_verbs_key key = {.window = verbs_iface(base->iface)->device.windows};
    struct verbs_export *export = NULL;
    if (*blob_len < WI_VERBS_KEY_SIZE)
        return wi_error(WEIR_ERR_RANGE, "export: %zu bytes are too little room for a verbs key", *blob_len);
    weir_status status = export_create(mr, (uintptr_t)addr, len, &export);
    if (status != WEIR_OK)
        return status;
    if (key.window) {
        key.region = mr->id;
        memcpy(key.token, export->token, sizeof(key.token));
    } else {
        key.rkey = export->mr->rkey;
    }
    wi_verbs_key_encode(&key, blob);
    *blob_len = WI_VERBS_KEY_SIZE;
    *out = &export->base;
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
