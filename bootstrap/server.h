/*
 * The store's server: a thread of rank 0's process. It seats the ranks, keeps the keys, and tells all when one is gone.
 */
#ifndef WI_BOOTSTRAP_SERVER_H
#define WI_BOOTSTRAP_SERVER_H

#include "bootstrap/secret.h"

#include <weir/bootstrap.h>

#include <stdbool.h>
#include <stdint.h>

struct wi_boot_server;

struct wi_boot_server_params {
    int port;
    int world;
    int servers;
    const char *job_id;  /* "" where there is none; borrowed for the call */
    const struct wi_secret *secret; /* borrowed for the life of the server */
    bool loopback_only;  /* turn away whoever does not come from this host */
    uint64_t timeout_ns; /* a rank that is silent for so long is dead */
};

/* What the server has done so far, in frames: deterministic, where time is not. */
struct wi_boot_server_counts {
    uint64_t received;
    uint64_t queued; /* to be sent */
};

/* Listens and starts the thread. Errors: WEIR_ERR_PEER_UNREACHABLE (port in use), WEIR_ERR_IO, WEIR_ERR_NO_MEMORY. */
weir_status wi_boot_server_create(const struct wi_boot_server_params *params, struct wi_boot_server **server);

/* From any thread. */
struct wi_boot_server_counts wi_boot_server_counts(const struct wi_boot_server *server);

/* Serves on until all ranks have left, at most `linger_ns`, then tells who is left that the store closes. NULL is
 * allowed. */
void wi_boot_server_destroy(struct wi_boot_server *server, uint64_t linger_ns);

#endif
