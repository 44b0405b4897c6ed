/* Products of bf16 matrices by AMX tiles, at the speed of the tile unit.
 *
 * The unit multiplies a 16 × 32 tile by a 32 × 16 tile in 16 cycles, so a 2 × 2 block of tiles of c
 * asks for 64 bytes of operands a cycle from the first cache, or half of that from the second one
 * if the other half stays in the first. Hence the loops (Goto and van de Geijn 2008, "Anatomy of
 * high-performance matrix multiplication"): a block of the larger operand is packed into the second
 * cache, a panel of the smaller one, packed by all threads beforehand, passes through the first.
 *
 * Packing reads either orientation. Strips of 16 rows (of a, or of bᵀ) are cut into tiles of 32
 * along k; a tile of b holds the same numbers with pairs along k side by side, which is the
 * transposition of 16 × 16 pairs. Edges are filled with zeros. */
#include "backend/cpu/gemm.h"

#include <omp.h>

enum {
    STRIP = 16,       /* rows of a tile, columns of c */
    PANEL = 32,       /* two strips: what a block of c is wide and high */
    DEPTH = 32,       /* of a tile along k */
    TILE = 512,       /* elements: 1 KB */
    LINES = 16,       /* of a tile in the caches */
    CHUNK = 8,        /* tiles along k of a panel in the first cache: 16 KB */
    MOST_ROWS = 256,  /* of a packed block, whose sums are another 32 KB */
    MOST_SLAB = 4096, /* of k at once */
    BLOCK_BYTES = 1 << 20,
    STREAMED_BYTES = 1 << 20, /* results of more are written past the caches */
};

static bool is_readable(const ds_operand *x) {
    return x->dtype == DS_BF16 && (x->row_stride == 1 || x->column_stride == 1);
}

/* Below this, packing costs more than the tiles save. */
static bool is_large(const ds_product *p) {
    return p->batch == 1 && p->m >= 16 && p->n >= 16 && p->k >= 32 && p->m * p->n * p->k >= 1 << 18;
}

bool ds_amx_gemm_accepts(const ds_product *p) {
    return ds_tiles_amx() && is_large(p) && is_readable(&p->a) && is_readable(&p->b) &&
           (p->c.dtype == DS_BF16 || p->c.dtype == DS_F32) && p->c.column_stride == 1 &&
           (!p->accumulates ||
            (p->c.dtype == DS_F32 && !p->has_bias && !p->has_activation && !p->has_residual));
}

/* Blocks of at most MOST_ROWS, as many for each thread. */
static int64_t block_of(int64_t outer, int64_t slab, int n_threads) {
    int64_t most = BLOCK_BYTES / (2 * slab) / PANEL * PANEL;
    most = most > MOST_ROWS ? MOST_ROWS : most;
    const int64_t rounds = (outer + most * n_threads - 1) / (most * n_threads);
    return ds_round_up((outer + rounds * n_threads - 1) / (rounds * n_threads), PANEL);
}

static size_t reserve(ds_amx_gemm *g, int64_t bytes) {
    const size_t at = g->workspace;
    g->workspace += (size_t)ds_round_up(bytes, 64);
    return at;
}

/* Sums of earlier slabs wait in c if nothing but sums goes there. */
static bool sums_in_c(const ds_product *p) {
    return p->c.dtype == DS_F32 && !p->has_bias && !p->has_activation && !p->has_residual;
}

ds_amx_gemm ds_amx_gemm_plan(const ds_product *p, int n_threads) {
    ds_amx_gemm g = {.product = *p, .n_threads = n_threads, .outer_is_a = p->m >= p->n};
    g.outer = g.outer_is_a ? p->m : p->n;
    g.inner = g.outer_is_a ? p->n : p->m;
    g.n_slabs = (p->k + MOST_SLAB - 1) / MOST_SLAB;
    g.slab = ds_round_up((p->k + g.n_slabs - 1) / g.n_slabs, DEPTH);
    g.n_slabs = (p->k + g.slab - 1) / g.slab;
    g.block = block_of(g.outer, g.slab, n_threads);
    g.streams = p->c.dtype == DS_F32 && p->m * p->n * 4 > STREAMED_BYTES;
    g.inner_at = reserve(&g, ds_round_up(g.inner, PANEL) * g.slab * 2);
    if (g.n_slabs > 1 && !sums_in_c(p))
        g.sums_at = reserve(&g, p->m * p->n * 4);
    g.private_bytes = (size_t)(g.block * g.slab * 2 + g.block * PANEL * 4);
    g.private_at = reserve(&g, (int64_t)g.private_bytes * n_threads);
    return g;
}

