#include "core/trace.h"

#include "core/clock.h"
#include "core/log.h"
#include "core/rank_path.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { EVENT_MAX = 512, BUFFER_SIZE = 256 << 10, PATH_SIZE = 320 };

bool wi_trace_enabled;

static struct {
    pthread_mutex_t lock;
    int fd;
    bool opened;
    pid_t owner; /* who opened it: not a child after fork() */
    off_t end;   /* where the array's end stands in the file */
    int rank;
    int64_t to_real_ns; /* from wi_now_ns() to the real-time clock */
    size_t used;
    char buffer[BUFFER_SIZE + 4];
} trace = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int64_t real_offset_ns(void)
{
    struct timespec real;
    clock_gettime(CLOCK_REALTIME, &real);
    return (int64_t)real.tv_sec * (int64_t)WI_NS_PER_S + real.tv_nsec - (int64_t)wi_now_ns();
}

/* Under the lock. The array's end is written over, by one call, so that a process that is killed leaves a whole file. */
static void flush(void)
{
    if (trace.used == 0 || !trace.opened || trace.owner != getpid())
        return;
    memcpy(trace.buffer + trace.used, "]\n", 2);
    size_t written = 0, len = trace.used + 2;
    while (written < len) {
        ssize_t now = pwrite(trace.fd, trace.buffer + written, len - written, trace.end + (off_t)written);
        if (now < 0 && errno == EINTR)
            continue;
        if (now <= 0) {
            wi_warn("the trace ends here, its file cannot be written: %s", strerror(errno));
            __atomic_store_n(&wi_trace_enabled, false, __ATOMIC_RELEASE);
            break;
        }
        written += (size_t)now;
    }
    trace.end += (off_t)trace.used;
    trace.used = 0;
}

/* Under the lock. */
static void begin(const char *path, int rank)
{
    trace.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    trace.opened = trace.fd >= 0;
    trace.owner = getpid();
    trace.rank = rank;
    trace.end = 0;
    trace.to_real_ns = real_offset_ns();
    if (!trace.opened) {
        wi_warn("WEIR_TRACE=%s: %s; there will be no trace", path, strerror(errno));
        return;
    }
    trace.used = (size_t)snprintf(trace.buffer, EVENT_MAX,
                                  "[\n{\"name\": \"process_name\", \"ph\": \"M\", \"pid\": %d, \"args\": {\"name\": "
                                  "\"rank %d\"}}\n",
                                  rank, rank);
    flush();
    wi_info("trace goes to %s", path);
}

void wi_trace_open(const char *pattern, int rank, int world)
{
    char path[PATH_SIZE];
    if (!pattern[0])
        return;
    pthread_mutex_lock(&trace.lock);
    if (!trace.opened || trace.owner != getpid()) {
        wi_rank_path(path, sizeof(path), pattern, rank, world);
        begin(path, rank);
        __atomic_store_n(&wi_trace_enabled, trace.opened, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&trace.lock);
}

void wi_trace_span(const char *name, const char *category, uint64_t start_ns, uint64_t end_ns, const char *format, ...)
{
    static _Thread_local long thread_id;
    char args[EVENT_MAX / 2];
    va_list list;
    if (thread_id == 0)
        thread_id = syscall(SYS_gettid);
    va_start(list, format);
    int args_len = vsnprintf(args, sizeof(args), format, list);
    va_end(list);
    if (args_len < 0 || (size_t)args_len >= sizeof(args))
        args[0] = '\0'; /* half of it would not be JSON */
    pthread_mutex_lock(&trace.lock);
    if (BUFFER_SIZE - trace.used < EVENT_MAX)
        flush();
    int len = snprintf(trace.buffer + trace.used, EVENT_MAX,
                       ",{\"name\": \"%.60s\", \"cat\": \"%.60s\", \"ph\": \"X\", \"pid\": %d, \"tid\": %ld, \"ts\": %.3f, "
                       "\"dur\": %.3f, \"args\": {%s}}\n",
                       name, category, trace.rank, thread_id, (double)((int64_t)start_ns + trace.to_real_ns) / 1e3,
                       (double)(end_ns - start_ns) / 1e3, args);
    if (len > 0 && len < EVENT_MAX)
        trace.used += (size_t)len;
    pthread_mutex_unlock(&trace.lock);
}

void wi_trace_flush(void)
{
    pthread_mutex_lock(&trace.lock);
    flush();
    pthread_mutex_unlock(&trace.lock);
}
