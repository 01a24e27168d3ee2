/*
 * Regions and keys. A region has a slot in our segment's table with a random generation; a key names both, and
 * initiators look at the slot before each operation. Taking the generation out revokes the keys.
 */
#include "core/error.h"
#include "transport/shm/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The key as it travels, between processes of one host. */
struct key_blob {
    uint64_t cookie; /* of the segment: the key belongs to this context and no other */
    uint64_t generation;
    uint64_t region_addr;
    uint64_t region_len;
    uint64_t fd_offset;
    uint64_t inode;
    uint32_t region;
    int32_t fd; /* -1: ordinary memory */
};

static bool take_region_slot(struct shm_iface *shm, uint32_t *region)
{
    if (shm->free_region_count > 0) {
        *region = shm->free_regions[--shm->free_region_count];
        return true;
    }
    if (shm->fresh_region == SHM_REGION_MAX)
        return false;
    *region = shm->fresh_region++;
    return true;
}

weir_status wi_shm_mem_register(struct wi_iface *iface, const struct wi_mem_desc *desc, struct wi_mr **out)
{
    struct shm_iface *shm = (struct shm_iface *)iface;
    struct stat info = {0};
    struct shm_mr *mr = calloc(1, sizeof(*mr));
    if (!mr)
        return wi_error(WEIR_ERR_NO_MEMORY, "registration: out of memory");
    mr->base.iface = iface;
    mr->desc = *desc;
    weir_status status = wi_shm_random(&mr->generation);
    if (status == WEIR_OK && desc->fd >= 0 && fstat(desc->fd, &info) != 0)
        status = wi_error(WEIR_ERR_INVALID, "registration: descriptor %d: %s", desc->fd, strerror(errno));
    if (status == WEIR_OK && !take_region_slot(shm, &mr->region))
        status = wi_error(WEIR_ERR_LIMIT, "registration: %d regions are registered already", SHM_REGION_MAX);
    if (status != WEIR_OK) {
        free(mr);
        return status;
    }
    mr->inode = info.st_ino;
    shm->regions[mr->region] = mr;
    __atomic_store_n(&shm->own.generations[mr->region], mr->generation, __ATOMIC_RELEASE);
    *out = &mr->base;
    return WEIR_OK;
}

void wi_shm_mem_deregister(struct wi_mr *base)
{
    struct shm_mr *mr = (struct shm_mr *)base;
    struct shm_iface *shm = (struct shm_iface *)base->iface;
    __atomic_store_n(&shm->own.generations[mr->region], 0, __ATOMIC_SEQ_CST);
    shm->regions[mr->region] = NULL;
    shm->free_regions[shm->free_region_count++] = mr->region;
    free(mr);
}

weir_status wi_shm_mem_export(struct wi_mr *base, const void *addr, size_t len, void *blob, size_t *blob_len)
{
    const struct shm_mr *mr = (const struct shm_mr *)base;
    const struct shm_iface *shm = (const struct shm_iface *)base->iface;
    struct key_blob key = {
        .cookie = shm->name.cookie,
        .generation = mr->generation,
        .region_addr = (uintptr_t)mr->desc.addr,
        .region_len = mr->desc.len,
        .fd_offset = mr->desc.fd_offset,
        .inode = mr->inode,
        .region = mr->region,
        .fd = mr->desc.fd,
    };
    (void)addr;
    (void)len; /* the range is in the front's part */
    if (*blob_len < sizeof(key))
        return wi_error(WEIR_ERR_RANGE, "export: %zu bytes are too little room", *blob_len);
    memcpy(blob, &key, sizeof(key));
    *blob_len = sizeof(key);
    return WEIR_OK;
}

static void unmap(struct shm_mapping *mapping)
{
    munmap(mapping->base, mapping->len);
    free(mapping);
}

void wi_shm_mappings_trim(struct shm_peer *peer, bool all)
{
    for (struct shm_mapping **link = &peer->mappings; *link;) {
        struct shm_mapping *mapping = *link;
        bool live =
            __atomic_load_n(&peer->segment.generations[mapping->region], __ATOMIC_ACQUIRE) == mapping->generation;
        if (!all && (live || mapping->refs > 0)) {
            link = &mapping->next;
            continue;
        }
        *link = mapping->next;
        unmap(mapping);
    }
}

static weir_status map_error(const struct shm_peer *peer, const char *what)
{
    return wi_error(errno == EMFILE || errno == ENFILE ? WEIR_ERR_LIMIT : WEIR_ERR_KEY,
                    "remote key: memory of process %d: %s: %s", peer->name.pid, what,
                    errno == ESTALE ? "it is not there any more" : strerror(errno));
}

/* Opens the memfd that the key names and maps the region. */
static weir_status map_region(const struct shm_peer *peer, const struct key_blob *key, struct shm_mapping *mapping)
{
    struct stat info;
    int fd = wi_shm_open_fd(peer->name.pid, key->fd, S_IFREG, key->inode, &info);
    if (fd < 0)
        return map_error(peer, "opening it");
    weir_status status = WEIR_OK;
    uint64_t file_len = (uint64_t)info.st_size;
    if (key->fd_offset > file_len || key->region_len > file_len - key->fd_offset || key->region_len == 0) {
        status =
            wi_error(WEIR_ERR_KEY, "remote key: memory of process %d is shorter than the key says", peer->name.pid);
    } else {
        void *base = mmap(NULL, key->region_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)key->fd_offset);
        if (base == MAP_FAILED)
            status = map_error(peer, "mapping it");
        else
            mapping->base = base;
    }
    close(fd);
    if (status == WEIR_OK)
        madvise(mapping->base, key->region_len, MADV_HUGEPAGE); /* a refusal changes speed only */
    return status;
}

