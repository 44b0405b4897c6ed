/* Products by vector registers, for processors without matrix units: operands of any float dtype,
 * laid out either way, multiplied in f32; and products of int8 without loss.
 *
 * The loops are those of Goto and van de Geijn (2008, "Anatomy of high-performance matrix
 * multiplication"): columns of b, so many that the last cache holds them, are packed by all threads
 * together, a slab of k at a time; each thread packs a block of rows of a into its second cache and
 * multiplies it by one panel of columns after the other, CHUNK of k at a time, so that the strip of
 * b at hand stays in the first cache. Converting while packing costs nothing beside reading. */
#include "backend/cpu/gemm.h"

#include <string.h>

#include <omp.h>

enum {
    CHUNK = 256,           /* words along k of a strip of b in the first cache: 16 KB */
    MOST_SLAB = 1024,      /* words along k at once */
    MOST_COLUMNS = 4096,   /* of b packed at once: 16 MB */
    BLOCK_BYTES = 1 << 18, /* of a in the second cache */
    STRIPS_PER_PANEL = 4,  /* a panel: sums of a block over so many strips of b at once */
    WORD = 4,
};

static bool is_readable(const ds_operand *x) {
    return x->row_stride == 1 || x->column_stride == 1;
}

static bool is_float(ds_dtype dtype) {
    return dtype == DS_F32 || dtype == DS_BF16 || dtype == DS_F16;
}

/* Below this, packing costs more than it saves. */
static bool is_large(const ds_product *p) {
    return p->m >= 16 && p->n >= 16 && p->k >= 16 && p->m * p->n * p->k >= 1 << 18;
}

#if defined(__x86_64__)
/* oneDNN wants a left operand turned that lies by columns, and runs its best on a packed copy of
 * the whole right one. Where these cost as much as they bring, or a lot of memory, packing a slab
 * at a time is better. */
static bool wants_large_copies(const ds_product *p) {
    enum { LARGE = 64 << 20 };
    return p->a.column_stride != 1 || p->k * p->n * WORD > LARGE;
}
#endif

/* oneDNN's products of f32 are some 5 % faster on x86-64 otherwise, and it knows the units for bf16
 * and int8 where there are any. */
static bool is_best_here(const ds_product *p) {
    const ds_dtype dtype = p->a.dtype;
#if defined(__x86_64__)
    if (dtype == DS_F32)
        return wants_large_copies(p);
    if (dtype == DS_I8)
        return !__builtin_cpu_supports("avx512vnni");
    if (dtype == DS_BF16)
        return !__builtin_cpu_supports("avx512bf16");
    return dtype == DS_F16;
#else
    return dtype == DS_F32 || dtype == DS_BF16 || dtype == DS_F16 || dtype == DS_I8;
#endif
}

static bool is_bare(const ds_product *p) {
    return !p->has_bias && !p->has_activation && !p->has_residual;
}

/* Floats of two types are for nobody else. */
static bool accepts_floats(const ds_product *p) {
    if (!is_float(p->a.dtype) || !is_float(p->b.dtype) || !is_float(p->c.dtype) ||
        (p->accumulates && (p->c.dtype != DS_F32 || !is_bare(p))))
        return false;
    return p->a.dtype != p->b.dtype || (is_best_here(p) && is_large(p));
}

bool ds_vector_gemm_accepts(const ds_product *p) {
    if (p->batch != 1 || !is_readable(&p->a) || !is_readable(&p->b) || p->c.column_stride != 1)
        return false;
    if (p->a.dtype == DS_I8 && p->b.dtype == DS_I8)
        return p->c.dtype == DS_I32 && is_bare(p) && is_best_here(p);
    return accepts_floats(p);
}

/* Sums of earlier slabs wait in c if nothing but sums goes there. */
static bool sums_in_c(const ds_product *p) {
    return (p->c.dtype == DS_F32 || p->c.dtype == DS_I32) && is_bare(p);
}

/* Blocks of at most `most` rows, as many for each thread. */
static int64_t block_of(int64_t m, int64_t slab, int unit, int n_threads) {
    const int64_t fitting = BLOCK_BYTES / (WORD * slab) / unit * unit;
    const int64_t most = fitting > unit ? fitting : unit;
    const int64_t rounds = (m + most * n_threads - 1) / (most * n_threads);
    return ds_round_up((m + rounds * n_threads - 1) / (rounds * n_threads), unit);
}

