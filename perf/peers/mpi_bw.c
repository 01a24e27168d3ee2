/* One way from rank 0 to rank 1 by MPI, to measure beside: GB/s of windows of MPI_Isend. Usage: mpi_bw BYTES... */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW 64

/* Sends or receives `windows` windows and hears that all of them have come. */
static void pump(int rank, char *buffer, int bytes, size_t windows)
{
    MPI_Request requests[WINDOW];
    for (size_t i = 0; i < windows; i++) {
        for (int k = 0; k < WINDOW; k++) {
            if (rank == 0)
                MPI_Isend(buffer, bytes, MPI_CHAR, 1, 0, MPI_COMM_WORLD, &requests[k]);
            else
                MPI_Irecv(buffer, bytes, MPI_CHAR, 0, 0, MPI_COMM_WORLD, &requests[k]);
        }
        MPI_Waitall(WINDOW, requests, MPI_STATUSES_IGNORE);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

int main(int argc, char **argv)
{
    int rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (int i = 1; i < argc; i++) {
        size_t bytes = strtoull(argv[i], NULL, 10), windows = ((size_t)4 << 30) / bytes / WINDOW + 1;
        char *buffer = malloc(bytes);
        memset(buffer, rank, bytes);
        pump(rank, buffer, (int)bytes, windows / 10 + 1);
        double start = MPI_Wtime();
        pump(rank, buffer, (int)bytes, windows);
        if (rank == 0)
            printf("%zu %.3f\n", bytes, (double)(bytes * WINDOW * windows) / (MPI_Wtime() - start) / 1e9);
        free(buffer);
    }
    MPI_Finalize();
    return 0;
}
