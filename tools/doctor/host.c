/* Checks of the host: container, processes, what shared memory needs, clocks. */
#include "doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- Container --------------------------------------------------------------------------------------------------- */

void check_container(struct doctor *doctor)
{
    static const char *const names[] = {"none", "docker", "podman", "kubernetes", "of a kind that is not known here"};
    doctor_say(doctor, DOCTOR_OK, "%s%s", names[doctor->container],
               doctor->user_namespace ? ", with a user namespace: root here is not root of the host" : "");
}

/* Peers that are to share memory must see each other's processes. */
void check_processes(struct doctor *doctor)
{
    char name[READ_NAME];
    if (!read_link_name(doctor->root, name, sizeof(name), "/proc/self/ns/pid")) {
        doctor_say(doctor, doctor_blame(doctor->shm), "/proc is not mounted: no shared memory with other processes -> "
                                                      "mount -t proc proc /proc");
        return;
    }
    if (strcmp(name, "pid:[4026531836]") == 0)
        doctor_say(doctor, DOCTOR_OK, "the host's PID namespace");
    else
        doctor_say(doctor, DOCTOR_NOTE,
                   "a PID namespace of its own: peers in other containers of this host are reached over the network, "
                   "not shared memory%s%s",
                   doctor->container ? " -> " : "", doctor_mend_pids(doctor));
}

/* ---- Sharing memory ---------------------------------------------------------------------------------------------- */

/* What a peer does with a process's memory; each is tried for real, by a child on its parent. */
enum sharing_step { SHARING_OK, SHARING_MEMFD, SHARING_OPEN, SHARING_MAP, SHARING_READ, SHARING_FORK };

struct sharing {
    int fd;
    pid_t owner;
    long word; /* read across processes */
};

static enum sharing_step share_as_peer(const struct sharing *sharing)
{
    char path[64];
    long word = 0;
    struct iovec here = {&word, sizeof(word)}, there = {(void *)&sharing->word, sizeof(word)};
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)sharing->owner, sharing->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return SHARING_OPEN;
    long *mapped = mmap(NULL, sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED)
        return SHARING_MAP;
    if (process_vm_readv(sharing->owner, &here, 1, &there, 1, 0) != sizeof(word) || word != *mapped)
        return SHARING_READ;
    return SHARING_OK;
}

/* As in the library, the owner lets any process of its user in, which Yama's scope 1 asks for. */
static enum sharing_step try_sharing(void)
{
    struct sharing sharing = {.fd = memfd_create("weir-doctor", MFD_CLOEXEC), .owner = getpid(), .word = 0x77656972};
    if (sharing.fd < 0)
        return SHARING_MEMFD;
    int status = 0;
    enum sharing_step step = SHARING_MAP;
    if (pwrite(sharing.fd, &sharing.word, sizeof(sharing.word), 0) == sizeof(sharing.word)) {
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
        pid_t child = fork();
        if (child == 0)
            _exit((int)share_as_peer(&sharing));
        step = child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)
                   ? SHARING_FORK
                   : (enum sharing_step)WEXITSTATUS(status);
    }
    close(sharing.fd);
    return step;
}

void check_sharing(struct doctor *doctor)
{
    static const char *const what[] = {
        [SHARING_MEMFD] = "memfd_create(2) is refused -> allow it in the container's seccomp profile",
        [SHARING_OPEN] = "another process's /proc/PID/fd cannot be opened -> mount /proc without hidepid, and let the "
                         "seccomp profile allow it",
        [SHARING_MAP] = "a memfd cannot be mapped -> free memory, or raise the container's memory limit",
        [SHARING_READ] = "process_vm_readv(2) is refused: only memory of pools can be shared -> "
                         "sysctl kernel.yama.ptrace_scope=1 or less; in a container --cap-add=SYS_PTRACE",
        [SHARING_FORK] = "no child process could be started to try it -> raise the limit of processes (ulimit -u)",
    };
    char yama[16];
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (!read_text(doctor->root, yama, sizeof(yama), "/proc/sys/kernel/yama/ptrace_scope"))
        snprintf(yama, sizeof(yama), "off");
    enum sharing_step step = try_sharing();
    if (pidfd >= 0)
        close(pidfd);
    if (step == SHARING_READ)
        doctor_say(doctor, doctor->shm == DOCTOR_UNUSED ? DOCTOR_NOTE : DOCTOR_WARN, "%s", what[step]);
    else if (step != SHARING_OK)
        doctor_say(doctor, doctor_blame(doctor->shm), "%s", what[step]);
    else
        doctor_say(doctor, DOCTOR_OK, "a memfd of another process opens, its memory can be read; yama ptrace_scope %s; pidfd %s",
                   yama, pidfd >= 0 ? "yes" : "no, dead peers are looked up in /proc");
}

/* ---- Clocks ------------------------------------------------------------------------------------------------------ */

static double clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* A clock that needs a system call costs more than an operation over shared memory. */
void check_clock(struct doctor *doctor)
{
    enum { READINGS = 2000 };
    char source[READ_NAME];
    if (!read_text(doctor->root, source, sizeof(source),
                   "/sys/devices/system/clocksource/clocksource0/current_clocksource"))
        snprintf(source, sizeof(source), "not readable");
    double start = clock_ns();
    for (int i = 0; i < READINGS; i++)
        clock_ns();
    double each = (clock_ns() - start) / READINGS;
    bool slow = strcmp(source, "hpet") == 0 || strcmp(source, "acpi_pm") == 0 || strcmp(source, "jiffies") == 0;
    doctor_say(doctor, slow ? DOCTOR_WARN : DOCTOR_OK, "CLOCK_MONOTONIC from %s, %.0f ns a reading%s", source, each,
               slow ? " -> boot with a usable TSC (kernel log: why it was given up; tsc=reliable if the machine has one)"
                    : "");
}

/* Weir's bounds use the monotonic clock; logs and traces of several hosts are compared by the time of day. */
void check_time(struct doctor *doctor)
{
    struct timex state = {0};
    int result = adjtimex(&state);
    if (result < 0)
        doctor_say(doctor, DOCTOR_NOTE, "whether the time of day is synchronised is not readable: %s", strerror(errno));
    else if (result == TIME_ERROR || (state.status & STA_UNSYNC))
        doctor_say(doctor, DOCTOR_NOTE, "the time of day is not synchronised: logs and traces of several hosts will not "
                                        "line up -> run chrony or systemd-timesyncd");
    else
        doctor_say(doctor, DOCTOR_OK, "the time of day is synchronised, error at most %.1f ms",
                   (double)state.maxerror / 1e3);
}