static size_t reserve(ds_vector_gemm *g, int64_t bytes) {
    const size_t at = g->workspace;
    g->workspace += (size_t)ds_round_up(bytes, 64);
    return at;
}

ds_vector_gemm ds_vector_gemm_plan(const ds_product *p, int n_threads) {
    const ds_strips *strips = &ds_cpu_simd()->strips;
    ds_vector_gemm g = {.product = *p, .n_threads = n_threads};
    g.per_word = p->a.dtype == DS_I8 ? 2 : 1;
    const int64_t words = (p->k + g.per_word - 1) / g.per_word;
    const int64_t n_slabs = (words + MOST_SLAB - 1) / MOST_SLAB;
    g.slab = (words + n_slabs - 1) / n_slabs;
    g.block = block_of(p->m, g.slab, strips->rows, n_threads);
    g.columns = ds_least(MOST_COLUMNS, ds_round_up(p->n, strips->columns));
    g.columns_at = reserve(&g, g.columns * g.slab * WORD);
    if (n_slabs > 1 && !sums_in_c(p))
        g.sums_at = reserve(&g, p->m * g.columns * WORD);
    const int64_t panel = STRIPS_PER_PANEL * strips->columns;
    g.private_bytes = (size_t)ds_round_up(g.block * (g.slab + panel) * WORD, 64);
    g.private_at = reserve(&g, (int64_t)g.private_bytes * n_threads);
    return g;
}

/* ---- one run --------------------------------------------------------------------------------- */

/* One slab of k of some columns. */
typedef struct run {
    const ds_vector_gemm *g;
    const ds_strips *strips;
    const ds_simd *simd;
    const char *a, *b;
    char *c;
    const float *bias;
    const char *residual;
    int64_t k, depth, words; /* first of a's columns, how many, and as words */
    int64_t column, n;       /* first of b's columns, and how many */
    bool is_first, is_last;  /* of the slabs */
    char *packed_columns, *memory;
    char *sums; /* of earlier slabs, [m, sums_stride] from `column` on */
    int64_t sums_stride;
} run;

static void pack(const run *r, const ds_strip *s, int width, void *to) {
    if (s->dtype == DS_I8)
        r->strips->pack_i8(s, width, to);
    else
        r->strips->pack(s, width, to);
}

/* All threads, each some of the strips. */
static void pack_columns(const run *r) {
    const ds_operand *b = &r->g->product.b;
    const int width = r->strips->columns;
    const int64_t size = (int64_t)ds_dtype_size(b->dtype);
#pragma omp for schedule(static)
    for (int64_t j = 0; j < r->n; j += width) {
        const int64_t at = r->k * b->row_stride + (r->column + j) * b->column_stride;
        const ds_strip s = {.dtype = b->dtype,
                            .data = r->b + at * size,
                            .row_stride = b->column_stride,
                            .k_stride = b->row_stride,
                            .rows = ds_least(width, r->n - j),
                            .depth = r->depth};
        pack(r, &s, width, r->packed_columns + j * r->words * WORD);
    }
}

static void pack_block(const run *r, int64_t row, int64_t rows, char *to) {
    const ds_operand *a = &r->g->product.a;
    const int width = r->strips->rows;
    const int64_t size = (int64_t)ds_dtype_size(a->dtype);
    for (int64_t i = 0; i < rows; i += width) {
        const int64_t at = (row + i) * a->row_stride + r->k * a->column_stride;
        const ds_strip s = {.dtype = a->dtype,
                            .data = r->a + at * size,
                            .row_stride = a->row_stride,
                            .k_stride = a->column_stride,
                            .rows = ds_least(width, rows - i),
                            .depth = r->depth};
        pack(r, &s, width, to + i * r->words * WORD);
    }
}

/* A rectangle of fresh sums: [rows, columns] at (row, column) of c. */
typedef struct patch {
    char *sums;
    int64_t stride, row, column, rows, columns;
} patch;

static void add_integers(const int32_t *x, int32_t *y, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i];
}

static void keep_sums(const run *r, const patch *s, bool adds) {
    for (int64_t i = 0; i < s->rows; i++) {
        const int64_t at = (s->row + i) * r->sums_stride + s->column;
        const char *from = s->sums + i * s->stride * WORD;
        char *to = r->sums + at * WORD;
        if (!adds)
            memcpy(to, from, (size_t)(s->columns * WORD));
        else if (r->g->per_word == 2)
            add_integers((const int32_t *)(const void *)from, (int32_t *)(void *)to, s->columns);
        else
            r->simd->axpy(1, (const float *)(const void *)from, (float *)(void *)to, s->columns);
    }
}

