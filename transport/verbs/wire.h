/*
 * What verbs interfaces tell each other: the address part, the private data of a connection request and of its answer,
 * and the ring that control messages travel in. Pure: no device, no I/O. All that is decoded comes from outside.
 *
 * Control messages are RDMA writes into a ring that the receiving side keeps for each connection, each with an
 * immediate that tells of it. The receiver counts in the ring's first word what it has taken; a sender that finds no
 * room reads that word. So a peer that takes no messages holds up its own senders alone, and the shared receive queue,
 * which immediates alone use, needs no buffers.
 */
#ifndef WI_VERBS_WIRE_H
#define WI_VERBS_WIRE_H

#include <weir/transport.h>

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#define WI_VERBS_ADDRESS_MAX 8           /* IP addresses in an address part at most */
#define WI_VERBS_IMM_MESSAGE 0x80000000u /* immediate: a message arrived; without it: the number of a signal */

/* ---- Address part ------------------------------------------------------------------------------------------------ */

struct wi_verbs_address {
    uint64_t cookie; /* the listener's; a connection request must bring it */
    unsigned count;
    union {
        struct sockaddr any;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
    } ip[WI_VERBS_ADDRESS_MAX]; /* with port */
};

/* Writes the part into `buf`; `*len` is the room on entry, the length on return. False: too little room. */
bool wi_verbs_address_encode(const struct wi_verbs_address *address, void *buf, size_t *len);
bool wi_verbs_address_decode(const void *buf, size_t len, struct wi_verbs_address *address);

/* "10.0.0.1 port 4711", for errors. */
void wi_verbs_address_print(const struct sockaddr *ip, char *text, size_t size);

/* ---- Private data ------------------------------------------------------------------------------------------------ */

/* A connection request says who comes and to whom. */
struct wi_verbs_hello {
    uint64_t id;     /* the initiator's context id */
    uint64_t cookie; /* from the target's address part */
};

/* The answer says where messages go. */
struct wi_verbs_welcome {
    uint64_t id;        /* the target's context id */
    uint64_t ring_addr; /* address and key of its message ring for this connection */
    uint32_t ring_rkey;
};

enum { WI_VERBS_HELLO_SIZE = 24, WI_VERBS_WELCOME_SIZE = 32 };

void wi_verbs_hello_encode(const struct wi_verbs_hello *hello, unsigned char buf[WI_VERBS_HELLO_SIZE]);
bool wi_verbs_hello_decode(const void *buf, size_t len, struct wi_verbs_hello *hello);
void wi_verbs_welcome_encode(const struct wi_verbs_welcome *welcome, unsigned char buf[WI_VERBS_WELCOME_SIZE]);
bool wi_verbs_welcome_decode(const void *buf, size_t len, struct wi_verbs_welcome *welcome);

/* ---- Message ring ------------------------------------------------------------------------------------------------
 *
 * Positions count up for ever; position modulo size is where an entry starts. An entry is never split: the last one of
 * a lap runs into the slack behind the ring, and the next one starts the next lap.
 */

enum {
    WI_VERBS_RING_SIZE = 32768,
    WI_VERBS_RING_DATA = 64, /* entries start here; the word at 0 counts what was taken */
    WI_VERBS_RING_ALIGN = 16,
    WI_VERBS_ENTRY_HEADER = 8, /* length (u32), zero (u32) */
    WI_VERBS_ENTRY_MAX = WI_VERBS_ENTRY_HEADER + WEIR_MSG_MAX,
    WI_VERBS_RING_BYTES = WI_VERBS_RING_DATA + WI_VERBS_RING_SIZE + WI_VERBS_ENTRY_MAX + WI_VERBS_RING_ALIGN,
};

/* Bytes that a message of `len` takes up. */
static inline uint32_t wi_verbs_ring_entry(uint32_t len)
{
    return (WI_VERBS_ENTRY_HEADER + len + WI_VERBS_RING_ALIGN - 1) & ~(uint32_t)(WI_VERBS_RING_ALIGN - 1);
}

/* Where in the ring's memory the entry at a position starts. */
static inline uint32_t wi_verbs_ring_offset(uint64_t position)
{
    return WI_VERBS_RING_DATA + (uint32_t)(position % WI_VERBS_RING_SIZE);
}

/* Is there room for a message of `len` at `position` when all before `taken` was taken? */
static inline bool wi_verbs_ring_fits(uint64_t position, uint64_t taken, uint32_t len)
{
    return position - taken + wi_verbs_ring_entry(len) <= WI_VERBS_RING_SIZE;
}

/* The position after a message of `len`. */
static inline uint64_t wi_verbs_ring_next(uint64_t position, uint32_t len)
{
    uint64_t offset = position % WI_VERBS_RING_SIZE;
    uint64_t end = offset + wi_verbs_ring_entry(len);
    return position - offset + (end < WI_VERBS_RING_SIZE ? end : WI_VERBS_RING_SIZE);
}

#endif
