/* Which host, and which namespaces of it, is this process in? */
#include "transport/context.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* FNV-1a, 64 bits: spreads a short text over a number (Fowler, Noll, Vo; draft-eastlake-fnv). */
static uint64_t hash_text(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325ull;
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3ull;
    return hash;
}

/* The boot id is random at each start of the kernel, so hosts cloned from one image differ too. */
static void read_boot_id(char *text, size_t size)
{
    text[0] = '\0';
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t got = read(fd, text, size - 1);
    text[got > 0 ? got : 0] = '\0';
    close(fd);
}

uint64_t wi_host_id(void)
{
    char boot[64], name[64] = "", alone[32] = "", text[256];
    struct stat pids = {0}, users = {0};
    read_boot_id(boot, sizeof(boot));
    gethostname(name, sizeof(name) - 1);
    /* Peers open each other's /proc/<pid>/fd, which takes the same pid and user namespaces. */
    if (stat("/proc/self/ns/pid", &pids) != 0 || stat("/proc/self/ns/user", &users) != 0)
        snprintf(alone, sizeof(alone), "no-proc-%d", (int)getpid()); /* like nobody else: no shared memory */
    snprintf(text, sizeof(text), "%s/%s/%llu/%llu/%u/%s", boot, boot[0] ? "" : name, (unsigned long long)pids.st_ino,
             (unsigned long long)users.st_ino, (unsigned)geteuid(), alone);
    return hash_text(text);
}

uint64_t wi_network_id(void)
{
    char boot[64], name[64] = "", text[192];
    struct stat network = {0};
    read_boot_id(boot, sizeof(boot));
    gethostname(name, sizeof(name) - 1);
    if (stat("/proc/self/ns/net", &network) != 0)
        network.st_ino = 0;
    snprintf(text, sizeof(text), "%s/%s/%llu", boot, boot[0] ? "" : name, (unsigned long long)network.st_ino);
    return hash_text(text);
}
