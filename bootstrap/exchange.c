#include "bootstrap/exchange.h"

#include "bootstrap/boot.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A request under way. Its number holds the bucket, by which its answer finds it. */
struct wi_exchange_entry {
    struct wi_exchange_entry *next;
    uint32_t request;
    uint32_t seen; /* looks at the connection, when it was asked after last */
    bool is_put, answered;
    weir_status status;
    size_t len;
    void *value; /* that is put, or was found */
    char key[];
};

static uint32_t bucket_of(const char *key)
{
    uint32_t hash = 2166136261u;
    for (; *key; key++)
        hash = (hash ^ (unsigned char)*key) * 16777619u;
    return (hash ^ hash >> 16) % WI_EXCHANGE_BUCKETS;
}

/* ---- Requests under way; all with the client's lock held ---- */

static uint32_t next_request(struct wi_exchange *exchange)
{
    return WI_CLIENT_UNAWAITED | (exchange->serial++ * WI_EXCHANGE_BUCKETS & ~WI_CLIENT_UNAWAITED);
}

static struct wi_exchange_entry **find(struct wi_exchange *exchange, const char *key)
{
    struct wi_exchange_entry **at = &exchange->buckets[bucket_of(key)];
    while (*at && strcmp((*at)->key, key) != 0)
        at = &(*at)->next;
    return at;
}

static void drop(struct wi_exchange_entry **at)
{
    struct wi_exchange_entry *entry = *at;
    *at = entry->next;
    free(entry->value);
    free(entry);
}

/* `put`: what is to be stored, NULL: the key's value is asked for. */
static struct wi_exchange_entry *add(struct wi_exchange *exchange, const char *key, const struct wi_span *put)
{
    size_t size = strlen(key) + 1;
    struct wi_exchange_entry *entry = calloc(1, sizeof(*entry) + size);
    if (entry && put && !(entry->value = malloc(put->len + 1))) {
        free(entry);
        entry = NULL;
    }
    if (!entry)
        return NULL;
    if (put && put->len > 0)
        memcpy(entry->value, put->data, put->len);
    entry->len = put ? put->len : 0;
    uint32_t bucket = bucket_of(key);
    memcpy(entry->key, key, size);
    entry->is_put = put != NULL;
    entry->request = next_request(exchange) | bucket;
    entry->next = exchange->buckets[bucket];
    exchange->buckets[bucket] = entry;
    return entry;
}

static void on_answer(void *arg, const struct wi_message *answer)
{
    struct wi_exchange *exchange = arg;
    struct wi_exchange_entry *entry = exchange->buckets[answer->request % WI_EXCHANGE_BUCKETS];
    while (entry && entry->request != answer->request)
        entry = entry->next;
    if (!entry || entry->answered)
        return;
    entry->answered = true;
    if (answer->type == WI_WIRE_ACK || entry->is_put) {
        entry->status = answer->status ? wi_wire_status(answer->status) : WEIR_OK;
    } else if ((entry->value = malloc(answer->value.len + 1))) {
        entry->len = answer->value.len;
        memcpy(entry->value, answer->value.data, entry->len);
    } else {
        entry->status = WEIR_ERR_NO_MEMORY;
    }
    uint64_t one = 1;
    if (write(exchange->news, &one, sizeof(one)) < 0)
        wi_debug("eventfd: %s", strerror(errno));
}

/* A call that ran out of time has made the store forget all that this rank waits for: asks for ours once more. */
static void on_canceled(void *arg, struct wi_bytes *again)
{
    struct wi_exchange *exchange = arg;
    for (size_t i = 0; i < WI_EXCHANGE_BUCKETS; i++)
        for (struct wi_exchange_entry *entry = exchange->buckets[i]; entry; entry = entry->next)
            if (!entry->is_put && !entry->answered)
                (void)wi_bytes_append(again, &(struct wi_message){.type = WI_WIRE_GET,
                                                                  .request = entry->request,
                                                                  .key = wi_span_text(entry->key)});
}

/* Another context of this process is about to store something else there. */
static bool is_taken(const struct wi_exchange_entry *entry, const struct wi_message *message)
{
    return message->type == WI_WIRE_PUT && entry->is_put &&
           (entry->len != message->value.len ||
            (entry->len > 0 && memcmp(entry->value, message->value.data, entry->len) != 0));
}

