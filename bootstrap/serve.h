/*
 * The inside of the store's server, for the files that make it up: server.c has the thread, serve_connection.c what
 * goes over connections, serve_stranger.c those without a seat, serve_request.c what ranks ask for, serve_job.c the
 * job's state. All below is the server's thread's alone, but for `linger_ns` and the counts.
 */
#ifndef WI_BOOTSTRAP_SERVE_H
#define WI_BOOTSTRAP_SERVE_H

#include "bootstrap/bytes.h"
#include "bootstrap/net.h"
#include "bootstrap/server.h"
#include "bootstrap/store.h"
#include "core/clock.h"

#include <pthread.h>
#include <stddef.h>

#define WI_STRANGER           (-1) /* in place of a rank */
#define WI_STRANGER_FRAME_MAX 1024u
#define WI_FAILED_LINGER_NS   (2 * WI_NS_PER_S) /* how long a failed job is served on */

struct wi_connection {
    struct wi_link link;  /* strangers, oldest first; or members; or the dead of this turn */
    struct wi_link dirty; /* something to send at the end of this turn */
    struct wi_link waiters;
    int fd; /* -1: dead */
    int rank;
    bool refused; /* closes when what it is to hear has been sent */
    bool challenged, proven;
    uint8_t of_rank[WI_SECRET_NONCE], of_store[WI_SECRET_NONCE];
    bool wants_writable;
    uint64_t until_ns; /* a stranger is dropped then */
    struct wi_bytes in;
    struct wi_bytes out;
    /* Pieces that it gets when what it was sent before is out: all ranks get as many, nobody's wait here in copies. */
    const struct wi_span *pieces; /* NULL: none */
    uint32_t piece_count, piece_next;
    uint32_t gather; /* the request */
    char peer[WI_NET_ADDRESS];
};

enum wi_seat_state { WI_SEAT_FREE, WI_SEAT_TAKEN, WI_SEAT_LEFT, WI_SEAT_LOST };

struct wi_seat {
    enum wi_seat_state state;
    struct wi_connection *connection;
    uint32_t pid;
    char host[64];
};

struct wi_boot_server {
    pthread_t thread;
    int listener;
    int wake; /* eventfd: linger_ns was set, end */
    int epoll;
    int world;
    int servers;
    int port;
    bool loopback_only;
    char job_id[WI_WIRE_NAME_MAX + 1];
    const struct wi_secret *secret;
    uint64_t timeout_ns;
    uint64_t linger_ns; /* written before `wake`, read after it */

    struct wi_store store;
    struct wi_store meetings;
    struct wi_seat *seats;
    int seated; /* seats that were ever taken */
    int present;
    uint64_t join_until_ns;
    unsigned refusals, accept_failures;
    uint64_t listen_again_ns; /* 0: the listener is being watched */
    bool ending;
    uint64_t end_ns;
    weir_status failure;
    char failure_text[WI_WIRE_TEXT_MAX + 1];

    struct wi_link strangers;
    size_t stranger_count, strangers_max;
    struct wi_link members;
    struct wi_link dirty;
    struct wi_link dead;
    struct wi_boot_server_counts counts;
};

#define WI_CONNECTION(_link) ((struct wi_connection *)((char *)(_link)-offsetof(struct wi_connection, link)))

/* ---- Connections (serve_connection.c) ---- */

/* Closes it; it is freed by wi_serve_bury(), at the end of the turn. Harmless where that was done before. */
void wi_serve_drop(struct wi_boot_server *server, struct wi_connection *connection);

/* Drops it and draws the consequences for the job when it was a rank's. `error`: an errno, 0 where it just ended. */
void wi_serve_lose(struct wi_boot_server *server, struct wi_connection *connection, int error);
void wi_serve_bury(struct wi_boot_server *server);

/* Queues a frame; it goes out at the end of the turn, with all others. */
void wi_serve_tell(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *message);
void wi_serve_tell_status(struct wi_boot_server *server, struct wi_connection *connection, enum wi_wire_type type,
                          uint32_t request, weir_status status, const char *text);

/* Sends what is queued, as far as it goes: of one connection, of all that something was queued for. */
void wi_serve_flush(struct wi_boot_server *server, struct wi_connection *connection);
void wi_serve_flush_dirty(struct wi_boot_server *server);

/* Something can be read: reads it and acts on it. */
void wi_serve_readable(struct wi_boot_server *server, struct wi_connection *connection);

/* ---- Strangers (serve_stranger.c) ---- */

size_t wi_serve_strangers_max(void);
void wi_serve_joiners(struct wi_boot_server *server); /* somebody waits at the listener */
void wi_serve_add_stranger(struct wi_boot_server *server, int fd);
void wi_serve_refuse(struct wi_boot_server *server, struct wi_connection *connection, weir_status status,
                     const char *text);

/* False: a stranger must not say that. */
bool wi_serve_stranger(struct wi_boot_server *server, struct wi_connection *connection,
                       const struct wi_message *message);

/* When wi_serve_strangers_time() has something to do next; it drops who has taken too long, and listens again. */
uint64_t wi_serve_strangers_moment(const struct wi_boot_server *server);
void wi_serve_strangers_time(struct wi_boot_server *server, uint64_t now_ns);

/* ---- Ranks (serve_request.c) ---- */

/* False: a rank must not say that. */
bool wi_serve_member(struct wi_boot_server *server, struct wi_connection *connection, const struct wi_message *message);

/* ---- The job (serve_job.c) ---- */

/* Tells all ranks, once. */
__attribute__((format(printf, 3, 4))) void wi_serve_fail_job(struct wi_boot_server *server, weir_status status,
                                                             const char *format, ...);
void wi_serve_rank_lost(struct wi_boot_server *server, int rank, int error);
void wi_serve_join_timed_out(struct wi_boot_server *server);
void wi_serve_welcome_all(struct wi_boot_server *server);

#endif
