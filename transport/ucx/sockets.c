/* UCX keeps its sockets to itself. They are descriptors of this process all the same, and can be told by what they are. */
#include "transport/ucx/ucx.h"

#include <arpa/inet.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

enum { BATCH = 64 };

/* No descriptor has this number or a higher one. Where none is left to open the file: what the limit allows. */
static int descriptors_end(void)
{
    char line[128];
    int end = 0;
    struct rlimit limit;
    FILE *status = fopen("/proc/self/status", "re");
    while (status && end == 0 && fgets(line, sizeof(line), status))
        if (sscanf(line, "FDSize: %d", &end) != 1)
            end = 0;
    if (status)
        fclose(status);
    if (end == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0)
        end = limit.rlim_cur < INT_MAX - BATCH ? (int)limit.rlim_cur : INT_MAX - BATCH;
    return end;
}

/* One call of the system for many: with thousands of connections a listing of /proc/self/fd takes ten times as long. */
void wi_ucx_descriptors(void (*each)(int fd, void *arg), void *arg)
{
    struct pollfd fds[BATCH];
    int end = descriptors_end();
    for (int first = 0; first < end; first += BATCH) {
        for (int i = 0; i < BATCH; i++)
            fds[i] = (struct pollfd){.fd = first + i};
        if (poll(fds, BATCH, 0) < 0)
            continue;
        for (int i = 0; i < BATCH; i++)
            if (!(fds[i].revents & POLLNVAL))
                each(fds[i].fd, arg);
    }
}

uint16_t wi_ucx_port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);
    in_port_t port;
    if (getsockname(fd, (struct sockaddr *)&address, &len) != 0 ||
        (address.ss_family != AF_INET && address.ss_family != AF_INET6))
        return 0;
    memcpy(&port, (const char *)&address + offsetof(struct sockaddr_in, sin_port), sizeof(port)); /* IPv6: same place */
    return ntohs(port);
}

bool wi_ucx_listens(int fd)
{
    int listens = 0;
    socklen_t size = sizeof(listens);
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens;
}
