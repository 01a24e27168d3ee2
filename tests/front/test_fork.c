/*
 * Children of a process that has a context. Whatever they do, their parent goes on, and what it transfers while they live
 * and when they have gone is right; they are told that the context is not theirs, and may make one of their own.
 *
 * Usage: test_fork [shm|ucx|verbs]
 */
#include <weir/weir.h>

#include "core/clock.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { BYTES = 3 * 4096, SKIP = 77, CHILD_MAX_S = 60 };

static const char *transport = "shm";
static bool in_child;

/* Asked by LeakSanitizer at exit. What UCX has on the network is the parent's, so a child that destroys a context leaves
   UCX's memory behind on purpose. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return in_child;
}

/* Memory on both sides: `source` here, `target` there. */
struct pair {
    unsigned char *source, *target;
    weir_mem *source_mem, *target_mem;
    weir_rkey *rkey;
};

struct ends {
    weir_ctx *here, *there;
    weir_pool *pool_here, *pool_there;
    weir_ep *ep;
    struct pair pool, user; /* of the pools, which a child shares; of the user, which it has a copy of */
    unsigned char address[WEIR_ADDRESS_MAX];
    size_t address_len;
    bool driven; /* a thread makes progress there */
};

/* ---- Both ends, in this process --------------------------------------------------------------------------------- */

/* Neither may sleep for the other. */
static void wait_for(struct ends *ends, weir_comp *comp)
{
    uint64_t end_ns = wi_now_ns() + 30 * WI_NS_PER_S;
    while (weir_test(comp) == WEIR_ERR_AGAIN && wi_now_ns() < end_ns) {
        weir_progress(ends->here);
        weir_progress(ends->there);
    }
    assert_int_equal(weir_test(comp), WEIR_OK);
}

/* A put and a get of data that were never there before. */
static void exchange_pair(struct ends *ends, const struct pair *pair, unsigned char value)
{
    weir_comp comp = WEIR_COMP_INIT;
    uint64_t remote = (uintptr_t)pair->target;
    memset(pair->source, value, BYTES);
    assert_int_equal(weir_put(ends->ep, pair->source, pair->source_mem, BYTES, remote, pair->rkey, &comp), WEIR_OK);
    assert_int_equal(weir_flush(ends->ep, &comp), WEIR_OK);
    wait_for(ends, &comp);
    for (int i = 0; i < BYTES; i++)
        assert_int_equal(pair->target[i], value);
    memset(pair->target, value + 100, BYTES);
    assert_int_equal(weir_get(ends->ep, pair->source, pair->source_mem, BYTES, remote, pair->rkey, &comp), WEIR_OK);
    wait_for(ends, &comp);
    for (int i = 0; i < BYTES; i++)
        assert_int_equal(pair->source[i], value + 100);
}

static void exchange(struct ends *ends, int from, int to)
{
    for (int value = from; value < to; value++) {
        exchange_pair(ends, &ends->pool, (unsigned char)value);
        exchange_pair(ends, &ends->user, (unsigned char)value);
    }
}

static void *drive(void *arg)
{
    struct ends *ends = arg;
    while (__atomic_load_n(&ends->driven, __ATOMIC_ACQUIRE))
        weir_progress(ends->there);
    return NULL;
}

