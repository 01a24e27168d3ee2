/* How endpoints fail, for targets that have a backend without the front: the first failure of an endpoint stays. */
#ifndef WI_FUZZ_EP_FAIL_H
#define WI_FUZZ_EP_FAIL_H

#include "transport/ops.h"

#include <stdarg.h>
#include <stdio.h>

void wi_ep_fail(struct weir_ep *ep, weir_status status, const char *format, ...)
{
    va_list args;
    if (ep->status != WEIR_OK)
        return;
    va_start(args, format);
    vsnprintf(ep->sentence, sizeof(ep->sentence), format, args);
    va_end(args);
    ep->status = status;
}

weir_status weir_ep_status(const weir_ep *ep)
{
    return ep->status;
}

#endif
