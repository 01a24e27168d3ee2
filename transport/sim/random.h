/* The numbers that a simulated world draws its faults from: splitmix64 (Steele, Lea,
 * Flood 2014), one state a stream. */
#ifndef WI_SIM_RANDOM_H
#define WI_SIM_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

static inline uint64_t wi_sim_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static inline uint64_t wi_sim_draw(uint64_t *state)
{
    return wi_sim_mix(*state += 0x9e3779b97f4a7c15ull);
}

/* A number from `low` to `high`, both included. */
static inline uint64_t wi_sim_between(uint64_t *state, uint64_t low, uint64_t high)
{
    return low + wi_sim_draw(state) % (high - low + 1);
}

/* True in `ppm` of a million cases. */
static inline bool wi_sim_chance(uint64_t *state, uint32_t ppm)
{
    return ppm > 0 && wi_sim_draw(state) % 1000000 < ppm;
}

#endif
