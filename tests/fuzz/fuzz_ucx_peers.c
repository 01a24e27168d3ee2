/*
 * Fuzzes what an interface over UCX does with the messages of its peers, in both roles: connections that were made to it,
 * greeted or not, and endpoints of its own. UCX itself is replaced by functions that keep requests open for a while.
 * Tokens and keys are random numbers that a peer cannot guess, so the input names them by index; what is damaged is
 * the rest. Memory that peers may reach is of exact size, so that the sanitizer sees what is beyond.
 */
#include "bytes_of.h"
#include "ep_fail.h"
#include "core/config.h"
#include "core/error.h"
#include "transport/ucx/ucx.h"

#include <ifaddrs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

enum { HANDLES = 64, REQUESTS = 256, REGION = 128, EPS = 2, CONNS = 3 };

/* ---- UCX ---------------------------------------------------------------------------------------------------------- */

static struct handle {
    ucp_err_handler_t on_error;
    bool open;
} handles[HANDLES];

static struct request {
    ucp_send_nbx_callback_t done;
    void *arg;
    struct handle *of;
} *requests[REQUESTS];

static ucp_am_recv_callback_t handlers[16];
static unsigned request_count, handle_count;
static uint8_t mood; /* of UCX: which requests stay open, which sends fail */
static uint64_t last_token[2];

static ucs_status_ptr_t start(struct handle *of, const ucp_request_param_t *params)
{
    mood = (uint8_t)(mood * 5 + 1);
    if (!of->open || mood % 31 == 0)
        return UCS_STATUS_PTR(UCS_ERR_CONNECTION_RESET);
    if (mood % 3 != 0 || request_count == REQUESTS)
        return NULL;
    struct request *request = malloc(sizeof(*request));
    *request = (struct request){params->cb.send, params->user_data, of};
    requests[request_count++] = request;
    return request;
}

static void finish(unsigned index, ucs_status_t status)
{
    struct request *request = requests[index];
    requests[index] = requests[--request_count];
    if (request->done)
        request->done(request, status, request->arg);
}

unsigned ucp_worker_progress(ucp_worker_h worker)
{
    (void)worker;
    for (unsigned i = request_count; i-- > 0;)
        if (i < request_count && (!requests[i]->of->open || mood % 2))
            finish(i, requests[i]->of->open ? UCS_OK : UCS_ERR_CANCELED);
    return 0;
}

void ucp_request_free(void *request)
{
    free(request);
}

ucs_status_t ucp_ep_create(ucp_worker_h worker, const ucp_ep_params_t *params, ucp_ep_h *ep)
{
    (void)worker;
    if (handle_count == HANDLES)
        return UCS_ERR_NO_RESOURCE;
    struct handle *handle = &handles[handle_count++];
    *handle = (struct handle){params->err_handler, true};
    *ep = (ucp_ep_h)(void *)handle;
    return UCS_OK;
}

ucs_status_ptr_t ucp_ep_close_nbx(ucp_ep_h ep, const ucp_request_param_t *params)
{
    (void)params;
    struct handle *handle = (void *)ep;
    check(handle->open);
    handle->open = false;
    return NULL;
}

ucs_status_ptr_t ucp_am_send_nbx(ucp_ep_h ep, unsigned id, const void *header, size_t header_len, const void *data,
                                 size_t len, const ucp_request_param_t *params)
{
    (void)id;
    uint8_t sum = 0; /* all of it may be read */
    for (size_t i = 0; i < header_len; i++)
        sum ^= ((const uint8_t *)header)[i];
    for (size_t i = 0; i < len; i++)
        sum ^= ((const uint8_t *)data)[i];
    mood ^= sum & 1;
    return start((void *)ep, params);
}

ucs_status_ptr_t ucp_ep_flush_nbx(ucp_ep_h ep, const ucp_request_param_t *params)
{
    return start((void *)ep, params);
}

ucs_status_ptr_t ucp_put_nbx(ucp_ep_h ep, const void *data, size_t len, uint64_t addr, ucp_rkey_h rkey,
                             const ucp_request_param_t *params)
{
    (void)data, (void)len, (void)addr, (void)rkey;
    return start((void *)ep, params);
}