/* The outcome of a request, which then is under way no more; WEIR_ERR_AGAIN: there is none yet. */
static weir_status outcome(struct wi_exchange_entry **at, void *value, size_t *len)
{
    struct wi_exchange_entry *entry = *at;
    weir_status status = entry->answered ? entry->status : WEIR_ERR_AGAIN;
    if (status == WEIR_OK && !entry->is_put) {
        if (entry->len <= *len)
            memcpy(value, entry->value, entry->len);
        else
            status = wi_error(WEIR_ERR_RANGE, "the value of key '%s' has %zu bytes, there is room for %zu", entry->key,
                              entry->len, *len);
        *len = entry->len;
    }
    if (entry->answered)
        drop(at);
    return status;
}

/* ---- What contexts call ---- */

static weir_status post(struct wi_client *client, const struct wi_message *message)
{
    struct wi_bytes frame = {0};
    weir_status status = wi_bytes_append(&frame, message) ? wi_client_send(client, &frame) : WEIR_ERR_NO_MEMORY;
    wi_bytes_fini(&frame);
    return status;
}

/*
 * Looks at the connection to the store, once for all requests that are asked after in turn: another look is due when the
 * same one is asked after again. Whoever sleeps on the descriptor asks after all of them when it is readable.
 */
static void look(struct wi_exchange *exchange, struct wi_exchange_entry *entry)
{
    uint64_t count;
    if (entry->seen == exchange->looks) {
        if (read(exchange->news, &count, sizeof(count)) < 0 && errno != EAGAIN)
            wi_debug("eventfd: %s", strerror(errno));
        wi_client_pump(&exchange->boot->client);
        exchange->looks++;
    }
    entry->seen = exchange->looks;
}

/* Begins the request or looks what has become of it. */
static weir_status request(struct wi_exchange *exchange, struct wi_message *message, const char *key, void *value,
                           size_t *len)
{
    struct wi_client *client = &exchange->boot->client;
    bool fresh = false;
    pthread_mutex_lock(&client->lock);
    struct wi_exchange_entry **at = find(exchange, key);
    if (*at && is_taken(*at, message)) {
        pthread_mutex_unlock(&client->lock);
        return WEIR_ERR_MISMATCH;
    }
    if (*at && !(*at)->answered)
        look(exchange, *at);
    weir_status status = *at ? outcome(at, value, len) : WEIR_ERR_AGAIN;
    bool over = status == WEIR_ERR_AGAIN && (client->failure != WEIR_OK || client->ended);
    if (over && *at) {
        drop(at);
    } else if (status == WEIR_ERR_AGAIN && !over && !*at) {
        struct wi_exchange_entry *entry = add(exchange, key, message->type == WI_WIRE_PUT ? &message->value : NULL);
        if (entry)
            entry->seen = exchange->looks;
        fresh = entry != NULL;
        message->request = entry ? entry->request : 0;
        status = entry ? WEIR_ERR_AGAIN : WEIR_ERR_NO_MEMORY;
    }
    pthread_mutex_unlock(&client->lock);
    if (over && (status = wi_client_check(client)) == WEIR_OK)
        return wi_error(WEIR_ERR_PEER_GONE, "rank 0 has left the job: its store is closed");
    if (fresh && (over = post(client, message) != WEIR_OK))
        return wi_error(WEIR_ERR_PEER_GONE, "the job's store takes nothing");
    return status;
}

/* Nobody waits for the answer: an append that fails is like one whose reader never looks. */
static weir_status append(void *arg, const char *queue, const void *value, size_t len)
{
    struct wi_exchange *exchange = arg;
    struct weir_boot *boot = exchange->boot;
    char key[WEIR_BOOT_KEY_MAX + 1];
    struct wi_message message = {.type = WI_WIRE_APPEND,
                                 .key = wi_span_text(queue),
                                 .value = {value, len}};
    if (boot->world > 1) {
        weir_status status = wi_client_check(&boot->client);
        pthread_mutex_lock(&boot->client.lock);
        message.request = next_request(exchange);
        pthread_mutex_unlock(&boot->client.lock);
        if (status == WEIR_OK && post(&boot->client, &message) != WEIR_OK)
            status = wi_error(WEIR_ERR_PEER_GONE, "the job's store takes nothing");
        return status;
    }
    pthread_mutex_lock(&boot->alone_lock);
    weir_status status = wi_store_append(&boot->alone, message.key, message.value, key);
    pthread_mutex_unlock(&boot->alone_lock);
    return status == WEIR_OK ? status : wi_error(status, "queue '%s': %s", queue, weir_status_string(status));
}

