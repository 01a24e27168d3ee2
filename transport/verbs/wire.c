#include "transport/verbs/wire.h"

#include <arpa/inet.h>
#include <endian.h>
#include <stdio.h>
#include <string.h>

enum {
    MAGIC = 0x72696577, /* "weir" */
    VERSION = 2,
    BY_STORE = 0x100,
    ADDRESS_HEADER = 16,
    ADDRESS_ENTRY = 20,
    MTU_MAX = 5, /* 4096 */
};

static void store16(unsigned char *at, uint16_t value)
{
    value = htole16(value);
    memcpy(at, &value, sizeof(value));
}

static void store32(unsigned char *at, uint32_t value)
{
    value = htole32(value);
    memcpy(at, &value, sizeof(value));
}

static void store64(unsigned char *at, uint64_t value)
{
    value = htole64(value);
    memcpy(at, &value, sizeof(value));
}

static uint16_t load16(const unsigned char *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof(value));
    return le16toh(value);
}

static uint32_t load32(const unsigned char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return le32toh(value);
}

static uint64_t load64(const unsigned char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof(value));
    return le64toh(value);
}

/* Header: magic (u32), version (u16), count and BY_STORE (u16), cookie (u64). Entry: 4 or 6
 * (u16), port (u16), address (16 bytes). */
bool wi_verbs_address_encode(const struct wi_verbs_address *address, void *buf, size_t *len)
{
    size_t need = ADDRESS_HEADER + address->count * ADDRESS_ENTRY;
    if (*len < need)
        return false;
    unsigned char *at = buf;
    memset(buf, 0, need);
    store32(at, MAGIC);
    store16(at + 4, VERSION);
    store16(at + 6, (uint16_t)(address->count | (address->by_store ? BY_STORE : 0)));
    store64(at + 8, address->cookie);
    at += ADDRESS_HEADER;
    for (unsigned i = 0; i < address->count; i++, at += ADDRESS_ENTRY) {
        bool v4 = address->ip[i].any.sa_family == AF_INET;
        store16(at, v4 ? 4 : 6);
        store16(at + 2, ntohs(v4 ? address->ip[i].in4.sin_port : address->ip[i].in6.sin6_port));
        if (v4)
            memcpy(at + 4, &address->ip[i].in4.sin_addr, 4);
        else
            memcpy(at + 4, &address->ip[i].in6.sin6_addr, 16);
    }
    *len = need;
    return true;
}

bool wi_verbs_address_decode(const void *buf, size_t len, struct wi_verbs_address *address)
{
    const unsigned char *at = buf;
    if (len < ADDRESS_HEADER || load32(at) != MAGIC || load16(at + 4) != VERSION)
        return false;
    memset(address, 0, sizeof(*address));
    address->by_store = load16(at + 6) & BY_STORE;
    address->count = load16(at + 6) & ~(unsigned)BY_STORE;
    address->cookie = load64(at + 8);
    if ((address->count == 0) != address->by_store || address->count > WI_VERBS_ADDRESS_MAX ||
        len != ADDRESS_HEADER + address->count * (size_t)ADDRESS_ENTRY)
        return false;
    at += ADDRESS_HEADER;
    for (unsigned i = 0; i < address->count; i++, at += ADDRESS_ENTRY) {
        uint16_t kind = load16(at), port = htons(load16(at + 2));
        if ((kind != 4 && kind != 6) || port == 0)
            return false;
        if (kind == 4) {
            address->ip[i].in4.sin_family = AF_INET;
            address->ip[i].in4.sin_port = port;
            memcpy(&address->ip[i].in4.sin_addr, at + 4, 4);
        } else {
            address->ip[i].in6.sin6_family = AF_INET6;
            address->ip[i].in6.sin6_port = port;
            memcpy(&address->ip[i].in6.sin6_addr, at + 4, 16);
        }
    }
    return true;
}

void wi_verbs_address_print(const struct sockaddr *ip, char *text, size_t size)
{
    char number[INET6_ADDRSTRLEN] = "?";
    bool v4 = ip->sa_family == AF_INET;
    const struct sockaddr_in *in4 = (const void *)ip;
    const struct sockaddr_in6 *in6 = (const void *)ip;
    inet_ntop(ip->sa_family, v4 ? (const void *)&in4->sin_addr : (const void *)&in6->sin6_addr, number, sizeof(number));
    snprintf(text, size, "%s port %u", number, ntohs(v4 ? in4->sin_port : in6->sin6_port));
}

bool wi_verbs_list_add(void *list, size_t room, size_t *len, unsigned slot, const void *part, size_t part_len)
{
    unsigned char *at = list;
    size_t used = *len ? *len : 1;
    if (part_len > 255 || used + 2 + part_len > room)
        return false;
    if (*len == 0)
        at[0] = 0;
    at[0]++;
    at[used] = (unsigned char)slot;
    at[used + 1] = (unsigned char)part_len;
    memcpy(at + used + 2, part, part_len);
    *len = used + 2 + part_len;
    return true;
}

