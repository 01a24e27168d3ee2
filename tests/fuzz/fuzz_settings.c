/*
 * Fuzzes values of the environment that have parsers of their own (devices and ports, the place of memory, the names of
 * files of traces and statistics), and the files of /sys that say what devices count. Files have the next bytes as text.
 */
#include "bytes_of.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/config.h"
#include "core/forms.h"

static struct bytes_of input;
static int open_files, open_folders;

/* ---- Files ---------------------------------------------------------------------------------------------------------- */

static void check_path(const char *path)
{
    check(strncmp(path, "/sys/", 5) == 0 && strlen(path) < 640);
}

static FILE *fake_fopen(const char *path, const char *mode)
{
    uint8_t how = take_byte(&input);
    size_t len = how % 32;
    check_path(path);
    check(strcmp(mode, "re") == 0);
    errno = ENOENT;
    if (how >= 224)
        return NULL;
    const uint8_t *bytes = take_bytes(&input, &len);
    FILE *file = len > 0 ? fmemopen((void *)(uintptr_t)bytes, len, "r") : NULL;
    open_files += file != NULL;
    return file;
}

static int fake_fclose(FILE *file)
{
    open_files--;
    return fclose(file);
}

static int fake_access(const char *path, int how)
{
    (void)how;
    check_path(path);
    return take_byte(&input) % 2 ? 0 : -1;
}

static DIR *fake_opendir(const char *path)
{
    check_path(path);
    if (take_byte(&input) % 4 == 1)
        return NULL;
    open_folders++;
    return (DIR *)(void *)&open_folders;
}

static struct dirent *fake_readdir(DIR *folder)
{
    static struct dirent entry;
    uint8_t how = take_byte(&input);
    size_t len = how;
    (void)folder;
    if (how == 0)
        return NULL;
    const uint8_t *name = take_bytes(&input, &len);
    memset(entry.d_name, 'x', sizeof(entry.d_name));
    memcpy(entry.d_name, name, len);
    entry.d_name[how] = '\0'; /* of up to 255 bytes */
    return &entry;
}

static int fake_closedir(DIR *folder)
{
    (void)folder;
    open_folders--;
    return 0;
}

/* ---- The rest of the library ----------------------------------------------------------------------------------------- */

static struct wi_config config;

const struct wi_config *wi_config(void)
{
    return &config;
}

#define fopen    fake_fopen
#define fclose   fake_fclose
#define access   fake_access
#define opendir  fake_opendir
#define readdir  fake_readdir
#define closedir fake_closedir
#include "transport/device_counters.c"
#include "transport/numa.c"
#ifdef WEIR_WITH_VERBS
#undef SYSFS
#include "transport/verbs/device.c"
#endif
#undef fopen
#undef fclose
#undef access
#undef opendir
#undef readdir
#undef closedir
#include "core/trace.c"
#undef PATH_SIZE
#define PATH_SIZE   METRICS_PATH_SIZE
#define next_moment next_time
#include "transport/exporter.c"

void wi_stats_write(const struct weir_ctx *ctx, FILE *out)
{
    (void)ctx, (void)out;
}

struct wi_http *wi_http_start(const struct weir_ctx *ctx, const char *where, int offset)
{
    (void)ctx, (void)where, (void)offset;
    return NULL;
}

void wi_http_stop(struct wi_http *http)
{
    (void)http;
}

/* ---- What is looked at ------------------------------------------------------------------------------------------------ */

/* The next bytes up to a zero, as long as a value of the environment may be. */
static const char *next_value(char value[sizeof(config.device)])
{
    size_t len = 0;
    while (len < input.left && input.at[len] && len + 1 < sizeof(config.device))
        len++;
    memcpy(value, take_bytes(&input, &len), len);
    value[len] = '\0';
    return value;
}

/* Devices written out again are those that were named. */
static void read_devices(void)
{
    struct wi_device_wish wishes[WI_DEVICES_MAX];
    char again[WI_DEVICES_MAX * 72] = "";
    unsigned count;
    next_value(config.device);
    if (wi_read_devices(config.device, wishes, &count))
        return;
    check(count >= 1 && count <= WI_DEVICES_MAX);
    for (unsigned i = 0; i < count; i++) {
        size_t used = strlen(again), zeros = 0;
        const char *entry = config.device, *port;
        for (unsigned k = 0; k < i; k++)
            entry = strchr(entry, ',') + 1;
        size_t len = strcspn(entry, ",");
        port = memrchr(entry, ':', len);
        while (port && port[1 + zeros] == '0')
            zeros++;
        check(wishes[i].port <= 255 && strlen(wishes[i].name) < sizeof(wishes[i].name));
        snprintf(again + used, sizeof(again) - used, "%s%s", wishes[i].name, wishes[i].port ? ":" : "");
        if (wishes[i].port)
            snprintf(again + strlen(again), sizeof(again) - strlen(again), "%.*s%u", (int)zeros, "00000000", wishes[i].port);
        check(zeros > 8 || (strlen(again + used) == len && memcmp(again + used, entry, len) == 0));
    }
}

static void read_place(void)
{
    char text[sizeof(config.device)], device[sizeof(config.device)];
    int node = 4711;
    weir_status status = wi_numa_choose(next_value(text), next_value(device), &node);
    check(status == WEIR_OK || status == WEIR_ERR_CONFIG);
    check(node == WI_NODE_ANY || node == WI_NODE_CALLER || node >= 0);
}

static void name_files(void)
{
    char pattern[sizeof(config.device)], path[METRICS_PATH_SIZE];
    int rank = (int)(take_word(&input) >> 1), world = take_byte(&input);
    next_value(pattern);
    wi_rank_path(path, sizeof(path), pattern, (uint64_t)rank, world);
    check(strlen(path) < sizeof(path) - 1); /* nothing was cut */
    if (world <= 1 && !strstr(pattern, "%r"))
        check(strcmp(path, pattern) == 0);
}

static void see_counter(const char *device, const char *port, const char *name, uint64_t value, void *arg)
{
    (void)value;
    check(arg == &input && !strchr(device, '/') && !strchr(port, '/') && name[0] != '.');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char ports[sizeof(config.device)];
    input = (struct bytes_of){data, size};
    switch (take_byte(&input) % 4) {
    case 0:
        read_devices();
        break;
    case 1:
        read_place();
        break;
    case 2:
        name_files();
        break;
    default:
        wi_device_counters(next_value(ports), see_counter, &input);
        break;
    }
    check(open_files == 0 && open_folders == 0);
    return 0;
}
