/*
 * NUMA placement by mbind(2). Pages are preferred on a node, not bound to it: on a node that is full, binding would have
 * the kernel end the process.
 */
#include "transport/numa.h"

#include "core/error.h"
#include "core/forms.h"
#include "core/log.h"

#include <errno.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WORD_BITS = 8 * sizeof(unsigned long) };

static bool node_exists(int node)
{
    char path[64];
    snprintf(path, sizeof(path), "/sys/devices/system/node/node%d", node);
    return access(path, F_OK) == 0;
}

/* Nodes need not be numbered without gaps. */
static bool has_several_nodes(void)
{
    char text[256] = "";
    FILE *file = fopen("/sys/devices/system/node/has_memory", "re");
    if (!file)
        return false;
    bool read = fgets(text, sizeof(text), file);
    fclose(file);
    return read && strpbrk(text, ",-");
}

/* The node that a device is attached to; WI_NODE_CALLER where the system does not tell. */
static int node_of_device(const char *device)
{
    char path[160];
    int node = -1;
    if (!device || !device[0])
        return WI_NODE_CALLER;
    snprintf(path, sizeof(path), "/sys/class/infiniband/%.*s/device/numa_node", (int)strcspn(device, ":,"), device);
    FILE *file = fopen(path, "re");
    if (!file)
        return WI_NODE_CALLER;
    if (fscanf(file, "%d", &node) != 1)
        node = -1;
    fclose(file);
    return node >= 0 ? node : WI_NODE_CALLER;
}

weir_status wi_numa_choose(const char *text, const char *device, int *node)
{
    int wanted;
    const char *complaint = wi_read_numa(text, &wanted);
    if (!complaint && wanted >= 0 && !node_exists(wanted))
        complaint = "there is no such node; see /sys/devices/system/node";
    *node = WI_NODE_ANY;
    if (complaint)
        return wi_error(WEIR_ERR_CONFIG, "WEIR_NUMA=%s: %s", text, complaint);
    if (wanted >= 0)
        *node = wanted;
    else if (wanted == WI_NUMA_AUTO && has_several_nodes())
        *node = node_of_device(device);
    return WEIR_OK;
}

int wi_numa_place(void *addr, size_t len, int node)
{
    unsigned cpu, here;
    unsigned long mask[WI_NUMA_NODES_MAX / WORD_BITS] = {0};
    if (node == WI_NODE_CALLER)
        node = getcpu(&cpu, &here) == 0 && here < WI_NUMA_NODES_MAX ? (int)here : WI_NODE_ANY;
    if (node < 0)
        return WI_NODE_ANY;
    mask[(size_t)node / WORD_BITS] = 1ul << ((size_t)node % WORD_BITS);
    if (syscall(SYS_mbind, addr, len, MPOL_PREFERRED, mask, (unsigned long)WI_NUMA_NODES_MAX, 0) == 0)
        return node;
    wi_debug("pool: memory cannot be placed on node %d: %s", node, strerror(errno)); /* changes speed only */
    return WI_NODE_ANY;
}
