/* The UCX backend's part of an address comes from outside: what it says is taken or
 * refused, never more than is there. */
#include "transport/blob.h"
#include "transport/ucx/ucx.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NETWORK 77u

static size_t write_address(const char *bind_address, unsigned char *buf, size_t room)
{
    struct wi_ucx_iface iface = {.port = 4711, .instance = 99};
    iface.base.params.network = NETWORK;
    iface.base.params.bind_address = bind_address;
    size_t len = room;
    assert_int_equal(wi_ucx_address_write(&iface, buf, &len), WEIR_OK);
    return len;
}

/* Reads from memory of just this length, so that a sanitizer sees a read behind its end. */
static weir_status read_address(const unsigned char *buf, size_t len, uint64_t network, struct wi_ucx_ep *ep)
{
    struct wi_ucx_iface iface = {0};
    iface.base.params.network = network;
    *ep = (struct wi_ucx_ep){.link.iface = &iface};
    unsigned char *exact = malloc(len ? len : 1);
    assert_non_null(exact);
    memcpy(exact, buf, len);
    weir_status status = wi_ucx_address_read(ep, exact, len);
    free(exact);
    return status;
}

static void test_there_and_back(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "192.0.2.7", "::1", "2001:db8::7"};
    static const char *const texts[] = {"127.0.0.1:4711", "192.0.2.7:4711", "[::1]:4711", "[2001:db8::7]:4711"};
    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
        unsigned char buf[400];
        char text[80];
        struct wi_ucx_ep ep;
        size_t len = write_address(hosts[i], buf, sizeof(buf));
        assert_int_equal(read_address(buf, len, NETWORK, &ep), WEIR_OK);
        assert_int_equal(ep.target_count, 1);
        assert_int_equal(ep.instance, 99);
        assert_string_equal(wi_ucx_sockaddr_text(&ep.targets[0], text, sizeof(text)), texts[i]);
    }
}

static void test_all_addresses(void **state)
{
    (void)state;
    unsigned char buf[400];
    struct wi_ucx_ep ep;
    size_t len = write_address(NULL, buf, sizeof(buf));
    assert_int_equal(read_address(buf, len, NETWORK, &ep), WEIR_OK);
    assert_in_range(ep.target_count, 1, WI_UCX_TARGETS);
    char text[80];
    bool loopback = false;
    for (unsigned i = 0; i < ep.target_count; i++) { /* loopback comes last */
        bool now = strncmp(wi_ucx_sockaddr_text(&ep.targets[i], text, sizeof(text)), "127.", 4) == 0;
        assert_false(loopback && !now);
        loopback = now;
    }
}

static void test_loopback_of_another_host(void **state)
{
    (void)state;
    unsigned char buf[400];
    struct wi_ucx_ep ep;
    size_t len = write_address("127.0.0.1", buf, sizeof(buf));
    assert_int_equal(read_address(buf, len, NETWORK + 1, &ep), WEIR_ERR_PEER_UNREACHABLE);
}

/* UCX of one family ends the process that connects to an address of the other one. */
static void test_other_family(void **state)
{
    (void)state;
    unsigned char buf[400];
    struct wi_ucx_iface iface = {.family = 4, .base.params.network = NETWORK};
    struct wi_ucx_ep ep = {.link.iface = &iface};
    size_t len = write_address("2001:db8::7", buf, sizeof(buf));
    assert_int_equal(wi_ucx_address_read(&ep, buf, len), WEIR_ERR_PEER_UNREACHABLE);
    assert_non_null(strstr(weir_last_error(), "it listens on IPv6, this process on IPv4"));
    assert_int_equal(ep.target_count, 0);
    iface.family = 6;
    assert_int_equal(wi_ucx_address_read(&ep, buf, len), WEIR_OK);
    assert_int_equal(ep.target_count, 1);
}

static void test_cut(void **state)
{
    (void)state;
    unsigned char buf[400];
    struct wi_ucx_ep ep;
    size_t len = write_address("2001:db8::7", buf, sizeof(buf));
    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(read_address(buf, cut, NETWORK, &ep), WEIR_ERR_PROTOCOL);
}

