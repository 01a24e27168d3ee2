/*
 * What verbs interfaces tell each other: the address part, the private data of a connection request and of its answer,
 * and the memory that the two sides of a connection write into. Pure: no device, no I/O. All that is decoded comes from
 * outside.
 *
 * Control messages are RDMA writes into a ring that the target keeps for each connection, each with an immediate that
 * tells of it. The target writes into the initiator's words what it has taken, so a peer that takes no messages holds
 * up its own senders alone, and the shared receive queue, which immediates alone use, needs no buffers.
 */
#ifndef WI_VERBS_WIRE_H
#define WI_VERBS_WIRE_H

#include "core/forms.h"

#include <weir/transport.h>

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#define WI_VERBS_ADDRESS_MAX     8           /* IP addresses in an address part at most */
#define WI_VERBS_IMM_MESSAGE     0x80000000u /* immediate: a message arrived; without it: the number of a signal */
#define WI_VERBS_IMM_REQUEST     0xc0000000u /* a request arrived, in the slot whose number is in the low bits */
#define WI_VERBS_IMM_FENCE       0x40000000u /* of several rails, see rails.h: a signal that waits for tokens, or a token */
#define WI_VERBS_IMM_RAILS       0xfu /* after the shift: rails whose tokens the signal waits for; 0: it is one */
#define WI_VERBS_IMM_RAILS_SHIFT 26
#define WI_VERBS_IMM_SIGNAL      0x03ffffffu /* the signal's number */
#define WI_VERBS_RAILS_MAX       WI_DEVICES_MAX /* devices in use at once */
#define WI_VERBS_MIN_CREDITS     1u          /* immediates that every connection may have on their way */

/* ---- Address part ------------------------------------------------------------------------------------------------ */

struct wi_verbs_address {
    uint64_t cookie; /* the listener's; a connection request must bring it */
    bool by_store;   /* it connects through an exchange, and tells no addresses */
    unsigned count;
    union {
        struct sockaddr any;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
    } ip[WI_VERBS_ADDRESS_MAX]; /* with port */
};

/* Writes the part into `buf`; `*len` is the room on entry, the length on return. False: too little room. */
bool wi_verbs_address_encode(const struct wi_verbs_address *address, void *buf, size_t *len);
bool wi_verbs_address_decode(const void *buf, size_t len, struct wi_verbs_address *address);

/* "10.0.0.1 port 4711", for errors. */
void wi_verbs_address_print(const struct sockaddr *ip, char *text, size_t size);

/* ---- Rails --------------------------------------------------------------------------------------------------------
 *
 * Addresses and keys hold a part for each device: a count, then of each its place in WEIR_DEVICE, length and bytes.
 */

/* Adds a part to a list, which begins with length 0; false: too little room. */
bool wi_verbs_list_add(void *list, size_t room, size_t *len, unsigned slot, const void *part, size_t part_len);

/* Is it a list, and nothing else? */
bool wi_verbs_list_check(const void *list, size_t len);

/* The part of a place in a list that was checked, or NULL. */
const void *wi_verbs_list_find(const void *list, unsigned slot, size_t *part_len);

/* The place of the first part; a list that was checked has one. */
unsigned wi_verbs_list_first(const void *list);

/* ---- Private data ------------------------------------------------------------------------------------------------ */

/* A connection request says who comes and to whom. */
struct wi_verbs_hello {
    uint64_t id;         /* the initiator's context id */
    uint64_t cookie;     /* from the target's address part */
    uint64_t words_addr; /* address and key of the words that the target writes */
    uint32_t words_rkey;
    uint32_t stream; /* which of the initiator's endpoints */
    uint64_t from;   /* the initiator's own cookie */
    uint32_t again;  /* how often the endpoint was connected before */
};

/* The answer says where messages go. */
struct wi_verbs_welcome {
    uint64_t id;        /* the target's context id */
    uint64_t ring_addr; /* address and key of its message ring for this connection */
    uint32_t ring_rkey;
    uint32_t credits; /* immediates that the initiator may send before it is granted more */
    uint32_t mtu;     /* its port's, as enum ibv_mtu; 0: not told */
    bool relaxed;     /* writes reach its memory in any order */
};

/* At most 56 bytes, which is what the connection manager takes. */
enum { WI_VERBS_HELLO_SIZE = 52, WI_VERBS_WELCOME_SIZE = 44 };

