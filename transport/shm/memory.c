/*
 * Regions and keys. A region and each exported range of it have slots in our segment's table, with random generations. A
 * key names both: by the region's, peers know memory that they have mapped already, and they look at the export's before
 * each operation. Taking a generation out of its slot ends the region, or revokes the key.
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
    uint64_t generation, region_generation;
    uint64_t region_addr;
    uint64_t region_len;
    uint64_t fd_offset;
    uint64_t inode;
    uint32_t slot, region_slot;
    int32_t fd; /* -1: ordinary memory */
    uint32_t reserved;
};

/* ---- Slots ------------------------------------------------------------------------------------------------------- */

/* Takes a slot and gives it a generation. */
static weir_status slot_take(struct shm_iface *shm, uint32_t *slot, uint64_t *generation)
{
    if (shm->free_slot_count == 0 && shm->fresh_slot == SHM_SLOT_MAX)
        return wi_error(WEIR_ERR_LIMIT, "registration: %d regions and exported ranges are there already", SHM_SLOT_MAX);
    weir_status status = wi_shm_random(generation);
    if (status != WEIR_OK)
        return status;
    *slot = shm->free_slot_count > 0 ? shm->free_slots[--shm->free_slot_count] : shm->fresh_slot++;
    __atomic_store_n(&shm->own.generations[*slot], *generation, __ATOMIC_RELEASE);
    return WEIR_OK;
}

static void slot_give(struct shm_iface *shm, uint32_t slot)
{
    __atomic_store_n(&shm->own.generations[slot], 0, __ATOMIC_SEQ_CST);
    shm->free_slots[shm->free_slot_count++] = slot;
}

/* ---- Regions and exports ----------------------------------------------------------------------------------------- */

weir_status wi_shm_mem_register(struct wi_iface *iface, const struct wi_mem_desc *desc, struct wi_mr **out)
{
    struct shm_iface *shm = (struct shm_iface *)iface;
    struct stat info = {0};
    struct shm_mr *mr = calloc(1, sizeof(*mr));
    if (!mr)
        return wi_error(WEIR_ERR_NO_MEMORY, "registration: out of memory");
    mr->base.iface = iface;
    mr->desc = *desc;
    weir_status status = WEIR_OK;
    if (desc->fd >= 0 && fstat(desc->fd, &info) != 0)
        status = wi_error(WEIR_ERR_INVALID, "registration: descriptor %d: %s", desc->fd, strerror(errno));
    if (status == WEIR_OK)
        status = slot_take(shm, &mr->slot, &mr->generation);
    if (status != WEIR_OK) {
        free(mr);
        return status;
    }
    mr->inode = info.st_ino;
    *out = &mr->base;
    return WEIR_OK;
}

void wi_shm_mem_deregister(struct wi_mr *base)
{
    struct shm_mr *mr = (struct shm_mr *)base;
    slot_give((struct shm_iface *)base->iface, mr->slot);
    free(mr);
}

static weir_status export_create(struct shm_iface *shm, uint64_t addr, uint64_t len, struct shm_export **out)
{
    struct shm_export *export = malloc(sizeof(*export));
    if (!export)
        return wi_error(WEIR_ERR_NO_MEMORY, "export: out of memory");
    *export = (struct shm_export){.shm = shm, .addr = addr, .len = len};
    weir_status status = slot_take(shm, &export->slot, &export->generation);
    if (status != WEIR_OK) {
        free(export);
        return status;
    }
    shm->exports[export->slot] = export;
    *out = export;
    return WEIR_OK;
}

bool wi_shm_mem_unexport(struct wi_export *base)
{
    struct shm_export *export = (struct shm_export *)base;
    export->shm->exports[export->slot] = NULL;
    slot_give(export->shm, export->slot);
    free(export);
    return true;
}

