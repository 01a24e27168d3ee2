#include "bootstrap/client.h"

#include "core/clock.h"
#include "core/error.h"
#include "core/log.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LEAVE_NS WI_NS_PER_S

weir_status wi_client_init(struct wi_client *client, uint64_t timeout_ns, const struct wi_secret *secret,
                           struct wi_attendants *attendants)
{
    *client = (struct wi_client){.fd = -1, .timeout_ns = timeout_ns, .secret = secret, .attendants = attendants};
    pthread_mutex_init(&client->send_lock, NULL);
    pthread_mutex_init(&client->lock, NULL);
    client->epoll = epoll_create1(EPOLL_CLOEXEC);
    client->failed = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN};
    if (client->epoll < 0 || client->failed < 0 ||
        epoll_ctl(client->epoll, EPOLL_CTL_ADD, client->failed, &event) != 0) {
        weir_status status =
            wi_error(WEIR_ERR_LIMIT, "join the job: %s; raise the limit of open files (ulimit -n)", strerror(errno));
        wi_client_fini(client);
        return status;
    }
    return WEIR_OK;
}

static void disconnect(struct wi_client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
}

void wi_client_fini(struct wi_client *client)
{
    disconnect(client);
    if (client->failed >= 0)
        close(client->failed);
    if (client->epoll >= 0)
        close(client->epoll);
    wi_bytes_fini(&client->in);
    wi_bytes_fini(&client->out);
    pthread_mutex_destroy(&client->lock);
    pthread_mutex_destroy(&client->send_lock);
}

/* ---- what comes in; all with the lock held ---- */

static void set_failure(struct wi_client *client, weir_status status, const char *text)
{
    if (client->failure != WEIR_OK)
        return;
    client->failure = status;
    snprintf(client->failure_text, sizeof(client->failure_text), "%s", text[0] ? text : "the store gives no reason");
    uint64_t one = 1;
    if (write(client->failed, &one, sizeof(one)) < 0)
        wi_debug("eventfd: %s", strerror(errno));
}

static void on_answer(struct wi_client *client, const struct wi_message *answer)
{
    struct wi_call *call = client->call;
    if (answer->request & WI_CLIENT_UNAWAITED) {
        if (client->on_unawaited)
            client->on_unawaited(client->unawaited_arg, answer);
        return;
    }
    uint32_t index = call ? answer->request - call->first : 0;
    if (!call || index >= call->count || call->answered == call->count)
        return; /* to a call that was given up */
    bool more = answer->type == WI_WIRE_PIECES && answer->status == WEIR_ERR_AGAIN;
    call->answered += !more;
    weir_status status = WEIR_OK;
    if (answer->type == WI_WIRE_ACK && answer->status != WEIR_OK)
        status = wi_wire_status(answer->status);
    else if (call->on_answer && call->status == WEIR_OK)
        call->explained = (status = call->on_answer(call, index, answer)) != WEIR_OK;
    if (call->status == WEIR_OK)
        call->status = status;
}

static void on_challenge(struct wi_client *client, const struct wi_message *message)
{
    if (client->secret->len == 0 || client->challenged || message->proof.len != WI_SECRET_NONCE) {
        set_failure(client, WEIR_ERR_PROTOCOL, "the store sent a challenge that was not asked for");
        return;
    }
    memcpy(client->of_store, message->proof.data, WI_SECRET_NONCE);
    client->challenged = true;
}

static void on_proven(struct wi_client *client, const struct wi_message *message)
{
    if (!client->proven && client->challenged &&
        wi_secret_check(client->secret, WI_SECRET_STORE, client->of_rank, client->of_store, message->proof.data,
                        message->proof.len))
        client->proven = true;
    else
        set_failure(client, WEIR_ERR_PROTOCOL,
                    "what listens there does not know the job's secret (WEIR_SECRET_FILE): it is not this job's store");
}

