/* Tile products of f32 by vector registers, and the softmax of attention on tiles of scores. */
#include <math.h>
#include <string.h>

#include "backend/cpu/simd/float_math.h"
#include "backend/cpu/simd/loops.h"
#include "backend/cpu/simd/vectors.h"

/* ---- products -------------------------------------------------------------------------------- */

#if defined(__AVX512F__)
enum { ROWS = 8 }; /* 16 of 32 registers hold sums */
#else
enum { ROWS = 4 };
#endif
enum { VECTORS = 2, PANEL = LANES * VECTORS };

/* [n/PANEL][k][PANEL] */
void SIMD(pack_rows)(const void *rows, int64_t stride, int64_t k, int64_t n, void *packed) {
    const float *from = rows;
    float *to = packed;
    for (int64_t j = 0; j < n; j += PANEL)
        for (int64_t i = 0; i < k; i++)
            memcpy(to + j * k + i * PANEL, from + i * stride + j, PANEL * sizeof *to);
}

void SIMD(pack_columns)(const void *columns, int64_t stride, int64_t k, int64_t n, void *packed) {
    for (int64_t j = 0; j < n; j += PANEL)
        SIMD(transpose32)
    ((const uint32_t *)columns + j * stride, stride, (uint32_t *)packed + j * k, PANEL, PANEL, k);
}

static inline void block(const float *a, int64_t a_stride, const float *b, float *c,
                         int64_t c_stride, int64_t k, bool accumulate) {
    floats sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            sum[r][v] = (floats){0};
    if (accumulate)
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++)
                sum[r][v] = *(const floats_in_memory *)(c + r * c_stride + v * LANES);
    for (int64_t i = 0; i < k; i++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            const floats right = *(const floats_in_memory *)(b + i * PANEL + v * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++)
                sum[r][v] += a[r * a_stride + i] * right;
        }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            *(floats_in_memory *)(c + r * c_stride + v * LANES) = sum[r][v];
}

void SIMD(multiply)(const void *a, int64_t a_stride, const void *b, float *c, int64_t c_stride,
                    int64_t m, int64_t n, int64_t k, bool accumulate) {
    for (int64_t j = 0; j < n; j += PANEL)
        for (int64_t i = 0; i < m; i += ROWS)
            block((const float *)a + i * a_stride, a_stride, (const float *)b + j * k,
                  c + i * c_stride + j, c_stride, k, accumulate);
}

/* ---- softmax of scores ----------------------------------------------------------------------- */

/* Rows are worked on in whole vectors, so that no loop has a remainder: what is not seen of the
 * first and the last one gets the weight of −∞. */
enum { WHOLE = 16 }; /* the widest vectors', for all instruction sets */

static int64_t first_lane(int64_t first) {
    return first / WHOLE * WHOLE;
}

static int64_t last_lane(int64_t end) {
    return (end + WHOLE - 1) / WHOLE * WHOLE;
}

static void hide(float *scores, int64_t first, int64_t end) {
    for (int64_t i = first_lane(first); i < first; i++)
        scores[i] = -INFINITY;
    for (int64_t i = end; i < last_lane(end); i++)
        scores[i] = -INFINITY;
}

/* NaN may be lost here, but not from the weights. */
static float scale_row(float *s, int64_t n, float scale) {
    float best[WHOLE], largest = -INFINITY;
    for (int k = 0; k < WHOLE; k++)
        best[k] = -INFINITY;
    for (int64_t i = 0; i < n; i += WHOLE)
#pragma omp simd
        for (int k = 0; k < WHOLE; k++) {
            s[i + k] *= scale;
            best[k] = s[i + k] > best[k] ? s[i + k] : best[k];
        }
    for (int k = 0; k < WHOLE; k++)
        largest = best[k] > largest ? best[k] : largest;
    return largest;
}

static float weigh_row(float *s, int64_t n, float shift) {
    float part[WHOLE] = {0}, total = 0;
    for (int64_t i = 0; i < n; i += WHOLE)
#pragma omp simd
        for (int k = 0; k < WHOLE; k++) {
            s[i + k] = fast_exp_below_zero(s[i + k] - shift);
            part[k] += s[i + k];
        }
    for (int k = 0; k < WHOLE; k++)
        total += part[k];
    return total;
}

void SIMD(attend)(float *scores, int64_t first, int64_t end, float scale, float *max, float *sum,
                  float *out, int64_t n_out) {
    float *s = scores + first_lane(first);
    const int64_t n = last_lane(end) - first_lane(first);
    hide(scores, first, end);
    const float largest = scale_row(s, n, scale);
    if (largest > *max) {
        const float factor = *max == -INFINITY ? 0.0f : fast_exp(*max - largest);
        *max = largest;
        *sum *= factor;
#pragma omp simd
        for (int64_t i = 0; i < n_out; i++)
            out[i] *= factor;
    }
    *sum += weigh_row(s, n, *max);
}

void SIMD(attend_grad)(float *scores, float *dweights, int64_t first, int64_t end, float scale,
                       float lse, float through) {
    hide(scores, first, end);
    for (int64_t i = first_lane(first); i < end; i += WHOLE)
#pragma omp simd
        for (int k = 0; k < WHOLE; k++) {
            const float p = fast_exp_below_zero(scores[i + k] * scale - lse);
            scores[i + k] = p;
            dweights[i + k] = p * (dweights[i + k] - through) * scale;
        }
}
