/*
 * Device memory over verbs, by dma-bufs. What is a dma-buf here: one of the kernel's own where it makes some (udmabuf, a DMA
 * heap, a graphics device or the module vgem), and with TEST_FAKE_DMABUF a memfd, which tests/softroce/fake_dmabuf.c lets pass. A device that cannot reach such
 * memory says so, in which case that is what is tested. Needs a device (soft-RoCE will do); exit status 77: there is none.
 */
#include "harness.h"
#include "transport/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/udmabuf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    BUFFER = 1 << 20,
    OFFSET = 4096 + 64,
    LENGTH = BUFFER - OFFSET - 4096,
    PART_AT = 8192,
    PART = 4096,
};

/* ---- Device memory ----------------------------------------------------------------------------------------------- */

struct device {
    int fd;
    unsigned char *view; /* the same memory, for the test to look at */
    unsigned char *name; /* what Weir calls it */
    weir_mem *mem;
};

static int sealed_memfd(void)
{
    int fd = memfd_create("device", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, BUFFER) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK))
        return -1;
    return fd;
}

/* A display buffer of the first graphics device (vgem has no hardware), as <drm/drm_mode.h> and <drm/drm.h> have it. */
static int display_dmabuf(void)
{
    struct {
        uint32_t height, width, bits, flags, handle, pitch;
        uint64_t size;
    } buffer = {.height = 256, .width = BUFFER / 256 / 4, .bits = 32};
    struct {
        uint32_t handle, flags;
        int32_t fd;
    } share = {.flags = O_RDWR | O_CLOEXEC, .fd = -1};
    int card = open("/dev/dri/card0", O_RDWR | O_CLOEXEC);
    if (card >= 0 && ioctl(card, _IOC(_IOC_READ | _IOC_WRITE, 'd', 0xb2, sizeof(buffer)), &buffer) == 0) {
        share.handle = buffer.handle;
        if (ioctl(card, _IOC(_IOC_READ | _IOC_WRITE, 'd', 0x2d, sizeof(share)), &share))
            share.fd = -1;
    }
    close(card);
    return share.fd;
}

/* A dma-buf of the kernel's own, -1: it makes none. */
static int real_dmabuf(void)
{
    int maker = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), fd = -1;
    struct udmabuf_create from = {.memfd = (uint32_t)sealed_memfd(), .flags = UDMABUF_FLAGS_CLOEXEC, .size = BUFFER};
    if (maker >= 0)
        fd = ioctl(maker, UDMABUF_CREATE, &from);
    close(maker);
    close((int)from.memfd);
    maker = fd < 0 ? open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC) : -1;
    struct dma_heap_allocation_data heap = {.len = BUFFER, .fd_flags = O_RDWR | O_CLOEXEC};
    if (maker >= 0 && ioctl(maker, DMA_HEAP_IOCTL_ALLOC, &heap) == 0)
        fd = (int)heap.fd;
    close(maker);
    return fd < 0 ? display_dmabuf() : fd;
}

static bool fake(void)
{
    return getenv("TEST_FAKE_DMABUF") != NULL;
}

static void look(const struct device *device, uint64_t flags)
{
    struct dma_buf_sync sync = {.flags = flags | DMA_BUF_SYNC_RW};
    if (!fake())
        ioctl(device->fd, DMA_BUF_IOCTL_SYNC, &sync);
}

static void device_fill(const struct device *device, size_t at, size_t len, unsigned seed)
{
    look(device, DMA_BUF_SYNC_START);
    pattern_fill(device->view + at, len, seed);
    look(device, DMA_BUF_SYNC_END);
}

static bool device_has(const struct device *device, size_t at, size_t len, unsigned seed)
{
    look(device, DMA_BUF_SYNC_START);
    bool has = pattern_differs(device->view + at, len, seed) == len;
    look(device, DMA_BUF_SYNC_END);
    return has;
}

