/*
 * Exports: ranges of a region that peers may reach by a key. Each is known by its range, and who has lent it out if somebody
 * has; the same range gives the same key, as it was written the first time, until it is taken back.
 */
#include "core/error.h"
#include "core/log.h"
#include "transport/blob.h"
#include "transport/context.h"
#include "transport/lend.h"

#include <stdlib.h>
#include <string.h>

struct wi_mem_export {
    struct wi_mem_export *next;
    struct weir_mem *mem;
    const struct wi_lender *lender; /* NULL: the user's own */
    struct wi_list lent;            /* of its lender */
    uint64_t addr, len;
    struct wi_export *of[WI_IFACE_MAX]; /* by index of the interface */
    size_t blob_len;
    unsigned char blob[];
};

/* ---- By range ---------------------------------------------------------------------------------------------------- */

static size_t bucket_of(const struct wi_exports *exports, uint64_t addr, uint64_t len)
{
    uint64_t hash = (addr ^ len << 32) * 0x9e3779b97f4a7c15ull;
    return (hash >> 32) & (exports->room - 1);
}

/* Where the pointer to an export is, or would be. NULL: there is no table. */
static struct wi_mem_export **place_of(const struct wi_exports *exports, const struct wi_lender *lender, uint64_t addr,
                                       uint64_t len)
{
    if (exports->room == 0)
        return NULL;
    struct wi_mem_export **at = &exports->buckets[bucket_of(exports, addr, len)];
    while (*at && ((*at)->addr != addr || (*at)->len != len || (*at)->lender != lender))
        at = &(*at)->next;
    return at;
}

/* Keeps at least as many buckets as exports. False: there are none, and no memory. */
static bool make_room(struct wi_exports *exports)
{
    if (exports->count < exports->room)
        return true;
    struct wi_exports larger = {.room = exports->room ? 2 * exports->room : 4, .count = exports->count};
    larger.buckets = calloc(larger.room, sizeof(struct wi_mem_export *));
    if (!larger.buckets)
        return exports->room > 0;
    for (size_t i = 0; i < exports->room; i++) {
        for (struct wi_mem_export *export = exports->buckets[i], *next; export; export = next) {
            size_t at = bucket_of(&larger, export->addr, export->len);
            next = export->next;
            export->next = larger.buckets[at];
            larger.buckets[at] = export;
        }
    }
    free(exports->buckets);
    *exports = larger;
    return true;
}

/* ---- Making and taking back -------------------------------------------------------------------------------------- */

/* Takes the key back from all backends. NULL, or the name of one that cannot. */
static const char *take_back(struct wi_mem_export *export)
{
    const char *unable = NULL;
    for (int i = 0; i < WI_IFACE_MAX; i++) {
        if (!export->of[i])
            continue;
        const struct wi_transport_ops *ops = export->of[i]->mr->iface->ops;
        if (!ops->mem_unexport(export->of[i]))
            unable = ops->name;
    }
    wi_list_remove(&export->lent);
    free(export);
    return unable;
}

/* The same of one that is in its region's table, which `at` points into. */
static const char *take_out(struct wi_mem_export **at)
{
    struct wi_mem_export *export = *at;
    *at = export->next;
    export->mem->exports.count--;
    return take_back(export);
}

static weir_status write_sections(struct weir_mem *mem, struct wi_mem_export *export, struct wi_blob_writer *writer)
{
    struct weir_ctx *ctx = mem->ctx;
    for (int i = 0; i < ctx->iface_count; i++) {
        const struct wi_transport_ops *ops = ctx->iface[i]->ops;
        size_t room;
        if (!mem->mr[i])
            continue; /* device memory, which it does not reach */
        void *section = wi_blob_section_room(writer, &room);
        if (!section)
            break;
        weir_status status =
            ops->mem_export(mem->mr[i], (const void *)(uintptr_t)export->addr, export->len, section, &room, &export->of[i]);
        if (status != WEIR_OK)
            return status;
        export->of[i]->mr = mem->mr[i];
        wi_blob_section_done(writer, ops->wire_id, room);
    }
    return WEIR_OK;
}

static weir_status export_make(struct weir_mem *mem, struct wi_lender *lender, uint64_t addr, uint64_t len,
                               struct wi_mem_export **out)
{
    struct wi_blob_writer writer;
    const uint64_t field[WI_BLOB_FIELDS] = {addr, len, mem->desc.id};
    struct wi_mem_export *export = calloc(1, sizeof(*export) + WEIR_RKEY_MAX), *smaller;
    if (!export || !make_room(&mem->exports)) {
        free(export);
        return wi_error(WEIR_ERR_NO_MEMORY, "export: out of memory");
    }
    export->mem = mem;
    export->lender = lender;
    export->addr = addr;
    export->len = len;
    wi_list_init(&export->lent);
    wi_blob_begin(&writer, export->blob, WEIR_RKEY_MAX, WI_BLOB_KEY, field);
    weir_status status = write_sections(mem, export, &writer);
    if (status == WEIR_OK && wi_blob_end(&writer, &export->blob_len) != WEIR_OK)
        status = wi_error(WEIR_ERR_RANGE, "export: a key takes more than WEIR_RKEY_MAX bytes");
    if (status != WEIR_OK) {
        take_back(export);
        return status;
    }
    if ((smaller = realloc(export, sizeof(*export) + export->blob_len)))
        export = smaller;
    wi_list_init(&export->lent); /* it may have moved */
    if (lender)
        wi_list_append(&lender->exports, &export->lent);
    struct wi_mem_export **at = &mem->exports.buckets[bucket_of(&mem->exports, addr, len)];
    export->next = *at;
    *at = export;
    mem->exports.count++;
    *out = export;
    return WEIR_OK;
}

