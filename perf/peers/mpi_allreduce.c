/* The same all-reduce by MPI, to measure beside: median time of MPI_Allreduce of f32 sums. Usage: mpi_allreduce BYTES... */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_us(size_t bytes)
{
    size_t rounds = ((size_t)256 << 20) / (bytes + 1), count = bytes / sizeof(float);
    rounds = rounds > 10000 ? 10000 : rounds < 20 ? 20 : rounds;
    float *send = calloc(count + 1, sizeof(float)), *recv = calloc(count + 1, sizeof(float));
    double *samples = calloc(rounds, sizeof(double));
    for (size_t i = 0; i < count; i++)
        send[i] = (float)(i % 101);
    for (size_t i = 0; i < rounds / 10 + 1; i++)
        MPI_Allreduce(send, recv, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Barrier(MPI_COMM_WORLD);
    for (size_t i = 0; i < rounds; i++) {
        double start = MPI_Wtime();
        MPI_Allreduce(send, recv, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        samples[i] = MPI_Wtime() - start;
    }
    qsort(samples, rounds, sizeof(double), compare);
    double median = samples[rounds / 2] * 1e6;
    free(send);
    free(recv);
    free(samples);
    return median;
}

int main(int argc, char **argv)
{
    int rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (int i = 1; i < argc; i++) {
        size_t bytes = strtoull(argv[i], NULL, 10);
        double us = median_us(bytes);
        if (rank == 0)
            printf("%zu %.3f\n", bytes, us);
    }
    MPI_Finalize();
    return 0;
}