/* A connection, and a key over verbs, wait for the other side where they are first used. */
static void first_use(struct ends *ends)
{
    pthread_t thread;
    ends->driven = true;
    assert_int_equal(pthread_create(&thread, NULL, drive, ends), 0);
    weir_comp comp = WEIR_COMP_INIT;
    weir_status status = weir_ep_wait_ready(ends->ep, -1);
    for (int i = 0; i < 2 && status == WEIR_OK; i++) {
        const struct pair *pair = i == 0 ? &ends->pool : &ends->user;
        status = weir_get(ends->ep, pair->source, pair->source_mem, BYTES, (uintptr_t)pair->target, pair->rkey, &comp);
        if (status == WEIR_OK)
            status = weir_wait(ends->here, &comp, -1);
    }
    __atomic_store_n(&ends->driven, false, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    if (status != WEIR_OK)
        print_message("%s\n", weir_last_error());
    assert_int_equal(status, WEIR_OK);
}

static void import_pair(struct ends *ends, struct pair *pair)
{
    unsigned char key[WEIR_RKEY_MAX];
    size_t key_len = sizeof(key);
    assert_int_equal(weir_mem_export(pair->target_mem, pair->target, BYTES, key, &key_len), WEIR_OK);
    assert_int_equal(weir_rkey_import(ends->ep, key, key_len, &pair->rkey), WEIR_OK);
}

static unsigned char *map_pages(void)
{
    void *pages = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(pages != MAP_FAILED);
    return memset(pages, 0, BYTES);
}

static void set_up_with(struct ends *ends, unsigned flags)
{
    weir_ctx_params params = {.size = sizeof(params), .id = 0, .flags = flags, .transport = transport};
    *ends = (struct ends){.address_len = sizeof(ends->address)};
    assert_int_equal(weir_ctx_create(&params, &ends->here), WEIR_OK);
    params.id = 1;
    assert_int_equal(weir_ctx_create(&params, &ends->there), WEIR_OK);
    assert_int_equal(weir_pool_create(ends->here, 0, &ends->pool_here), WEIR_OK);
    assert_int_equal(weir_pool_create(ends->there, 0, &ends->pool_there), WEIR_OK);
    struct pair *pool = &ends->pool, *user = &ends->user;
    assert_int_equal(weir_pool_alloc(ends->pool_here, BYTES, (void **)&pool->source, &pool->source_mem), WEIR_OK);
    assert_int_equal(weir_pool_alloc(ends->pool_there, BYTES, (void **)&pool->target, &pool->target_mem), WEIR_OK);
    user->source = map_pages();
    user->target = map_pages();
    assert_int_equal(weir_mem_register(ends->here, user->source, BYTES, &user->source_mem), WEIR_OK);
    assert_int_equal(weir_mem_register(ends->there, user->target, BYTES, &user->target_mem), WEIR_OK);
    assert_int_equal(weir_ctx_address(ends->there, ends->address, &ends->address_len), WEIR_OK);
    assert_int_equal(weir_ep_create(ends->here, ends->address, ends->address_len, &ends->ep), WEIR_OK);
    import_pair(ends, pool);
    import_pair(ends, user);
    first_use(ends);
    exchange(ends, 1, 2);
}

static int set_up(void **state)
{
    static struct ends ends;
    set_up_with(&ends, 0);
    *state = &ends;
    return 0;
}

static int tear_down(void **state)
{
    struct ends *ends = *state;
    weir_rkey_destroy(ends->pool.rkey);
    weir_rkey_destroy(ends->user.rkey);
    weir_ctx_destroy(ends->here);
    weir_ctx_destroy(ends->there);
    munmap(ends->user.source, BYTES);
    munmap(ends->user.target, BYTES);
    return 0;
}

/* ---- Children ---------------------------------------------------------------------------------------------------- */

/* What a child does: its exit status, 0 where all was as it should be. */
typedef int child_fn(struct ends *ends);

/* Two descriptors of a child's: it tells that it has done its part, and waits until its parent has. */
static int tell_fd[2], wait_fd[2];

static void pause_child(void)
{
    char byte = 0;
    if (write(tell_fd[1], &byte, 1) != 1 || read(wait_fd[0], &byte, 1) != 1)
        _exit(99);
}

/* What a child found wrong is its exit status; a hang ends by the alarm. */
static pid_t start_child(struct ends *ends, child_fn *child)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        in_child = true;
        /* What fails here must not have the child go on with the tests. */
        setenv("CMOCKA_TEST_ABORT", "1", 1);
        signal(SIGSEGV, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        alarm(CHILD_MAX_S);
        _exit(child(ends));
    }
    return pid;
}

static void end_child(pid_t pid)
{
    int result;
    assert_int_equal(waitpid(pid, &result, 0), pid);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), 0);
}

/* The parent goes on beside a child that ends by itself, and afterwards, as if nothing had been. */
static void beside(struct ends *ends, child_fn *child)
{
    pid_t pid = start_child(ends, child);
    exchange(ends, 2, 10);
    end_child(pid);
    exchange(ends, 10, 18);
}

/* The parent goes on while the child stands in pause_child(). */
static void during(struct ends *ends, child_fn *child)
{
    char byte;
    assert_int_equal(pipe(tell_fd), 0);
    assert_int_equal(pipe(wait_fd), 0);
    pid_t pid = start_child(ends, child);
    close(tell_fd[1]); /* so that a child's end is seen */
    close(wait_fd[0]);
    bool told = read(tell_fd[0], &byte, 1) == 1;
    if (told) {
        exchange(ends, 20, 28);
        assert_int_equal(write(wait_fd[1], &byte, 1), 1);
    }
    close(tell_fd[0]);
    close(wait_fd[1]);
    end_child(pid);
    assert_true(told);
    exchange(ends, 28, 36);
}

static int executes(struct ends *ends)
{
    (void)ends;
    execl("/bin/true", "true", (char *)NULL);
    return 1;
}

