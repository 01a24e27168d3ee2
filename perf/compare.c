/* weir_perf --compare: perf/compare knows the peers and their options; this finds it and hands over. */
#include "perf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Beside this program when it was installed, in the source tree when it was built there. */
static bool find_script(const char *program, char *path, size_t size)
{
    static const char *const places[] = {"weir_perf_compare", "../../../perf/compare"};
    const char *slash = strrchr(program, '/');
    for (size_t i = 0; slash && i < sizeof(places) / sizeof(places[0]); i++) {
        snprintf(path, size, "%.*s/%s", (int)(slash - program), program, places[i]);
        if (access(path, X_OK) == 0)
            return true;
    }
    return false;
}

static bool says(const char *variable, const char *value)
{
    const char *text = getenv(variable);
    return text && strcmp(text, value) == 0;
}

/* What would be measured between two ranks of this host, as perf/compare calls it. */
static const char *transport(void)
{
    if (says("WEIR_TRANSPORT", "verbs"))
        return "verbs";
    if (says("WEIR_TRANSPORT", "ucx"))
        return "tcp";
    if (!says("WEIR_INTRANODE", "off") || says("WEIR_TRANSPORT", "shm"))
        return "shm";
    return access("/sys/class/infiniband", F_OK) == 0 ? "verbs" : "tcp";
}

bool compares(const struct benchmark *benchmark)
{
    static const char *const names[] = {"put_lat", "put_bw", "get_lat", "get_bw", "fetch_add_lat"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(names[i], benchmark->name) == 0)
            return true;
    return false;
}

int compare_instead(const struct options *options)
{
    char program[512] = "", script[640], sizes[1024] = "", iterations[24];
    size_t used = 0;
    ssize_t len = readlink("/proc/self/exe", program, sizeof(program) - 1);
    if (len < 0 || !find_script(program, script, sizeof(script))) {
        fprintf(stderr, "weir_perf: --compare: weir_perf_compare is not installed beside this program\n");
        return 1;
    }
    for (int i = 0; i < options->size_count && used + 24 < sizeof(sizes); i++)
        used += (size_t)snprintf(sizes + used, sizeof(sizes) - used, "%s%zu", i ? "," : "", options->sizes[i]);
    snprintf(iterations, sizeof(iterations), "%zu", options->iterations);
    execl(script, script, "sizes", "--benchmark", options->benchmark->name, "--transport", transport(), "--sizes", sizes,
          "--weir-perf", program, "--iterations", iterations, (char *)NULL);
    perror("weir_perf: --compare");
    return 1;
}
