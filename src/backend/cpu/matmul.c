/* The matmul op. Operands are read where they lie when the product at hand can; otherwise they are
 * first copied to row-major. Dtypes that nothing here multiplies go through f32. */
#include <stdlib.h>

#include "backend/cpu/gemm.h"
#include "backend/cpu/kernels.h"
#include "base/alloc.h"

/* One operand, how it comes and where its copy goes. */
typedef struct side {
    ds_tensor view; /* with logical axes: transposition is in the strides */
    int64_t rows, columns;
    bool copied;        /* to row-major, in the dtype of the product */
    ds_tensor copy;     /* of view's dims; data is set at each run */
    size_t copy_at;     /* in the workspace */
    ds_operand operand; /* what the product is told: of the copy if there is one */
} side;

typedef struct state {
    bool by_reference, is_empty;
    ds_product product;
    side a, b;
    ds_gemm *gemm;
    bool converts_c; /* the product is in f32; the residual and the conversion follow */
    size_t c_at, gemm_at, workspace;
} state;

/* ---- geometry -------------------------------------------------------------------------------- */

/* The first n axes as one. False if their strides do not allow it. */
static bool join_axes(const ds_tensor *t, int n, int64_t *stride) {
    int64_t size = 1;
    *stride = 0;
    for (int i = n - 1; i >= 0; i--) {
        if (t->dims[i] == 1)
            continue;
        if (size == 1)
            *stride = t->strides[i];
        else if (t->strides[i] != *stride * size)
            return false;
        size *= t->dims[i];
    }
    return true;
}

/* Matrices without gaps, by rows or by columns. */
static bool is_dense(int64_t rows, int64_t columns, int64_t *row_stride, int64_t *column_stride) {
    if (columns == 1)
        *column_stride = 1;
    if (rows == 1 && *column_stride == 1)
        *row_stride = columns;
    return (*column_stride == 1 && *row_stride == columns) ||
           (*row_stride == 1 && *column_stride == rows);
}

/* rows_joined: the leading axes are rows too. Decides whether the operand can be used as it is. */
static bool lies_well(side *s, bool rows_joined, bool gaps) {
    const ds_tensor *v = &s->view;
    const int r = v->rank;
    ds_operand *o = &s->operand;
    *o = (ds_operand){.dtype = v->dtype, .column_stride = v->strides[r - 1]};
    if (rows_joined) {
        if (!join_axes(v, r - 1, &o->row_stride))
            return false;
    } else {
        o->row_stride = v->strides[r - 2];
        if (!join_axes(v, r - 2, &o->batch_stride) ||
            (ds_count(v->dims, r - 2) > 1 && o->batch_stride != s->rows * s->columns))
            return false;
    }
    if (is_dense(s->rows, s->columns, &o->row_stride, &o->column_stride))
        return true;
    return gaps && (o->row_stride == 1 || o->column_stride == 1) && o->row_stride > 0 &&
           o->column_stride > 0;
}

static ds_tensor logical(const ds_tensor *t, bool transposed) {
    ds_tensor v = *t;
    if (transposed) {
        const int r = t->rank;
        v.dims[r - 2] = t->dims[r - 1], v.dims[r - 1] = t->dims[r - 2];
        v.strides[r - 2] = t->strides[r - 1], v.strides[r - 1] = t->strides[r - 2];
    }
    return v;
}

static size_t reserve(state *s, size_t bytes) {
    const size_t at = s->workspace;
    s->workspace += (bytes + 63) / 64 * 64;
    return at;
}

static void add_copy(state *s, side *x, ds_dtype dtype) {
    x->copied = true;
    x->copy = ds_tensor_of(NULL, dtype, x->view.rank, x->view.dims);
    x->copy_at = reserve(s, (size_t)ds_count(x->copy.dims, x->copy.rank) * ds_dtype_size(dtype));
    x->operand = (ds_operand){.dtype = dtype,
                              .batch_stride = x->rows * x->columns,
                              .row_stride = x->columns,
                              .column_stride = 1};
}

/* ---- preparation ----------------------------------------------------------------------------- */

static void measure(const ds_kernel_args *args, state *s) {
    const ds_matmul_attrs *t = args->node->attrs;
    ds_product *p = &s->product;
    s->a.view = logical(&args->inputs[0], t->transpose_a);
    s->b.view = logical(&args->inputs[1], t->transpose_b);
    const ds_tensor *a = &s->a.view, *b = &s->b.view;
    const bool shared = b->rank == 2;
    p->k = a->dims[a->rank - 1];
    p->n = b->dims[b->rank - 1];
    p->batch = shared ? 1 : ds_count(a->dims, a->rank - 2);
    p->m = shared ? ds_count(a->dims, a->rank - 1) : a->dims[a->rank - 2];
    s->a.rows = p->m, s->a.columns = p->k;
    s->b.rows = p->k, s->b.columns = p->n;
    s->is_empty = p->m == 0 || p->n == 0 || p->batch == 0;
    p->has_bias = t->has_bias;
    p->has_activation = t->has_activation;
    p->activation = t->activation;
}

