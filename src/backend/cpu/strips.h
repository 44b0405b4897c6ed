/* Strips of matrices, the operands of products by vector registers (simd/strips.c). A strip of a is
 * some of its rows, a strip of b some of its columns; either is packed word by word along k. A word
 * is an f32, or two integers of 16 bits that follow each other along k. */
#ifndef DS_CPU_STRIPS_H
#define DS_CPU_STRIPS_H

#include <stdbool.h>
#include <stdint.h>

#include "deepseek/tensor.h"

/* Where a strip comes from: element (row, k) is data[row · row_stride + k · k_stride]; one of the
 * strides is 1. */
typedef struct ds_strip {
    ds_dtype dtype;
    const void *data;
    int64_t row_stride, k_stride;
    int64_t rows, depth; /* rows: at most the strip's width, the rest is zeros */
} ds_strip;

typedef struct ds_strips {
    int rows, columns; /* how wide strips of a and of b are */
    /* to: [words along k][width] */
    void (*pack)(const ds_strip *s, int width, void *to);
    void (*pack_i8)(const ds_strip *s, int width, void *to);
    /* c [rows, columns] = a·b over so many words, or c += a·b. f32; i32 for integers. */
    void (*multiply)(const void *a, const void *b, int64_t depth, void *c, int64_t c_stride,
                     bool adds);
    void (*multiply_i8)(const void *a, const void *b, int64_t depth, void *c, int64_t c_stride,
                        bool adds);
} ds_strips;

#endif