static int exits(struct ends *ends)
{
    (void)ends;
    exit(0);
}

static int destroys(struct ends *ends)
{
    weir_rkey_destroy(ends->pool.rkey);
    weir_ep_close(ends->ep);
    weir_mem_deregister(ends->user.source_mem);
    weir_mem_deregister(ends->user.target_mem);
    weir_pool_free(ends->pool_here, ends->pool.source);
    weir_pool_destroy(ends->pool_there);
    weir_ctx_destroy(ends->here);
    weir_ctx_destroy(ends->there);
    exit(0);
}

static bool holds(const unsigned char *memory, unsigned char value)
{
    for (int i = 0; i < BYTES; i++)
        if (memory[i] != value)
            return false;
    return true;
}

/* All memory is there; after the parent's transfers that of the pools has changed and that of the user has not. */
static int reads(struct ends *ends)
{
    if (!holds(ends->user.source, 101) || !holds(ends->user.target, 101) || !holds(ends->pool.source, 101))
        return 1;
    pause_child();
    if (!holds(ends->user.source, 101) || !holds(ends->user.target, 101))
        return 2;
    return holds(ends->pool.source, 127) && holds(ends->pool.target, 127) ? 0 : 3;
}

/* What it writes to its copy of the user's memory is its own. Unmapping it gives up nothing of its parent's. */
static int writes(struct ends *ends)
{
    memset(ends->user.source, 77, BYTES);
    memset(ends->user.target, 78, BYTES);
    pause_child();
    if (!holds(ends->user.source, 77) || !holds(ends->user.target, 78))
        return 1;
    munmap(ends->user.source, BYTES);
    munmap(ends->user.target, BYTES);
    return 0;
}

static bool refused(weir_status status, const char *what)
{
    return (status == WEIR_ERR_INVALID || status == WEIR_ERR_UNSUPPORTED) && strncmp(weir_last_error(), what, strlen(what)) == 0 &&
           strstr(weir_last_error(), "forked");
}

/* Is the call refused, with a sentence that begins with `_what`? If not, its number is the child's exit status. */
#define REFUSED(_number, _what, _call) \
    do { \
        if (!refused(_call, _what)) \
            return _number; \
    } while (0)

static int operates(struct ends *ends)
{
    static uint64_t word;
    weir_comp comp = WEIR_COMP_INIT;
    const struct pair *pair = &ends->pool;
    uint64_t remote = (uintptr_t)pair->target;
    REFUSED(1, "put", weir_put(ends->ep, pair->source, NULL, 8, remote, pair->rkey, &comp));
    REFUSED(2, "get", weir_get(ends->ep, pair->source, NULL, 8, remote, pair->rkey, &comp));
    REFUSED(3, "put_signal", weir_put_signal(ends->ep, NULL, NULL, 0, 0, NULL, 0, &comp));
    REFUSED(4, "fetch_add", weir_fetch_add(ends->ep, 1, &word, NULL, remote, pair->rkey, &comp));
    REFUSED(5, "send", weir_send(ends->ep, &word, sizeof(word)));
    REFUSED(6, "flush", weir_flush(ends->ep, &comp));
    REFUSED(7, "weir_ep_status", weir_ep_status(ends->ep));
    return comp.pending == 0 ? 0 : 8;
}

