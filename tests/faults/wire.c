/*
 * A network cable between two network namespaces that loses, delays, reorders and doubles frames as it is told: what
 * tc-netem does, for kernels without it.
 *
 *   wire NAMESPACE0 NAMESPACE1 DEVICE
 *
 * Makes DEVICE (a TAP) in each namespace (of `ip netns`), prints "ready", and reads lines from standard input:
 *   shape DELAY_US JITTER_US REORDER LOSS DUPLICATE SEED    three shares of a million; REORDER overtakes the delay
 *   cut, join                                               nothing gets through; all does again
 * Ends when standard input does.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define FRAME_MAX  2048
#define FRAMES_MAX 8192 /* under way; more are lost, as in a switch */

struct frame {
    uint64_t due_ns, number;
    int to; /* descriptor */
    unsigned len;
    unsigned char data[FRAME_MAX];
};

static struct wire {
    int tap[2];
    bool cut;
    unsigned long delay_us, jitter_us, reorder, loss, duplicate;
    uint64_t random, number;
    struct frame *heap[FRAMES_MAX]; /* the one that is due first is at 0 */
    unsigned count;
    unsigned long lost;
} wire = {.random = 1};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t random_below(uint64_t bound)
{
    wire.random ^= wire.random >> 12;
    wire.random ^= wire.random << 25;
    wire.random ^= wire.random >> 27;
    return bound ? (wire.random * 0x2545F4914F6CDD1Dull >> 33) % bound : 0;
}

static bool happens(unsigned long share)
{
    return random_below(1000000) < share;
}

/* ---- Frames under way ---- */

static bool before(const struct frame *a, const struct frame *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->number < b->number;
}

static void swap(unsigned a, unsigned b)
{
    struct frame *frame = wire.heap[a];
    wire.heap[a] = wire.heap[b];
    wire.heap[b] = frame;
}

static void push(const struct frame *frame)
{
    struct frame *copy = wire.count < FRAMES_MAX ? malloc(sizeof(*copy)) : NULL;
    if (!copy) {
        wire.lost++;
        return;
    }
    *copy = *frame;
    copy->number = wire.number++;
    unsigned at = wire.count++;
    wire.heap[at] = copy;
    for (; at > 0 && before(wire.heap[at], wire.heap[(at - 1) / 2]); at = (at - 1) / 2)
        swap(at, (at - 1) / 2);
}

static struct frame *pop(void)
{
    struct frame *first = wire.heap[0];
    wire.heap[0] = wire.heap[--wire.count];
    for (unsigned at = 0;;) {
        unsigned least = at;
        for (unsigned child = 2 * at + 1; child <= 2 * at + 2; child++)
            if (child < wire.count && before(wire.heap[child], wire.heap[least]))
                least = child;
        if (least == at)
            return first;
        swap(at, least);
        at = least;
    }
}

static void deliver_due(void)
{
    uint64_t now = now_ns();
    while (wire.count > 0 && wire.heap[0]->due_ns <= now) {
        struct frame *frame = pop();
        if (!wire.cut && write(frame->to, frame->data, frame->len) < 0 && errno != EIO)
            wire.lost++; /* EIO: the device is down */
        free(frame);
    }
}

static void take(int from, int to)
{
    struct frame frame = {.to = to};
    ssize_t len = read(from, frame.data, sizeof(frame.data));
    if (len <= 0)
        return;
    if (wire.cut || happens(wire.loss)) {
        wire.lost++;
        return;
    }
    frame.len = (unsigned)len;
    frame.due_ns = now_ns();
    if (!happens(wire.reorder))
        frame.due_ns += (wire.delay_us + random_below(wire.jitter_us + 1)) * 1000;
    push(&frame);
    if (happens(wire.duplicate))
        push(&frame);
}

/* ---- Set-up and commands ---- */

static int make_tap(const char *namespace, const char *device)
{
    char path[256];
    snprintf(path, sizeof(path), "/run/netns/%s", namespace);
    int net = open(path, O_RDONLY | O_CLOEXEC);
    if (net < 0 || setns(net, CLONE_NEWNET) != 0)
        return -1;
    close(net);
    int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", device);
    return tap >= 0 && ioctl(tap, TUNSETIFF, &request) == 0 ? tap : -1;
}

static void command(const char *line)
{
    if (strncmp(line, "cut", 3) == 0)
        wire.cut = true;
    else if (strncmp(line, "join", 4) == 0)
        wire.cut = false;
    else if (sscanf(line, "shape %lu %lu %lu %lu %lu %lu", &wire.delay_us, &wire.jitter_us, &wire.reorder, &wire.loss,
                    &wire.duplicate, &wire.random) == 6)
        wire.random = wire.random * 2 + 1;
    else
        fprintf(stderr, "wire: what is %s", line);
}

/* Reads what is there of standard input and carries out whole lines. False: it has ended. */
static bool read_commands(void)
{
    static char text[4096];
    static size_t len;
    ssize_t got = read(0, text + len, sizeof(text) - 1 - len);
    if (got <= 0)
        return false;
    len += (size_t)got;
    text[len] = 0;
    char *line = text;
    for (char *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        command(line);
    }
    len -= (size_t)(line - text);
    memmove(text, line, len);
    return true;
}

static int timeout_ms(void)
{
    if (wire.count == 0)
        return -1;
    uint64_t now = now_ns(), due = wire.heap[0]->due_ns;
    return due <= now ? 0 : (int)((due - now + 999999) / 1000000);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "Usage: wire NAMESPACE0 NAMESPACE1 DEVICE\n");
        return 2;
    }
    for (int i = 0; i < 2; i++) {
        wire.tap[i] = make_tap(argv[1 + i], argv[3]);
        if (wire.tap[i] < 0) {
            fprintf(stderr, "wire: %s in %s: %s\n", argv[3], argv[1 + i], strerror(errno));
            return 1;
        }
    }
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        struct pollfd polls[3] = {
            {.fd = 0, .events = POLLIN}, {.fd = wire.tap[0], .events = POLLIN}, {.fd = wire.tap[1], .events = POLLIN}};
        if (poll(polls, 3, timeout_ms()) < 0 && errno != EINTR)
            return 1;
        if (polls[0].revents && !read_commands())
            return 0;
        for (int i = 0; i < 2; i++)
            if (polls[1 + i].revents & POLLIN)
                take(wire.tap[i], wire.tap[!i]);
        deliver_due();
    }
}
