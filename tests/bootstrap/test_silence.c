/*
 * A cut network: the ranks' hosts are network namespaces with a veth pair between them, and the link goes down. Nothing
 * is sent that could fail; the kernel's keepalive finds out. Needs the right to make namespaces, else it is skipped.
 */
#include "job.h"

#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#define TIMEOUT_S 3
#define SKIPPED   77

static void run_command(const char *command)
{
    if (system(command) != 0) {
        fprintf(stderr, "failed: %s\n", command);
        _exit(1);
    }
}

/* The other host: joins as rank 1 when its end of the cable is there. */
static void be_rank_1(int rank, void *arg)
{
    const int *ready = arg;
    weir_boot *boot;
    char byte = 0;
    weir_boot_params params = job_params(rank, 2, 29400);
    params.master_addr = "10.77.0.1";
    EXPECT(unshare(CLONE_NEWNET) == 0 && write(ready[1], &byte, 1) == 1);
    for (int i = 0; i < 1000 && system("ip link show v1 >/dev/null 2>&1") != 0; i++)
        poll(NULL, 0, 5);
    run_command("ip addr add 10.77.0.2/24 dev v1 && ip link set v1 up");
    EXPECT_STATUS(WEIR_OK, weir_boot_create(&params, &boot));
    EXPECT(strcmp(weir_boot_local_address(boot), "10.77.0.2") == 0);
    struct pollfd readable = {.fd = weir_boot_fd(boot), .events = POLLIN};
    EXPECT(poll(&readable, 1, 20000) == 1);
    EXPECT_STATUS(WEIR_ERR_PEER_GONE, weir_boot_check(boot));
    EXPECT_SAYS("rank 0, which serves the store at 10.77.0.1 port 29400, fell silent");
    weir_boot_destroy(boot);
}

static void be_rank_0(int rank, void *arg)
{
    int ready[2];
    char byte;
    char command[256];
    weir_boot *boot;
    weir_boot_params params = job_params(rank, 2, 29400);
    (void)arg;
    params.master_addr = "10.77.0.1";
    if (unshare(CLONE_NEWNET) != 0 || system("ip link add v0 type veth peer name v1 2>/dev/null") != 0)
        _exit(SKIPPED);
    EXPECT(pipe(ready) == 0);
    pid_t other = job_start(1, be_rank_1, ready);
    EXPECT(read(ready[0], &byte, 1) == 1);
    snprintf(command, sizeof(command),
             "ip link set lo up && ip link set v1 netns %d && ip addr add 10.77.0.1/24 dev v0 && ip link set v0 up",
             (int)other);
    run_command(command);
    EXPECT_STATUS(WEIR_OK, weir_boot_create(&params, &boot));
    EXPECT(strcmp(weir_boot_local_address(boot), "10.77.0.1") == 0);
    EXPECT_STATUS(WEIR_OK, weir_boot_check(boot));
    poll(NULL, 0, 100); /* the welcome to rank 1 is acknowledged: nothing is on its way */
    run_command("ip link set v0 down");
    double cut = job_now();
    struct pollfd readable = {.fd = weir_boot_fd(boot), .events = POLLIN};
    EXPECT(poll(&readable, 1, 20000) == 1);
    EXPECT_STATUS(WEIR_ERR_PEER_GONE, weir_boot_check(boot));
    EXPECT_SAYS("rank 1 (process ");
    EXPECT_SAYS("fell silent: its host is down or the network to it is cut");
    fprintf(stderr, "rank 0 saw the cut after %.1f s\n", job_now() - cut);
    EXPECT(job_now() - cut < 3 * TIMEOUT_S);
    EXPECT(job_wait(other) == 0);
    weir_boot_destroy(boot);
}

static void cut_network_is_told(void **state)
{
    (void)state;
    setenv("WEIR_TIMEOUT", "3s", 1);
    int status = job_wait(job_start(0, be_rank_0, NULL));
    if (status == SKIPPED) {
        print_message("skipped: no right to make network namespaces, or no veth here\n");
        exit(SKIPPED);
    }
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(cut_network_is_told)};
    return cmocka_run_group_tests_name("bootstrap: silence", tests, NULL, NULL);
}