ucs_status_ptr_t ucp_get_nbx(ucp_ep_h ep, void *data, size_t len, uint64_t addr, ucp_rkey_h rkey,
                             const ucp_request_param_t *params)
{
    (void)data, (void)len, (void)addr, (void)rkey;
    return start((void *)ep, params);
}

ucs_status_t ucp_worker_set_am_recv_handler(ucp_worker_h worker, const ucp_am_handler_param_t *params)
{
    (void)worker;
    handlers[params->id] = params->cb;
    return UCS_OK;
}

ucs_status_t ucp_listener_reject(ucp_listener_h listener, ucp_conn_request_h request)
{
    (void)listener, (void)request;
    return UCS_OK;
}

void ucp_ep_print_info(ucp_ep_h ep, FILE *stream)
{
    (void)ep;
    fputs("#                 lane[0]:  0:tcp/lo.0 md[0] -> md[0]/tcp/sysdev[255] rma_bw#0 am am_bw#0\n", stream);
}

void ucp_context_print_info(const ucp_context_h context, FILE *stream)
{
    (void)context;
    fputs("#      resource 1  :  md 1  dev 1  flags -- tcp/lo\n", stream);
}

ucs_status_t ucp_mem_map(ucp_context_h context, const ucp_mem_map_params_t *params, ucp_mem_h *mem)
{
    (void)context;
    *mem = params->address;
    return UCS_OK;
}

ucs_status_t ucp_mem_query(const ucp_mem_h mem, ucp_mem_attr_t *attr)
{
    attr->address = mem;
    return UCS_OK;
}

ucs_status_t ucp_mem_unmap(ucp_context_h context, ucp_mem_h mem)
{
    (void)context, (void)mem;
    return UCS_OK;
}

const char *ucs_status_string(ucs_status_t status)
{
    return status == UCS_OK ? "Success" : "some error";
}

/* What cannot happen in this harness: no RDMA lanes, no keys of UCX, no listener. */
#define NEVER(_name, ...)                                                                                              \
    ucs_status_t _name(__VA_ARGS__)                                                                                    \
    {                                                                                                                  \
        check(false);                                                                                                  \
        return UCS_ERR_UNSUPPORTED;                                                                                    \
    }

NEVER(ucp_rkey_pack, ucp_context_h a, ucp_mem_h b, void **c, size_t *d)
NEVER(ucp_ep_rkey_unpack, ucp_ep_h a, const void *b, ucp_rkey_h *c)
NEVER(ucp_rkey_ptr, ucp_rkey_h a, uint64_t b, void **c)

void ucp_rkey_buffer_release(void *buffer)
{
    (void)buffer;
    check(false);
}

void ucp_rkey_destroy(ucp_rkey_h rkey)
{
    (void)rkey;
    check(false);
}

/* ---- The system: no interfaces, and numbers that are the same in each run ----------------------------------------- */

static uint64_t random_state;

int getifaddrs(struct ifaddrs **list)
{
    *list = NULL;
    return 0;
}

void freeifaddrs(struct ifaddrs *list)
{
    check(!list);
}

ssize_t getrandom(void *bytes, size_t len, unsigned flags)
{
    (void)flags;
    for (size_t i = 0; i < len; i++) {
        random_state = random_state * 6364136223846793005 + 1442695040888963407;
        ((uint8_t *)bytes)[i] = (uint8_t)(random_state >> 56);
    }
    return (ssize_t)len;
}

/* ---- The rest of the library -------------------------------------------------------------------------------------- */

static const struct wi_config config = {.timeout_ns = 3600ull * 1000000000};

const struct wi_config *wi_config(void)
{
    return &config;
}

weir_status wi_ucx_error(ucs_status_t status, const char *what)
{
    return wi_error(wi_ucx_status(status), "UCX: %s", what);
}

weir_status wi_ucx_status(ucs_status_t status)
{
    return status == UCS_OK ? WEIR_OK : status == UCS_ERR_CANCELED ? WEIR_ERR_CANCELED : WEIR_ERR_PEER_GONE;
}

