/* One table of layouts drives both directions, so that what is encoded is what is decoded. */
#include "bootstrap/wire.h"

#include <string.h>

enum field { END, REQUEST, RANK, WORLD, SERVERS, PID, TIMEOUT, STATUS, JOB, HOST, KEY, VALUE, TEXT, PROOF, PIECES };

static const uint8_t layouts[WI_WIRE_TYPES][8] = {
    [WI_WIRE_HELLO] = {RANK, WORLD, SERVERS, PID, TIMEOUT, JOB, HOST},
    [WI_WIRE_WELCOME] = {TEXT},
    [WI_WIRE_REFUSED] = {STATUS, TEXT},
    [WI_WIRE_PUT] = {REQUEST, KEY, VALUE},
    [WI_WIRE_ACK] = {REQUEST, STATUS, TEXT},
    [WI_WIRE_GET] = {REQUEST, KEY},
    [WI_WIRE_VALUE] = {REQUEST, VALUE},
    [WI_WIRE_FAIL] = {STATUS, TEXT},
    [WI_WIRE_FAILED] = {STATUS, TEXT},
    [WI_WIRE_GREET] = {PROOF},
    [WI_WIRE_CHALLENGE] = {PROOF},
    [WI_WIRE_PROOF] = {PROOF},
    [WI_WIRE_PROVEN] = {PROOF},
    [WI_WIRE_MEET] = {REQUEST, RANK, WORLD, KEY, VALUE, TEXT},
    [WI_WIRE_PIECES] = {REQUEST, STATUS, RANK, PIECES},
    [WI_WIRE_ABSENT] = {REQUEST, TEXT},
    [WI_WIRE_APPEND] = {REQUEST, KEY, VALUE},
};

/* Where each field is in struct wi_message, and the most bytes it can have; 0: a number. */
static const struct {
    size_t offset;
    size_t max;
} fields[] = {
    [REQUEST] = {offsetof(struct wi_message, request), 0},
    [RANK] = {offsetof(struct wi_message, rank), 0},
    [WORLD] = {offsetof(struct wi_message, world), 0},
    [SERVERS] = {offsetof(struct wi_message, servers), 0},
    [PID] = {offsetof(struct wi_message, pid), 0},
    [TIMEOUT] = {offsetof(struct wi_message, timeout_ms), 0},
    [STATUS] = {offsetof(struct wi_message, status), 0},
    [JOB] = {offsetof(struct wi_message, job), WI_WIRE_NAME_MAX},
    [HOST] = {offsetof(struct wi_message, host), WI_WIRE_NAME_MAX},
    [KEY] = {offsetof(struct wi_message, key), WEIR_BOOT_KEY_MAX},
    [VALUE] = {offsetof(struct wi_message, value), WEIR_BOOT_VALUE_MAX},
    [TEXT] = {offsetof(struct wi_message, text), WI_WIRE_TEXT_MAX},
    [PROOF] = {offsetof(struct wi_message, proof), WI_WIRE_PROOF_MAX},
    [PIECES] = {offsetof(struct wi_message, value), WI_WIRE_PIECES_MAX},
};

static const uint8_t magic[] = {'W', 'E', 'I', 'R'};

