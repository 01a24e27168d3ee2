/* The arithmetic of the server: element-wise, vectorised for the processor at hand. `n` elements; no overlap. */
#ifndef WI_PS_OPTIMIZER_H
#define WI_PS_OPTIMIZER_H

#include <stddef.h>

/* weights[i] -= rate * gradient[i] */
void wi_ps_sgd(float *weights, const float *gradient, size_t n, float rate);

/* weights[i] -= rate * ((sum[i] + part[i]) * scale): the last part of a sum */
void wi_ps_sgd_mean(float *weights, const float *sum, const float *part, size_t n, float rate, float scale);

/* sum[i] += part[i] */
void wi_ps_add(float *sum, const float *part, size_t n);

#endif