/* What may be believed of a store that has not proven yet that it knows the secret. */
static bool is_for_strangers(enum wi_wire_type type)
{
    return type == WI_WIRE_CHALLENGE || type == WI_WIRE_PROVEN || type == WI_WIRE_REFUSED;
}

static void on_message(struct wi_client *client, const struct wi_message *message)
{
    char text[WI_WIRE_TEXT_MAX + 1];
    if (client->secret->len > 0 && !client->proven && !is_for_strangers(message->type)) {
        set_failure(client, WEIR_ERR_PROTOCOL, "the store speaks before it has proven that it knows the job's secret");
        return;
    }
    wi_span_copy(message->text, text, sizeof(text));
    switch (message->type) {
    case WI_WIRE_WELCOME:
        client->welcomed = true;
        snprintf(client->outward, sizeof(client->outward), "%.*s", WI_NET_ADDRESS - 1, text);
        break;
    case WI_WIRE_REFUSED:
        client->refused = true;
        set_failure(client, wi_wire_status(message->status), text);
        break;
    case WI_WIRE_ACK:
        client->seated = true;
        on_answer(client, message);
        break;
    case WI_WIRE_VALUE:
    case WI_WIRE_PIECES:
        on_answer(client, message);
        break;
    case WI_WIRE_FAILED:
        set_failure(client, wi_wire_status(message->status), text);
        break;
    case WI_WIRE_CLOSED:
        client->closed = true;
        break;
    case WI_WIRE_CHALLENGE:
        on_challenge(client, message);
        break;
    case WI_WIRE_PROVEN:
        on_proven(client, message);
        break;
    default:
        set_failure(client, WEIR_ERR_PROTOCOL, "the store sent a frame that is not for a rank");
    }
}

static void on_end(struct wi_client *client, int error)
{
    char text[512];
    client->ended = true;
    client->end_error = error;
    (void)epoll_ctl(client->epoll, EPOLL_CTL_DEL, client->fd, NULL);
    if (client->closed || !client->welcomed)
        return;
    if (error == 0 || error == ECONNRESET || error == EPIPE)
        snprintf(
            text, sizeof(text),
            "rank 0, which serves the store at %s, ended without leaving the job: it crashed, was killed, or ended "
            "without weir_boot_destroy()",
            client->where);
    else
        snprintf(text, sizeof(text),
                 "rank 0, which serves the store at %s, fell silent: its host is down or the network to it is cut (%s)",
                 client->where, strerror(error));
    set_failure(client, WEIR_ERR_PEER_GONE, text);
}

/* The other side does not speak our protocol: says so, with a taste of what it said. */
static void on_foreign(struct wi_client *client, enum wi_wire_result result)
{
    char taste[24];
    char text[512];
    struct wi_span start = {client->in.data + client->in.start, wi_bytes_count(&client->in)};
    wi_span_copy(start, taste, sizeof(taste));
    if (result == WI_WIRE_OTHER)
        snprintf(text, sizeof(text),
                 "the store at %s speaks another version of the protocol: all ranks need the same libweir",
                 client->where);
    else
        snprintf(text, sizeof(text),
                 "what listens at %s is not Weir's store (it says '%s'): choose another port with WEIR_MASTER_PORT",
                 client->where, taste);
    set_failure(client, WEIR_ERR_PROTOCOL, text);
    on_end(client, EPROTO);
}

/* Takes in what is there, without waiting. */
static void pump(struct wi_client *client)
{
    size_t least = 4096;
    while (!client->ended) {
        enum wi_io io = wi_bytes_receive(&client->in, client->fd, least);
        if (io == WI_IO_AGAIN)
            return;
        if (io != WI_IO_DONE) {
            on_end(client, io == WI_IO_END ? 0 : errno);
            return;
        }
        for (;;) {
            struct wi_message message;
            size_t frame_len;
            size_t count = wi_bytes_count(&client->in);
            if (count == 0)
                break;
            enum wi_wire_result result =
                wi_wire_decode(client->in.data + client->in.start, count, &message, &frame_len);
            if (result == WI_WIRE_MORE) {
                least = frame_len - count > 4096 ? frame_len - count : 4096;
                break;
            }
            if (result != WI_WIRE_OK) {
                on_foreign(client, result);
                return;
            }
            on_message(client, &message);
            wi_bytes_consume(&client->in, frame_len);
        }
    }
}

