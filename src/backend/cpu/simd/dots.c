/* Products of a few rows with a large matrix that is read once: decoding's. All that costs time is
 * reading the matrix, so it is read in order, in its own type, and widened in registers; the rows,
 * f32, stay in the first cache. */
#include "backend/cpu/simd/loops.h"
#include "backend/cpu/simd/vectors.h"
#include "base/half.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

typedef uint32_t words __attribute__((vector_size(LANES * 4)));
typedef uint16_t halves __attribute__((vector_size(LANES * 2)));
typedef uint16_t halves_in_memory __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

/* ---- numbers of any float type --------------------------------------------------------------- */

INLINE int64_t size_of(const ds_dtype dtype) { /* known to the compiler, unlike ds_dtype_size */
    return dtype == DS_F32 ? 4 : 2;
}

INLINE float number_at(const ds_dtype dtype, const void *w, int64_t i) {
    if (dtype == DS_BF16)
        return ds_bf16_to_f32(((const uint16_t *)w)[i]);
    if (dtype == DS_F16)
        return ds_f16_to_f32(((const uint16_t *)w)[i]);
    return ((const float *)w)[i];
}

INLINE floats widen_f16(const uint16_t *w) {
#if defined(__AVX512F__)
    return (floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)w));
#elif defined(__F16C__)
    return (floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)w));
#else
    floats x;
    for (int i = 0; i < LANES; i++)
        x[i] = ds_f16_to_f32(w[i]);
    return x;
#endif
}

INLINE floats vector_at(const ds_dtype dtype, const void *w, int64_t i) {
    if (dtype == DS_F32)
        return *(const floats_in_memory *)(const void *)((const float *)w + i);
    const uint16_t *half = (const uint16_t *)w + i;
    if (dtype == DS_F16)
        return widen_f16(half);
    const halves bits = *(const halves_in_memory *)(const void *)half;
    return (floats)(__builtin_convertvector(bits, words) << 16);
}

/* The sum of a vector's numbers, half by half. */
typedef float four __attribute__((vector_size(16)));
#if defined(__AVX512F__)
typedef float eight __attribute__((vector_size(32)));
INLINE four fold(floats v) {
    const eight low = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
    const eight all = low + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_shufflevector(all, all, 0, 1, 2, 3) +
           __builtin_shufflevector(all, all, 4, 5, 6, 7);
}
#elif defined(__AVX2__)
INLINE four fold(floats v) {
    return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
}
#else
INLINE four fold(floats v) {
    return v;
}
#endif

INLINE float total(floats v) {
    const four all = fold(v), half = all + __builtin_shufflevector(all, all, 2, 3, 0, 1);
    return half[0] + half[1];
}

/* ---- a matrix by rows ------------------------------------------------------------------------ */

enum {
    CACHE_LINE = 64,
    AHEAD = 1024, /* bytes that are asked for before they are needed */
    MOST_ROWS = DS_DOTS_ROWS,
    MOST_DEEP = 4,
};

typedef struct dots {
    const char *w; /* its row at hand */
    const float *x;
    int64_t x_stride, k;
    float *y;
    int64_t y_stride;
} dots;

/* y[r] for so many rows of x and one row of w, each sum in `deep` vectors: one instruction's result
 * is waited for while others are made. */
INLINE void multiply(const dots *d, const ds_dtype dtype, const int rows, const int deep) {
    const int64_t step = LANES * deep, size = size_of(dtype);
    floats sum[MOST_ROWS][MOST_DEEP];
    int64_t i = 0;
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < deep; v++)
            sum[r][v] = (floats){0};
    for (; i + step <= d->k; i += step) {
#pragma GCC unroll 4
        for (int64_t ahead = 0; ahead < step * size; ahead += CACHE_LINE)
            __builtin_prefetch(d->w + i * size + ahead + AHEAD);
#pragma GCC unroll 4
        for (int v = 0; v < deep; v++) {
            const floats weights = vector_at(dtype, d->w, i + v * LANES);
            const float *x = d->x + i + v * LANES;
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++)
                sum[r][v] +=
                    weights * *(const floats_in_memory *)(const void *)(x + r * d->x_stride);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        floats all = sum[r][0];
#pragma GCC unroll 4
        for (int v = 1; v < deep; v++)
            all += sum[r][v];
        float y = total(all);
        for (int64_t rest = i; rest < d->k; rest++)
            y += number_at(dtype, d->w, rest) * d->x[r * d->x_stride + rest];
        d->y[r * d->y_stride] = y;
    }
}