#if defined(__x86_64__)
#include <immintrin.h>

#define AMX                                                                                        \
    __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))

/* ---- packing --------------------------------------------------------------------------------- */

/* Rows of pairs become columns of pairs. */
AMX static inline void turn(__m512i r[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

/* An operand, as rows along k: x[row · row_stride + k · k_stride], one of the strides 1. */
typedef struct source {
    const uint16_t *x;
    int64_t row_stride, k_stride, rows, depth;
    bool in_pairs; /* it becomes tiles of b */
} source;

/* One tile of rows that are contiguous along k. */
AMX static void pack_along_k(const source *s, int64_t row, int64_t k, uint16_t *tile) {
    const int64_t left = s->depth - k, rows = s->rows - row;
    const __mmask32 mask = left >= DEPTH ? 0xffffffffU : (1U << left) - 1;
    const uint16_t *x = s->x + row * s->row_stride + k;
    __m512i r[16];
#pragma GCC unroll 16
    for (int i = 0; i < STRIP; i++)
        r[i] = i < rows ? _mm512_maskz_loadu_epi16(mask, x + i * s->row_stride)
                        : _mm512_setzero_si512();
    if (s->in_pairs)
        turn(r);
#pragma GCC unroll 16
    for (int i = 0; i < STRIP; i++)
        _mm512_store_si512(tile + i * DEPTH, r[i]);
}

AMX static void turn_tile(uint16_t *tile) {
    __m512i r[16];
#pragma GCC unroll 16
    for (int i = 0; i < STRIP; i++)
        r[i] = _mm512_load_si512(tile + i * DEPTH);
    turn(r);
#pragma GCC unroll 16
    for (int i = 0; i < STRIP; i++)
        _mm512_store_si512(tile + i * DEPTH, r[i]);
}

/* The same position of two strips, where rows are contiguous: two lines of k give pairs. */
AMX static void pack_across_k(const source *s, int64_t row, int64_t k, uint16_t *tile,
                              int64_t strip_size) {
    const int64_t left = s->rows - row;
    const __mmask32 mask = left >= PANEL ? 0xffffffffU : left > 0 ? (1U << left) - 1 : 0;
    const __m512i low = _mm512_set_epi32(0x2f000f, 0x2e000e, 0x2d000d, 0x2c000c, 0x2b000b, 0x2a000a,
                                         0x290009, 0x280008, 0x270007, 0x260006, 0x250005, 0x240004,
                                         0x230003, 0x220002, 0x210001, 0x200000);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16)),
                  none = _mm512_setzero_si512();
    const uint16_t *x = s->x + row + k * s->k_stride;
    for (int i = 0; i < STRIP; i++, x += 2 * s->k_stride) {
        const bool has_even = k + 2 * i < s->depth, has_odd = k + 2 * i + 1 < s->depth;
        const __m512i even = has_even ? _mm512_maskz_loadu_epi16(mask, x) : none;
        const __m512i odd = has_odd ? _mm512_maskz_loadu_epi16(mask, x + s->k_stride) : none;
        _mm512_store_si512(tile + i * DEPTH, _mm512_permutex2var_epi16(even, low, odd));
        _mm512_store_si512(tile + strip_size + i * DEPTH,
                           _mm512_permutex2var_epi16(even, high, odd));
    }
    if (!s->in_pairs) {
        turn_tile(tile);
        turn_tile(tile + strip_size);
    }
}