void wi_ucx_silence_bound(struct wi_ucx_iface *iface)
{
    (void)iface; /* there are no sockets */
}

bool wi_ucx_shares_memory(void)
{
    return false;
}

bool wi_ucx_protocols_known(void)
{
    return true;
}

/* ---- The world ---------------------------------------------------------------------------------------------------- */

static struct wi_ucx_iface *iface;
static struct weir_ep *eps[EPS];
static weir_comp comps[64];
static struct wi_ucx_mr *mr;
static struct wi_ucx_export exported; /* all of it */
static uint8_t *region;
static uint64_t *target; /* of gets and fetch_adds */

/* As iface.c does it after UCX's progress. */
static void progress(void)
{
    ucp_worker_progress(NULL);
    if (iface->request_count)
        wi_ucx_conn_accept(iface);
    struct wi_list now;
    wi_list_take(&now, &iface->todo);
    while (!wi_list_empty(&now)) {
        struct wi_ucx_link *link = WI_UCX_CONTAINER(now.next, struct wi_ucx_link, todo);
        wi_list_remove(&link->todo);
        if (link->initiator)
            wi_ucx_ep_serve(WI_UCX_CONTAINER(link, struct wi_ucx_ep, link));
        else
            wi_ucx_conn_serve(WI_UCX_CONTAINER(link, struct wi_ucx_conn, link));
    }
}

/* The token that a message names: of a link by index, now and then of none. */
static uint64_t token_of(struct bytes_of *input, bool initiator)
{
    unsigned at = take_byte(input) % 4;
    for (struct wi_list *node = iface->links.next; node != &iface->links; node = node->next) {
        struct wi_ucx_link *link = WI_UCX_CONTAINER(node, struct wi_ucx_link, node);
        if (link->initiator == initiator && at-- == 0)
            return link->token;
    }
    return last_token[initiator] + at;
}

static void *reply_ep_of(struct bytes_of *input)
{
    return handle_count ? &handles[take_byte(input) % handle_count] : NULL;
}

static uint64_t key_of(struct bytes_of *input)
{
    return take_byte(input) % 8 ? exported.key : take_word(input);
}

static uint64_t addr_of(struct bytes_of *input)
{
    int64_t offset = (int8_t)take_byte(input);
    return (uint64_t)(uintptr_t)region + (uint64_t)(take_byte(input) % 8 ? offset / 8 * 8 : offset);
}

static void call(enum wi_ucx_am id, const void *header, size_t header_len, const void *data, size_t len, void *reply_ep,
                 uint8_t damage)
{
    size_t cut = damage & 0x40 ? damage % 5 : 0;
    ucp_am_recv_param_t params = {.recv_attr = reply_ep ? UCP_AM_RECV_ATTR_FIELD_REPLY_EP : 0,
                                  .reply_ep = (ucp_ep_h)reply_ep};
    if (damage & 0x80)
        params.recv_attr |= UCP_AM_RECV_ATTR_FLAG_RNDV;
    header_len -= header_len > cut ? cut : header_len;
    len -= len > cut ? cut : len;
    uint8_t *head = malloc(header_len + !header_len), *body = malloc(len + !len); /* reading on is found */
    if (header_len > 0)
        memcpy(head, header, header_len);
    if (len > 0)
        memcpy(body, data, len);
    handlers[id](iface, head, header_len, body, len, &params);
    free(head);
    free(body);
}

static void greet(struct bytes_of *input, uint8_t damage)
{
    struct wi_ucx_hello hello = {WI_UCX_MAGIC, WI_UCX_VERSION, iface->instance, 9, 77};
    uint8_t wrong = take_byte(input);
    if (wrong % 8 == 1)
        hello.magic ^= wrong;
    if (wrong % 8 == 2)
        hello.instance ^= wrong;
    call(WI_UCX_AM_HELLO, NULL, 0, &hello, sizeof(hello), reply_ep_of(input), damage);
}

