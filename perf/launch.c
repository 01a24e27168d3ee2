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

/* A TCP port that was free a moment ago, at all addresses, as rank 0 will listen there; 0: none. */
static int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    socklen_t len = sizeof(address);
    int port = 0, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    if (bind(fd, (struct sockaddr *)&address, len) == 0 && getsockname(fd, (struct sockaddr *)&address, &len) == 0)
        port = ntohs(address.sin_port);
    close(fd);
    return port;
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

bool launch_local(const struct options *options, int *exit_status)
{
    int total = options->ranks + options->servers, port = free_port();
    pid_t parent = getpid();
    if (has_launcher())
        return false;
    *exit_status = 0;
    set_number("WEIR_WORLD_SIZE", total);
    set_number("WEIR_SERVERS", options->servers);
    set_number("WEIR_MASTER_PORT", port);
    setenv("WEIR_MASTER_ADDR", "127.0.0.1", 1);
    for (int rank = 0; rank < total; rank++) {
        pid_t pid = fork();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                _exit(1);
            set_number("WEIR_RANK", rank);
            set_number("WEIR_LOCAL_RANK", rank);
            return false;
        }
        if (pid < 0) {
            perror("weir_perf: fork");
            *exit_status = 1;
            break; /* those that started give up by WEIR_TIMEOUT, naming who is missing */
        }
    }
    int status;
    while (wait(&status) > 0)
        if (status != 0 && *exit_status == 0)
            *exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return true;
}