/* ---- what goes out ---- */

/* Sends all of `frames` until `deadline_ns`. Why a connection ended is found out by who reads it. */
static weir_status send_all(struct wi_client *client, struct wi_bytes *frames, uint64_t deadline_ns)
{
    weir_status status = WEIR_OK;
    pthread_mutex_lock(&client->send_lock);
    while (wi_bytes_send(frames, client->fd) == WI_IO_AGAIN) {
        struct pollfd writable = {.fd = client->fd, .events = POLLOUT};
        int left_ms = wi_net_poll_ms(deadline_ns);
        if (left_ms == 0) {
            /* Half a frame may be out: nothing can follow it. */
            status = wi_error(WEIR_ERR_PEER_GONE, "the store at %s takes nothing: rank 0 is stopped", client->where);
            (void)shutdown(client->fd, SHUT_RDWR);
            break;
        }
        poll(&writable, 1, left_ms);
    }
    frames->start = frames->end = 0;
    pthread_mutex_unlock(&client->send_lock);
    return status;
}

static weir_status send_message(struct wi_client *client, const struct wi_message *message, uint64_t deadline_ns)
{
    struct wi_bytes frame = {0};
    weir_status status = WEIR_ERR_NO_MEMORY;
    if (wi_bytes_append(&frame, message))
        status = send_all(client, &frame, deadline_ns);
    wi_bytes_fini(&frame);
    return status;
}

/* Sleeps until something comes in, or the attendants want to be called again; called without a lock. */
static void wait_readable(struct wi_client *client, uint64_t deadline_ns)
{
    wi_attend(client->attendants, client->fd, wi_net_poll_ms(deadline_ns));
}

/* ---- joining ---- */

static weir_status watch_connection(struct wi_client *client)
{
    struct epoll_event event = {.events = EPOLLIN};
    wi_net_tune(client->fd, client->timeout_ns);
    wi_net_local_address(client->fd, client->local_address);
    if (epoll_ctl(client->epoll, EPOLL_CTL_ADD, client->fd, &event) != 0)
        return wi_error(WEIR_ERR_LIMIT, "join the job: %s", strerror(errno));
    return WEIR_OK;
}

/* Says HELLO; the store is told to give up a little before we do, so that its sentence arrives in time. */
static weir_status say_hello(struct wi_client *client, const struct wi_message *hello, uint64_t deadline_ns)
{
    struct wi_message message = *hello;
    uint64_t now_ns = wi_now_ns();
    uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
    uint64_t margin_ns = left_ns / 5 < WI_NS_PER_S ? left_ns / 5 : WI_NS_PER_S;
    message.timeout_ms = (uint32_t)((left_ns - margin_ns) / WI_NS_PER_MS);
    return send_message(client, &message, deadline_ns);
}

/* Waits until the store has made `*word` true. WEIR_ERR_AGAIN: the connection ended before it said a word. */
static weir_status await_word(struct wi_client *client, const bool *word, uint64_t deadline_ns)
{
    for (;;) {
        pump(client);
        if (client->failure != WEIR_OK)
            return wi_error(client->failure, "%s%s", client->refused ? "turned away by the store: " : "",
                            client->failure_text);
        if (*word)
            return WEIR_OK;
        if (client->ended)
            return client->seated ? wi_error(WEIR_ERR_PEER_GONE,
                                             "rank 0, which serves the store at %s, ended before all "
                                             "ranks were there",
                                             client->where)
                                  : WEIR_ERR_AGAIN;
        if (wi_now_ns() >= deadline_ns)
            break;
        wait_readable(client, deadline_ns);
    }
    if (client->seated)
        return wi_error(WEIR_ERR_TIMEOUT, "the store at %s did not say within WEIR_TIMEOUT that all ranks are there",
                        client->where);
    return wi_error(WEIR_ERR_TIMEOUT,
                    "something listens at %s but says nothing: it is not Weir's store, or rank 0 is stopped",
                    client->where);
}