bool wi_verbs_list_check(const void *list, size_t len)
{
    const unsigned char *at = list;
    if (len < 1 || at[0] == 0 || at[0] > WI_VERBS_RAILS_MAX)
        return false;
    size_t used = 1;
    for (unsigned i = 0; i < at[0]; i++) {
        if (len - used < 2 || at[used] >= WI_VERBS_RAILS_MAX || len - used - 2 < at[used + 1])
            return false;
        used += 2 + (size_t)at[used + 1];
    }
    return used == len;
}

const void *wi_verbs_list_find(const void *list, unsigned slot, size_t *part_len)
{
    const unsigned char *at = list, *part = at + 1;
    for (unsigned i = 0; i < at[0]; i++, part += 2 + part[1]) {
        if (part[0] != slot)
            continue;
        *part_len = part[1];
        return part + 2;
    }
    return NULL;
}

unsigned wi_verbs_list_first(const void *list)
{
    return ((const unsigned char *)list)[1];
}

void wi_verbs_hello_encode(const struct wi_verbs_hello *hello, unsigned char buf[WI_VERBS_HELLO_SIZE])
{
    store32(buf, MAGIC);
    store32(buf + 4, VERSION);
    store64(buf + 8, hello->id);
    store64(buf + 16, hello->cookie);
    store64(buf + 24, hello->words_addr);
    store32(buf + 32, hello->words_rkey);
    store32(buf + 36, hello->stream);
    store64(buf + 40, hello->from);
    store32(buf + 48, hello->again);
}

/* The connection manager pads private data: longer is fine. */
bool wi_verbs_hello_decode(const void *buf, size_t len, struct wi_verbs_hello *hello)
{
    const unsigned char *at = buf;
    if (len < WI_VERBS_HELLO_SIZE || load32(at) != MAGIC || load32(at + 4) != VERSION)
        return false;
    hello->id = load64(at + 8);
    hello->cookie = load64(at + 16);
    hello->words_addr = load64(at + 24);
    hello->words_rkey = load32(at + 32);
    hello->stream = load32(at + 36);
    hello->from = load64(at + 40);
    hello->again = load32(at + 48);
    return true;
}

void wi_verbs_welcome_encode(const struct wi_verbs_welcome *welcome, unsigned char buf[WI_VERBS_WELCOME_SIZE])
{
    store32(buf, MAGIC);
    store32(buf + 4, VERSION);
    store64(buf + 8, welcome->id);
    store64(buf + 16, welcome->ring_addr);
    store32(buf + 24, welcome->ring_rkey);
    store32(buf + 28, WI_VERBS_RING_SIZE);
    store32(buf + 32, welcome->credits);
    store32(buf + 36, welcome->mtu);
    store32(buf + 40, welcome->relaxed);
}

bool wi_verbs_welcome_decode(const void *buf, size_t len, struct wi_verbs_welcome *welcome)
{
    const unsigned char *at = buf;
    if (len < WI_VERBS_WELCOME_SIZE || load32(at) != MAGIC || load32(at + 4) != VERSION ||
        load32(at + 28) != WI_VERBS_RING_SIZE)
        return false;
    welcome->id = load64(at + 8);
    welcome->ring_addr = load64(at + 16);
    welcome->ring_rkey = load32(at + 24);
    welcome->credits = load32(at + 32);
    welcome->mtu = load32(at + 36);
    welcome->relaxed = load32(at + 40) != 0;
    return welcome->mtu <= MTU_MAX;
}

/* gid (16 bytes), queue pair (u32), PSN (u32), LID (u16), MTU, reads, served (u8 each), zeros. */
static void path_encode(const struct wi_verbs_path *path, unsigned char *at)
{
    memset(at, 0, WI_VERBS_PATH_SIZE);
    memcpy(at, path->gid, sizeof(path->gid));
    store32(at + 16, path->qp_num);
    store32(at + 20, path->psn);
    store16(at + 24, path->lid);
    at[26] = path->mtu;
    at[27] = path->reads;
    at[28] = path->served;
}

static bool path_decode(const unsigned char *at, struct wi_verbs_path *path)
{
    memcpy(path->gid, at, sizeof(path->gid));
    path->qp_num = load32(at + 16);
    path->psn = load32(at + 20);
    path->lid = load16(at + 24);
    path->mtu = at[26];
    path->reads = at[27];
    path->served = at[28];
    return path->qp_num <= WI_VERBS_24_BITS && path->psn <= WI_VERBS_24_BITS && path->mtu >= 1 && path->mtu <= MTU_MAX;
}

/* Nonce (u64), zero (u64), path, hello. */
void wi_verbs_offer_encode(const struct wi_verbs_offer *offer, unsigned char buf[WI_VERBS_OFFER_SIZE])
{
    store64(buf, offer->nonce);
    store64(buf + 8, 0);
    path_encode(&offer->path, buf + 16);
    wi_verbs_hello_encode(&offer->hello, buf + 16 + WI_VERBS_PATH_SIZE);
}

