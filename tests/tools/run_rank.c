/* A rank for the tests of `weir run`: joins, meets the others, says who it is, leaves. "die": rank 1 kills itself. */
#include <weir/bootstrap.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    weir_boot *boot;
    int all[64];
    if (weir_boot_create(NULL, &boot) != WEIR_OK) {
        fprintf(stderr, "%s\n", weir_last_error());
        return 3;
    }
    int rank = weir_boot_rank(boot);
    if (weir_boot_allgather(boot, "ranks", NULL, 0, &rank, sizeof(rank), all) != WEIR_OK) {
        fprintf(stderr, "%s\n", weir_last_error());
        return 4;
    }
    if (argc > 1 && strcmp(argv[1], "die") == 0) {
        char value[1];
        size_t len = sizeof(value);
        if (rank == 1)
            raise(SIGKILL);
        if (weir_boot_get(boot, "never", value, &len, -1) == WEIR_ERR_PEER_GONE)
            return 5;
    }
    printf("%s %d of %d, local %d, last %d\n", weir_boot_role(boot) == WEIR_ROLE_SERVER ? "server" : "worker", rank,
           weir_boot_size(boot), weir_boot_local_rank(boot), all[weir_boot_size(boot) - 1]);
    weir_boot_destroy(boot);
    return 0;
}
