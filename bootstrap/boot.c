/* weir_boot: the parameters, the store's calls, and what is made of them. A job of one rank has a table of its own. */
#include <weir/bootstrap.h>

#include "bootstrap/boot.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- creation ---- */

struct resolved {
    const char *master_addr;
    int master_port;
};

static int pick(const weir_boot_params *params, int given, int64_t configured)
{
    return params && given >= 0 ? given : (int)configured;
}

/* The parameters, where they are set, over the environment. */
static weir_status resolve(const weir_boot_params *params, struct weir_boot *boot, struct resolved *resolved)
{
    const struct wi_config *config;
    weir_status status = wi_config_load(&config);
    if (status != WEIR_OK)
        return status;
    if (params && params->size < sizeof(*params))
        return wi_error(WEIR_ERR_INVALID, "weir_boot_create: params.size is %zu, not sizeof(weir_boot_params)",
                        params->size);
    boot->rank = pick(params, params ? params->rank : -1, config->rank);
    boot->world = pick(params, params ? params->world_size : -1, config->world_size);
    boot->local_rank = pick(params, params ? params->local_rank : -1, config->local_rank);
    boot->servers = pick(params, params ? params->servers : -1, config->servers);
    boot->timeout_ns = config->timeout_ns;
    resolved->master_addr = params && params->master_addr ? params->master_addr : config->master_addr;
    resolved->master_port = pick(params, params ? params->master_port : -1, config->master_port);
    if (boot->local_rank < 0)
        boot->local_rank = boot->rank;
    if (boot->world < 1 || boot->world > 65536)
        return wi_error(WEIR_ERR_CONFIG, "a job of %d ranks: WEIR_WORLD_SIZE must be 1 to 65536", boot->world);
    if (boot->rank >= boot->world)
        return wi_error(WEIR_ERR_CONFIG,
                        "rank %d of %d ranks: WEIR_RANK counts from 0 and must be below WEIR_WORLD_SIZE", boot->rank,
                        boot->world);
    if (boot->servers > boot->world)
        return wi_error(WEIR_ERR_CONFIG, "%d servers of %d ranks: WEIR_SERVERS counts the servers among all ranks",
                        boot->servers, boot->world);
    if (boot->world > 1 && (resolved->master_port < 1 || resolved->master_port > 65535))
        return wi_error(WEIR_ERR_CONFIG, "port %d: WEIR_MASTER_PORT must be 1 to 65535 and the same on all ranks",
                        resolved->master_port);
    if (strlen(resolved->master_addr) > WI_WIRE_NAME_MAX)
        return wi_error(WEIR_ERR_CONFIG, "WEIR_MASTER_ADDR is longer than a name can be");
    return WEIR_OK;
}

static weir_status join(struct weir_boot *boot, const struct resolved *resolved)
{
    uint64_t deadline_ns = wi_now_ns() + boot->timeout_ns;
    const char *job_id = wi_config()->job_id;
    weir_status status = WEIR_OK;
    if (boot->rank == 0) {
        const struct wi_boot_server_params params = {
            .port = resolved->master_port,
            .world = boot->world,
            .servers = boot->servers,
            .job_id = job_id,
            .secret = &boot->secret,
            .loopback_only = wi_net_is_loopback(resolved->master_addr),
            .timeout_ns = boot->timeout_ns,
        };
        status = wi_boot_server_create(&params, &boot->server);
    }
    if (status != WEIR_OK)
        return status;
    char host[64] = "?";
    (void)gethostname(host, sizeof(host) - 1);
    const struct wi_message hello = {
        .type = WI_WIRE_HELLO,
        .rank = (uint32_t)boot->rank,
        .world = (uint32_t)boot->world,
        .servers = (uint32_t)boot->servers,
        .pid = (uint32_t)getpid(),
        .job = wi_span_text(job_id),
        .host = wi_span_text(host),
    };
    return wi_client_join(&boot->client, resolved->master_addr, resolved->master_port, &hello, deadline_ns);
}

/* Frees everything; the store's thread serves on for `linger_ns` at most. */
static void boot_free(struct weir_boot *boot, uint64_t linger_ns)
{
    wi_attendants_clear(&boot->attendants); /* their contexts are gone, even if somebody forgot to say so */
    if (boot->world > 1) {
        wi_client_leave(&boot->client);
        wi_boot_server_destroy(boot->server, linger_ns);
        wi_client_fini(&boot->client);
    }
    wi_exchange_fini(&boot->exchange);
    wi_attendants_fini(&boot->attendants);
    wi_secret_fini(&boot->secret);
    wi_store_fini(&boot->alone);
    pthread_mutex_destroy(&boot->alone_lock);
    free(boot);
}

