/* Input of a fuzz target, taken in pieces from its start; past its end come zeros. */
#ifndef WEIR_FUZZ_BYTES_OF_H
#define WEIR_FUZZ_BYTES_OF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct bytes_of {
    const uint8_t *at;
    size_t left;
};

static inline uint8_t take_byte(struct bytes_of *input)
{
    if (input->left == 0)
        return 0;
    input->left--;
    return *input->at++;
}

static inline uint32_t take_word(struct bytes_of *input)
{
    uint32_t word = 0;
    for (int i = 0; i < 4; i++)
        word |= (uint32_t)take_byte(input) << 8 * i;
    return word;
}

/* Points to the next `len` bytes, or as many as are left; `*len` says how many. */
static inline const uint8_t *take_bytes(struct bytes_of *input, size_t *len)
{
    const uint8_t *start = input->at;
    if (*len > input->left)
        *len = input->left;
    input->at += *len;
    input->left -= *len;
    return start;
}

/* What must hold. */
static inline void check(bool good)
{
    if (!good)
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
