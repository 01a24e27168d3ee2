/*
 * One rank of traffic that a driver disturbs (faults.py).
 *
 *   traffic pair|job DIR RANK SEED STEPS
 *
 * Prints a line: outcome STATUS MILLISECONDS SENTENCE, the time being that of the end or the failure. Exit status 0:
 * success, or one clear error; 3: data was wrong or lost.
 */
#include "traffic.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Descriptors that a rank may use up, and those beyond with which it still reads and writes files of its own. */
enum { FILES_MAX = 256, FILES_MORE = 16 };

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool files_used_up;

static void limit_files(rlim_t count)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = count;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void use_up_files(void)
{
    limit_files(FILES_MAX);
    while (open("/dev/null", O_RDONLY) >= 0)
        continue;
    files_used_up = true;
}

/* Opens a file of our own, whatever is used up: another thread may take what is free meanwhile, but not all of it. */
static int open_own(const char *path, int flags)
{
    if (files_used_up)
        limit_files(FILES_MAX + FILES_MORE);
    int fd = open(path, flags, 0644);
    if (files_used_up)
        limit_files(FILES_MAX);
    return fd;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/*
 * Leaves what is mapped now and a little: what malloc has in hand still works, more does not. Sanitizers end the
 * process then, by themselves: no fault strikes under them.
 */
static void use_up_memory(void)
{
    if (SANITIZED)
        return;
    unsigned long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (!statm || fscanf(statm, "%lu", &pages) != 1)
        exit(2);
    fclose(statm);
    struct rlimit limit = {pages * (rlim_t)sysconf(_SC_PAGESIZE) + (256u << 10), RLIM_INFINITY};
    setrlimit(RLIMIT_AS, &limit);
}

/*
 * Lets no more memory be locked for devices, which Linux counts as pinned. The right to exceed the limit, which root has, is
 * given up.
 */
static void use_up_memlock(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    struct rlimit limit = {0, 0};
    if (syscall(SYS_capget, &header, data) != 0)
        exit(2);
    data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~CAP_TO_MASK(CAP_IPC_LOCK);
    data[CAP_TO_INDEX(CAP_IPC_LOCK)].permitted &= ~CAP_TO_MASK(CAP_IPC_LOCK);
    if (syscall(SYS_capset, &header, data) != 0 || setrlimit(RLIMIT_MEMLOCK, &limit) != 0)
        exit(2);
}

static uint64_t start_ns; /* of this rank */

void traffic_stage(const char *stage)
{
    const char *fault = getenv("TRAFFIC_FAULT");
    const char *colon = fault ? strchr(fault, ':') : NULL;
    if (!colon || strcmp(colon + 1, stage) != 0)
        return;
    printf("stage %s %llu\n", fault, (unsigned long long)(now_ns() - start_ns) / 1000000u);
    fflush(stdout);
    if (strncmp(fault, "kill", 4) == 0)
        raise(SIGKILL);
    if (strncmp(fault, "stop", 4) == 0)
        raise(SIGSTOP);
    if (strncmp(fault, "files", 5) == 0)
        use_up_files();
    if (strncmp(fault, "memory", 6) == 0)
        use_up_memory();
    if (strncmp(fault, "memlock", 7) == 0)
        use_up_memlock();
}

bool traffic_failed(struct traffic *t, weir_status status)
{
    if (status != WEIR_OK && t->status == WEIR_OK) {
        t->status = status;
        t->failed_ns = now_ns();
        snprintf(t->sentence, sizeof(t->sentence), "%s", weir_last_error());
    }
    return status != WEIR_OK;
}

void traffic_broken(const struct traffic *t, const char *format, ...)
{
    va_list args;
    printf("broken rank %d: ", t->rank);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("; last error: %s\n", weir_last_error());
    fflush(stdout);
    _exit(3);
}

static void path_of(const struct traffic *t, const char *name, int rank, char *path, size_t size)
{
    snprintf(path, size, "%s/%s.%d", t->dir, name, rank);
}

void traffic_leave(const struct traffic *t, const char *name, const void *data, size_t len)
{
    char path[512], temporary[520];
    path_of(t, name, t->rank, path, sizeof(path));
    snprintf(temporary, sizeof(temporary), "%s.part", path);
    int fd = open_own(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    if (fd < 0 || write(fd, data, len) != (ssize_t)len || close(fd) != 0 || rename(temporary, path) != 0) {
        fprintf(stderr, "cannot write %s: %s\n", path, strerror(errno));
        exit(2);
    }
}

bool traffic_find(const struct traffic *t, const char *name, int rank, void *data, size_t len)
{
    char path[512];
    path_of(t, name, rank, path, sizeof(path));
    if (len == 0)
        return access(path, F_OK) == 0;
    int fd = open_own(path, O_RDONLY);
    bool found = fd >= 0 && read(fd, data, len) == (ssize_t)len;
    if (fd >= 0)
        close(fd);
    return found;
}

int main(int argc, char **argv)
{
    if (argc != 6 || (strcmp(argv[1], "pair") != 0 && strcmp(argv[1], "job") != 0)) {
        fprintf(stderr, "Usage: traffic pair|job DIR RANK SEED STEPS\n");
        return 2;
    }
    struct traffic t = {.dir = argv[2],
                        .rank = atoi(argv[3]),
                        .seed = strtoull(argv[4], NULL, 10),
                        .steps = (unsigned)atoi(argv[5]),
                        .start_ns = start_ns = now_ns()};
    traffic_stage("start");
    if (strcmp(argv[1], "pair") == 0)
        traffic_pair(&t);
    else
        traffic_job(&t);
    uint64_t end_ns = t.status == WEIR_OK ? now_ns() : t.failed_ns;
    printf("outcome %d %llu %s: %s\n", (int)t.status, (unsigned long long)(end_ns - t.start_ns) / 1000000u,
           weir_status_string(t.status), t.sentence);
    return 0;
}