/* To an endpoint of ours. */
static void answer(struct bytes_of *input, unsigned kind, uint8_t damage)
{
    uint8_t data[64] = {1};
    struct wi_ucx_welcome welcome = {token_of(input, true), 5, 4711, take_byte(input) % 8 != 1};
    struct wi_ucx_ack ack = {token_of(input, true), take_byte(input) % 4, take_byte(input) % 4, take_byte(input) % 2};
    struct wi_ucx_reply reply = {token_of(input, true), take_byte(input) % 6, take_byte(input), take_byte(input) % 2};
    if (kind == 0)
        call(WI_UCX_AM_WELCOME, NULL, 0, &welcome, sizeof(welcome), NULL, damage);
    else if (kind == 1)
        call(WI_UCX_AM_ACK, NULL, 0, &ack, sizeof(ack), NULL, damage);
    else if (kind == 2)
        call(WI_UCX_AM_REPLY, NULL, 0, &reply, sizeof(reply), NULL, damage);
    else
        call(WI_UCX_AM_DATA, &reply, sizeof(reply), data, take_byte(input) % 64, NULL, damage);
}

/* To us as target. */
static void ask(struct bytes_of *input, unsigned kind, uint8_t damage)
{
    uint8_t data[200] = {2};
    uint64_t token = token_of(input, false);
    struct wi_ucx_signal signal = {token, take_byte(input)};
    struct wi_ucx_flush flush = {token, take_byte(input)};
    struct wi_ucx_put put = {token, key_of(input), addr_of(input), take_byte(input) % 2 ? WI_UCX_NO_SIGNAL : signal.signal};
    struct wi_ucx_question question = {token, put.key, put.addr, take_byte(input), take_byte(input)};
    if (take_byte(input) % 16 == 1)
        question.value = ~0ull - take_byte(input);
    switch (kind) {
    case 0:
        call(WI_UCX_AM_SIGNAL, NULL, 0, &signal, sizeof(signal), NULL, damage);
        break;
    case 1:
        call(WI_UCX_AM_MESSAGE, &token, sizeof(token), data, take_byte(input) % 200, NULL, damage);
        break;
    case 2:
        call(WI_UCX_AM_FLUSH, NULL, 0, &flush, sizeof(flush), NULL, damage);
        break;
    case 3:
        call(WI_UCX_AM_PUT, &put, sizeof(put), data, take_byte(input) % 200, NULL, damage);
        break;
    case 4:
        call(WI_UCX_AM_GET, NULL, 0, &question, sizeof(question), NULL, damage);
        break;
    default:
        call(WI_UCX_AM_FETCH_ADD, NULL, 0, &question, sizeof(question), NULL, damage);
        break;
    }
}

/* What the user of an endpoint does. */
static void operate(struct bytes_of *input)
{
    struct weir_ep *ep = eps[take_byte(input) % EPS];
    struct wi_ucx_rkey rkey = {.key = 99};
    weir_comp *comp = &comps[take_byte(input) % 64];
    if (!ep || ep->status != WEIR_OK || !ep->ready)
        return;
    switch (take_byte(input) % 6) {
    case 0:
        wi_ucx_put(ep, region, &mr->base, take_byte(input) % REGION + 1, 8, &rkey.base, comp);
        break;
    case 1:
        wi_ucx_get(ep, target, &mr->base, 64, 8, &rkey.base, comp);
        break;
    case 2:
        wi_ucx_fetch_add(ep, 1, target, &mr->base, 8, &rkey.base, comp);
        break;
    case 3:
        wi_ucx_send(ep, region, take_byte(input) % REGION);
        break;
    case 4:
        wi_ucx_put_signal(ep, region, &mr->base, take_byte(input) % REGION, 8, &rkey.base, 1, comp);
        break;
    default:
        wi_ucx_flush(ep, comp);
        break;
    }
}

/* UCX tells that an endpoint of its is lost. */
static void lose(struct bytes_of *input)
{
    struct handle *handle = reply_ep_of(input);
    if (handle && handle->open)
        handle->on_error.cb(handle->on_error.arg, (ucp_ep_h)(void *)handle, UCS_ERR_CONNECTION_RESET);
}

