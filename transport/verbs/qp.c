/*
 * The attributes of a queue pair: the path that the connection manager found, and over it what the user has set
 * (traffic class, service level, timeout, retries). An InfiniBand path's own service level holds where WEIR_SL does not
 * say another.
 */
#include "core/config.h"
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

enum {
    RNR_TIMER = 12, /* 0.64 ms until the next try of a target that had no receive */
    ACK_TIMEOUT_UNIT_NS = 4096,
    ACK_TIMEOUT_MIN = 8, /* what is derived lies between these exponents: 1 ms and 268 ms */
    ACK_TIMEOUT_MAX = 16,
    ACK_TIMEOUT_LIMIT = 31, /* what the field holds */
};

/* Time until a packet is sent again, as exponent. Unless it is set, all tries take a quarter of WEIR_TIMEOUT at most.
 */
static uint8_t ack_timeout(const struct wi_config *config)
{
    uint8_t exponent = ACK_TIMEOUT_MIN;
    if (config->verbs_ack_timeout_ns) {
        for (exponent = 1; exponent < ACK_TIMEOUT_LIMIT; exponent++)
            if ((uint64_t)ACK_TIMEOUT_UNIT_NS << exponent >= config->verbs_ack_timeout_ns)
                break;
        return exponent;
    }
    uint64_t budget_ns = config->timeout_ns / 4 / ((uint64_t)config->verbs_retry + 1);
    while (exponent < ACK_TIMEOUT_MAX && (uint64_t)ACK_TIMEOUT_UNIT_NS << (exponent + 1) <= budget_ns)
        exponent++;
    return exponent;
}

/* What the connection manager proposes, changed to what is wanted. */
static void settle(const struct verbs_iface *iface, struct ibv_qp_attr *attr, unsigned access)
{
    const struct wi_config *config = wi_config();
    if (iface->device.mtu < attr->path_mtu)
        attr->path_mtu = iface->device.mtu;
    if (attr->qp_state == IBV_QPS_INIT)
        attr->qp_access_flags = access;
    if (config->traffic_class >= 0)
        attr->ah_attr.grh.traffic_class = (uint8_t)config->traffic_class;
    if (config->service_level >= 0)
        attr->ah_attr.sl = (uint8_t)config->service_level;
    attr->min_rnr_timer = RNR_TIMER;
    attr->timeout = ack_timeout(config);
    attr->retry_cnt = (uint8_t)config->verbs_retry;
    attr->rnr_retry = (uint8_t)config->verbs_rnr_retry;
}

/* What the device has made of it, for those who look for it. */
static void tell(const struct verbs_iface *iface, struct ibv_qp *qp, const char *what, uint64_t peer_id)
{
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    union ibv_gid gid = {.raw = {0}};
    char text[INET6_ADDRSTRLEN];
    int mask = IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY;
    if (__atomic_load_n(&wi_log_level, __ATOMIC_RELAXED) < WI_LOG_DEBUG || ibv_query_qp(qp, &attr, mask, &init))
        return;
    ibv_query_gid(qp->context, iface->choice.port, attr.ah_attr.grh.sgid_index, &gid);
    wi_debug(
        "verbs: %s rank %llu, %s, queue pair %u: path MTU %u, GID %u (%s), traffic class %u, service level %u, ack "
        "timeout %.3g ms, retries %u, RNR retries %u",
        what, (unsigned long long)peer_id, iface->base.device, qp->qp_num, 128u << attr.path_mtu,
        attr.ah_attr.grh.sgid_index, inet_ntop(AF_INET6, gid.raw, text, sizeof(text)), attr.ah_attr.grh.traffic_class,
        attr.ah_attr.sl, (double)((uint64_t)ACK_TIMEOUT_UNIT_NS << attr.timeout) / 1e6, attr.retry_cnt, attr.rnr_retry);
}

weir_status wi_verbs_qp_up(struct verbs_iface *iface, struct verbs_end *end, unsigned access, uint64_t peer_id)
{
    static const enum ibv_qp_state states[] = {IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS};
    for (size_t i = 0; i < 3; i++) {
        struct ibv_qp_attr attr = {.qp_state = states[i]};
        int mask = 0, error = rdma_init_qp_attr(end->id, &attr, &mask) ? errno : 0;
        settle(iface, &attr, access);
        if (!error)
            error = ibv_modify_qp(end->qp, &attr, mask);
        if (error)
            return wi_error(WEIR_ERR_IO, "%s: a queue pair cannot be set up: %s", iface->base.device, strerror(error));
    }
    tell(iface, end->qp, end->kind == VERBS_EP ? "connection to" : "connection from", peer_id);
    return WEIR_OK;
}