/* Both sides prove that they know the secret, the joiner first: a stranger gets no proof to try guesses on. */
static weir_status prove(struct wi_client *client, uint64_t deadline_ns)
{
    uint8_t proof[WI_SECRET_PROOF];
    client->challenged = client->proven = false;
    weir_status status = wi_secret_nonce(client->of_rank);
    if (status == WEIR_OK)
        status = send_message(
            client, &(struct wi_message){.type = WI_WIRE_GREET, .proof = {client->of_rank, WI_SECRET_NONCE}},
            deadline_ns);
    if (status == WEIR_OK)
        status = await_word(client, &client->challenged, deadline_ns);
    if (status == WEIR_OK && !wi_secret_prove(client->secret, WI_SECRET_RANK, client->of_rank, client->of_store, proof))
        status = wi_error(WEIR_ERR_IO, "joining the job: libcrypto cannot make an HMAC");
    if (status == WEIR_OK)
        status = send_message(client, &(struct wi_message){.type = WI_WIRE_PROOF, .proof = {proof, sizeof(proof)}},
                              deadline_ns);
    return status == WEIR_OK ? await_word(client, &client->proven, deadline_ns) : status;
}

/* Others cannot use a loopback address when ranks come from several hosts. */
static void choose_local_address(struct wi_client *client)
{
    if (client->outward[0] && wi_net_is_loopback(client->local_address))
        memcpy(client->local_address, client->outward, sizeof(client->local_address));
}

weir_status wi_client_join(struct wi_client *client, const char *host, int port, const struct wi_message *hello,
                           uint64_t deadline_ns)
{
    snprintf(client->where, sizeof(client->where), "%s port %d", host, port);
    for (;;) {
        weir_status status = wi_net_connect(host, port, deadline_ns, &client->fd);
        if (status == WEIR_OK)
            status = watch_connection(client);
        if (status == WEIR_OK && client->secret->len > 0)
            status = prove(client, deadline_ns);
        if (status == WEIR_OK)
            status = say_hello(client, hello, deadline_ns);
        if (status == WEIR_OK)
            status = await_word(client, &client->welcomed, deadline_ns);
        if (status == WEIR_OK)
            choose_local_address(client);
        if (status != WEIR_ERR_AGAIN)
            return status;
        /* An earlier job's store that is about to end, or a server of another kind: look again. */
        if (wi_now_ns() + 100 * WI_NS_PER_MS >= deadline_ns)
            break;
        disconnect(client);
        client->ended = false;
        client->in.start = client->in.end = 0; /* the start of a frame whose end never came */
        poll(NULL, 0, 100);
    }
    return wi_error(
        WEIR_ERR_PROTOCOL,
        "what listens at %s ends connections without a word: it is not Weir's store; choose another port with "
        "WEIR_MASTER_PORT",
        client->where);
}

/* ---- calls ---- */

void wi_client_begin(struct wi_client *client, struct wi_call *call)
{
    pthread_mutex_lock(&client->lock);
    call->first = client->next_request;
    client->call = call;
    pthread_mutex_unlock(&client->lock);
}

void wi_client_add(struct wi_client *client, struct wi_call *call, struct wi_message *request)
{
    request->request = call->first + call->count;
    if (call->status == WEIR_OK && !wi_bytes_append(&client->out, request))
        call->status = WEIR_ERR_NO_MEMORY;
    call->count++;
}

