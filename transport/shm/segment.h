/*
 * The segment: the memory that an interface shows to its peers, one memfd.
 *
 *   header | calls | channel slots | generations | signals | rings
 *
 * Peers open it through /proc/<pid>/fd/<fd>, so it leaves nothing behind when its process is killed, and a connection
 * takes no step of the target. Whatever is read from a peer's segment may be wrong: callers copy once, then check.
 *
 * Who has something for the owner (a message, a request, an answer) calls: it rings the doorbell, a counter, and writes
 * into the entry of that number what it is about, so that the owner need not look at all peers for one of them. The number
 * counts, the entry helps: where it is not there (yet), or was overwritten, the owner looks at all.
 */
#ifndef WI_SHM_SEGMENT_H
#define WI_SHM_SEGMENT_H

#include "transport/shm/ring.h"

#include <weir/status.h>

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

enum {
    SHM_VERSION = 4,
    SHM_CHANNEL_MAX = 16384, /* peers that can send messages or requests to one interface at a time */
    SHM_SLOT_MAX = 262144,   /* regions registered and ranges exported at a time, together */
    SHM_RING_MAX = 16384,    /* endpoints of one interface that have sent messages or requests */
    SHM_CALLS = 1024,        /* calls that the owner can be behind before it has to look at all; a power of two */
};

/* What a call is about: a channel by its slot in the owner's segment, or with this bit a ring of the owner's, answered. */
#define SHM_CALL_RING 0x80000000u

/* How the owner of a segment sleeps, which says how to wake it. */
enum shm_sleep {
    SHM_AWAKE = 0,
    SHM_ON_PIPE, /* or about to: a byte into its pipe wakes it */
    SHM_ON_WORD, /* on a futex, which is `sleeping` itself */
};

struct shm_header {
    uint64_t magic;
    uint64_t cookie; /* random: tells this segment from any that later has the same pid and descriptor */
    uint64_t size;
    uint32_t version;
    uint32_t signals;
    int32_t wake_fd; /* a pipe whose reading end the owner sleeps on */
    uint32_t reserved;
    uint64_t wake_inode;
    _Alignas(64) uint32_t sleeping; /* enum shm_sleep: set by the owner before it sleeps, taken by who wakes it */
    _Alignas(64) uint32_t doorbell; /* counts messages, requests, replies: a change means there is something to do */
    uint32_t announced;             /* counts channels that were announced */
    _Alignas(64) uint32_t closed;   /* the context was destroyed; its process may go on living */
    uint32_t slot_hint;             /* where senders look for a free channel slot first */
    uint32_t slots_used;            /* no slot from here on was ever claimed */
};

/* How to open a peer's segment. Goes into addresses and channel slots. */
struct shm_name {
    int32_t pid;
    int32_t fd;
    uint64_t inode;
    uint64_t cookie;
};

/* A slot of the table in which peers announce their rings to the owner. */
enum shm_channel_state {
    SHM_CHANNEL_FREE = 0,
    SHM_CHANNEL_CLAIMED,  /* by the sender, which now fills the slot. If it is killed here the slot is lost, no more */
    SHM_CHANNEL_READY,    /* filled */
    SHM_CHANNEL_ACCEPTED, /* the owner has mapped the ring */
    SHM_CHANNEL_REFUSED,  /* the owner could not, or found damage; the sender frees the slot */
};

struct shm_channel_slot {
    _Alignas(64) uint32_t state;
    uint32_t ring; /* index of the sender's ring in the sender's segment */
    struct shm_name sender;
    uint64_t sender_id;
    uint32_t stream; /* number of the sender's endpoint */
    uint32_t again;  /* how often it was connected before: the rings of earlier times are read to their end first */
};

/* A segment as mapped here, own or a peer's. `signals` and the offset of the rings are checked copies. */
struct shm_segment {
    int fd;
    size_t mapped_len;
    uint32_t signal_count;
    struct shm_header *header;
    uint64_t *calls; /* SHM_CALLS: number of the call in the upper half, what it is about in the lower one */
    struct shm_channel_slot *channels;
    uint64_t *generations; /* one a region or exported range: nonzero while it is that, and never the same twice */
    uint64_t *signals;
};

/* A random number, not zero. WEIR_ERR_IO where the system has none. */
weir_status wi_shm_random(uint64_t *number);

/* Makes an own segment; wake_fd is the writing end of the pipe to sleep on. */
weir_status wi_shm_segment_create(uint32_t signals, int wake_fd, struct shm_segment *segment);

/* Maps a peer's. WEIR_ERR_PEER_UNREACHABLE with the reason in the sentence. */
weir_status wi_shm_segment_open(const struct shm_name *name, struct shm_segment *segment);

void wi_shm_segment_close(struct shm_segment *segment);

/* To be called when a slot was set to SHM_CHANNEL_FREE: senders find it first. */
void wi_shm_slot_freed(const struct shm_segment *segment, const struct shm_channel_slot *slot);

/* Maps ring `index` of a segment, NULL (and errno) on failure; unmap with wi_shm_ring_unmap(). */
struct shm_ring *wi_shm_ring_map(const struct shm_segment *segment, uint32_t index);
void wi_shm_ring_unmap(struct shm_ring *ring);

/*
 * Opens a descriptor of another process after a look at what it is (`type` as S_IFMT, inode), so that nothing but a
 * memfd or a pipe is ever opened, whatever numbers a peer gives. `*info` is the opened file's. -1: errno tells; ESTALE:
 * it is something else.
 */
int wi_shm_open_fd(int pid, int fd, mode_t type, uint64_t inode, struct stat *info);

/* Does the error of opening a file of another process say that it is not there any more? */
static inline bool wi_shm_is_not_there(int error)
{
    return error == ENOENT || error == ESRCH || error == ENXIO || error == ESTALE;
}

#endif
