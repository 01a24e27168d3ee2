/*
 * What is sent, and whether that is what came. Data have a pattern that depends on their length, messages their number
 * in front of it, counters count. With --self-test one operation of each size is spoilt, to show that it is noticed.
 */
#include "perf.h"

#include <stdio.h>
#include <string.h>

enum {
    COMPARED = 1000,   /* messages that are compared from end to end before only every so many are: it costs time */
    COMPARED_EACH = 64,
};

static unsigned char pattern(size_t at, size_t size)
{
    return (unsigned char)(at * 31 + size * 7 + 1);
}

weir_status check_failed(const struct process *process, size_t size, size_t at)
{
    fprintf(stderr, "weir_perf: rank %d: wrong data at byte %zu of %zu\n", process->rank, at, size);
    return WEIR_ERR_PROTOCOL;
}

void check_fill(const struct process *process, unsigned char *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        data[i] = pattern(i, size);
    if (process->options->self_test)
        data[size / 2] ^= 1;
}

weir_status check_data(const struct process *process, const unsigned char *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (data[i] != pattern(i, size))
            return check_failed(process, size, i);
    return WEIR_OK;
}

static size_t stamp_size(size_t size)
{
    return size < sizeof(uint64_t) ? size : sizeof(uint64_t);
}

void check_stamp(unsigned char *message, size_t size, uint64_t number)
{
    memcpy(message, &number, stamp_size(size)); /* the low bytes first; both sides are of one kind */
}

weir_status check_message(const struct process *process, const unsigned char *message, size_t len, size_t size,
                          uint64_t number)
{
    if (len != size || memcmp(message, &number, stamp_size(size)) != 0) {
        fprintf(stderr, "weir_perf: rank %d: message %llu of %zu bytes is not what came: %zu bytes, or another one\n",
                process->rank, (unsigned long long)number, size, len);
        return WEIR_ERR_PROTOCOL;
    }
    for (size_t i = stamp_size(size); i < size && (number < COMPARED || number % COMPARED_EACH == 0); i++)
        if (message[i] != pattern(i, size))
            return check_failed(process, size, i);
    return WEIR_OK;
}

weir_status check_count(const struct process *process, const char *what, uint64_t came, uint64_t due)
{
    if (came == due)
        return WEIR_OK;
    fprintf(stderr, "weir_perf: rank %d: %llu %s came of %llu\n", process->rank, (unsigned long long)came, what,
            (unsigned long long)due);
    return WEIR_ERR_PROTOCOL;
}
