/* How values that have a form are read; see forms.h. */
#include "core/forms.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Decimal digits alone, at most `most`. */
static bool read_number(const char *text, unsigned long most, unsigned long *number)
{
    size_t len = strlen(text);
    if (len == 0 || len > 9 || strspn(text, "0123456789") != len)
        return false;
    *number = strtoul(text, NULL, 10);
    return *number <= most;
}

/* ---- Devices ----------------------------------------------------------------------------------------------------- */

/* An entry as name and port; false: it is neither. */
static bool read_device(const char *text, size_t len, struct wi_device_wish *wish)
{
    char entry[80];
    unsigned long port = 0;
    if (len == 0 || len >= sizeof(entry))
        return false;
    snprintf(entry, sizeof(entry), "%.*s", (int)len, text);
    char *colon = strrchr(entry, ':');
    if (colon && (!read_number(colon + 1, 255, &port) || port == 0))
        return false;
    size_t name_len = colon ? (size_t)(colon - entry) : len;
    if (name_len == 0 || name_len >= sizeof(wish->name))
        return false;
    entry[name_len] = '\0';
    snprintf(wish->name, sizeof(wish->name), "%s", entry);
    wish->port = (unsigned)port;
    return true;
}

static bool are_one(const struct wi_device_wish *a, const struct wi_device_wish *b)
{
    return strcmp(a->name, b->name) == 0 && (a->port == b->port || !a->port || !b->port);
}

const char *wi_read_devices(const char *text, struct wi_device_wish wishes[WI_DEVICES_MAX], unsigned *count)
{
    *count = 0;
    if (!text[0]) {
        wishes[(*count)++] = (struct wi_device_wish){.port = 0};
        return NULL;
    }
    for (const char *at = text;; at++) {
        size_t len = strcspn(at, ",");
        if (*count == WI_DEVICES_MAX)
            return "too many; at most 4 devices can be used at once";
        struct wi_device_wish *wish = &wishes[(*count)++];
        if (!read_device(at, len, wish))
            return "not devices and ports; use e.g. mlx5_0:1 or mlx5_0:1,mlx5_1:1";
        for (unsigned i = 0; i + 1 < *count; i++)
            if (are_one(&wishes[i], wish))
                return "a device is named twice; name each port once, e.g. mlx5_0:1,mlx5_1:1";
        at += len;
        if (!*at)
            return NULL;
    }
}
_Static_assert(WI_DEVICES_MAX == 4, "a sentence says so");

/* ---- NUMA nodes -------------------------------------------------------------------------------------------------- */

const char *wi_read_numa(const char *text, int *node)
{
    unsigned long number;
    bool known = true;
    if (strcmp(text, "auto") == 0)
        *node = WI_NUMA_AUTO;
    else if (strcmp(text, "off") == 0)
        *node = WI_NUMA_OFF;
    else if ((known = read_number(text, WI_NUMA_NODES_MAX - 1, &number)))
        *node = (int)number;
    return known ? NULL : "not a choice; use auto, off or the number of a node";
}

/* ---- Addresses --------------------------------------------------------------------------------------------------- */

socklen_t wi_read_address(const char *text, struct sockaddr_storage *address)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
    memset(address, 0, sizeof(*address));
    if (inet_pton(AF_INET, text, &in.sin_addr) == 1) {
        memcpy(address, &in, sizeof(in));
        return sizeof(in);
    }
    if (inet_pton(AF_INET6, text, &in6.sin6_addr) == 1) {
        memcpy(address, &in6, sizeof(in6));
        return sizeof(in6);
    }
    return 0;
}

const char *wi_read_place(const char *text, struct sockaddr_storage *address, uint16_t *port)
{
    static const char complaint[] = "not a place to listen; use e.g. 9400, 0.0.0.0:9400 or [::]:9400";
    char host[64] = "127.0.0.1";
    unsigned long number;
    const char *colon = strrchr(text, ':');
    size_t len = colon ? (size_t)(colon - text) : 0;
    bool bracketed = len > 2 && text[0] == '[' && text[len - 1] == ']';
    if (!read_number(colon ? colon + 1 : text, 65535, &number) || len >= sizeof(host))
        return complaint;
    if (colon)
        snprintf(host, sizeof(host), "%.*s", (int)len - (bracketed ? 2 : 0), text + bracketed);
    *port = (uint16_t)number;
    bool good = wi_read_address(host, address) > 0 && (address->ss_family == AF_INET6) == bracketed;
    return good ? NULL : complaint;
}

/* ---- For the table ----------------------------------------------------------------------------------------------- */

const char *wi_check_devices(const char *text)
{
    struct wi_device_wish wishes[WI_DEVICES_MAX];
    unsigned count;
    return wi_read_devices(text, wishes, &count);
}

const char *wi_check_numa(const char *text)
{
    int node;
    return wi_read_numa(text, &node);
}

const char *wi_check_place(const char *text)
{
    struct sockaddr_storage address;
    uint16_t port;
    return wi_read_place(text, &address, &port);
}

/* What the kernel takes for a name; colons stand in the labels of addresses. */
const char *wi_check_interface(const char *text)
{
    struct sockaddr_storage address;
    bool name = strlen(text) < IF_NAMESIZE && !strpbrk(text, "/ \t\n");
    return name || wi_read_address(text, &address) > 0
               ? NULL
               : "neither the name of an interface nor a numeric address; use e.g. eth0 or 192.168.1.7";
}
