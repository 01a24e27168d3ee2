/* Registration with the device. */
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

weir_status wi_verbs_mem_register(struct wi_iface *base, const struct wi_mem_desc *desc, struct wi_mr **out)
{
    struct verbs_iface *iface = verbs_iface(base);
    struct verbs_mr *mr = calloc(1, sizeof(*mr));
    if (!mr)
        return wi_error(WEIR_ERR_NO_MEMORY, "registering %zu bytes: out of memory", desc->len);
    int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
    if (iface->device.atomics)
        access |= IBV_ACCESS_REMOTE_ATOMIC;
    mr->mr = ibv_reg_mr(iface->device.pd, desc->addr, desc->len, access);
    if (!mr->mr) {
        int error = errno;
        free(mr);
        return register_error(iface, desc->addr, desc->len, error);
    }
    wi_debug("verbs: %zu bytes at %p registered, key 0x%x", desc->len, desc->addr, mr->mr->rkey);
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

weir_status wi_verbs_mem_export(struct wi_mr *base, const void *addr, size_t len, void *blob, size_t *blob_len)
{
    (void)addr;
    (void)len;
    uint32_t rkey = htole32(((struct verbs_mr *)base)->mr->rkey);
    if (*blob_len < sizeof(rkey))
        return wi_error(WEIR_ERR_RANGE, "export: %zu bytes are too little room for a verbs key", *blob_len);
    memcpy(blob, &rkey, sizeof(rkey));
    *blob_len = sizeof(rkey);
    return WEIR_OK;
}

weir_status wi_verbs_rkey_import(struct weir_ep *ep, const void *blob, size_t blob_len, uint64_t addr, uint64_t len,
                                 struct weir_rkey **out)
{
    (void)addr;
    (void)len;
    uint32_t rkey;
    if (blob_len != sizeof(rkey))
        return wi_error(WEIR_ERR_KEY, "key of rank %llu: its verbs part has %zu bytes, not %zu",
                        (unsigned long long)ep->peer_id, blob_len, sizeof(rkey));
    struct verbs_rkey *key = calloc(1, sizeof(*key));
    if (!key)
        return wi_error(WEIR_ERR_NO_MEMORY, "key of rank %llu: out of memory", (unsigned long long)ep->peer_id);
    memcpy(&rkey, blob, sizeof(rkey));
    key->rkey = le32toh(rkey);
    *out = &key->base;
    return WEIR_OK;
}

void wi_verbs_rkey_destroy(struct weir_rkey *rkey)
{
    free(rkey);
}

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
