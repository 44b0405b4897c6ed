/* Products that read each quantised weight once (simd/stream.c): one row of weights times a few
 * rows of x. */
#ifndef DS_CPU_STREAM_H
#define DS_CPU_STREAM_H

#include <stdint.h>

enum { DS_STREAM_ROWS = 8 }; /* of x at once, at most */

/* A row of four-bit weights, eight columns in a word. */
typedef struct ds_stream_i4 {
    const int32_t *words;
    const float *scale; /* [n_groups] */
    int64_t words_per_group, n_groups, k;
} ds_stream_i4;

typedef struct ds_streams {
    /* sums[r] = Σ w[i] x[r][i]. x may be read up to a multiple of 64 bytes past k, whatever is
     * there. */
    void (*i8)(const int8_t *w, const int8_t *x, int64_t x_stride, int rows, int64_t k,
               int32_t *sums);
    void (*i8_floats)(const int8_t *w, const float *x, int64_t x_stride, int rows, int64_t k,
                      float *sums);
    /* x in the order in which four-bit weights want it: so many floats. */
    int64_t (*arranged_size)(int64_t k);
    void (*arrange_i4)(const float *x, int64_t k, float *to);
    /* sums[r] = Σ w[i] scale[group of i] x[r][i], x arranged. */
    void (*i4)(const ds_stream_i4 *w, const float *x, int64_t x_stride, int rows, float *sums);
    /* Weights as floats, not yet scaled. */
    void (*widen_i4)(const int32_t *words, float *to, int64_t k);
} ds_streams;

#endif
