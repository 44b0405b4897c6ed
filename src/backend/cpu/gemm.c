/* Chooses who multiplies, and prepares operands for oneDNN: its products of packed matrices run up
 * to twice as fast and packing costs one pass, a left operand stored by columns is best turned. */
#include "backend/cpu/gemm.h"

#include <stdlib.h>

#include <omp.h>

#include "backend/cpu/dnnl.h"
#include "base/alloc.h"
#include "base/error.h"

struct ds_gemm {
    ds_product product; /* as oneDNN sees it */
    int n_threads;
    enum { BY_DNNL, BY_FEW_ROWS, BY_AMX, BY_VECTORS } way;
    ds_few_rows few;
    ds_amx_gemm amx;
    ds_vector_gemm vectors;
    ds_dnnl_gemm *dnnl;
    bool turns_a;
    ds_operand a_as_given;
    ds_packing packing;
    ds_packer *packer; /* NULL: b is not packed */
    size_t turned_at, packed_at, dnnl_at, workspace;
};

bool ds_gemm_reads_gaps(const ds_product *p) {
    ds_product plain = *p;
    plain.a = (ds_operand){.dtype = p->a.dtype, .row_stride = p->k, .column_stride = 1};
    plain.b = (ds_operand){.dtype = p->b.dtype, .row_stride = p->n, .column_stride = 1};
    return ds_few_rows_accepts(&plain) || ds_amx_gemm_accepts(&plain) ||
           ds_vector_gemm_accepts(&plain);
}

void ds_product_finish(const ds_product *p, float *sums, int64_t row, int64_t column, int64_t n,
                       const float *bias, const void *residual, void *c) {
    const ds_simd *simd = ds_cpu_simd();
    const int64_t at = row * p->c.row_stride + column, size = (int64_t)ds_dtype_size(p->c.dtype);
    if (p->has_bias)
        simd->axpy(1, bias + column, sums, n);
    if (p->has_activation)
        simd->unary(p->activation, 0, sums, sums, n);
    for (int64_t i = 0; p->has_residual && i < n; i += DS_BLOCK) {
        float buffer[DS_BLOCK];
        const int64_t length = ds_least(DS_BLOCK, n - i);
        simd->load(p->c.dtype, (const char *)residual + (at + i) * size, buffer, length);
        simd->axpy(1, buffer, sums + i, length);
    }
    simd->store(p->c.dtype, sums, (char *)c + at * size, n);
}

static size_t reserve(ds_gemm *g, size_t bytes) {
    const size_t at = g->workspace;
    g->workspace += (bytes + 63) / 64 * 64;
    return at;
}

/* Turning a pays when each of its elements is used often. */
static bool worth_turning(const ds_product *p) {
    return p->batch == 1 && p->a.column_stride != 1 && p->n >= 64 && p->m >= 16 && p->k >= 16;
}

static bool worth_packing(const ds_product *p) {
    enum { ENOUGH_ROWS = 48 };
    return p->batch == 1 && p->m >= ENOUGH_ROWS && p->k >= 16 && p->n >= 16;
}

static void try_packing(ds_gemm *g) {
    const ds_product *p = &g->product;
    if (!worth_packing(p) || ds_packing_of(p->a.dtype, p->m, p->k, p->n, &g->packing) != DS_OK ||
        g->packing.is_plain || ds_packer_new(&g->packing, &p->b, p->k, p->n, &g->packer) != DS_OK)
        return;
    g->packed_at = reserve(g, g->packing.bytes);
}

static ds_status plan_dnnl(ds_gemm *g) {
    ds_product *p = &g->product;
    if (p->a.dtype != p->b.dtype)
        return ds_fail(DS_UNSUPPORTED, "operands of two types");
    omp_set_num_threads(g->n_threads); /* oneDNN plans for as many */
    g->turns_a = worth_turning(p);
    if (g->turns_a) {
        g->a_as_given = p->a;
        p->a = (ds_operand){.dtype = p->a.dtype, .row_stride = p->k, .column_stride = 1};
        g->turned_at = reserve(g, (size_t)(p->m * p->k) * ds_dtype_size(p->a.dtype));
    }
    try_packing(g);
    DS_TRY(ds_dnnl_gemm_new(p, g->packer ? &g->packing : NULL, &g->dnnl));
    g->dnnl_at = reserve(g, ds_dnnl_gemm_workspace(g->dnnl));
    return DS_OK;
}

ds_status ds_gemm_new(const ds_product *p, int n_threads, ds_gemm **out) {
    ds_gemm *g = ds_calloc(1, sizeof *g);
    if (!g)
        return DS_OUT_OF_MEMORY;
    g->product = *p;
    g->n_threads = n_threads;
    ds_status status = DS_OK;
    if (ds_few_rows_accepts(p)) {
        g->way = BY_FEW_ROWS;
        g->few = ds_few_rows_plan(p, n_threads);
        g->workspace = g->few.workspace;
    } else if (ds_amx_gemm_accepts(p)) {
        g->way = BY_AMX;
        g->amx = ds_amx_gemm_plan(p, n_threads);
        g->workspace = g->amx.workspace;
    } else if (ds_vector_gemm_accepts(p)) {
        g->way = BY_VECTORS;
        g->vectors = ds_vector_gemm_plan(p, n_threads);
        g->workspace = g->vectors.workspace;
    } else {
        status = plan_dnnl(g);
    }
    if (status != DS_OK) {
        ds_gemm_free(g);
        return status;
    }
    *out = g;
    return DS_OK;
}

size_t ds_gemm_workspace(const ds_gemm *g) {
    return g->workspace;
}

static const void *turn(const ds_gemm *g, const void *a, void *to) {
    const ds_operand *o = &g->a_as_given;
    const int64_t dims[] = {g->product.m, g->product.k};
    ds_tensor from = ds_tensor_of((void *)a, o->dtype, 2, dims);
    from.strides[0] = o->row_stride;
    from.strides[1] = o->column_stride;
    const ds_tensor turned = ds_tensor_of(to, o->dtype, 2, dims);
    ds_cpu_copy(&from, &turned, g->n_threads);
    return to;
}

ds_status ds_gemm_run(ds_gemm *g, const void *a, const void *b, void *c, const float *bias,
                      const void *residual, void *workspace) {
    char *memory = workspace;
    if (g->way == BY_FEW_ROWS) {
        ds_few_rows_run(&g->few, a, b, c, bias, residual, workspace);
        return DS_OK;
    }
    if (g->way == BY_AMX) {
        ds_amx_gemm_run(&g->amx, a, b, c, bias, residual, workspace);
        return DS_OK;
    }
    if (g->way == BY_VECTORS) {
        ds_vector_gemm_run(&g->vectors, a, b, c, bias, residual, workspace);
        return DS_OK;
    }
    omp_set_num_threads(g->n_threads);
    if (g->turns_a)
        a = turn(g, a, memory + g->turned_at);
    if (g->packer) {
        DS_TRY(ds_packer_run(g->packer, b, memory + g->packed_at));
        b = memory + g->packed_at;
    }
    return ds_dnnl_gemm_run(g->dnnl, a, b, c, bias, residual, memory + g->dnnl_at);
}

void ds_gemm_free(ds_gemm *g) {
    if (!g)
        return;
    ds_dnnl_gemm_free(g->dnnl);
    ds_packer_free(g->packer);
    free(g);
}
