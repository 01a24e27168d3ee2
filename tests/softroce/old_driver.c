/* Preloaded: takes from the devices that are opened what older drivers do not have, the queue pairs of ibv_wr_*. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <infiniband/verbs.h>

struct ibv_context *ibv_open_device(struct ibv_device *device)
{
    static struct ibv_context *(*real)(struct ibv_device *);
    if (!real)
        real = (struct ibv_context * (*)(struct ibv_device *)) dlvsym(RTLD_NEXT, "ibv_open_device", "IBVERBS_1.1");
    struct ibv_context *context = real ? real(device) : NULL;
    struct verbs_context *more = context ? verbs_get_ctx(context) : NULL;
    if (more)
        more->create_qp_ex = NULL;
    return context;
}
