#include "run_child.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the port ---- */

/* Rank 0 listens on all addresses, IPv6 and IPv4: the port must be free on all of them. */
static int bind_any(int family)
{
    struct sockaddr_in6 any6 = {.sin6_family = AF_INET6};
    struct sockaddr_in any4 = {.sin_family = AF_INET};
    int off = 0;
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    const struct sockaddr *any = family == AF_INET6 ? (struct sockaddr *)&any6 : (struct sockaddr *)&any4;
    if (bind(fd, any, family == AF_INET6 ? sizeof(any6) : sizeof(any4)) == 0)
        return fd;
    close(fd);
    return -1;
}

int run_pick_port(int *hold)
{
    struct sockaddr_in6 bound = {0};
    socklen_t len = sizeof(bound);
    int on = 1;
    *hold = bind_any(AF_INET6);
    if (*hold < 0)
        *hold = bind_any(AF_INET);
    if (*hold < 0 || getsockname(*hold, (struct sockaddr *)&bound, &len) != 0)
        return -1;
    /* With this set on both sockets, and ours not listening, rank 0 may listen on the port as well. */
    if (setsockopt(*hold, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0)
        return -1;
    return ntohs(bound.sin6_port); /* at the same place in both families */
}

/* ---- the child's side ---- */

/* What a rank is told, as WEIR_NAME; up to PLAIN also as NAME, for programs that do not use Weir alone. */
enum { RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, PLAIN, SERVERS = PLAIN, JOB_ID, TOLD };
static const char *const told[TOLD] = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SERVERS", "JOB_ID"};

bool run_child_sets(const char *assignment)
{
    bool ours = strncmp(assignment, "WEIR_", 5) == 0;
    const char *name = ours ? assignment + 5 : assignment;
    for (int i = 0; i < (ours ? TOLD : PLAIN); i++) {
        size_t len = strlen(told[i]);
        if (strncmp(name, told[i], len) == 0 && name[len] == '=')
            return true;
    }
    return false;
}

static void set_environment(const struct run_job *job, int rank)
{
    char values[TOLD][sizeof(job->id)], name[32];
    snprintf(values[RANK], sizeof(values[0]), "%d", rank);
    snprintf(values[LOCAL_RANK], sizeof(values[0]), "%d", rank);
    snprintf(values[WORLD_SIZE], sizeof(values[0]), "%d", job->world);
    snprintf(values[MASTER_ADDR], sizeof(values[0]), "127.0.0.1");
    snprintf(values[MASTER_PORT], sizeof(values[0]), "%d", job->port);
    snprintf(values[SERVERS], sizeof(values[0]), "%d", job->servers);
    snprintf(values[JOB_ID], sizeof(values[0]), "%s", job->id);
    for (int i = 0; i < TOLD; i++) {
        snprintf(name, sizeof(name), "WEIR_%s", told[i]);
        setenv(name, values[i], 1);
        if (i < PLAIN)
            setenv(told[i], values[i], 1);
    }
    for (int i = 0; i < job->extra_count; i++)
        putenv(job->extra[i]);
}

static void set_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Becomes the program; returns only when that fails. */
static void become_program(const struct run_job *job, int rank, pid_t parent, const int out[2], const int err[2])
{
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    if (nothing < 0 || dup2(nothing, STDIN_FILENO) < 0)
        return;
    if (job->prefix && (dup2(out[1], STDOUT_FILENO) < 0 || dup2(err[1], STDERR_FILENO) < 0))
        return;
    set_environment(job, rank);
    set_signals();
    execvp(job->program[0], job->program);
}

/* ---- our side ---- */

static void close_both(const int ends[2])
{
    for (int i = 0; i < 2; i++)
        if (ends[i] >= 0)
            close(ends[i]);
}

/* Reads why the program could not be started; 0: it was. The pipe closes when the program starts. */
static int read_errno(int fd)
{
    int error = 0;
    ssize_t got;
    do {
        got = read(fd, &error, sizeof(error));
    } while (got < 0 && errno == EINTR);
    return got == (ssize_t)sizeof(error) ? error : 0;
}

pid_t run_child_start(const struct run_job *job, int rank, struct run_pipes *pipes, const char **what)
{
    int out[2] = {-1, -1};
    int err[2] = {-1, -1};
    int trouble[2] = {-1, -1};
    int error = 0;
    pid_t parent = getpid();
    pid_t pid = -1;

    *what = "pipe";
    if (pipe2(trouble, O_CLOEXEC) != 0 ||
        (job->prefix && (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0 ||
                         fcntl(out[0], F_SETFL, O_NONBLOCK) != 0 || fcntl(err[0], F_SETFL, O_NONBLOCK) != 0))) {
        error = errno;
        goto fail;
    }
    *what = "fork";
    pid = fork();
    if (pid < 0) {
        error = errno;
        goto fail;
    }
    if (pid == 0) {
        become_program(job, rank, parent, out, err);
        error = errno;
        _exit(write(trouble[1], &error, sizeof(error)) > 0 ? 127 : 126);
    }
    setpgid(pid, pid); /* whoever of us comes first; signals to the group must find it */
    close(trouble[1]);
    trouble[1] = -1;
    *what = job->program[0];
    error = read_errno(trouble[0]);
    if (error != 0)
        goto fail;
    close(trouble[0]);
    if (job->prefix) {
        close(out[1]);
        close(err[1]);
    }
    *pipes = (struct run_pipes){out[0], err[0]};
    return pid;

fail:
    if (pid > 0)
        waitpid(pid, NULL, 0);
    close_both(trouble);
    close_both(out);
    close_both(err);
    errno = error;
    return -1;
}
