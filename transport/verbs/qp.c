/*
 * The attributes of a queue pair: the path that the connection manager found, or both sides told each other, and over it
 * what the user has set (traffic class, service level, timeout, retries). An InfiniBand path's own service level holds where WEIR_SL does not
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

/* Time until a packet is sent again, as exponent. Unless it is set, all tries take a
 * quarter of WEIR_TIMEOUT at most. */
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

/* What the connection manager proposes, changed to what is wanted. Packets are no longer than either port takes. */
static void settle(const struct verbs_iface *iface, struct ibv_qp_attr *attr, unsigned access, uint32_t peer_mtu)
{
    const struct wi_config *config = wi_config();
    if (iface->device.mtu < attr->path_mtu)
        attr->path_mtu = iface->device.mtu;
    if (peer_mtu > 0 && peer_mtu < attr->path_mtu)
        attr->path_mtu = (enum ibv_mtu)peer_mtu;
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

/* ---- Without the connection manager ---- */

static bool carries(const union ibv_gid *gid, const struct sockaddr *ip)
{
    const struct in6_addr *in6 = (const void *)gid->raw;
    if (ip->sa_family == AF_INET)
        return IN6_IS_ADDR_V4MAPPED(in6) &&
               memcmp(gid->raw + 12, &((const struct sockaddr_in *)(const void *)ip)->sin_addr, 4) == 0;
    return memcmp(gid->raw, &((const struct sockaddr_in6 *)(const void *)ip)->sin6_addr, 16) == 0;
}

/* The index of a RoCE v2 GID that carries the address; -1: none does. */
static int gid_index(const struct verbs_iface *iface, int length, const struct sockaddr *ip)
{
    for (int i = 0; i < length; i++) {
        struct ibv_gid_entry entry;
        if (ibv_query_gid_ex(iface->device.context, iface->choice.port, (uint32_t)i, &entry, 0) == 0 &&
            entry.gid_type == IBV_GID_TYPE_ROCE_V2 && carries(&entry.gid, ip))
            return i;
    }
    return -1;
}

/* InfiniBand: the port's first GID. RoCE: the first address, of the family of `like`, that has one. */
static weir_status find_gid(const struct verbs_iface *iface, const struct wi_verbs_path *like, struct ibv_port_attr *port,
                            int *index)
{
    int error = ibv_query_port(iface->device.context, iface->choice.port, port);
    if (error)
        return wi_error(WEIR_ERR_IO, "%s: the port cannot be queried: %s", iface->base.device, strerror(error));
    *index = port->link_layer == IBV_LINK_LAYER_ETHERNET ? -1 : 0;
    for (unsigned i = 0; i < iface->choice.address.count && *index < 0; i++) {
        const struct sockaddr *ip = &iface->choice.address.ip[i].any;
        bool v4 = like && IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)like->gid);
        if (!like || v4 == (ip->sa_family == AF_INET))
            *index = gid_index(iface, port->gid_tbl_len, ip);
    }
    if (*index < 0)
        return wi_error(WEIR_ERR_PEER_UNREACHABLE, "%s: no RoCE v2 GID carries an address of its network interface%s",
                        iface->base.device, like ? " of the peer's address family" : "");
    return WEIR_OK;
}

weir_status wi_verbs_own_gid(const struct verbs_iface *iface, const struct wi_verbs_path *like,
                             struct wi_verbs_path *path)
{
    struct ibv_port_attr port;
    union ibv_gid gid;
    int index;
    weir_status status = find_gid(iface, like, &port, &index);
    if (status != WEIR_OK)
        return status;
    if (ibv_query_gid(iface->device.context, iface->choice.port, index, &gid))
        return wi_error(WEIR_ERR_IO, "%s: GID %d cannot be read: %s", iface->base.device, index, strerror(errno));
    memcpy(path->gid, gid.raw, sizeof(path->gid));
    path->lid = port.lid;
    return WEIR_OK;
}

/* InfiniBand within one subnet needs no global header. */
static weir_status way_to(const struct verbs_iface *iface, const struct wi_verbs_path *own,
                          const struct wi_verbs_path *peer, struct ibv_ah_attr *to)
{
    enum { HOPS = 64, SUBNET = 8 };
    struct ibv_port_attr port;
    int index;
    weir_status status = find_gid(iface, own, &port, &index);
    if (status != WEIR_OK)
        return status;
    bool ethernet = port.link_layer == IBV_LINK_LAYER_ETHERNET;
    *to = (struct ibv_ah_attr){.dlid = peer->lid, .port_num = iface->choice.port};
    to->is_global = ethernet || memcmp(own->gid, peer->gid, SUBNET) != 0;
    memcpy(to->grh.dgid.raw, peer->gid, sizeof(peer->gid));
    to->grh.sgid_index = (uint8_t)index;
    to->grh.hop_limit = HOPS;
    return WEIR_OK;
}

weir_status wi_verbs_qp_up_by_hand(struct verbs_iface *iface, struct verbs_end *end, unsigned access, uint64_t peer_id,
                                   const struct wi_verbs_path *own, const struct wi_verbs_path *peer)
{
    static const struct {
        enum ibv_qp_state state;
        int mask;
    } steps[] = {
        {IBV_QPS_INIT, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS},
        {IBV_QPS_RTR, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                          IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER},
        {IBV_QPS_RTS, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                          IBV_QP_MAX_QP_RD_ATOMIC},
    };
    bool target = end->kind == VERBS_LINK;
    struct ibv_ah_attr to;
    weir_status status = way_to(iface, own, peer, &to);
    for (size_t i = 0; i < 3 && status == WEIR_OK; i++) {
        struct ibv_qp_attr attr = {
            .qp_state = steps[i].state,
            .port_num = iface->choice.port,
            .ah_attr = to,
            .path_mtu = iface->device.mtu,
            .dest_qp_num = peer->qp_num,
            .rq_psn = peer->psn,
            .sq_psn = own->psn,
            .max_dest_rd_atomic = !target ? 0 : peer->reads < own->served ? peer->reads : own->served,
            .max_rd_atomic = target ? 0 : own->reads < peer->served ? own->reads : peer->served,
        };
        settle(iface, &attr, access, peer->mtu);
        int error = ibv_modify_qp(end->qp, &attr, steps[i].mask);
        if (error)
            status = wi_error(WEIR_ERR_IO, "%s: a queue pair cannot be set up: %s", iface->base.device, strerror(error));
        end->mtu = attr.path_mtu;
    }
    if (status == WEIR_OK)
        tell(iface, end->qp, target ? "connection from" : "connection to", peer_id);
    return status;
}

weir_status wi_verbs_qp_up(struct verbs_iface *iface, struct verbs_end *end, unsigned access, uint64_t peer_id,
                           uint32_t peer_mtu)
{
    static const enum ibv_qp_state states[] = {IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS};
    for (size_t i = 0; i < 3; i++) {
        struct ibv_qp_attr attr = {.qp_state = states[i]};
        int mask = 0, error = rdma_init_qp_attr(end->id, &attr, &mask) ? errno : 0;
        settle(iface, &attr, access, peer_mtu);
        if (!error)
            error = ibv_modify_qp(end->qp, &attr, mask);
        if (error)
            return wi_error(WEIR_ERR_IO, "%s: a queue pair cannot be set up: %s", iface->base.device, strerror(error));
        if (mask & IBV_QP_PATH_MTU)
            end->mtu = attr.path_mtu;
    }
    tell(iface, end->qp, end->kind == VERBS_EP ? "connection to" : "connection from", peer_id);
    return WEIR_OK;
}