static weir_status mapping_get(struct shm_peer *peer, const struct key_blob *key, struct shm_mapping **out)
{
    for (struct shm_mapping *mapping = peer->mappings; mapping; mapping = mapping->next) {
        if (mapping->region == key->region && mapping->generation == key->generation &&
            mapping->addr == key->region_addr && mapping->len == key->region_len) {
            mapping->refs++;
            *out = mapping;
            return WEIR_OK;
        }
    }
    wi_shm_mappings_trim(peer, false);
    struct shm_mapping *mapping = calloc(1, sizeof(*mapping));
    if (!mapping)
        return wi_error(WEIR_ERR_NO_MEMORY, "remote key: out of memory");
    weir_status status = map_region(peer, key, mapping);
    if (status != WEIR_OK) {
        free(mapping);
        return status;
    }
    mapping->refs = 1;
    mapping->region = key->region;
    mapping->generation = key->generation;
    mapping->addr = key->region_addr;
    mapping->len = key->region_len;
    mapping->next = peer->mappings;
    peer->mappings = mapping;
    *out = mapping;
    return WEIR_OK;
}

/* What the key says must hold together before anything is opened. */
static weir_status check_key(const struct shm_ep *ep, const struct key_blob *key, uint64_t addr, uint64_t len)
{
    unsigned long long rank = ep->base.peer_id;
    const struct shm_peer *peer = ep->peer;
    if (key->cookie != peer->name.cookie)
        return wi_error(WEIR_ERR_KEY, "remote key: it was not exported by rank %llu", rank);
    if (key->region >= SHM_REGION_MAX || key->generation == 0 || addr < key->region_addr ||
        addr - key->region_addr > key->region_len || len > key->region_len - (addr - key->region_addr))
        return wi_error(WEIR_ERR_KEY, "remote key of rank %llu: its fields contradict each other", rank);
    if (__atomic_load_n(&peer->segment.generations[key->region], __ATOMIC_ACQUIRE) != key->generation)
        return wi_error(WEIR_ERR_KEY, "remote key of rank %llu: it was revoked", rank);
    return WEIR_OK;
}

weir_status wi_shm_rkey_import(struct weir_ep *base, const void *blob, size_t blob_len, uint64_t addr, uint64_t len,
                               struct weir_rkey **out)
{
    struct shm_ep *ep = (struct shm_ep *)base;
    struct key_blob key;
    if (blob_len != sizeof(key))
        return wi_error(WEIR_ERR_KEY, "remote key of rank %llu: %zu bytes instead of %zu",
                        (unsigned long long)base->peer_id, blob_len, sizeof(key));
    memcpy(&key, blob, sizeof(key));
    weir_status status = check_key(ep, &key, addr, len);
    if (status != WEIR_OK)
        return status;
    struct shm_rkey *rkey = calloc(1, sizeof(*rkey));
    if (!rkey)
        return wi_error(WEIR_ERR_NO_MEMORY, "remote key: out of memory");
    if (key.fd >= 0 && (status = mapping_get(ep->peer, &key, &rkey->mapping)) != WEIR_OK) {
        free(rkey);
        return status;
    }
    if (rkey->mapping)
        rkey->ptr = rkey->mapping->base + (addr - key.region_addr);
    rkey->generation_now = &ep->peer->segment.generations[key.region];
    rkey->generation = key.generation;
    rkey->region = key.region;
    rkey->base.ep = base;
    *out = &rkey->base;
    return WEIR_OK;
}

void wi_shm_rkey_destroy(struct weir_rkey *base)
{
    struct shm_rkey *rkey = (struct shm_rkey *)base;
    struct shm_ep *ep = (struct shm_ep *)base->ep;
    if (rkey->mapping && --rkey->mapping->refs == 0)
        wi_shm_mappings_trim(ep->peer, false);
    free(rkey);
}

weir_status wi_shm_rkey_map(struct weir_rkey *base, uint64_t remote_addr, size_t len, void **ptr)
{
    const struct shm_rkey *rkey = (const struct shm_rkey *)base;
    (void)len; /* checked by the front */
    if (__atomic_load_n(rkey->generation_now, __ATOMIC_ACQUIRE) != rkey->generation)
        return wi_error(WEIR_ERR_KEY, "map: rank %llu has revoked the key", (unsigned long long)base->ep->peer_id);
    if (!rkey->mapping)
        return wi_error(WEIR_ERR_UNSUPPORTED,
                        "map: rank %llu exported ordinary memory; memory from weir_pool_alloc() can be mapped",
                        (unsigned long long)base->ep->peer_id);
    *ptr = rkey->ptr + (remote_addr - base->addr);
    return WEIR_OK;
}
