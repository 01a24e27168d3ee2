/* Reduction kernels, chosen once by what the processor can do. */
#ifndef WI_COLLECTIVES_REDUCE_H
#define WI_COLLECTIVES_REDUCE_H

#include <weir/collectives.h>

/* out[i] = a[i] + b[i] for `bytes` bytes of elements. Any alignment; `out` may be `a` or `b`, no other overlap. */
typedef void wi_reduce_fn(void *out, const void *a, const void *b, size_t bytes);

/* The best kernel for a type on this processor; NULL for an unknown type. */
wi_reduce_fn *wi_reduce_kernel(weir_dtype dtype);

/* Kernels of one width, for tests: `level` 0 is the plain one. NULL: the processor or the build has no such level. */
wi_reduce_fn *wi_reduce_kernel_at(weir_dtype dtype, unsigned level);

#define WI_REDUCE_LEVELS 3u

#endif
