/*
 * The bootstrap of a simulated job, in place of the library's: weir_boot_put() and its like over a table of this
 * process, on virtual time. What a rank says of a failure is known to the others after a while; the job then has
 * failed. That a rank was killed is not told here: the others have to notice it.
 */
#ifndef TESTS_SIM_BOOT_H
#define TESTS_SIM_BOOT_H

#include "seeds.h"

enum { BOOT_ENTRIES = 64, BOOT_VALUE = 4096 };

struct boot_job {
    struct wi_sim_world *world;
    int ranks, servers;   /* these are the last of the ranks */
    const unsigned *dead; /* a bit for each rank whose process was killed: it tells nobody anything */
    uint64_t timeout_ns;
    uint64_t news_ns; /* how long the news of a failure takes */
    int entries;
    struct {
        char key[WEIR_BOOT_KEY_MAX + 1];
        size_t len;
        unsigned char value[BOOT_VALUE];
    } entry[BOOT_ENTRIES];
    weir_status failure;
    uint64_t failed_ns;
    char sentence[512];
};

struct weir_boot {
    struct boot_job *job;
    int rank;
};

/* An empty store for a new run. */
void boot_begin(struct boot_job *job, struct run *run, int servers);

#endif
