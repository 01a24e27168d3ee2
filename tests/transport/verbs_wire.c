/* What verbs interfaces tell each other, without a device: encodings that come back,
 * damage that is seen, and the ring. */
#include "transport/verbs/wire.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct wi_verbs_address example(void)
{
    struct wi_verbs_address address = {.cookie = 0x1122334455667788, .count = 2};
    address.ip[0].in4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(4711)};
    address.ip[1].in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(65535)};
    inet_pton(AF_INET, "10.77.0.1", &address.ip[0].in4.sin_addr);
    inet_pton(AF_INET6, "fd77::2", &address.ip[1].in6.sin6_addr);
    return address;
}

static void test_address_comes_back(void **state)
{
    (void)state;
    struct wi_verbs_address address = example(), back;
    unsigned char buf[400];
    size_t len = sizeof(buf);
    char text[80];
    assert_true(wi_verbs_address_encode(&address, buf, &len));
    assert_true(wi_verbs_address_decode(buf, len, &back));
    assert_int_equal(back.count, 2);
    assert_true(back.cookie == address.cookie);
    wi_verbs_address_print(&back.ip[0].any, text, sizeof(text));
    assert_string_equal(text, "10.77.0.1 port 4711");
    wi_verbs_address_print(&back.ip[1].any, text, sizeof(text));
    assert_string_equal(text, "fd77::2 port 65535");
}

static void test_address_needs_room(void **state)
{
    (void)state;
    struct wi_verbs_address address = example();
    unsigned char buf[400];
    size_t need = sizeof(buf);
    assert_true(wi_verbs_address_encode(&address, buf, &need));
    size_t len = need - 1;
    assert_false(wi_verbs_address_encode(&address, buf, &len));
    len = need;
    assert_true(wi_verbs_address_encode(&address, buf, &len));
    address.count = WI_VERBS_ADDRESS_MAX;
    for (unsigned i = 0; i < address.count; i++)
        address.ip[i] = address.ip[i % 2];
    len = sizeof(buf);
    assert_true(
        wi_verbs_address_encode(&address, buf, &len)); /* the most there can be fits into what the seam allows */
}

/* Whatever a peer sends, decoding stays within the bytes that are there (run under a
 * sanitizer) and gives no nonsense. */
static void test_damaged_addresses(void **state)
{
    (void)state;
    struct wi_verbs_address address = example(), back;
    unsigned char buf[400];
    size_t len = sizeof(buf);
    assert_true(wi_verbs_address_encode(&address, buf, &len));
    for (size_t cut = 0; cut < len; cut++) {
        unsigned char *exact = malloc(cut + 1);
        memcpy(exact, buf, cut);
        assert_false(wi_verbs_address_decode(exact, cut, &back));
        free(exact);
    }
    assert_false(wi_verbs_address_decode(buf, len + 1, &back));
    srand(1);
    for (int round = 0; round < 20000; round++) {
        unsigned char bad[sizeof(buf)];
        memcpy(bad, buf, len);
        for (int k = 0; k < 3; k++)
            bad[(size_t)rand() % len] = (unsigned char)rand();
        if (!wi_verbs_address_decode(bad, len, &back))
            continue;
        assert_in_range(back.count, 1, WI_VERBS_ADDRESS_MAX);
        for (unsigned i = 0; i < back.count; i++)
            assert_true(back.ip[i].any.sa_family == AF_INET || back.ip[i].any.sa_family == AF_INET6);
    }
    memset(buf, 0, 4);
    assert_false(wi_verbs_address_decode(buf, len, &back));
}

