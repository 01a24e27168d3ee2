/*
 * Packets that were lost on the way, as far as the device counts them: a peer that does not answer any more may be dead, or
 * behind a path that loses too much, and the user has to know where to look. Over soft-RoCE writes are shortened while
 * packets get lost (queue.c says why).
 */
#include "core/log.h"
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
        break;
    }
    return gaps;
}

enum { QUIET_LOOKS = 64 }; /* without a new gap, until packets are said to be lost no more */

void wi_verbs_gaps_look(struct verbs_iface *iface)
{
    if (iface->device.write_packets == 0)
        return;
    bool was_lossy = iface->lossy_looks > 0;
    uint64_t gaps = wi_verbs_gaps(&iface->choice);
    if (gaps != iface->gaps_seen)
        iface->lossy_looks = QUIET_LOOKS;
    else if (was_lossy)
        iface->lossy_looks--;
    iface->gaps_seen = gaps;
    bool is_lossy = iface->lossy_looks > 0;
    if (is_lossy == was_lossy)
        return;
    wi_info("verbs: %s: %s", iface->base.device, is_lossy ? "packets are lost on the way; each has a write of its own now"
                                                           : "no packets were lost for a while; writes are as long as before");
    for (uint32_t i = 0; i < iface->eps_room; i++)
        if (iface->eps[i] && iface->eps[i]->base.ready)
            iface->eps[i]->max_write = wi_verbs_longest_write(iface->eps[i]);
}
