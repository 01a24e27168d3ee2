/* Making segments, and opening those of peers. */
#include "transport/shm/segment.h"

#include "core/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#define SHM_MAGIC 0x314d485352494557ull /* "WEIRSHM1" */
#define SEALS     (F_SEAL_SHRINK | F_SEAL_GROW)

enum {
    PAGE = 4096, /* offsets are multiples of 64 KiB, so larger pages are served too */
    ALIGN = 65536,
    SIGNALS_MAX = 1 << 20,
};

static size_t round_up(size_t value)
{
    return (value + ALIGN - 1) / ALIGN * ALIGN;
}

#define CALLS_AT       ((size_t)PAGE)
#define CHANNELS_AT    (CALLS_AT + SHM_CALLS * sizeof(uint64_t))
#define GENERATIONS_AT (CHANNELS_AT + SHM_CHANNEL_MAX * sizeof(struct shm_channel_slot))
#define SIGNALS_AT     (GENERATIONS_AT + SHM_SLOT_MAX * sizeof(uint64_t))

static size_t rings_at(uint32_t signals)
{
    return round_up(SIGNALS_AT + signals * sizeof(uint64_t));
}

static size_t ring_stride(void)
{
    return round_up(sizeof(struct shm_ring));
}

static size_t segment_size(uint32_t signals)
{
    return rings_at(signals) + SHM_RING_MAX * ring_stride();
}

weir_status wi_shm_random(uint64_t *number)
{
    do {
        if (getrandom(number, sizeof(*number), 0) != (ssize_t)sizeof(*number))
            return wi_error(WEIR_ERR_IO, "shm: no random numbers: %s", strerror(errno));
    } while (*number == 0);
    return WEIR_OK;
}

/* Maps everything but the rings. */
static bool map_tables(struct shm_segment *segment, int fd, uint32_t signals)
{
    size_t len = rings_at(signals);
    unsigned char *base = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return false;
    *segment = (struct shm_segment){
        .fd = fd,
        .mapped_len = len,
        .signal_count = signals,
        .header = (struct shm_header *)base,
        .calls = (uint64_t *)(base + CALLS_AT),
        .channels = (struct shm_channel_slot *)(base + CHANNELS_AT),
        .generations = (uint64_t *)(base + GENERATIONS_AT),
        .signals = (uint64_t *)(base + SIGNALS_AT),
    };
    return true;
}

weir_status wi_shm_segment_create(uint32_t signals, int wake_fd, struct shm_segment *segment)
{
    uint64_t cookie;
    struct stat wake;
    weir_status status = wi_shm_random(&cookie);
    if (status != WEIR_OK)
        return status;
    int fd = memfd_create("weir-shm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return wi_error(errno == EMFILE || errno == ENFILE ? WEIR_ERR_LIMIT : WEIR_ERR_IO, "shm: memfd_create: %s",
                        strerror(errno));
    /* Sealed: nobody can make it shorter under a process that has it mapped. */
    if (ftruncate(fd, (off_t)segment_size(signals)) != 0 || fcntl(fd, F_ADD_SEALS, SEALS) != 0 ||
        fstat(wake_fd, &wake) != 0 || !map_tables(segment, fd, signals)) {
        status = wi_error(WEIR_ERR_NO_MEMORY, "shm: no shared memory of %zu bytes: %s", segment_size(signals),
                          strerror(errno));
        close(fd);
        return status;
    }
    struct shm_header *header = segment->header;
    header->cookie = cookie;
    header->size = segment_size(signals);
    header->version = SHM_VERSION;
    header->signals = signals;
    header->wake_fd = wake_fd;
    header->wake_inode = wake.st_ino;
    __atomic_store_n(&header->magic, SHM_MAGIC, __ATOMIC_RELEASE);
    return WEIR_OK;
}

int wi_shm_open_fd(int pid, int fd, mode_t type, uint64_t inode, struct stat *info)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
    if (stat(path, info) != 0)
        return -1;
    if ((info->st_mode & S_IFMT) != type || info->st_ino != inode) {
        errno = ESTALE;
        return -1;
    }
    /* A pipe is opened for reading too, though nobody reads here: else a write after its
     * reader's death is a SIGPIPE. */
    int opened = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (opened < 0)
        return -1;
    if (fstat(opened, info) != 0 || (info->st_mode & S_IFMT) != type || info->st_ino != inode) {
        close(opened);
        errno = ESTALE;
        return -1;
    }
    return opened;
}

static weir_status open_error(int pid)
{
    if (wi_shm_is_not_there(errno))
        return wi_error(WEIR_ERR_PEER_UNREACHABLE, "process %d has ended or has closed its context", pid);
    if (errno == EACCES || errno == EPERM)
        return wi_error(
            WEIR_ERR_PEER_UNREACHABLE,
            "shared memory of process %d may not be opened (/proc/%d/fd: %s); run all ranks as the same user, "
            "or set WEIR_INTRANODE=off",
            pid, pid, strerror(errno));
    return wi_error(errno == EMFILE || errno == ENFILE ? WEIR_ERR_LIMIT : WEIR_ERR_PEER_UNREACHABLE,
                    "shared memory of process %d: %s", pid, strerror(errno));
}

/* Does the header speak of the file that it lies in, and is it the one we were told of? */
static bool header_is_right(const struct shm_header *header, const struct shm_name *name, uint64_t file_size)
{
    return header->magic == SHM_MAGIC && header->version == SHM_VERSION && header->cookie == name->cookie &&
           header->size == file_size && header->signals <= SIGNALS_MAX && segment_size(header->signals) == file_size;
}

weir_status wi_shm_segment_open(const struct shm_name *name, struct shm_segment *segment)
{
    struct stat info;
    struct shm_header header;
    int fd = wi_shm_open_fd(name->pid, name->fd, S_IFREG, name->inode, &info);
    if (fd < 0)
        return open_error(name->pid);
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS || pread(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header) ||
        !header_is_right(&header, name, (uint64_t)info.st_size)) {
        close(fd);
        return wi_error(WEIR_ERR_PROTOCOL, "what process %d offers is not the shared memory of this version of Weir",
                        name->pid);
    }
    if (!map_tables(segment, fd, header.signals)) {
        weir_status status = open_error(name->pid);
        close(fd);
        return status;
    }
    return WEIR_OK;
}

void wi_shm_segment_close(struct shm_segment *segment)
{
    if (!segment->header)
        return;
    munmap(segment->header, segment->mapped_len);
    close(segment->fd);
    segment->header = NULL;
}

/* Two at once may leave the hint at the later one: the earlier one is then found when the table was gone round. */
void wi_shm_slot_freed(const struct shm_segment *segment, const struct shm_channel_slot *slot)
{
    uint32_t at = (uint32_t)(slot - segment->channels);
    if (at < __atomic_load_n(&segment->header->slot_hint, __ATOMIC_RELAXED))
        __atomic_store_n(&segment->header->slot_hint, at, __ATOMIC_RELAXED);
}

struct shm_ring *wi_shm_ring_map(const struct shm_segment *segment, uint32_t index)
{
    off_t at = (off_t)(rings_at(segment->signal_count) + index * ring_stride());
    void *ring = mmap(NULL, sizeof(struct shm_ring), PROT_READ | PROT_WRITE, MAP_SHARED, segment->fd, at);
    return ring == MAP_FAILED ? NULL : ring;
}

void wi_shm_ring_unmap(struct shm_ring *ring)
{
    munmap(ring, sizeof(*ring));
}
