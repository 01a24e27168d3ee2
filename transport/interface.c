/* WEIR_INTERFACE: the name of a network interface, or a numeric address, as the numeric address to listen on. */
#include "core/error.h"
#include "core/forms.h"
#include "transport/context.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Would this host listen on it? 0 or an errno. Asked of the kernel, which may be told to allow more than what is there. */
static int try_address(const struct sockaddr_storage *address, socklen_t len)
{
    int fd = socket(address->ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    int error = bind(fd, (const struct sockaddr *)address, len) == 0 ? 0 : errno;
    close(fd);
    return error;
}

/* How much we would like to listen on this: IPv4 before global IPv6; link-local addresses mean nothing to peers. */
static int rank_of(const struct sockaddr *address)
{
    if (!address)
        return 0;
    if (address->sa_family == AF_INET)
        return 2;
    if (address->sa_family != AF_INET6)
        return 0;
    struct sockaddr_in6 in6;
    memcpy(&in6, address, sizeof(in6));
    return IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr) ? 0 : 1;
}

static void print_address(const struct sockaddr *address, char *text, size_t size)
{
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    if (address->sa_family == AF_INET) {
        memcpy(&in, address, sizeof(in));
        inet_ntop(AF_INET, &in.sin_addr, text, (socklen_t)size);
    } else {
        memcpy(&in6, address, sizeof(in6));
        inet_ntop(AF_INET6, &in6.sin6_addr, text, (socklen_t)size);
    }
}

/* Notes an interface's name once, for the error that there is none such. */
static void add_name(char *names, size_t size, const char *name)
{
    char word[IF_NAMESIZE + 2];
    snprintf(word, sizeof(word), " %s", name);
    size_t len = strlen(names), word_len = strlen(word);
    bool is_last = len >= word_len && strcmp(names + len - word_len, word) == 0;
    if (!is_last && !strstr(names, word))
        snprintf(names + len, size - len, "%s", word);
}

static weir_status check_numeric(const char *text, const struct sockaddr_storage *address, socklen_t len)
{
    int error = try_address(address, len);
    if (error == EADDRNOTAVAIL)
        return wi_error(WEIR_ERR_CONFIG,
                        "WEIR_INTERFACE=%s: no interface of this host has this address (ip addr lists what they have); where "
                        "each host has another, give the interface's name",
                        text);
    if (error != 0)
        return wi_error(WEIR_ERR_CONFIG, "WEIR_INTERFACE=%s: this host cannot listen there: %s", text, strerror(error));
    return WEIR_OK;
}

weir_status wi_interface_address(const char *text, char *address, size_t size)
{
    struct sockaddr_storage numeric = {0};
    socklen_t numeric_len = wi_read_address(text, &numeric);
    struct ifaddrs *all;
    char names[512] = "";
    int best = 0;
    bool found = false;
    if (numeric_len > 0) {
        snprintf(address, size, "%s", text);
        return check_numeric(text, &numeric, numeric_len);
    }
    if (getifaddrs(&all) != 0)
        return wi_error(WEIR_ERR_IO, "WEIR_INTERFACE=%s: listing the interfaces: %s", text, strerror(errno));
    for (const struct ifaddrs *one = all; one; one = one->ifa_next) {
        add_name(names, sizeof(names), one->ifa_name);
        if (strcmp(one->ifa_name, text) != 0)
            continue;
        found = true;
        if (rank_of(one->ifa_addr) > best) {
            best = rank_of(one->ifa_addr);
            print_address(one->ifa_addr, address, size);
        }
    }
    freeifaddrs(all);
    if (!found)
        return wi_error(WEIR_ERR_CONFIG, "WEIR_INTERFACE=%s: there is no such interface; there are%s", text, names);
    if (best == 0)
        return wi_error(WEIR_ERR_CONFIG, "WEIR_INTERFACE=%s: it has no IP address but link-local ones; give it one",
                        text);
    return WEIR_OK;
}
