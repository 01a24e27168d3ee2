/*
 * What the processor adds up or applies has to be in host memory: collectives and the parameter server refuse a device's,
 * with a sentence, before they touch it, and go on well afterwards. Over verbs in the guest the region comes from
 * weir_mem_register_dmabuf(), with the stand-in of tests/softroce/fake_dmabuf.c (TEST_FAKE_DMABUF); elsewhere, where no backend
 * takes one, it is put into the context's list. Nothing can be read at its addresses, so who touches it dies.
 */
#include "rig.h"

#include "transport/context.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <weir/collectives.h>

#include <cmocka.h>

enum { COUNT = 4096, BYTES = COUNT * sizeof(float) };

/* `host` and then `device` lie side by side. */
struct buffers {
    float *host, *device;
    weir_mem *mem;
};

static void register_device(struct rank *rank, struct buffers *buffers)
{
    if (getenv("TEST_FAKE_DMABUF")) {
        int fd = memfd_create("device", 0);
        EXPECT(fd >= 0 && ftruncate(fd, BYTES) == 0);
        EXPECT_STATUS(WEIR_OK, weir_mem_register_dmabuf(rank->ctx, fd, 0, BYTES, buffers->device, &buffers->mem));
        return;
    }
    struct wi_mem_desc desc = {.addr = buffers->device, .len = BYTES, .fd = -1};
    EXPECT_STATUS(WEIR_OK, wi_mem_add(rank->ctx, &desc, WI_MEM_DEVICE, &buffers->mem));
}

static void make(struct rank *rank, struct buffers *buffers)
{
    char *base = mmap(NULL, 2 * BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(base != MAP_FAILED && mprotect(base, BYTES, PROT_READ | PROT_WRITE) == 0);
    buffers->host = (float *)(void *)base;
    buffers->device = (float *)(void *)(base + BYTES);
    register_device(rank, buffers);
    EXPECT(weir_mem_is_device(rank->ctx, buffers->device, 1) && !weir_mem_is_device(rank->ctx, buffers->host, BYTES));
}

static void expect_refused(weir_status status, const char *what)
{
    EXPECT(status == WEIR_ERR_UNSUPPORTED);
    EXPECT_SAYS(what);
    EXPECT_SAYS("host memory");
}

static void collectives(struct rank *rank, const struct buffers *buffers)
{
    const weir_comm_params params = {.size = sizeof(params), .ranks = (const int[]){0, 1}, .nranks = 2};
    float *host = buffers->host, *device = buffers->device;
    weir_comm *comm;
    EXPECT_STATUS(WEIR_OK, weir_comm_create(rank->ctx, rank->boot, &params, &comm));
    expect_refused(weir_allreduce(comm, device, device, COUNT, WEIR_F32, WEIR_SUM), "all-reduce: ");
    expect_refused(weir_allreduce(comm, device, host, COUNT, WEIR_F32, WEIR_SUM), "all-reduce: ");
    expect_refused(weir_allreduce(comm, host, device, COUNT, WEIR_F32, WEIR_SUM), "all-reduce: ");
    expect_refused(weir_allreduce(comm, device - 1, device - 1, 2, WEIR_F32, WEIR_SUM), "all-reduce: "); /* in part */
    expect_refused(weir_broadcast(comm, device, COUNT, WEIR_F32, 0), "broadcast: ");
    for (int i = 0; i < COUNT; i++)
        host[i] = (float)(rank->index + 1);
    EXPECT_STATUS(WEIR_OK, weir_allreduce(comm, host, host, COUNT, WEIR_F32, WEIR_SUM));
    EXPECT(host[0] == 3 && host[COUNT - 1] == 3); /* up to where the device's memory begins */
    weir_comm_destroy(comm);
}

static void parameter_server(struct rank *rank, const struct buffers *buffers)
{
    const weir_ps_table_params params = {.size = sizeof(params), .name = "t", .count = COUNT,
                                         .consistency = WEIR_PS_BSP, .learning_rate = 1};
    float *host = buffers->host, *device = buffers->device;
    weir_ps_table *table;
    EXPECT_STATUS(WEIR_OK, weir_ps_table_open(rank->client, &params, &table));
    expect_refused(weir_ps_init(table, device), "parameter server ");
    expect_refused(weir_ps_push(table, device), "parameter server push");
    expect_refused(weir_ps_pull(table, device), "parameter server pull");
    expect_refused(weir_ps_push_pull(table, host, device), "parameter server ");
    expect_refused(weir_ps_push_pull(table, device, host), "parameter server ");
    expect_refused(weir_ps_pull(table, host + 1), "parameter server pull"); /* its last element */
    for (int i = 0; i < COUNT; i++)
        host[i] = 2;
    EXPECT_STATUS(WEIR_OK, weir_ps_push_pull(table, host, host));
    EXPECT(host[0] == -2 && host[COUNT - 1] == -2); /* none of the refused ones has counted */
}

static void worker(struct rank *rank)
{
    struct buffers buffers;
    make(rank, &buffers);
    collectives(rank, &buffers);
    parameter_server(rank, &buffers);
    weir_mem_deregister(buffers.mem);
}

static void test_refused(void **state)
{
    (void)state;
    assert_true(scenario_run(&(struct scenario){.workers = 2, .servers = 1, .worker = worker, .killed = -1}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_refused)};
    skip_if_unusable();
    return cmocka_run_group_tests_name("device memory refused", tests, NULL, NULL);
}
