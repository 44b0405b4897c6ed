/* Element-wise loops: conversion, unary, binary, select, transposition. */
#include <math.h>
#include <string.h>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "backend/cpu/simd/float_math.h"
#include "backend/cpu/simd/loops.h"
#include "base/half.h"

/* ---- conversion ------------------------------------------------------------------------------ */

static void load_f16(const uint16_t *from, float *to, int64_t n) {
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from + i))));
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#endif
    for (; i < n; i++)
        to[i] = ds_f16_to_f32(from[i]);
}

static void store_f16(const float *from, uint16_t *to, int64_t n) {
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(to + i), _mm512_cvtps_ph(_mm512_loadu_ps(from + i), 0));
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
    for (; i < n; i++)
        to[i] = ds_f32_to_f16(from[i]);
}

void SIMD(load)(ds_dtype dtype, const void *from, float *to, int64_t n) {
    if (dtype == DS_BF16) {
        const uint16_t *h = from;
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            to[i] = from_bf16(h[i]);
    } else if (dtype == DS_F16) {
        load_f16(from, to, n);
    } else {
        memmove(to, from, (size_t)n * sizeof *to);
    }
}

void SIMD(store)(ds_dtype dtype, const float *from, void *to, int64_t n) {
    if (dtype == DS_BF16) {
        uint16_t *h = to;
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            h[i] = to_bf16(from[i]);
    } else if (dtype == DS_F16) {
        store_f16(from, to, n);
    } else {
        memmove(to, from, (size_t)n * sizeof *from);
    }
}

/* ---- transposition --------------------------------------------------------------------------- */

enum { TILE = 16 };

/* Tile by tile through a local square: reads and writes are whole short rows. */
void SIMD(transpose16)(const uint16_t *from, int64_t from_stride, uint16_t *to, int64_t to_stride,
                       int64_t rows, int64_t columns) {
    enum { WIDE = 32 };
    for (int64_t r0 = 0; r0 < rows; r0 += WIDE)
        for (int64_t c0 = 0; c0 < columns; c0 += WIDE) {
            const int64_t r1 = rows - r0 < WIDE ? rows - r0 : WIDE;
            const int64_t c1 = columns - c0 < WIDE ? columns - c0 : WIDE;
            const uint16_t *source = from + r0 * from_stride + c0;
            uint16_t *target = to + c0 * to_stride + r0;
            if (r1 == WIDE && c1 == WIDE) {
                uint16_t tile[WIDE][WIDE];
                for (int r = 0; r < WIDE; r++)
                    memcpy(tile[r], source + r * from_stride, sizeof tile[r]);
                for (int c = 0; c < WIDE; c++) {
                    uint16_t line[WIDE];
                    for (int r = 0; r < WIDE; r++)
                        line[r] = tile[r][c];
                    memcpy(target + c * to_stride, line, sizeof line);
                }
                continue;
            }
            for (int64_t c = 0; c < c1; c++)
                for (int64_t r = 0; r < r1; r++)
                    target[c * to_stride + r] = source[r * from_stride + c];
        }
}

void SIMD(transpose32)(const uint32_t *from, int64_t from_stride, uint32_t *to, int64_t to_stride,
                       int64_t rows, int64_t columns) {
    for (int64_t r0 = 0; r0 < rows; r0 += TILE)
        for (int64_t c0 = 0; c0 < columns; c0 += TILE) {
            const int64_t r1 = rows - r0 < TILE ? rows - r0 : TILE;
            const int64_t c1 = columns - c0 < TILE ? columns - c0 : TILE;
            const uint32_t *source = from + r0 * from_stride + c0;
            uint32_t *target = to + c0 * to_stride + r0;
            if (r1 == TILE && c1 == TILE) {
                uint32_t tile[TILE][TILE];
                for (int r = 0; r < TILE; r++)
                    memcpy(tile[r], source + r * from_stride, sizeof tile[r]);
                for (int c = 0; c < TILE; c++)
                    for (int r = 0; r < TILE; r++)
                        target[c * to_stride + r] = tile[r][c];
                continue;
            }
            for (int64_t c = 0; c < c1; c++)
                for (int64_t r = 0; r < r1; r++)
                    target[c * to_stride + r] = source[r * from_stride + c];
        }
}

/* ---- unary ----------------------------------------------------------------------------------- */

/* ½ (1 + tanh u) = σ(2u), which needs one exponential and loses nothing far below zero; this is
 * 2u. */
