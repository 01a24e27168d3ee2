/*
 * Fuzzes what is believed of a peer's segment: the name by which it is to be opened, which came in an address or a
 * slot, and the header that lies in it. What is opened lies in its file as a whole, so that no access ends the process.
 */
#include "bytes_of.h"
#include "transport/shm/segment.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SIGNALS = 16 };

/* A segment as it should be, and files of its size: sealed as well, not sealed, shorter. */
static struct shm_segment good;
static struct shm_header right;
static int files[4], pipes[2];

static int copy_of(const struct stat *info, off_t len, bool sealed)
{
    int fd = memfd_create("copy", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    check(fd >= 0 && ftruncate(fd, info->st_size * len / 4) == 0);
    check(!sealed || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    return fd;
}

static void begin(void)
{
    struct stat info;
    check(pipe(pipes) == 0 && wi_shm_segment_create(SIGNALS, pipes[1], &good) == WEIR_OK);
    check(fstat(good.fd, &info) == 0);
    right = *good.header;
    files[0] = good.fd;
    files[1] = copy_of(&info, 4, true);
    files[2] = copy_of(&info, 4, false);
    files[3] = copy_of(&info, 3, true);
}

static struct shm_name name_of(struct bytes_of *input, int file)
{
    struct stat info;
    uint8_t wrong = take_byte(input);
    check(fstat(files[file], &info) == 0);
    struct shm_name name = {.pid = getpid(), .fd = files[file], .inode = info.st_ino, .cookie = right.cookie};
    if (wrong % 16 == 1)
        name.pid = (int32_t)take_word(input);
    if (wrong % 16 == 2)
        name.fd = (int32_t)(take_byte(input) % 4 ? take_byte(input) : take_word(input));
    if (wrong % 16 == 3)
        name.inode += take_byte(input);
    if (wrong % 16 == 4)
        name.cookie ^= take_word(input);
    return name;
}

/* The header with some bytes changed. */
static void write_header(struct bytes_of *input, int file)
{
    struct shm_header header = right;
    for (int i = take_byte(input) % 8; i > 0; i--)
        ((uint8_t *)&header)[take_byte(input) % offsetof(struct shm_header, sleeping)] ^= take_byte(input);
    if (take_byte(input) % 8 == 1)
        header.signals = take_word(input);
    check(pwrite(files[file], &header, sizeof(header), 0) == (ssize_t)sizeof(header));
}

/* The first and the last of everything can be read. */
static void look_at(const struct shm_segment *segment)
{
    volatile uint64_t sum = segment->header->magic + segment->calls[SHM_CALLS - 1] +
                            segment->channels[SHM_CHANNEL_MAX - 1].sender_id + segment->generations[SHM_SLOT_MAX - 1];
    check(segment->signal_count <= 1 << 20);
    if (segment->signal_count > 0)
        sum += segment->signals[segment->signal_count - 1];
    struct shm_ring *ring = wi_shm_ring_map(segment, SHM_RING_MAX - 1);
    check(ring != NULL);
    sum += (uint64_t)ring->data[SHM_RING_DATA - 1];
    (void)sum;
    wi_shm_ring_unmap(ring);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes_of input = {data, size};
    struct shm_segment opened = {0};
    if (!good.header)
        begin();
    int file = take_byte(&input) % 4;
    write_header(&input, file);
    struct shm_name name = name_of(&input, file);
    if (wi_shm_segment_open(&name, &opened) == WEIR_OK) {
        check(file < 2 || name.fd == files[0] || name.fd == files[1]); /* only what nobody can make shorter */
        look_at(&opened);
        wi_shm_segment_close(&opened);
    }
    return 0;
}
