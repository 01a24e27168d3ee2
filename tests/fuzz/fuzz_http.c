/*
 * Fuzzes the listener for statistics: what WEIR_METRICS_LISTEN says, and requests as libmicrohttpd hands them over.
 * That library is replaced by functions that look at what they are given.
 */
#define WEIR_WITH_HTTP 1
#include "transport/exporter_http.c"

#include "bytes_of.h"

static int queued;
static unsigned last_code;

struct MHD_Response {
    void *text;
};

struct MHD_Response *MHD_create_response_from_buffer(size_t size, void *buffer, enum MHD_ResponseMemoryMode mode)
{
    struct MHD_Response *response = malloc(sizeof(*response));
    char *copy = malloc(size + 1);
    check(mode == MHD_RESPMEM_MUST_FREE);
    memcpy(copy, buffer, size); /* the sanitizer sees what is beyond */
    free(copy);
    response->text = buffer;
    return response;
}

enum MHD_Result MHD_add_response_header(struct MHD_Response *response, const char *header, const char *content)
{
    (void)response, (void)header, (void)content;
    return MHD_YES;
}

enum MHD_Result MHD_queue_response(struct MHD_Connection *connection, unsigned code, struct MHD_Response *response)
{
    (void)connection, (void)response;
    queued++;
    last_code = code;
    return MHD_YES;
}

void MHD_destroy_response(struct MHD_Response *response)
{
    free(response->text);
    free(response);
}

/* The place to listen at: only a whole address of either kind. */
struct MHD_Daemon *MHD_start_daemon(unsigned flags, uint16_t port, MHD_AcceptPolicyCallback policy, void *policy_arg,
                                    MHD_AccessHandlerCallback handler, void *handler_arg, ...)
{
    va_list options;
    (void)port, (void)policy, (void)policy_arg, (void)handler, (void)handler_arg;
    va_start(options, handler_arg);
    check(va_arg(options, int) == MHD_OPTION_SOCK_ADDR);
    const struct sockaddr_storage *address = va_arg(options, const struct sockaddr_storage *);
    va_end(options);
    check(address->ss_family == (flags & MHD_USE_IPv6 ? AF_INET6 : AF_INET));
    return NULL;
}

const union MHD_DaemonInfo *MHD_get_daemon_info(struct MHD_Daemon *daemon, enum MHD_DaemonInfoType type, ...)
{
    (void)daemon, (void)type;
    return NULL;
}

void MHD_stop_daemon(struct MHD_Daemon *daemon)
{
    (void)daemon;
}

char *wi_exporter_text(const struct weir_ctx *ctx, size_t *len)
{
    (void)ctx;
    *len = 5;
    return strdup("weir\n");
}

/* A text of exact size, up to the next zero or blank. */
static char *next_word(struct bytes_of *input)
{
    size_t len = 0;
    while (len < input->left && input->at[len] && input->at[len] != ' ')
        len++;
    char *word = strndup((const char *)input->at, len);
    len += len < input->left;
    take_bytes(input, &len);
    return word;
}

/* A head, a body in pieces, the end. */
static void request(struct bytes_of *input)
{
    uint8_t pieces = take_byte(input) % 4;
    char *method = next_word(input), *url = next_word(input), *version = next_word(input);
    void *state = NULL;
    bool known = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0, there = strcmp(url, "/metrics") == 0;
    queued = 0;
    for (int i = -1; i <= pieces; i++) {
        size_t len = i >= 0 && i < pieces ? take_byte(input) + 1u : 0;
        check(queued == 0 && on_request(NULL, NULL, url, method, version, "", &len, &state) == MHD_YES && len == 0);
    }
    check(queued == 1);
    check(last_code == (!known ? MHD_HTTP_METHOD_NOT_ALLOWED : there ? MHD_HTTP_OK : MHD_HTTP_NOT_FOUND));
    free(method);
    free(url);
    free(version);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes_of input = {data, size};
    if (take_byte(&input) % 2) {
        request(&input);
        return 0;
    }
    int offset = take_byte(&input);
    char *where = next_word(&input);
    check(wi_http_start(NULL, where, offset) == NULL);
    free(where);
    return 0;
}
