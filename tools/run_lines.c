#include "run_lines.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

void run_lines_init(struct run_lines *lines, int source, int target, int rank)
{
    lines->source = source;
    lines->target = target;
    lines->len = 0;
    snprintf(lines->prefix, sizeof(lines->prefix), "[%d] ", rank);
}

/* All of the pieces, in one system call where the target takes them so. */
static bool write_all(int fd, struct iovec *pieces, int count)
{
    while (count > 0) {
        ssize_t written = writev(fd, pieces, count);
        if (written < 0 && errno == EAGAIN) {
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            poll(&writable, 1, -1);
            continue;
        }
        if (written < 0 && errno != EINTR)
            return false;
        while (written > 0) {
            size_t part = (size_t)written < pieces->iov_len ? (size_t)written : pieces->iov_len;
            pieces->iov_base = (char *)pieces->iov_base + part;
            pieces->iov_len -= part;
            written -= (ssize_t)part;
            if (pieces->iov_len > 0)
                break;
            pieces++;
            count--;
        }
    }
    return true;
}

/* One line, given without its newline. */
static bool emit(const struct run_lines *lines, char *line, size_t len)
{
    struct iovec pieces[] = {
        {(char *)lines->prefix, strlen(lines->prefix)},
        {line, len},
        {(char[]){'\n'}, 1},
    };
    if (len == 0)
        pieces[1] = pieces[2];
    return write_all(lines->target, pieces, len == 0 ? 2 : 3);
}

static bool emit_whole_lines(struct run_lines *lines)
{
    char *start = lines->line;
    char *end = lines->line + lines->len;
    bool good = true;
    for (char *newline; good && (newline = memchr(start, '\n', (size_t)(end - start))); start = newline + 1)
        good = emit(lines, start, (size_t)(newline - start));
    lines->len = (size_t)(end - start);
    memmove(lines->line, start, lines->len);
    if (good && lines->len == sizeof(lines->line)) {
        good = emit(lines, lines->line, lines->len);
        lines->len = 0;
    }
    return good;
}

bool run_lines_pump(struct run_lines *lines)
{
    ssize_t got = read(lines->source, lines->line + lines->len, sizeof(lines->line) - lines->len);
    if (got > 0) {
        lines->len += (size_t)got;
        return emit_whole_lines(lines);
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    run_lines_close(lines);
    return true;
}

void run_lines_close(struct run_lines *lines)
{
    if (lines->source >= 0)
        close(lines->source);
    lines->source = -1;
    if (lines->len > 0)
        (void)emit(lines, lines->line, lines->len);
    lines->len = 0;
}
