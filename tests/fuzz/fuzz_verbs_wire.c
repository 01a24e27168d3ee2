/* Fuzzes what verbs interfaces tell each other when they connect: addresses, hello, welcome. */
#include "bytes_of.h"
#include "transport/verbs/wire.h"

#include <stdlib.h>

static void look(const uint8_t *data, size_t len)
{
    struct wi_verbs_address address;
    struct wi_verbs_hello hello;
    struct wi_verbs_welcome welcome;
    unsigned char again[512], once_more[512];
    size_t again_len = sizeof(again);
    if (wi_verbs_address_decode(data, len, &address)) {
        char text[80];
        check(address.count > 0 && address.count <= WI_VERBS_ADDRESS_MAX);
        for (unsigned i = 0; i < address.count; i++)
            wi_verbs_address_print(&address.ip[i].any, text, sizeof(text));
        check(wi_verbs_address_encode(&address, again, &again_len) && again_len == len);
        check(wi_verbs_address_decode(again, again_len, &address));
    }
    if (wi_verbs_hello_decode(data, len, &hello)) {
        wi_verbs_hello_encode(&hello, again);
        check(wi_verbs_hello_decode(again, WI_VERBS_HELLO_SIZE, &hello));
        wi_verbs_hello_encode(&hello, once_more);
        check(memcmp(again, once_more, WI_VERBS_HELLO_SIZE) == 0);
    }
    if (wi_verbs_welcome_decode(data, len, &welcome)) {
        wi_verbs_welcome_encode(&welcome, again);
        check(wi_verbs_welcome_decode(again, WI_VERBS_WELCOME_SIZE, &welcome));
        wi_verbs_welcome_encode(&welcome, once_more);
        check(memcmp(again, once_more, WI_VERBS_WELCOME_SIZE) == 0);
    }
}

/* No message may leave the ring's memory, whatever its length and where the last one ended. */
static void walk_ring(struct bytes_of *input)
{
    uint64_t position = take_word(input), taken = position;
    for (int i = 0; i < 32 && input->left > 0; i++) {
        uint32_t len = take_word(input) % (WEIR_MSG_MAX + 1);
        if (!wi_verbs_ring_fits(position, taken, len)) {
            taken = position;
            continue;
        }
        uint32_t offset = wi_verbs_ring_offset(position);
        check(offset % WI_VERBS_RING_ALIGN == position % WI_VERBS_RING_ALIGN);
        check((uint64_t)offset + WI_VERBS_ENTRY_HEADER + len <= WI_VERBS_RING_BYTES);
        position = wi_verbs_ring_next(position, len);
        check(position - taken <= WI_VERBS_RING_SIZE);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t head[8] = {'w', 'e', 'i', 'r', 2};
    struct bytes_of input = {data, size};
    uint8_t *exact = malloc(size + sizeof(head));
    memcpy(exact, data, size);
    look(exact, size);
    memcpy(exact, head, sizeof(head)); /* what nearly everything that is right begins with */
    memcpy(exact + sizeof(head), data, size);
    look(exact, size + sizeof(head));
    free(exact);
    walk_ring(&input);
    return 0;
}