/* What the sums of this slab become. Columns of the patch count from the run's first. */
static void finish(const run *r, const patch *s) {
    if (!r->is_last || sums_in_c(&r->g->product)) {
        keep_sums(r, s, !r->is_first);
        return;
    }
    for (int64_t i = 0; i < s->rows; i++) {
        float *sums = (float *)(void *)(s->sums + i * s->stride * WORD);
        if (!r->is_first) {
            const int64_t at = (s->row + i) * r->sums_stride + s->column;
            r->simd->axpy(1, (const float *)(const void *)(r->sums + at * WORD), sums, s->columns);
        }
        ds_product_finish(&r->g->product, sums, s->row + i, r->column + s->column, s->columns,
                          r->bias, r->residual, r->c);
    }
}

/* Sums of a packed block over one panel of columns. */
static void multiply_panel(const run *r, const char *block, int64_t rows, int64_t column,
                           int64_t columns, char *sums, int64_t stride) {
    const ds_strips *t = r->strips;
    for (int64_t k = 0; k < r->words; k += CHUNK) {
        const int64_t depth = ds_least(CHUNK, r->words - k);
        for (int64_t j = 0; j < columns; j += t->columns) {
            const char *b = r->packed_columns + ((column + j) * r->words + k * t->columns) * WORD;
            for (int64_t i = 0; i < rows; i += t->rows) {
                const char *a = block + (i * r->words + k * t->rows) * WORD;
                char *c = sums + (i * stride + j) * WORD;
                if (r->g->per_word == 2)
                    t->multiply_i8(a, b, depth, c, stride, k > 0);
                else
                    t->multiply(a, b, depth, c, stride, k > 0);
            }
        }
    }
}

static void run_block(const run *r, int64_t row, char *memory) {
    const ds_vector_gemm *g = r->g;
    const int64_t rows = ds_least(g->block, g->product.m - row);
    const int64_t panel = STRIPS_PER_PANEL * r->strips->columns;
    char *sums = memory + g->block * g->slab * WORD;
    pack_block(r, row, rows, memory);
    for (int64_t j = 0; j < r->n; j += panel) {
        const int64_t columns = ds_least(panel, r->n - j);
        multiply_panel(r, memory, rows, j, columns, sums, panel);
        const patch s = {.sums = sums,
                         .stride = panel,
                         .row = row,
                         .column = j,
                         .rows = rows,
                         .columns = columns};
        finish(r, &s);
    }
}

static void run_slab(const run *r) {
    const ds_vector_gemm *g = r->g;
#pragma omp parallel num_threads(g->n_threads)
    {
        char *memory = r->memory + g->private_at + (size_t)omp_get_thread_num() * g->private_bytes;
        pack_columns(r); /* ends with a barrier */
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < g->product.m; i += g->block)
            run_block(r, i, memory);
    }
}

void ds_vector_gemm_run(const ds_vector_gemm *g, const void *a, const void *b, void *c,
                        const float *bias, const void *residual, void *workspace) {
    const ds_product *p = &g->product;
    char *memory = workspace;
    const int64_t step = g->slab * g->per_word;
    for (int64_t j = 0; j < p->n; j += g->columns)
        for (int64_t k = 0; k < p->k; k += step) {
            const int64_t depth = ds_least(step, p->k - k);
            const bool in_c = sums_in_c(p);
            const run r = {.g = g,
                           .strips = &ds_cpu_simd()->strips,
                           .simd = ds_cpu_simd(),
                           .a = a,
                           .b = b,
                           .c = c,
                           .bias = bias,
                           .residual = residual,
                           .k = k,
                           .depth = depth,
                           .words = (depth + g->per_word - 1) / g->per_word,
                           .column = j,
                           .n = ds_least(g->columns, p->n - j),
                           .is_first = k == 0 && !p->accumulates,
                           .is_last = k + step >= p->k,
                           .packed_columns = memory + g->columns_at,
                           .memory = memory,
                           .sums = in_c ? (char *)c + j * WORD : memory + g->sums_at,
                           .sums_stride = in_c ? p->c.row_stride : g->columns};
            run_slab(&r);
        }
}
