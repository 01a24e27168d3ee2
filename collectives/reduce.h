/* Reduction kernels, in several widths of vectors, of which a processor runs some. */
#ifndef WI_COLLECTIVES_REDUCE_H
#define WI_COLLECTIVES_REDUCE_H

#include <weir/collectives.h>

#include <stdint.h>

/* out[i] = a[i] op b[i] for `bytes` bytes of elements. Any alignment; `out` may be `a` or `b`, no other overlap. */
typedef void wi_reduce_fn(void *out, const void *a, const void *b, size_t bytes);

/* data[i] = data[i] / divisor, likewise. */
typedef void wi_divide_fn(void *data, size_t bytes, uint32_t divisor);

/* How many widths this processor runs, at least one. To be asked once: under a hypervisor the answer takes microseconds. */
unsigned wi_reduce_levels(void);

/* The kernels of one width, `level` from 0, the narrowest, to wi_reduce_levels() - 1; NULL for an unknown type or operation.
 * That of WEIR_AVG is the sum's: the division is for the end. */
wi_reduce_fn *wi_reduce_kernel(weir_dtype dtype, weir_redop op, unsigned level);
wi_divide_fn *wi_divide_kernel(weir_dtype dtype, unsigned level);

#endif