static bool holds(const struct weir_mem *mem, const void *addr, size_t len)
{
    uintptr_t offset = (uintptr_t)addr - (uintptr_t)mem->desc.addr;
    return (uintptr_t)addr >= (uintptr_t)mem->desc.addr && offset <= mem->desc.len && len <= mem->desc.len - offset;
}

static weir_status export_to(struct wi_lender *lender, struct weir_mem *mem, const void *addr, size_t len, void *blob,
                             size_t *blob_len)
{
    weir_status status = wi_process_check(mem->ctx, "weir_mem_export");
    if (status != WEIR_OK)
        return status;
    if (!holds(mem, addr, len))
        return wi_error(WEIR_ERR_RANGE, "export: %zu bytes at %p are not within the region of %zu bytes at %p", len,
                        addr, mem->desc.len, mem->desc.addr);
    wi_ctx_lock(mem->ctx);
    struct wi_mem_export **at = place_of(&mem->exports, lender, (uintptr_t)addr, len), *export = at ? *at : NULL;
    status = export ? WEIR_OK : export_make(mem, lender, (uintptr_t)addr, len, &export);
    if (status == WEIR_OK && *blob_len < export->blob_len)
        status = wi_error(WEIR_ERR_RANGE, "export: %zu bytes are too little room; give WEIR_RKEY_MAX", *blob_len);
    if (status == WEIR_OK) {
        memcpy(blob, export->blob, export->blob_len);
        *blob_len = export->blob_len;
    }
    wi_ctx_unlock(mem->ctx);
    return status;
}

weir_status weir_mem_export(weir_mem *mem, const void *addr, size_t len, void *blob, size_t *blob_len)
{
    return export_to(NULL, mem, addr, len, blob, blob_len);
}

/* An export as its key was written; NULL: it is none of the region's, or not any more. */
static struct wi_mem_export **find(const struct weir_mem *mem, const void *data, size_t len)
{
    struct wi_blob blob;
    const char *why;
    if (wi_blob_read(data, len, WI_BLOB_KEY, &blob, &why) != WEIR_OK)
        return NULL;
    struct wi_mem_export **at = place_of(&mem->exports, NULL, blob.field[0], blob.field[1]);
    return at && *at && (*at)->blob_len == len && memcmp((*at)->blob, data, len) == 0 ? at : NULL;
}

weir_status weir_mem_unexport(weir_mem *mem, const void *blob, size_t blob_len)
{
    struct weir_ctx *ctx = mem->ctx;
    const char *unable = NULL;
    weir_status status = wi_process_check(ctx, "weir_mem_unexport");
    if (status != WEIR_OK)
        return status;
    wi_ctx_lock(ctx);
    struct wi_mem_export **at = find(mem, blob, blob_len);
    if (at)
        unable = take_out(at);
    else
        status = wi_error(WEIR_ERR_KEY, "unexport: this is no key of the region, or it was taken back before");
    wi_ctx_unlock(ctx);
    if (unable)
        status = wi_error(WEIR_ERR_UNSUPPORTED,
                          "unexport: peers that have the key can use it over %s until the region is deregistered", unable);
    return status;
}

void wi_exports_end(struct weir_mem *mem)
{
    for (size_t i = 0; i < mem->exports.room; i++) {
        for (struct wi_mem_export *export = mem->exports.buckets[i], *next; export; export = next) {
            next = export->next;
            take_back(export);
        }
    }
    free(mem->exports.buckets);
    mem->exports = (struct wi_exports){0};
}

/* ---- Lending ----------------------------------------------------------------------------------------------------- */

void wi_lender_init(struct wi_lender *lender)
{
    wi_list_init(&lender->exports);
}

weir_status wi_lend(struct wi_lender *lender, weir_mem *mem, const void *addr, size_t len, void *blob, size_t *blob_len)
{
    return export_to(lender, mem, addr, len, blob, blob_len);
}

void wi_lender_end(struct wi_lender *lender, weir_ctx *ctx)
{
    const char *unable = NULL;
    wi_ctx_lock(ctx);
    while (!wi_list_empty(&lender->exports)) {
        struct wi_mem_export *export = WI_LIST_ITEM(lender->exports.next, struct wi_mem_export, lent);
        const char *why = take_out(place_of(&export->mem->exports, lender, export->addr, export->len));
        unable = why ? why : unable;
    }
    wi_ctx_unlock(ctx);
    if (unable)
        wi_debug("keys of memory that peers were given can be used over %s until it is deregistered", unable);
}
