/* Regions: registered with the device, and exported. */
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

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

static weir_status register_device_error(const struct verbs_iface *iface, size_t len, int error)
{
    const char *device = iface->choice.device;
    if (error == EOPNOTSUPP || error == ENOSYS || error == EPROTONOSUPPORT)
        return wi_error(WEIR_ERR_UNSUPPORTED,
                        "registering %zu bytes of device memory: %s or its driver does not reach it "
                        "(ibv_reg_dmabuf_mr(): %s); mlx5, irdma and others do from Linux 5.12 on. Copy through host memory",
                        len, device, strerror(error));
    if (error == EINVAL)
        return wi_error(WEIR_ERR_INVALID,
                        "registering %zu bytes of device memory with %s: %s; the dma-buf's exporter may not let other "
                        "devices at it (peer to peer), see the kernel's log",
                        len, device, strerror(error));
    return wi_error(error == ENOMEM ? WEIR_ERR_NO_MEMORY : WEIR_ERR_IO, "registering %zu bytes of device memory with %s: %s",
                    len, device, strerror(error));
}

/* ---- Regions ----------------------------------------------------------------------------------------------------- */

/*
 * Relaxed ordering is for users' memory and pools alone: words and rings of our own are polled, or written again and again
 * (wi_verbs_block_create()).
 */
static int relaxed(void)
{
    return wi_config()->verbs_relaxed == WI_VERBS_RELAXED_ON ? IBV_ACCESS_RELAXED_ORDERING : 0;
}

/* Windows cannot be bound to device memory. */
static bool has_windows(const struct verbs_device *device, const struct verbs_mr *mr)
{
    return device->windows && !mr->device;
}

/* Nobody reaches a region but through what was exported of it, whatever key he guesses. */
static int region_access(const struct verbs_device *device, const struct verbs_mr *mr)
{
    return relaxed() | IBV_ACCESS_LOCAL_WRITE | (has_windows(device, mr) ? IBV_ACCESS_MW_BIND : 0);
}

/* Registers a range of a region with the device. */
static weir_status range_register(const struct verbs_iface *iface, const struct verbs_mr *mr, uint64_t addr, size_t len,
                                  int access, struct ibv_mr **out)
{
    void *start = (void *)(uintptr_t)addr;
    struct ibv_pd *pd = iface->device.pd;
    *out = mr->device ? ibv_reg_dmabuf_mr(pd, mr->offset + (addr - mr->addr), len, addr, mr->dmabuf, access)
                      : ibv_reg_mr(pd, start, len, access);
    if (*out)
        return WEIR_OK;
    return mr->device ? register_device_error(iface, len, errno) : register_error(iface, start, len, errno);
}

/* Makes the region that `what` describes, and takes over its descriptor. */
static weir_status region_create(struct verbs_iface *iface, const struct verbs_mr *what, struct wi_mr **out)
{
    struct verbs_mr *mr = malloc(sizeof(*mr));
    if (!mr)
        return wi_error(WEIR_ERR_NO_MEMORY, "registering %llu bytes: out of memory", (unsigned long long)what->len);
    *mr = *what;
    weir_status status = range_register(iface, mr, mr->addr, mr->len, region_access(&iface->device, mr), &mr->mr);
    if (status != WEIR_OK) {
        free(mr);
        return status;
    }
    wi_debug("verbs: %llu bytes at 0x%llx registered, key 0x%x%s%s", (unsigned long long)mr->len,
             (unsigned long long)mr->addr, mr->mr->rkey, mr->device ? ", device memory" : "",
             relaxed() ? ", relaxed ordering" : "");
    *out = &mr->base;
    return WEIR_OK;
}

weir_status wi_verbs_mem_register(struct wi_iface *base, const struct wi_mem_desc *desc, struct wi_mr **out)
{
    const struct verbs_mr what = {.id = desc->id, .addr = (uintptr_t)desc->addr, .len = desc->len, .dmabuf = -1};
    return region_create(verbs_iface(base), &what, out);
}

/* The descriptor is kept: ranges that are exported are registered later. */
weir_status wi_verbs_mem_register_dmabuf(struct wi_iface *base, const struct wi_mem_desc *desc, struct wi_mr **out)
{
    const struct verbs_mr what = {
        .id = desc->id,
        .addr = (uintptr_t)desc->addr,
        .len = desc->len,
        .device = true,
        .dmabuf = fcntl(desc->fd, F_DUPFD_CLOEXEC, 0),
        .offset = desc->fd_offset,
    };
    if (what.dmabuf < 0)
        return wi_error(WEIR_ERR_LIMIT, "registering device memory: no descriptor: %s", strerror(errno));
    weir_status status = region_create(verbs_iface(base), &what, out);
    if (status != WEIR_OK)
        close(what.dmabuf);
    return status;
}

void wi_verbs_mem_deregister(struct wi_mr *base)
{
    struct verbs_mr *mr = (struct verbs_mr *)base;
    int error = ibv_dereg_mr(mr->mr);
    if (error)
        wi_warn("verbs: a region could not be deregistered: %s", strerror(error));
    if (mr->dmabuf >= 0)
        close(mr->dmabuf);
    free(mr);
}

/* ---- Exports ----------------------------------------------------------------------------------------------------- */

static struct verbs_export **bucket(struct verbs_iface *iface, uint64_t token)
{
    return &iface->exports[token % WI_VERBS_EXPORT_BUCKETS];
}

static int export_access(const struct verbs_device *device, const struct verbs_mr *mr)
{
    if (has_windows(device, mr))
        return region_access(device, mr);
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
    bool whole = export->addr == mr->addr && export->len == mr->len;
    struct ibv_mr *own;
    export->mr = mr->mr;
    if (export->len == 0 || (has_windows(device, mr) && (whole || !device->loose_windows)))
        return WEIR_OK;
    weir_status status = range_register(export->iface, mr, export->addr, export->len, export_access(device, mr), &own);
    if (status != WEIR_OK)
        return status;
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
    struct wi_verbs_key key = {.window = has_windows(&verbs_iface(base->iface)->device, mr)};
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

/* ---- Memory of our own ------------------------------------------------------------------------------------------- */

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