void wi_verbs_hello_encode(const struct wi_verbs_hello *hello, unsigned char buf[WI_VERBS_HELLO_SIZE]);
bool wi_verbs_hello_decode(const void *buf, size_t len, struct wi_verbs_hello *hello);
void wi_verbs_welcome_encode(const struct wi_verbs_welcome *welcome, unsigned char buf[WI_VERBS_WELCOME_SIZE]);
bool wi_verbs_welcome_decode(const void *buf, size_t len, struct wi_verbs_welcome *welcome);

/* ---- Connecting through an exchange -------------------------------------------------------------------------------
 *
 * What both sides leave there; see offer.c.
 */

enum {
    WI_VERBS_24_BITS = 0xffffff,
    WI_VERBS_OFFERS_AHEAD = 32, /* places of its queue that a target looks at at once, at most 32 */
    WI_VERBS_REFUSAL_MAX = 200,
    WI_VERBS_PATH_SIZE = 32,
    WI_VERBS_OFFER_SIZE = 16 + WI_VERBS_PATH_SIZE + WI_VERBS_HELLO_SIZE,
    WI_VERBS_ACCEPTED_SIZE = 16 + WI_VERBS_PATH_SIZE + WI_VERBS_WELCOME_SIZE,
    WI_VERBS_OFFER_ANSWER_MAX = 16 + WI_VERBS_REFUSAL_MAX,
};

/* How a queue pair is reached. */
struct wi_verbs_path {
    uint8_t gid[16];
    uint32_t qp_num, psn; /* 24 bits each */
    uint16_t lid;         /* InfiniBand's */
    uint8_t mtu;          /* the port's, as enum ibv_mtu */
    uint8_t reads, served;
};

struct wi_verbs_offer {
    uint64_t nonce;
    struct wi_verbs_path path;
    struct wi_verbs_hello hello;
};

struct wi_verbs_offer_answer {
    uint64_t nonce; /* of the offer */
    bool accepted;
    struct wi_verbs_path path;       /* accepted */
    struct wi_verbs_welcome welcome; /* accepted */
    char refusal[WI_VERBS_REFUSAL_MAX + 1];
};

void wi_verbs_offer_encode(const struct wi_verbs_offer *offer, unsigned char buf[WI_VERBS_OFFER_SIZE]);
bool wi_verbs_offer_decode(const void *buf, size_t len, struct wi_verbs_offer *offer);

/* Returns the length. */
size_t wi_verbs_offer_answer_encode(const struct wi_verbs_offer_answer *answer,
                                    unsigned char buf[WI_VERBS_OFFER_ANSWER_MAX]);

/* A refusal's text has '?' for bytes that do not belong in a sentence. */
bool wi_verbs_offer_answer_decode(const void *buf, size_t len, struct wi_verbs_offer_answer *answer);

/* ---- Message ring ------------------------------------------------------------------------------------------------
 *
 * Positions count up for ever; position modulo size is where an entry starts. An entry is never split: the last one of
 * a lap runs into the slack behind the ring, and the next one starts the next lap.
 */

enum {
    WI_VERBS_RING_SIZE = 32768,
    WI_VERBS_RING_ALIGN = 16,
    WI_VERBS_ENTRY_HEADER = 8, /* length (u32), zero (u32) */
    WI_VERBS_ENTRY_MAX = WI_VERBS_ENTRY_HEADER + WEIR_MSG_MAX,
    WI_VERBS_RING_BYTES = (WI_VERBS_RING_SIZE + WI_VERBS_ENTRY_MAX + 63) / 64 * 64,
};

/* Bytes that a message of `len` takes up. */
static inline uint32_t wi_verbs_ring_entry(uint32_t len)
{
    return (WI_VERBS_ENTRY_HEADER + len + WI_VERBS_RING_ALIGN - 1) & ~(uint32_t)(WI_VERBS_RING_ALIGN - 1);
}

/* Where in the ring's memory the entry at a position starts. */
static inline uint32_t wi_verbs_ring_offset(uint64_t position)
{
    return (uint32_t)(position % WI_VERBS_RING_SIZE);
}

