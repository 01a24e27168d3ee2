#include "dcb.h"

#include <errno.h>
#include <linux/dcbnl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

struct request {
    struct nlmsghdr header;
    struct dcbmsg dcb;
    struct rtattr attribute;
    char interface[16];
};

/* The attribute of that type among `len` bytes of them, or NULL. */
static const struct rtattr *find(const struct rtattr *attribute, size_t len, unsigned type)
{
    while (len >= sizeof(*attribute) && attribute->rta_len >= sizeof(*attribute) && attribute->rta_len <= len) {
        if ((attribute->rta_type & NLA_TYPE_MASK) == type)
            return attribute;
        size_t step = RTA_ALIGN(attribute->rta_len);
        if (step >= len)
            break;
        attribute = (const struct rtattr *)(const void *)((const char *)attribute + step);
        len -= step;
    }
    return NULL;
}

static const struct rtattr *find_within(const struct rtattr *outer, unsigned type)
{
    return outer ? find(RTA_DATA(outer), RTA_PAYLOAD(outer), type) : NULL;
}

bool dcb_parse_pfc(const void *reply, size_t len, unsigned *priorities)
{
    const struct nlmsghdr *header = reply;
    size_t skip = NLMSG_LENGTH(NLMSG_ALIGN(sizeof(struct dcbmsg)));
    errno = EPROTO;
    if (len < sizeof(*header) || header->nlmsg_len < sizeof(*header) || header->nlmsg_len > len)
        return false;
    if (header->nlmsg_type == NLMSG_ERROR && header->nlmsg_len >= NLMSG_LENGTH(sizeof(struct nlmsgerr))) {
        int error = -((const struct nlmsgerr *)NLMSG_DATA(header))->error;
        errno = error > 0 ? error : EPROTO;
        return false;
    }
    if (header->nlmsg_len < skip)
        return false;
    const struct rtattr *first = (const struct rtattr *)(const void *)((const char *)reply + skip);
    const struct rtattr *pfc = find_within(find(first, header->nlmsg_len - skip, DCB_ATTR_IEEE), DCB_ATTR_IEEE_PFC);
    if (!pfc || RTA_PAYLOAD(pfc) < offsetof(struct ieee_pfc, mbc)) {
        errno = EOPNOTSUPP;
        return false;
    }
    *priorities = ((const struct ieee_pfc *)RTA_DATA(pfc))->pfc_en;
    return true;
}

bool dcb_read_pfc(const char *interface, unsigned *priorities)
{
    char reply[8192] __attribute__((aligned(8)));
    struct timeval bound = {.tv_sec = 1};
    struct request request = {
        .header = {.nlmsg_len = sizeof(request), .nlmsg_type = RTM_GETDCB, .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = 1},
        .dcb = {.dcb_family = AF_UNSPEC, .cmd = DCB_CMD_IEEE_GET},
        .attribute = {.rta_type = DCB_ATTR_IFNAME, .rta_len = RTA_LENGTH(sizeof(request.interface))},
    };
    snprintf(request.interface, sizeof(request.interface), "%s", interface);
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0)
        return false;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
    ssize_t got = send(fd, &request, sizeof(request), 0) == (ssize_t)sizeof(request) ? recv(fd, reply, sizeof(reply), 0) : -1;
    int error = errno;
    close(fd);
    errno = error;
    return got >= 0 && dcb_parse_pfc(reply, (size_t)got, priorities);
}
