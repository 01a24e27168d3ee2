/*
 * Shared memory with a peer that misbehaves: two interfaces in one process, and the test writes into what they share.
 * Peers that die are the conformance suite's.
 */
#include "core/config.h"
#include "transport/shm/shm.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

struct pair {
    struct shm_iface *here, *there;
    struct shm_ep *ep; /* from here to there */
    struct wi_mr *mr;  /* ordinary memory of there's */
    struct wi_export *export; /* all of it */
    struct weir_rkey *rkey;
    uint64_t words[8];
};

static struct shm_iface *open_one(uint64_t id)
{
    struct wi_iface_params params = {.id = id, .host = 1, .signals = 16};
    struct wi_iface *iface = NULL;
    assert_int_equal(wi_shm_ops.probe(), WEIR_OK);
    assert_int_equal(wi_shm_ops.open(&params, &iface), WEIR_OK);
    return (struct shm_iface *)iface;
}

static struct shm_ep *connect_to(struct shm_iface *from, struct shm_iface *to)
{
    struct weir_ep *ep = NULL;
    unsigned char address[400];
    size_t len = sizeof(address);
    assert_int_equal(wi_shm_ops.address(&to->base, address, &len), WEIR_OK);
    assert_int_equal(wi_shm_ops.ep_create(&from->base, address, len, &ep), WEIR_OK);
    assert_int_equal(wi_shm_ops.ep_connect(ep), WEIR_OK);
    ep->peer_id = to->base.params.id;
    return (struct shm_ep *)ep;
}

static int set_up(void **state)
{
    const struct wi_config *config;
    struct pair *p = calloc(1, sizeof(*p));
    unsigned char blob[300];
    size_t len = sizeof(blob);
    struct wi_mem_desc desc = {.addr = p->words, .len = sizeof(p->words), .fd = -1, .id = 1};
    assert_int_equal(wi_config_load(&config), WEIR_OK);
    p->here = open_one(1);
    p->there = open_one(2);
    p->ep = connect_to(p->here, p->there);
    assert_int_equal(wi_shm_ops.mem_register(&p->there->base, &desc, &p->mr), WEIR_OK);
    assert_int_equal(wi_shm_ops.mem_export(p->mr, p->words, sizeof(p->words), blob, &len, &p->export), WEIR_OK);
    uint64_t addr = (uintptr_t)p->words;
    assert_int_equal(wi_shm_ops.rkey_import(&p->ep->base, blob, len, addr, sizeof(p->words), &p->rkey), WEIR_OK);
    p->rkey->addr = addr;
    p->rkey->len = sizeof(p->words);
    *state = p;
    return 0;
}

static int tear_down(void **state)
{
    struct pair *p = *state;
    wi_shm_ops.rkey_destroy(p->rkey);
    wi_shm_ops.ep_close(&p->ep->base);
    if (p->export)
        wi_shm_ops.mem_unexport(p->export);
    wi_shm_ops.mem_deregister(p->mr);
    wi_shm_ops.close(&p->here->base);
    wi_shm_ops.close(&p->there->base);
    free(p);
    return 0;
}

static weir_status fetch_add(struct pair *p, size_t word, uint64_t *result, weir_comp *comp)
{
    return wi_shm_ops.fetch_add(&p->ep->base, 1, result, NULL, (uintptr_t)&p->words[word], p->rkey, comp);
}

