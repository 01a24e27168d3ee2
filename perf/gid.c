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

/* A port of a device. */
struct port {
    char device[64];
    unsigned number;
};

/* The one line of a file of the port's folder, without its end; false: there is none. */
static bool read_port(const struct port *port, const char *file, char line[64])
{
    char path[256];
    snprintf(path, sizeof(path), "/sys/class/infiniband/%s/ports/%u/%s", port->device, port->number, file);
    FILE *in = fopen(path, "re");
    bool read = in && fgets(line, 64, in);
    if (in)
        fclose(in);
    if (read)
        line[strcspn(line, "\n")] = '\0';
    return read;
}

/* "mlx5_0" or "mlx5_0:1", one device. */
static bool parse_port(const char *text, struct port *port)
{
    char rest;
    port->number = 1;
    if (strchr(text, ',') || strchr(text, '/'))
        return false;
    int fields = sscanf(text, "%63[^:]:%u%c", port->device, &port->number, &rest);
    return fields == 1 || fields == 2;
}

/* The address as WEIR_INTERFACE takes it. */
static int address_of(const struct port *port, size_t index, char address[INET6_ADDRSTRLEN])
{
    struct in6_addr gid;
    char line[64], gids[48], types[48];
    const char *device = port->device;
    unsigned number = port->number;
    snprintf(gids, sizeof(gids), "gids/%zu", index);
    snprintf(types, sizeof(types), "gid_attrs/types/%zu", index);
    if (read_port(port, "link_layer", line) && strcmp(line, "Ethernet") != 0)
        return no(index, "%s:%u is an %s port, and only RoCE has GIDs to choose from", device, number, line);
    if (!read_port(port, gids, line) || inet_pton(AF_INET6, line, &gid) != 1)
        return no(index, "%s:%u has no such GID; `weir info` lists them", device, number);
    if (IN6_IS_ADDR_UNSPECIFIED(&gid) || !read_port(port, types, line))
        return no(index, "this entry of %s:%u is empty; `weir info` lists the GIDs", device, number);
    if (strcmp(line, "RoCE v2") != 0)
        return no(index, "this GID of %s:%u is of %s; take that of RoCE v2 with the same address", device, number, line);
    if (IN6_IS_ADDR_LINKLOCAL(&gid))
        return no(index, "this GID of %s:%u is link-local; take one with an IP address (`weir info` marks them)", device, number);
    if (IN6_IS_ADDR_V4MAPPED(&gid))
        inet_ntop(AF_INET, &gid.s6_addr[12], address, INET6_ADDRSTRLEN);
    else
        inet_ntop(AF_INET6, &gid, address, INET6_ADDRSTRLEN);
    return 0;
}

int choose_gid(const char *text, size_t index)
{
    char address[INET6_ADDRSTRLEN];
    struct port port;
    text = text ? text : getenv("WEIR_DEVICE");
    if (!text || !text[0])
        return no(index, "name the GID's device, too: -d mlx5_0:1");
    if (!parse_port(text, &port))
        return no(index, "it goes with one device, such as mlx5_0:1, not with %s", text);
    int result = address_of(&port, index, address);
    if (result == 0 && setenv("WEIR_INTERFACE", address, 1))
        return no(index, "out of memory");
    return result;
}
