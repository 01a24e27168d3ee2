/* Reduction kernels, chosen once by what the processor can do. */
#ifndef WI_COLLECTIVES_REDUCE_H
#define WI_COLLECTIVES_REDUCE_H

#include <weir/collectives.h>

#include <stdint.h>

/* out[i] = a[i] op b[i] for `bytes` bytes of elements. Any alignment; `out` may be `a` or `b`, no other overlap. */
typedef void wi_reduce_fn(void *out, const void *a, const void *b, size_t bytes);

/* data[i] = data[i] / divisor, likewise. */
typedef void wi_divide_fn(void *data, size_t bytes, uint32_t divisor);

/* The best kernels on this processor; NULL for an unknown type or operation. That of WEIR_AVG is the sum's: the division is
 * for the end. */
wi_reduce_fn *wi_reduce_kernel(weir_dtype dtype, weir_redop op);
wi_divide_fn *wi_divide_kernel(weir_dtype dtype);

/* Kernels of one width, for tests: `level` 0 is the narrow one. NULL: the processor or the build has no such level. */
wi_reduce_fn *wi_reduce_kernel_at(weir_dtype dtype, weir_redop op, unsigned level);
wi_divide_fn *wi_divide_kernel_at(weir_dtype dtype, unsigned level);

#define WI_REDUCE_LEVELS 3u

#endif