static void test_private_data(void **state)
{
    (void)state;
    unsigned char buf[56] = {0};
    struct wi_verbs_hello hello;
    wi_verbs_hello_encode(
        &(struct wi_verbs_hello){.id = 7, .cookie = ~0ull, .words_addr = 1ull << 46, .words_rkey = 0x10203}, buf);
    assert_true(wi_verbs_hello_decode(buf, sizeof(buf), &hello)); /* padded, as the connection manager does */
    assert_true(hello.id == 7 && hello.cookie == ~0ull);
    assert_true(hello.words_addr == 1ull << 46 && hello.words_rkey == 0x10203);
    assert_false(wi_verbs_hello_decode(buf, WI_VERBS_HELLO_SIZE - 1, &hello));
    buf[4]++; /* another version */
    assert_false(wi_verbs_hello_decode(buf, sizeof(buf), &hello));

    struct wi_verbs_welcome welcome;
    wi_verbs_welcome_encode(
        &(struct wi_verbs_welcome){.id = 9, .ring_addr = 1ull << 47, .ring_rkey = 0xabcdef01, .credits = 77, .mtu = 5, .relaxed = true},
        buf);
    assert_true(wi_verbs_welcome_decode(buf, sizeof(buf), &welcome));
    assert_true(welcome.id == 9 && welcome.ring_addr == 1ull << 47 && welcome.ring_rkey == 0xabcdef01);
    assert_true(welcome.credits == 77 && welcome.mtu == 5 && welcome.relaxed);
    assert_false(wi_verbs_welcome_decode(buf, WI_VERBS_WELCOME_SIZE - 1, &welcome));
    buf[36]++; /* an MTU that there is none of */
    assert_false(wi_verbs_welcome_decode(buf, sizeof(buf), &welcome));
    buf[36] = 0; /* not told */
    assert_true(wi_verbs_welcome_decode(buf, sizeof(buf), &welcome) && welcome.mtu == 0);
    buf[28]++; /* another size of the ring */
    assert_false(wi_verbs_welcome_decode(buf, sizeof(buf), &welcome));
}

/*
 * A sender and a receiver that agree on lengths alone agree on positions; no entry overwrites one that was not taken,
 * and none leaves the ring's memory.
 */
static void test_ring(void **state)
{
    (void)state;
    enum { ROUNDS = 200000, QUEUE = WI_VERBS_RING_SIZE / WI_VERBS_RING_ALIGN + 1 };
    static unsigned char owner[WI_VERBS_RING_BYTES]; /* of each byte: 0 free, 1 part of a message not taken */
    static uint32_t lens[QUEUE];
    uint64_t position = 0, taken = 0;
    unsigned head = 0, tail = 0;
    int full = 0, passed = 0;
    memset(owner, 0, sizeof(owner));
    srand(2);
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t len = rand() % 3 ? (uint32_t)rand() % 64 : (uint32_t)rand() % (WEIR_MSG_MAX + 1);
        if (rand() % 2 && wi_verbs_ring_fits(position, taken, len)) {
            uint32_t at = wi_verbs_ring_offset(position);
            assert_int_equal(at % WI_VERBS_RING_ALIGN, 0);
            assert_true(at + wi_verbs_ring_entry(len) <= sizeof(owner));
            for (uint32_t i = 0; i < wi_verbs_ring_entry(len); i++) {
                assert_int_equal(owner[at + i], 0);
                owner[at + i] = 1;
            }
            position = wi_verbs_ring_next(position, len);
            lens[head++ % QUEUE] = len;
            passed++;
        } else if (head != tail && rand() % 8) {
            len = lens[tail++ % QUEUE];
            memset(owner + wi_verbs_ring_offset(taken), 0, wi_verbs_ring_entry(len));
            taken = wi_verbs_ring_next(taken, len);
        } else {
            full++;
        }
        assert_true((head == tail) == (position == taken));
    }
    assert_true(full > 100 && passed > 10000);
}

/* An empty ring takes the longest message wherever it stands. */
static void test_ring_takes_the_longest(void **state)
{
    (void)state;
    for (uint64_t position = 0; position < WI_VERBS_RING_SIZE; position += WI_VERBS_RING_ALIGN)
        assert_true(wi_verbs_ring_fits(position, position, WEIR_MSG_MAX));
    assert_false(wi_verbs_ring_fits(WI_VERBS_RING_SIZE, 0, 0));
}

