/* A growing run of bytes with a read position: what came in and is not decoded, what goes out and is not sent. */
#ifndef WI_BOOTSTRAP_BYTES_H
#define WI_BOOTSTRAP_BYTES_H

#include "bootstrap/wire.h"

struct wi_bytes {
    uint8_t *data;
    size_t start; /* first byte not consumed */
    size_t end;   /* one past the last byte */
    size_t room;
};

/* Frees the bytes; the object is empty and usable afterwards. */
void wi_bytes_fini(struct wi_bytes *bytes);

size_t wi_bytes_count(const struct wi_bytes *bytes);

/* Makes room for `more` bytes after the end; false: out of memory. */
bool wi_bytes_reserve(struct wi_bytes *bytes, size_t more);

/* Consumes `count` bytes at the start. */
void wi_bytes_consume(struct wi_bytes *bytes, size_t count);

/* Appends the message's frame; false: out of memory, or a field is too long. */
bool wi_bytes_append(struct wi_bytes *bytes, const struct wi_message *message);

enum wi_io {
    WI_IO_DONE,  /* some bytes moved (receive) or all are sent (send) */
    WI_IO_AGAIN, /* the socket has nothing, or takes no more, now */
    WI_IO_END,   /* the other side has ended the connection in order */
    WI_IO_ERROR, /* errno says why */
};

/* Receives once, without waiting, at least `least` bytes of room. */
enum wi_io wi_bytes_receive(struct wi_bytes *bytes, int fd, size_t least);

/* Sends what is there, without waiting. */
enum wi_io wi_bytes_send(struct wi_bytes *bytes, int fd);

#endif