static int uses(struct ends *ends)
{
    static unsigned char buffer[WEIR_ADDRESS_MAX];
    weir_comp comp = {.pending = 1};
    size_t len = sizeof(buffer);
    uint32_t signal;
    void *ptr;
    weir_ep *ep;
    weir_mem *mem;
    weir_pool *pool;
    weir_rkey *rkey;
    REFUSED(10, "weir_ep_create", weir_ep_create(ends->here, ends->address, ends->address_len, &ep));
    REFUSED(11, "weir_mem_register", weir_mem_register(ends->here, buffer, sizeof(buffer), &mem));
    REFUSED(12, "weir_mem_acquire", weir_mem_acquire(ends->here, buffer, sizeof(buffer), &mem));
    REFUSED(13, "weir_mem_find", weir_mem_find(ends->here, ends->pool.source, BYTES, &mem));
    REFUSED(14, "weir_mem_export", weir_mem_export(ends->pool.source_mem, ends->pool.source, BYTES, buffer, &len));
    REFUSED(29, "weir_mem_unexport", weir_mem_unexport(ends->pool.source_mem, buffer, len));
    REFUSED(15, "weir_rkey_import", weir_rkey_import(ends->ep, buffer, len, &rkey));
    REFUSED(16, "weir_mem_map_peer", weir_mem_map_peer(ends->pool.rkey, (uintptr_t)ends->pool.target, 8, &ptr));
    REFUSED(17, "weir_pool_create", weir_pool_create(ends->here, 0, &pool));
    REFUSED(18, "weir_pool_alloc", weir_pool_alloc(ends->pool_here, 64, &ptr, NULL));
    REFUSED(19, "weir_wait", weir_wait(ends->here, &comp, 1000));
    REFUSED(20, "weir_signal_create", weir_signal_create(ends->here, &signal));
    REFUSED(21, "weir_signal_wait", weir_signal_wait(ends->here, 0, 1, 1000));
    REFUSED(22, "weir_recv", weir_recv(ends->here, buffer, &len, NULL));
    REFUSED(23, "weir_ep_connect", weir_ep_connect(ends->ep));
    REFUSED(24, "weir_ep_connect", weir_ep_wait_ready(ends->ep, 1000));
    REFUSED(25, "weir_ep_reconnect", weir_ep_reconnect(ends->ep));
    REFUSED(26, "weir_ctx_address", weir_ctx_address(ends->here, buffer, &len));
    REFUSED(27, "weir_ctx_watch", weir_ctx_watch(ends->here, STDIN_FILENO));
    if (weir_progress(ends->there) != 0)
        return 28;
    weir_ctx_unwatch(ends->here, STDIN_FILENO);
    weir_ctx_block(ends->here, 10);
    return operates(ends);
}

/* Calls that return nothing end as well, whoever held a lock when the process was forked. */
static int uses_and_destroys(struct ends *ends)
{
    int wrong = uses(ends);
    weir_pool_attr pool;
    weir_mem_cache_attr cache;
    char path[128];
    weir_pool_query(ends->pool_here, &pool);
    weir_mem_cache_query(ends->here, &cache);
    weir_ep_path(ends->ep, path, sizeof(path));
    weir_signal_destroy(ends->here, 0);
    weir_mem_release(ends->user.source_mem);
    return wrong ? wrong : destroys(ends);
}

/* A context, and all that can be done with it, of the child's own. UCX cannot, and says so. */
static int makes_its_own(struct ends *ends)
{
    static struct ends own;
    weir_ctx_params params = {.size = sizeof(params), .transport = transport};
    (void)ends;
    if (strcmp(transport, "ucx") == 0) {
        REFUSED(1, "ucx", weir_ctx_create(&params, &own.here));
        return 0;
    }
    set_up_with(&own, 0);
    exchange(&own, 40, 44);
    void *state = &own;
    tear_down(&state);
    return 0;
}

/* ---- Tests ------------------------------------------------------------------------------------------------------- */

static void a_child_may_exec(void **state)
{
    beside(*state, executes);
}

static void a_child_may_exit(void **state)
{
    beside(*state, exits);
}

static void a_child_ends_nothing_of_its_parents(void **state)
{
    beside(*state, destroys);
}

static void a_child_reads_what_was_there(void **state)
{
    during(*state, reads);
}

static void a_child_writes_to_memory_of_its_own(void **state)
{
    during(*state, writes);
}

static void a_child_that_uses_the_context_is_told(void **state)
{
    beside(*state, uses);
}

static void a_child_may_make_a_context(void **state)
{
    beside(*state, makes_its_own);
}

/* Locks of the context, and of the allocator's, are held at some of these forks by a thread that no child has. */
static void no_child_waits_for_a_thread_of_its_parents(void **state)
{
    struct ends ends;
    pthread_t thread;
    (void)state;
    set_up_with(&ends, WEIR_CTX_MULTI);
    ends.driven = true;
    assert_int_equal(pthread_create(&thread, NULL, drive, &ends), 0);
    for (int i = 0; i < 8; i++) {
        pid_t pid = start_child(&ends, uses_and_destroys);
        exchange(&ends, i, i + 1);
        end_child(pid);
    }
    __atomic_store_n(&ends.driven, false, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    void *mine = &ends;
    tear_down(&mine);
}

int main(int argc, char **argv)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_child_may_exec, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_child_may_exit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_child_ends_nothing_of_its_parents, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_child_reads_what_was_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_child_writes_to_memory_of_its_own, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_child_that_uses_the_context_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_child_may_make_a_context, set_up, tear_down),
        cmocka_unit_test(no_child_waits_for_a_thread_of_its_parents),
    };
    if (argc > 1)
        transport = argv[1];
    if (weir_transport_probe(transport, why, sizeof(why)) != WEIR_OK) {
        printf("skipped: %s\n", why);
        return SKIP;
    }
    return cmocka_run_group_tests_name("fork", tests, NULL, NULL);
}
