/* Counters that RDMA devices keep themselves, from sysfs. What there is differs from driver to driver. */
#include "transport/stats.h"

#include <dirent.h>
#include <string.h>

#define SYSFS "/sys/class/infiniband"

typedef void each_fn(const char *device, const char *port, const char *name, uint64_t value, void *arg);

static void read_folder(const char *device, const char *port, const char *kind, each_fn *each, void *arg)
{
    char path[320];
    snprintf(path, sizeof(path), SYSFS "/%s/ports/%s/%s", device, port, kind);
    DIR *folder = opendir(path);
    if (!folder)
        return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        unsigned long long value;
        char file_path[640];
        snprintf(file_path, sizeof(file_path), "%s/%s", path, entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(file_path, "re");
        if (!file)
            continue;
        if (strcmp(entry->d_name, "lifespan") != 0 && fscanf(file, "%llu", &value) == 1)
            each(device, port, entry->d_name, value, arg);
        fclose(file);
    }
    closedir(folder);
}

void wi_device_counters(const char *ports, each_fn *each, void *arg)
{
    char list[256], *rest = list;
    snprintf(list, sizeof(list), "%s", ports);
    for (char *one; (one = strsep(&rest, ","));) {
        char *colon = strchr(one, ':');
        if (!colon || strchr(one, '/'))
            continue; /* not a port of an RDMA device */
        *colon = '\0';
        read_folder(one, colon + 1, "hw_counters", each, arg);
        read_folder(one, colon + 1, "counters", each, arg);
    }
}
