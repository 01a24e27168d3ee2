/*
 * Strangers at UCX's TCP ports. UCX asks nobody who he is, and keeps whoever connects and says less than it waits for.
 *
 * The listener's connections begin with a length and a status, 16 bytes, and UCX 1.13 aborts the process when more arrives
 * than these announced (uct_tcp_sockcm_ep_recv()): 17 zeros of a port scanner are enough. A peer's UCX sends each such
 * message at once, 63 bytes and later 16, so it comes in one segment. The kernel is told to drop all segments that hold
 * anything else: by a filter of the listener, which the connections that it accepts inherit. (The transport's own ports
 * begin with a magic number, and UCX closes where it is wrong.)
 *
 * Then all who do not speak UCX's protocols have got through less than 16 bytes, which the kernel counts. Such connections are
 * ended: when they are as old as WEIR_TIMEOUT, and nearly at once where the process has used up half of its descriptors.
 */
#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "transport/ucx/ucx.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    HEAD = 16,      /* bytes of a message's length and status */
    PAUSE_MS = 100, /* between two looks, at least, */
    PAUSE_SHARE = 20, /* and so many times what a look has taken */
    YOUNG_MS = 100, /* a peer's first words are under way for less, mostly; else it connects again */
    TCP_IS_ESTABLISHED = 1,
};

/* ---- The listener's filter ---- */

/* Accepts segments without data, and those whose data are HEAD bytes and as many more as the first 8, a length, say. */
static const struct sock_filter whole_messages[] = {
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 12), /* X: length of the TCP header, which the kernel lets the filter begin with */
    BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 2),
    BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x3c),
    BPF_STMT(BPF_MISC | BPF_TAX, 0),
    BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), /* A: bytes of data */
    BPF_STMT(BPF_ALU | BPF_SUB | BPF_X, 0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 16, 0),
    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, HEAD, 0, 14),
    BPF_STMT(BPF_ALU | BPF_SUB | BPF_K, HEAD), /* M[0]: what the length has to be */
    BPF_STMT(BPF_ST, 0),
    BPF_STMT(BPF_LD | BPF_W | BPF_IND, 4), /* its bytes from the third on: 0 */
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 10),
    BPF_STMT(BPF_LD | BPF_H | BPF_IND, 2),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 8),
    BPF_STMT(BPF_LD | BPF_B | BPF_IND, 1), /* A: the first two */
    BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 8),
    BPF_STMT(BPF_ST, 1),
    BPF_STMT(BPF_LD | BPF_B | BPF_IND, 0),
    BPF_STMT(BPF_LDX | BPF_W | BPF_MEM, 1),
    BPF_STMT(BPF_ALU | BPF_OR | BPF_X, 0),
    BPF_STMT(BPF_LDX | BPF_W | BPF_MEM, 0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_X, 0, 1, 0),
    BPF_STMT(BPF_RET | BPF_K, 0),
    BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
};

static void guard_listener(int fd, void *arg)
{
    const struct wi_ucx_iface *iface = arg;
    struct sock_fprog program = {
        .len = sizeof(whole_messages) / sizeof(whole_messages[0]),
        .filter = (struct sock_filter *)(uintptr_t)whole_messages,
    };
    if (wi_ucx_port_of(fd) == iface->port && wi_ucx_listens(fd) &&
        setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) != 0)
        wi_info("UCX: its listener takes no filter, so strangers can do harm");
}

void wi_ucx_strangers_guard(struct wi_ucx_iface *iface)
{
    if (wi_ucx_inside_known())
        wi_ucx_descriptors(guard_listener, iface);
}

/* ---- Those who say nothing ---- */

struct look {
    struct wi_ucx_iface *iface;
    uint32_t age_ms;
    unsigned ended;
};

static void end_silent(int fd, void *arg)
{
    struct look *look = arg;
    struct tcp_info info = {0};
    socklen_t size = sizeof(info);
    uint16_t port = wi_ucx_port_of(fd);
    if (port == 0 || (port != look->iface->port && !wi_ucx_has_port(&look->iface->ports, port)) ||
        getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 ||
        size < offsetof(struct tcp_info, tcpi_bytes_received) + sizeof(info.tcpi_bytes_received))
        return;
    if (info.tcpi_state == TCP_IS_ESTABLISHED && info.tcpi_bytes_received < HEAD && info.tcpi_last_data_recv > look->age_ms)
        look->ended += shutdown(fd, SHUT_RDWR) == 0; /* UCX sees its end, and closes it */
}

/* Are half of the descriptors that the process may have in use? All below the lowest free one are. */
static bool descriptors_are_short(const struct wi_ucx_iface *iface)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return false;
    int lowest = fcntl(iface->event_fd, F_DUPFD_CLOEXEC, 0);
    if (lowest >= 0)
        close(lowest);
    return lowest < 0 || (rlim_t)lowest >= limit.rlim_cur / 2;
}

void wi_ucx_strangers_watch(struct wi_ucx_iface *iface)
{
    uint64_t now_ns = wi_now_ns(), timeout_ns = wi_config()->timeout_ns;
    if (now_ns < iface->strangers_next_ns)
        return;
    iface->strangers_next_ns = now_ns + PAUSE_MS * WI_NS_PER_MS;
    bool are_short = descriptors_are_short(iface);
    if (!are_short && now_ns - iface->strangers_ns < timeout_ns / 2)
        return;
    struct look look = {.iface = iface, .age_ms = are_short ? YOUNG_MS : (uint32_t)(timeout_ns / WI_NS_PER_MS)};
    wi_ucx_descriptors(end_silent, &look);
    iface->strangers_ns = wi_now_ns();
    uint64_t taken_ns = iface->strangers_ns - now_ns;
    if (taken_ns * PAUSE_SHARE > PAUSE_MS * WI_NS_PER_MS)
        iface->strangers_next_ns = now_ns + taken_ns * PAUSE_SHARE;
    if (look.ended > 0)
        wi_info("UCX: ended %u connections of strangers, who have said nothing that UCX understands", look.ended);
}
