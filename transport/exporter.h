/*
 * Shows a context's statistics outside: a file that is written anew from time to time (WEIR_METRICS_FILE), and a listener
 * for HTTP (WEIR_METRICS_LISTEN, by libmicrohttpd). Each has a thread of its own, which reads counters alone.
 */
#ifndef WI_TRANSPORT_EXPORTER_H
#define WI_TRANSPORT_EXPORTER_H

#include "core/config.h"

struct weir_ctx;
struct wi_exporter;

/* Does the configuration ask for one? */
bool wi_exporter_wanted(const struct wi_config *config);

/*
 * Starts what is asked for; NULL in `*exporter` where that is nothing. What cannot be had (a port in use, a folder that
 * is not there) is warned about and does not keep the program from its work.
 */
void wi_exporter_start(const struct weir_ctx *ctx, const struct wi_config *config, struct wi_exporter **exporter);

/* Writes the file a last time, and ends the threads. NULL is allowed. */
void wi_exporter_stop(struct wi_exporter *exporter);

/* -- exporter_http.c -- */
struct wi_http;

/* `where` is "[ADDRESS:]PORT" (127.0.0.1 without an address); `offset` is added to the port. NULL: warned about. */
struct wi_http *wi_http_start(const struct weir_ctx *ctx, const char *where, int offset);
void wi_http_stop(struct wi_http *http);

/* The statistics as a text of `*len` bytes, to be freed; NULL: out of memory. */
char *wi_exporter_text(const struct weir_ctx *ctx, size_t *len);

#endif