/* Requests fill their slots, are answered in order by the target's progress, and the slots are used again. */
static void requests_are_answered_in_order(void **state)
{
    struct pair *p = *state;
    uint64_t result[SHM_RING_REQUESTS];
    for (int turn = 0; turn < 3; turn++) {
        weir_comp comp = WEIR_COMP_INIT;
        for (size_t i = 0; i < SHM_RING_REQUESTS; i++)
            assert_int_equal(fetch_add(p, 1, &result[i], &comp), WEIR_OK);
        assert_int_equal(fetch_add(p, 1, &result[0], &comp), WEIR_ERR_AGAIN);
        assert_int_equal(comp.pending, SHM_RING_REQUESTS);
        wi_shm_ops.progress(&p->there->base);
        wi_shm_ops.progress(&p->here->base);
        assert_int_equal(comp.pending, 0);
        assert_int_equal(comp.status, WEIR_OK);
        for (size_t i = 0; i < SHM_RING_REQUESTS; i++)
            assert_int_equal(result[i], (size_t)turn * SHM_RING_REQUESTS + i);
    }
    assert_int_equal(p->words[0], 0);
    assert_int_equal(p->words[2], 0);
}

/* Posting looks after peers now and then. That it finds an answer then, with others to come, is no silence. */
static void answers_found_while_posting_are_no_silence(void **state)
{
    struct pair *p = *state;
    uint64_t result[SHM_RING_REQUESTS];
    weir_comp comp = WEIR_COMP_INIT;
    for (size_t i = 0; i < SHM_RING_REQUESTS; i++) {
        assert_int_equal(fetch_add(p, 1, &result[i], &comp), WEIR_OK);
        if (i % 8 == 0)
            wi_shm_ops.progress(&p->there->base);
        if (i % 8 == 4)
            poll(NULL, 0, 20); /* it is time to look again */
    }
    assert_int_equal(p->ep->base.status, WEIR_OK);
    assert_true(comp.pending < SHM_RING_REQUESTS); /* it did look */
    wi_shm_ops.progress(&p->there->base);
    wi_shm_ops.progress(&p->here->base);
    assert_int_equal(comp.pending, 0);
    assert_int_equal(comp.status, WEIR_OK);
}

/* A request that was on its way when its key was taken back is refused by the target. */
static void late_requests_meet_a_revoked_key(void **state)
{
    struct pair *p = *state;
    weir_comp comp = WEIR_COMP_INIT;
    uint64_t result = 77;
    assert_int_equal(fetch_add(p, 0, &result, &comp), WEIR_OK);
    wi_shm_ops.mem_unexport(p->export);
    wi_shm_ops.progress(&p->there->base);
    wi_shm_ops.progress(&p->here->base);
    assert_int_equal(comp.pending, 0);
    assert_int_equal(comp.status, WEIR_ERR_KEY);
    assert_int_equal(result, 77);
    assert_int_equal(p->words[0], 0);
    assert_int_equal(fetch_add(p, 0, &result, NULL), WEIR_ERR_KEY); /* and from now on here */
    unsigned char blob[300];
    size_t len = sizeof(blob);
    assert_int_equal(wi_shm_ops.mem_export(p->mr, p->words, sizeof(p->words), blob, &len, &p->export), WEIR_OK);
    assert_int_equal(fetch_add(p, 0, &result, NULL), WEIR_ERR_KEY); /* the slot is in use again, by another export */
}

/* A request beyond the region, as no initiator of ours would make it. */
static void targets_check_ranges_themselves(void **state)
{
    struct pair *p = *state;
    weir_comp comp = WEIR_COMP_INIT;
    uint64_t result, guard = 5, bad[] = {(uintptr_t)(p->words + 8), (uintptr_t)(p->words - 1),
                                         (uintptr_t)&guard,         0,
                                         (uintptr_t)p->words + 4,   UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(fetch_add(p, 0, &result, &comp), WEIR_OK);
        p->ep->view.ring->requests[i].addr = bad[i];
    }
    wi_shm_ops.progress(&p->there->base);
    wi_shm_ops.progress(&p->here->base);
    assert_int_equal(comp.pending, 0);
    assert_int_equal(comp.status, WEIR_ERR_KEY);
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(p->words[i], 0);
    assert_int_equal(guard, 5);
}