/* Is there room for a message of `len` at `position` when all before `taken` was taken? */
static inline bool wi_verbs_ring_fits(uint64_t position, uint64_t taken, uint32_t len)
{
    return position - taken + wi_verbs_ring_entry(len) <= WI_VERBS_RING_SIZE;
}

/* The position after a message of `len`. */
static inline uint64_t wi_verbs_ring_next(uint64_t position, uint32_t len)
{
    uint64_t offset = position % WI_VERBS_RING_SIZE;
    uint64_t end = offset + wi_verbs_ring_entry(len);
    return position - offset + (end < WI_VERBS_RING_SIZE ? end : WI_VERBS_RING_SIZE);
}

/* ---- Keys and requests --------------------------------------------------------------------------------------------
 *
 * What a key's blob tells. A window has to be asked for: the token proves that the range was exported, and the target
 * then binds a window of its device to that range and to the queue pair of the one connection, so that the device
 * itself refuses all else. Without windows the key is that of a registration of just the range.
 */

struct wi_verbs_key {
    bool window;
    uint32_t rkey;   /* without window: that of the range's registration */
    uint64_t region; /* with window: the region's number, and the export's token */
    uint64_t token[2];
};

enum wi_verbs_request_kind { WI_VERBS_ASK_WINDOW = 1, WI_VERBS_GIVE_WINDOW = 2 };

/* What an initiator writes into a request slot of the target, one slot at a time; each request is answered. */
struct wi_verbs_request {
    uint32_t kind;
    uint8_t sequence; /* not 0; comes back with the answer */
    uint32_t rkey;    /* of the window that is given back */
    uint64_t region, addr, len;
    uint64_t token[2];
};

enum wi_verbs_answer_status { WI_VERBS_GRANTED = 1, WI_VERBS_REFUSED = 2, WI_VERBS_NO_WINDOWS_LEFT = 3 };

/* The word that the target writes as answer. Sequence 0: it is not there yet, or not all of it. */
struct wi_verbs_answer {
    uint8_t sequence;
    uint8_t status;
    uint32_t rkey;
};

enum {
    WI_VERBS_KEY_SIZE = 32,
    WI_VERBS_REQUESTS = 16, /* slots of a connection */
    WI_VERBS_REQUEST_SIZE = 64,
    WI_VERBS_REQUESTS_AT = WI_VERBS_RING_BYTES, /* slots lie behind the message ring */
    WI_VERBS_LINK_BYTES = WI_VERBS_RING_BYTES + WI_VERBS_REQUESTS * WI_VERBS_REQUEST_SIZE,
};

void wi_verbs_key_encode(const struct wi_verbs_key *key, unsigned char buf[WI_VERBS_KEY_SIZE]);
bool wi_verbs_key_decode(const void *buf, size_t len, struct wi_verbs_key *key);
void wi_verbs_request_encode(const struct wi_verbs_request *request, unsigned char buf[WI_VERBS_REQUEST_SIZE]);
bool wi_verbs_request_decode(const unsigned char buf[WI_VERBS_REQUEST_SIZE], struct wi_verbs_request *request);
uint64_t wi_verbs_answer_encode(const struct wi_verbs_answer *answer);
void wi_verbs_answer_decode(uint64_t word, struct wi_verbs_answer *answer);

/* ---- Words of the initiator ---------------------------------------------------------------------------------------
 *
 * 64-bit words in the initiator's memory that the target writes, little endian, by their index.
 */

enum {
    WI_VERBS_WORD_TAKEN,   /* position in the message ring up to which messages were taken */
    WI_VERBS_WORD_GRANTED, /* immediates that may have been sent in all, since the connection was made */
    WI_VERBS_WORD_ANSWERS, /* one for each request slot */
    WI_VERBS_WORDS = WI_VERBS_WORD_ANSWERS + WI_VERBS_REQUESTS,
};

/*
 * Credits. Every immediate, of a signal or a message, uses up an entry of the target's shared receive queue; a sender
 * that finds it empty is turned away by the device and tries again after a pause, which is slow and holds up all that
 * is behind it. So each connection has a share of the entries, and sends no more than it was granted. The target grants
 * anew when half of the share was used and its entries stand in the queue again.
 */

/* The share of one more connection when `free` of the queue's `depth` entries belong to
 * none: much for the first ones. */
uint32_t wi_verbs_credit_share(uint32_t free, uint32_t depth);

#endif