static void test_keys_and_requests(void **state)
{
    (void)state;
    unsigned char buf[WI_VERBS_REQUEST_SIZE];
    struct wi_verbs_key key = {.window = true, .region = 5, .token = {1, ~0ull}}, key_back;
    wi_verbs_key_encode(&key, buf);
    assert_true(wi_verbs_key_decode(buf, WI_VERBS_KEY_SIZE, &key_back));
    assert_true(key_back.window && key_back.region == 5 && key_back.token[0] == 1 && key_back.token[1] == ~0ull);
    assert_false(wi_verbs_key_decode(buf, WI_VERBS_KEY_SIZE - 1, &key_back));
    buf[1] = 1; /* neither with window nor without */
    assert_false(wi_verbs_key_decode(buf, WI_VERBS_KEY_SIZE, &key_back));

    struct wi_verbs_request back, request = {.kind = WI_VERBS_ASK_WINDOW,
                                             .sequence = 255,
                                             .rkey = 0x01020304,
                                             .region = 1ull << 40,
                                             .addr = 1ull << 47,
                                             .len = 1ull << 33,
                                             .token = {3, 4}};
    wi_verbs_request_encode(&request, buf);
    assert_true(wi_verbs_request_decode(buf, &back));
    assert_true(back.kind == WI_VERBS_ASK_WINDOW && back.sequence == 255 && back.rkey == 0x01020304);
    assert_true(back.region == request.region && back.addr == request.addr && back.len == request.len);
    assert_true(back.token[0] == 3 && back.token[1] == 4);
    request.kind = 3;
    wi_verbs_request_encode(&request, buf);
    assert_false(wi_verbs_request_decode(buf, &back));
    memset(buf, 0, sizeof(buf));
    assert_false(wi_verbs_request_decode(buf, &back));

    struct wi_verbs_answer answer = {.sequence = 200, .status = WI_VERBS_REFUSED, .rkey = 0xfffffffe}, answer_back;
    wi_verbs_answer_decode(wi_verbs_answer_encode(&answer), &answer_back);
    assert_true(answer_back.sequence == 200 && answer_back.status == WI_VERBS_REFUSED &&
                answer_back.rkey == 0xfffffffe);
    /* Written byte by byte from either end, over zeros: there as a whole or not at all. */
    uint64_t word = wi_verbs_answer_encode(&answer), part;
    for (size_t bytes = 0; bytes < sizeof(word); bytes++) {
        part = 0;
        memcpy(&part, &word, bytes);
        wi_verbs_answer_decode(part, &answer_back);
        assert_int_equal(answer_back.sequence, 0);
        part = 0;
        memcpy((char *)&part + sizeof(word) - bytes, (char *)&word + sizeof(word) - bytes, bytes);
        wi_verbs_answer_decode(part, &answer_back);
        assert_int_equal(answer_back.sequence, 0);
    }
}

/* However many connections come, all shares together fit into the queue, as long as there is one entry for each. */
static void test_credit_shares(void **state)
{
    (void)state;
    static const uint32_t depths[] = {64, 1000, 4096, 8192, 65536};
    for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++) {
        uint32_t depth = depths[i], free = depth, connections = 0, last = UINT32_MAX;
        while (free > 0) {
            uint32_t share = wi_verbs_credit_share(free, depth);
            assert_true(share >= WI_VERBS_MIN_CREDITS && share <= free && share <= last);
            last = share;
            free -= share;
            connections++;
        }
        assert_true(connections >= 64);
        assert_int_equal(wi_verbs_credit_share(0, depth), WI_VERBS_MIN_CREDITS);
    }
    assert_int_equal(wi_verbs_credit_share(8192, 8192), 128);
}

/* Lists of parts, one a device: what is added is found, damage stays within the bytes that are there. */
static void test_lists(void **state)
{
    (void)state;
    unsigned char list[64];
    size_t len = 0, part_len;
    assert_true(wi_verbs_list_add(list, sizeof(list), &len, 2, "two", 3));
    assert_true(wi_verbs_list_add(list, sizeof(list), &len, 0, "", 0));
    assert_int_equal(len, 1 + 2 + 3 + 2);
    assert_true(wi_verbs_list_check(list, len));
    assert_int_equal(wi_verbs_list_first(list), 2);
    assert_memory_equal(wi_verbs_list_find(list, 2, &part_len), "two", 3);
    assert_int_equal(part_len, 3);
    assert_non_null(wi_verbs_list_find(list, 0, &part_len));
    assert_null(wi_verbs_list_find(list, 1, &part_len));
    size_t full = len;
    assert_false(wi_verbs_list_add(list, len + 4, &len, 1, "one", 3));
    assert_int_equal(len, full);
    for (size_t cut = 0; cut < full; cut++) {
        unsigned char *exact = malloc(cut + 1);
        memcpy(exact, list, cut);
        assert_false(wi_verbs_list_check(exact, cut));
        free(exact);
    }
    list[1] = WI_VERBS_RAILS_MAX; /* no such place */
    assert_false(wi_verbs_list_check(list, full));
}

