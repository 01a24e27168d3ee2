/* Fuzzes the frames of addresses and remote keys: anything, and right ones that were damaged. */
#include "bytes_of.h"
#include "transport/blob.h"

#include <stdlib.h>

/* What was accepted lies within the input, section by section. */
static void look(const uint8_t *data, size_t len, uint32_t magic)
{
    struct wi_blob blob;
    const char *why;
    uint8_t *exact = malloc(len ? len : 1); /* the sanitizer sees what is beyond */
    memcpy(exact, data, len);
    if (wi_blob_read(exact, len, magic, &blob, &why) != WEIR_OK) {
        check(why && why[0]);
        free(exact);
        return;
    }
    for (unsigned id = 0; id < 8; id++) {
        size_t section_len;
        const uint8_t *section = wi_blob_section(&blob, (unsigned char)id, &section_len);
        check(!section || (section >= exact && section + section_len <= exact + len));
        for (size_t i = 0; section && i < section_len; i++)
            exact[0] ^= section[i];
    }
    free(exact);
}

/* Writes a frame from the input; it reads back as it was. */
static size_t write_frame(struct bytes_of *input, uint8_t *frame, size_t room)
{
    struct wi_blob_writer writer;
    struct wi_blob blob;
    const char *why;
    const uint64_t field[WI_BLOB_FIELDS] = {take_word(input), take_word(input), take_word(input)};
    uint8_t ids[4], count = take_byte(input) % 4;
    size_t lens[4], len = room;
    wi_blob_begin(&writer, frame, room, WI_BLOB_KEY, field);
    for (unsigned i = 0; i < count; i++) {
        size_t section_room;
        uint8_t *section = wi_blob_section_room(&writer, &section_room);
        lens[i] = take_byte(input);
        ids[i] = (uint8_t)(i + 1);
        if (!section || lens[i] > section_room)
            return 0;
        memset(section, (int)i, lens[i]);
        wi_blob_section_done(&writer, ids[i], lens[i]);
    }
    if (wi_blob_end(&writer, &len) != WEIR_OK)
        return 0;
    check(wi_blob_read(frame, len, WI_BLOB_KEY, &blob, &why) == WEIR_OK && memcmp(blob.field, field, sizeof(field)) == 0);
    for (unsigned i = 0; i < count; i++) {
        size_t section_len;
        check(wi_blob_section(&blob, ids[i], &section_len) && section_len == lens[i]);
    }
    return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes_of input = {data, size};
    uint8_t frame[1024];
    look(data, size, WI_BLOB_ADDRESS);
    look(data, size, WI_BLOB_KEY);
    size_t len = write_frame(&input, frame, 64 + take_byte(&input) * 4u);
    for (unsigned i = 0; len > 0 && i < 4; i++) {
        frame[take_word(&input) % len] ^= take_byte(&input);
        look(frame, len, WI_BLOB_KEY);
    }
    return 0;
}