weir_status wi_shm_mem_export(struct wi_mr *base, const void *addr, size_t len, void *blob, size_t *blob_len,
                              struct wi_export **out)
{
    const struct shm_mr *mr = (const struct shm_mr *)base;
    struct shm_iface *shm = (struct shm_iface *)base->iface;
    struct shm_export *export = NULL;
    if (*blob_len < sizeof(struct key_blob))
        return wi_error(WEIR_ERR_RANGE, "export: %zu bytes are too little room", *blob_len);
    weir_status status = export_create(shm, (uintptr_t)addr, len, &export);
    if (status != WEIR_OK)
        return status;
    const struct key_blob key = {
        .cookie = shm->name.cookie,
        .generation = export->generation,
        .region_generation = mr->generation,
        .region_addr = (uintptr_t)mr->desc.addr,
        .region_len = mr->desc.len,
        .fd_offset = mr->desc.fd_offset,
        .inode = mr->inode,
        .slot = export->slot,
        .region_slot = mr->slot,
        .fd = mr->desc.fd,
    };
    memcpy(blob, &key, sizeof(key)); /* the range is in the front's part */
    *blob_len = sizeof(key);
    *out = &export->base;
    return WEIR_OK;
}

/* ---- Memory of peers --------------------------------------------------------------------------------------------- */

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

/* A peer's files close when it dies, which looks as if it had given the memory back. */
static weir_status map_error(struct shm_ep *ep, const char *what)
{
    int cause = errno;
    bool not_there = wi_shm_is_not_there(cause);
    if (not_there && wi_shm_peer_has_left(ep->peer))
        return wi_shm_ep_left(ep);
    return wi_error(cause == EMFILE || cause == ENFILE ? WEIR_ERR_LIMIT : WEIR_ERR_KEY,
                    "remote key of rank %llu: memory of process %d: %s: %s", (unsigned long long)ep->base.peer_id,
                    ep->peer->name.pid, what, not_there ? "it is not there any more" : strerror(cause));
}

/* Opens the memfd that the key names and maps the region. */
static weir_status map_region(struct shm_ep *ep, const struct key_blob *key, struct shm_mapping *mapping)
{
    struct stat info;
    int fd = wi_shm_open_fd(ep->peer->name.pid, key->fd, S_IFREG, key->inode, &info);
    if (fd < 0)
        return map_error(ep, "opening it");
    weir_status status = WEIR_OK;
    uint64_t file_len = (uint64_t)info.st_size;
    if (key->fd_offset > file_len || key->region_len > file_len - key->fd_offset || key->region_len == 0) {
        status = wi_error(WEIR_ERR_KEY, "remote key of rank %llu: memory of process %d is shorter than the key says",
                          (unsigned long long)ep->base.peer_id, ep->peer->name.pid);
    } else {
        void *base = mmap(NULL, key->region_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)key->fd_offset);
        if (base == MAP_FAILED)
            status = map_error(ep, "mapping it");
        else
            mapping->base = base;
    }
    close(fd);
    if (status == WEIR_OK)
        madvise(mapping->base, key->region_len, MADV_HUGEPAGE); /* a refusal changes speed only */
    return status;
}

static weir_status mapping_get(struct shm_ep *ep, const struct key_blob *key, struct shm_mapping **out)
{
    struct shm_peer *peer = ep->peer;
    for (struct shm_mapping *mapping = peer->mappings; mapping; mapping = mapping->next) {
        if (mapping->region == key->region_slot && mapping->generation == key->region_generation &&
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
    weir_status status = map_region(ep, key, mapping);
    if (status != WEIR_OK) {
        free(mapping);
        return status;
    }
    mapping->refs = 1;
    mapping->region = key->region_slot;
    mapping->generation = key->region_generation;
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
    if (key->slot >= SHM_SLOT_MAX || key->region_slot >= SHM_SLOT_MAX || key->slot == key->region_slot ||
        key->generation == 0 || key->region_generation == 0 || addr < key->region_addr ||
        addr - key->region_addr > key->region_len || len > key->region_len - (addr - key->region_addr))
        return wi_error(WEIR_ERR_KEY, "remote key of rank %llu: its fields contradict each other", rank);
    const uint64_t *generations = peer->segment.generations;
    if (__atomic_load_n(&generations[key->slot], __ATOMIC_ACQUIRE) != key->generation ||
        __atomic_load_n(&generations[key->region_slot], __ATOMIC_ACQUIRE) != key->region_generation)
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
    if (key.fd >= 0 && (status = mapping_get(ep, &key, &rkey->mapping)) != WEIR_OK) {
        free(rkey);
        return status;
    }
    if (rkey->mapping)
        rkey->ptr = rkey->mapping->base + (addr - key.region_addr);
    rkey->generation_now = &ep->peer->segment.generations[key.slot];
    rkey->generation = key.generation;
    rkey->slot = key.slot;
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
