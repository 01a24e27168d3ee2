/*
 * What clients and servers write into each other's memory: fixed layouts, little-endian, checked field by field before
 * anything is believed.
 *
 * Requests go into a byte ring at the server as frames: a header of 64 bytes, then a payload, padded to 64 bytes. A
 * frame never wraps: where it would, a PAD frame fills the rest of the ring. Each frame comes with one signal.
 *
 * A call is cut into parts, ranges of elements that are answered by one reply each. The payload of a part (gradient or
 * weights) comes in one frame or several, in order of the elements; the frame with the last element asks for the reply.
 *
 * Replies go into a ring of 64-byte entries at the client, each with one signal, after the weights that they announce.
 */
#ifndef WI_PS_WIRE_H
#define WI_PS_WIRE_H

#include <weir/bootstrap.h>
#include <weir/ps.h>
#include <weir/transport.h>

#include <stdbool.h>
#include <stdint.h>

#define WI_PS_MAGIC      0x53505257u /* "WRPS" */
#define WI_PS_VERSION    1
#define WI_PS_LINE       64u /* frames are multiples of it, and begin at one */
#define WI_PS_NAME_MAX   63u
#define WI_PS_COUNT_MAX  (1ull << 35) /* elements of a table */
#define WI_PS_TABLES_MAX 65536u
#define WI_PS_KEYS_MAX   1024u /* remote keys a client has at a server at once */
#define WI_PS_CALLS_MAX  64u   /* calls of one client at once */
#define WI_PS_PARTS_MAX  16u   /* parts of a call at one server */
#define WI_PS_REPLIES    2048u /* entries of a reply ring: all parts of all calls, and the credits in between */

enum wi_ps_op {
    WI_PS_PAD = 1,       /* skip `payload` bytes */
    WI_PS_OPEN = 2,      /* payload: struct wi_ps_open; reply: table number or the parameters in force */
    WI_PS_KEY = 3,       /* payload: blob of a remote key, known as `key` from now on; no reply */
    WI_PS_INIT = 4,      /* payload: weights */
    WI_PS_PUSH = 5,      /* payload: gradient */
    WI_PS_PULL = 6,      /* no payload */
    WI_PS_PUSH_PULL = 7, /* payload: gradient */
    WI_PS_BARRIER = 8,   /* reply when all workers have sent one */
    WI_PS_BYE = 9,       /* the client's last frame; reply, then nothing more is written to it */
};

/* Header of a frame in a request ring. */
struct wi_ps_request {
    uint32_t magic;
    uint8_t version;
    uint8_t op;
    uint16_t reserved;
    uint64_t position;   /* bytes written to the ring before this frame: tells old frames from new ones */
    uint32_t call;       /* comes back in the reply */
    uint32_t table;      /* number given by OPEN */
    uint32_t payload;    /* bytes */
    uint32_t key;        /* PULL, PUSH_PULL, KEY: number of the key */
    uint64_t addr;       /* PULL, PUSH_PULL: where the part's weights go */
    uint64_t part_first; /* first element of the part */
    uint32_t part_count; /* its elements */
    uint32_t offset;     /* element of the part that the payload begins with */
    uint64_t step;       /* BSP. Push: the step it belongs to, from 1; pull: the step that must have been applied */
};

/* Payload of WI_PS_OPEN. */
struct wi_ps_open {
    uint64_t count;
    float learning_rate;
    uint32_t shards;
    uint32_t workers;
    uint32_t servers;
    uint8_t consistency;
    uint8_t optimizer;
    char name[WI_PS_NAME_MAX + 1];
    uint8_t reserved[6];
};

enum wi_ps_reply_kind {
    WI_PS_REPLY_HELLO = 1,  /* the server has connected back; the first entry */
    WI_PS_REPLY_CREDIT = 2, /* only tells `consumed` */
    WI_PS_REPLY_DONE = 3,   /* a part of `call` is done */
    WI_PS_REPLY_OPEN = 4,   /* OPEN of `call`: status, and the table as the server has it */
    WI_PS_REPLY_BYE = 5,    /* the last entry */
};

/* Entry of a reply ring. */
struct wi_ps_reply {
    uint32_t magic;
    uint8_t version;
    uint8_t kind;
    uint8_t consistency; /* OPEN */
    uint8_t optimizer;   /* OPEN */
    uint64_t sequence;   /* number of the entry, from 0 */
    uint64_t consumed;   /* bytes of the request ring that are free again, since the start */
    uint32_t call;
    int32_t status;
    uint64_t first; /* DONE: first element of the part */
    uint64_t count; /* DONE: elements of weights written before; OPEN: elements of the table */
    uint32_t table; /* OPEN */
    uint32_t shards;
    float learning_rate;
    uint8_t reserved[4];
};

/* What a server tells a client, and a client a server, through the store before they connect. */
struct wi_ps_hello {
    uint32_t magic;
    uint32_t version;
    uint64_t ring_addr; /* server: request ring; client: reply ring */
    uint64_t ring_size; /* bytes */
    uint32_t signal;    /* counts what is written into it */
    uint32_t address_len;
    uint32_t key_len;
    uint32_t reserved;
    uint8_t address[WEIR_ADDRESS_MAX];
    uint8_t key[WEIR_RKEY_MAX];
};

_Static_assert(sizeof(struct wi_ps_request) == WI_PS_LINE, "wire layout");
_Static_assert(sizeof(struct wi_ps_reply) == WI_PS_LINE, "wire layout");
_Static_assert(WI_PS_COUNT_MAX / WI_PS_PARTS_MAX < UINT32_MAX - 16, "a part's elements have 32 bits");
_Static_assert(sizeof(struct wi_ps_open) == 96, "wire layout");
_Static_assert(sizeof(struct wi_ps_hello) == 40 + WEIR_ADDRESS_MAX + WEIR_RKEY_MAX, "wire layout");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is little-endian; swap here before porting");

static inline uint64_t wi_ps_round_up(uint64_t bytes)
{
    return (bytes + WI_PS_LINE - 1) / WI_PS_LINE * WI_PS_LINE;
}

/*
 * All checks are pure and return NULL when the input is right, else what is wrong with it in a few words.
 */

/* A frame at `position` of a ring of `ring_size` bytes: does it lie in the ring, and has it what its op needs? */
const char *wi_ps_request_check(const struct wi_ps_request *request, uint64_t position, uint64_t ring_size);

const char *wi_ps_open_check(const struct wi_ps_open *open, uint32_t workers, uint32_t servers);

const char *wi_ps_reply_check(const struct wi_ps_reply *reply, uint64_t sequence);

/* `len` is the length of the value that was read; `reply_ring`: is it a client's? */
const char *wi_ps_hello_check(const struct wi_ps_hello *hello, size_t len, bool reply_ring);

/* Are two openings of a table of the same name the same? False: `field` is the first that differs. */
bool wi_ps_open_same(const struct wi_ps_open *a, const struct wi_ps_open *b, const char **field);

#endif