static weir_status await_answers(struct wi_client *client, struct wi_call *call, uint64_t deadline_ns)
{
    for (;;) {
        pthread_mutex_lock(&client->lock);
        pump(client);
        weir_status failure = client->failure;
        bool done = call->answered == call->count;
        bool ended = client->ended;
        pthread_mutex_unlock(&client->lock);
        if (done)
            return call->status;
        if (failure != WEIR_OK || ended)
            call->explained = true;
        if (failure != WEIR_OK)
            return wi_client_check(client);
        if (ended)
            return wi_error(WEIR_ERR_PEER_GONE, "rank 0 has left the job: the store at %s is closed", client->where);
        if (wi_now_ns() >= deadline_ns)
            return WEIR_ERR_TIMEOUT;
        wait_readable(client, deadline_ns);
    }
}

/* Makes the store forget what the call asked for; what others asked for is asked for again. */
static void cancel(struct wi_client *client)
{
    struct wi_bytes frames = {0};
    bool made = wi_bytes_append(&frames, &(struct wi_message){.type = WI_WIRE_CANCEL});
    pthread_mutex_lock(&client->lock);
    if (made && client->on_canceled)
        client->on_canceled(client->unawaited_arg, &frames);
    pthread_mutex_unlock(&client->lock);
    (void)send_all(client, &frames, wi_now_ns() + WI_NS_PER_S);
    wi_bytes_fini(&frames);
}

weir_status wi_client_finish(struct wi_client *client, struct wi_call *call, uint64_t deadline_ns)
{
    weir_status status = call->status;
    if (status == WEIR_OK)
        status = send_all(client, &client->out, deadline_ns);
    bool sent = status == WEIR_OK;
    call->explained = !sent && call->status == WEIR_OK;
    if (sent)
        status = await_answers(client, call, deadline_ns);
    wi_bytes_fini(&client->out);
    pthread_mutex_lock(&client->lock);
    client->next_request += call->count;
    if (client->next_request >= WI_CLIENT_UNAWAITED / 2)
        client->next_request = 0;
    client->call = NULL;
    pthread_mutex_unlock(&client->lock);
    if (sent && status == WEIR_ERR_TIMEOUT)
        cancel(client);
    return status;
}

void wi_client_pump(struct wi_client *client)
{
    if (!client->call)
        pump(client);
}

weir_status wi_client_send(struct wi_client *client, struct wi_bytes *frames)
{
    return send_all(client, frames, wi_now_ns() + client->timeout_ns);
}

weir_status wi_client_check(struct wi_client *client)
{
    pthread_mutex_lock(&client->lock);
    wi_client_pump(client);
    weir_status failure = client->failure;
    pthread_mutex_unlock(&client->lock);
    /* Written once, before `failure` was seen. */
    return failure == WEIR_OK ? WEIR_OK : wi_error(failure, "%s", client->failure_text);
}

void wi_client_fail(struct wi_client *client, weir_status status, const char *sentence)
{
    struct wi_message message = {.type = WI_WIRE_FAIL, .status = (uint32_t)status, .text = wi_span_text(sentence)};
    if (message.text.len > WI_WIRE_TEXT_MAX)
        message.text.len = WI_WIRE_TEXT_MAX;
    (void)send_message(client, &message, wi_now_ns() + WI_NS_PER_S);
    pthread_mutex_lock(&client->lock);
    set_failure(client, wi_wire_status((uint32_t)status), sentence);
    pthread_mutex_unlock(&client->lock);
}

void wi_client_leave(struct wi_client *client)
{
    uint64_t deadline_ns = wi_now_ns() + LEAVE_NS;
    if (client->fd < 0 || client->ended || !client->seated) /* who has no seat has nobody to tell */
        return;
    (void)send_message(client, &(struct wi_message){.type = WI_WIRE_BYE}, deadline_ns);
    (void)shutdown(client->fd, SHUT_WR);
    while (!client->ended && wi_now_ns() < deadline_ns) {
        pump(client);
        if (!client->ended)
            wait_readable(client, deadline_ns);
    }
}