/* A sender whose positions cannot be right is read no more, and hears so. */
static void damaged_rings_are_refused(void **state)
{
    struct pair *p = *state;
    weir_comp comp = WEIR_COMP_INIT;
    uint64_t result;
    assert_int_equal(fetch_add(p, 0, &result, &comp), WEIR_OK);
    p->ep->view.ring->request_tail += SHM_RING_REQUESTS + 1;
    wi_shm_ops.progress(&p->there->base);
    assert_int_equal(p->there->channel_count, 0);
    wi_shm_ops.progress(&p->here->base);
    assert_int_equal(comp.pending, 0);
    assert_int_equal(comp.status, WEIR_ERR_PEER_UNREACHABLE);
    assert_int_equal(p->ep->base.status, WEIR_ERR_PEER_UNREACHABLE);
    assert_int_equal(p->words[0], 0);
}

/* A target that claims to have answered what was not asked. */
static void false_answers_end_the_endpoint(void **state)
{
    struct pair *p = *state;
    weir_comp comp = WEIR_COMP_INIT;
    uint64_t result = 3;
    assert_int_equal(fetch_add(p, 0, &result, &comp), WEIR_OK);
    p->ep->view.ring->request_done = 2;
    wi_shm_ops.progress(&p->here->base);
    assert_int_equal(comp.status, WEIR_ERR_PROTOCOL);
    assert_int_equal(comp.pending, 0);
    assert_int_equal(result, 3);
}

/* Senders killed between claiming a slot and filling it: each costs its slot and holds nobody up. */
static void lost_slots_hold_nobody_up(void **state)
{
    struct pair *p = *state;
    for (int i = 0; i < SHM_CHANNEL_MAX; i++)
        p->there->own.channels[i].state = SHM_CHANNEL_CLAIMED;
    assert_int_equal(wi_shm_ops.send(&p->ep->base, "a", 1), WEIR_ERR_LIMIT);
    p->there->own.channels[700].state = SHM_CHANNEL_FREE;
    assert_int_equal(wi_shm_ops.send(&p->ep->base, "b", 1), WEIR_OK);
    assert_true(wi_shm_ops.progress(&p->there->base) > 0);
    struct wi_msg *msg = wi_shm_ops.msg_peek(&p->there->base);
    assert_non_null(msg);
    assert_int_equal(msg->peer_id, 1);
    assert_memory_equal(msg->data, "b", 1);
    wi_shm_ops.msg_pop(&p->there->base);
    assert_null(wi_shm_ops.msg_peek(&p->there->base));
}

static void expect_message(struct shm_iface *shm, int expected)
{
    struct wi_msg *msg = wi_shm_ops.msg_peek(&shm->base);
    assert_non_null(msg);
    assert_int_equal(msg->len, sizeof(expected));
    assert_memory_equal(msg->data, &expected, sizeof(expected));
    wi_shm_ops.msg_pop(&shm->base);
}

/* A peer says of its channel again and again that it is new: it is read once all the same. */
static void a_slot_is_read_once(void **state)
{
    struct pair *p = *state;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(wi_shm_ops.send(&p->ep->base, &i, sizeof(i)), WEIR_OK);
        __atomic_store_n(&p->ep->slot->state, SHM_CHANNEL_READY, __ATOMIC_RELEASE);
        __atomic_fetch_add(&p->there->own.header->announced, 1, __ATOMIC_RELEASE);
        wi_shm_ops.progress(&p->there->base);
        assert_int_equal(p->there->channel_count, 1);
        expect_message(p->there, i);
    }
}

