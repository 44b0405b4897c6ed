/* Tile products of f32 by vector registers, and the softmax of attention on tiles of scores. */
#include <math.h>
#include <string.h>

#include "backend/cpu/simd/float_math.h"
#include "backend/cpu/simd/loops.h"

/* ---- products -------------------------------------------------------------------------------- */

#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 8, VECTORS = 2 }; /* 16 of 32 registers hold sums */
#elif defined(__AVX2__)
enum { LANES = 8, ROWS = 4, VECTORS = 2 };
#else
enum { LANES = 4, ROWS = 4, VECTORS = 2 };
#endif
enum { PANEL = LANES * VECTORS };

typedef float vector __attribute__((vector_size(LANES * sizeof(float))));

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
        ((const uint32_t *)columns + j * stride, stride, (uint32_t *)packed + j * k, PANEL, PANEL,
         k);
}

static inline void block(const float *a, int64_t a_stride, const float *b, float *c,
                         int64_t c_stride, int64_t k, bool accumulate) {
    vector sum[ROWS][VECTORS];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) {
            if (accumulate)
                memcpy(&sum[r][v], c + r * c_stride + v * LANES, sizeof(vector));
            else
                sum[r][v] = (vector){0};
        }
    for (int64_t i = 0; i < k; i++) {
        vector right[VECTORS];
        memcpy(right, b + i * PANEL, sizeof right);
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < VECTORS; v++)
                sum[r][v] += a[r * a_stride + i] * right[v];
    }
    for (int r = 0; r < ROWS; r++)
        memcpy(c + r * c_stride, sum[r], sizeof sum[r]);
}

void SIMD(multiply)(const void *a, int64_t a_stride, const void *b, float *c, int64_t c_stride,
                    int64_t m, int64_t n, int64_t k, bool accumulate) {
    for (int64_t j = 0; j < n; j += PANEL)
        for (int64_t i = 0; i < m; i += ROWS)
            block((const float *)a + i * a_stride, a_stride, (const float *)b + j * k,
                  c + i * c_stride + j, c_stride, k, accumulate);
}

/* ---- softmax of scores ----------------------------------------------------------------------- */

/* e^x for x ≤ 0 to about 2e-7 of the result plus the rounding of x, flushed to zero below e^-87:
 * such weights are nothing beside the largest, which is 1. */
static inline float weight_of(float x) {
    const float t = (x < -87.0f ? -87.0f : x) * 1.44269504f;
    const float n = (t + 12582912.0f) - 12582912.0f, r = t - n;
    float p = 1.340724930e-03f;
    p = p * r + 9.671875711e-03f;
    p = p * r + 5.550308389e-02f;
    p = p * r + 2.402223461e-01f;
    p = p * r + 6.931472149e-01f;
    p = p * r + 1.0f;
    const float y = p * as_float((uint32_t)((int32_t)n + 127) << 23);
    return x < -87.0f ? 0.0f : y;
}

void SIMD(attend)(float *scores, int64_t first, int64_t end, float scale, float *max, float *sum,
                  float *out, int64_t n_out) {
    float *s = scores + first;
    const int64_t n = end - first;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        s[i] *= scale;
    const float largest = SIMD(max)(s, n);
    if (!(largest <= *max)) {
        const float factor = *max == -INFINITY ? 0.0f : fast_exp(*max - largest);
        *max = largest;
        *sum *= factor;
#pragma omp simd
        for (int64_t i = 0; i < n_out; i++)
            out[i] *= factor;
    }
    const float m = *max;
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; i++) {
        s[i] = weight_of(s[i] - m);
        total += s[i];
    }
    *sum += total;
}

void SIMD(attend_grad)(float *scores, float *dweights, int64_t n, float scale, float lse,
                       float through) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float p = weight_of(scores[i] * scale - lse);
        scores[i] = p;
        dweights[i] = p * (dweights[i] - through) * scale;
    }
}
