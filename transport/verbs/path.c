/* The way a connection takes, in words, asked of the device: what was chosen may differ from what one expects. */
#include "transport/verbs/verbs.h"

#include <arpa/inet.h>
#include <stdio.h>

static void gid_text(const union ibv_gid *gid, char text[INET6_ADDRSTRLEN])
{
    bool v4 = IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)gid->raw);
    if (!inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? gid->raw + 12 : gid->raw, text, INET6_ADDRSTRLEN))
        text[0] = '\0';
}

void wi_verbs_ep_path(const struct weir_ep *base, char *text, size_t size)
{
    const struct verbs_ep *ep = (const struct verbs_ep *)base;
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    union ibv_gid gid;
    char way[INET6_ADDRSTRLEN + 16] = "", address[INET6_ADDRSTRLEN];
    if (!ep->end.qp || ibv_query_qp(ep->end.qp, &attr, IBV_QP_AV | IBV_QP_PATH_MTU, &init) != 0) {
        snprintf(text, size, "%s", base->iface->device);
        return;
    }
    const struct ibv_ah_attr *to = &attr.ah_attr;
    const char *device = ibv_get_device_name(ep->end.qp->context->device);
    if (to->is_global && ibv_query_gid(ep->end.qp->context, to->port_num, to->grh.sgid_index, &gid) == 0) {
        gid_text(&gid, address);
        snprintf(way, sizeof(way), "GID %u %s", to->grh.sgid_index, address);
    } else {
        snprintf(way, sizeof(way), "to LID %u", to->dlid);
    }
    snprintf(text, size, "%s:%u, %s, MTU %u", device, to->port_num, way, 128u << attr.path_mtu);
}