/* The whole plan with operands of these types. */
static ds_status plan(const ds_kernel_args *args, state *s, ds_dtype a_dtype, ds_dtype b_dtype) {
    const ds_matmul_attrs *t = args->node->attrs;
    const ds_dtype result = args->outputs[0].dtype;
    ds_product *p = &s->product;
    measure(args, s);
    if (s->is_empty)
        return DS_OK;
    if (p->k == 0)
        return ds_fail(DS_UNSUPPORTED, "an empty sum");
    const bool shared = args->inputs[1].rank == 2;
    s->converts_c = a_dtype == DS_F32 && result != DS_F32;
    p->has_residual = t->has_residual && !s->converts_c;
    p->c = (ds_operand){.dtype = s->converts_c ? DS_F32 : result,
                        .batch_stride = p->m * p->n,
                        .row_stride = p->n,
                        .column_stride = 1};
    p->a.dtype = a_dtype;
    p->b.dtype = b_dtype;
    const bool gaps = ds_gemm_reads_gaps(p);
    if (!lies_well(&s->a, shared, gaps) || s->a.view.dtype != a_dtype)
        add_copy(s, &s->a, a_dtype);
    if (!lies_well(&s->b, false, gaps) || s->b.view.dtype != b_dtype)
        add_copy(s, &s->b, b_dtype);
    p->a = s->a.operand;
    p->b = s->b.operand;
    DS_TRY(ds_gemm_new(p, args->n_threads, &s->gemm));
    if (s->converts_c)
        s->c_at = reserve(s, (size_t)(p->batch * p->m * p->n) * sizeof(float));
    s->gemm_at = reserve(s, ds_gemm_workspace(s->gemm));
    return DS_OK;
}

static void clear(state *s) {
    ds_gemm_free(s->gemm);
    *s = (state){0};
}

static void release(void *memory) {
    clear(memory);
    free(memory);
}

static ds_status prepare(const ds_kernel_args *args, void **out, size_t *workspace_bytes) {
    state *s = ds_calloc(1, sizeof *s);
    if (!s)
        return DS_OUT_OF_MEMORY;
    *out = s;
    const ds_dtype a = args->inputs[0].dtype, b = args->inputs[1].dtype;
    ds_status status = plan(args, s, a, b);
    if (status == DS_UNSUPPORTED && ds_dtype_is_float(a) && (a != DS_F32 || b != DS_F32)) {
        clear(s);
        status = plan(args, s, DS_F32, DS_F32);
    }
    if (status == DS_UNSUPPORTED) {
        clear(s);
        s->by_reference = true;
        status = DS_OK;
    }
    if (status != DS_OK) {
        release(s);
        *out = NULL;
        return status;
    }
    *workspace_bytes = s->workspace;
    return DS_OK;
}

/* ---- run ------------------------------------------------------------------------------------- */

static const void *operand_data(const ds_kernel_args *args, side *s, int input) {
    ds_tensor from = s->view;
    from.data = args->inputs[input].data;
    if (!s->copied)
        return from.data;
    s->copy.data = (char *)args->workspace + s->copy_at;
    ds_cpu_copy(&from, &s->copy, args->n_threads);
    return s->copy.data;
}

/* c in f32 → the result's dtype, the residual added. */
static void convert_result(const ds_kernel_args *args, const float *c, bool has_residual) {
    const ds_tensor *out = &args->outputs[0], *residual = &args->inputs[args->n_inputs - 1];
    const int64_t n = ds_count(out->dims, out->rank), blocks = (n + DS_BLOCK - 1) / DS_BLOCK;
#pragma omp parallel for num_threads(ds_cpu_threads(n, args->n_threads)) schedule(static)
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t start = i * DS_BLOCK, left = n - start;
        const int64_t length = left < DS_BLOCK ? left : DS_BLOCK;
        float buffer[DS_BLOCK], sum[DS_BLOCK];
        const float *y = c + start;
        if (has_residual) {
            const float *r = ds_cpu_fetch(residual, start, 1, length, buffer);
            ds_cpu_simd()->binary(DS_ADD, y, r, sum, length);
            y = sum;
        }
        ds_cpu_simd()->store(out->dtype, y, ds_at(out, start), length);
    }
}

static ds_status run(const ds_kernel_args *args, ds_stream *stream) {
    const ds_matmul_attrs *t = args->node->attrs;
    state *s = args->state;
    char *workspace = args->workspace;
    if (s->is_empty)
        return DS_OK;
    if (s->by_reference)
        return ds_kernel_reference.run(args, stream);
    const void *a = operand_data(args, &s->a, 0), *b = operand_data(args, &s->b, 1);
    void *c = s->converts_c ? workspace + s->c_at : args->outputs[0].data;
    const float *bias = t->has_bias ? args->inputs[2].data : NULL;
    const void *residual = t->has_residual ? args->inputs[args->n_inputs - 1].data : NULL;
    char *own = workspace ? workspace + s->gemm_at : NULL; /* few rows need none */
    DS_TRY(ds_gemm_run(s->gemm, a, b, c, bias, residual, own));
    if (s->converts_c)
        convert_result(args, c, t->has_residual);
    return DS_OK;
}

static bool accepts(const ds_node *node) {
    const ds_matmul_attrs *t = node->attrs;
    return !t->has_bias || node->inputs[2]->type.dtype == DS_F32;
}

const ds_kernel ds_cpu_matmul = {.op = &ds_op_matmul,
                                 .strided_inputs = 3,
                                 .accepts = accepts,
                                 .prepare = prepare,
                                 .release = release,
                                 .run = run};