uint32_t wi_wire_load32(const void *from)
{
    const uint8_t *bytes = from;
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

void wi_wire_store32(void *to, uint32_t value)
{
    uint8_t *bytes = to;
    for (int i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

static enum wi_wire_result decode_header(const uint8_t *bytes, size_t len, size_t *frame_len)
{
    *frame_len = WI_WIRE_HEADER;
    if (memcmp(bytes, magic, len < sizeof(magic) ? len : sizeof(magic)) != 0)
        return WI_WIRE_FOREIGN;
    if (len > 4 && bytes[4] != WI_WIRE_VERSION)
        return WI_WIRE_OTHER;
    if (len < WI_WIRE_HEADER)
        return WI_WIRE_MORE;
    uint32_t body = wi_wire_load32(bytes + 8);
    if (bytes[5] == 0 || bytes[5] >= WI_WIRE_TYPES || bytes[6] != 0 || bytes[7] != 0 || body > WI_WIRE_BODY_MAX)
        return WI_WIRE_DAMAGED;
    *frame_len += body;
    return len < *frame_len ? WI_WIRE_MORE : WI_WIRE_OK;
}

static bool decode_body(const uint8_t *body, size_t len, struct wi_message *message)
{
    for (const uint8_t *field = layouts[message->type]; *field != END; field++) {
        void *target = (char *)message + fields[*field].offset;
        if (len < 4)
            return false;
        uint32_t number = wi_wire_load32(body);
        body += 4;
        len -= 4;
        if (fields[*field].max == 0) {
            memcpy(target, &number, sizeof(number));
            continue;
        }
        if (number > fields[*field].max || number > len)
            return false;
        struct wi_span span = {body, number};
        memcpy(target, &span, sizeof(span));
        body += number;
        len -= number;
    }
    return len == 0;
}

enum wi_wire_result wi_wire_decode(const void *bytes, size_t len, struct wi_message *message, size_t *frame_len)
{
    enum wi_wire_result result = decode_header(bytes, len, frame_len);
    if (result != WI_WIRE_OK)
        return result;
    *message = (struct wi_message){.type = ((const uint8_t *)bytes)[5]};
    if (!decode_body((const uint8_t *)bytes + WI_WIRE_HEADER, *frame_len - WI_WIRE_HEADER, message))
        return WI_WIRE_DAMAGED;
    return WI_WIRE_OK;
}

size_t wi_wire_size(const struct wi_message *message)
{
    size_t size = WI_WIRE_HEADER;
    for (const uint8_t *field = layouts[message->type]; *field != END; field++) {
        struct wi_span span = {NULL, 0};
        if (fields[*field].max != 0)
            memcpy(&span, (const char *)message + fields[*field].offset, sizeof(span));
        if (span.len > fields[*field].max)
            return 0;
        size += 4 + span.len;
    }
    return size;
}

size_t wi_wire_encode(const struct wi_message *message, void *bytes, size_t room)
{
    size_t size = wi_wire_size(message);
    if (size == 0 || size > room)
        return 0;
    uint8_t *at = bytes;
    memcpy(at, magic, sizeof(magic));
    at[4] = WI_WIRE_VERSION;
    at[5] = (uint8_t)message->type;
    at[6] = at[7] = 0;
    wi_wire_store32(at + 8, (uint32_t)(size - WI_WIRE_HEADER));
    at += WI_WIRE_HEADER;
    for (const uint8_t *field = layouts[message->type]; *field != END; field++) {
        const char *source = (const char *)message + fields[*field].offset;
        struct wi_span span = {NULL, 0};
        uint32_t number;
        if (fields[*field].max == 0) {
            memcpy(&number, source, sizeof(number));
        } else {
            memcpy(&span, source, sizeof(span));
            number = (uint32_t)span.len;
        }
        wi_wire_store32(at, number);
        at += 4;
        if (span.len > 0)
            memcpy(at, span.data, span.len);
        at += span.len;
    }
    return size;
}

size_t wi_wire_piece(struct wi_span piece, void *bytes)
{
    wi_wire_store32(bytes, (uint32_t)piece.len);
    if (piece.len > 0)
        memcpy((uint8_t *)bytes + 4, piece.data, piece.len);
    return 4 + piece.len;
}

bool wi_wire_next_piece(struct wi_span *pieces, struct wi_span *piece)
{
    const uint8_t *bytes = pieces->data;
    uint32_t len = pieces->len >= 4 ? wi_wire_load32(bytes) : 0;
    if (pieces->len < 4 || len > pieces->len - 4)
        return false;
    *piece = (struct wi_span){bytes + 4, len};
    *pieces = (struct wi_span){bytes + 4 + len, pieces->len - 4 - len};
    return true;
}

struct wi_span wi_span_text(const char *text)
{
    return (struct wi_span){text, strlen(text)};
}

const char *wi_span_copy(struct wi_span span, char *out, size_t size)
{
    size_t len = span.len < size ? span.len : size - 1;
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = ((const unsigned char *)span.data)[i];
        out[i] = byte < 0x20 || byte == 0x7f ? '?' : (char)byte;
    }
    out[len] = '\0';
    return out;
}

weir_status wi_wire_status(uint32_t status)
{
    switch ((weir_status)status) {
    case WEIR_ERR_AGAIN:
    case WEIR_ERR_INVALID:
    case WEIR_ERR_CONFIG:
    case WEIR_ERR_UNSUPPORTED:
    case WEIR_ERR_NO_MEMORY:
    case WEIR_ERR_LIMIT:
    case WEIR_ERR_NO_DEVICE:
    case WEIR_ERR_IO:
    case WEIR_ERR_CANCELED:
    case WEIR_ERR_TIMEOUT:
    case WEIR_ERR_KEY:
    case WEIR_ERR_RANGE:
    case WEIR_ERR_PEER_UNREACHABLE:
    case WEIR_ERR_PEER_GONE:
    case WEIR_ERR_PROTOCOL:
    case WEIR_ERR_MISMATCH:
    case WEIR_ERR_JOB_FAILED:
        return (weir_status)status;
    case WEIR_OK:
        break;
    }
    return WEIR_ERR_JOB_FAILED;
}
