/* Grouped products: one matrix per block of rows, blocks as long as the routing made them. */
#include <string.h>

#include "backend/cpu/products.h"

/* The workspace: a description of each expert's product, then the threads' memory. */
static size_t descriptions_size(const ds_kernel_args *args) {
    const int64_t experts = args->inputs[2].dims[0] - 1;
    return ((size_t)experts * sizeof(ds_matrix_product) + 63) / 64 * 64;
}

static ds_status prepare(const ds_kernel_args *args, void **state, size_t *workspace_bytes) {
    *state = NULL;
    *workspace_bytes =
        descriptions_size(args) +
        ds_products_workspace(ds_products_tiles(args->inputs[0].dtype), args->n_threads);
    return DS_OK;
}

typedef struct rows {
    int64_t first, n;
} rows;

/* The rows of one expert. Offsets are held to the rows there are: they are data. */
static rows rows_of(const ds_kernel_args *args, int64_t expert) {
    const int64_t n_rows = args->inputs[0].dims[0];
    const int32_t *offsets = args->inputs[2].data;
    int64_t from = offsets[expert], to = offsets[expert + 1];
    from = from < 0 ? 0 : from > n_rows ? n_rows : from;
    to = to < from ? from : to > n_rows ? n_rows : to;
    return (rows){from, to - from};
}

static ds_status multiply(const ds_kernel_args *args, int64_t experts) {
    ds_products_run(ds_products_tiles(args->inputs[0].dtype), args->workspace, experts,
                    args->n_threads, (char *)args->workspace + descriptions_size(args));
    return DS_OK;
}

/* x [rows, k] and w [experts, k, n], or [experts, n, k]. */
static ds_status run_grouped(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *x = &args->inputs[0], *w = &args->inputs[1], *y = &args->outputs[0];
    const bool turned = ((const ds_matmul_attrs *)args->node->attrs)->transpose_b;
    const int64_t k = x->dims[1], n = y->dims[1], experts = w->dims[0];
    ds_matrix_product *products = args->workspace;
    int64_t end = 0;
    for (int64_t e = 0; e < experts; e++) {
        const rows r = rows_of(args, e);
        const ds_matrix b = ds_matrix_of(w, e * k * n, turned ? k : n);
        products[e] = (ds_matrix_product){.m = r.n,
                                          .n = n,
                                          .k = k,
                                          .a = ds_matrix_of(x, r.first * k, k),
                                          .b = turned ? ds_matrix_turned(b) : b,
                                          .c = ds_at(y, r.first * n),
                                          .c_dtype = y->dtype,
                                          .c_stride = n};
        end = r.first + r.n;
    }
    /* rows of no expert come last */
    memset(ds_at(y, end * n), 0, (size_t)((y->dims[0] - end) * n) * ds_dtype_size(y->dtype));
    return multiply(args, experts);
}

/* left [rows, p], right [rows, q] → [experts, p, q] */
static ds_status run_weight(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *left = &args->inputs[0], *right = &args->inputs[1], *y = &args->outputs[0];
    const int64_t experts = y->dims[0], p = y->dims[1], q = y->dims[2];
    ds_matrix_product *products = args->workspace;
    for (int64_t e = 0; e < experts; e++) {
        const rows r = rows_of(args, e);
        products[e] = (ds_matrix_product){.m = p,
                                          .n = q,
                                          .k = r.n,
                                          .a = ds_matrix_turned(ds_matrix_of(left, r.first * p, p)),
                                          .b = ds_matrix_of(right, r.first * q, q),
                                          .c = ds_at(y, e * p * q),
                                          .c_dtype = y->dtype,
                                          .c_stride = q};
    }
    return multiply(args, experts);
}

const ds_kernel ds_cpu_grouped_matmul = {
    .op = &ds_op_grouped_matmul, .prepare = prepare, .run = run_grouped};
const ds_kernel ds_cpu_grouped_matmul_weight = {
    .op = &ds_op_grouped_matmul_weight, .prepare = prepare, .run = run_weight};
