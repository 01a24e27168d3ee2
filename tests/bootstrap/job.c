#include "job.h"

#include "bootstrap/wire.h"
#include "core/clock.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT_S 40.0

int job_rank = -1;

double job_now(void)
{
    return (double)wi_now_ns() / 1e9;
}

/*
 * The socket stays bound, but does not listen: with SO_REUSEADDR on both sides the store may listen there, while the
 * kernel gives the port to nobody else.
 */
int job_port(void)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6};
    socklen_t len = sizeof(address);
    int on = 1;
    int off = 0;
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (fd < 0 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) != 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0) {
        perror("job_port");
        exit(2);
    }
    return ntohs(address.sin6_port);
}

weir_boot_params job_params(int rank, int world, int port)
{
    return (weir_boot_params){
        .size = sizeof(weir_boot_params),
        .rank = rank,
        .world_size = world,
        .local_rank = -1,
        .master_addr = "127.0.0.1",
        .master_port = port,
        .servers = -1,
    };
}

pid_t job_start(int rank, void (*run)(int rank, void *arg), void *arg)
{
    pid_t parent = getpid();
    fflush(NULL);
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(2);
    job_rank = rank;
    run(rank, arg);
    exit(0);
}

int job_wait(pid_t pid)
{
    int status;
    double until = job_now() + WAIT_S;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (job_now() > until) {
            fprintf(stderr, "process %d hangs\n", (int)pid);
            kill(pid, SIGKILL);
        }
        poll(NULL, 0, 2);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct job {
    weir_boot_params params;
    job_function function;
    void *arg;
};

static void run_rank(int rank, void *arg)
{
    struct job *job = arg;
    weir_boot *boot;
    job->params.rank = rank;
    EXPECT_STATUS(WEIR_OK, weir_boot_create(&job->params, &boot));
    job->function(boot, job->arg);
    weir_boot_destroy(boot);
}

bool job_run(const char *address, int world, job_function function, void *arg)
{
    pid_t pids[64];
    struct job job = {job_params(0, world, job_port()), function, arg};
    bool good = true;
    job.params.master_addr = address;
    for (int rank = world - 1; rank >= 0; rank--)
        pids[rank] = job_start(rank, run_rank, &job);
    for (int rank = 0; rank < world; rank++) {
        int status = job_wait(pids[rank]);
        if (status != 0)
            fprintf(stderr, "rank %d of %d at %s ended with status %d\n", rank, world, address, status);
        good = good && status == 0;
    }
    return good;
}

int job_connect_once(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_port = htons((uint16_t)port);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    close(fd);
    return -1;
}

int job_connect(int port)
{
    double until = job_now() + 10;
    int fd = job_connect_once(port);
    while (fd < 0 && job_now() < until) {
        poll(NULL, 0, 5);
        fd = job_connect_once(port);
    }
    return fd;
}

int job_join_raw(int rank, int world, int port)
{
    uint8_t bytes[1024];
    size_t len = 0;
    size_t frame_len;
    struct wi_message message = {
        .type = WI_WIRE_HELLO,
        .rank = (uint32_t)rank,
        .world = (uint32_t)world,
        .pid = (uint32_t)getpid(),
        .timeout_ms = 20000,
        .job = wi_span_text(""),
        .host = wi_span_text("raw"),
    };
    int fd = job_connect(port);
    size_t size = wi_wire_encode(&message, bytes, sizeof(bytes));
    if (fd < 0 || send(fd, bytes, size, MSG_NOSIGNAL) != (ssize_t)size)
        return -1;
    for (ssize_t got; (got = recv(fd, bytes + len, sizeof(bytes) - len, 0)) > 0;) {
        len += (size_t)got;
        if (wi_wire_decode(bytes, len, &message, &frame_len) == WI_WIRE_OK)
            return message.type == WI_WIRE_ACK ? fd : -1;
    }
    return -1;
}
