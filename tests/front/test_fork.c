/* Children of a process that has a context: they are told so, and whatever they do, their parent goes on. */
#include <weir/weir.h>

#include "core/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { BYTES = 4096, SKIP = 77 };

static const char *transport = "shm";
static bool in_child;

/* Asked by LeakSanitizer at exit. What UCX has on the network is the parent's, so a child that destroys a context leaves
   UCX's memory behind on purpose. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return in_child;
}

struct ends {
    weir_ctx *here, *there;
    weir_pool *pool_here, *pool_there;
    weir_ep *ep;
    weir_rkey *rkey;
    unsigned char *source, *memory;
    weir_mem *source_mem, *mem;
    unsigned char address[WEIR_ADDRESS_MAX];
    size_t address_len;
};

/* Both ends are in this process: neither may sleep for the other. */
static void wait_for(struct ends *ends, weir_comp *comp)
{
    uint64_t end_ns = wi_now_ns() + 20 * WI_NS_PER_S;
    while (weir_test(comp) == WEIR_ERR_AGAIN && wi_now_ns() < end_ns) {
        weir_progress(ends->here);
        weir_progress(ends->there);
    }
    assert_int_equal(weir_test(comp), WEIR_OK);
}

/* A put and a get of data that were never there before. */
static void exchange(struct ends *ends, unsigned char value)
{
    weir_comp comp = WEIR_COMP_INIT;
    uint64_t remote = (uintptr_t)ends->memory;
    memset(ends->source, value, BYTES);
    assert_int_equal(weir_put(ends->ep, ends->source, ends->source_mem, BYTES, remote, ends->rkey, &comp), WEIR_OK);
    assert_int_equal(weir_flush(ends->ep, &comp), WEIR_OK);
    wait_for(ends, &comp);
    for (int i = 0; i < BYTES; i++)
        assert_int_equal(ends->memory[i], value);
    memset(ends->source, 0, BYTES);
    assert_int_equal(weir_get(ends->ep, ends->source, ends->source_mem, BYTES, remote, ends->rkey, &comp), WEIR_OK);
    wait_for(ends, &comp);
    assert_int_equal(ends->source[0], value);
    assert_int_equal(ends->source[BYTES - 1], value);
}

static int set_up(void **state)
{
    static struct ends ends;
    unsigned char key[WEIR_RKEY_MAX];
    size_t key_len = sizeof(key);
    weir_ctx_params params = {.size = sizeof(params), .id = 0, .transport = transport, .bind_address = "127.0.0.1"};
    if (strcmp(transport, "verbs") == 0)
        params.bind_address = NULL;
    ends = (struct ends){.address_len = sizeof(ends.address)};
    assert_int_equal(weir_ctx_create(&params, &ends.here), WEIR_OK);
    params.id = 1;
    assert_int_equal(weir_ctx_create(&params, &ends.there), WEIR_OK);
    assert_int_equal(weir_pool_create(ends.here, 0, &ends.pool_here), WEIR_OK);
    assert_int_equal(weir_pool_create(ends.there, 0, &ends.pool_there), WEIR_OK);
    assert_int_equal(weir_pool_alloc(ends.pool_here, BYTES, (void **)&ends.source, &ends.source_mem), WEIR_OK);
    assert_int_equal(weir_pool_alloc(ends.pool_there, BYTES, (void **)&ends.memory, &ends.mem), WEIR_OK);
    assert_int_equal(weir_ctx_address(ends.there, ends.address, &ends.address_len), WEIR_OK);
    assert_int_equal(weir_mem_export(ends.mem, ends.memory, BYTES, key, &key_len), WEIR_OK);
    assert_int_equal(weir_ep_create(ends.here, ends.address, ends.address_len, &ends.ep), WEIR_OK);
    for (uint64_t end_ns = wi_now_ns() + 20 * WI_NS_PER_S; weir_ep_wait_ready(ends.ep, 1) != WEIR_OK;) {
        weir_progress(ends.there);
        assert_true(wi_now_ns() < end_ns);
    }
    assert_int_equal(weir_rkey_import(ends.ep, key, key_len, &ends.rkey), WEIR_OK);
    exchange(&ends, 1);
    *state = &ends;
    return 0;
}

