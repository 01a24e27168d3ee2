/*
 * Signals that wait for other rails, at the target: see rails.h. A group is the links of one endpoint of a peer. Its
 * signals are counted in the order of their arrival; one that names rails waits until a token of each is there, and those
 * behind it wait too.
 */
#include "core/error.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <stdlib.h>

enum { QUEUE_MAX = 1 << 16 }; /* initiators keep to far fewer */

struct verbs_group {
    uint64_t from; /* these three: which of the peer's endpoints */
    uint32_t stream, again;
    unsigned links;
    uint64_t tokens[WI_VERBS_RAILS_MAX]; /* arrived and not used up */
    uint32_t *queue;                     /* immediates of signals that wait, a ring */
    uint32_t room, head, tail;
    struct verbs_group *next;
};

struct verbs_fences {
    uint64_t *signals;
    uint32_t signal_count;
    struct verbs_group *groups;
};

struct verbs_fences *wi_verbs_fences_create(uint64_t *signals, uint32_t signal_count)
{
    struct verbs_fences *fences = calloc(1, sizeof(*fences));
    if (!fences)
        return NULL;
    fences->signals = signals;
    fences->signal_count = signal_count;
    return fences;
}

void wi_verbs_fences_destroy(struct verbs_fences *fences)
{
    free(fences);
}

weir_status wi_verbs_fence_join(struct verbs_fences *fences, struct verbs_link *link)
{
    struct verbs_group *group = fences->groups;
    while (group && (group->from != link->from || group->stream != link->stream || group->again != link->again))
        group = group->next;
    if (!group) {
        group = calloc(1, sizeof(*group));
        if (!group)
            return wi_error(WEIR_ERR_NO_MEMORY, "connection from rank %llu: out of memory",
                            (unsigned long long)link->peer_id);
        group->from = link->from;
        group->stream = link->stream;
        group->again = link->again;
        group->next = fences->groups;
        fences->groups = group;
    }
    group->links++;
    link->group = group;
    return WEIR_OK;
}

void wi_verbs_fence_leave(struct verbs_fences *fences, struct verbs_link *link)
{
    struct verbs_group *group = link->group;
    link->group = NULL;
    if (!group || --group->links > 0)
        return;
    struct verbs_group **at = &fences->groups;
    while (*at != group)
        at = &(*at)->next;
    *at = group->next;
    free(group->queue);
    free(group);
}

static void count_signal(struct verbs_fences *fences, uint32_t imm)
{
    uint32_t signal = imm & WI_VERBS_IMM_SIGNAL;
    if (signal >= fences->signal_count)
        wi_debug("verbs: signal %u does not exist here", signal);
    else
        __atomic_store_n(&fences->signals[signal], fences->signals[signal] + 1, __ATOMIC_RELEASE);
}

/* Is a token of each rail that the signal names there? Then they are used up. */
static bool take_tokens(struct verbs_group *group, uint32_t imm)
{
    unsigned rails = imm & WI_VERBS_IMM_FENCE ? imm >> WI_VERBS_IMM_RAILS_SHIFT & WI_VERBS_IMM_RAILS : 0;
    for (unsigned i = 0; i < WI_VERBS_RAILS_MAX; i++)
        if (rails >> i & 1 && group->tokens[i] == 0)
            return false;
    for (unsigned i = 0; i < WI_VERBS_RAILS_MAX; i++)
        group->tokens[i] -= rails >> i & 1;
    return true;
}

static void drain(struct verbs_fences *fences, struct verbs_group *group)
{
    while (group->head != group->tail) {
        uint32_t imm = group->queue[group->head & (group->room - 1)];
        if (!take_tokens(group, imm))
            return;
        group->head++;
        count_signal(fences, imm);
    }
}

static bool enqueue(struct verbs_group *group, uint32_t imm)
{
    if (group->tail - group->head == group->room) {
        uint32_t room = group->room ? 2 * group->room : 64;
        uint32_t *queue = room <= QUEUE_MAX ? malloc(room * sizeof(*queue)) : NULL;
        if (!queue)
            return false;
        for (uint32_t at = group->head; at != group->tail; at++)
            queue[at & (room - 1)] = group->queue[at & (group->room - 1)];
        free(group->queue);
        group->queue = queue;
        group->room = room;
    }
    group->queue[group->tail++ & (group->room - 1)] = imm;
    return true;
}

bool wi_verbs_fence_signal(struct verbs_fences *fences, struct verbs_link *link, unsigned slot, uint32_t imm)
{
    struct verbs_group *group = link->group;
    if (!group)
        return true; /* its links have ended */
    if ((imm & ~WI_VERBS_IMM_SIGNAL) == WI_VERBS_IMM_FENCE) { /* names no rail: a token */
        group->tokens[slot]++;
        drain(fences, group);
        return true;
    }
    if (group->head == group->tail && take_tokens(group, imm)) {
        count_signal(fences, imm);
        return true;
    }
    return enqueue(group, imm);
}
