/*
 * The store's protocol as bytes: pure functions, no sockets, so that they can be fuzzed.
 *
 * A frame is a header of 12 bytes (magic "WEIR", version, type, two zero bytes, length of the body; numbers are
 * little-endian) and a body: the fields that the type has, in a fixed order, numbers with 4 bytes, texts and values as
 * a length of 4 bytes and that many bytes. The header never changes between versions, so a peer of another version
 * can be told so.
 */
#ifndef WI_BOOTSTRAP_WIRE_H
#define WI_BOOTSTRAP_WIRE_H

#include <weir/bootstrap.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WI_WIRE_VERSION   2u /* of the frames and of what they mean: raised with every change */
#define WI_WIRE_HEADER    12u
#define WI_WIRE_NAME_MAX  255u  /* bytes of a host's or job's name */
#define WI_WIRE_TEXT_MAX  1023u /* bytes of a sentence */
#define WI_WIRE_PROOF_MAX 32u   /* bytes of a random number or a proof */
#define WI_WIRE_PIECES_MAX (WEIR_BOOT_VALUE_MAX + 4u) /* bytes of pieces in a frame; the longest piece has room */
#define WI_WIRE_BODY_MAX  (WEIR_BOOT_VALUE_MAX + 1536u)
#define WI_WIRE_FRAME_MAX (WI_WIRE_HEADER + WI_WIRE_BODY_MAX)

enum { WI_WIRE_ABSENT_MAX = 64 };

enum wi_wire_type {
    WI_WIRE_HELLO = 1,   /* to the store, first: rank world servers pid timeout_ms job host */
    WI_WIRE_WELCOME = 2, /* to a rank: all are there; text: the address by which others reach its host, or empty */
    WI_WIRE_REFUSED = 3, /* to a joiner: status text; the connection ends */
    WI_WIRE_PUT = 4,     /* to the store: request key value; answered by ACK */
    WI_WIRE_ACK = 5,     /* request status text */
    WI_WIRE_GET = 6,     /* to the store: request key; answered by VALUE as soon as the key has one */
    WI_WIRE_VALUE = 7,   /* request value */
    WI_WIRE_CANCEL = 8,  /* to the store: forget all my GETs that are not answered */
    WI_WIRE_FAIL = 9,    /* to the store: status text: the job has failed, tell all */
    WI_WIRE_FAILED = 10, /* to all ranks: status text: the job has failed */
    WI_WIRE_BYE = 11,    /* to the store: I leave in good order */
    WI_WIRE_CLOSED = 12, /* to all ranks: the store ends in good order */
    /* With WEIR_SECRET_FILE, before HELLO; see secret.h. */
    WI_WIRE_GREET = 13,     /* to the store: nonce */
    WI_WIRE_CHALLENGE = 14, /* to the joiner: nonce */
    WI_WIRE_PROOF = 15,     /* to the store: proof */
    WI_WIRE_PROVEN = 16,    /* to the joiner: proof of the store */
    WI_WIRE_MEET = 17,   /* to the store: request rank world key value text: PUT of a piece, number `rank` of the `world` ones of
                          * the meeting that the text names. Answered when all are there, by an empty VALUE if all pieces are
                          * empty, else by PIECES; or by ACK as PUT is */
    WI_WIRE_PIECES = 18, /* request status rank value: pieces from number `rank` on, each as a length of 4 bytes and that many
                          * bytes; WEIR_ERR_AGAIN: more of them follow */
    WI_WIRE_ABSENT = 19, /* to the store: request text: who is not at the meeting? Answered by VALUE: their numbers, 4 bytes
                          * each, the first WI_WIRE_ABSENT_MAX ones at most; none: nobody is, or it is over */
    WI_WIRE_APPEND = 20, /* to the store: request key value: PUT under the first of KEY/0, KEY/1, ... that is free */
    WI_WIRE_TYPES
};

/* A piece of a frame; points into the bytes it was decoded from. */
struct wi_span {
    const void *data;
    size_t len;
};

/* A frame's content; which fields count depends on the type. */
struct wi_message {
    enum wi_wire_type type;
    uint32_t request;
    uint32_t rank;
    uint32_t world;
    uint32_t servers;
    uint32_t pid;
    uint32_t timeout_ms;
    uint32_t status;
    struct wi_span job;
    struct wi_span host;
    struct wi_span key;
    struct wi_span value;
    struct wi_span text;
    struct wi_span proof; /* or nonce */
};

enum wi_wire_result {
    WI_WIRE_OK,
    WI_WIRE_MORE,    /* the frame is not complete yet */
    WI_WIRE_FOREIGN, /* not this protocol */
    WI_WIRE_OTHER,   /* this protocol in another version */
    WI_WIRE_DAMAGED, /* this protocol, but it cannot be right */
};

/*
 * Looks for one frame at the start of `bytes`. WI_WIRE_OK: `*frame_len` is its length and `*message` its content;
 * WI_WIRE_MORE: `*frame_len` is how long it is known to be at least. Says FOREIGN at the first byte that is wrong.
 */
enum wi_wire_result wi_wire_decode(const void *bytes, size_t len, struct wi_message *message, size_t *frame_len);

/* Bytes the message's frame has; 0 when a field is longer than it may be. */
size_t wi_wire_size(const struct wi_message *message);

/* Writes the frame, wi_wire_size() bytes, to `bytes`, which has room for `room`. Returns its length, 0: it does not
 * fit. */
size_t wi_wire_encode(const struct wi_message *message, void *bytes, size_t room);

/* A number of the protocol, 4 bytes: where it is written, and what is read. */
void wi_wire_store32(void *bytes, uint32_t value);
uint32_t wi_wire_load32(const void *bytes);

/* Writes a piece with its length, len + 4 bytes. Returns how many. */
size_t wi_wire_piece(struct wi_span piece, void *bytes);

/* Takes one off the start of `pieces`. False: what is left is not one. */
bool wi_wire_next_piece(struct wi_span *pieces, struct wi_span *piece);

/* A text of the protocol as span. */
struct wi_span wi_span_text(const char *text);

/* Copies a span as text into `out` of `size` bytes, cut to fit, with '?' for bytes that do not belong in a sentence. */
const char *wi_span_copy(struct wi_span span, char *out, size_t size);

/* A status from the network: WEIR_ERR_JOB_FAILED for numbers that are no status of an error. */
weir_status wi_wire_status(uint32_t status);

#endif