static inline float gelu_tanh_inner(float x) {
    return 1.5957691216057308f * (x + 0.044715f * x * x * x);
}

/* One loop per function, so that each vectorises by itself. */
#define EACH(expression)                                                                           \
    _Pragma("omp simd") for (int64_t i = 0; i < n; i++) {                                          \
        const float v = x[i];                                                                      \
        y[i] = (expression);                                                                       \
    }                                                                                              \
    break

void SIMD(unary)(ds_unary kind, float alpha, const float *x, float *y, int64_t n) {
    switch (kind) {
    case DS_NEG: EACH(-v);
    case DS_EXP: EACH(fast_exp(v));
    case DS_LOG: EACH(fast_log(v));
    case DS_SQRT: EACH(sqrtf(v));
    case DS_RSQRT: EACH(1.0f / sqrtf(v));
    case DS_SQUARE: EACH(v * v);
    case DS_RECIPROCAL: EACH(1.0f / v);
    case DS_TANH: EACH(fast_tanh(v));
    case DS_SIGMOID: EACH(fast_sigmoid(v));
    case DS_ERF: EACH(fast_erf(v));
    case DS_RELU: EACH(v > 0 ? v : 0.0f);
    case DS_SILU: EACH(v * fast_sigmoid(v));
    case DS_GELU: EACH(0.5f * v * (1.0f + fast_erf(v * 0.7071067811865476f)));
    case DS_GELU_TANH: EACH(v * fast_sigmoid(gelu_tanh_inner(v)));
    case DS_ABS: EACH(absolute(v));
    case DS_SIGN: EACH((v > 0 ? 1.0f : 0.0f) - (v < 0 ? 1.0f : 0.0f));
    case DS_SIN: /* rare; the argument's reduction does not vectorise */
        for (int64_t i = 0; i < n; i++)
            y[i] = sinf(x[i]);
        break;
    case DS_COS:
        for (int64_t i = 0; i < n; i++)
            y[i] = cosf(x[i]);
        break;
    case DS_SCALE: EACH(alpha * v);
    case DS_OFFSET: EACH(v + alpha);
    case DS_STEP: EACH(v > 0 ? 1.0f : 0.0f);
    case DS_UNARY_KINDS: break;
    }
}

/* ---- binary, select -------------------------------------------------------------------------- */

static inline float silu_grad(float a, float b) {
    const float s = fast_sigmoid(a);
    return b * s * (1.0f + a * (1.0f - s));
}

static inline float gelu_grad(float a, float b) {
    const float cdf = 0.5f * (1.0f + fast_erf(a * 0.7071067811865476f));
    return b * (cdf + a * 0.3989422804014327f * fast_exp(-0.5f * a * a));
}

static inline float gelu_tanh_grad(float a, float b) {
    const float cdf = fast_sigmoid(gelu_tanh_inner(a));
    const float inner = 1.5957691216057308f * (1.0f + 3.0f * 0.044715f * a * a);
    return b * (cdf + a * cdf * (1.0f - cdf) * inner);
}

#define EACH_PAIR(expression)                                                                      \
    _Pragma("omp simd") for (int64_t i = 0; i < n; i++) {                                          \
        const float v = a[i], w = b[i];                                                            \
        y[i] = (expression);                                                                       \
    }                                                                                              \
    break

void SIMD(binary)(ds_binary kind, const float *a, const float *b, float *y, int64_t n) {
    switch (kind) {
    case DS_ADD: EACH_PAIR(v + w);
    case DS_SUB: EACH_PAIR(v - w);
    case DS_MUL: EACH_PAIR(v * w);
    case DS_DIV: EACH_PAIR(v / w);
    case DS_MAXIMUM: EACH_PAIR(v > w ? v : w);
    case DS_MINIMUM: EACH_PAIR(v < w ? v : w);
    case DS_EQUAL: EACH_PAIR(v == w ? 1.0f : 0.0f);
    case DS_LESS: EACH_PAIR(v < w ? 1.0f : 0.0f);
    case DS_SILU_GRAD: EACH_PAIR(silu_grad(v, w));
    case DS_GELU_GRAD: EACH_PAIR(gelu_grad(v, w));
    case DS_GELU_TANH_GRAD: EACH_PAIR(gelu_tanh_grad(v, w));
    case DS_BINARY_KINDS: break;
    }
}

void SIMD(select)(const float *condition, const float *a, const float *b, float *y, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float v = a[i], w = b[i];
        y[i] = condition[i] != 0 ? v : w;
    }
}

void SIMD(fill)(float value, float *y, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = value;
}
