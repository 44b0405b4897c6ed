/* Products of a few rows with a matrix: what generating text consists of. The matrix is read once
 * and used at once, so that nothing of it is packed, converted or copied; each thread reads its own
 * part from the first byte to the last, as fast as memory gives it (simd/dots.c). */
#include "backend/cpu/gemm.h"

#include <string.h>

#include <omp.h>

enum {
    FEW = 8,      /* up to so many rows nothing is better; */
    FEW_ODD = 15, /* up to so many where packing does not pay and nobody else has the types */
    BY_ROWS =
        32, /* of the matrix's rows at once, and kept in the second cache for more rows of a */
    BY_COLUMNS = 512,   /* of its columns, whose sums are in the first cache */
    LEAST_COLUMNS = 16, /* of a thread */
};

static bool is_float(ds_dtype dtype) {
    return dtype == DS_F32 || dtype == DS_BF16 || dtype == DS_F16;
}

static bool lies_by_rows(const ds_operand *b) {
    return b->row_stride == 1;
}

/* oneDNN has no products of two types, nor of 16 bits without units for them. */
static bool has_no_other(const ds_product *p) {
    return p->a.dtype != DS_F32 || p->b.dtype != DS_F32;
}

bool ds_few_rows_accepts(const ds_product *p) {
    return p->batch == 1 && p->m <= (has_no_other(p) ? FEW_ODD : FEW) && is_float(p->a.dtype) &&
           is_float(p->b.dtype) && is_float(p->c.dtype) && p->a.column_stride == 1 &&
           (p->b.row_stride == 1 || p->b.column_stride == 1) && p->c.column_stride == 1 &&
           !p->accumulates;
}

ds_few_rows ds_few_rows_plan(const ds_product *p, int n_threads) {
    ds_few_rows g = {.product = *p, .n_threads = n_threads};
    const int64_t most = p->n / LEAST_COLUMNS > 1 ? p->n / LEAST_COLUMNS : 1;
    const int worth = ds_cpu_threads(p->n * p->k, n_threads);
    g.n_threads = worth < most ? worth : (int)most;
    g.x_stride = (p->k + 15) / 16 * 16;
    if (p->a.dtype != DS_F32)
        g.workspace = (size_t)(p->m * g.x_stride) * sizeof(float);
    return g;
}

/* ---- one run --------------------------------------------------------------------------------- */

typedef struct run {
    const ds_product *p;
    const ds_simd *simd;
    const float *x; /* a in f32 */
    int64_t x_stride;
    const char *b;
    char *c;
    const float *bias;
    const char *residual;
} run;

/* Sums of columns [from, from + n) of c. */
static void multiply(const run *r, int64_t from, int64_t n, float *sums, int64_t stride) {
    const ds_operand *b = &r->p->b;
    const int m = (int)r->p->m;
    const char *w = r->b + from * b->column_stride * (int64_t)ds_dtype_size(b->dtype);
    if (!lies_by_rows(b)) {
        memset(sums, 0, (size_t)(m * stride) * sizeof *sums);
        r->simd->axpys(b->dtype, w, b->row_stride, r->x, r->x_stride, m, sums, stride, n, r->p->k);
        return;
    }
    for (int i = 0; i < m; i += DS_DOTS_ROWS)
        r->simd->dots(b->dtype, w, b->column_stride, r->x + i * r->x_stride, r->x_stride,
                      m - i < DS_DOTS_ROWS ? m - i : DS_DOTS_ROWS, sums + i * stride, stride, n,
                      r->p->k);
}

/* Columns [from, to) of c. */
static void run_columns(const run *r, int64_t from, int64_t to) {
    float sums[FEW_ODD * BY_COLUMNS];
    const int64_t most = lies_by_rows(&r->p->b) ? BY_ROWS : BY_COLUMNS;
    for (int64_t j = from; j < to; j += most) {
        const int64_t n = to - j < most ? to - j : most;
        multiply(r, j, n, sums, most);
        for (int64_t i = 0; i < r->p->m; i++)
            ds_product_finish(r->p, sums + i * most, i, j, n, r->bias, r->residual, r->c);
    }
}

static const float *widen(const ds_few_rows *g, const void *a, float *to) {
    const ds_product *p = &g->product;
    if (p->a.dtype == DS_F32)
        return a;
    const int64_t row_bytes = p->a.row_stride * (int64_t)ds_dtype_size(p->a.dtype);
    for (int64_t i = 0; i < p->m; i++)
        ds_cpu_simd()->load(p->a.dtype, (const char *)a + i * row_bytes, to + i * g->x_stride,
                            p->k);
    return to;
}

void ds_few_rows_run(const ds_few_rows *g, const void *a, const void *b, void *c, const float *bias,
                     const void *residual, void *workspace) {
    const ds_product *p = &g->product;
    const run r = {.p = p,
                   .simd = ds_cpu_simd(),
                   .x = widen(g, a, workspace),
                   .x_stride = p->a.dtype == DS_F32 ? p->a.row_stride : g->x_stride,
                   .b = b,
                   .c = c,
                   .bias = bias,
                   .residual = residual};
#pragma omp parallel num_threads(g->n_threads)
    {
        const int64_t unit = LEAST_COLUMNS, units = (p->n + unit - 1) / unit;
        const int64_t i = omp_get_thread_num(), parts = omp_get_num_threads();
        const int64_t from = units * i / parts * unit, end = units * (i + 1) / parts * unit;
        run_columns(&r, from, end < p->n ? end : p->n);
    }
}
