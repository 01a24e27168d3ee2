/* The error sentence of a thread, and the names of the status codes. */
#include "core/error.h"

#include "core/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char sentence[1024];

const char *weir_status_string(weir_status status)
{
    switch (status) {
    case WEIR_OK:
        return "success";
    case WEIR_ERR_AGAIN:
        return "nothing there yet";
    case WEIR_ERR_INVALID:
        return "invalid argument";
    case WEIR_ERR_CONFIG:
        return "bad configuration";
    case WEIR_ERR_UNSUPPORTED:
        return "not supported";
    case WEIR_ERR_NO_MEMORY:
        return "out of memory";
    case WEIR_ERR_LIMIT:
        return "limit reached";
    case WEIR_ERR_NO_DEVICE:
        return "no usable device";
    case WEIR_ERR_IO:
        return "system call failed";
    case WEIR_ERR_CANCELED:
        return "canceled";
    case WEIR_ERR_TIMEOUT:
        return "timed out";
    case WEIR_ERR_KEY:
        return "bad key";
    case WEIR_ERR_RANGE:
        return "out of range";
    case WEIR_ERR_PEER_UNREACHABLE:
        return "peer unreachable";
    case WEIR_ERR_PEER_GONE:
        return "peer gone";
    case WEIR_ERR_PROTOCOL:
        return "protocol violated";
    case WEIR_ERR_MISMATCH:
        return "ranks disagree";
    case WEIR_ERR_JOB_FAILED:
        return "job failed";
    }
    return "unknown status";
}

const char *weir_last_error(void)
{
    return sentence;
}

weir_status wi_error(weir_status status, const char *format, ...)
{
    int saved_errno = errno;
    char text[sizeof(sentence)]; /* arguments may point into the old sentence */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    memcpy(sentence, text, sizeof(text));
    wi_debug("%s: %s", weir_status_string(status), sentence);
    errno = saved_errno;
    return status;
}

void wi_error_restore(const char *text)
{
    snprintf(sentence, sizeof(sentence), "%s", text);
}

void wi_error_clear(void)
{
    sentence[0] = '\0';
}

weir_status wi_error_prefix(weir_status status, const char *format, ...)
{
    int saved_errno = errno;
    char text[sizeof(sentence)];
    va_list args;
    va_start(args, format);
    int used = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof(text))
        snprintf(text + used, sizeof(text) - (size_t)used, ": %s", sentence);
    memcpy(sentence, text, sizeof(text));
    errno = saved_errno;
    return status;
}
