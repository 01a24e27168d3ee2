/* Greetings through the store, and endpoints. */
#include "ps/connect.h"

#include "core/clock.h"
#include "core/error.h"

#include <stdio.h>
#include <string.h>

/* A rank that gives up because another one died closes its memory; news of the death may come a little later. */
enum { ECHO_MS = 1000 };

weir_status wi_ps_ring_memory_init(struct wi_ps_ring_memory *ring, weir_ctx *ctx, weir_pool *pool, uint64_t size)
{
    void *base;
    weir_status status = weir_pool_alloc(pool, size, &base, &ring->mem);
    if (status != WEIR_OK)
        return wi_error_prefix(status, "parameter server: ring of %llu bytes", (unsigned long long)size);
    memset(base, 0, size);
    ring->base = base;
    ring->size = size;
    status = weir_signal_create(ctx, &ring->signal);
    ring->has_signal = status == WEIR_OK;
    return status;
}

void wi_ps_ring_memory_fini(struct wi_ps_ring_memory *ring, weir_ctx *ctx)
{
    if (ring->has_signal)
        weir_signal_destroy(ctx, ring->signal);
    ring->has_signal = false;
}

/* The greeting of `from` to `to`. */
static void key_name(char *key, size_t size, int from, int to)
{
    snprintf(key, size, "weir.ps/%d/%d", from, to);
}

weir_status wi_ps_greet(weir_ctx *ctx, weir_boot *boot, const struct wi_ps_ring_memory *ring, int peer)
{
    struct wi_ps_hello hello = {
        .magic = WI_PS_MAGIC,
        .version = WI_PS_VERSION,
        .ring_addr = (uintptr_t)ring->base,
        .ring_size = ring->size,
        .signal = ring->signal,
    };
    size_t address_len = sizeof(hello.address), key_len = sizeof(hello.key);
    weir_status status = weir_ctx_address(ctx, hello.address, &address_len);
    if (status == WEIR_OK)
        status = weir_mem_export(ring->mem, ring->base, ring->size, hello.key, &key_len);
    if (status != WEIR_OK)
        return status;
    hello.address_len = (uint32_t)address_len;
    hello.key_len = (uint32_t)key_len;
    char key[64];
    key_name(key, sizeof(key), weir_boot_rank(boot), peer);
    return weir_boot_put(boot, key, &hello, sizeof(hello));
}

weir_status wi_ps_meet(weir_ctx *ctx, weir_boot *boot, int peer, bool reply_ring, struct wi_ps_hello *hello,
                       struct wi_ps_remote *remote)
{
    char key[64];
    key_name(key, sizeof(key), peer, weir_boot_rank(boot));
    size_t len = sizeof(*hello);
    weir_status status = weir_boot_get(boot, key, hello, &len, -1);
    if (status != WEIR_OK)
        return wi_error_prefix(status, "parameter server: waiting for rank %d (a %s)", peer,
                               reply_ring ? "worker; has it made its client?"
                                          : "server; has it made its server object?");
    const char *wrong = wi_ps_hello_check(hello, len, reply_ring);
    if (wrong)
        return wi_error(WEIR_ERR_PROTOCOL, "parameter server: greeting of rank %d: %s", peer, wrong);
    remote->addr = hello->ring_addr;
    remote->size = hello->ring_size;
    remote->signal = hello->signal;
    status = weir_ep_create(ctx, hello->address, hello->address_len, &remote->ep);
    return status == WEIR_OK ? weir_ep_connect(remote->ep) : status; /* with all others at the same time */
}

weir_status wi_ps_remote_ready(struct wi_ps_remote *remote, const struct wi_ps_hello *hello, int peer)
{
    weir_status status = weir_ep_wait_ready(remote->ep, -1);
    if (status == WEIR_OK)
        status = weir_rkey_import(remote->ep, hello->key, hello->key_len, &remote->rkey);
    if (status != WEIR_OK)
        return wi_error_prefix(status, "parameter server: connecting to rank %d", peer);
    uint64_t addr, len;
    weir_rkey_range(remote->rkey, &addr, &len);
    if (addr != remote->addr || len != remote->size)
        return wi_error(WEIR_ERR_PROTOCOL, "parameter server: the key of rank %d does not cover its ring", peer);
    return WEIR_OK;
}

weir_status wi_ps_fail_job(weir_boot *boot, weir_status status)
{
    char sentence[512];
    snprintf(sentence, sizeof(sentence), "%s", weir_last_error());
    weir_status job = weir_boot_check(boot);
    for (int ms = 0; ms < ECHO_MS && job == WEIR_OK && status != WEIR_ERR_PROTOCOL; ms++) {
        wi_sleep_ns(WI_NS_PER_MS);
        job = weir_boot_check(boot);
    }
    if (job != WEIR_OK)
        return job;
    weir_boot_fail(boot, status, sentence);
    return wi_error(status, "%s", sentence);
}

void wi_ps_remote_fini(struct wi_ps_remote *remote)
{
    weir_rkey_destroy(remote->rkey);
    weir_ep_close(remote->ep);
    *remote = (struct wi_ps_remote){0};
}
