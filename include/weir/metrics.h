/*
 * Metrics: what a context has done, in numbers, as text that Prometheus reads.
 *
 * A program needs none of this to be seen from outside: WEIR_METRICS_FILE has the text written to a file again and again
 * (for the node exporter's textfile collector, or `weir top`), WEIR_METRICS_LISTEN serves it over HTTP at /metrics, and
 * WEIR_TRACE writes a timeline for chrome://tracing or Perfetto.
 *
 * Counted always: operations and bytes towards each peer, refused operations, failed endpoints, messages taken, memory
 * registered, sleeps, and what RDMA devices count themselves (retransmits, receivers that were not ready). Timed only
 * with WEIR_METRICS_FILE, WEIR_METRICS_LISTEN (one operation in 64) or WEIR_TRACE (all): histograms of the time from
 * posting to completion. The format is version 0.0.4 of https://prometheus.io/docs/instrumenting/exposition_formats.
 */
#ifndef WEIR_METRICS_H
#define WEIR_METRICS_H

#include <weir/status.h>
#include <weir/transport.h>

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Writes the context's metrics as text into `buf`, with a final zero. `*len` is the room on entry, and on return the
 * length without the zero. May be called by any thread at any time until weir_ctx_destroy(). Errors: WEIR_ERR_RANGE (too
 * little room: `*len` is what is needed; it grows with the number of peers), WEIR_ERR_NO_MEMORY.
 */
weir_status weir_metrics_text(const weir_ctx *ctx, char *buf, size_t *len);

#ifdef __cplusplus
}
#endif
#endif
