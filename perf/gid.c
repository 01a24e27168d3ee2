/*
 * -x: the index of a GID, as perftest has it. Weir takes the GID of the address that it is bound to, so the index is
 * turned into that address: a RoCE v2 GID is an IP address of the port's network interface (InfiniBand Architecture
 * Specification, annex A17). Each host looks into its own table.
 */
#include "perf.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int __attribute__((format(printf, 2, 3))) no(size_t index, const char *format, ...)
{
    va_list arguments;
    fprintf(stderr, "weir_perf: -x %zu: ", index);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return 2;
}

/* The one line of a file of the port's folder, without its end; false: there is none. */
static bool read_port(const char *device, unsigned port, const char *file, size_t index, char line[64])
{
    char path[256];
    snprintf(path, sizeof(path), "/sys/class/infiniband/%s/ports/%u/%s", device, port, file);
    if (strchr(file, '/') || strcmp(file, "gids") == 0)
        snprintf(path + strlen(path), sizeof(path) - strlen(path), "/%zu", index);
    FILE *in = fopen(path, "re");
    bool read = in && fgets(line, 64, in);
    if (in)
        fclose(in);
    if (read)
        line[strcspn(line, "\n")] = '\0';
    return read;
}

/* "mlx5_0" or "mlx5_0:1", one device. */
static bool parse_device(const char *text, char device[64], unsigned *port)
{
    char rest;
    *port = 1;
    if (strchr(text, ',') || strchr(text, '/'))
        return false;
    int fields = sscanf(text, "%63[^:]:%u%c", device, port, &rest);
    return fields == 1 || fields == 2;
}

/* The address as WEIR_INTERFACE takes it. */
static int address_of(const char *device, unsigned port, size_t index, char address[INET6_ADDRSTRLEN])
{
    struct in6_addr gid;
    char line[64];
    if (read_port(device, port, "link_layer", 0, line) && strcmp(line, "Ethernet") != 0)
        return no(index, "%s:%u is an %s port, and only RoCE has GIDs to choose from", device, port, line);
    if (!read_port(device, port, "gids", index, line) || inet_pton(AF_INET6, line, &gid) != 1)
        return no(index, "%s:%u has no such GID; `weir info` lists them", device, port);
    if (IN6_IS_ADDR_UNSPECIFIED(&gid) || !read_port(device, port, "gid_attrs/types", index, line))
        return no(index, "this entry of %s:%u is empty; `weir info` lists the GIDs", device, port);
    if (strcmp(line, "RoCE v2") != 0)
        return no(index, "this GID of %s:%u is of %s; take that of RoCE v2 with the same address", device, port, line);
    if (IN6_IS_ADDR_LINKLOCAL(&gid))
        return no(index, "this GID of %s:%u is link-local; take one with an IP address (`weir info` marks them)", device, port);
    if (IN6_IS_ADDR_V4MAPPED(&gid))
        inet_ntop(AF_INET, &gid.s6_addr[12], address, INET6_ADDRSTRLEN);
    else
        inet_ntop(AF_INET6, &gid, address, INET6_ADDRSTRLEN);
    return 0;
}

int choose_gid(const char *text, size_t index)
{
    char device[64], address[INET6_ADDRSTRLEN];
    unsigned port;
    text = text ? text : getenv("WEIR_DEVICE");
    if (!text || !text[0])
        return no(index, "name the GID's device, too: -d mlx5_0:1");
    if (!parse_device(text, device, &port))
        return no(index, "it goes with one device, such as mlx5_0:1, not with %s", text);
    int result = address_of(device, port, index, address);
    if (result == 0 && setenv("WEIR_INTERFACE", address, 1))
        return no(index, "out of memory");
    return result;
}
