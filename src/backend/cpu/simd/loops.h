/* Declarations of this build's loops, for the table. */
#ifndef DS_CPU_LOOPS_H
#define DS_CPU_LOOPS_H

#include "backend/cpu/simd/isa.h"
#include "backend/cpu/simd/simd.h"

void SIMD(load)(ds_dtype dtype, const void *from, float *to, int64_t n);
void SIMD(store)(ds_dtype dtype, const float *from, void *to, int64_t n);
void SIMD(transpose16)(const uint16_t *from, int64_t from_stride, uint16_t *to, int64_t to_stride,
                       int64_t rows, int64_t columns);
void SIMD(transpose32)(const uint32_t *from, int64_t from_stride, uint32_t *to, int64_t to_stride,
                       int64_t rows, int64_t columns);
void SIMD(unary)(ds_unary kind, float alpha, const float *x, float *y, int64_t n);
void SIMD(binary)(ds_binary kind, const float *a, const float *b, float *y, int64_t n);
void SIMD(select)(const float *condition, const float *a, const float *b, float *y, int64_t n);
void SIMD(fill)(float value, float *y, int64_t n);
float SIMD(sum)(const float *x, int64_t n);
float SIMD(sum_of_squares)(const float *x, int64_t n);
float SIMD(max)(const float *x, int64_t n);
float SIMD(min)(const float *x, int64_t n);
float SIMD(dot)(const float *a, const float *b, int64_t n);
void SIMD(axpy)(float alpha, const float *x, float *y, int64_t n);
float SIMD(exp_sum)(const float *x, float shift, float scale, float *y, int64_t n);
float SIMD(sum_exp)(const float *x, float shift, int64_t n);
void SIMD(softmax_grad)(const float *dy, const float *y, float *dx, int64_t n);
void SIMD(log_softmax_grad)(const float *dy, const float *y, float *dx, int64_t n);
void SIMD(layer_norm)(const float *x, const float *weight, const float *bias, float eps, float *y,
                      float *mean, float *rstd, int64_t n);
void SIMD(rms_norm)(const float *x, const float *weight, float eps, float *y, float *rstd,
                    int64_t n);
void SIMD(layer_norm_grad)(const float *dy, const float *x, const float *weight, float mean,
                           float rstd, float *dx, float *dweight, float *dbias, int64_t n);
void SIMD(rms_norm_grad)(const float *dy, const float *x, const float *weight, float rstd,
                         float *dx, float *dweight, int64_t n);
void SIMD(pack_rows)(const void *rows, int64_t stride, int64_t k, int64_t n, void *packed);
void SIMD(pack_columns)(const void *columns, int64_t stride, int64_t k, int64_t n, void *packed);
void SIMD(multiply)(const void *a, int64_t a_stride, const void *b, float *c, int64_t c_stride,
                    int64_t m, int64_t n, int64_t k, bool accumulate);
void SIMD(pack_strip)(const ds_strip *s, int width, void *to);
void SIMD(pack_strip_i8)(const ds_strip *s, int width, void *to);
void SIMD(multiply_strips)(const void *a, const void *b, int64_t depth, void *c, int64_t c_stride,
                           bool adds);
void SIMD(multiply_strips_i8)(const void *a, const void *b, int64_t depth, void *c,
                              int64_t c_stride, bool adds);
void SIMD(stream_i8)(const int8_t *w, const int8_t *x, int64_t x_stride, int rows, int64_t k,
                     int32_t *sums);
void SIMD(stream_i8_floats)(const int8_t *w, const float *x, int64_t x_stride, int rows, int64_t k,
                            float *sums);
int64_t SIMD(arranged_size)(int64_t k);
void SIMD(arrange_i4)(const float *x, int64_t k, float *to);
void SIMD(stream_i4)(const ds_stream_i4 *w, const float *x, int64_t x_stride, int rows,
                     float *sums);
void SIMD(widen_i4)(const int32_t *words, float *to, int64_t k);
void SIMD(attend)(float *scores, int64_t first, int64_t end, float scale, float *max, float *sum,
                  float *out, int64_t n_out);
void SIMD(attend_grad)(float *scores, float *dweights, int64_t first, int64_t end, float scale,
                       float lse, float through);
void SIMD(rotate)(const float *a, const float *b, const float *cosine, const float *sine, float *ya,
                  float *yb, int64_t n);
void SIMD(dots)(ds_dtype dtype, const void *w, int64_t w_stride, const float *x, int64_t x_stride,
                int rows, float *y, int64_t y_stride, int64_t n, int64_t k);
void SIMD(axpys)(ds_dtype dtype, const void *w, int64_t w_stride, const float *x, int64_t x_stride,
                 int rows, float *y, int64_t y_stride, int64_t n, int64_t k);
void SIMD(dropout)(uint64_t key, uint64_t first, float p, const float *x, float *y, int64_t n);
void SIMD(quantise)(const float *x, float scale, int8_t *q, int64_t n);
void SIMD(dequantise)(ds_dtype dtype, const void *q, float scale, float *y, int64_t n);
void SIMD(fake_quantise)(const float *x, float scale, float *y, int64_t n);
void SIMD(fake_quantise_grad)(const float *dy, const float *x, float scale, float *dx, int64_t n);
void SIMD(adamw)(const ds_update *u, float *p, float *m, float *v, const float *grad, int64_t n);
void SIMD(sgd)(const ds_update *u, float *p, float *m, const float *grad, int64_t n);
void SIMD(lion)(const ds_update *u, float *p, float *m, const float *grad, int64_t n);
double SIMD(multiply_adds)(int64_t n_rounds, float *sum);

#endif
