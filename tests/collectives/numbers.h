/* Elements of all types as doubles: written for the tests, without the library's conversions. */
#ifndef TESTS_COLLECTIVES_NUMBERS_H
#define TESTS_COLLECTIVES_NUMBERS_H

#include <weir/collectives.h>

#include <stdbool.h>
#include <stdint.h>

bool number_is_float(weir_dtype dtype);
bool number_is_signed(weir_dtype dtype);

/* Element `i` of an array of any alignment. Exact, but for integers of more than 53 bits. */
double number_load(const void *data, size_t i, weir_dtype dtype);

/* Stores a value, rounded to the type (to nearest, ties to even). Integers are whole already and fit. */
void number_store(void *data, size_t i, weir_dtype dtype, double value);

#endif
