/*
 * Packets that were lost on the way, as far as the device counts them: a peer that does not answer any more may be dead, or
 * behind a path that loses too much, and the user has to know where to look.
 */
#include "transport/verbs/verbs.h"

#include <inttypes.h>
#include <stdio.h>

/* What drivers call the count of answers by which targets told of a gap in what came. */
static const char *const names[] = {
    "rcvd_seq_err",      /* rdma_rxe */
    "packet_seq_err",    /* mlx4, mlx5 */
    "seq_err_naks_rcvd", /* bnxt_re */
};

uint64_t wi_verbs_gaps(const struct verbs_choice *choice)
{
    uint64_t gaps = 0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[200];
        uint64_t count = 0;
        snprintf(path, sizeof(path), "/sys/class/infiniband/%.63s/ports/%u/hw_counters/%s", choice->device, choice->port,
                 names[i]);
        FILE *file = fopen(path, "re");
        if (!file)
            continue;
        if (fscanf(file, "%" SCNu64, &count) == 1)
            gaps += count;
        fclose(file);
    }
    return gaps;
}