bool wi_verbs_offer_decode(const void *buf, size_t len, struct wi_verbs_offer *offer)
{
    const unsigned char *at = buf;
    if (len != WI_VERBS_OFFER_SIZE || !path_decode(at + 16, &offer->path))
        return false;
    offer->nonce = load64(at);
    return offer->nonce != 0 && wi_verbs_hello_decode(at + 16 + WI_VERBS_PATH_SIZE, WI_VERBS_HELLO_SIZE, &offer->hello);
}

/* Nonce (u64), accepted (u32), zero (u32), then path and welcome, or the refusal's text. */
size_t wi_verbs_offer_answer_encode(const struct wi_verbs_offer_answer *answer,
                                    unsigned char buf[WI_VERBS_OFFER_ANSWER_MAX])
{
    store64(buf, answer->nonce);
    store32(buf + 8, answer->accepted);
    store32(buf + 12, 0);
    if (!answer->accepted) {
        size_t len = strnlen(answer->refusal, WI_VERBS_REFUSAL_MAX);
        memcpy(buf + 16, answer->refusal, len);
        return 16 + len;
    }
    path_encode(&answer->path, buf + 16);
    wi_verbs_welcome_encode(&answer->welcome, buf + 16 + WI_VERBS_PATH_SIZE);
    return WI_VERBS_ACCEPTED_SIZE;
}

bool wi_verbs_offer_answer_decode(const void *buf, size_t len, struct wi_verbs_offer_answer *answer)
{
    const unsigned char *at = buf;
    if (len < 16 || load32(at + 8) > 1)
        return false;
    *answer = (struct wi_verbs_offer_answer){.nonce = load64(at), .accepted = load32(at + 8)};
    if (answer->accepted)
        return len == WI_VERBS_ACCEPTED_SIZE && path_decode(at + 16, &answer->path) &&
               wi_verbs_welcome_decode(at + 16 + WI_VERBS_PATH_SIZE, WI_VERBS_WELCOME_SIZE, &answer->welcome);
    if (len > WI_VERBS_OFFER_ANSWER_MAX)
        return false;
    for (size_t i = 0; i + 16 < len; i++)
        answer->refusal[i] = (char)(at[16 + i] >= ' ' && at[16 + i] < 127 ? at[16 + i] : '?');
    return true;
}

void wi_verbs_key_encode(const struct wi_verbs_key *key, unsigned char buf[WI_VERBS_KEY_SIZE])
{
    store32(buf, key->window);
    store32(buf + 4, key->rkey);
    store64(buf + 8, key->region);
    store64(buf + 16, key->token[0]);
    store64(buf + 24, key->token[1]);
}

bool wi_verbs_key_decode(const void *buf, size_t len, struct wi_verbs_key *key)
{
    const unsigned char *at = buf;
    if (len != WI_VERBS_KEY_SIZE || load32(at) > 1)
        return false;
    key->window = load32(at);
    key->rkey = load32(at + 4);
    key->region = load64(at + 8);
    key->token[0] = load64(at + 16);
    key->token[1] = load64(at + 24);
    return true;
}

void wi_verbs_request_encode(const struct wi_verbs_request *request, unsigned char buf[WI_VERBS_REQUEST_SIZE])
{
    memset(buf, 0, WI_VERBS_REQUEST_SIZE);
    store32(buf, request->kind);
    buf[4] = request->sequence;
    store32(buf + 8, request->rkey);
    store64(buf + 16, request->region);
    store64(buf + 24, request->addr);
    store64(buf + 32, request->len);
    store64(buf + 40, request->token[0]);
    store64(buf + 48, request->token[1]);
}

bool wi_verbs_request_decode(const unsigned char buf[WI_VERBS_REQUEST_SIZE], struct wi_verbs_request *request)
{
    request->kind = load32(buf);
    request->sequence = buf[4];
    request->rkey = load32(buf + 8);
    request->region = load64(buf + 16);
    request->addr = load64(buf + 24);
    request->len = load64(buf + 32);
    request->token[0] = load64(buf + 40);
    request->token[1] = load64(buf + 48);
    return (request->kind == WI_VERBS_ASK_WINDOW || request->kind == WI_VERBS_GIVE_WINDOW) && request->sequence > 0;
}

/* The sequence stands at both ends: a device that is software may write the word byte by
 * byte, and is read meanwhile. */
uint64_t wi_verbs_answer_encode(const struct wi_verbs_answer *answer)
{
    return htole64((uint64_t)answer->sequence << 56 | (uint64_t)answer->rkey << 16 | (uint64_t)answer->status << 8 |
                   answer->sequence);
}

void wi_verbs_answer_decode(uint64_t word, struct wi_verbs_answer *answer)
{
    word = le64toh(word);
    *answer = (struct wi_verbs_answer){
        .sequence = (uint8_t)word, .status = (uint8_t)(word >> 8), .rkey = (uint32_t)(word >> 16)};
    if (answer->sequence != word >> 56)
        answer->sequence = 0;
}

uint32_t wi_verbs_credit_share(uint32_t free, uint32_t depth)
{
    uint32_t share = free > depth / 2 ? depth / 64 : free > depth / 4 ? depth / 256 : depth / 1024;
    if (share > free)
        share = free;
    return share > WI_VERBS_MIN_CREDITS ? share : WI_VERBS_MIN_CREDITS;
}
