/* Whose context this is, for all that use one (process.c). */
#ifndef WI_TRANSPORT_PROCESS_H
#define WI_TRANSPORT_PROCESS_H

#include <weir/transport.h>

/*
 * WEIR_ERR_INVALID, with a sentence that begins with `what`, in a child after fork() that has a copy of its parent's
 * context; else WEIR_OK. To be asked before a lock is taken, which a thread that does not exist there may hold, and
 * before memory that is shared with the parent is written. No system call.
 */
weir_status wi_process_check(const weir_ctx *ctx, const char *what);

#endif
