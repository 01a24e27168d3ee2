/*
 * Byte strings that peers exchange: a context's address and a remote key. Pure functions, for untrusted input.
 *
 * Both are a frame {magic, version, fields, sections, CRC-32} with one section a backend: {wire id, length, bytes}.
 * Integers are little endian.
 */
#ifndef WI_TRANSPORT_BLOB_H
#define WI_TRANSPORT_BLOB_H

#include <weir/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WI_BLOB_ADDRESS 0x41524557u /* "WERA" */
#define WI_BLOB_KEY 0x4b524557u     /* "WERK" */
#define WI_BLOB_FIELDS 3

/* A frame that is being written. */
struct wi_blob_writer {
    unsigned char *start;
    size_t room;
    size_t used;
    bool overflow;
};

/* A frame that was checked; points into the bytes it was read from. */
struct wi_blob {
    uint64_t field[WI_BLOB_FIELDS];
    const unsigned char *sections;
    size_t sections_len;
};

void wi_blob_begin(struct wi_blob_writer *writer, void *buf, size_t room, uint32_t magic,
                   const uint64_t field[WI_BLOB_FIELDS]);

/* Room for the next section's bytes: where they go, and how many at most (0: none left). */
void *wi_blob_section_room(struct wi_blob_writer *writer, size_t *room);
void wi_blob_section_done(struct wi_blob_writer *writer, unsigned char wire_id, size_t len);

/* Closes the frame with its checksum. WEIR_ERR_RANGE where the room was too little; else `*len` is what was written. */
weir_status wi_blob_end(struct wi_blob_writer *writer, size_t *len);

/* Checks a frame from a peer. WEIR_ERR_PROTOCOL (with a reason, no sentence set) on damage. */
weir_status wi_blob_read(const void *data, size_t len, uint32_t magic, struct wi_blob *blob, const char **why);

/* The section of a backend, NULL where there is none. */
const void *wi_blob_section(const struct wi_blob *blob, unsigned char wire_id, size_t *len);

#endif
