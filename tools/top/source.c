#include "source.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { TEXT_MAX = 16 << 20, PATIENCE_S = 2 };

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

bool source_is_port(const char *source)
{
    const char *colon = strrchr(source, ':'), *digits = colon ? colon + 1 : source;
    return *digits && strspn(digits, "0123456789") == strlen(digits) && !strchr(source, '/');
}

/* False, with errno: there is nothing to read until then, however much came before. */
static bool wait_readable(int fd, int64_t until_ms)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    int64_t left_ms = until_ms - now_ms();
    int ready = left_ms > 0 ? poll(&one, 1, (int)left_ms) : 0;
    if (ready == 0)
        errno = ETIMEDOUT;
    return ready > 0 || (ready < 0 && errno == EINTR);
}

/* Reads until the end; NULL with errno. */
static char *read_all(int fd, int64_t until_ms)
{
    size_t len = 0, room = 64 << 10;
    char *text = malloc(room);
    for (ssize_t got = 1; text && got != 0;) {
        if (len + 1 == room) {
            char *more = room < TEXT_MAX ? realloc(text, room * 2) : NULL;
            if (!more) {
                errno = EFBIG;
                break;
            }
            text = more;
            room *= 2;
        }
        if (!wait_readable(fd, until_ms))
            break;
        got = read(fd, text + len, room - len - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            break;
        len += (size_t)got;
        text[len] = '\0';
        if (got == 0)
            return text;
    }
    free(text);
    return NULL;
}

/* A connected socket that gives up after some time; -1 with errno, or EAI errors told in `why`. */
static int connect_to(const char *host, const char *port, char *why, size_t why_size)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    struct timeval patience = {.tv_sec = PATIENCE_S};
    int fd = -1, result = getaddrinfo(host, port, &hints, &list);
    if (result != 0) {
        snprintf(why, why_size, "%s", gai_strerror(result));
        return -1;
    }
    for (struct addrinfo *one = list; one && fd < 0; one = one->ai_next) {
        fd = socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)); /* bounds connect(), too */
        if (connect(fd, one->ai_addr, one->ai_addrlen) != 0) {
            int saved_errno = errno;
            close(fd);
            errno = saved_errno;
            fd = -1;
        }
    }
    if (fd < 0)
        snprintf(why, why_size, "%s", strerror(errno));
    freeaddrinfo(list);
    return fd;
}

/* "[HOST:]PORT", an IPv6 address in brackets or not: changes `host` if one is named; returns the port. */
static const char *split_place(const char *source, char *host, size_t size)
{
    const char *colon = strrchr(source, ':');
    if (!colon)
        return source;
    size_t len = (size_t)(colon - source);
    if (len >= 2 && source[0] == '[' && colon[-1] == ']') {
        source++;
        len -= 2;
    }
    if (len > 0)
        snprintf(host, size, "%.*s", (int)len, source);
    return colon + 1;
}

static char *read_http(const char *source, char *why, size_t why_size)
{
    char host[256] = "127.0.0.1", request[400];
    int64_t until_ms = now_ms() + PATIENCE_S * 1000;
    const char *port = split_place(source, host, sizeof(host));
    if (strlen(port) > 5 || atoi(port) < 1 || atoi(port) > 65535) { /* getaddrinfo() takes what is left modulo 65536 */
        snprintf(why, why_size, "not a port; use a number from 1 to 65535");
        return NULL;
    }
    int fd = connect_to(host, port, why, why_size);
    if (fd < 0)
        return NULL;
    int len = snprintf(request, sizeof(request), "GET /metrics HTTP/1.0\r\nHost: %s\r\n\r\n", host);
    char *text = send(fd, request, (size_t)len, MSG_NOSIGNAL) == len ? read_all(fd, until_ms) : NULL;
    if (!text)
        snprintf(why, why_size, "%s", strerror(errno));
    close(fd);
    char *body = text ? strstr(text, "\r\n\r\n") : NULL;
    bool good = body && strncmp(text, "HTTP/1.", 7) == 0 && strncmp(text + 8, " 200", 4) == 0;
    if (good) {
        memmove(text, body + 4, strlen(body + 4) + 1);
        return text;
    }
    if (text)
        snprintf(why, why_size, "what listens there does not serve metrics");
    free(text);
    return NULL;
}

static char *read_file(const char *source, char *why, size_t why_size)
{
    FILE *file = fopen(source, "re");
    char *text = file ? read_all(fileno(file), now_ms() + PATIENCE_S * 1000) : NULL;
    if (!text)
        snprintf(why, why_size, "%s", strerror(errno));
    if (file)
        fclose(file);
    return text;
}

static bool has_metrics(const char *text)
{
    return strncmp(text, "weir_", 5) == 0 || strstr(text, "\nweir_");
}

char *source_read(const char *source, char *why, size_t why_size)
{
    char *text = source_is_port(source) ? read_http(source, why, why_size) : read_file(source, why, why_size);
    if (!text || has_metrics(text))
        return text;
    snprintf(why, why_size, "these are no metrics of Weir's (WEIR_METRICS_FILE, WEIR_METRICS_LISTEN)");
    free(text);
    return NULL;
}
