/* What /sys tells of RDMA devices, their ports and GIDs. */
#ifndef DOCTOR_RDMA_H
#define DOCTOR_RDMA_H

#include "read.h"

#include <net/if.h>
#include <sys/socket.h>

enum { RDMA_PORTS_MAX = 32, RDMA_GIDS_MAX = 256, RDMA_PORT_ACTIVE = 4, RDMA_TEXT = 64 };

struct rdma_port {
    char device[READ_NAME];
    unsigned number;
    long state;                 /* RDMA_PORT_ACTIVE, or less */
    char state_text[RDMA_TEXT]; /* "ACTIVE", "DOWN", ... */
    char physical[RDMA_TEXT];   /* "LinkUp", "Disabled", "Polling", ... */
    char link_layer[RDMA_TEXT]; /* "Ethernet", "InfiniBand" */
    char rate[RDMA_TEXT];
    char netdev[IF_NAMESIZE]; /* its network interface, "" where there is none */
};

struct rdma_gid {
    unsigned index;
    unsigned char raw[16];
    char type[RDMA_TEXT];     /* "RoCE v2", "IB/RoCE v1" */
    char netdev[IF_NAMESIZE]; /* "" on InfiniBand */
};

/* Both return how many there are, at most `room`. */
size_t rdma_list_ports(const char *root, struct rdma_port *ports, size_t room);
size_t rdma_list_gids(const char *root, const struct rdma_port *port, struct rdma_gid *gids, size_t room);

bool rdma_gid_is_link_local(const struct rdma_gid *gid);

/* The address that the GID stands for, as text; `text` has room for INET6_ADDRSTRLEN bytes. */
void rdma_gid_text(const struct rdma_gid *gid, char *text);

/* Is the GID made from this IP address? */
bool rdma_gid_is_of(const struct rdma_gid *gid, const struct sockaddr *ip);

/* Reads "fe80:0000:...", as /sys writes it. */
bool rdma_parse_gid(const char *text, unsigned char raw[16]);

/* Does a list such as WEIR_DEVICE ("mlx5_0:1,mlx5_1") name the port? An empty list names all. */
bool rdma_is_listed(const char *list, const struct rdma_port *port);

/* Payload of an RDMA packet over Ethernet of this MTU; 0: it is too short for any. */
unsigned rdma_mtu_over(long ethernet_mtu);

#endif
