/*
 * Preloaded in front of libibverbs: tells which service level a queue pair is asked to use. Soft-RoCE keeps none, so
 * that asking the device for it (ibv_query_qp) would say nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <unistd.h>

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
    static int (*real)(struct ibv_qp *, struct ibv_qp_attr *, int);
    if (!real)
        real = (int (*)(struct ibv_qp *, struct ibv_qp_attr *, int))dlvsym(RTLD_NEXT, "ibv_modify_qp", "IBVERBS_1.1");
    if (mask & IBV_QP_AV)
        fprintf(stderr, "queue pair %u asked for service level %u\n", qp->qp_num, attr->ah_attr.sl);
    return real ? real(qp, attr, mask) : -1;
}