static weir_status device_make(struct rank *r, struct device *device)
{
    void *name;
    device->fd = fake() ? sealed_memfd() : real_dmabuf();
    CHECK(device->fd >= 0);
    unsigned char *all = mmap(NULL, BUFFER, PROT_READ | PROT_WRITE, MAP_SHARED, device->fd, 0);
    CHECK(all != MAP_FAILED);
    device->view = all + OFFSET;
    CHECK_STATUS(weir_mem_register_dmabuf(r->ctx, device->fd, BUFFER, 1, NULL, &device->mem), WEIR_ERR_RANGE);
    CHECK_STATUS(weir_mem_register_dmabuf(r->ctx, device->fd, 64, LENGTH, all, &device->mem), WEIR_ERR_INVALID);
    weir_status status = weir_mem_register_dmabuf(r->ctx, device->fd, OFFSET, LENGTH, NULL, &device->mem);
    if (status != WEIR_OK)
        return status;
    weir_mem_range(device->mem, &name, NULL);
    device->name = name;
    return WEIR_OK;
}

/* The name is nothing but that: whoever reads there dies. */
static void device_is_strange(struct rank *r, struct device *device)
{
    weir_mem *found;
    int ends[2];
    CHECK((uintptr_t)device->name % 4096 == OFFSET % 4096);
    CHECK(pipe(ends) == 0 && write(ends[1], device->name, 1) == -1 && errno == EFAULT);
    close(ends[0]);
    close(ends[1]);
    CHECK(weir_mem_is_device(r->ctx, device->name + LENGTH - 1, 1) && !weir_mem_is_device(r->ctx, device->view, LENGTH));
    CHECK_OK(weir_mem_find(r->ctx, device->name + 5, 9, &found));
    CHECK(found == device->mem);
    CHECK_STATUS(weir_mem_register_dmabuf(r->ctx, device->fd, OFFSET, PART, device->name, &found), WEIR_ERR_INVALID);
}

/* ---- Transfers between two devices ------------------------------------------------------------------------------- */

static void write_all_sizes(struct rank *r, const struct device *device, uint64_t remote, weir_rkey *rkey)
{
    static const size_t sizes[] = {1, 8, 200, 4096, 300000};
    for (unsigned i = 0; i < 5; i++) {
        if (r->rank == 0) {
            device_fill(device, 0, sizes[i], i);
            CHECK_OK(weir_put(r->ep[1], device->name, i % 2 ? device->mem : NULL, sizes[i], remote, rkey, NULL));
            flush(r, r->ep[1]);
        }
        barrier(r);
        CHECK(device_has(device, 0, sizes[i], i));
        barrier(r);
    }
}

static void burst(struct rank *r, const struct device *device, uint64_t remote, weir_rkey *rkey, uint32_t signal)
{
    enum { COUNT = 20, SIZE = 16 };
    if (r->rank == 0) {
        device_fill(device, 0, COUNT * SIZE, 9);
        for (size_t at = 0; at < COUNT * SIZE; at += SIZE)
            CHECK_OK(weir_put(r->ep[1], device->name + at, device->mem, SIZE, remote + at, rkey, NULL));
        CHECK_OK(weir_put_signal(r->ep[1], device->name, NULL, SIZE, remote, rkey, signal_of(r, 1, 0), NULL));
    } else {
        CHECK_OK(weir_signal_wait(r->ctx, signal, 1, -1));
        CHECK(device_has(device, 0, COUNT * SIZE, 9));
    }
    barrier(r);
}

