/* The innermost loops of matrix products by vector registers: a block of c stays in registers while
 * a strip of rows of a and a strip of columns of b, packed so that both are read in order, pass by
 * (Goto and van de Geijn 2008; the shape of the block after Van Zee and van de Geijn 2015, "BLIS").
 *
 * Numbers of any float dtype become f32 as they are packed. Integers of 8 bits become pairs of 16
 * bits, whose products the processor adds two by two without loss: instructions that multiply bytes
 * on processors without VNNI saturate sums of two products at 16 bits, and give wrong results. */
#include <string.h>

#include "backend/cpu/simd/loops.h"
#include "backend/cpu/simd/vectors.h"

/* The block of c: all registers but those for operands. */
enum { VECTORS = 2, ROWS = SIMD_STRIP_ROWS, COLUMNS = LANES * VECTORS };
_Static_assert(COLUMNS == SIMD_STRIP_COLUMNS, "the table says how wide strips are");

/* ---- packing --------------------------------------------------------------------------------- */

enum { CHUNK = 64 }; /* of k, turned at a time in the first cache */

/* chunk[width][CHUNK] → to[length][width] */
static inline void turn(const uint32_t *chunk, const int width, int64_t length, uint32_t *to) {
    for (int64_t k = 0; k < length; k++)
#pragma GCC unroll 32
        for (int r = 0; r < width; r++)
            to[k * width + r] = chunk[r * CHUNK + k];
}

static void pack_along_k(const ds_strip *s, int width, float *to) {
    const char *x = s->data;
    const int64_t size = (int64_t)ds_dtype_size(s->dtype);
    float chunk[SIMD_STRIP_MOST * CHUNK];
    memset(chunk + s->rows * CHUNK, 0, (size_t)(width - s->rows) * CHUNK * sizeof *chunk);
    for (int64_t k = 0; k < s->depth; k += CHUNK) {
        const int64_t length = s->depth - k < CHUNK ? s->depth - k : CHUNK;
        for (int64_t r = 0; r < s->rows; r++)
            SIMD(load)(s->dtype, x + (r * s->row_stride + k) * size, chunk + r * CHUNK, length);
        const uint32_t *from = (const uint32_t *)(const void *)chunk;
        uint32_t *words = (uint32_t *)(void *)(to + k * width);
        if (width == COLUMNS) /* loops of a length that the compiler knows */
            turn(from, COLUMNS, length, words);
        else
            turn(from, ROWS, length, words);
    }
}

static void pack_across_k(const ds_strip *s, int width, float *to) {
    const char *x = s->data;
    const int64_t step = s->k_stride * (int64_t)ds_dtype_size(s->dtype);
    for (int64_t k = 0; k < s->depth; k++, x += step, to += width) {
        SIMD(load)(s->dtype, x, to, s->rows);
        for (int64_t r = s->rows; r < width; r++)
            to[r] = 0;
    }
}

/* The usual case, whole strips of b by rows, without a call a row. */
static void copy_across_k(const ds_strip *s, float *to) {
    const float *x = s->data;
    for (int64_t k = 0; k < s->depth; k++, x += s->k_stride, to += COLUMNS)
        memcpy(to, x, COLUMNS * sizeof *to);
}

static void widen_across_k(const ds_strip *s, float *to) {
    const uint16_t *x = s->data;
    for (int64_t k = 0; k < s->depth; k++, x += s->k_stride, to += COLUMNS) {
        uint32_t bits[COLUMNS];
        for (int r = 0; r < COLUMNS; r++)
            bits[r] = (uint32_t)x[r] << 16;
        memcpy(to, bits, sizeof bits);
    }
}

void SIMD(pack_strip)(const ds_strip *s, int width, void *to) {
    const bool is_whole = width == COLUMNS && s->rows == COLUMNS;
    if (s->row_stride == 1 && is_whole && s->dtype == DS_F32)
        copy_across_k(s, to);
    else if (s->row_stride == 1 && is_whole && s->dtype == DS_BF16)
        widen_across_k(s, to);
    else if (s->row_stride == 1)
        pack_across_k(s, width, to);
    else
        pack_along_k(s, width, to);
}

void SIMD(pack_strip_i8)(const ds_strip *s, int width, void *to) {
    const int8_t *x = s->data;
    int16_t *pair = to;
    for (int64_t k = 0; k < s->depth; k += 2)
        for (int64_t r = 0; r < width; r++, pair += 2) {
            const int8_t *first = x + r * s->row_stride + k * s->k_stride;
            pair[0] = r < s->rows ? first[0] : 0;
            pair[1] = r < s->rows && k + 1 < s->depth ? first[s->k_stride] : 0;
        }
}

/* ---- products -------------------------------------------------------------------------------- */

void SIMD(multiply_strips)(const void *a, const void *b, int64_t depth, void *c, int64_t c_stride,
                           bool adds) {
    const float *left = a, *right = b;
    float *out = c;
    floats sum[ROWS][VECTORS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            sum[r][v] = (floats){0};
    if (adds)
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++)
                sum[r][v] = *(const floats_in_memory *)(out + r * c_stride + v * LANES);
    for (int64_t k = 0; k < depth; k++, left += ROWS, right += COLUMNS) {
        const floats first = *(const floats_in_memory *)right;
        const floats second = *(const floats_in_memory *)(right + LANES);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            sum[r][0] += left[r] * first;
            sum[r][1] += left[r] * second;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            *(floats_in_memory *)(out + r * c_stride + v * LANES) = sum[r][v];
}

/* Per lane: the product of the low halves plus that of the high halves. */
#if defined(__AVX512BW__)
#include <immintrin.h>
static inline ints add_pairs(ints a, ints b) {
    return (ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
}
#elif defined(__AVX2__)
#include <immintrin.h>
static inline ints add_pairs(ints a, ints b) {
    return (ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
}
#elif defined(__SSE2__)
#include <emmintrin.h>
static inline ints add_pairs(ints a, ints b) {
    return (ints)_mm_madd_epi16((__m128i)a, (__m128i)b);
}
#else
static inline ints add_pairs(ints a, ints b) {
    return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
}
#endif

void SIMD(multiply_strips_i8)(const void *a, const void *b, int64_t depth, void *c,
                              int64_t c_stride, bool adds) {
    const int32_t *left = a, *right = b;
    int32_t *out = c;
    ints sum[ROWS][VECTORS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            sum[r][v] = (ints){0};
    if (adds)
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++)
                sum[r][v] = *(const ints_in_memory *)(out + r * c_stride + v * LANES);
    for (int64_t k = 0; k < depth; k++, left += ROWS, right += COLUMNS) {
        const ints first = *(const ints_in_memory *)right;
        const ints second = *(const ints_in_memory *)(right + LANES);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const ints pair = (ints){0} + left[r];
            sum[r][0] += add_pairs(pair, first);
            sum[r][1] += add_pairs(pair, second);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            *(ints_in_memory *)(out + r * c_stride + v * LANES) = sum[r][v];
}