weir_status weir_boot_create(const weir_boot_params *params, weir_boot **out)
{
    struct resolved resolved = {0};
    struct weir_boot *boot = calloc(1, sizeof(*boot));
    if (!boot)
        return wi_error(WEIR_ERR_NO_MEMORY, "weir_boot_create: out of memory");
    boot->pid = getpid();
    pthread_mutex_init(&boot->alone_lock, NULL);
    wi_attendants_init(&boot->attendants);
    weir_status status = resolve(params, boot, &resolved);
    if (status == WEIR_OK)
        status = wi_secret_load(wi_config()->secret_file, &boot->secret);
    if (status == WEIR_OK && boot->secret.exposed)
        wi_warn("WEIR_SECRET_FILE=%s: everybody on this host may read it; chmod 600 it", wi_config()->secret_file);
    if (status == WEIR_OK && boot->world > 1)
        status = wi_client_init(&boot->client, boot->timeout_ns, &boot->secret, &boot->attendants);
    if (status != WEIR_OK) {
        boot->world = 1;
        boot_free(boot, 0);
        return status;
    }
    status = wi_exchange_init(&boot->exchange, boot);
    wi_log_set_rank(boot->rank);
    if (status == WEIR_OK && boot->world > 1)
        status = join(boot, &resolved);
    if (status != WEIR_OK) {
        boot_free(boot, WI_NS_PER_S);
        return status;
    }
    *out = boot;
    return WEIR_OK;
}

void weir_boot_destroy(weir_boot *boot)
{
    if (boot && boot->pid == getpid()) /* a child must not say good-bye for its parent */
        boot_free(boot, boot->timeout_ns);
}

weir_status wi_boot_process_check(const struct weir_boot *boot, const char *what)
{
    if (boot->pid == getpid())
        return WEIR_OK;
    return wi_error(WEIR_ERR_INVALID, "%s: this process was forked from rank %d, and is no rank itself", what,
                    boot->rank);
}

/* ---- facts ---- */

int weir_boot_rank(const weir_boot *boot)
{
    return boot->rank;
}

int weir_boot_size(const weir_boot *boot)
{
    return boot->world;
}

int weir_boot_local_rank(const weir_boot *boot)
{
    return boot->local_rank;
}

int weir_boot_servers(const weir_boot *boot)
{
    return boot->servers;
}

weir_role weir_boot_role(const weir_boot *boot)
{
    return boot->rank >= boot->world - boot->servers ? WEIR_ROLE_SERVER : WEIR_ROLE_WORKER;
}

weir_status weir_boot_check_secret(int *exposed)
{
    const struct wi_config *config;
    struct wi_secret secret = {0};
    weir_status status = wi_config_load(&config);
    if (status == WEIR_OK)
        status = wi_secret_load(config->secret_file, &secret);
    if (status == WEIR_OK)
        *exposed = secret.exposed;
    wi_secret_fini(&secret);
    return status;
}

const char *weir_boot_local_address(const weir_boot *boot)
{
    return boot->world > 1 ? boot->client.local_address : NULL;
}

int weir_boot_fd(const weir_boot *boot)
{
    return boot->world > 1 ? boot->client.epoll : -1;
}

/* ---- put and get ---- */

static weir_status check_key(const char *key, size_t len)
{
    if (!key || !*key)
        return wi_error(WEIR_ERR_INVALID, "a key of the store must have at least one byte");
    if (strlen(key) > WEIR_BOOT_KEY_MAX)
        return wi_error(WEIR_ERR_RANGE, "key '%.40s...' has %zu bytes; at most %u are allowed", key, strlen(key),
                        WEIR_BOOT_KEY_MAX);
    if (len > WEIR_BOOT_VALUE_MAX)
        return wi_error(WEIR_ERR_RANGE, "value of key '%s' has %zu bytes; at most %u are allowed", key, len,
                        WEIR_BOOT_VALUE_MAX);
    return WEIR_OK;
}

/* Makes the sentence for what a table or the store answered, or that the bound was reached. */
static weir_status explain(const struct weir_boot *boot, weir_status status, const char *key)
{
    switch (status) {
    case WEIR_OK:
        return WEIR_OK;
    case WEIR_ERR_MISMATCH:
        return wi_error(status, "key '%s' is taken: a value is written once in a job", key);
    case WEIR_ERR_TIMEOUT:
        return wi_error(status, "key '%s': nobody has stored it%s", key,
                        boot->world > 1 ? " in time" : ", and nobody else is there who could");
    default:
        return wi_error(status, "key '%s': %s, here or in rank 0", key, weir_status_string(status));
    }
}

/* A call of one request. */
static weir_status call_store(struct weir_boot *boot, struct wi_call *call, struct wi_message *request,
                              uint64_t bound_ns, const char *key)
{
    wi_client_begin(&boot->client, call);
    wi_client_add(&boot->client, call, request);
    weir_status status = wi_client_finish(&boot->client, call, wi_now_ns() + bound_ns);
    return call->explained ? status : explain(boot, status, key);
}

