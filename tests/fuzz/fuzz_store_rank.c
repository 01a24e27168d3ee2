/*
 * Fuzzes a rank's ear to the store: whatever listens at the store's address says anything, near-right frames among it,
 * while the rank joins, calls and looks after failures. The files under test are included, with recv() replaced.
 */
#include "bytes_of.h"

#include <errno.h>
#include <sys/socket.h>

static struct bytes_of arrived;

static ssize_t fuzz_recv(int fd, void *data, size_t room, int flags)
{
    (void)fd, (void)flags;
    size_t len = room;
    const uint8_t *bytes = take_bytes(&arrived, &len);
    if (len > 0) {
        memcpy(data, bytes, len);
        return (ssize_t)len;
    }
    errno = EAGAIN;
    return -1;
}

#define recv fuzz_recv
#include "bootstrap/bytes.c"
#include "bootstrap/client.c"

weir_status wi_net_connect(const char *host, int port, uint64_t deadline_ns, int *fd)
{
    (void)host, (void)port, (void)deadline_ns, (void)fd;
    return WEIR_ERR_IO;
}

void wi_net_tune(int fd, uint64_t timeout_ns)
{
    (void)fd, (void)timeout_ns;
}

const char *wi_net_local_address(int fd, char text[WI_NET_ADDRESS])
{
    (void)fd;
    return text;
}

bool wi_net_is_loopback(const char *address)
{
    return address[0] == '1';
}

int wi_net_poll_ms(uint64_t deadline_ns)
{
    (void)deadline_ns;
    return 0;
}

void wi_attend(struct wi_attendants *attendants, int fd, int wait_ms)
{
    (void)attendants, (void)fd, (void)wait_ms;
}

/* ---- */

static unsigned answers[4];

static weir_status on_answer_seen(struct wi_call *call, uint32_t index, const struct wi_message *answer)
{
    bool more = answer->type == WI_WIRE_PIECES && answer->status == WEIR_ERR_AGAIN;
    answers[index] += !more;
    check(index < call->count && answers[index] <= call->count);
    check(answer->type == WI_WIRE_VALUE || answer->type == WI_WIRE_PIECES || answer->status == WEIR_OK);
    return answer->value.len == 3 ? WEIR_ERR_RANGE : WEIR_OK;
}

static size_t make_frame(struct bytes_of *input, const struct wi_client *client, uint8_t *frame, size_t room)
{
    uint8_t proof[WI_SECRET_PROOF];
    size_t len = take_byte(input) % 33;
    struct wi_message message = {.type = 1 + take_byte(input) % (WI_WIRE_TYPES - 1)};
    message.request = take_byte(input) % 8u + (client->call ? client->call->first : 0) - 2;
    message.status = take_byte(input);
    struct wi_span span = {0};
    span.data = take_bytes(input, &len);
    span.len = len;
    message.value = message.text = message.proof = message.key = message.job = message.host = span;
    if (take_byte(input) % 2 == 0 && client->secret->len > 0) {
        wi_secret_prove(client->secret, WI_SECRET_STORE, client->of_rank, client->of_store, proof);
        message.proof = (struct wi_span){proof, sizeof(proof)};
    }
    return wi_wire_encode(&message, frame, room);
}

static void one_turn(struct wi_client *client, struct bytes_of *input)
{
    uint8_t frame[2048], what = take_byte(input);
    size_t len;
    if (what & 0x80) {
        len = take_byte(input);
        arrived.at = take_bytes(input, &len);
    } else {
        len = make_frame(input, client, frame, sizeof(frame));
        if ((what & 0x40) && len > 0)
            frame[take_byte(input) % len] ^= take_byte(input);
        if ((what & 0x20) && len > 0)
            len = take_byte(input) % len;
        arrived.at = frame;
    }
    arrived.left = len;
    pump(client);
    /* Nothing of a store that has not proven itself is believed. */
    if (client->secret->len > 0 && !client->proven)
        check(!client->seated && !client->welcomed && !client->closed && answers[0] + answers[1] + answers[2] == 0);
    check(!client->call || client->call->answered <= client->call->count);
    if (client->failure != WEIR_OK)
        check(wi_client_check(client) == client->failure && weir_last_error()[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct wi_secret none, secret = {.len = 16, .bytes = "0123456789abcdef"};
    struct bytes_of input = {data, size};
    struct wi_client client = {.fd = -1, .epoll = -1, .failed = -1, .where = "here port 1"};
    struct wi_call call = {.count = 3, .on_answer = on_answer_seen, .first = 4294967294u};
    uint8_t how = take_byte(&input);
    client.secret = how & 1 ? &secret : &none;
    client.call = how & 2 ? &call : NULL;
    memset(answers, 0, sizeof(answers));
    pthread_mutex_init(&client.send_lock, NULL);
    pthread_mutex_init(&client.lock, NULL);
    for (int turn = 0; turn < 64 && input.left > 0 && !client.ended; turn++)
        one_turn(&client, &input);
    wi_client_fini(&client);
    return 0;
}
