/*
 * A rank's connection to the store: joins, calls, hears of failures, leaves.
 *
 * One thread at a time makes calls; wi_client_check() and wi_client_fail() may come from any thread. While a call
 * waits, its thread is the one that reads the connection; otherwise wi_client_check() reads it.
 */
#ifndef WI_BOOTSTRAP_CLIENT_H
#define WI_BOOTSTRAP_CLIENT_H

#include "bootstrap/attend.h"
#include "bootstrap/bytes.h"
#include "bootstrap/net.h"
#include "bootstrap/secret.h"

#include <pthread.h>

/* A number of requests that are sent together and waited for together. */
struct wi_call {
    uint32_t first; /* the number of its first request */
    uint32_t count; /* requests added */
    uint32_t answered;
    weir_status status; /* the first one that is not WEIR_OK among the answers */
    bool explained;     /* weir_last_error() has the sentence of the call's status */

    /* Takes the answer (VALUE, PIECES in one or more parts, or ACK that says WEIR_OK) to request first + index, once each.
     * Makes its own sentences. */
    weir_status (*on_answer)(struct wi_call *call, uint32_t index, const struct wi_message *answer);
    void *arg;
};

/* In the number of a request that no call waits for; see exchange.h. */
#define WI_CLIENT_UNAWAITED 0x80000000u

struct wi_client {
    int fd;
    int epoll;  /* readable when there is something to tell: holds fd and `failed` */
    int failed; /* eventfd, raised once the job has failed */
    uint64_t timeout_ns;
    struct wi_attendants *attendants; /* borrowed */
    const struct wi_secret *secret;   /* borrowed */
    pthread_mutex_t send_lock;
    struct wi_bytes out; /* requests of the call that are not sent yet */

    pthread_mutex_t lock; /* guards all below */
    struct wi_bytes in;
    struct wi_call *call; /* the one that is under way */
    uint32_t next_request;

    /* Requests that no call waits for: takes an answer; adds those anew that a CANCEL has made the store forget. */
    void (*on_unawaited)(void *arg, const struct wi_message *answer);
    void (*on_canceled)(void *arg, struct wi_bytes *again);
    void *unawaited_arg;

    bool challenged, proven; /* the store has drawn its number; has proven that it knows the secret */
    uint8_t of_rank[WI_SECRET_NONCE], of_store[WI_SECRET_NONCE];
    bool seated;   /* ACK to HELLO */
    bool welcomed; /* all ranks are there */
    bool refused;
    bool closed; /* the store ended in good order */
    bool ended;  /* the connection is no more */
    int end_error;
    weir_status failure;
    char failure_text[WI_WIRE_TEXT_MAX + 1];
    char where[320];              /* "HOST port PORT" */
    char outward[WI_NET_ADDRESS]; /* from the welcome */
    char local_address[WI_NET_ADDRESS];
};

/* In place. Errors: WEIR_ERR_LIMIT (descriptors). */
weir_status wi_client_init(struct wi_client *client, uint64_t timeout_ns, const struct wi_secret *secret,
                           struct wi_attendants *attendants);

/* Closes the connection, without a word. */
void wi_client_fini(struct wi_client *client);

/*
 * Connects, proves that it knows the secret if there is one, says HELLO and waits until all ranks are there. `hello`
 * without its timeout.
 */
weir_status wi_client_join(struct wi_client *client, const char *host, int port, const struct wi_message *hello,
                           uint64_t deadline_ns);

/* Starts a call with no requests yet; from now on answers to them are taken. */
void wi_client_begin(struct wi_client *client, struct wi_call *call);

/* Adds a request to the call that has begun; its number is first + how many there were before. */
void wi_client_add(struct wi_client *client, struct wi_call *call, struct wi_message *request);

/*
 * Sends the requests, waits for all answers until `deadline_ns`, and ends the call. When that fails and
 * `call->explained` is not set, the caller makes the sentence: WEIR_ERR_TIMEOUT, WEIR_ERR_NO_MEMORY, or what the store
 * answered.
 */
weir_status wi_client_finish(struct wi_client *client, struct wi_call *call, uint64_t deadline_ns);

/* With the lock held: takes in what is there, unless a call is under way, which then does it. */
void wi_client_pump(struct wi_client *client);

/* Sends all of `frames`, at most WEIR_TIMEOUT. */
weir_status wi_client_send(struct wi_client *client, struct wi_bytes *frames);

/* weir_boot_check(). */
weir_status wi_client_check(struct wi_client *client);

/* weir_boot_fail(). */
void wi_client_fail(struct wi_client *client, weir_status status, const char *sentence);

/* Says BYE and waits, at most a second, until the store has heard it. */
void wi_client_leave(struct wi_client *client);

#endif
