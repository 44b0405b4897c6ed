/* Optimizer updates of a block of one parameter; the formulas are in graph/ops/optimizer.c. */
#include <math.h>

#include "backend/cpu/simd/loops.h"

void SIMD(adamw)(const ds_update *u, float *p, float *m, float *v, const float *grad, int64_t n) {
    const ds_update c = *u;
    const float rest1 = 1.0f - c.beta1, rest2 = 1.0f - c.beta2;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float g = grad[i] * c.grad_scale;
        const float mi = c.beta1 * m[i] + rest1 * g;
        const float vi = c.beta2 * v[i] + rest2 * g * g;
        m[i] = mi;
        v[i] = vi;
        const float step = mi * c.m_correction / (sqrtf(vi * c.v_correction) + c.eps);
        p[i] = p[i] * c.keep - c.lr * step;
    }
}

void SIMD(sgd)(const ds_update *u, float *p, float *m, const float *grad, int64_t n) {
    const ds_update c = *u;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float g = grad[i] * c.grad_scale + c.weight_decay * p[i];
        const float mi = c.beta1 * m[i] + g;
        m[i] = mi;
        p[i] = p[i] - c.lr * mi;
    }
}

void SIMD(lion)(const ds_update *u, float *p, float *m, const float *grad, int64_t n) {
    const ds_update c = *u;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float g = grad[i] * c.grad_scale, mi = m[i];
        const float direction = c.beta1 * mi + (1.0f - c.beta1) * g;
        const float sign = (direction > 0 ? 1.0f : 0.0f) - (direction < 0 ? 1.0f : 0.0f);
        p[i] = p[i] * c.keep - c.lr * sign;
        m[i] = c.beta2 * mi + (1.0f - c.beta2) * g;
    }
}
