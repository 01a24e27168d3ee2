#include "break.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/socket.h>

static bool is_connected(int fd)
{
    struct sockaddr_storage peer;
    socklen_t len = sizeof(peer);
    return getpeername(fd, (struct sockaddr *)&peer, &len) == 0 &&
           (peer.ss_family == AF_INET || peer.ss_family == AF_INET6);
}

void break_sockets(void)
{
    DIR *folder = opendir("/proc/self/fd");
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (entry->d_name[0] != '.' && is_connected(atoi(entry->d_name)))
            shutdown(atoi(entry->d_name), SHUT_RDWR);
    if (folder)
        closedir(folder);
}

void break_connection(weir_ep *ep)
{
    if (transport_is("verbs"))
        break_queue_pair(ep);
    else
        break_sockets();
}
