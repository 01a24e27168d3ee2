#include "harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static double scale(void)
{
    const char *text = getenv("CONFORMANCE_SCALE");
    double value = text ? strtod(text, NULL) : 1.0;
    return value > 0 ? value : 1.0;
}

int rounds(int usual, int least)
{
    int n = (int)(usual * scale());
    return n < least ? least : n;
}

bool transport_is(const char *name)
{
    return strcmp(transport_name(), name) == 0;
}

bool suite_may_run(int argc, char **argv)
{
    setenv("WEIR_TRANSPORT", "shm", 0);
    if (!transport_is("shm"))
        setenv("WEIR_INTRANODE", "off", 1);
    if (transport_is_missing())
        return false;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return true;
}

void barrier_with(struct rank *r, unsigned mask)
{
    uint32_t turn = ++r->barriers;
    __atomic_store_n(&r->board->arrived[r->rank], turn, __ATOMIC_SEQ_CST);
    for (int i = 0; i < r->count; i++) {
        if (!(mask >> i & 1u))
            continue;
        while (__atomic_load_n(&r->board->arrived[i], __ATOMIC_SEQ_CST) < turn) {
            if (r->ctx)
                weir_progress(r->ctx);
            give_way();
        }
    }
}

void barrier(struct rank *r)
{
    barrier_with(r, ~0u);
}

void rank_open(struct rank *r, unsigned flags)
{
    r->own_exchange = board_exchange(r);
    weir_ctx_params params = {.size = sizeof(params),
                              .id = (uint64_t)r->rank,
                              .flags = flags,
                              .transport = transport_name(),
                              .signals = 64,
                              .exchange = r->exchange ? r->exchange : &r->own_exchange};
    size_t len = WEIR_ADDRESS_MAX;
    CHECK_OK(weir_ctx_create(&params, &r->ctx));
    CHECK_OK(weir_pool_create(r->ctx, 0, &r->pool));
    CHECK_OK(weir_ctx_address(r->ctx, r->board->address[r->rank], &len));
    r->board->address_len[r->rank] = (uint32_t)len;
}

void rank_connect(struct rank *r, int peer)
{
    CHECK_OK(weir_ep_create(r->ctx, r->board->address[peer], r->board->address_len[peer], &r->ep[peer]));
    CHECK_OK(weir_ep_wait_ready(r->ep[peer], -1));
}

void rank_open_all(struct rank *r)
{
    rank_open(r, 0);
    barrier(r);
    for (int i = 0; i < r->count; i++)
        rank_connect(r, (r->rank + i) % r->count);
    barrier(r);
}

void rank_close(struct rank *r)
{
    barrier(r);
    for (int i = 0; i < r->count; i++)
        weir_ep_close(r->ep[i]);
    barrier(r);
    weir_pool_destroy(r->pool);
    weir_ctx_destroy(r->ctx);
}

void publish(struct rank *r, int slot, weir_mem *mem, void *ptr, size_t len)
{
    size_t blob_len = WEIR_RKEY_MAX;
    CHECK_OK(weir_mem_export(mem, ptr, len, r->board->key[r->rank][slot], &blob_len));
    r->board->key_len[r->rank][slot] = (uint32_t)blob_len;
}

weir_rkey *import(struct rank *r, int peer, int slot, uint64_t *addr)
{
    weir_rkey *rkey = NULL;
    CHECK_OK(weir_rkey_import(r->ep[peer], r->board->key[peer][slot], r->board->key_len[peer][slot], &rkey));
    weir_rkey_range(rkey, addr, NULL);
    return rkey;
}

weir_rkey *swap_keys(struct rank *r, const struct area *area, uint64_t *addr)
{
    publish(r, 0, area->mem, area->ptr, area->len);
    barrier(r);
    return import(r, !r->rank, 0, addr);
}

uint32_t signal_open(struct rank *r, int slot)
{
    uint32_t signal;
    CHECK_OK(weir_signal_create(r->ctx, &signal));
    r->board->number[r->rank][slot] = signal;
    return signal;
}

uint32_t signal_of(const struct rank *r, int peer, int slot)
{
    return (uint32_t)r->board->number[peer][slot];
}

/* CRC-32, in the last four bytes. */
void mend_checksum(uint8_t *blob, size_t len)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i + 4 < len; i++) {
        crc ^= blob[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    crc = ~crc;
    for (int i = 0; i < 4; i++)
        blob[len - 4 + (size_t)i] = (uint8_t)(crc >> (8 * i));
}

void flush(struct rank *r, weir_ep *ep)
{
    weir_comp comp = WEIR_COMP_INIT;
    CHECK_OK(weir_flush(ep, &comp));
    CHECK_OK(weir_wait(r->ctx, &comp, -1));
}

weir_comp *comp_new(struct rank *r)
{
    static weir_comp comps[4096];
    static unsigned next;
    weir_comp *comp = &comps[next++ % (sizeof(comps) / sizeof(comps[0]))];
    CHECK(comp->pending == 0); /* else there are too few */
    *comp = (weir_comp)WEIR_COMP_INIT;
    return comp;
}

void area_make(struct rank *r, struct area *area, size_t len, bool pooled)
{
    *area = (struct area){.len = len, .pooled = pooled};
    if (pooled) {
        void *ptr;
        CHECK_OK(weir_pool_alloc(r->pool, len, &ptr, &area->mem));
        area->ptr = ptr;
    } else {
        area->ptr = aligned_alloc(64, (len + 63) / 64 * 64);
        CHECK(area->ptr);
        CHECK_OK(weir_mem_register(r->ctx, area->ptr, len, &area->mem));
    }
}

void area_free(struct rank *r, struct area *area)
{
    if (area->pooled) {
        weir_pool_free(r->pool, area->ptr);
        return;
    }
    weir_mem_deregister(area->mem);
    free(area->ptr);
}

void pattern_fill(unsigned char *ptr, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        ptr[i] = pattern(seed, i);
}

size_t pattern_differs(const unsigned char *ptr, size_t len, unsigned seed)
{
    size_t i = 0;
    while (i < len && ptr[i] == pattern(seed, i))
        i++;
    return i;
}

size_t bytes_differ(const unsigned char *ptr, size_t len, unsigned char value)
{
    size_t i = 0;
    while (i < len && ptr[i] == value)
        i++;
    return i;
}
