/* Sums of one row of quantised weights times a few rows of x: the innermost loops of products that
 * read each weight once, from memory, and have little to do with it. Bytes are multiplied as they
 * are; floats meet weights that become floats in registers. graph/ops/quantised_matmul.c has the
 * layouts.
 *
 * Bytes: the processor multiplies unsigned by signed ones. Without VNNI |w| meets x with w's sign;
 * sums of two such products are at most 2 · 128 · 127, which 16 bits hold. With VNNI x + 128 meets
 * w, and 128 Σ w is taken off.
 *
 * Four bits: a vector of words is LANES · 8 columns. Shifted right by 4 s it holds column 8 l + s
 * in the lowest bits of lane l, so x is brought into that order beforehand, and with it, for the 8
 * that is added to every weight, −8 Σ x of each word's columns. */
#include <string.h>

#include "backend/cpu/simd/loops.h"
#include "backend/cpu/simd/vectors.h"

enum { MOST_ROWS = DS_STREAM_ROWS, WORD_COLUMNS = 8, BLOCK = LANES * WORD_COLUMNS };
enum { ARRANGED = BLOCK + LANES }; /* floats of a block: x in order, then its sums */

static inline float sum_of(floats v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += v[i];
    return sum;
}

/* f(rows, …) with a number of rows that the compiler knows. */
#define WITH_ROWS(f, rows, ...)                                                                    \
    switch (rows) {                                                                                \
    case 1: f(1, __VA_ARGS__); break;                                                              \
    case 2: f(2, __VA_ARGS__); break;                                                              \
    case 3: f(3, __VA_ARGS__); break;                                                              \
    case 4: f(4, __VA_ARGS__); break;                                                              \
    case 5: f(5, __VA_ARGS__); break;                                                              \
    case 6: f(6, __VA_ARGS__); break;                                                              \
    case 7: f(7, __VA_ARGS__); break;                                                              \
    default: f(8, __VA_ARGS__); break;                                                             \
    }

/* ---- bytes by bytes -------------------------------------------------------------------------- */

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__AVX2__)
#include <immintrin.h>

#if defined(__AVX512VNNI__)
typedef __m512i packed;
static inline packed load_packed(const int8_t *p) {
    return _mm512_loadu_si512(p);
}
static inline packed multiply_add(packed sum, packed x, packed w) {
    return _mm512_dpbusd_epi32(sum, x, w);
}
static inline packed all_128(void) {
    return _mm512_set1_epi8((char)0x80);
}
static inline packed plus_128(packed x) {
    return _mm512_xor_si512(x, all_128());
}
static inline packed no_sum(void) {
    return _mm512_setzero_si512();
}
static inline int32_t add_lanes(packed v) {
    return _mm512_reduce_add_epi32(v);
}
#define HAS_VNNI 1
#else
typedef __m256i packed;
static inline packed load_packed(const int8_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
static inline packed no_sum(void) {
    return _mm256_setzero_si256();
}
static inline int32_t add_lanes(packed v) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
}
#if defined(__AVXVNNI__)
static inline packed multiply_add(packed sum, packed x, packed w) {
    return _mm256_dpbusd_avx_epi32(sum, x, w);
}
static inline packed all_128(void) {
    return _mm256_set1_epi8((char)0x80);
}
static inline packed plus_128(packed x) {
    return _mm256_xor_si256(x, all_128());
}
#define HAS_VNNI 1
#endif
#endif

#if defined(HAS_VNNI)
/* sum[r] += Σ (x + 128) w, *offset += Σ 128 w, over one vector. */
INLINE void multiply_bytes(const int rows, packed w, const int8_t *x, int64_t x_stride, packed *sum,
                           packed *offset) {
    *offset = multiply_add(*offset, all_128(), w);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        sum[r] = multiply_add(sum[r], plus_128(load_packed(x + r * x_stride)), w);
}
#else
INLINE void multiply_bytes(const int rows, packed w, const int8_t *x, int64_t x_stride, packed *sum,
                           packed *offset) {
    const packed magnitude = _mm256_abs_epi8(w), ones = _mm256_set1_epi16(1);
    (void)offset;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        const packed turned = _mm256_sign_epi8(load_packed(x + r * x_stride), w);
        const packed pairs = _mm256_maddubs_epi16(magnitude, turned);
        sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(pairs, ones));
    }
}
#endif