/* Packs rows [row, row_end) and k [k, k_end), whole panels and tiles. Memory is read along its
 * lines: strip after strip, or all strips of one tile of k after the other. */
AMX static void pack(const source *s, int64_t row, int64_t row_end, int64_t k, int64_t k_end,
                     int64_t strip_size, uint16_t *to) {
    if (s->k_stride == 1) {
        for (int64_t i = row; i < row_end; i += STRIP)
            for (int64_t j = k; j < k_end; j += DEPTH)
                pack_along_k(s, i, j, to + (i - row) / STRIP * strip_size + j / DEPTH * TILE);
        return;
    }
    for (int64_t j = k; j < k_end; j += DEPTH)
        for (int64_t i = row; i < row_end; i += PANEL)
            pack_across_k(s, i, j, to + (i - row) / STRIP * strip_size + j / DEPTH * TILE,
                          strip_size);
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* 32 × 32 of c from two strips of a and two of b. On the way, so many lines per tile are asked for
 * of each of the two strips that come next. */
AMX static void multiply_block(const uint16_t *a, const uint16_t *b, int64_t strip_size,
                               int64_t tiles, float *c, int64_t c_stride, bool adds,
                               const char *next, int64_t lines) {
    const int64_t c_bytes = c_stride * 4;
    if (adds) {
        _tile_loadd(0, c, c_bytes);
        _tile_loadd(1, c + STRIP, c_bytes);
        _tile_loadd(2, c + STRIP * c_stride, c_bytes);
        _tile_loadd(3, c + STRIP * c_stride + STRIP, c_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t i = 0; i < tiles; i++, a += TILE, b += TILE) {
        for (int64_t line = 0; line < lines; line++, next += 64) {
            _mm_prefetch(next, _MM_HINT_T1);
            _mm_prefetch(next + strip_size * 2, _MM_HINT_T1);
        }
        _tile_loadd(4, a, 64);
        _tile_loadd(6, b, 64);
        _tile_loadd(5, a + strip_size, 64);
        _tile_loadd(7, b + strip_size, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + STRIP, c_bytes);
    _tile_stored(2, c + STRIP * c_stride, c_bytes);
    _tile_stored(3, c + STRIP * c_stride + STRIP, c_bytes);
}

/* ---- one run --------------------------------------------------------------------------------- */

typedef struct run {
    const ds_amx_gemm *g;
    const uint16_t *outer, *inner; /* the operands, at the slab's first k */
    int64_t depth, tiles;          /* of this slab */
    bool is_first, is_last;
    uint16_t *panels; /* inner, packed */
    float *sums;
    int64_t sums_stride;
    void *c;
    const float *bias;
    const char *residual;
} run;

static source source_of(const run *r, bool outer) {
    const ds_amx_gemm *g = r->g;
    const bool is_a = outer == g->outer_is_a;
    const ds_operand *x = is_a ? &g->product.a : &g->product.b;
    return (source){.x = outer ? r->outer : r->inner,
                    .row_stride = is_a ? x->row_stride : x->column_stride,
                    .k_stride = is_a ? x->column_stride : x->row_stride,
                    .rows = outer ? g->outer : g->inner,
                    .depth = r->depth,
                    .in_pairs = !is_a};
}

/* A rectangle of sums: [rows, columns] at (row, column) of c. */
typedef struct patch {
    float *sums;
    int64_t stride, row, column, rows, columns;
} patch;

AMX static inline __mmask16 lanes(int64_t left) {
    return (__mmask16)(left >= 16 ? 0xffffU : (1U << left) - 1);
}

AMX static void add_rows(const patch *s, const float *from, int64_t from_stride) {
    for (int64_t i = 0; i < s->rows; i++, from += from_stride)
        for (int64_t j = 0; j < s->columns; j += 16) {
            const __mmask16 mask = lanes(s->columns - j);
            float *y = s->sums + i * s->stride + j;
            _mm512_mask_storeu_ps(y, mask,
                                  _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y),
                                                _mm512_maskz_loadu_ps(mask, from + j)));
        }
}

AMX static inline __m512 widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

AMX static void store_f32(const patch *s, float *c, int64_t stride, const float *residual,
                          bool streams) {
    for (int64_t i = 0; i < s->rows; i++)
        for (int64_t j = 0; j < s->columns; j += 16) {
            const __mmask16 mask = lanes(s->columns - j);
            __m512 y = _mm512_maskz_loadu_ps(mask, s->sums + i * s->stride + j);
            if (residual)
                y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, residual + i * stride + j));
            float *to = c + i * stride + j;
            if (streams && mask == 0xffff && (uintptr_t)to % 64 == 0)
                _mm512_stream_ps(to, y);
            else
                _mm512_mask_storeu_ps(to, mask, y);
        }
}

