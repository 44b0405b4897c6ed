/* Matrix products of the CPU backend: one description, and whichever implementation is fastest for
 * it on the processor at hand: a way of its own for few rows, AMX tiles for bf16 where there are
 * some, vector registers where oneDNN has nothing good for the processor or operands differ in
 * type, oneDNN for the rest. */
#ifndef DS_CPU_GEMM_H
#define DS_CPU_GEMM_H

#include "backend/cpu/kernels.h"

/* One operand of a product: `batch` matrices of rows × columns. */
typedef struct ds_operand {
    ds_dtype dtype;
    int64_t batch_stride, row_stride, column_stride; /* elements */
} ds_operand;

typedef struct ds_product {
    int64_t batch, m, n, k; /* batch 1: plain matrices */
    ds_operand a, b, c;     /* a: m × k, b: k × n, c: m × n; batch strides may be 0 for b */
    bool has_bias;          /* f32 [n] */
    bool has_activation;
    ds_unary activation;
    bool has_residual; /* laid out and typed as c; added last */
    bool accumulates;  /* c += a·b, with none of the above */
} ds_product;

/* n finished sums of a row of c, from `column` on, changed in place: bias, activation, residual,
 * and to their place in c, converted. */
void ds_product_finish(const ds_product *p, float *sums, int64_t row, int64_t column, int64_t n,
                       const float *bias, const void *residual, void *c);

/* Whether a and b may have gaps between their rows (or columns, if those are contiguous). Else
 * they must be dense, by rows or by columns. */
bool ds_gemm_reads_gaps(const ds_product *p);

typedef struct ds_gemm ds_gemm;

/* Ready to run products of this description. DS_UNSUPPORTED when nothing fast does it. */
ds_status ds_gemm_new(const ds_product *p, int n_threads, ds_gemm **out);
size_t ds_gemm_workspace(const ds_gemm *g); /* bytes */
ds_status ds_gemm_run(ds_gemm *g, const void *a, const void *b, void *c, const float *bias,
                      const void *residual, void *workspace);
void ds_gemm_free(ds_gemm *g);

/* ---- few_rows.c ------------------------------------------------------------------------------ */

typedef struct ds_few_rows {
    ds_product product;
    int n_threads;
    int64_t x_stride; /* of a's rows in the workspace, if they are not f32 */
    size_t workspace;
} ds_few_rows;

/* Whether so few rows are best multiplied by reading b once. */
bool ds_few_rows_accepts(const ds_product *p);
ds_few_rows ds_few_rows_plan(const ds_product *p, int n_threads);
void ds_few_rows_run(const ds_few_rows *g, const void *a, const void *b, void *c, const float *bias,
                     const void *residual, void *workspace);

/* ---- amx_gemm.c ------------------------------------------------------------------------------ */

typedef struct ds_amx_gemm {
    ds_product product;
    int n_threads;
    bool outer_is_a;       /* the operand that threads share out; the other one is `inner` */
    int64_t outer, inner;  /* rows of a and columns of b, or the other way round */
    int64_t block;         /* of outer, packed at a time */
    int64_t slab, n_slabs; /* of k */
    bool streams;          /* c is too large to be found in a cache later */
    size_t inner_at, sums_at, private_at, private_bytes, workspace;
} ds_amx_gemm;

/* Whether this processor has AMX and the product is one for it. */
bool ds_amx_gemm_accepts(const ds_product *p);
ds_amx_gemm ds_amx_gemm_plan(const ds_product *p, int n_threads);
void ds_amx_gemm_run(const ds_amx_gemm *g, const void *a, const void *b, void *c, const float *bias,
                     const void *residual, void *workspace);

/* ---- vector_gemm.c --------------------------------------------------------------------------- */

typedef struct ds_vector_gemm {
    ds_product product;
    int n_threads;
    int per_word;    /* elements along k in a word of four bytes: 2 for int8, else 1 */
    int64_t slab;    /* words along k at once */
    int64_t block;   /* rows of a that a thread packs at a time */
    int64_t columns; /* of b packed at a time */
    size_t columns_at, sums_at, private_at, private_bytes, workspace;
} ds_vector_gemm;

/* Whether this is the best way here to make the product. */
bool ds_vector_gemm_accepts(const ds_product *p);
ds_vector_gemm ds_vector_gemm_plan(const ds_product *p, int n_threads);
void ds_vector_gemm_run(const ds_vector_gemm *g, const void *a, const void *b, void *c,
                        const float *bias, const void *residual, void *workspace);

#endif
