#include "bootstrap/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

void wi_bytes_fini(struct wi_bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct wi_bytes){0};
}

size_t wi_bytes_count(const struct wi_bytes *bytes)
{
    return bytes->end - bytes->start;
}

bool wi_bytes_reserve(struct wi_bytes *bytes, size_t more)
{
    if (bytes->room - bytes->end >= more)
        return true;
    size_t count = wi_bytes_count(bytes);
    if (bytes->start > 0)
        memmove(bytes->data, bytes->data + bytes->start, count);
    bytes->start = 0;
    bytes->end = count;
    if (bytes->room - count >= more)
        return true;
    size_t room = bytes->room * 2 > count + more ? bytes->room * 2 : count + more;
    uint8_t *data = realloc(bytes->data, room);
    if (!data)
        return false;
    bytes->data = data;
    bytes->room = room;
    return true;
}

void wi_bytes_consume(struct wi_bytes *bytes, size_t count)
{
    bytes->start += count;
    if (bytes->start == bytes->end)
        bytes->start = bytes->end = 0;
}

bool wi_bytes_append(struct wi_bytes *bytes, const struct wi_message *message)
{
    size_t size = wi_wire_size(message);
    if (size == 0 || !wi_bytes_reserve(bytes, size))
        return false;
    bytes->end += wi_wire_encode(message, bytes->data + bytes->end, size);
    return true;
}

enum wi_io wi_bytes_receive(struct wi_bytes *bytes, int fd, size_t least)
{
    if (!wi_bytes_reserve(bytes, least)) {
        errno = ENOMEM;
        return WI_IO_ERROR;
    }
    ssize_t got;
    do {
        got = recv(fd, bytes->data + bytes->end, bytes->room - bytes->end, MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? WI_IO_AGAIN : WI_IO_ERROR;
    bytes->end += (size_t)got;
    return got == 0 ? WI_IO_END : WI_IO_DONE;
}

enum wi_io wi_bytes_send(struct wi_bytes *bytes, int fd)
{
    while (wi_bytes_count(bytes) > 0) {
        ssize_t sent = send(fd, bytes->data + bytes->start, wi_bytes_count(bytes), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0)
            wi_bytes_consume(bytes, (size_t)sent);
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            return WI_IO_AGAIN;
        else if (errno != EINTR)
            return WI_IO_ERROR;
    }
    return WI_IO_DONE;
}
