/* Checks of limits: locked memory, open files, huge pages. */
#include "doctor.h"

#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MIB (1ull << 20)

/* Does this process have the capability that lifts memlock? Root of a user namespace has it only in there. */
static bool may_lock(const struct doctor *doctor)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}};
    return !doctor->user_namespace && syscall(SYS_capget, &header, data) == 0 &&
           (data[0].effective & (1u << CAP_IPC_LOCK));
}

/* All registered memory counts: at least one slab of a pool, and the adapter's queues. */
void check_memlock(struct doctor *doctor)
{
    struct rlimit limit;
    uint64_t slab = doctor_size_variable("WEIR_POOL_SLAB"), least = slab + 4 * MIB;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        doctor_say(doctor, DOCTOR_OK, "unlimited");
    else if (may_lock(doctor))
        doctor_say(doctor, DOCTOR_OK, "CAP_IPC_LOCK lifts the limit of %llu KiB",
                   (unsigned long long)limit.rlim_cur >> 10);
    else if (limit.rlim_cur < least)
        doctor_say(doctor, doctor_blame(doctor->verbs),
                   "%llu KiB can be registered; a slab of a pool (WEIR_POOL_SLAB) alone has %llu -> %s",
                   (unsigned long long)limit.rlim_cur >> 10, (unsigned long long)slab >> 10, doctor_mend_memlock(doctor));
    else
        doctor_say(doctor, doctor->verbs == DOCTOR_UNUSED ? DOCTOR_OK : DOCTOR_WARN,
                   "%llu MiB can be registered; larger models will not fit -> %s", (unsigned long long)limit.rlim_cur >> 20,
                   doctor_mend_memlock(doctor));
}

/* Connections, wake-ups and pools; rank 0 has one more a rank for the store. */
void check_files(struct doctor *doctor)
{
    char world[32];
    struct rlimit limit;
    doctor_variable("WEIR_WORLD_SIZE", world, sizeof(world));
    unsigned long long least = 128 + 4ull * (unsigned long long)atoi(world);
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
        doctor_say(doctor, DOCTOR_OK, "unlimited");
        return;
    }
    bool low = limit.rlim_cur < least;
    if (low || limit.rlim_cur < 1024)
        doctor_say(doctor, low ? DOCTOR_FAIL : DOCTOR_WARN,
                   "%llu can be open; a job of %s rank%s wants %llu or more -> ulimit -n %llu (limits.conf: nofile; "
                   "systemd: LimitNOFILE; docker run --ulimit nofile=...)",
                   (unsigned long long)limit.rlim_cur, world, atoi(world) == 1 ? "" : "s", least,
                   least < 4096 ? 4096 : least);
    else
        doctor_say(doctor, DOCTOR_OK, "%llu can be open", (unsigned long long)limit.rlim_cur);
}

/* "always [madvise] never" */
static void chosen_word(const struct doctor *doctor, const char *file, char *word, size_t size)
{
    char text[128], *start;
    read_text(doctor->root, text, sizeof(text), "/sys/kernel/mm/transparent_hugepage/%s", file);
    start = strchr(text, '[');
    snprintf(word, size, "%.*s", start ? (int)strcspn(start + 1, "]") : 0, start ? start + 1 : "");
}

/* Pools take reserved huge pages where there are any, else ask for transparent ones of shared memory. */
void check_huge_pages(struct doctor *doctor)
{
    char shmem[32];
    long reserved = 0, available = 0;
    uint64_t slab = doctor_size_variable("WEIR_POOL_SLAB");
    read_number(doctor->root, &reserved, "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    read_number(doctor->root, &available, "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    chosen_word(doctor, "shmem_enabled", shmem, sizeof(shmem));
    if (available > 0 && (uint64_t)available * 2 * MIB >= slab)
        doctor_say(doctor, DOCTOR_OK, "%ld of %ld free, %llu slabs of a pool", available, reserved,
                   (unsigned long long)((uint64_t)available * 2 * MIB / (slab ? slab : 1)));
    else if (strcmp(shmem, "always") == 0 || strcmp(shmem, "advise") == 0 || strcmp(shmem, "within_size") == 0 ||
             strcmp(shmem, "force") == 0)
        doctor_say(doctor, DOCTOR_OK, "transparent ones (shmem_enabled: %s)", shmem);
    else
        doctor_say(doctor, DOCTOR_NOTE,
                   "%ld of %ld of 2 MiB are free and shared memory gets no transparent ones: pools take 4 KiB pages -> "
                   "sysctl vm.nr_hugepages=%llu, or echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled",
                   available, reserved, (unsigned long long)(8 * slab / (2 * MIB)));
}