static void read_and_add(struct rank *r, const struct device *device, uint64_t remote, weir_rkey *rkey)
{
    enum { SIZE = 100000, WORD = 64 };
    weir_comp comp = WEIR_COMP_INIT;
    if (r->rank == 1)
        device_fill(device, 0, SIZE, 20);
    barrier(r);
    if (r->rank == 0) {
        CHECK_OK(weir_get(r->ep[1], device->name, NULL, SIZE, remote, rkey, &comp));
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        CHECK(device_has(device, 0, SIZE, 20));
        uint64_t before, got = 0, *result = (uint64_t *)(void *)(device->name + PART_AT);
        memcpy(&before, device->view + WORD, sizeof(before));
        CHECK_OK(weir_fetch_add(r->ep[1], 5, &got, NULL, remote + WORD, rkey, &comp));
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        CHECK(got == before);
        weir_status status = weir_fetch_add(r->ep[1], 1, result, NULL, remote + WORD, rkey, &comp);
        CHECK(status == WEIR_OK || (fake() && status == WEIR_ERR_UNSUPPORTED)); /* soft-RoCE's atomics need the CPU */
        CHECK_OK(weir_wait(r->ctx, &comp, -1));
        look(device, DMA_BUF_SYNC_START);
        memcpy(&got, device->view + PART_AT, sizeof(got));
        CHECK(status != WEIR_OK || got == before + 5);
        look(device, DMA_BUF_SYNC_END);
        CHECK_STATUS(weir_send(r->ep[1], device->name, 8), WEIR_ERR_INVALID);
        CHECK(strstr(weir_last_error(), "device memory"));
    }
    barrier(r);
}

/* A key of a part reaches that and no more, and nothing once the region has gone. */
static void parts(struct rank *r, struct device *device)
{
    uint64_t remote;
    publish(r, 1, device->mem, device->name + PART_AT, PART);
    barrier(r);
    weir_rkey *rkey = import(r, !r->rank, 1, &remote);
    device_fill(device, 0, 2 * PART_AT, 30 + (unsigned)r->rank);
    barrier(r);
    if (r->rank == 0) {
        CHECK_OK(weir_put(r->ep[1], device->name, NULL, PART, remote, rkey, NULL));
        flush(r, r->ep[1]);
    }
    barrier(r);
    if (r->rank == 1) {
        CHECK(device_has(device, PART_AT, PART, 30));
        CHECK(device_has(device, 0, PART_AT, 31));
    }
    if (r->rank == 0) {
        weir_comp comp = WEIR_COMP_INIT;
        rkey->addr -= 8; /* past what the library would let through */
        rkey->len += 8;
        CHECK_OK(weir_put(r->ep[1], device->name, NULL, 16, remote - 8, rkey, &comp));
        CHECK_STATUS(weir_wait(r->ctx, &comp, -1), WEIR_ERR_KEY);
        CHECK_OK(weir_ep_reconnect(r->ep[1]));
        CHECK_OK(weir_ep_wait_ready(r->ep[1], -1));
    }
    barrier(r);
    CHECK(r->rank == 0 || device_has(device, 0, PART_AT, 31));
    barrier(r);
    if (r->rank == 1)
        weir_mem_deregister(device->mem);
    barrier(r);
    if (r->rank == 0) {
        weir_comp comp = WEIR_COMP_INIT;
        CHECK_OK(weir_put(r->ep[1], device->name, NULL, 8, remote + 8, rkey, &comp));
        CHECK_STATUS(weir_wait(r->ctx, &comp, -1), WEIR_ERR_KEY);
        weir_mem_deregister(device->mem);
        CHECK(!weir_mem_is_device(r->ctx, device->name, 1));
    }
    weir_rkey_destroy(rkey);
    barrier(r);
}

static void transfer_body(struct rank *r)
{
    struct device device;
    uint64_t remote;
    rank_open_all(r);
    weir_status status = device_make(r, &device);
    if (status == WEIR_ERR_UNSUPPORTED && !fake()) {
        CHECK(strstr(weir_last_error(), "ibv_reg_dmabuf_mr") && strstr(weir_last_error(), "host memory"));
        print_message("success was not tested: %s\n", weir_last_error());
        rank_close(r);
        return;
    }
    CHECK_OK(status);
    device_is_strange(r, &device);
    publish(r, 0, device.mem, device.name, LENGTH);
    uint32_t signal = signal_open(r, 0);
    barrier(r);
    weir_rkey *rkey = import(r, !r->rank, 0, &remote);
    write_all_sizes(r, &device, remote, rkey);
    burst(r, &device, remote, rkey, signal);
    read_and_add(r, &device, remote, rkey);
    weir_rkey_destroy(rkey);
    parts(r, &device);
    rank_close(r);
}

