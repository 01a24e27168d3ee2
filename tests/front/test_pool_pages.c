/*
 * On which pages and which node pools lie. What a machine has differs: the guest of scripts/softroce is given huge pages
 * and two nodes for this (tests/softroce).
 */
#include <weir/transport.h>

#include <linux/mempolicy.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

enum { SLAB = 8 << 20 };

static weir_ctx *ctx;

static int make_context(void **state)
{
    (void)state;
    weir_ctx_params params = {.size = sizeof(params), .transport = "shm"};
    return weir_ctx_create(&params, &ctx) == WEIR_OK ? 0 : -1;
}

static int end_context(void **state)
{
    (void)state;
    weir_ctx_destroy(ctx);
    return 0;
}

static long number_in(const char *path)
{
    long number = 0;
    FILE *file = fopen(path, "re");
    if (file && fscanf(file, "%ld", &number) != 1)
        number = 0;
    if (file)
        fclose(file);
    return number;
}

static bool huge_pages_are_free(void)
{
    return number_in("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages") >= SLAB >> 21;
}

/* Makes a pool, allocates and touches a MiB of it. */
static weir_status try_pool(const char *huge_pages, const char *numa, weir_pool_attr *attr, int *node)
{
    weir_pool_params params = {
        .size = sizeof(params), .slab_size = SLAB, .huge_pages = huge_pages, .numa = numa};
    weir_pool *pool = NULL;
    unsigned char *ptr;
    weir_status status = weir_pool_create_with(ctx, &params, &pool);
    if (status == WEIR_OK)
        status = weir_pool_alloc(pool, 1 << 20, (void **)&ptr, NULL);
    if (status == WEIR_OK) {
        memset(ptr, 1, 1 << 20);
        weir_pool_query(pool, attr);
        *node = -1;
        syscall(SYS_get_mempolicy, node, NULL, 0, ptr, MPOL_F_NODE | MPOL_F_ADDR);
    }
    weir_pool_destroy(pool);
    return status;
}

static void test_huge_pages(void **state)
{
    (void)state;
    weir_pool_attr attr;
    int node;
    bool are_free = huge_pages_are_free();
    print_message("huge pages of 2 MiB: %s\n", are_free ? "free" : "none free");
    assert_int_equal(try_pool("off", "off", &attr, &node), WEIR_OK);
    assert_int_equal(attr.slab_size, SLAB);
    assert_int_equal(attr.bytes, SLAB);
    assert_int_equal(attr.page_size, sysconf(_SC_PAGESIZE));
    assert_int_equal(attr.huge_bytes, 0);
    assert_int_equal(try_pool("auto", "off", &attr, &node), WEIR_OK);
    assert_int_equal(attr.huge_bytes, are_free ? SLAB : 0);
    assert_int_equal(attr.page_size, are_free ? 2 << 20 : 0);
    if (are_free) {
        assert_int_equal(try_pool("require", "off", &attr, &node), WEIR_OK);
        assert_int_equal(attr.huge_bytes, SLAB);
        return;
    }
    assert_int_equal(try_pool("require", "off", &attr, &node), WEIR_ERR_LIMIT);
    assert_non_null(strstr(weir_last_error(), "vm.nr_hugepages"));
}

static void test_nodes(void **state)
{
    (void)state;
    weir_pool_attr attr;
    int node, nodes = 0;
    char text[16], path[64];
    for (; nodes < 64; nodes++) {
        snprintf(path, sizeof(path), "/sys/devices/system/node/node%d", nodes);
        if (access(path, F_OK) != 0)
            break;
        snprintf(text, sizeof(text), "%d", nodes);
        assert_int_equal(try_pool("off", text, &attr, &node), WEIR_OK);
        assert_int_equal(attr.numa_node, nodes);
        assert_int_equal(node, nodes);
        if (huge_pages_are_free()) {
            assert_int_equal(try_pool("require", text, &attr, &node), WEIR_OK);
            print_message("huge pages for node %d: on node %d\n", nodes, node);
        }
    }
    print_message("%d nodes\n", nodes);
    if (nodes == 0)
        return;
    snprintf(text, sizeof(text), "%d", nodes);
    assert_int_equal(try_pool("off", text, &attr, &node), WEIR_ERR_CONFIG);
    assert_non_null(strstr(weir_last_error(), "no such node"));
}

/* Without a device the pages come from the node where the caller runs. */
static void test_node_of_the_caller(void **state)
{
    (void)state;
    weir_pool_attr attr;
    unsigned cpu, here;
    int node;
    cpu_set_t one;
    assert_int_equal(getcpu(&cpu, &here), 0);
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    assert_int_equal(getcpu(&cpu, &here), 0);
    assert_int_equal(try_pool("off", "auto", &attr, &node), WEIR_OK);
    assert_int_equal(attr.numa_node, -1);
    assert_int_equal(node, here);
}

static void test_bad_choices(void **state)
{
    (void)state;
    weir_pool_attr attr;
    int node;
    weir_pool_params params = {.size = 4};
    weir_pool *pool;
    assert_int_equal(try_pool("always", NULL, &attr, &node), WEIR_ERR_INVALID);
    assert_int_equal(try_pool(NULL, "near", &attr, &node), WEIR_ERR_CONFIG);
    assert_int_equal(try_pool(NULL, "-1", &attr, &node), WEIR_ERR_CONFIG);
    assert_int_equal(try_pool(NULL, "99999", &attr, &node), WEIR_ERR_CONFIG);
    assert_int_equal(weir_pool_create_with(ctx, &params, &pool), WEIR_ERR_INVALID);
    assert_int_equal(weir_pool_create_with(NULL, NULL, &pool), WEIR_ERR_INVALID);
    assert_int_equal(weir_pool_create_with(ctx, NULL, &pool), WEIR_OK);
    weir_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_huge_pages),
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_node_of_the_caller),
        cmocka_unit_test(test_bad_choices),
    };
    return cmocka_run_group_tests_name("pool_pages", tests, make_context, end_context);
}
