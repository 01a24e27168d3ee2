/* Starts the benchmark's processes on this host when no launcher did, so that `weir_perf put_lat` works by itself. */
#include "perf.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * A TCP port that nobody uses; 0: none. The socket stays bound, without listening, for the life of the processes: with
 * SO_REUSEADDR on both sides the store may listen there, while the kernel gives the port to nobody else.
 */
static int free_port(void)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6};
    socklen_t len = sizeof(address);
    int on = 1, off = 0, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) { /* a host without IPv6 */
        struct sockaddr_in in4 = {.sin_family = AF_INET};
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        len = sizeof(in4);
        if (fd < 0 || bind(fd, (struct sockaddr *)&in4, len) || getsockname(fd, (struct sockaddr *)&in4, &len) ||
            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)))
            return 0;
        return ntohs(in4.sin_port);
    }
    if (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) || bind(fd, (struct sockaddr *)&address, len) ||
        getsockname(fd, (struct sockaddr *)&address, &len) ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)))
        return 0;
    return ntohs(address.sin6_port);
}

static void set_number(const char *name, int value)
{
    char text[16];
    snprintf(text, sizeof(text), "%d", value);
    setenv(name, text, 1);
}

/* Asked of the environment itself: the library reads it once a process, and it is about to be changed. */
static bool has_launcher(void)
{
    return getenv("WEIR_WORLD_SIZE") || getenv("WORLD_SIZE");
}

/*
 * Returns the status of the first that failed. One that a signal ends (SIGPIPE: who read the results has left) could
 * tell the others nothing, which would wait for it until WEIR_TIMEOUT: they end with it. It counts as the first even
 * where another's end comes before: its sockets close, and tell of it, before the kernel reports that it has ended.
 */
static int await(pid_t *pids, int count)
{
    int status, result = 0;
    bool signalled = false;
    pid_t ended;
    while ((ended = wait(&status)) > 0) {
        bool first_signal = WIFSIGNALED(status) && !signalled;
        for (int i = 0; i < count; i++) {
            if (pids[i] == ended)
                pids[i] = 0; /* its number may be another's by now */
            else if (first_signal && pids[i] > 0)
                kill(pids[i], SIGTERM);
        }
        if (first_signal)
            result = 128 + WTERMSIG(status);
        else if (result == 0)
            result = WEXITSTATUS(status);
        signalled = signalled || first_signal;
    }
    return result;
}

bool launch_local(const struct options *options, int *exit_status)
{
    int total = options->ranks + options->servers, port = free_port(), started = 0, failed = 0;
    pid_t parent = getpid(), pids[2 * RANKS_MAX];
    if (has_launcher())
        return false;
    set_number("WEIR_WORLD_SIZE", total);
    set_number("WEIR_SERVERS", options->servers);
    set_number("WEIR_MASTER_PORT", port);
    setenv("WEIR_MASTER_ADDR", "127.0.0.1", 1);
    for (int rank = 0; rank < total && !failed; rank++) {
        pid_t pid = fork();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                _exit(1);
            set_number("WEIR_RANK", rank);
            set_number("WEIR_LOCAL_RANK", rank);
            return false;
        }
        if (pid > 0) {
            pids[started++] = pid;
        } else { /* those that started give up by WEIR_TIMEOUT, naming who is missing */
            perror("weir_perf: fork");
            failed = 1;
        }
    }
    *exit_status = await(pids, started);
    if (failed)
        *exit_status = failed;
    return true;
}
