/*
 * Status codes of every Weir call, and the sentence behind the last error.
 *
 * Codes are grouped by the largest thing that is affected: the call, the memory, the peer, the job.
 */
#ifndef WEIR_STATUS_H
#define WEIR_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* Result of a call. Zero is success; the values are stable and never renumbered. */
typedef enum weir_status {
    WEIR_OK = 0,

    /* The call: nothing else is affected. */
    WEIR_ERR_AGAIN = 1,       /* nothing there yet; call again */
    WEIR_ERR_INVALID = 2,     /* an argument is wrong */
    WEIR_ERR_CONFIG = 3,      /* an environment variable cannot be read */
    WEIR_ERR_UNSUPPORTED = 4, /* this build, device or backend cannot do it */
    WEIR_ERR_NO_MEMORY = 5,   /* out of memory */
    WEIR_ERR_LIMIT = 6,       /* an operating system limit (memlock, open files, table full) */
    WEIR_ERR_NO_DEVICE = 7,   /* no usable device, port or interface */
    WEIR_ERR_IO = 8,          /* a system call failed */
    WEIR_ERR_CANCELED = 9,    /* given up because its endpoint or context was closed */
    WEIR_ERR_TIMEOUT = 10,    /* the bound was reached */

    /* The memory: the operation was refused, the target is unharmed. */
    WEIR_ERR_KEY = 20,   /* a remote key or local registration is bad, damaged or revoked */
    WEIR_ERR_RANGE = 21, /* the address range is outside of what the key covers */

    /* The peer: its endpoint is lost. */
    WEIR_ERR_PEER_UNREACHABLE = 30, /* it could not be connected to */
    WEIR_ERR_PEER_GONE = 31,        /* it was connected and is dead or cut off */
    WEIR_ERR_PROTOCOL = 32,         /* it said something that cannot be right */

    /* The job: all ranks are affected. */
    WEIR_ERR_MISMATCH = 40,   /* ranks disagree about a count, a type, an operation or a parameter */
    WEIR_ERR_JOB_FAILED = 41, /* another rank failed; the sentence says which and why */
} weir_status;

/*
 * Name of a status in a few words, e.g. "peer gone". Never NULL, static storage, thread safe.
 */
const char *weir_status_string(weir_status status);

/*
 * The sentence of the last error in this thread: which peer, which operation, the cause and the mend. Empty string when
 * there was none. The pointer stays valid until the next failing Weir call of the same thread. A successful call does
 * not clear it. Thread safe (one sentence a thread).
 */
const char *weir_last_error(void);

#ifdef __cplusplus
}
#endif
#endif
