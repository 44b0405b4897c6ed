/* The additions (maxima, minima) of reductions. */
#ifndef DS_COMM_COMBINE_H
#define DS_COMM_COMBINE_H

#include <stdbool.h>
#include "deepseek/comm.h"

bool ds_combine_knows(ds_dtype dtype, ds_comm_op op);

/* out[i] = (a[i] op b[i]) · scale, i < count; scale is for floating-point sums, 1 elsewhere. out
 * may be a or b. bf16 and f16 are computed in f32. n_threads share a large count; the bits do not
 * depend on how many. */
void ds_combine(void *out, const void *a, const void *b, int64_t count, ds_dtype dtype,
                ds_comm_op op, float scale, int n_threads);

#endif
