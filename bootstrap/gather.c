/*
 * All-gather and barrier over the store: each rank brings its piece, which the store keeps under "NAME/RANK" too, and gets
 * all of them together when the last one has come. A barrier gathers nothing. When some do not come the store says who.
 */
#include <weir/bootstrap.h>

#include "bootstrap/boot.h"
#include "core/clock.h"
#include "core/crc.h"
#include "core/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_LEN (WEIR_BOOT_KEY_MAX - 8u) /* "/65535" follows */

struct gather {
    const char *name;
    const int *ranks; /* NULL: the world */
    int n;
    int me; /* index of this rank */
    size_t len;
    uint8_t *all;
    bool *here; /* by index: has its piece come? */
};

static int rank_at(const struct gather *gather, int index)
{
    return gather->ranks ? gather->ranks[index] : index;
}

/* Checks the group and finds this rank in it. */
static weir_status check_group(const struct weir_boot *boot, struct gather *gather)
{
    if (!gather->name || strlen(gather->name) > NAME_MAX_LEN || !*gather->name)
        return wi_error(WEIR_ERR_RANGE, "the name of an allgather or barrier must have 1 to %u bytes", NAME_MAX_LEN);
    if (gather->len > WEIR_BOOT_VALUE_MAX)
        return wi_error(WEIR_ERR_RANGE, "allgather '%s': %zu bytes; at most %u are allowed", gather->name, gather->len,
                        WEIR_BOOT_VALUE_MAX);
    gather->me = -1;
    bool *seen = calloc((size_t)boot->world, sizeof(*seen));
    weir_status status = seen ? WEIR_OK : wi_error(WEIR_ERR_NO_MEMORY, "'%s': out of memory", gather->name);
    for (int i = 0; i < gather->n && status == WEIR_OK; i++) {
        int rank = rank_at(gather, i);
        if (rank < 0 || rank >= boot->world)
            status =
                wi_error(WEIR_ERR_INVALID, "'%s': rank %d is not one of the job's %d", gather->name, rank, boot->world);
        else if (seen[rank])
            status = wi_error(WEIR_ERR_INVALID, "'%s': rank %d is twice in the group", gather->name, rank);
        else
            seen[rank] = true;
        if (rank == boot->rank)
            gather->me = i;
    }
    free(seen);
    if (status == WEIR_OK && gather->me < 0)
        status =
            wi_error(WEIR_ERR_INVALID, "'%s': rank %d is not in the group it calls with", gather->name, boot->rank);
    return status;
}

/* What the rank at `index` gave. */
static weir_status take(struct gather *gather, int index, struct wi_span piece)
{
    if (piece.len != gather->len)
        return wi_error(WEIR_ERR_MISMATCH, "'%s': rank %d gives %zu bytes, this rank %zu", gather->name,
                        rank_at(gather, index), piece.len, gather->len);
    gather->here[index] = true;
    if (gather->len > 0)
        memcpy(gather->all + (size_t)index * gather->len, piece.data, gather->len);
    return WEIR_OK;
}

static bool all_are_here(const struct gather *gather)
{
    for (int i = 0; i < gather->n; i++)
        if (!gather->here[i])
            return false;
    return true;
}

static weir_status on_pieces(struct wi_call *call, uint32_t request, const struct wi_message *answer)
{
    struct gather *gather = call->arg;
    struct wi_span left = answer->value, piece;
    bool good = answer->type == WI_WIRE_PIECES || gather->len == 0;
    weir_status status = WEIR_OK;
    (void)request;
    for (uint32_t index = answer->rank; answer->type == WI_WIRE_PIECES && left.len > 0 && good && status == WEIR_OK; index++) {
        good = index < (uint32_t)gather->n && wi_wire_next_piece(&left, &piece);
        if (good)
            status = take(gather, (int)index, piece);
    }
    if (status == WEIR_OK && gather->len > 0 && answer->status != WEIR_ERR_AGAIN)
        good = good && all_are_here(gather);
    return good ? status
                : wi_error(WEIR_ERR_PROTOCOL, "'%s': the store answers with something that cannot be right", gather->name);
}

/* Names who has not come. */
static weir_status on_absent(struct wi_call *call, uint32_t request, const struct wi_message *answer)
{
    const struct gather *gather = call->arg;
    const uint8_t *numbers = answer->value.data;
    char list[256] = "";
    size_t used = 0;
    (void)request;
    for (size_t at = 0; at + 4 <= answer->value.len; at += 4) {
        uint32_t index = wi_wire_load32(numbers + at);
        if (index >= (uint32_t)gather->n)
            continue;
        if (used + 24 > sizeof(list)) {
            snprintf(list + used, sizeof(list) - used, ", ...");
            break;
        }
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%d", used ? ", " : "", rank_at(gather, (int)index));
    }
    if (used == 0)
        return wi_error(WEIR_ERR_TIMEOUT, "'%s': the last rank came as WEIR_TIMEOUT passed", gather->name);
    return wi_error(WEIR_ERR_TIMEOUT, "'%s': rank %s did not come within WEIR_TIMEOUT", gather->name, list);
}

