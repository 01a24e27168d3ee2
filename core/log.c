/* The log: one line an event, written with one system call so that lines of several
 * threads and processes do not mix. */
#include "core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE_SIZE = 1280, PATH_SIZE = 256, NO_RANK = -1 };

int wi_log_level = WI_LOG_WARN;

/* Where lines go. `rank` and `fd` are read by any thread at any time; the others under `lock`. */
static struct {
    pthread_mutex_t lock;
    int rank;
    int fd;
    char path[PATH_SIZE]; /* "": standard error */
    bool per_rank;        /* the path holds %r */
    bool opened;
    int opened_rank;
} target = {.lock = PTHREAD_MUTEX_INITIALIZER, .rank = NO_RANK, .fd = STDERR_FILENO};

void wi_log_setup(int level, const char *file)
{
    pthread_mutex_lock(&target.lock);
    __atomic_store_n(&wi_log_level, level, __ATOMIC_RELAXED);
    snprintf(target.path, sizeof(target.path), "%s", file);
    target.per_rank = strstr(file, "%r") != NULL;
    target.opened = false;
    __atomic_store_n(&target.fd, file[0] ? -1 : STDERR_FILENO, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&target.lock);
}

void wi_log_set_rank(int rank)
{
    pthread_mutex_lock(&target.lock);
    __atomic_store_n(&target.rank, rank, __ATOMIC_RELAXED);
    if (target.per_rank && target.opened && target.opened_rank != rank)
        __atomic_store_n(&target.fd, -1, __ATOMIC_RELEASE); /* a child after fork(): it has a file of its own */
    pthread_mutex_unlock(&target.lock);
}

static void write_line(int fd, const char *text, size_t len)
{
    while (write(fd, text, len) < 0 && errno == EINTR)
        ;
}

static int open_path(int rank)
{
    char path[PATH_SIZE + 16], text[LINE_SIZE];
    const char *mark = strstr(target.path, "%r");
    if (mark)
        snprintf(path, sizeof(path), "%.*s%d%s", (int)(mark - target.path), target.path, rank, mark + 2);
    else
        snprintf(path, sizeof(path), "%s", target.path);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd >= 0)
        return fd;
    int used = snprintf(text, sizeof(text), "[weir] WARN WEIR_LOG_FILE=%s: %s; the log goes to standard error\n", path,
                        strerror(errno));
    write_line(STDERR_FILENO, text, (size_t)used);
    return STDERR_FILENO;
}

/*
 * The descriptor of a line. The file is opened by the first line whose rank is known, if its name depends on that;
 * lines before go to standard error. A descriptor in use by another thread is never closed: a job changes its rank
 * once.
 */
static int line_fd(int rank)
{
    int fd = __atomic_load_n(&target.fd, __ATOMIC_ACQUIRE);
    if (__builtin_expect(fd >= 0, 1))
        return fd;
    pthread_mutex_lock(&target.lock);
    fd = target.fd;
    if (fd < 0 && target.per_rank && rank == NO_RANK) {
        fd = STDERR_FILENO;
    } else if (fd < 0) {
        fd = open_path(rank);
        target.opened = true;
        target.opened_rank = rank;
        __atomic_store_n(&target.fd, fd, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&target.lock);
    return fd;
}

/* A text from outside must not look like further lines. */
static void blank_control_characters(char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            text[i] = ' ';
}

/* What snprintf() returned, as how much it wrote into `room` bytes. */
static size_t written(int result, size_t room)
{
    if (result < 0)
        return 0;
    return (size_t)result < room ? (size_t)result : room - 1;
}

void wi_log_write(enum wi_log_level level, const char *file, int line, const char *format, ...)
{
    static const char *const names[] = {"ERROR", "WARN", "INFO", "DEBUG", "TRACE"};
    const int saved_errno = errno;
    const int rank = __atomic_load_n(&target.rank, __ATOMIC_RELAXED);
    char text[LINE_SIZE], source[80] = "";
    if (level >= WI_LOG_DEBUG)
        snprintf(source, sizeof(source), " (%s:%d)", file, line);
    const size_t room =
        sizeof(text) - strlen(source) - 1; /* what is cut off is the event's end, not where it is from */
    size_t used = rank == NO_RANK ? written(snprintf(text, room, "[weir] %s ", names[level]), room)
                                  : written(snprintf(text, room, "[weir %d] %s ", rank, names[level]), room);
    va_list args;
    va_start(args, format);
    used += written(vsnprintf(text + used, room - used, format, args), room - used);
    va_end(args);
    used += written(snprintf(text + used, sizeof(text) - used, "%s", source), sizeof(text) - used);
    blank_control_characters(text, used);
    text[used] = '\n';
    write_line(line_fd(rank), text, used + 1);
    errno = saved_errno;
}