INLINE void bytes_by_bytes(const int rows, const int8_t *w, const int8_t *x, int64_t x_stride,
                           int64_t k, int32_t *sums) {
    enum { STEP = sizeof(packed) };
    packed sum[MOST_ROWS], offset = no_sum();
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        sum[r] = no_sum();
    int64_t i = 0;
    for (; i + STEP <= k; i += STEP)
        multiply_bytes(rows, load_packed(w + i), x + i, x_stride, sum, &offset);
    if (i < k) { /* weights of 0 make what stands behind x's end count nothing */
        int8_t rest[STEP] = {0};
        memcpy(rest, w + i, (size_t)(k - i));
        multiply_bytes(rows, load_packed(rest), x + i, x_stride, sum, &offset);
    }
    const int32_t taken = add_lanes(offset);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        sums[r] = add_lanes(sum[r]) - taken;
}
#else
INLINE void bytes_by_bytes(const int rows, const int8_t *w, const int8_t *x, int64_t x_stride,
                           int64_t k, int32_t *sums) {
    for (int r = 0; r < rows; r++) {
        const int8_t *row = x + r * x_stride;
        int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < k; i++)
            sum += (int32_t)((int16_t)w[i] * (int16_t)row[i]);
        sums[r] = sum;
    }
}
#endif

void SIMD(stream_i8)(const int8_t *w, const int8_t *x, int64_t x_stride, int rows, int64_t k,
                     int32_t *sums) {
    WITH_ROWS(bytes_by_bytes, rows, w, x, x_stride, k, sums);
}

/* ---- bytes by floats ------------------------------------------------------------------------- */

#if defined(__AVX512F__)
static inline floats widen_bytes(const int8_t *w) {
    const __m128i narrow = _mm_loadu_si128((const __m128i *)(const void *)w);
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(narrow));
}
#elif defined(__AVX2__)
static inline floats widen_bytes(const int8_t *w) {
    const __m128i narrow = _mm_loadl_epi64((const __m128i *)(const void *)w);
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(narrow));
}
#else
typedef int8_t bytes __attribute__((vector_size(LANES)));
typedef int8_t bytes_in_memory __attribute__((vector_size(LANES), aligned(1), may_alias));

static inline floats widen_bytes(const int8_t *w) {
    return __builtin_convertvector((bytes) * (const bytes_in_memory *)w, floats);
}
#endif

INLINE void bytes_by_floats(const int rows, const int8_t *w, const float *x, int64_t x_stride,
                            int64_t k, float *sums) {
    enum { AT_ONCE = 4 };
    const int chains = rows == 1 ? 4 : rows <= 4 ? 2 : 1; /* sums at work at once in each row */
    floats sum[MOST_ROWS][AT_ONCE];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < chains; c++)
            sum[r][c] = (floats){0};
    int64_t i = 0;
    for (; i + chains * LANES <= k; i += chains * LANES)
#pragma GCC unroll 4
        for (int c = 0; c < chains; c++) {
            const floats weight = widen_bytes(w + i + c * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                sum[r][c] += weight * *(const floats_in_memory *)(x + r * x_stride + i + c * LANES);
        }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        floats all = sum[r][0];
#pragma GCC unroll 4
        for (int c = 1; c < chains; c++)
            all += sum[r][c];
        sums[r] = sum_of(all);
        for (int64_t j = i; j < k; j++)
            sums[r] += (float)w[j] * x[r * x_stride + j];
    }
}

void SIMD(stream_i8_floats)(const int8_t *w, const float *x, int64_t x_stride, int rows, int64_t k,
                            float *sums) {
    WITH_ROWS(bytes_by_floats, rows, w, x, x_stride, k, sums);
}

/* ---- four bits by floats --------------------------------------------------------------------- */

int64_t SIMD(arranged_size)(int64_t k) {
    return (k + BLOCK - 1) / BLOCK * ARRANGED;
}

void SIMD(arrange_i4)(const float *x, int64_t k, float *to) {
    for (int64_t i = 0; i < k; i += BLOCK, to += ARRANGED)
        for (int lane = 0; lane < LANES; lane++) {
            float sum = 0;
            for (int s = 0; s < WORD_COLUMNS; s++) {
                const int64_t at = i + lane * WORD_COLUMNS + s;
                const float value = at < k ? x[at] : 0;
                to[s * LANES + lane] = value;
                sum += value;
            }
            to[BLOCK + lane] = -8 * sum;
        }
}

