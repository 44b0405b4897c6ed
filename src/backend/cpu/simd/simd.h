/* Inner loops of the CPU backend, compiled once per instruction set and chosen at run time. Each
 * works on f32 rows in cache; tensors of other dtypes pass through load and store a block at a
 * time, so that a kernel is written once for all of them. Pointers may be unaligned; n ≥ 0. Where
 * it is not said otherwise y may be the same memory as an input, or must not overlap it at all. */
#ifndef DS_CPU_SIMD_H
#define DS_CPU_SIMD_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/cpu/stream.h"
#include "backend/cpu/strips.h"
#include "backend/cpu/tiles.h"
#include "deepseek/graph.h"

/* What an optimizer needs for a block of one parameter; the formulas are in
 * graph/ops/optimizer.c. */
typedef struct ds_update {
    float lr, grad_scale, beta1, beta2, eps, weight_decay;
    float keep;                       /* 1 − lr · weight decay */
    float m_correction, v_correction; /* 1 / (1 − beta^step) */
} ds_update;

enum { DS_DOTS_ROWS = 4 };

typedef struct ds_simd {
    const char *name;

    /* dtype → f32 and back, round to nearest even. f32, bf16, f16. */
    void (*load)(ds_dtype dtype, const void *from, float *to, int64_t n);
    void (*store)(ds_dtype dtype, const float *from, void *to, int64_t n);
    /* to[c · to_stride + r] = from[r · from_stride + c]; strides in elements of 2 or 4 bytes. */
    void (*transpose16)(const uint16_t *from, int64_t from_stride, uint16_t *to, int64_t to_stride,
                        int64_t rows, int64_t columns);
    void (*transpose32)(const uint32_t *from, int64_t from_stride, uint32_t *to, int64_t to_stride,
                        int64_t rows, int64_t columns);

    void (*unary)(ds_unary kind, float alpha, const float *x, float *y, int64_t n);
    void (*binary)(ds_binary kind, const float *a, const float *b, float *y, int64_t n);
    void (*select)(const float *condition, const float *a, const float *b, float *y, int64_t n);
    void (*fill)(float value, float *y, int64_t n);

    float (*sum)(const float *x, int64_t n);
    float (*sum_of_squares)(const float *x, int64_t n);
    float (*max)(const float *x, int64_t n); /* −inf for none; NaN if there is one */
    float (*min)(const float *x, int64_t n);
    float (*dot)(const float *a, const float *b, int64_t n);
    /* y += alpha · x */
    void (*axpy)(float alpha, const float *x, float *y, int64_t n);
    /* y[i] = scale · exp(x[i] − shift); returns Σ y. x ≤ shift but for rounding. */
    float (*exp_sum)(const float *x, float shift, float scale, float *y, int64_t n);
    /* Σ exp(x[i] − shift), likewise */
    float (*sum_exp)(const float *x, float shift, int64_t n);

    /* dx = y · (dy − Σ dy·y) */
    void (*softmax_grad)(const float *dy, const float *y, float *dx, int64_t n);
    /* dx = dy − exp(y) · Σ dy */
    void (*log_softmax_grad)(const float *dy, const float *y, float *dx, int64_t n);

    void (*layer_norm)(const float *x, const float *weight, const float *bias, float eps, float *y,
                       float *mean, float *rstd, int64_t n);
    void (*rms_norm)(const float *x, const float *weight, float eps, float *y, float *rstd,
                     int64_t n);
    /* Adds this row's part to dweight and dbias. */
    void (*layer_norm_grad)(const float *dy, const float *x, const float *weight, float mean,
                            float rstd, float *dx, float *dweight, float *dbias, int64_t n);
    void (*rms_norm_grad)(const float *dy, const float *x, const float *weight, float rstd,
                          float *dx, float *dweight, int64_t n);

    ds_strips strips;
    ds_streams streams;
    ds_tiles tiles; /* of f32 */
    /* One row of attention over scores[first … end), first < end: scales them, raises the running
     * maximum and rescales sum and out accordingly, turns them into weights, adds up their sum.
     * Whole vectors of 16 are worked on; weights before `first` and from `end` on in them are 0. */
    void (*attend)(float *scores, int64_t first, int64_t end, float scale, float *max, float *sum,
                   float *out, int64_t n_out);
    /* Backwards, in the same vectors: scores become weights p, and dweights p (dweights − through)
     * scale. */
    void (*attend_grad)(float *scores, float *dweights, int64_t first, int64_t end, float scale,
                        float lse, float through);

    /* Pairs (a, b) turned by angles given as cos and sin. */
    void (*rotate)(const float *a, const float *b, const float *cosine, const float *sine,
                   float *ya, float *yb, int64_t n);

    /* Products with a matrix of any float type that is read once, in order:
     * y[r][j] = Σ_i x[r][i] w[j][i], w [n, k]; rows ≤ DS_DOTS_ROWS. Strides in elements. */
    void (*dots)(ds_dtype dtype, const void *w, int64_t w_stride, const float *x, int64_t x_stride,
                 int rows, float *y, int64_t y_stride, int64_t n, int64_t k);
    /* y[r][j] += Σ_i x[r][i] w[i][j], w [k, n]; any rows, n so few that y stays in the first cache.
     */
    void (*axpys)(ds_dtype dtype, const void *w, int64_t w_stride, const float *x, int64_t x_stride,
                  int rows, float *y, int64_t y_stride, int64_t n, int64_t k);

    /* y = 0 where the uniform number of counter first + i is below p, else x / (1 − p). */
    void (*dropout)(uint64_t key, uint64_t first, float p, const float *x, float *y, int64_t n);

    /* Symmetric int8 with one scale, as graph/ops/quantise.c says, bit for bit. q: i8 or i32. */
    void (*quantise)(const float *x, float scale, int8_t *q, int64_t n);
    void (*dequantise)(ds_dtype dtype, const void *q, float scale, float *y, int64_t n);
    void (*fake_quantise)(const float *x, float scale, float *y, int64_t n);
    void (*fake_quantise_grad)(const float *dy, const float *x, float scale, float *dx, int64_t n);

    void (*adamw)(const ds_update *u, float *p, float *m, float *v, const float *grad, int64_t n);
    void (*sgd)(const ds_update *u, float *p, float *m, const float *grad, int64_t n);
    void (*lion)(const ds_update *u, float *p, float *m, const float *grad, int64_t n);

    /* For measuring the processor's peak: independent multiply-adds in registers, n_rounds ≥ 1 of
     * them. *sum is 0 before; after, some number made of all results, so that none is left out.
     * Returns the floating-point operations done. */
    double (*multiply_adds)(int64_t n_rounds, float *sum);
} ds_simd;

/* The best table for the processor at hand. */
const ds_simd *ds_simd_best(void);

enum { DS_SIMD_TABLES = 8 }; /* there are no more */

/* Every table that this processor can run, baseline first, the best last. Returns how many. */
int ds_simd_all(const ds_simd *out[DS_SIMD_TABLES]);

#endif
