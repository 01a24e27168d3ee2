/*
 * A stranger who speaks UCX: a program of plain UCX connects to each port of a context over TCP, and asks for memory of which it
 * knows nothing but the address. UCX would hand it over, and let it be overwritten, if the context had UCX's own memory access.
 */
#include "harness.h"
#include "suite.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <ucp/api/ucp.h>

#include <cmocka.h>

enum { TARGET, THIEF, RANKS, PORTS = 8, TURNS = 1500 };
/* Numbers on the board. */
enum { ADDRESS, PORT }; /* the target's; its ports end with a 0 */
enum { STOLEN, DONE };  /* the thief's */

static const char secret[] = "what nobody else may know";
static const char other[] = "written by a stranger";

struct thief {
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h ep;
    ucp_mem_h mem;
    ucp_rkey_h rkey;
    bool ended;
};

static void on_end(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    (void)ep, (void)status;
    ((struct thief *)arg)->ended = true;
}

/* What the thief does takes a while to fail: it waits for an answer that may never come. */
static bool finish(struct thief *thief, ucs_status_ptr_t request)
{
    ucs_status_t status = UCS_PTR_IS_PTR(request) ? UCS_INPROGRESS : UCS_PTR_STATUS(request);
    for (int turn = 0; status == UCS_INPROGRESS && !thief->ended && turn < TURNS; turn++) {
        ucp_worker_progress(thief->worker);
        status = ucp_request_check_status(request);
        sleep_us(1000);
    }
    if (UCS_PTR_IS_PTR(request))
        ucp_request_free(request);
    return status == UCS_OK;
}

/* UCX over TCP puts nothing into a key, so the thief's own is as good as the target's. */
static void unpack_own_key(struct rank *r, struct thief *thief, void *memory, size_t len)
{
    ucp_mem_map_params_t params = {.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH,
                                   .address = memory, .length = len};
    void *packed;
    size_t packed_len;
    CHECK(ucp_mem_map(thief->context, &params, &thief->mem) == UCS_OK);
    CHECK(ucp_rkey_pack(thief->context, thief->mem, &packed, &packed_len) == UCS_OK);
    CHECK(ucp_ep_rkey_unpack(thief->ep, packed, &thief->rkey) == UCS_OK);
    ucp_rkey_buffer_release(packed);
}

static void break_in(struct rank *r, struct thief *thief, uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_RMA | UCP_FEATURE_AM};
    ucp_worker_params_t worker = {0};
    ucp_ep_params_t ep = {
        .field_mask = UCP_EP_PARAM_FIELD_SOCK_ADDR | UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_ERR_HANDLER |
                      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
        .flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {on_end, thief},
        .sockaddr = {(struct sockaddr *)&to, sizeof(to)},
    };
    *thief = (struct thief){0};
    CHECK(ucp_init(&params, NULL, &thief->context) == UCS_OK);
    CHECK(ucp_worker_create(thief->context, &worker, &thief->worker) == UCS_OK);
    CHECK(ucp_ep_create(thief->worker, &ep, &thief->ep) == UCS_OK);
}

static void leave(struct thief *thief)
{
    static const ucp_request_param_t force = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = UCP_EP_CLOSE_FLAG_FORCE};
    ucp_rkey_destroy(thief->rkey);
    thief->ended = false; /* no reason not to wait for this */
    finish(thief, ucp_ep_close_nbx(thief->ep, &force));
    ucp_mem_unmap(thief->context, thief->mem);
    ucp_worker_destroy(thief->worker);
    ucp_cleanup(thief->context);
}

/* Reads and overwrites the secret through this port, if it can. */
static bool steal(struct rank *r, uint16_t port, uint64_t address)
{
    static const ucp_request_param_t plain = {0};
    struct thief thief;
    char loot[sizeof(secret)] = "";
    break_in(r, &thief, port);
    unpack_own_key(r, &thief, loot, sizeof(loot));
    bool read = finish(&thief, ucp_get_nbx(thief.ep, loot, sizeof(loot), address, thief.rkey, &plain));
    finish(&thief, ucp_put_nbx(thief.ep, other, sizeof(other), address, thief.rkey, &plain));
    finish(&thief, ucp_ep_flush_nbx(thief.ep, &plain));
    leave(&thief);
    return read && memcmp(loot, secret, sizeof(secret)) == 0;
}

static void be_thief(struct rank *r)
{
    uint64_t *said = r->board->number[TARGET];
    uint64_t stolen = 0;
    barrier(r);
    for (int i = 0; i < PORTS && said[PORT + i]; i++)
        stolen += steal(r, (uint16_t)said[PORT + i], said[ADDRESS]);
    r->board->number[THIEF][STOLEN] = stolen;
    __atomic_store_n(&r->board->number[THIEF][DONE], 1, __ATOMIC_RELEASE); /* done */
    barrier(r);
}

static void be_target(struct rank *r)
{
    char memory[sizeof(secret)];
    memcpy(memory, secret, sizeof(secret));
    rank_open(r, 0);
    r->board->number[TARGET][ADDRESS] = (uint64_t)(uintptr_t)memory;
    publish_ports(r, PORT, PORTS);
    barrier(r);
    while (!__atomic_load_n(&r->board->number[THIEF][DONE], __ATOMIC_ACQUIRE))
        weir_progress(r->ctx);
    barrier(r);
    CHECK(r->board->number[THIEF][STOLEN] == 0);
    CHECK(memcmp(memory, secret, sizeof(secret)) == 0);
    weir_pool_destroy(r->pool);
    weir_ctx_destroy(r->ctx);
}

static void body(struct rank *r)
{
    if (r->rank == TARGET)
        be_target(r);
    else
        be_thief(r);
}

static void test_memory_is_not_for_strangers(void **state)
{
    (void)state;
    job_run(&(struct job){.count = RANKS, .body = body, .timeout = "20s"});
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_is_not_for_strangers),
    };
    if (!suite_may_run(argc, argv))
        return 77;
    return cmocka_run_group_tests_name(transport_name(), tests, NULL, NULL);
}