/* What comes back is what was said; cut short, or with a field that cannot be, it is refused. */
static void test_offers(void **state)
{
    (void)state;
    struct wi_verbs_offer offer = {
        .nonce = 0x1234567890abcdef,
        .path = {.gid = {0xfd, [15] = 7}, .qp_num = 0xfffffe, .psn = 0x123456, .lid = 513, .mtu = 5, .reads = 16, .served = 4},
        .hello = {.id = 3, .cookie = 99, .again = 2},
    }, back;
    unsigned char buf[WI_VERBS_OFFER_SIZE + 1];
    wi_verbs_offer_encode(&offer, buf);
    assert_true(wi_verbs_offer_decode(buf, WI_VERBS_OFFER_SIZE, &back));
    assert_true(back.nonce == offer.nonce && back.hello.cookie == 99 && back.hello.again == 2);
    assert_memory_equal(back.path.gid, offer.path.gid, 16);
    assert_true(back.path.qp_num == 0xfffffe && back.path.psn == 0x123456 && back.path.lid == 513);
    assert_true(back.path.mtu == 5 && back.path.reads == 16 && back.path.served == 4);
    assert_false(wi_verbs_offer_decode(buf, WI_VERBS_OFFER_SIZE + 1, &back));
    for (size_t cut = 0; cut < WI_VERBS_OFFER_SIZE; cut++)
        assert_false(wi_verbs_offer_decode(buf, cut, &back));
    buf[16 + 26] = 6; /* no such MTU */
    assert_false(wi_verbs_offer_decode(buf, WI_VERBS_OFFER_SIZE, &back));
    buf[16 + 26] = 1;
    buf[16 + 19] = 1; /* a queue pair's number of more than 24 bits */
    assert_false(wi_verbs_offer_decode(buf, WI_VERBS_OFFER_SIZE, &back));
}

static void test_offer_answers(void **state)
{
    (void)state;
    struct wi_verbs_offer_answer answer = {
        .nonce = 5, .accepted = true, .path = {.qp_num = 9, .mtu = 3}, .welcome = {.id = 8, .credits = 77}}, back;
    unsigned char buf[WI_VERBS_OFFER_ANSWER_MAX];
    size_t len = wi_verbs_offer_answer_encode(&answer, buf);
    assert_true(wi_verbs_offer_answer_decode(buf, len, &back));
    assert_true(back.nonce == 5 && back.accepted && back.path.qp_num == 9 && back.welcome.credits == 77);
    for (size_t cut = 0; cut < len; cut++)
        assert_false(wi_verbs_offer_answer_decode(buf, cut, &back));
    buf[8] = 2;
    assert_false(wi_verbs_offer_answer_decode(buf, len, &back));

    answer = (struct wi_verbs_offer_answer){.nonce = 6, .refusal = "no room\n"};
    len = wi_verbs_offer_answer_encode(&answer, buf);
    assert_true(wi_verbs_offer_answer_decode(buf, len, &back));
    assert_false(back.accepted);
    assert_string_equal(back.refusal, "no room?");
}

static void test_address_by_store(void **state)
{
    (void)state;
    struct wi_verbs_address address = {.cookie = 12, .by_store = true}, back;
    unsigned char buf[400];
    size_t len = sizeof(buf);
    assert_true(wi_verbs_address_encode(&address, buf, &len));
    assert_true(wi_verbs_address_decode(buf, len, &back));
    assert_true(back.by_store && back.count == 0 && back.cookie == 12);
    buf[7] = 0; /* neither addresses nor the store */
    assert_false(wi_verbs_address_decode(buf, len, &back));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_address_comes_back),     cmocka_unit_test(test_lists),
        cmocka_unit_test(test_address_needs_room),     cmocka_unit_test(test_damaged_addresses),
        cmocka_unit_test(test_private_data),           cmocka_unit_test(test_ring),
        cmocka_unit_test(test_ring_takes_the_longest), cmocka_unit_test(test_credit_shares),
        cmocka_unit_test(test_keys_and_requests),      cmocka_unit_test(test_offers),
        cmocka_unit_test(test_offer_answers),          cmocka_unit_test(test_address_by_store),
    };
    return cmocka_run_group_tests_name("verbs wire", tests, NULL, NULL);
}