INLINE void multiply_all(dots d, const ds_dtype dtype, const int rows, const int deep,
                         int64_t w_stride, int64_t n) {
    for (int64_t j = 0; j < n; j++, d.w += w_stride * size_of(dtype), d.y++)
        multiply(&d, dtype, rows, deep);
}

/* As many sums as registers hold beside what they are made of. */
INLINE void multiply_rows(const dots *d, const ds_dtype dtype, int rows, int64_t w_stride,
                          int64_t n) {
    switch (rows) {
    case 1: multiply_all(*d, dtype, 1, 4, w_stride, n); break;
    case 2: multiply_all(*d, dtype, 2, 4, w_stride, n); break;
    case 3: multiply_all(*d, dtype, 3, 2, w_stride, n); break;
    default: multiply_all(*d, dtype, 4, 2, w_stride, n); break;
    }
}

void SIMD(dots)(ds_dtype dtype, const void *w, int64_t w_stride, const float *x, int64_t x_stride,
                int rows, float *y, int64_t y_stride, int64_t n, int64_t k) {
    const dots d = {w, x, x_stride, k, y, y_stride};
    if (dtype == DS_BF16)
        multiply_rows(&d, DS_BF16, rows, w_stride, n);
    else if (dtype == DS_F16)
        multiply_rows(&d, DS_F16, rows, w_stride, n);
    else
        multiply_rows(&d, DS_F32, rows, w_stride, n);
}

/* ---- a matrix by columns --------------------------------------------------------------------- */

/* y[r][j] += the part of rows [i, i + deep) of w. y is in the first cache. */
INLINE void add_rows(const dots *d, const ds_dtype dtype, int rows, const int deep, int64_t i,
                     int64_t w_stride, int64_t n) {
    const char *w = d->w + i * w_stride * size_of(dtype);
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES) {
        floats weights[MOST_DEEP];
#pragma GCC unroll 4
        for (int v = 0; v < deep; v++)
            weights[v] = vector_at(dtype, w, v * w_stride + j);
        for (int r = 0; r < rows; r++) {
            floats_in_memory *y = (floats_in_memory *)(void *)(d->y + r * d->y_stride + j);
            const float *x = d->x + r * d->x_stride + i;
            floats sum = *y;
#pragma GCC unroll 4
            for (int v = 0; v < deep; v++)
                sum += weights[v] * x[v];
            *y = sum;
        }
    }
    for (; j < n; j++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < deep; v++)
                d->y[r * d->y_stride + j] +=
                    number_at(dtype, w, v * w_stride + j) * d->x[r * d->x_stride + i + v];
}

INLINE void add_all(const dots *d, const ds_dtype dtype, int rows, int64_t w_stride, int64_t n) {
    int64_t i = 0;
    for (; i + MOST_DEEP <= d->k; i += MOST_DEEP)
        add_rows(d, dtype, rows, MOST_DEEP, i, w_stride, n);
    for (; i < d->k; i++)
        add_rows(d, dtype, rows, 1, i, w_stride, n);
}

void SIMD(axpys)(ds_dtype dtype, const void *w, int64_t w_stride, const float *x, int64_t x_stride,
                 int rows, float *y, int64_t y_stride, int64_t n, int64_t k) {
    const dots d = {w, x, x_stride, k, y, y_stride};
    if (dtype == DS_BF16)
        add_all(&d, DS_BF16, rows, w_stride, n);
    else if (dtype == DS_F16)
        add_all(&d, DS_F16, rows, w_stride, n);
    else
        add_all(&d, DS_F32, rows, w_stride, n);
}
