/* The error sentence of a thread, and how to set it. The first detector writes the sentence; callers pass the status on. */
#ifndef WI_CORE_ERROR_H
#define WI_CORE_ERROR_H

#include <weir/status.h>

/*
 * Stores the sentence for weir_last_error(), logs it at debug level, and returns `status`, so that a function can end
 * with `return wi_error(WEIR_ERR_KEY, "put to rank %d: ...", ...)`. Sentences are cut at 1023 bytes. Keeps errno.
 */
weir_status wi_error(weir_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "text: " in front of this thread's sentence: for callers that know more of the context. Returns `status`. */
weir_status wi_error_prefix(weir_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Sets the sentence to one that weir_last_error() gave before, without logging it again. */
void wi_error_restore(const char *text);

/* Forgets the sentence: for a call that succeeds although something that it tried did not. */
void wi_error_clear(void);

#endif