/* Scales of a block's words where groups end in it. */
static floats scales_between(const ds_stream_i4 *w, int64_t first) {
    floats v = {0};
    for (int lane = 0; lane < LANES; lane++) {
        const int64_t at = (first + lane) / w->words_per_group;
        v[lane] = w->scale[at < w->n_groups ? at : w->n_groups - 1];
    }
    return v;
}

/* The usual group of 32, several of which are in a block. */
#if defined(__AVX512F__)
static inline floats scales_of_32(const float *scale) {
    const floats v = (floats)_mm512_broadcast_f32x4(_mm_loadu_ps(scale));
    return __builtin_shufflevector(v, v, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
}
#elif defined(__AVX2__)
static inline floats scales_of_32(const float *scale) {
    int64_t two;
    memcpy(&two, scale, sizeof two);
    const floats v = (floats)_mm256_set1_epi64x(two);
    return __builtin_shufflevector(v, v, 0, 0, 0, 0, 1, 1, 1, 1);
}
#else
static inline floats scales_of_32(const float *scale) {
    return (floats){0} + *scale;
}
#endif

/* Where the walk over the blocks of a row stands, so that none need divide. */
typedef struct walk {
    int64_t group, left; /* words of the group that are still to come */
} walk;

/* The scale of each word of the block that begins at word `first`. */
static inline floats next_scales(const ds_stream_i4 *w, int64_t first, walk *at) {
    enum { WORDS_OF_32 = 4, GROUPS_OF_32 = LANES / WORDS_OF_32 };
    if (w->n_groups == 1)
        return (floats){0} + w->scale[0];
    if (w->words_per_group == WORDS_OF_32 && at->group + GROUPS_OF_32 <= w->n_groups) {
        at->group += GROUPS_OF_32;
        return scales_of_32(w->scale + at->group - GROUPS_OF_32);
    }
    if (w->words_per_group % LANES != 0)
        return scales_between(w, first);
    const floats v = (floats){0} + w->scale[at->group];
    at->left -= LANES;
    if (at->left == 0)
        at->group++, at->left = w->words_per_group;
    return v;
}

INLINE void add_block(const int rows, ints words, floats scale, const float *x, int64_t x_stride,
                      floats *sum) {
    floats part[MOST_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        part[r] = *(const floats_in_memory *)(x + r * x_stride + BLOCK);
#pragma GCC unroll 8
    for (int s = 0; s < WORD_COLUMNS; s++) {
        const floats weight = __builtin_convertvector((words >> (4 * s)) & 15, floats);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
            part[r] += weight * *(const floats_in_memory *)(x + r * x_stride + s * LANES);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        sum[r] += scale * part[r];
}

INLINE void four_bits_by_floats(const int rows, const ds_stream_i4 *w, const float *x,
                                int64_t x_stride, float *sums) {
    const int64_t n_words = (w->k + WORD_COLUMNS - 1) / WORD_COLUMNS;
    walk at = {.left = w->words_per_group};
    floats sum[MOST_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        sum[r] = (floats){0};
    for (int64_t i = 0; i < n_words; i += LANES, x += ARRANGED) {
        ints words;
        if (i + LANES <= n_words) {
            words = *(const ints_in_memory *)(w->words + i);
        } else {
            memset(&words, 0, sizeof words); /* x is 0 there */
            memcpy(&words, w->words + i, (size_t)(n_words - i) * sizeof *w->words);
        }
        const floats scale = next_scales(w, i, &at);
        add_block(rows, words, scale, x, x_stride, sum);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        sums[r] = sum_of(sum[r]);
}

void SIMD(stream_i4)(const ds_stream_i4 *w, const float *x, int64_t x_stride, int rows,
                     float *sums) {
    WITH_ROWS(four_bits_by_floats, rows, w, x, x_stride, sums);
}

void SIMD(widen_i4)(const int32_t *words, float *to, int64_t k) {
    for (int64_t i = 0; i < k; i += WORD_COLUMNS) {
        const uint32_t word = (uint32_t)words[i / WORD_COLUMNS];
        const int64_t n = k - i < WORD_COLUMNS ? k - i : WORD_COLUMNS;
        for (int64_t s = 0; s < n; s++)
            to[i + s] = (float)((int)(word >> (4 * s) & 15) - 8);
    }
}