/* A job of one rank: its contexts meet in its own table. */
static weir_status request_alone(struct weir_boot *boot, const struct wi_message *message, void *value, size_t *len)
{
    struct wi_span found;
    weir_status status = WEIR_ERR_AGAIN;
    pthread_mutex_lock(&boot->alone_lock);
    if (message->type == WI_WIRE_PUT) {
        status = wi_store_put(&boot->alone, message->key, message->value);
    } else if (wi_store_get(&boot->alone, message->key, &found)) {
        status = found.len <= *len ? WEIR_OK : WEIR_ERR_RANGE;
        if (status == WEIR_OK)
            memcpy(value, found.data, found.len);
        *len = found.len;
    }
    pthread_mutex_unlock(&boot->alone_lock);
    return status;
}

static weir_status put(void *arg, const char *key, const void *value, size_t len)
{
    struct wi_exchange *exchange = arg;
    struct wi_message message = {.type = WI_WIRE_PUT, .key = wi_span_text(key), .value = {value, len}};
    return exchange->boot->world == 1 ? request_alone(exchange->boot, &message, NULL, NULL)
                                      : request(exchange, &message, key, NULL, NULL);
}

static weir_status get(void *arg, const char *key, void *value, size_t *len)
{
    struct wi_exchange *exchange = arg;
    struct wi_message message = {.type = WI_WIRE_GET, .key = wi_span_text(key)};
    return exchange->boot->world == 1 ? request_alone(exchange->boot, &message, value, len)
                                      : request(exchange, &message, key, value, len);
}

static void forget(void *arg, const char *key)
{
    struct wi_exchange *exchange = arg;
    if (exchange->boot->world == 1)
        return;
    pthread_mutex_lock(&exchange->boot->client.lock);
    struct wi_exchange_entry **at = find(exchange, key);
    if (*at)
        drop(at);
    pthread_mutex_unlock(&exchange->boot->client.lock);
}

/* ---- Life ---- */

weir_status wi_exchange_init(struct wi_exchange *exchange, struct weir_boot *boot)
{
    *exchange = (struct wi_exchange){
        .face = {.size = sizeof(weir_exchange),
                 .arg = exchange,
                 .fd = -1,
                 .put = put,
                 .append = append,
                 .get = get,
                 .forget = forget},
        .boot = boot,
        .news = -1,
    };
    if (boot->world == 1)
        return WEIR_OK;
    struct epoll_event event = {.events = EPOLLIN};
    exchange->news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    exchange->face.fd = epoll_create1(EPOLL_CLOEXEC);
    if (exchange->news < 0 || exchange->face.fd < 0 ||
        epoll_ctl(exchange->face.fd, EPOLL_CTL_ADD, exchange->news, &event) != 0 ||
        epoll_ctl(exchange->face.fd, EPOLL_CTL_ADD, boot->client.epoll, &event) != 0)
        return wi_error(WEIR_ERR_LIMIT, "join the job: %s; raise the limit of open files (ulimit -n)", strerror(errno));
    boot->client.on_unawaited = on_answer;
    boot->client.on_canceled = on_canceled;
    boot->client.unawaited_arg = exchange;
    return WEIR_OK;
}

void wi_exchange_fini(struct wi_exchange *exchange)
{
    if (!exchange->boot)
        return;
    for (size_t i = 0; i < WI_EXCHANGE_BUCKETS; i++)
        while (exchange->buckets[i])
            drop(&exchange->buckets[i]);
    if (exchange->face.fd >= 0)
        close(exchange->face.fd);
    if (exchange->news >= 0)
        close(exchange->news);
}

const weir_exchange *weir_boot_exchange(weir_boot *boot)
{
    return &boot->exchange.face;
}
