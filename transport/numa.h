/* On which NUMA node memory lies. A machine with one node has nothing to choose: then all of this does nothing. */
#ifndef WI_TRANSPORT_NUMA_H
#define WI_TRANSPORT_NUMA_H

#include <weir/status.h>

#include <stddef.h>

enum {
    WI_NODE_ANY = -1,    /* where the system puts it */
    WI_NODE_CALLER = -2, /* the node of the thread that asks for the memory */
};

/*
 * Reads a choice: "auto", "off" or a node's number. "auto" is the node of the RDMA device `device` ("mlx5_0:1"; NULL or
 * without a node of its own: WI_NODE_CALLER). WEIR_ERR_CONFIG: no such node, or not a choice.
 */
weir_status wi_numa_choose(const char *text, const char *device, int *node);

/* Prefers `node` (or a WI_NODE_*) for pages of [addr, addr + len) that do not exist yet; returns it, WI_NODE_ANY: none. */
int wi_numa_place(void *addr, size_t len, int node);

#endif
