#include "read.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_ROOM = 1024 };

static void make_path(char path[PATH_ROOM], const char *root, const char *format, va_list arguments)
{
    int len = snprintf(path, PATH_ROOM, "%s", root);
    if (len >= 0 && len < PATH_ROOM)
        vsnprintf(path + len, PATH_ROOM - (size_t)len, format, arguments);
}

#define MAKE_PATH(_path, _root, _format)                                                                               \
    do {                                                                                                               \
        va_list arguments_;                                                                                            \
        va_start(arguments_, _format);                                                                                 \
        make_path(_path, _root, _format, arguments_);                                                                  \
        va_end(arguments_);                                                                                            \
    } while (0)

/* What the kernel writes is ASCII; whatever else is there must not end up in a terminal or in JSON. */
static void make_printable(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text >= 0x7f || ((unsigned char)*text < ' ' && *text != '\n' && *text != '\t'))
            *text = '?';
}

static bool read_path(const char *path, char *text, size_t size)
{
    text[0] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t len = 0;
    ssize_t got = 0;
    while (len < size - 1 && (got = read(fd, text + len, size - 1 - len)) > 0)
        len += (size_t)got;
    int error = got < 0 ? errno : 0;
    close(fd);
    text[len] = '\0';
    while (len > 0 && text[len - 1] == '\n')
        text[--len] = '\0';
    make_printable(text);
    errno = error;
    return error == 0;
}

bool read_text(const char *root, char *text, size_t size, const char *format, ...)
{
    char path[PATH_ROOM];
    MAKE_PATH(path, root, format);
    return read_path(path, text, size);
}

bool read_number(const char *root, long *number, const char *format, ...)
{
    char path[PATH_ROOM], text[64], *end;
    MAKE_PATH(path, root, format);
    if (!read_path(path, text, sizeof(text)))
        return false;
    *number = strtol(text, &end, 0);
    return end != text;
}

bool path_exists(const char *root, const char *format, ...)
{
    char path[PATH_ROOM];
    MAKE_PATH(path, root, format);
    return access(path, F_OK) == 0;
}

bool read_link_name(const char *root, char *name, size_t size, const char *format, ...)
{
    char path[PATH_ROOM], target[PATH_ROOM];
    MAKE_PATH(path, root, format);
    ssize_t len = readlink(path, target, sizeof(target) - 1);
    target[len > 0 ? len : 0] = '\0';
    const char *slash = strrchr(target, '/');
    snprintf(name, size, "%s", slash ? slash + 1 : target);
    return len > 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

size_t list_folder(const char *root, char names[][READ_NAME], size_t room, const char *format, ...)
{
    char path[PATH_ROOM];
    MAKE_PATH(path, root, format);
    DIR *folder = opendir(path);
    if (!folder)
        return 0;
    size_t count = 0;
    for (struct dirent *entry = readdir(folder); entry && count < room; entry = readdir(folder))
        if (entry->d_name[0] != '.' && strlen(entry->d_name) < READ_NAME)
            snprintf(names[count++], READ_NAME, "%s", entry->d_name);
    closedir(folder);
    qsort(names, count, READ_NAME, by_name);
    return count;
}

void append(char *text, size_t size, const char *format, ...)
{
    size_t len = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + len, size - len, format, arguments);
    va_end(arguments);
}