/* Rings of closed endpoints come back, also when their messages were read late; so many endpoints can come and go. */
static void rings_are_used_again(void **state)
{
    struct pair *p = *state;
    for (int i = 0; i < SHM_RING_MAX + 100; i++) {
        struct shm_ep *ep = connect_to(p->here, p->there);
        assert_int_equal(wi_shm_ops.send(&ep->base, &i, sizeof(i)), WEIR_OK);
        wi_shm_ops.ep_close(&ep->base); /* before the other side has looked */
        wi_shm_ops.progress(&p->there->base);
        struct wi_msg *msg = wi_shm_ops.msg_peek(&p->there->base);
        assert_non_null(msg);
        assert_memory_equal(msg->data, &i, sizeof(i));
        wi_shm_ops.msg_pop(&p->there->base);
        wi_shm_ops.progress(&p->there->base);
        assert_int_equal(p->there->channel_count, 0);
    }
    for (uint32_t i = 0; i < SHM_CHANNEL_MAX; i++)
        assert_int_equal(p->there->own.channels[i].state, SHM_CHANNEL_FREE);
}

/* Of many channels those are read that have called; calls whose entries are missing, false or too many lose nothing. */
static void callers_are_found_among_many(void **state)
{
    enum { MANY = 40 };
    struct pair *p = *state;
    struct shm_ep *ep[MANY];
    struct shm_header *header = p->there->own.header;
    uint64_t *calls = p->there->own.calls;
    for (int i = 0; i < MANY; i++) {
        ep[i] = connect_to(p->here, p->there);
        assert_int_equal(wi_shm_ops.send(&ep[i]->base, &i, sizeof(i)), WEIR_OK);
    }
    wi_shm_ops.progress(&p->there->base);
    assert_int_equal(p->there->channel_count, MANY);
    for (int i = 0; i < MANY; i++)
        expect_message(p->there, i);
    for (int turn = 0; turn < 5; turn++) {
        int many = turn == 4 ? SHM_CALLS / MANY + 2 : 1;
        for (int k = 0; k < many; k++)
            for (int i = MANY - 1; i >= 0; i--)
                assert_int_equal(wi_shm_ops.send(&ep[i]->base, &i, sizeof(i)), WEIR_OK);
        if (turn == 1) /* as of a sender that is killed before it writes it */
            calls[(header->doorbell - 20) % SHM_CALLS] = 0;
        if (turn == 2) /* by one that was stopped for a lap */
            calls[(header->doorbell - 20) % SHM_CALLS] = (uint64_t)(header->doorbell - 20 - SHM_CALLS) << 32;
        if (turn == 3) /* by one that lies: found when its peer's turn to be looked after comes */
            calls[header->doorbell % SHM_CALLS] = (uint64_t)header->doorbell << 32 | 0x7fffffff;
        wi_shm_ops.progress(&p->there->base);
        p->there->check_now = true;
        p->there->checked_ns = 0;
        wi_shm_ops.progress(&p->there->base);
        int sum = 0;
        for (int k = 0; k < many * MANY; k++) {
            struct wi_msg *msg = wi_shm_ops.msg_peek(&p->there->base);
            assert_non_null(msg);
            sum += *(const int *)(const void *)msg->data;
            wi_shm_ops.msg_pop(&p->there->base);
        }
        assert_int_equal(sum, many * MANY * (MANY - 1) / 2);
        assert_null(wi_shm_ops.msg_peek(&p->there->base));
    }
    for (int i = 0; i < MANY; i++)
        wi_shm_ops.ep_close(&ep[i]->base);
    wi_shm_ops.progress(&p->there->base);
    assert_int_equal(p->there->channel_count, 0);
}

/* Answers find their endpoint among many that wait. */
static void answers_are_found_among_many(void **state)
{
    enum { MANY = 40 };
    struct pair *p = *state;
    struct shm_ep *ep[MANY];
    weir_comp comp[MANY] = {{0}};
    for (int i = 0; i < MANY; i++) {
        ep[i] = connect_to(p->here, p->there);
        assert_int_equal(wi_shm_ops.send(&ep[i]->base, &i, sizeof(i)), WEIR_OK);
        assert_int_equal(wi_shm_ops.flush(&ep[i]->base, &comp[i]), WEIR_OK);
        assert_int_equal(comp[i].pending, 1);
    }
    wi_shm_ops.progress(&p->there->base);
    wi_shm_ops.progress(&p->here->base);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(comp[i].pending, 0);
    assert_int_equal(p->here->waiting_count, 0);
    for (int i = 0; i < MANY; i++)
        wi_shm_ops.ep_close(&ep[i]->base);
}

