/* Writing and checking the byte strings that peers exchange; see blob.h for the layout. */
#include "transport/blob.h"

#include "core/crc.h"

#include <string.h>

enum {
    BLOB_VERSION = 1,
    HEADER_LEN = 4 + 2 + 2 + 8 * WI_BLOB_FIELDS, /* magic, version, total length, fields */
    SECTION_HEADER_LEN = 1 + 2,
    CRC_LEN = 4,
};

static void store(unsigned char *to, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

static uint64_t load(const unsigned char *from, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++)
        value |= (uint64_t)from[i] << (8 * i);
    return value;
}

void wi_blob_begin(struct wi_blob_writer *writer, void *buf, size_t room, uint32_t magic,
                   const uint64_t field[WI_BLOB_FIELDS])
{
    *writer = (struct wi_blob_writer){.start = buf, .room = room};
    if (room < HEADER_LEN + CRC_LEN) {
        writer->overflow = true;
        return;
    }
    store(writer->start, magic, 4);
    store(writer->start + 4, BLOB_VERSION, 2);
    for (size_t i = 0; i < WI_BLOB_FIELDS; i++)
        store(writer->start + 8 + 8 * i, field[i], 8);
    writer->used = HEADER_LEN;
}

void *wi_blob_section_room(struct wi_blob_writer *writer, size_t *room)
{
    size_t overhead = writer->used + SECTION_HEADER_LEN + CRC_LEN;
    if (writer->overflow || overhead >= writer->room) {
        writer->overflow = true;
        *room = 0;
        return NULL;
    }
    *room = writer->room - overhead;
    return writer->start + writer->used + SECTION_HEADER_LEN;
}

void wi_blob_section_done(struct wi_blob_writer *writer, unsigned char wire_id, size_t len)
{
    store(writer->start + writer->used, wire_id, 1);
    store(writer->start + writer->used + 1, len, 2);
    writer->used += SECTION_HEADER_LEN + len;
}

weir_status wi_blob_end(struct wi_blob_writer *writer, size_t *len)
{
    if (writer->overflow)
        return WEIR_ERR_RANGE;
    store(writer->start + 6, writer->used + CRC_LEN, 2);
    store(writer->start + writer->used, wi_crc32(writer->start, writer->used), CRC_LEN);
    *len = writer->used + CRC_LEN;
    return WEIR_OK;
}

/* Do the sections fill their space exactly? */
static bool sections_fit(const unsigned char *at, size_t left)
{
    while (left > 0) {
        if (left < SECTION_HEADER_LEN)
            return false;
        size_t len = SECTION_HEADER_LEN + (size_t)load(at + 1, 2);
        if (len > left)
            return false;
        at += len;
        left -= len;
    }
    return true;
}

weir_status wi_blob_read(const void *data, size_t len, uint32_t magic, struct wi_blob *blob, const char **why)
{
    const unsigned char *bytes = data;
    *why = NULL;
    if (!data || len < HEADER_LEN + CRC_LEN)
        *why = "it is too short";
    else if (load(bytes, 4) != magic)
        *why = "it is of another kind";
    else if (load(bytes + 4, 2) != BLOB_VERSION)
        *why = "it was made by another version of Weir; use the same one on all ranks";
    else if (load(bytes + 6, 2) != len)
        *why = "its length is wrong";
    else if (load(bytes + len - CRC_LEN, CRC_LEN) != wi_crc32(bytes, len - CRC_LEN))
        *why = "its checksum is wrong";
    else if (!sections_fit(bytes + HEADER_LEN, len - HEADER_LEN - CRC_LEN))
        *why = "its sections do not fit";
    if (*why)
        return WEIR_ERR_PROTOCOL;
    for (size_t i = 0; i < WI_BLOB_FIELDS; i++)
        blob->field[i] = load(bytes + 8 + 8 * i, 8);
    blob->sections = bytes + HEADER_LEN;
    blob->sections_len = len - HEADER_LEN - CRC_LEN;
    return WEIR_OK;
}

const void *wi_blob_section(const struct wi_blob *blob, unsigned char wire_id, size_t *len)
{
    const unsigned char *at = blob->sections, *end = at + blob->sections_len;
    while (at < end) {
        *len = (size_t)load(at + 1, 2);
        if (at[0] == wire_id)
            return at + SECTION_HEADER_LEN;
        at += SECTION_HEADER_LEN + *len;
    }
    *len = 0;
    return NULL;
}
