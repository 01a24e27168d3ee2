/*
 * The trace (WEIR_TRACE): spans of time as events of a process, in Chrome's trace format (chrome://tracing, Perfetto).
 * One file a process, like the log's; it is a valid JSON array whenever it was flushed (a process that is killed while it
 * writes may leave an event by half at the end, which viewers pass over). Times are of the real-time clock,
 * in microseconds, so that the files of several ranks can be laid over each other.
 */
#ifndef WI_CORE_TRACE_H
#define WI_CORE_TRACE_H

#include <stdbool.h>
#include <stdint.h>

/* Set once by wi_trace_open(): read on hot paths. */
extern bool wi_trace_enabled;

static inline bool wi_trace_on(void)
{
    return __builtin_expect(__atomic_load_n(&wi_trace_enabled, __ATOMIC_RELAXED), 0);
}

/*
 * Opens the trace of this process at the first call, if `path` is not "". %r in it becomes the rank; without it, and with
 * several ranks, the rank goes before the last dot. A file that cannot be opened is warned about. Thread safe.
 */
void wi_trace_open(const char *path, int rank, int world);

/*
 * Adds a span of the calling thread, in nanoseconds of wi_now_ns(). `name` and `category` are plain words. `format` makes
 * the members of the event's arguments, as JSON: "\"bytes\": %zu". Thread safe; writes to the file once in some thousand
 * events.
 */
void wi_trace_span(const char *name, const char *category, uint64_t start_ns, uint64_t end_ns, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Brings all events to the file. Thread safe. */
void wi_trace_flush(void);

#endif