weir_status weir_boot_put(weir_boot *boot, const char *key, const void *value, size_t len)
{
    weir_status status = wi_boot_process_check(boot, "weir_boot_put");
    if (status == WEIR_OK)
        status = check_key(key, len);
    if (status != WEIR_OK)
        return status;
    struct wi_call call = {0};
    struct wi_message put = {.type = WI_WIRE_PUT, .key = wi_span_text(key), .value = {value, len}};
    if (boot->world == 1) {
        pthread_mutex_lock(&boot->alone_lock);
        status = wi_store_put(&boot->alone, put.key, put.value);
        pthread_mutex_unlock(&boot->alone_lock);
        return explain(boot, status, key);
    }
    return call_store(boot, &call, &put, boot->timeout_ns, key);
}

struct destination {
    const char *key;
    void *value;
    size_t *len;
};

static weir_status take_value(const struct destination *to, struct wi_span value)
{
    size_t room = *to->len;
    *to->len = value.len;
    if (value.len > room)
        return wi_error(WEIR_ERR_RANGE, "the value of key '%s' has %zu bytes, there is room for %zu", to->key,
                        value.len, room);
    if (value.len > 0)
        memcpy(to->value, value.data, value.len);
    return WEIR_OK;
}

static weir_status on_value(struct wi_call *call, uint32_t index, const struct wi_message *answer)
{
    (void)index;
    return take_value(call->arg, answer->value);
}

static weir_status get_alone(struct weir_boot *boot, const struct destination *to)
{
    struct wi_span value;
    pthread_mutex_lock(&boot->alone_lock);
    bool found = wi_store_get(&boot->alone, wi_span_text(to->key), &value); /* it stays where it is */
    pthread_mutex_unlock(&boot->alone_lock);
    if (found)
        return take_value(to, value);
    weir_status status = weir_boot_check(boot);
    return status != WEIR_OK ? status : explain(boot, WEIR_ERR_TIMEOUT, to->key);
}

weir_status weir_boot_get(weir_boot *boot, const char *key, void *value, size_t *len, int timeout_ms)
{
    weir_status status = wi_boot_process_check(boot, "weir_boot_get");
    if (status == WEIR_OK)
        status = check_key(key, 0);
    if (status != WEIR_OK)
        return status;
    struct destination to = {key, value, len};
    if (boot->world == 1)
        return get_alone(boot, &to);
    uint64_t bound_ns = timeout_ms < 0 ? boot->timeout_ns : (uint64_t)timeout_ms * WI_NS_PER_MS;
    struct wi_call call = {.on_answer = on_value, .arg = &to};
    struct wi_message get = {.type = WI_WIRE_GET, .key = wi_span_text(key)};
    return call_store(boot, &call, &get, bound_ns, key);
}

/* ---- attendants ---- */

weir_status weir_boot_attend(weir_boot *boot, weir_attend_fn *attend, void *arg)
{
    if (!boot || !attend)
        return wi_error(WEIR_ERR_INVALID, "weir_boot_attend: boot and attend must be given");
    weir_status status = wi_boot_process_check(boot, "weir_boot_attend");
    if (status != WEIR_OK)
        return status;
    return wi_attendants_add(&boot->attendants, attend, arg);
}

void weir_boot_unattend(weir_boot *boot, weir_attend_fn *attend, void *arg)
{
    if (boot->pid == getpid())
        wi_attendants_remove(&boot->attendants, attend, arg);
}

/* ---- failure ---- */

weir_status weir_boot_check(weir_boot *boot)
{
    weir_status status = wi_boot_process_check(boot, "weir_boot_check");
    if (status != WEIR_OK)
        return status;
    if (boot->world > 1)
        return wi_client_check(&boot->client);
    pthread_mutex_lock(&boot->alone_lock);
    weir_status failure = boot->alone_failure;
    pthread_mutex_unlock(&boot->alone_lock);
    return failure == WEIR_OK ? WEIR_OK : wi_error(failure, "%s", boot->alone_text);
}

void weir_boot_fail(weir_boot *boot, weir_status status, const char *sentence)
{
    if (boot->pid != getpid()) /* what goes wrong in a child is no failure of its parent's */
        return;
    status = wi_wire_status((uint32_t)status);
    sentence = sentence ? sentence : weir_status_string(status);
    if (boot->world > 1) {
        wi_client_fail(&boot->client, status, sentence);
        return;
    }
    pthread_mutex_lock(&boot->alone_lock);
    if (boot->alone_failure == WEIR_OK) {
        snprintf(boot->alone_text, sizeof(boot->alone_text), "%s", sentence);
        boot->alone_failure = status;
    }
    pthread_mutex_unlock(&boot->alone_lock);
}
