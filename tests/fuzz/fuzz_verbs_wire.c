/*
 * Fuzzes what verbs interfaces tell each other: addresses, hello, welcome, keys, requests for windows and their answers,
 * lists of parts for several devices, and offers in the store.
 */
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
        check((address.count > 0) != address.by_store && address.count <= WI_VERBS_ADDRESS_MAX);
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

static void look_at_list(const uint8_t *data, size_t len)
{
    if (!wi_verbs_list_check(data, len))
        return;
    size_t part_len, sum = 0;
    check(wi_verbs_list_find(data, wi_verbs_list_first(data), &part_len));
    for (unsigned slot = 0; slot < 256; slot++) {
        const uint8_t *part = wi_verbs_list_find(data, slot, &part_len);
        if (!part)
            continue;
        check(slot < WI_VERBS_RAILS_MAX && part >= data && part + part_len <= data + len);
        for (size_t i = 0; i < part_len; i++)
            sum += part[i];
    }
    check(sum <= 255 * len * WI_VERBS_RAILS_MAX);
}

static void look_at_keys(const uint8_t *data, size_t len)
{
    struct wi_verbs_key key;
    struct wi_verbs_request request;
    struct wi_verbs_answer answer;
    unsigned char again[WI_VERBS_REQUEST_SIZE], once_more[WI_VERBS_REQUEST_SIZE];
    uint64_t word;
    if (wi_verbs_key_decode(data, len, &key)) {
        wi_verbs_key_encode(&key, again);
        check(wi_verbs_key_decode(again, WI_VERBS_KEY_SIZE, &key));
        wi_verbs_key_encode(&key, once_more);
        check(memcmp(again, once_more, WI_VERBS_KEY_SIZE) == 0);
    }
    if (len >= WI_VERBS_REQUEST_SIZE && wi_verbs_request_decode(data, &request)) {
        check(request.kind == WI_VERBS_ASK_WINDOW || request.kind == WI_VERBS_GIVE_WINDOW);
        wi_verbs_request_encode(&request, again);
        check(wi_verbs_request_decode(again, &request));
        wi_verbs_request_encode(&request, once_more);
        check(memcmp(again, once_more, sizeof(again)) == 0);
    }
    if (len >= sizeof(word)) {
        memcpy(&word, data, sizeof(word));
        wi_verbs_answer_decode(word, &answer);
        struct wi_verbs_answer same;
        wi_verbs_answer_decode(wi_verbs_answer_encode(&answer), &same);
        check(same.sequence == answer.sequence && same.status == answer.status && same.rkey == answer.rkey);
    }
}

/* What peers leave in the store. */
static void look_at_offers(const uint8_t *data, size_t len)
{
    struct wi_verbs_offer offer;
    struct wi_verbs_offer_answer answer;
    unsigned char again[WI_VERBS_OFFER_ANSWER_MAX];
    if (wi_verbs_offer_decode(data, len, &offer)) {
        check(offer.nonce != 0 && offer.path.qp_num <= WI_VERBS_24_BITS && offer.path.psn <= WI_VERBS_24_BITS);
        wi_verbs_offer_encode(&offer, again);
        check(wi_verbs_offer_decode(again, WI_VERBS_OFFER_SIZE, &offer));
    }
    if (wi_verbs_offer_answer_decode(data, len, &answer)) {
        check(memchr(answer.refusal, 0, sizeof(answer.refusal)) != NULL);
        size_t again_len = wi_verbs_offer_answer_encode(&answer, again);
        check(wi_verbs_offer_answer_decode(again, again_len, &answer));
    }
}

/* The same behind a path, with what is right in the fixed places: an offer is too long to be found by chance. */
static void forge_offers(const uint8_t *data, size_t len)
{
    unsigned char offer[WI_VERBS_OFFER_SIZE] = {0}, answer[WI_VERBS_OFFER_ANSWER_MAX] = {0};
    wi_verbs_offer_encode(&(struct wi_verbs_offer){.nonce = 1, .path = {.mtu = 3}}, offer);
    wi_verbs_offer_answer_encode(&(struct wi_verbs_offer_answer){.nonce = 1, .accepted = true, .path = {.mtu = 3}}, answer);
    for (size_t i = 0; i + 1 < len; i += 2) {
        offer[data[i] % sizeof(offer)] = data[i + 1];
        answer[data[i] % WI_VERBS_ACCEPTED_SIZE] = data[i + 1];
    }
    look_at_offers(offer, sizeof(offer));
    look_at_offers(answer, WI_VERBS_ACCEPTED_SIZE);
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
    look_at_list(exact, size);
    look_at_keys(exact, size);
    look_at_offers(exact, size);
    forge_offers(data, size);
    memcpy(exact, head, sizeof(head)); /* what nearly everything that is right begins with */
    memcpy(exact + sizeof(head), data, size);
    look(exact, size + sizeof(head));
    free(exact);
    walk_ring(&input);
    return 0;
}
