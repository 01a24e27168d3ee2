#include "collectives/schedule.h"

/* Bytes below which a slice is not cut further to overlap its pieces: a message would cost more than it hides. */
#define LANE_MIN 32768u

struct span {
    uint64_t begin, len;
};

/* Part `index` of `parts` parts of `total`, as even as can be. */
static struct span split(uint64_t total, uint64_t parts, uint64_t index)
{
    uint64_t base = total / parts, extra = total % parts;
    struct span span = {index * base + (index < extra ? index : extra), base + (index < extra)};
    return span;
}

static uint64_t divide_up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

static uint64_t at_least(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

uint32_t wi_links(uint32_t ranks)
{
    uint32_t links = 0;
    while ((1u << links) < ranks)
        links++;
    return links;
}

static void init_chain(struct wi_schedule *s, const struct wi_schedule_params *params)
{
    uint64_t bytes = s->count * s->elem;
    s->large = bytes > WI_EAGER_MAX;
    if (!s->large)
        return; /* rides along with the rounds */
    s->pattern = WI_CHAIN;
    s->groups = divide_up(s->count, params->chunk / s->elem);
    s->wants = s->place < s->ranks - 1;
    s->offers = s->place > 0;
    s->sends += s->wants ? s->groups : 0;
    s->receives += s->offers ? s->groups : 0;
}

static void init_ring(struct wi_schedule *s, const struct wi_schedule_params *params)
{
    uint64_t chunk = params->chunk / s->elem;
    s->pattern = WI_RING;
    s->rounds = 0;
    s->groups = divide_up(s->count, (uint64_t)s->ranks * params->lanes * chunk);
    uint64_t slice = divide_up(divide_up(s->count, s->groups), s->ranks);
    uint64_t overlapping = slice * s->elem / LANE_MIN;
    if (overlapping > params->lanes)
        overlapping = params->lanes;
    s->lanes = (uint32_t)at_least(at_least(overlapping, divide_up(slice, chunk)), 1);
    s->large = divide_up(slice, s->lanes) * s->elem > WI_EAGER_MAX;
    s->offers = s->wants = s->large;
    s->sends = s->receives = s->groups * 2 * (s->ranks - 1) * s->lanes;
}

void wi_schedule_init(struct wi_schedule *schedule, const struct wi_schedule_params *params)
{
    uint32_t rounds = wi_links(params->ranks);
    *schedule = (struct wi_schedule){
        .pattern = WI_ROUNDS,
        .ranks = params->ranks,
        .rank = params->rank,
        .place = (params->rank + params->ranks - params->root) % params->ranks,
        .rounds = rounds,
        .elem = params->elem,
        .lanes = 1,
        .count = params->count,
        .groups = 0,
        .sends = rounds,
        .receives = rounds,
    };
    if (params->ranks == 1 || schedule->count == 0)
        return;
    if (params->kind == WI_BROADCAST)
        init_chain(schedule, params);
    else if (params->kind == WI_ALLREDUCE)
        init_ring(schedule, params);
}

/* Does the data of a small broadcast go from this place over link `link`? Rank at place
 * p < 2^k has it before round k. */
static bool rides(const struct wi_schedule *s, uint32_t place, uint32_t link)
{
    return s->pattern == WI_ROUNDS && s->count > 0 && place < (1u << link) && place + (1u << link) < s->ranks;
}

/* Where piece `index` of the ring's messages lies, seen from the sender at `rank`. */
static struct span ring_piece(const struct wi_schedule *s, uint32_t rank, uint64_t index)
{
    uint64_t per_group = 2ull * (s->ranks - 1) * s->lanes;
    uint32_t step = (uint32_t)(index % per_group / s->lanes);
    /* Step 0 sends the own slice; each later one the slice received in the step before. So does the all-gather. */
    uint32_t slice = (rank + 2 * s->ranks - step) % s->ranks;
    struct span group = split(s->count, s->groups, index / per_group);
    struct span part = split(group.len, s->ranks, slice);
    struct span piece = split(part.len, s->lanes, index % s->lanes);
    piece.begin += group.begin + part.begin;
    return piece;
}

static void ring_send(const struct wi_schedule *s, uint64_t index, struct wi_send *send)
{
    uint64_t per_group = 2ull * (s->ranks - 1) * s->lanes;
    uint64_t step = index % per_group / s->lanes;
    struct span piece = ring_piece(s, s->rank, index);
    if (step == 0)
        send->source = WI_FROM_INPUT;
    else
        send->source = step + 1 < s->ranks ? WI_FROM_PARTIAL : WI_FROM_KEPT;
    send->direct = s->large && step >= s->ranks - 1;
    send->offset = piece.begin * s->elem;
    send->len = piece.len * s->elem;
    send->after = step == 0 ? 0 : index - s->lanes + 1;
}

static void ring_receive(const struct wi_schedule *s, uint64_t index, struct wi_receive *receive)
{
    uint64_t per_group = 2ull * (s->ranks - 1) * s->lanes;
    uint64_t step = index % per_group / s->lanes;
    struct span piece = ring_piece(s, (s->rank + s->ranks - 1) % s->ranks, index);
    if (step + 2 < s->ranks)
        receive->action = WI_REDUCE;
    else
        receive->action = step + 2 == s->ranks ? WI_REDUCE_KEEP : WI_KEEP;
    receive->direct = s->large && step >= s->ranks - 1;
    receive->forward = step < 2ull * (s->ranks - 1) - 1;
    receive->offset = piece.begin * s->elem;
    receive->len = piece.len * s->elem;
}

static void round_send(const struct wi_schedule *s, uint32_t round, struct wi_send *send)
{
    send->link = round;
    send->after = round;
    if (rides(s, s->place, round)) {
        send->source = WI_FROM_RESULT;
        send->len = s->count * s->elem;
    }
}

static void round_receive(const struct wi_schedule *s, uint32_t round, struct wi_receive *receive)
{
    uint32_t sender = (s->place + s->ranks - (1u << round)) % s->ranks;
    receive->link = round;
    if (rides(s, sender, round)) {
        receive->action = WI_KEEP;
        receive->len = s->count * s->elem;
    }
}

void wi_schedule_send(const struct wi_schedule *schedule, uint64_t index, struct wi_send *send)
{
    *send = (struct wi_send){.source = WI_FROM_NOTHING};
    if (schedule->pattern == WI_RING) {
        ring_send(schedule, index, send);
        return;
    }
    if (index < schedule->rounds) {
        round_send(schedule, (uint32_t)index, send);
        return;
    }
    struct span piece = split(schedule->count, schedule->groups, index - schedule->rounds);
    send->source = schedule->place == 0 ? WI_FROM_INPUT : WI_FROM_KEPT;
    send->direct = true;
    send->offset = piece.begin * schedule->elem;
    send->len = piece.len * schedule->elem;
    send->after = schedule->place == 0 ? schedule->rounds : index + 1;
}

void wi_schedule_receive(const struct wi_schedule *schedule, uint64_t index, struct wi_receive *receive)
{
    *receive = (struct wi_receive){.action = WI_DROP};
    if (schedule->pattern == WI_RING) {
        ring_receive(schedule, index, receive);
        return;
    }
    if (index < schedule->rounds) {
        round_receive(schedule, (uint32_t)index, receive);
        return;
    }
    struct span piece = split(schedule->count, schedule->groups, index - schedule->rounds);
    receive->action = WI_KEEP;
    receive->direct = true;
    receive->forward = schedule->wants;
    receive->offset = piece.begin * schedule->elem;
    receive->len = piece.len * schedule->elem;
}