static int tear_down(void **state)
{
    struct ends *ends = *state;
    weir_rkey_destroy(ends->rkey);
    weir_ctx_destroy(ends->here);
    weir_ctx_destroy(ends->there);
    return 0;
}

/* Runs `child` in one; it ends by itself. The parent then goes on as if nothing had been. */
static void with_child(struct ends *ends, int (*child)(struct ends *ends))
{
    int result;
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        in_child = true;
        _exit(child(ends));
    }
    assert_int_equal(waitpid(pid, &result, 0), pid);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), 0);
    for (unsigned char value = 2; value < 20; value++)
        exchange(ends, value);
}

static int executes(struct ends *ends)
{
    (void)ends;
    execl("/bin/true", "true", (char *)NULL);
    return 1;
}

static int destroys(struct ends *ends)
{
    weir_rkey_destroy(ends->rkey);
    weir_ep_close(ends->ep);
    weir_pool_destroy(ends->pool_there);
    weir_ctx_destroy(ends->here);
    weir_ctx_destroy(ends->there);
    exit(0);
}

static int touches(struct ends *ends)
{
    return ends->memory[0] != 1 || ends->memory[BYTES - 1] != 1 || ends->source[0] != 1;
}

static bool refused(weir_status status, const char *what)
{
    return status == WEIR_ERR_INVALID && strncmp(weir_last_error(), what, strlen(what)) == 0 &&
           strstr(weir_last_error(), "forked");
}

/* The number of the first call that was not refused. */
static int uses(struct ends *ends)
{
    static unsigned char buffer[64];
    weir_comp comp = {.pending = 1};
    size_t len = sizeof(buffer);
    weir_ep *ep;
    weir_mem *mem;
    weir_pool *pool;
    if (!refused(weir_ep_create(ends->here, ends->address, ends->address_len, &ep), "weir_ep_create"))
        return 1;
    if (!refused(weir_mem_register(ends->here, buffer, sizeof(buffer), &mem), "weir_mem_register"))
        return 2;
    if (!refused(weir_pool_create(ends->here, 0, &pool), "weir_pool_create"))
        return 3;
    if (!refused(weir_wait(ends->here, &comp, 1000), "weir_wait"))
        return 4;
    if (!refused(weir_signal_wait(ends->here, 0, 1, 1000), "weir_signal_wait"))
        return 5;
    if (!refused(weir_recv(ends->here, buffer, &len, NULL), "weir_recv"))
        return 6;
    if (!refused(weir_ep_connect(ends->ep), "weir_ep_connect"))
        return 7;
    if (!refused(weir_ep_reconnect(ends->ep), "weir_ep_reconnect"))
        return 8;
    return weir_progress(ends->there) == 0 ? 0 : 9;
}

static void a_child_may_exec(void **state)
{
    with_child(*state, executes);
}

static void a_child_ends_nothing_of_its_parents(void **state)
{
    with_child(*state, destroys);
}

static void a_child_may_read_pool_memory(void **state)
{
    with_child(*state, touches);
}

static void a_child_that_uses_the_context_is_told(void **state)
{
    with_child(*state, uses);
}

int main(int argc, char **argv)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_child_may_exec, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_child_ends_nothing_of_its_parents, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_child_may_read_pool_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_child_that_uses_the_context_is_told, set_up, tear_down),
    };
    if (argc > 1)
        transport = argv[1];
    if (weir_transport_probe(transport, why, sizeof(why)) != WEIR_OK) {
        printf("skipped: %s\n", why);
        return SKIP;
    }
    return cmocka_run_group_tests_name("fork", tests, NULL, NULL);
}
