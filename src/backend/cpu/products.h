/* Matrix products whose sizes are known only when they run, many at once: those of the experts of a
 * mixture, whose rows are counted anew each step; and those of convolutions. Nothing is planned per
 * size, as gemm.h does, and no operand is copied as a whole: threads share out blocks of all
 * results, and a block is made of tile products on staged pieces of its operands. */
#ifndef DS_CPU_PRODUCTS_H
#define DS_CPU_PRODUCTS_H

#include "backend/cpu/kernels.h"

/* A matrix of floats that is contiguous along its rows or along its columns. */
typedef struct ds_matrix {
    const void *data;
    ds_dtype dtype;
    int64_t row_stride, column_stride; /* elements; one of them is 1 */
} ds_matrix;

/* c = a·b, or c += a·b. Any sizes; no elements of c: nothing happens; k = 0: zeros. */
typedef struct ds_matrix_product {
    int64_t m, n, k;
    ds_matrix a, b; /* m × k, k × n */
    void *c;        /* m rows of n, row_stride apart; overlaps neither a nor b nor another c */
    ds_dtype c_dtype;
    int64_t c_stride;
    const float *bias; /* [m], one for each row of c; NULL: none */
    bool accumulates;  /* c is f32 then */
} ds_matrix_product;

/* Row-major elements [rows, columns] from `offset` of a tensor on; and the same turned. */
ds_matrix ds_matrix_of(const ds_tensor *t, int64_t offset, int64_t columns);
ds_matrix ds_matrix_turned(ds_matrix x);

/* The fastest tiles of this processor for operands of this dtype. */
const ds_tiles *ds_products_tiles(ds_dtype dtype);
size_t ds_products_workspace(const ds_tiles *tiles, int n_threads); /* bytes */
/* Each element's sum is in the same order whatever the number of threads. */
void ds_products_run(const ds_tiles *tiles, const ds_matrix_product *products, int64_t n_products,
                     int n_threads, void *workspace);

#endif