static void test_every_byte_changed(void **state)
{
    (void)state;
    unsigned char buf[400];
    struct wi_ucx_ep ep;
    size_t len = write_address("192.0.2.7", buf, sizeof(buf));
    for (size_t at = 0; at < len; at++) {
        for (unsigned value = 0; value < 256; value++) {
            unsigned char changed[400];
            memcpy(changed, buf, len);
            changed[at] = (unsigned char)value;
            weir_status status = read_address(changed, len, NETWORK, &ep);
            if (status == WEIR_OK)
                assert_in_range(ep.target_count, 1, WI_UCX_TARGETS);
            else
                assert_true(status == WEIR_ERR_PROTOCOL || status == WEIR_ERR_PEER_UNREACHABLE);
        }
    }
}

static void test_little_room(void **state)
{
    (void)state;
    unsigned char buf[400];
    struct wi_ucx_iface iface = {.port = 1};
    iface.base.params.bind_address = "192.0.2.7";
    size_t len = write_address("192.0.2.7", buf, sizeof(buf)) - 1;
    assert_int_equal(wi_ucx_address_write(&iface, buf, &len), WEIR_ERR_RANGE);
    iface.base.params.bind_address = "localhost";
    len = sizeof(buf);
    assert_int_equal(wi_ucx_address_write(&iface, buf, &len), WEIR_ERR_INVALID);
}

/* A context's address with another UCX part, for an endpoint over UCX. */
static void expect_refused(weir_ctx *ctx, const unsigned char *part, size_t part_len, weir_status expected,
                           const char *sentence)
{
    unsigned char buf[WEIR_ADDRESS_MAX];
    struct wi_blob_writer writer;
    size_t room, len = 0;
    weir_ep *ep = NULL;
    wi_blob_begin(&writer, buf, sizeof(buf), WI_BLOB_ADDRESS, (const uint64_t[WI_BLOB_FIELDS]){4711, 1, 0});
    memcpy(wi_blob_section_room(&writer, &room), part, part_len);
    wi_blob_section_done(&writer, WI_WIRE_UCX, part_len);
    assert_int_equal(wi_blob_end(&writer, &len), WEIR_OK);
    assert_int_equal(weir_ep_create(ctx, buf, len, &ep), expected);
    if (strcmp(weir_last_error(), sentence) != 0)
        fail_msg("'%s' instead of '%s'", weir_last_error(), sentence);
}

static void test_sentences_name_the_rank(void **state)
{
    (void)state;
    weir_ctx *ctx;
    unsigned char part[400];
    weir_ctx_params params = {.size = sizeof(params), .transport = "ucx", .bind_address = "127.0.0.1"};
    if (weir_transport_probe("ucx", NULL, 0) != WEIR_OK)
        skip();
    assert_int_equal(weir_ctx_create(&params, &ctx), WEIR_OK);
    size_t len = write_address("127.0.0.1", part, sizeof(part)); /* of a network that is not this one */
    expect_refused(ctx, part, len, WEIR_ERR_PEER_UNREACHABLE,
                   "endpoint to rank 4711: UCX: it has a loopback address only, and is on another host or in another network "
                   "namespace; set MASTER_ADDR, or WEIR_INTERFACE there, to an address that this host can reach");
    expect_refused(ctx, part, len - 1, WEIR_ERR_PROTOCOL,
                   "endpoint to rank 4711: UCX: its address is damaged: the list of IP addresses is cut; pass on all of what "
                   "weir_ctx_address() gave");
    part[0]++;
    expect_refused(ctx, part, len, WEIR_ERR_PROTOCOL,
                   "endpoint to rank 4711: UCX: its address is damaged or of another version; use one version of Weir on all "
                   "ranks");
    weir_ctx_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),           cmocka_unit_test(test_all_addresses),
        cmocka_unit_test(test_loopback_of_another_host), cmocka_unit_test(test_cut),
        cmocka_unit_test(test_other_family),
        cmocka_unit_test(test_every_byte_changed),       cmocka_unit_test(test_little_room),
        cmocka_unit_test(test_sentences_name_the_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
