/*
 * Fuzzes `weir top`: its command line, and what whoever listens at a port answers, in pieces, with waits. Whatever comes,
 * what is shown is text that a terminal may be given.
 */
#include "bytes_of.h"

#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SOCKET = 1000 };

static struct bytes_of input;
static FILE *nowhere; /* for usage and complaints */
static int open_sockets;

/* ---- The network: one host, whose answers are the next bytes ------------------------------------------------------- */

static int fake_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **list)
{
    static struct sockaddr_storage address;
    static struct addrinfo one = {.ai_family = AF_INET, .ai_addr = (struct sockaddr *)&address, .ai_addrlen = sizeof(address)};
    (void)hints;
    check(strlen(host) < 256 && strspn(port, "0123456789") == strlen(port));
    *list = &one;
    return take_byte(&input) % 32 == 1 ? EAI_NONAME : 0;
}

static void fake_freeaddrinfo(struct addrinfo *list)
{
    (void)list;
}

static int fake_socket(int family, int type, int protocol)
{
    (void)family, (void)type, (void)protocol;
    open_sockets++;
    return SOCKET;
}

static int fake_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    (void)level, (void)name, (void)value, (void)len;
    check(fd == SOCKET);
    return 0;
}

static int fake_connect(int fd, const struct sockaddr *address, socklen_t len)
{
    (void)address, (void)len;
    check(fd == SOCKET);
    errno = ECONNREFUSED;
    return take_byte(&input) % 32 == 1 ? -1 : 0;
}

static ssize_t fake_send(int fd, const void *bytes, size_t len, int flags)
{
    (void)bytes, (void)flags;
    check(fd == SOCKET && len < 400);
    errno = EPIPE;
    return take_byte(&input) % 32 == 1 ? -1 : (ssize_t)len;
}

static int fake_poll(struct pollfd *one, nfds_t count, int timeout_ms)
{
    uint8_t how = take_byte(&input);
    check(one->fd == SOCKET && count == 1 && timeout_ms >= 0 && timeout_ms <= 2000);
    errno = how % 32 == 1 ? EINTR : EIO;
    return how % 32 == 1 || how % 32 == 2 ? -1 : how % 32 != 3;
}

/* A piece; none is the end. */
static ssize_t fake_read(int fd, void *bytes, size_t room)
{
    size_t len = take_byte(&input);
    check(fd == SOCKET && room > 0);
    errno = len == 255 ? EINTR : ECONNRESET;
    if (len >= 254)
        return -1;
    len = len < room ? len : room;
    const uint8_t *piece = take_bytes(&input, &len);
    memcpy(bytes, piece, len);
    return (ssize_t)len;
}

static int fake_close(int fd)
{
    check(fd == SOCKET);
    open_sockets--;
    return 0;
}

static int fake_nanosleep(const struct timespec *pause, struct timespec *left)
{
    (void)left;
    check(pause->tv_sec >= 0 && pause->tv_nsec >= 0 && pause->tv_nsec < 1000000000);
    return 0;
}

/* ---- The terminal --------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2))) static int fake_printf(const char *format, ...)
{
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    check(len >= 0 && (size_t)len < sizeof(text));
    for (int i = 0; i < len; i++)
        check(isprint((unsigned char)text[i]) || text[i] == '\n');
    return len;
}

#define getaddrinfo  fake_getaddrinfo
#define freeaddrinfo fake_freeaddrinfo
#define socket       fake_socket
#define setsockopt   fake_setsockopt
#define connect      fake_connect
#define send         fake_send
#define poll(...)    fake_poll(__VA_ARGS__)
#define read         fake_read
#define close        fake_close
#define nanosleep    fake_nanosleep
#include "tools/top/source.c"
#undef read /* the rest names variables so */
#undef send
#define printf       fake_printf
#define isatty(_fd)  ((_fd) == STDOUT_FILENO)
#include "tools/weir_top.c"
#undef printf

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    nowhere = fopen("/dev/null", "w");
    check(nowhere);
    stdout = stderr = nowhere; /* the sanitizers' reports and libFuzzer's do not go by these */
    return 0;
}

/* A command line is parsed once a process: getopt keeps where it is in it. */
static void forget_command_line(char **words)
{
    opterr = optind = 0;
    (void)getopt(1, words, "");
    opterr = 1;
}

/* A newline ends a word. */
static void command_line(void)
{
    enum { WORDS = 12 };
    struct options options;
    char text[400], *words[WORDS + 2] = {"top"}, *rest = text;
    size_t len = sizeof(text) - 1;
    const uint8_t *bytes = take_bytes(&input, &len);
    memcpy(text, bytes, len);
    text[len] = '\0';
    int count = 1;
    for (char *word; count < WORDS && (word = strsep(&rest, "\n"));)
        words[count++] = word;
    if (parse_options(count, words, &options) == 0) {
        check(options.source_count > 0 && options.source_count <= SOURCES_MAX && options.count >= 0);
        check(options.interval_ns >= 10000000 && options.interval_ns <= 3600000000000);
        for (int i = 0; i < options.source_count; i++)
            check(options.sources[i] != NULL);
    }
    forget_sources(&options);
    forget_command_line(words);
}

/* Two looks at two ports. */
static void look_twice(bool once)
{
    char here[] = "9400", there[] = "[::1]:9401";
    struct options options = {.sources = {here, there}, .source_count = 2, .interval_ns = 1000000000, .count = 1, .once = once};
    int status = watch(&options);
    check(status == 0 || status == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input = (struct bytes_of){data, size};
    uint8_t what = take_byte(&input);
    if (what % 4 == 0)
        command_line();
    else
        look_twice(what % 4 == 1);
    check(open_sockets == 0);
    return 0;
}
