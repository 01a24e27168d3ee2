/*
 * All-gather and barrier over the store: each rank puts its piece under "NAME/RANK" and asks for those of all others in
 * one go; the store answers each as it comes. A barrier gathers nothing: the store counts who has come, and a rank asks for
 * the others only when they do not come, to name them.
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
    bool *here;   /* by index: has its piece come? */
    int *indices; /* by request: whose piece it asks for */
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
    for (int i = 0; i < gather->n; i++) {
        int rank = rank_at(gather, i);
        if (rank < 0 || rank >= boot->world)
            return wi_error(WEIR_ERR_INVALID, "'%s': rank %d is not one of the job's %d", gather->name, rank,
                            boot->world);
        if (rank == boot->rank)
            gather->me = i;
    }
    if (gather->me < 0)
        return wi_error(WEIR_ERR_INVALID, "'%s': rank %d is not in the group it calls with", gather->name, boot->rank);
    return WEIR_OK;
}

static weir_status on_piece(struct wi_call *call, uint32_t request, const struct wi_message *answer)
{
    struct gather *gather = call->arg;
    if (answer->type != WI_WIRE_VALUE)
        return WEIR_OK; /* our own piece is stored */
    int index = gather->indices[request];
    if (answer->value.len != gather->len)
        return wi_error(WEIR_ERR_MISMATCH, "'%s': rank %d gives %zu bytes, this rank %zu", gather->name,
                        rank_at(gather, index), answer->value.len, gather->len);
    gather->here[index] = true;
    if (gather->len > 0)
        memcpy(gather->all + (size_t)index * gather->len, answer->value.data, gather->len);
    return WEIR_OK;
}

static void give(struct weir_boot *boot, struct wi_call *call, const struct gather *gather, const void *mine)
{
    char key[WEIR_BOOT_KEY_MAX + 1];
    snprintf(key, sizeof(key), "%s/%d", gather->name, boot->rank);
    struct wi_message put = {.type = WI_WIRE_PUT, .key = wi_span_text(key), .value = {mine, gather->len}};
    wi_client_add(&boot->client, call, &put);
}

static void ask(struct weir_boot *boot, struct wi_call *call, struct gather *gather)
{
    char key[WEIR_BOOT_KEY_MAX + 1];
    for (int i = 0; i < gather->n; i++) {
        if (i == gather->me)
            continue;
        snprintf(key, sizeof(key), "%s/%d", gather->name, rank_at(gather, i));
        struct wi_message get = {.type = WI_WIRE_GET, .key = wi_span_text(key)};
        gather->indices[call->count] = i;
        wi_client_add(&boot->client, call, &get);
    }
}

/* Names who has not come. */
static weir_status say_missing(const struct gather *gather)
{
    char list[256];
    size_t used = 0;
    for (int i = 0; i < gather->n; i++) {
        if (gather->here[i])
            continue;
        if (used + 24 > sizeof(list)) {
            snprintf(list + used, sizeof(list) - used, ", ...");
            break;
        }
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%d", used ? ", " : "", rank_at(gather, i));
    }
    return wi_error(WEIR_ERR_TIMEOUT, "'%s': rank %s did not come within WEIR_TIMEOUT", gather->name, list);
}

static weir_status explain(const struct gather *gather, weir_status status)
{
    if (status == WEIR_ERR_TIMEOUT)
        return say_missing(gather);
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

/* Asks who has come. `call` is over: it has run out of time. */
static weir_status find_missing(struct weir_boot *boot, struct gather *gather, uint64_t deadline_ns)
{
    struct wi_call call = {.on_answer = on_piece, .arg = gather};
    wi_client_begin(&boot->client, &call);
    ask(boot, &call, gather);
    weir_status status = wi_client_finish(&boot->client, &call, deadline_ns);
    return call.explained ? status : explain(gather, status); /* WEIR_OK: the last one has come just now */
}

static weir_status meet(struct weir_boot *boot, struct gather *gather)
{
    char key[WEIR_BOOT_KEY_MAX + 1], meeting[WEIR_BOOT_KEY_MAX + 32];
    uint64_t deadline_ns = wi_now_ns() + boot->timeout_ns;
    uint64_t left_to_ask_ns = boot->timeout_ns / 5 < WI_NS_PER_S ? boot->timeout_ns / 5 : WI_NS_PER_S;
    snprintf(key, sizeof(key), "%s/%d", gather->name, boot->rank);
    int len = snprintf(meeting, sizeof(meeting), "%s %d %08x", gather->name, gather->n, crc_of_group(gather));
    struct wi_call call = {0};
    struct wi_message message = {.type = WI_WIRE_MEET,
                                 .world = (uint32_t)gather->n,
                                 .key = wi_span_text(key),
                                 .value = {meeting, (size_t)len}};
    wi_client_begin(&boot->client, &call);
    wi_client_add(&boot->client, &call, &message);
    weir_status status = wi_client_finish(&boot->client, &call, deadline_ns - left_to_ask_ns);
    if (call.explained)
        return status;
    return status == WEIR_ERR_TIMEOUT ? find_missing(boot, gather, deadline_ns) : explain(gather, status);
}

static weir_status gather_all(struct weir_boot *boot, struct gather *gather, const void *mine)
{
    struct wi_call call = {.on_answer = on_piece, .arg = gather};
    wi_client_begin(&boot->client, &call);
    give(boot, &call, gather, mine);
    ask(boot, &call, gather);
    weir_status status = wi_client_finish(&boot->client, &call, wi_now_ns() + boot->timeout_ns);
    return call.explained ? status : explain(gather, status);
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
    gather->indices = calloc((size_t)gather->n, sizeof(*gather->indices));
    if (!gather->here || !gather->indices) {
        status = explain(gather, WEIR_ERR_NO_MEMORY);
    } else {
        gather->here[gather->me] = true;
        status = mine ? gather_all(boot, gather, mine) : meet(boot, gather);
    }
    free(gather->here);
    free(gather->indices);
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
