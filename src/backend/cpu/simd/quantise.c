/* Symmetric int8 quantisation of a block with one scale; graph/ops/quantise.c has the rules. */
#include "backend/cpu/simd/loops.h"

/* x / scale rounded to the nearest integer, ties to even, held to ±128: ±127 is the last one used,
 * and ±128 says that there was more. A NaN stays one. Adding 1.5 · 2^23 leaves no bits for a
 * fraction, so the addition itself rounds. */
static inline float rounded(float x, float scale) {
    const float magic = 12582912.0f;
    const float zero_or_nan = x == x ? 0.0f : x;
    float q = scale == 0 ? zero_or_nan : x / scale;
    q = q > 128.0f ? 128.0f : q;
    q = q < -128.0f ? -128.0f : q;
    return (q + magic) - magic;
}

static inline float clamped(float q) {
    q = q > 127.0f ? 127.0f : q;
    return q < -127.0f ? -127.0f : q;
}

void SIMD(quantise)(const float *x, float scale, int8_t *q, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float value = clamped(rounded(x[i], scale));
        q[i] = (int8_t)(int32_t)(value == value ? value : 0.0f);
    }
}

void SIMD(dequantise)(ds_dtype dtype, const void *q, float scale, float *y, int64_t n) {
    if (dtype == DS_I8) {
        const int8_t *bytes = q;
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            y[i] = scale * (float)bytes[i];
    } else {
        const int32_t *words = q;
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            y[i] = scale * (float)words[i];
    }
}

void SIMD(fake_quantise)(const float *x, float scale, float *y, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = clamped(rounded(x[i], scale)) * scale;
}

void SIMD(fake_quantise_grad)(const float *dy, const float *x, float scale, float *dx, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float q = rounded(x[i], scale), through = dy[i];
        dx[i] = q > 127.0f || q < -127.0f ? 0.0f : through;
    }
}
