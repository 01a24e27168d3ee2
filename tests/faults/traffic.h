/*
 * Traffic between ranks, with every byte checked, for tests that disturb it from outside (faults.py): what the kinds of
 * traffic share.
 */
#ifndef TRAFFIC_H
#define TRAFFIC_H

#include <weir/weir.h>

#include <stdbool.h>

/* What one rank is told, and what it has to tell at its end. */
struct traffic {
    int rank;
    const char *dir; /* where the ranks leave files for each other and for the driver */
    uint64_t seed;   /* of the operations; the same at all ranks */
    unsigned steps;
    uint64_t start_ns, failed_ns;
    weir_status status; /* of the first operation that failed */
    char sentence[512];
};

/* A generator of numbers (xorshift64*; Vigna, "An experimental exploration of Marsaglia's xorshift generators"). */
static inline uint64_t traffic_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Dull;
}

/*
 * A place where a fault can strike this rank from within: TRAFFIC_FAULT=FAULT:STAGE names one. kill and stop end
 * or stop the process; files uses up its descriptors, memory its address space, memlock what it may lock for devices.
 */
void traffic_stage(const char *stage);

/* Notes a failure; the first one counts. Returns whether the status is an error. */
bool traffic_failed(struct traffic *t, weir_status status);

/* What no fault may bring about: wrong data, a lost operation. Says so and ends the process with status 3. */
void traffic_broken(const struct traffic *t, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));

/* Writes DIR/NAME.RANK, whole or not at all. */
void traffic_leave(const struct traffic *t, const char *name, const void *data, size_t len);

/* Reads DIR/NAME.RANK of a rank; false: it is not there. */
bool traffic_find(const struct traffic *t, const char *name, int rank, void *data, size_t len);

/* Two ranks with one-sided operations, signals and messages. */
void traffic_pair(struct traffic *t);

/* All ranks of a job with all-reduces. */
void traffic_job(struct traffic *t);

#endif
