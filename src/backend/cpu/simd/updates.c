/* Optimizer updates of a block of one parameter. */
#include <math.h>

#include "backend/cpu/simd/loops.h"

/* Loshchilov & Hutter 2019. */
void SIMD(adamw)(const ds_update *u, float *p, float *m, float *v, const float *grad, int64_t n) {
    const ds_update c = *u;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float g = grad[i] * c.grad_scale;
        const float mi = c.beta1 * m[i] + (1.0f - c.beta1) * g;
        const float vi = c.beta2 * v[i] + (1.0f - c.beta2) * g * g;
        m[i] = mi;
        v[i] = vi;
        const float step = c.lr * (mi * c.correction1) / (sqrtf(vi * c.correction2) + c.eps);
        p[i] = p[i] - c.decay * p[i] - step;
    }
}

/* Momentum: m = beta1 m + g; p −= lr m. */
void SIMD(sgd)(const ds_update *u, float *p, float *m, const float *grad, int64_t n) {
    const ds_update c = *u;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float mi = c.beta1 * m[i] + grad[i] * c.grad_scale;
        m[i] = mi;
        p[i] = p[i] - c.decay * p[i] - c.lr * mi;
    }
}

/* Chen et al. 2023. */
void SIMD(lion)(const ds_update *u, float *p, float *m, const float *grad, int64_t n) {
    const ds_update c = *u;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float g = grad[i] * c.grad_scale;
        const float blend = c.beta1 * m[i] + (1.0f - c.beta1) * g;
        const float sign = (blend > 0 ? 1.0f : 0.0f) - (blend < 0 ? 1.0f : 0.0f);
        m[i] = c.beta2 * m[i] + (1.0f - c.beta2) * g;
        p[i] = p[i] - c.decay * p[i] - c.lr * sign;
    }
}