static void take_messages(struct bytes_of *input)
{
    for (int i = take_byte(input) % 8; i > 0 && wi_ucx_msg_peek(&iface->base); i--)
        wi_ucx_msg_pop(&iface->base);
}

static void one_turn(struct bytes_of *input)
{
    uint8_t what = take_byte(input), damage = take_byte(input) % 4 ? 0 : take_byte(input);
    switch (what % 16) {
    case 0:
        wi_ucx_conn_request((ucp_conn_request_h)(void *)iface, iface);
        break;
    case 1:
        greet(input, damage);
        break;
    case 2:
    case 3:
    case 4:
    case 5:
        answer(input, what % 16 - 2u, damage);
        break;
    case 6:
        lose(input);
        break;
    case 7:
        take_messages(input);
        break;
    case 8:
    case 9:
        operate(input);
        break;
    default:
        ask(input, what % 16 - 10u, damage);
        break;
    }
    if (what & 0x80)
        progress();
}

static void begin(struct bytes_of *input)
{
    /* version, count, port, instance, host, one IPv4 address */
    uint8_t address[25] = {1, 1, 0x10, 0x27, 3, [20] = 4, 10, 0, 0, 1};
    if (!iface) {
        iface = calloc(1, sizeof(*iface));
        iface->base.ops = &wi_ucx_ops;
        iface->base.params.signals = 16;
        iface->base.signals = calloc(16, sizeof(uint64_t));
        iface->instance = 12345;
        wi_list_init(&iface->links);
        wi_list_init(&iface->todo);
        wi_list_init(&iface->clocked);
        check(wi_ucx_pools_init(iface) == WEIR_OK && wi_ucx_messages_init(iface) == WEIR_OK);
    }
    region = malloc(REGION);
    memset(region, 3, REGION);
    target = calloc(8, sizeof(*target));
    struct wi_mem_desc desc = {.addr = region, .len = REGION, .fd = -1};
    struct wi_mr *base;
    check(wi_ucx_mem_register(&iface->base, &desc, &base) == WEIR_OK);
    mr = WI_UCX_CONTAINER(base, struct wi_ucx_mr, base);
    exported = (struct wi_ucx_export){.iface = iface, .addr = region, .len = REGION};
    check(wi_ucx_table_enter(&iface->exports, &exported, &exported.key) == WEIR_OK);
    memset(comps, 0, sizeof(comps));
    handle_count = 0;
    random_state = 1;
    mood = take_byte(input);
    for (int i = 0; i < EPS; i++) {
        if (wi_ucx_ep_create(&iface->base, address, sizeof(address), &eps[i]) != WEIR_OK)
            eps[i] = NULL;
        else if (wi_ucx_ep_connect(eps[i]) != WEIR_OK)
            eps[i]->status = WEIR_ERR_PEER_UNREACHABLE;
    }
}

/* All that was posted has ended, once. */
static void end(void)
{
    for (int i = 0; i < EPS; i++)
        if (eps[i])
            wi_ucx_ep_close(eps[i]);
    while (!wi_list_empty(&iface->links))
        wi_ucx_conn_free(WI_UCX_CONTAINER(iface->links.next, struct wi_ucx_conn, link.node));
    for (int i = 0; i < 1000 && request_count > 0; i++)
        ucp_worker_progress(NULL);
    check(request_count == 0 && iface->slot_free_count == WI_UCX_SLOTS);
    for (int i = 0; i < 64; i++)
        check(comps[i].pending == 0);
    wi_ucx_table_remove(&iface->exports, exported.key);
    wi_ucx_mem_deregister(&mr->base);
    while (wi_ucx_msg_peek(&iface->base))
        wi_ucx_msg_pop(&iface->base);
    iface->request_count = 0; /* rejected */
    check(wi_list_empty(&iface->todo) && wi_list_empty(&iface->clocked) && iface->conns.count == 0);
    free(region);
    free(target);
}

const struct wi_transport_ops wi_ucx_ops = {.name = "ucx"};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes_of input = {data, size};
    begin(&input);
    for (int turn = 0; turn < 100 && input.left > 0; turn++)
        one_turn(&input);
    end();
    return 0;
}
