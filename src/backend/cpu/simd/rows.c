/* Loops over one row: sums, softmax, normalisation, rotation. Sums are kept in several partial sums
 * (one per lane, by `omp simd reduction`), which is also more accurate than one. */
#include <math.h>

#include "backend/cpu/simd/float_math.h"
#include "backend/cpu/simd/loops.h"

float SIMD(sum)(const float *x, int64_t n) {
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++)
        s += x[i];
    return s;
}

float SIMD(sum_of_squares)(const float *x, int64_t n) {
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++)
        s += x[i] * x[i];
    return s;
}

float SIMD(dot)(const float *a, const float *b, int64_t n) {
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++)
        s += a[i] * b[i];
    return s;
}

/* A NaN must win, which `reduction(max)` does not promise. */
float SIMD(max)(const float *x, int64_t n) {
    float m = -INFINITY, nan = 0;
#pragma omp simd reduction(max : m) reduction(+ : nan)
    for (int64_t i = 0; i < n; i++) {
        m = x[i] > m ? x[i] : m;
        nan += x[i] != x[i] ? 1.0f : 0.0f;
    }
    return nan > 0 ? NAN : m;
}

float SIMD(min)(const float *x, int64_t n) {
    float m = INFINITY, nan = 0;
#pragma omp simd reduction(min : m) reduction(+ : nan)
    for (int64_t i = 0; i < n; i++) {
        m = x[i] < m ? x[i] : m;
        nan += x[i] != x[i] ? 1.0f : 0.0f;
    }
    return nan > 0 ? NAN : m;
}

void SIMD(axpy)(float alpha, const float *x, float *y, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] += alpha * x[i];
}

float SIMD(exp_sum)(const float *x, float shift, float scale, float *y, int64_t n) {
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++) {
        y[i] = scale * fast_exp_below_zero(x[i] - shift);
        s += y[i];
    }
    return s;
}

float SIMD(sum_exp)(const float *x, float shift, int64_t n) {
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++)
        s += fast_exp_below_zero(x[i] - shift);
    return s;
}

void SIMD(softmax_grad)(const float *dy, const float *y, float *dx, int64_t n) {
    const float s = SIMD(dot)(dy, y, n);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dx[i] = y[i] * (dy[i] - s);
}

void SIMD(log_softmax_grad)(const float *dy, const float *y, float *dx, int64_t n) {
    const float s = SIMD(sum)(dy, n);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dx[i] = dy[i] - fast_exp(y[i]) * s;
}

/* ---- normalisation --------------------------------------------------------------------------- */

void SIMD(layer_norm)(const float *x, const float *weight, const float *bias, float eps, float *y,
                      float *mean, float *rstd, int64_t n) {
    const float mu = SIMD(sum)(x, n) / (float)n;
    float squares = 0; /* around the mean: no cancellation */
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++)
        squares += (x[i] - mu) * (x[i] - mu);
    const float r = 1.0f / sqrtf(squares / (float)n + eps);
    if (bias) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            y[i] = (x[i] - mu) * r * weight[i] + bias[i];
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            y[i] = (x[i] - mu) * r * weight[i];
    }
    *mean = mu;
    *rstd = r;
}

void SIMD(rms_norm)(const float *x, const float *weight, float eps, float *y, float *rstd,
                    int64_t n) {
    const float r = 1.0f / sqrtf(SIMD(sum_of_squares)(x, n) / (float)n + eps);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * r * weight[i];
    *rstd = r;
}

/* With x̂ = (x − μ) r and g = dy·w: dx = r (g − mean(g) − x̂ mean(g x̂)). */
void SIMD(layer_norm_grad)(const float *dy, const float *x, const float *weight, float mean,
                           float rstd, float *dx, float *dweight, float *dbias, int64_t n) {
    float sum_g = 0, sum_gx = 0;
#pragma omp simd reduction(+ : sum_g, sum_gx)
    for (int64_t i = 0; i < n; i++) {
        const float normed = (x[i] - mean) * rstd, g = dy[i] * weight[i];
        sum_g += g;
        sum_gx += g * normed;
        dweight[i] += dy[i] * normed;
        dbias[i] += dy[i];
    }
    const float mean_g = sum_g / (float)n, mean_gx = sum_gx / (float)n;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float normed = (x[i] - mean) * rstd;
        dx[i] = rstd * (dy[i] * weight[i] - mean_g - normed * mean_gx);
    }
}

void SIMD(rms_norm_grad)(const float *dy, const float *x, const float *weight, float rstd,
                         float *dx, float *dweight, int64_t n) {
    float sum_gx = 0;
#pragma omp simd reduction(+ : sum_gx)
    for (int64_t i = 0; i < n; i++) {
        const float normed = x[i] * rstd;
        sum_gx += dy[i] * weight[i] * normed;
        dweight[i] += dy[i] * normed;
    }
    const float mean_gx = sum_gx / (float)n;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dx[i] = rstd * (dy[i] * weight[i] - x[i] * rstd * mean_gx);
}

void SIMD(rotate)(const float *a, const float *b, const float *cosine, const float *sine, float *ya,
                  float *yb, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float v = a[i], w = b[i];
        ya[i] = v * cosine[i] - w * sine[i];
        yb[i] = v * sine[i] + w * cosine[i];
    }
}