static weir_status explain(const struct gather *gather, weir_status status)
{
    if (status == WEIR_ERR_TIMEOUT)
        return wi_error(status, "'%s': not all ranks came within WEIR_TIMEOUT, and the store does not say who", gather->name);
    if (status == WEIR_ERR_MISMATCH)
        return wi_error(status, "'%s' was used before: a name is used once in a job", gather->name);
    return status == WEIR_OK
               ? WEIR_OK
               : wi_error(status, "'%s': %s, here or in rank 0", gather->name, weir_status_string(status));
}

static weir_status gather_alone(struct weir_boot *boot, struct gather *gather, const void *mine)
{
    char key[WEIR_BOOT_KEY_MAX + 1];
    snprintf(key, sizeof(key), "%s/%d", gather->name, boot->rank);
    return explain(gather, wi_store_put(&boot->alone, wi_span_text(key), (struct wi_span){mine, gather->len}));
}

/* Groups that differ and use the same name, at whatever time, meet apart. */
static uint32_t crc_of_group(const struct gather *gather)
{
    uint32_t crc = 0;
    for (int i = 0; i < gather->n; i++) {
        uint32_t number[2] = {crc, (uint32_t)rank_at(gather, i)};
        crc = wi_crc32(number, sizeof(number));
    }
    return crc;
}

/* Asks who has not come to a meeting that has run out of time. The answer has a second, also where WEIR_TIMEOUT is short. */
static weir_status find_absent(struct weir_boot *boot, struct gather *gather, const char *meeting)
{
    struct wi_call call = {.on_answer = on_absent, .arg = gather};
    struct wi_message message = {.type = WI_WIRE_ABSENT, .text = wi_span_text(meeting)};
    wi_client_begin(&boot->client, &call);
    wi_client_add(&boot->client, &call, &message);
    weir_status status = wi_client_finish(&boot->client, &call, wi_now_ns() + WI_NS_PER_S);
    return call.explained ? status : explain(gather, status);
}

static weir_status meet(struct weir_boot *boot, struct gather *gather, const void *mine)
{
    char key[WEIR_BOOT_KEY_MAX + 1], meeting[WEIR_BOOT_KEY_MAX + 32];
    uint64_t deadline_ns = wi_now_ns() + boot->timeout_ns;
    uint64_t left_to_ask_ns = boot->timeout_ns / 5 < WI_NS_PER_S ? boot->timeout_ns / 5 : WI_NS_PER_S;
    snprintf(key, sizeof(key), "%s/%d", gather->name, boot->rank);
    snprintf(meeting, sizeof(meeting), "%s %d %08x", gather->name, gather->n, crc_of_group(gather));
    struct wi_call call = {.on_answer = on_pieces, .arg = gather};
    struct wi_message message = {.type = WI_WIRE_MEET,
                                 .rank = (uint32_t)gather->me,
                                 .world = (uint32_t)gather->n,
                                 .key = wi_span_text(key),
                                 .value = {mine, gather->len},
                                 .text = wi_span_text(meeting)};
    wi_client_begin(&boot->client, &call);
    wi_client_add(&boot->client, &call, &message);
    weir_status status = wi_client_finish(&boot->client, &call, deadline_ns - left_to_ask_ns);
    if (call.explained)
        return status;
    return status == WEIR_ERR_TIMEOUT ? find_absent(boot, gather, meeting) : explain(gather, status);
}

static weir_status run(struct weir_boot *boot, struct gather *gather, const void *mine)
{
    weir_status status = wi_boot_process_check(boot, gather->name ? gather->name : "weir_boot_allgather");
    if (status == WEIR_OK)
        status = check_group(boot, gather);
    if (status != WEIR_OK)
        return status;
    if (gather->len > 0)
        memmove(gather->all + (size_t)gather->me * gather->len, mine, gather->len);
    mine = gather->len > 0 ? gather->all + (size_t)gather->me * gather->len : NULL;
    if (boot->world == 1)
        return gather_alone(boot, gather, mine);

    gather->here = calloc((size_t)gather->n, sizeof(*gather->here));
    status = gather->here ? meet(boot, gather, mine) : explain(gather, WEIR_ERR_NO_MEMORY);
    free(gather->here);
    return status;
}

weir_status weir_boot_allgather(weir_boot *boot, const char *name, const int *ranks, int n, const void *mine,
                                size_t len, void *all)
{
    struct gather gather = {.name = name, .ranks = ranks, .n = ranks ? n : boot->world, .len = len, .all = all};
    return run(boot, &gather, mine);
}

weir_status weir_boot_barrier(weir_boot *boot, const char *name, const int *ranks, int n)
{
    struct gather gather = {.name = name, .ranks = ranks, .n = ranks ? n : boot->world};
    return run(boot, &gather, NULL);
}
