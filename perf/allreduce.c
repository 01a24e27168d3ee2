/* All-reduce over all ranks. Bus bandwidth is what each link carries: size / time * 2 (n - 1) / n. */
#include "perf.h"

#include <stdlib.h>
#include <string.h>

/* Small integers, so that the sum is exact whatever its order: in 8 bits and in bf16's, of up to 60 ranks. */
static double value_of(int rank, size_t at, weir_dtype dtype)
{
    return (double)((at * 13 + (size_t)rank * 7) % (weir_dtype_size(dtype) > 2 ? 101 : 3));
}

/* An f16 or bf16 of a small whole number, by way of the f32: the same bits but for the exponent's, and fewer of them. */
static uint16_t half_of(float value, weir_dtype dtype)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return (uint16_t)(dtype == WEIR_BF16 ? bits >> 16 : value == 0.0f ? 0 : (bits - (112u << 23)) >> 13);
}

static float from_half(uint16_t half, weir_dtype dtype)
{
    uint32_t bits = dtype == WEIR_BF16 ? (uint32_t)half << 16 : half == 0 ? 0 : ((uint32_t)half << 13) + (112u << 23);
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static void put(void *buffer, size_t i, weir_dtype dtype, double value)
{
    uint64_t whole = (uint64_t)value; /* its first bytes are those of all whole types, on machines that have the least first */
    if (dtype == WEIR_F64)
        ((double *)buffer)[i] = value;
    else if (dtype == WEIR_F32)
        ((float *)buffer)[i] = (float)value;
    else if (dtype == WEIR_F16 || dtype == WEIR_BF16)
        ((uint16_t *)buffer)[i] = half_of((float)value, dtype);
    else
        memcpy((unsigned char *)buffer + i * weir_dtype_size(dtype), &whole, weir_dtype_size(dtype));
}

static double get(const void *buffer, size_t i, weir_dtype dtype)
{
    uint64_t whole = 0;
    if (dtype == WEIR_F64)
        return ((const double *)buffer)[i];
    if (dtype == WEIR_F32)
        return (double)((const float *)buffer)[i];
    if (dtype == WEIR_F16 || dtype == WEIR_BF16)
        return (double)from_half(((const uint16_t *)buffer)[i], dtype);
    memcpy(&whole, (const unsigned char *)buffer + i * weir_dtype_size(dtype), weir_dtype_size(dtype));
    return (double)whole;
}

static void fill(const struct process *process, void *buffer, size_t count, weir_dtype dtype)
{
    for (size_t i = 0; i < count; i++)
        put(buffer, i, dtype, value_of(process->rank, i, dtype));
    if (process->options->self_test && process->rank == 0)
        memset(buffer, 0x40, weir_dtype_size(dtype));
}

static weir_status check(const struct process *process, const void *buffer, size_t count, weir_dtype dtype)
{
    for (size_t i = 0; i < count; i++) {
        double sum = 0.0;
        for (int rank = 0; rank < process->ranks; rank++)
            sum += value_of(rank, i, dtype);
        if (get(buffer, i, dtype) != sum)
            return check_failed(process, count * weir_dtype_size(dtype), i * weir_dtype_size(dtype));
    }
    return WEIR_OK;
}

static weir_status measure(struct process *process, weir_comm *comm, unsigned char *send, unsigned char *recv,
                           size_t size, weir_dtype dtype)
{
    size_t count = size / weir_dtype_size(dtype), rounds = iterations_for(process->options, size);
    size_t warmup = process->options->warmup ? process->options->warmup : rounds / 10 + 1;
    double *samples = calloc(rounds, sizeof(double));
    if (!samples)
        return WEIR_ERR_NO_MEMORY;
    fill(process, send, count, dtype);
    weir_status status = weir_barrier(comm);
    for (size_t i = 0; i < warmup && status == WEIR_OK; i++)
        status = weir_allreduce(comm, send, recv, count, dtype, WEIR_SUM);
    if (status == WEIR_OK && process->options->check)
        status = check(process, recv, count, dtype);
    if (status == WEIR_OK)
        status = weir_barrier(comm);
    double last = now_s();
    for (size_t i = 0; i < rounds && status == WEIR_OK; i++) {
        status = weir_allreduce(comm, send, recv, count, dtype, WEIR_SUM);
        double now = now_s();
        samples[i] = now - last;
        last = now;
    }
    if (status == WEIR_OK && process->rank == 0) {
        struct result result;
        result_from_samples(samples, rounds, 1, count * weir_dtype_size(dtype), &result);
        result.bus_gb_s = result.gb_s * 2.0 * (process->ranks - 1) / process->ranks;
        report_result(process, &result);
    }
    free(samples);
    return status;
}

weir_status run_allreduce(struct process *process)
{
    const struct options *options = process->options;
    weir_dtype dtype = options->operation ? dtype_named(options->operation) : WEIR_F32;
    weir_comm *comm = NULL;
    void *send = NULL, *recv = NULL;
    size_t room = 64;
    for (int i = 0; i < options->size_count; i++)
        room = options->sizes[i] > room ? options->sizes[i] : room;
    weir_status status = weir_comm_create(process->ctx, process->boot, NULL, &comm);
    if (status == WEIR_OK && options->ordinary) {
        send = malloc(room);
        recv = malloc(room);
        status = send && recv ? WEIR_OK : WEIR_ERR_NO_MEMORY;
    } else if (status == WEIR_OK) {
        status = weir_pool_alloc(process->pool, room, &send, NULL);
        if (status == WEIR_OK)
            status = weir_pool_alloc(process->pool, room, &recv, NULL);
    }
    if (status == WEIR_OK && process->rank == 0)
        report_begin(process);
    for (int i = 0; i < options->size_count && status == WEIR_OK; i++)
        status = measure(process, comm, send, recv, options->sizes[i], dtype);
    if (status == WEIR_OK)
        status = weir_barrier(comm);
    if (status == WEIR_OK && process->rank == 0)
        report_end(process);
    weir_comm_destroy(comm);
    if (options->ordinary) {
        free(send);
        free(recv);
    }
    return status;
}
