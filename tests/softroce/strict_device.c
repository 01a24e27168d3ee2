/* Preloaded: soft-RoCE says that it is another vendor's, so that what it needs care for is not done, as with adapters. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <infiniband/verbs.h>

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
    static int (*real)(struct ibv_context *, struct ibv_device_attr *);
    if (!real)
        real = (int (*)(struct ibv_context *, struct ibv_device_attr *))dlvsym(RTLD_NEXT, "ibv_query_device", "IBVERBS_1.1");
    int error = real ? real(context, attr) : -1;
    attr->vendor_id = 1;
    return error;
}