static void test_transfer(void **state)
{
    (void)state;
    int fd = fake() ? -1 : real_dmabuf();
    if (fd < 0 && !fake()) {
        print_message("this kernel makes no dma-buf (/dev/udmabuf, /dev/dma_heap, /dev/dri): not tested with a real one\n");
        skip();
    }
    close(fd);
    job_run(&(struct job){.count = 2, .body = transfer_body});
}

/* ---- Where it cannot be ------------------------------------------------------------------------------------------ */

static void arguments_body(struct rank *r)
{
    weir_mem *mem = NULL;
    rank_open(r, 0);
    int null = open("/dev/null", O_RDWR);
    CHECK_STATUS(weir_mem_register_dmabuf(r->ctx, -1, 0, 4096, NULL, &mem), WEIR_ERR_INVALID);
    CHECK(strstr(weir_last_error(), "not open"));
    CHECK_STATUS(weir_mem_register_dmabuf(r->ctx, null, 0, 4096, NULL, &mem), WEIR_ERR_INVALID);
    CHECK(strstr(weir_last_error(), "no dma-buf"));
    CHECK_STATUS(weir_mem_register_dmabuf(r->ctx, null, 0, 0, NULL, &mem), WEIR_ERR_INVALID);
    CHECK_STATUS(weir_mem_register_dmabuf(NULL, null, 0, 1, NULL, &mem), WEIR_ERR_INVALID);
    CHECK(!mem && !weir_mem_is_device(r->ctx, r, 1));
    close(null);
    rank_close(r);
}

static void test_arguments(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 1, .body = arguments_body});
}

/* Peers of the same host that share memory: nothing is copied from where nothing may be read. */
static void intranode_body(struct rank *r)
{
    struct device device;
    struct area area;
    uint64_t remote;
    weir_rkey *none;
    setenv("WEIR_INTRANODE", "shm", 1);
    rank_open_all(r);
    CHECK_OK(device_make(r, &device));
    area_make(r, &area, PART, true);
    publish(r, 0, area.mem, area.ptr, area.len);
    publish(r, 1, device.mem, device.name, PART);
    barrier(r);
    weir_rkey *rkey = import(r, !r->rank, 0, &remote);
    weir_ep *ep = r->ep[!r->rank];
    CHECK_STATUS(weir_put(ep, device.name, NULL, 8, remote, rkey, NULL), WEIR_ERR_UNSUPPORTED);
    CHECK(strstr(weir_last_error(), "WEIR_INTRANODE=off"));
    CHECK_STATUS(weir_get(ep, device.name, device.mem, PART, remote, rkey, NULL), WEIR_ERR_UNSUPPORTED);
    CHECK_STATUS(weir_rkey_import(ep, r->board->key[!r->rank][1], r->board->key_len[!r->rank][1], &none), WEIR_ERR_KEY);
    CHECK_STATUS(weir_send(ep, device.name, 8), WEIR_ERR_INVALID);
    CHECK_OK(weir_put(ep, area.ptr, area.mem, 8, remote, rkey, NULL));
    flush(r, ep);
    barrier(r);
    weir_rkey_destroy(rkey);
    rank_close(r); /* with the region open */
}

static void test_intranode(void **state)
{
    (void)state;
    if (!fake())
        skip();
    job_run(&(struct job){.count = 2, .body = intranode_body});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_transfer),
        cmocka_unit_test(test_intranode),
    };
    setenv("WEIR_TRANSPORT", "verbs", 1);
    setenv("WEIR_INTRANODE", "off", 1);
    if (transport_is_missing())
        return 77;
    return cmocka_run_group_tests_name("verbs dma-buf", tests, NULL, NULL);
}
