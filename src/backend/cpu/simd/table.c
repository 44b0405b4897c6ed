/* This build's table. */
#include "backend/cpu/simd/loops.h"

extern const ds_simd SIMD(table);

const ds_simd SIMD(table) = {
    .name = DS_TEXT(DS_ISA),
    .load = SIMD(load),
    .store = SIMD(store),
    .transpose16 = SIMD(transpose16),
    .transpose32 = SIMD(transpose32),
    .unary = SIMD(unary),
    .binary = SIMD(binary),
    .select = SIMD(select),
    .fill = SIMD(fill),
    .sum = SIMD(sum),
    .sum_of_squares = SIMD(sum_of_squares),
    .max = SIMD(max),
    .min = SIMD(min),
    .dot = SIMD(dot),
    .axpy = SIMD(axpy),
    .exp_sum = SIMD(exp_sum),
    .sum_exp = SIMD(sum_exp),
    .softmax_grad = SIMD(softmax_grad),
    .log_softmax_grad = SIMD(log_softmax_grad),
    .layer_norm = SIMD(layer_norm),
    .rms_norm = SIMD(rms_norm),
    .layer_norm_grad = SIMD(layer_norm_grad),
    .rms_norm_grad = SIMD(rms_norm_grad),
    .rotate = SIMD(rotate),
    .dropout = SIMD(dropout),
    .adamw = SIMD(adamw),
    .sgd = SIMD(sgd),
    .lion = SIMD(lion),
};
