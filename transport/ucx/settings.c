/*
 * UCX's settings: the user's environment wins; where it says nothing we set what Weir needs. And UCX's errors and log,
 * turned into ours.
 */
#include "core/clock.h"
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/ucx/ucx.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucs/config/global_opts.h>
#include <ucs/debug/debug.h>
#include <ucs/debug/log_def.h>

#define ASYNC_MAX_EVENTS "32768" /* takes up 8 bytes each */

/* UCX's last complaint in this thread, to be quoted in our sentence. */
static _Thread_local char complaint[256];
/* A context is being made: warnings are about the user's settings. The last one, for each context brings the same. */
static _Thread_local bool starting;
static _Thread_local char warned[256];

static bool user_set(const char *name)
{
    char variable[64];
    snprintf(variable, sizeof(variable), "UCX_%s", name);
    return wi_config_foreign(variable) != NULL;
}

/*
 * UCX calls a setting invalid that ucp_config_modify() gave and that no transport has read, as none does which is not on
 * this host (UCX_IB_FORK_INIT without an RDMA device) or was switched off. That is no fault, and no error's cause. Of
 * the user's variables it says "unused".
 */
static bool is_of_ours(const char *text)
{
    return strncmp(text, "invalid configuration", strlen("invalid configuration")) == 0;
}

static ucs_log_func_rc_t log_line(const char *file, unsigned line, const char *function, ucs_log_level_t level,
                                  const ucs_log_component_config_t *component, const char *format, va_list args)
{
    (void)file, (void)line, (void)function, (void)component;
    char text[sizeof(complaint)];
    vsnprintf(text, sizeof(text), format, args);
    if (level == UCS_LOG_LEVEL_WARN && is_of_ours(text)) {
        wi_debug("UCX: settings for transports that are not there: %s", text);
        return UCS_LOG_FUNC_RC_STOP;
    }
    if (level <= UCS_LOG_LEVEL_WARN)
        memcpy(complaint, text, sizeof(text));
    /* Errors of UCX come back as a status, and what ends a peer is no fault of ours: they are for the curious. */
    bool warning = level == UCS_LOG_LEVEL_WARN && starting && strcmp(text, warned) != 0;
    if (warning)
        memcpy(warned, text, sizeof(text));
    wi_log(level <= UCS_LOG_LEVEL_FATAL ? WI_LOG_ERROR : warning ? WI_LOG_WARN : WI_LOG_INFO, "UCX: %s", text);
    return UCS_LOG_FUNC_RC_STOP;
}

/* What is the process's: UCX takes over signals when it is loaded, and prints, not in a library's name. */
static void tame(void)
{
    static const int signals[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE};
    if (!user_set("HANDLE_ERRORS") && !user_set("ERROR_SIGNALS"))
        for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
            ucs_debug_disable_signal(signals[i]);
    if (!user_set("LOG_LEVEL") && !user_set("LOG_FILE"))
        ucs_log_push_handler(log_line);
    /* Each connection is an event to a worker, and UCX's 1024 are used up by 500 peers that are connected both ways. */
    if (!user_set("ASYNC_MAX_EVENTS") && ucs_global_opts_set_value("ASYNC_MAX_EVENTS", ASYNC_MAX_EVENTS) != UCS_OK)
        wi_info("UCX does not take UCX_ASYNC_MAX_EVENTS=" ASYNC_MAX_EVENTS);
}

/* `prefix` is that of the transport a setting is of: part of the variable's name, not of UCX's key. */
static void set(ucp_config_t *config, const char *prefix, const char *key, const char *value)
{
    char name[64];
    snprintf(name, sizeof(name), "%s%s", prefix, key);
    if (user_set(name))
        return;
    ucs_status_t status = ucp_config_modify(config, key, value);
    if (status != UCS_OK)
        wi_info("UCX does not take UCX_%s=%s: %s", name, value, ucs_status_string(status));
}

static void set_time(ucp_config_t *config, const char *prefix, const char *key, uint64_t ns, uint64_t min_ns,
                     uint64_t max_ns)
{
    char value[32];
    ns = ns < min_ns ? min_ns : ns > max_ns ? max_ns : ns;
    snprintf(value, sizeof(value), "%llums", (unsigned long long)(ns / WI_NS_PER_MS));
    set(config, prefix, key, value);
}

/*
 * UCX's connect() would block in progress for as long as the network is away: it must not wait, and give up when our
 * own patience ends. Where the kernel doubles its pauses from the start, n retries take 2^(n+1) - 1 s.
 */
static void set_connecting(ucp_config_t *config, uint64_t timeout_ns)
{
    char retries[8];
    unsigned n = 1;
    while (n < 6 && ((2ull << (n + 1)) - 1) * WI_NS_PER_S <= timeout_ns)
        n++;
    snprintf(retries, sizeof(retries), "%u", n);
    set(config, "TCP_", "CONN_NB", "y");
    set(config, "TCP_", "SYN_CNT", retries);
    /* UCX 1.13 writes the retries as a longer number than its field is and zeroes the next one, which is this. */
    set(config, "TCP_", "TX_MAX_BUFS", "-1");
}

static uint64_t whole_seconds(uint64_t ns, uint64_t max_s)
{
    uint64_t seconds = ns / WI_NS_PER_S;
    return (seconds < 1 ? 1 : seconds > max_s ? max_s : seconds) * WI_NS_PER_S;
}