AMX static void store_bf16(const patch *s, uint16_t *c, int64_t stride, const uint16_t *residual) {
    for (int64_t i = 0; i < s->rows; i++)
        for (int64_t j = 0; j < s->columns; j += 16) {
            const __mmask16 mask = lanes(s->columns - j);
            __m512 y = _mm512_maskz_loadu_ps(mask, s->sums + i * s->stride + j);
            if (residual)
                y = _mm512_add_ps(y,
                                  widen(_mm256_maskz_loadu_epi16(mask, residual + i * stride + j)));
            _mm256_mask_storeu_epi16(c + i * stride + j, mask, (__m256i)_mm512_cvtneps_pbh(y));
        }
}

static void apply_activation(const patch *s, ds_unary kind) {
    const ds_simd *simd = ds_cpu_simd();
    if (s->stride == s->columns)
        simd->unary(kind, 0, s->sums, s->sums, s->rows * s->columns);
    else
        for (int64_t i = 0; i < s->rows; i++)
            simd->unary(kind, 0, s->sums + i * s->stride, s->sums + i * s->stride, s->columns);
}

/* What the sums of this slab become. */
AMX static void finish(const run *r, const patch *s) {
    const ds_product *p = &r->g->product;
    float *earlier = r->sums + s->row * r->sums_stride + s->column;
    if (!r->is_first)
        add_rows(s, earlier, r->sums_stride);
    if (!r->is_last || sums_in_c(p)) {
        store_f32(s, earlier, r->sums_stride, NULL, r->is_last && r->g->streams);
        return;
    }
    if (p->has_bias)
        add_rows(s, r->bias + s->column, 0);
    if (p->has_activation)
        apply_activation(s, p->activation);
    const int64_t stride = p->c.row_stride, at = s->row * stride + s->column;
    if (p->c.dtype == DS_F32)
        store_f32(s, (float *)r->c + at, stride,
                  r->residual ? (const float *)(const void *)r->residual + at : NULL,
                  r->g->streams);
    else
        store_bf16(s, (uint16_t *)r->c + at, stride,
                   r->residual ? (const uint16_t *)(const void *)r->residual + at : NULL);
}

/* Sums of one panel with a packed block. */
AMX static void multiply_panel(const run *r, const uint16_t *block, int64_t rows,
                               const uint16_t *panel, float *sums) {
    const int64_t strip_size = r->tiles * TILE, pieces = ds_round_up(rows, PANEL) / PANEL;
    const bool by_rows = r->g->outer_is_a;
    for (int64_t k = 0; k < r->tiles; k += CHUNK) {
        const int64_t left = r->tiles - k, tiles = left < CHUNK ? left : CHUNK;
        /* what comes next, in equal shares; past the last panel lies more of the workspace, and
         * asking for that does no harm */
        const uint16_t *next =
            k + tiles < r->tiles ? panel + (k + tiles) * TILE : panel + 2 * strip_size;
        const int64_t lines = (LINES + pieces - 1) / pieces;
        for (int64_t i = 0; i < pieces; i++) {
            const uint16_t *outer = block + 2 * i * strip_size + k * TILE;
            const uint16_t *inner = panel + k * TILE;
            multiply_block(by_rows ? outer : inner, by_rows ? inner : outer, strip_size, tiles,
                           by_rows ? sums + i * PANEL * PANEL : sums + i * PANEL,
                           by_rows ? PANEL : r->g->block, k > 0,
                           (const char *)next + i * lines * tiles * 64, lines);
        }
    }
}

