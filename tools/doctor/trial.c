/* One process tries a transport with itself: context, memory, connection, a write of which every byte is compared. */
#include "doctor.h"

#include <weir/transport.h>

#include <stdio.h>
#include <string.h>

enum { TRIAL_LEN = 256 * 1024 };

struct trial {
    weir_ctx *ctx;
    weir_pool *pool;
    weir_ep *ep;
    weir_rkey *rkey;
    unsigned char *source, *target;
    weir_mem *mem, *target_mem;
    weir_comp flushed; /* outlives a wait that ran out of time, until the endpoint is closed */
};

static weir_status open_all(struct trial *trial)
{
    unsigned char address[WEIR_ADDRESS_MAX], key[WEIR_RKEY_MAX];
    size_t address_len = sizeof(address), key_len = sizeof(key);
    weir_status status = weir_ctx_create(NULL, &trial->ctx);
    if (status == WEIR_OK)
        status = weir_pool_create(trial->ctx, 0, &trial->pool);
    if (status == WEIR_OK)
        status = weir_pool_alloc(trial->pool, TRIAL_LEN, (void **)&trial->source, &trial->mem);
    if (status == WEIR_OK)
        status = weir_pool_alloc(trial->pool, TRIAL_LEN, (void **)&trial->target, &trial->target_mem);
    if (status == WEIR_OK)
        status = weir_ctx_address(trial->ctx, address, &address_len);
    if (status == WEIR_OK)
        status = weir_ep_create(trial->ctx, address, address_len, &trial->ep);
    if (status == WEIR_OK)
        status = weir_ep_wait_ready(trial->ep, -1);
    if (status == WEIR_OK)
        status = weir_mem_export(trial->target_mem, trial->target, TRIAL_LEN, key, &key_len);
    if (status == WEIR_OK)
        status = weir_rkey_import(trial->ep, key, key_len, &trial->rkey);
    return status;
}

static weir_status write_all(struct trial *trial)
{
    for (size_t i = 0; i < TRIAL_LEN; i++)
        trial->source[i] = (unsigned char)(i * 31 + 7);
    memset(trial->target, 0, TRIAL_LEN);
    weir_status status = weir_put(trial->ep, trial->source, trial->mem, TRIAL_LEN, (uintptr_t)trial->target, trial->rkey, NULL);
    if (status == WEIR_OK)
        status = weir_flush(trial->ep, &trial->flushed);
    if (status == WEIR_OK)
        status = weir_wait(trial->ctx, &trial->flushed, -1);
    return status;
}

int doctor_trial_main(void)
{
    struct trial trial = {0};
    weir_status status = open_all(&trial);
    if (status == WEIR_OK)
        status = write_all(&trial);
    if (status != WEIR_OK) {
        printf("fail %s\n", weir_last_error()[0] ? weir_last_error() : weir_status_string(status));
    } else if (memcmp(trial.source, trial.target, TRIAL_LEN) != 0) {
        printf("fail what was written to itself arrived changed\n");
    } else {
        weir_ctx_attr attr;
        weir_ctx_query(trial.ctx, &attr);
        printf("ok works on %s: registered a slab of a pool, connected to itself, wrote 256 KiB\n",
               attr.device[0] ? attr.device : "this host");
    }
    fflush(stdout);
    weir_rkey_destroy(trial.rkey);
    weir_ep_close(trial.ep);
    weir_ctx_destroy(trial.ctx);
    return 0;
}
