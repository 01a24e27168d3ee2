/* The first program of the README: every rank adds its numbers to those of the others. */
#include <stdio.h>
#include <weir/weir.h>

int main(void)
{
    weir_boot *boot = NULL;
    weir_ctx *ctx = NULL;
    weir_comm *comm = NULL;
    float values[4] = {0};
    weir_ctx_params params = {.size = sizeof(params)};

    weir_status status = weir_boot_create(NULL, &boot); /* who am I: RANK, WORLD_SIZE, MASTER_ADDR, ... */
    if (status == WEIR_OK) {
        params.id = (uint64_t)weir_boot_rank(boot);
        params.bind_address = weir_boot_local_address(boot);
        params.exchange = weir_boot_exchange(boot);
        status = weir_ctx_create(&params, &ctx); /* WEIR_TRANSPORT: verbs, UCX or shared memory */
    }
    if (status == WEIR_OK)
        status = weir_comm_create(ctx, boot, NULL, &comm);
    for (int i = 0; status == WEIR_OK && i < 4; i++)
        values[i] = (float)(weir_comm_rank(comm) * 10 + i);
    if (status == WEIR_OK)
        status = weir_allreduce(comm, values, values, 4, WEIR_F32, WEIR_SUM);
    if (status == WEIR_OK)
        printf("%g %g %g %g\n", values[0], values[1], values[2], values[3]);
    else
        fprintf(stderr, "%s\n", weir_last_error());
    weir_comm_destroy(comm);
    weir_ctx_destroy(ctx);
    weir_boot_destroy(boot);
    return status != WEIR_OK;
}