AMX static void run_block(const run *r, int64_t first, char *memory) {
    const ds_amx_gemm *g = r->g;
    const int64_t left = g->outer - first, rows = left < g->block ? left : g->block;
    uint16_t *block = (uint16_t *)(void *)memory;
    float *sums = (float *)(void *)(memory + g->block * g->slab * 2);
    const source from = source_of(r, true);
    pack(&from, first, first + ds_round_up(rows, PANEL), 0, r->depth, r->tiles * TILE, block);
    for (int64_t j = 0; j < g->inner; j += PANEL) {
        const int64_t wide = g->inner - j < PANEL ? g->inner - j : PANEL;
        multiply_panel(r, block, rows, r->panels + j * r->tiles * DEPTH, sums);
        const patch s = g->outer_is_a ? (patch){sums, PANEL, first, j, rows, wide}
                                      : (patch){sums, g->block, j, first, wide, rows};
        finish(r, &s);
    }
}

/* This thread's share of the panels: some of the strips, or some of k. */
AMX static void pack_inner(const run *r, int thread, int n_threads) {
    const source s = source_of(r, false);
    const int64_t strip_size = r->tiles * TILE, panels = ds_round_up(r->g->inner, PANEL) / PANEL;
    if (s.k_stride == 1) {
        const int64_t from = panels * thread / n_threads * PANEL;
        const int64_t to = panels * (thread + 1) / n_threads * PANEL;
        pack(&s, from, to, 0, r->depth, strip_size, r->panels + from / STRIP * strip_size);
    } else {
        const int64_t from = r->tiles * thread / n_threads * DEPTH;
        const int64_t to = r->tiles * (thread + 1) / n_threads * DEPTH;
        pack(&s, 0, panels * PANEL, from, to, strip_size, r->panels);
    }
}

AMX static void run_slab(const run *r, char *workspace) {
    const ds_amx_gemm *g = r->g;
    const ds_tiles *amx = ds_tiles_amx();
#pragma omp parallel num_threads(g->n_threads)
    {
        char *memory = workspace + g->private_at + (size_t)omp_get_thread_num() * g->private_bytes;
        amx->begin();
        pack_inner(r, omp_get_thread_num(), omp_get_num_threads());
#pragma omp barrier
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < g->outer; i += g->block)
            run_block(r, i, memory);
        amx->end();
    }
}

void ds_amx_gemm_run(const ds_amx_gemm *g, const void *a, const void *b, void *c, const float *bias,
                     const void *residual, void *workspace) {
    const ds_product *p = &g->product;
    const bool in_c = sums_in_c(p);
    char *memory = workspace;
    for (int64_t i = 0; i < g->n_slabs; i++) {
        const int64_t k = i * g->slab, left = p->k - k, depth = left < g->slab ? left : g->slab;
        const uint16_t *from_a = (const uint16_t *)a + k * p->a.column_stride;
        const uint16_t *from_b = (const uint16_t *)b + k * p->b.row_stride;
        const run r = {.g = g,
                       .outer = g->outer_is_a ? from_a : from_b,
                       .inner = g->outer_is_a ? from_b : from_a,
                       .depth = depth,
                       .tiles = ds_round_up(depth, DEPTH) / DEPTH,
                       .is_first = i == 0 && !p->accumulates,
                       .is_last = i == g->n_slabs - 1,
                       .panels = (uint16_t *)(void *)(memory + g->inner_at),
                       .sums = in_c ? c : (float *)(void *)(memory + g->sums_at),
                       .sums_stride = in_c ? p->c.row_stride : p->n,
                       .c = c,
                       .bias = bias,
                       .residual = residual};
        run_slab(&r, memory);
    }
}

#else

void ds_amx_gemm_run(const ds_amx_gemm *g, const void *a, const void *b, void *c, const float *bias,
                     const void *residual, void *workspace) {
    (void)g, (void)a, (void)b, (void)c, (void)bias, (void)residual, (void)workspace;
}

#endif