/* Can a sleeper on the interface's descriptor go on? */
static bool is_woken(struct shm_iface *shm)
{
    struct pollfd fd = {.fd = wi_shm_ops.event_fd(&shm->base), .events = POLLIN};
    return poll(&fd, 1, 0) == 1;
}

static void go_to_sleep(struct shm_iface *shm)
{
    wi_shm_ops.progress(&shm->base);
    assert_int_equal(wi_shm_ops.arm(&shm->base), WEIR_OK);
    assert_false(is_woken(shm));
}

static void expect_awake(struct shm_iface *shm)
{
    assert_true(is_woken(shm));
    wi_shm_ops.disarm(&shm->base);
    assert_false(is_woken(shm));
}

/* Whatever a sleeper may wait for wakes it, once; who is awake is left in peace. */
static void sleepers_are_woken(void **state)
{
    struct pair *p = *state;
    weir_comp comp = WEIR_COMP_INIT;
    uint64_t result;
    for (int turn = 0; turn < 3; turn++) {
        go_to_sleep(p->there);
        for (int i = 0; i < 3; i++)
            assert_int_equal(wi_shm_ops.put_signal(&p->ep->base, NULL, NULL, 0, 0, NULL, 3, NULL), WEIR_OK);
        expect_awake(p->there);
        assert_int_equal(p->there->base.signals[3], 3 * (turn + 1));

        go_to_sleep(p->there);
        assert_int_equal(wi_shm_ops.send(&p->ep->base, "x", 1), WEIR_OK);
        expect_awake(p->there);
        assert_int_equal(wi_shm_ops.arm(&p->there->base), WEIR_ERR_AGAIN); /* it has not looked */
        wi_shm_ops.disarm(&p->there->base);

        go_to_sleep(p->there);
        assert_int_equal(fetch_add(p, 0, &result, &comp), WEIR_OK);
        expect_awake(p->there);

        go_to_sleep(p->here);
        wi_shm_ops.progress(&p->there->base); /* answers */
        expect_awake(p->here);
        wi_shm_ops.progress(&p->here->base);
        assert_int_equal(comp.pending, 0);
    }
    assert_int_equal(wi_shm_ops.put_signal(&p->ep->base, NULL, NULL, 0, 0, NULL, 3, NULL), WEIR_OK);
    assert_int_equal(wi_shm_ops.send(&p->ep->base, "x", 1), WEIR_OK);
    assert_false(is_woken(p->there));
}

/* A flush behind a message is complete when the target has taken over the ring, and its sleeper hears of that. */
static void flushes_wait_for_the_ring_to_be_taken_over(void **state)
{
    struct pair *p = *state;
    weir_comp comp = WEIR_COMP_INIT;
    assert_int_equal(wi_shm_ops.flush(&p->ep->base, &comp), WEIR_OK);
    assert_int_equal(comp.pending, 0);
    assert_int_equal(wi_shm_ops.send(&p->ep->base, "x", 1), WEIR_OK);
    assert_int_equal(wi_shm_ops.flush(&p->ep->base, &comp), WEIR_OK);
    wi_shm_ops.progress(&p->here->base);
    assert_int_equal(comp.pending, 1);
    go_to_sleep(p->here);
    wi_shm_ops.progress(&p->there->base);
    expect_awake(p->here);
    wi_shm_ops.progress(&p->here->base);
    assert_int_equal(comp.pending, 0);
    assert_int_equal(comp.status, WEIR_OK);
}

