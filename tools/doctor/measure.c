/* What two doctors measure between them: latency, bandwidth with every byte compared, the offset of their clocks. */
#include "peer.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LATENCY_ROUNDS = 1000, LATENCY_WARMUP = 50, CLOCK_ROUNDS = 32 };

static const double MEASURE_S = 1.0; /* a stage ends after so long, even when it has not done all rounds */
static const size_t WRITE_BYTES = 256u << 20;
static const uint32_t LAST_WORD = ~0u;

double peer_now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ---- Latency ----------------------------------------------------------------------------------------------------- */

/*
 * A word travels twice in 8 bytes, and has arrived when both are there: of a write only its last byte is known to land last,
 * and soft-RoCE copies byte by byte, where a reader may look in between.
 */
static weir_status put_word(struct peer *peer, uint32_t word)
{
    unsigned char *source = peer->source + PEER_BUFFER;
    uint64_t twice = (uint64_t)word << 32 | word;
    memcpy(source, &twice, sizeof(twice));
    return weir_put(peer->ep, source, peer->source_mem, sizeof(twice), peer->remote + PEER_BUFFER, peer->rkey, NULL);
}

/* Waits until the peer has written another word than `last`. */
static weir_status wait_word(struct peer *peer, uint32_t last, uint32_t *word)
{
    const uint64_t *window = (const uint64_t *)(void *)(peer->window + PEER_BUFFER);
    double give_up = peer_now_s() + peer->timeout_ms / 1e3;
    for (unsigned turn = 1;; turn++) {
        uint64_t twice = __atomic_load_n(window, __ATOMIC_ACQUIRE);
        *word = (uint32_t)twice;
        if (*word != last && *word == twice >> 32)
            return WEIR_OK;
        weir_progress(peer->ctx);
        if (turn % 64)
            continue;
        weir_status status = weir_ep_status(peer->ep);
        if (status != WEIR_OK)
            return status;
        if (turn % 4096 == 0 && peer_now_s() > give_up)
            return peer_error(peer, WEIR_ERR_TIMEOUT, "8 bytes written by the peer did not arrive in time%s",
                              *word == twice >> 32 ? "" : ", or changed");
        sched_yield(); /* both sides may share a processor */
    }
}

static weir_status echo_words(struct peer *peer)
{
    uint32_t word = 0;
    weir_status status = WEIR_OK;
    while (status == WEIR_OK && word != LAST_WORD) {
        status = wait_word(peer, word, &word);
        if (status == WEIR_OK)
            status = put_word(peer, word);
    }
    return status;
}

static weir_status time_words(struct peer *peer, double *samples, size_t *count)
{
    uint32_t back = 0;
    double start = peer_now_s(), last = start;
    weir_status status = WEIR_OK;
    for (uint32_t round = 1; status == WEIR_OK && round <= LATENCY_WARMUP + LATENCY_ROUNDS; round++) {
        status = put_word(peer, round);
        if (status == WEIR_OK)
            status = wait_word(peer, round - 1, &back);
        if (status == WEIR_OK && back != round)
            return peer_error(peer, WEIR_ERR_PROTOCOL, "8 bytes written came back changed");
        double now = peer_now_s();
        if (round > LATENCY_WARMUP)
            samples[(*count)++] = (now - last) / 2.0 * 1e6;
        last = now;
        if (*count >= 16 && now - start > MEASURE_S)
            break;
    }
    if (status == WEIR_OK)
        status = put_word(peer, LAST_WORD);
    if (status == WEIR_OK)
        status = wait_word(peer, back, &back);
    return status;
}

weir_status peer_latency(struct peer *peer)
{
    double samples[LATENCY_ROUNDS];
    size_t count = 0;
    if (peer->serves)
        return echo_words(peer);
    weir_status status = time_words(peer, samples, &count);
    if (status != WEIR_OK)
        return status;
    qsort(samples, count, sizeof(*samples), by_value);
    peer->mine.value[0] = samples[count / 2];
    peer->mine.value[1] = samples[0];
    peer->mine.value[2] = (double)count;
    return WEIR_OK;
}

/* ---- Bandwidth --------------------------------------------------------------------------------------------------- */

/* No two slots, and no shift of one, look alike. */
static unsigned char pattern(size_t at)
{
    return (unsigned char)(at * 167 + (at >> 8) * 13 + (at >> 16) * 7 + 1);
}

static weir_status write_slots(struct peer *peer, weir_comp *comp)
{
    weir_status status = WEIR_OK;
    for (size_t i = 0; i < PEER_SLOTS && status == WEIR_OK; i++)
        status = weir_put(peer->ep, peer->source + i * PEER_SLOT, peer->source_mem, PEER_SLOT,
                          peer->remote + i * PEER_SLOT, peer->rkey, comp);
    return status;
}