uint64_t wi_ucx_probe_idle_ns(void)
{
    return whole_seconds(wi_config()->timeout_ns / 4, 60);
}

uint64_t wi_ucx_probe_pause_ns(void)
{
    return whole_seconds(wi_config()->timeout_ns / 8, 20);
}

weir_status wi_ucx_settings(bool ipv6, ucp_config_t **config)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, tame);
    complaint[0] = 0;
    starting = true;
    ucs_status_t status = ucp_config_read(NULL, NULL, config);
    if (status != UCS_OK)
        return wi_ucx_error(status, "cannot read the UCX_* variables");

    /* A cut-off peer is noticed within WEIR_TIMEOUT: by UCX's own probes, and by the kernel's on idle connections; with
     * an eighth of it until one is sent and three quarters without an answer (silence.c). */
    uint64_t timeout_ns = wi_config()->timeout_ns;
    set_time(*config, "", "KEEPALIVE_INTERVAL", timeout_ns / 8, 100 * WI_NS_PER_MS, 20 * WI_NS_PER_S);
    set_time(*config, "TCP_", "KEEPIDLE", wi_ucx_probe_idle_ns(), WI_NS_PER_S, 60 * WI_NS_PER_S);
    set_time(*config, "TCP_", "KEEPINTVL", wi_ucx_probe_pause_ns(), WI_NS_PER_S, 20 * WI_NS_PER_S);
    set_connecting(*config, timeout_ns);
    /* Which lanes its newer protocols take cannot be found out, and the order of signals depends on it. */
    set(*config, "", "PROTO_ENABLE", "n");
    /* Room for a piece of a put in one of UCX's packets over TCP; its default is 8 KiB. */
    char piece[32];
    snprintf(piece, sizeof(piece), "%u", WI_UCX_TCP_PIECE + 4096u);
    set(*config, "TCP_", "TX_SEG_SIZE", piece);
    set(*config, "TCP_", "RX_SEG_SIZE", piece);
    /* UCX 1.13 makes room for an address of the interface's family, and writes the other one's behind it. */
    set(*config, "TCP_", "AF_PRIO", ipv6 ? "inet6" : "inet");
    /* Memory that it would share with nobody: half of what a context costs, of /dev/shm, which is small in containers, too. */
    if (!wi_ucx_shares_memory())
        set(*config, "", "TLS", "^shm");
    /* UCX would take registered memory away from children, who crash where they touch it. */
    if (wi_ucx_fork_copies_registered())
        set(*config, "IB_", "FORK_INIT", "n");
    return WEIR_OK;
}

void wi_ucx_settings_done(void)
{
    starting = false;
}

static bool says_no(const char *value)
{
    return strcmp(value, "n") == 0 || strcmp(value, "no") == 0 || strcmp(value, "off") == 0 || strcmp(value, "0") == 0;
}

/* With our error handling UCX 1.13 takes shared memory only where the user has switched this on. */
bool wi_ucx_shares_memory(void)
{
    static const char *const names[] = {"UCX_MM_ERROR_HANDLING", "UCX_SYSV_ERROR_HANDLING", "UCX_POSIX_ERROR_HANDLING"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *value = wi_config_foreign(names[i]);
        if (value && !says_no(value))
            return true;
    }
    return false;
}

bool wi_ucx_inside_known(void)
{
    unsigned major, minor, release;
    ucp_get_version(&major, &minor, &release);
    return major == 1 && minor <= 15;
}

bool wi_ucx_protocols_known(void)
{
    const char *chosen = wi_config_foreign("UCX_PROTO_ENABLE");
    bool old_protocols = !chosen || says_no(chosen);
    return wi_ucx_inside_known() && old_protocols;
}

weir_status wi_ucx_status(ucs_status_t status)
{
    switch (status) {
    case UCS_OK:
        return WEIR_OK;
    case UCS_ERR_NO_RESOURCE:
        return WEIR_ERR_AGAIN;
    case UCS_ERR_NO_MEMORY:
        return WEIR_ERR_NO_MEMORY;
    case UCS_ERR_EXCEEDS_LIMIT:
        return WEIR_ERR_LIMIT;
    case UCS_ERR_INVALID_PARAM:
        return WEIR_ERR_INVALID;
    case UCS_ERR_UNSUPPORTED:
        return WEIR_ERR_UNSUPPORTED;
    case UCS_ERR_NO_DEVICE:
        return WEIR_ERR_NO_DEVICE;
    case UCS_ERR_CANCELED:
        return WEIR_ERR_CANCELED;
    case UCS_ERR_UNREACHABLE:
    case UCS_ERR_REJECTED:
        return WEIR_ERR_PEER_UNREACHABLE;
    case UCS_ERR_NOT_CONNECTED:
    case UCS_ERR_CONNECTION_RESET:
    case UCS_ERR_ENDPOINT_TIMEOUT:
    case UCS_ERR_TIMED_OUT:
        return WEIR_ERR_PEER_GONE;
    default:
        return WEIR_ERR_IO;
    }
}

weir_status wi_ucx_error(ucs_status_t status, const char *what)
{
    const char *tls = wi_config_foreign("UCX_TLS");
    return wi_error(wi_ucx_status(status), "UCX: %s: %s%s%s%s%s", what, ucs_status_string(status),
                    complaint[0] ? ": " : "", complaint, tls ? "; UCX_TLS=" : "", tls ? tls : "");
}