/* A target that lives but does not answer for longer than WEIR_TIMEOUT. */
static void silent_targets_are_given_up(void **state)
{
    struct pair *p = *state;
    weir_comp comp = WEIR_COMP_INIT;
    uint64_t result;
    assert_int_equal(fetch_add(p, 0, &result, &comp), WEIR_OK);
    p->here->check_now = true;
    p->here->checked_ns = 0;
    wi_shm_ops.progress(&p->here->base);
    assert_int_equal(comp.pending, 1);
    p->ep->waiting_since_ns -= p->here->timeout_ns;
    p->here->check_now = true;
    p->here->checked_ns = 0;
    wi_shm_ops.progress(&p->here->base);
    assert_int_equal(comp.pending, 0);
    assert_int_equal(comp.status, WEIR_ERR_PEER_GONE);
    assert_int_equal(p->ep->base.status, WEIR_ERR_PEER_GONE);
}

static weir_status open_named(struct shm_name name)
{
    struct shm_segment segment = {0};
    weir_status status = wi_shm_segment_open(&name, &segment);
    wi_shm_segment_close(&segment);
    return status;
}

/* Names come from peers: whatever they say, only the segment meant is opened. */
static void wrong_names_open_nothing(void **state)
{
    struct pair *p = *state;
    struct shm_name name = p->there->name, wrong;
    assert_int_equal(open_named(name), WEIR_OK);
    wrong = name, wrong.cookie++;
    assert_int_equal(open_named(wrong), WEIR_ERR_PROTOCOL);
    wrong = name, wrong.inode++;
    assert_int_equal(open_named(wrong), WEIR_ERR_PEER_UNREACHABLE);
    wrong = name, wrong.fd = 0;
    assert_int_equal(open_named(wrong), WEIR_ERR_PEER_UNREACHABLE);
    wrong = name, wrong.fd = 100000;
    assert_int_equal(open_named(wrong), WEIR_ERR_PEER_UNREACHABLE);
    wrong = name, wrong.pid = 1 << 30;
    assert_int_equal(open_named(wrong), WEIR_ERR_PEER_UNREACHABLE);
}

/* The same bytes in a file that its owner could make shorter, or with fields that do not fit the file. */
static void false_segments_are_refused(void **state)
{
    struct pair *p = *state;
    struct shm_header header = *p->there->own.header;
    struct stat info;
    for (int turn = 0; turn < 4; turn++) {
        int fd = memfd_create("false", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        struct shm_header changed = header;
        if (turn == 1)
            changed.signals += 100000;
        if (turn == 2)
            changed.version++;
        if (turn == 3)
            changed.signals = UINT32_MAX;
        assert_int_equal(ftruncate(fd, (off_t)header.size), 0);
        assert_int_equal(pwrite(fd, &changed, sizeof(changed), 0), (ssize_t)sizeof(changed));
        if (turn > 0)
            assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
        assert_int_equal(fstat(fd, &info), 0);
        struct shm_name name = {.pid = getpid(), .fd = fd, .inode = info.st_ino, .cookie = header.cookie};
        assert_int_equal(open_named(name), WEIR_ERR_PROTOCOL);
        close(fd);
    }
}

int main(void)
{
    setenv("WEIR_LOG", "error", 1); /* the warnings are what is provoked here */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(requests_are_answered_in_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(answers_found_while_posting_are_no_silence, set_up, tear_down),
        cmocka_unit_test_setup_teardown(late_requests_meet_a_revoked_key, set_up, tear_down),
        cmocka_unit_test_setup_teardown(targets_check_ranges_themselves, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_rings_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(false_answers_end_the_endpoint, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lost_slots_hold_nobody_up, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_slot_is_read_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rings_are_used_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(callers_are_found_among_many, set_up, tear_down),
        cmocka_unit_test_setup_teardown(answers_are_found_among_many, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sleepers_are_woken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(flushes_wait_for_the_ring_to_be_taken_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(silent_targets_are_given_up, set_up, tear_down),
        cmocka_unit_test_setup_teardown(wrong_names_open_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(false_segments_are_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