/* Two rounds of slots are on their way at any time. */
static weir_status write_rounds(struct peer *peer, size_t *rounds)
{
    weir_comp *comp = peer->comp, *flushed = &peer->comp[2];
    double start = peer_now_s();
    weir_status status = write_slots(peer, &comp[0]);
    for (*rounds = 1; status == WEIR_OK; ++*rounds) {
        bool last = *rounds * PEER_BUFFER >= WRITE_BYTES || (*rounds >= 2 && peer_now_s() - start > MEASURE_S);
        if (!last)
            status = write_slots(peer, &comp[*rounds % 2]);
        if (status == WEIR_OK)
            status = weir_wait(peer->ctx, &comp[(*rounds - 1) % 2], -1);
        if (last)
            break;
    }
    if (status == WEIR_OK)
        status = weir_flush(peer->ep, flushed);
    if (status == WEIR_OK)
        status = weir_wait(peer->ctx, flushed, -1);
    return status;
}

static weir_status write_all(struct peer *peer)
{
    size_t rounds = 0;
    for (size_t i = 0; i < PEER_BUFFER; i++)
        peer->source[i] = pattern(i);
    double start = peer_now_s();
    weir_status status = write_rounds(peer, &rounds);
    double elapsed = peer_now_s() - start;
    if (status == WEIR_OK)
        status = weir_put_signal(peer->ep, NULL, NULL, 0, 0, NULL, peer->remote_signal, NULL);
    peer->mine.value[0] = (double)rounds * PEER_BUFFER / elapsed / 1e9;
    peer->mine.value[1] = (double)rounds * PEER_BUFFER;
    return status;
}

static weir_status receive_all(struct peer *peer)
{
    weir_status status = weir_signal_wait(peer->ctx, peer->signal, 1, peer->timeout_ms + 5000);
    for (size_t i = 0; i < PEER_BUFFER && status == WEIR_OK; i++)
        if (peer->window[i] != pattern(i))
            status = peer_error(peer, WEIR_ERR_PROTOCOL, "byte %zu of what was written arrived changed: %02x instead of %02x",
                                i, peer->window[i], pattern(i));
    return status;
}

weir_status peer_write_to(struct peer *peer)
{
    return peer->serves ? receive_all(peer) : write_all(peer);
}

weir_status peer_write_from(struct peer *peer)
{
    return peer->serves ? write_all(peer) : receive_all(peer);
}

/* ---- Clocks ------------------------------------------------------------------------------------------------------ */

struct clock_word {
    int64_t sent_ns, received_ns;
    int64_t last;
};

static int64_t time_of_day_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static weir_status receive_word(struct peer *peer, struct clock_word *word)
{
    double give_up = peer_now_s() + peer->timeout_ms / 1e3;
    for (;;) {
        size_t len = sizeof(*word);
        weir_status status = weir_recv(peer->ctx, word, &len, NULL);
        if (status == WEIR_OK && len != sizeof(*word))
            return peer_error(peer, WEIR_ERR_PROTOCOL, "a message of %zu bytes arrived instead of %zu", len, sizeof(*word));
        if (status != WEIR_ERR_AGAIN)
            return status;
        if ((status = weir_ep_status(peer->ep)) != WEIR_OK)
            return status;
        if (peer_now_s() > give_up)
            return peer_error(peer, WEIR_ERR_TIMEOUT, "a message of the peer did not arrive in time");
        weir_ctx_block(peer->ctx, 10);
    }
}

static weir_status answer_words(struct peer *peer)
{
    struct clock_word word = {0};
    weir_status status = WEIR_OK;
    while (status == WEIR_OK && !word.last) {
        status = receive_word(peer, &word);
        word.received_ns = time_of_day_ns();
        if (status == WEIR_OK)
            status = weir_send(peer->ep, &word, sizeof(word));
    }
    return status;
}

/* The quickest round trip bounds the offset best (as in NTP). */
weir_status peer_clock(struct peer *peer)
{
    double best_us = 0, offset_us = 0;
    weir_status status = WEIR_OK;
    if (peer->serves)
        return answer_words(peer);
    for (int i = 0; i < CLOCK_ROUNDS && status == WEIR_OK; i++) {
        struct clock_word word = {.sent_ns = time_of_day_ns(), .last = i == CLOCK_ROUNDS - 1};
        status = weir_send(peer->ep, &word, sizeof(word));
        if (status == WEIR_OK)
            status = receive_word(peer, &word);
        int64_t now_ns = time_of_day_ns();
        double trip_us = (double)(now_ns - word.sent_ns) / 1e3;
        if (i == 0 || trip_us < best_us) {
            best_us = trip_us;
            offset_us = (double)(word.received_ns - word.sent_ns) / 1e3 - trip_us / 2.0;
        }
    }
    peer->mine.value[0] = offset_us;
    peer->mine.value[1] = best_us / 2.0;
    return status;
}
