#include "transport/exporter.h"

#include "core/clock.h"
#include "core/log.h"
#include "core/rank_path.h"
#include "transport/context.h"
#include "transport/stats.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_SIZE = 320 };

struct wi_exporter {
    const struct weir_ctx *ctx;
    struct wi_http *http;
    char path[PATH_SIZE];
    uint64_t interval_ns;
    pthread_t thread;
    bool running;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool end;
};

bool wi_exporter_wanted(const struct wi_config *config)
{
    return config->metrics_file[0] || config->metrics_listen[0];
}

char *wi_exporter_text(const struct weir_ctx *ctx, size_t *len)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, len);
    if (!out)
        return NULL;
    wi_stats_write(ctx, out);
    if (fclose(out) == 0)
        return text;
    free(text);
    return NULL;
}

/* What is no file must stay: rename() would put one in the place of /dev/null, a pipe, or where a link leads from. */
static bool may_replace(const char *path)
{
    struct stat there;
    if (lstat(path, &there) != 0 || S_ISREG(there.st_mode))
        return true;
    errno = S_ISDIR(there.st_mode) ? EISDIR : EEXIST;
    return false;
}

/* Beside its place and then into it: a reader sees all of the old text or all of the new one. */
static bool write_file(const struct wi_exporter *exporter)
{
    char beside[PATH_SIZE + 8];
    if (!may_replace(exporter->path))
        return false;
    snprintf(beside, sizeof(beside), "%s.new", exporter->path);
    FILE *file = fopen(beside, "we");
    if (!file)
        return false;
    wi_stats_write(exporter->ctx, file);
    bool written = !ferror(file);
    if (fclose(file) == 0 && written && rename(beside, exporter->path) == 0)
        return true;
    int saved_errno = errno;
    unlink(beside);
    errno = saved_errno;
    return false;
}

static void next_moment(struct timespec *moment, uint64_t interval_ns)
{
    uint64_t at_ns = wi_now_ns() + interval_ns;
    moment->tv_sec = (time_t)(at_ns / WI_NS_PER_S);
    moment->tv_nsec = (long)(at_ns % WI_NS_PER_S);
}

static void *write_again(void *arg)
{
    struct wi_exporter *exporter = arg;
    bool told = false;
    pthread_mutex_lock(&exporter->lock);
    for (;;) {
        bool end = exporter->end;
        pthread_mutex_unlock(&exporter->lock);
        if (!write_file(exporter) && !told) {
            wi_warn("WEIR_METRICS_FILE=%s: %s", exporter->path,
                    errno == EEXIST ? "it is no regular file, and would be replaced by one; give the name of a file"
                                    : strerror(errno));
            told = true;
        }
        if (end)
            return NULL;
        struct timespec moment;
        next_moment(&moment, exporter->interval_ns);
        pthread_mutex_lock(&exporter->lock);
        while (!exporter->end && pthread_cond_timedwait(&exporter->wake, &exporter->lock, &moment) == 0)
            continue;
    }
}

static void start_thread(struct wi_exporter *exporter)
{
    pthread_condattr_t attr;
    sigset_t all, before;
    pthread_mutex_init(&exporter->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&exporter->wake, &attr);
    pthread_condattr_destroy(&attr);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* signals are the program's business */
    int error = pthread_create(&exporter->thread, NULL, write_again, exporter);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    exporter->running = error == 0;
    if (error)
        wi_warn("WEIR_METRICS_FILE: no thread to write it: %s", strerror(error));
}

void wi_exporter_start(const struct weir_ctx *ctx, const struct wi_config *config, struct wi_exporter **out)
{
    *out = NULL;
    if (!wi_exporter_wanted(config))
        return;
    struct wi_exporter *exporter = calloc(1, sizeof(*exporter));
    if (!exporter) {
        wi_warn("no memory to show statistics");
        return;
    }
    exporter->ctx = ctx;
    exporter->interval_ns = config->metrics_interval_ns;
    if (config->metrics_listen[0]) {
        int64_t local = config->local_rank >= 0 ? config->local_rank : config->rank;
        exporter->http = wi_http_start(ctx, config->metrics_listen, (int)local);
    }
    if (config->metrics_file[0]) {
        wi_rank_path(exporter->path, sizeof(exporter->path), config->metrics_file, ctx->id, config->world_size);
        start_thread(exporter);
    }
    *out = exporter;
}

void wi_exporter_stop(struct wi_exporter *exporter)
{
    if (!exporter)
        return;
    wi_http_stop(exporter->http);
    if (exporter->running) {
        pthread_mutex_lock(&exporter->lock);
        exporter->end = true;
        pthread_cond_signal(&exporter->wake);
        pthread_mutex_unlock(&exporter->lock);
        pthread_join(exporter->thread, NULL);
        pthread_cond_destroy(&exporter->wake);
        pthread_mutex_destroy(&exporter->lock);
    }
    free(exporter);
}
