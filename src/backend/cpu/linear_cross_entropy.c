/* Projection to the vocabulary, cross-entropy and both gradients, a block of rows at a time: the
 * logits of one block are made, turned into their own gradient where they lie, used for dx and
 * dweight, and forgotten. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/gemm.h"
#include "backend/cpu/rows.h"
#include "base/alloc.h"

/* Rows of a block: so many that reading weight and dweight once a block costs little, and so few
 * that its logits take no more than LOGITS_BYTES, LEAST_ROWS aside. */
enum { LEAST_ROWS = 256, MOST_ROWS = 1024, LOGITS_BYTES = 96 << 20 };

/* The products of one block of so many rows. */
typedef struct block {
    int64_t rows;
    ds_gemm *logits, *dx, *dweight;
} block;

enum { FIRST, NEXT, LAST, N_BLOCKS }; /* the first writes dweight, the others add to it */

typedef struct state {
    bool by_reference;
    ds_dtype dtype; /* of the products: f32 where the processor has none of the inputs' */
    int64_t rows, width, classes;
    bool rows_are_classes; /* weight is [classes, width] */
    bool copies_x, copies_weight;
    block blocks[N_BLOCKS];
    size_t x_at, weight_at, logits_at, dx_at, loss_at, gemm_at, workspace;
} state;

static size_t reserve(state *s, size_t bytes) {
    const size_t at = s->workspace;
    s->workspace += (bytes + 63) / 64 * 64;
    return at;
}

/* ---- preparation ----------------------------------------------------------------------------- */

static ds_operand rows_of(ds_dtype dtype, int64_t stride) {
    return (ds_operand){.dtype = dtype, .row_stride = stride, .column_stride = 1};
}

static ds_operand turned(ds_operand o) {
    return (ds_operand){
        .dtype = o.dtype, .row_stride = o.column_stride, .column_stride = o.row_stride};
}

/* dweight = leftᵀ right: dlogits and x, or x and dlogits, by the weight's orientation. */
static ds_status plan_dweight(const state *s, block *b, bool accumulates, int n_threads) {
    const int64_t left = s->rows_are_classes ? s->classes : s->width;
    const int64_t right = s->rows_are_classes ? s->width : s->classes;
    const ds_product p = {.batch = 1,
                          .m = left,
                          .n = right,
                          .k = b->rows,
                          .a = turned(rows_of(s->dtype, left)),
                          .b = rows_of(s->dtype, right),
                          .c = rows_of(DS_F32, right),
                          .accumulates = accumulates};
    return ds_gemm_new(&p, n_threads, &b->dweight);
}

static ds_status plan_block(const state *s, block *b, int64_t rows, bool accumulates,
                            int n_threads) {
    b->rows = rows;
    if (rows == 0)
        return DS_OK;
    const ds_operand classes_by_width =
        s->rows_are_classes ? rows_of(s->dtype, s->width) : turned(rows_of(s->dtype, s->classes));
    const ds_product logits = {.batch = 1,
                               .m = rows,
                               .n = s->classes,
                               .k = s->width,
                               .a = rows_of(s->dtype, s->width),
                               .b = turned(classes_by_width),
                               .c = rows_of(s->dtype, s->classes)};
    const ds_product dx = {.batch = 1,
                           .m = rows,
                           .n = s->width,
                           .k = s->classes,
                           .a = rows_of(s->dtype, s->classes),
                           .b = classes_by_width,
                           .c = rows_of(s->dtype, s->width)};
    DS_TRY(ds_gemm_new(&logits, n_threads, &b->logits));
    DS_TRY(ds_gemm_new(&dx, n_threads, &b->dx));
    return plan_dweight(s, b, accumulates, n_threads);
}

static size_t largest_gemm(const state *s) {
    size_t most = 0;
    for (int i = 0; i < N_BLOCKS; i++) {
        const ds_gemm *gemms[] = {s->blocks[i].logits, s->blocks[i].dx, s->blocks[i].dweight};
        for (int k = 0; k < 3; k++)
            if (gemms[k] && ds_gemm_workspace(gemms[k]) > most)
                most = ds_gemm_workspace(gemms[k]);
    }
    return most;
}

static void plan_memory(state *s) {
    const int64_t rows = s->blocks[FIRST].rows, size = (int64_t)ds_dtype_size(s->dtype);
    if (s->copies_x) {
        s->x_at = reserve(s, (size_t)(s->rows * s->width * size));
        s->dx_at = reserve(s, (size_t)(rows * s->width * size));
    }
    if (s->copies_weight)
        s->weight_at = reserve(s, (size_t)(s->classes * s->width * size));
    s->logits_at = reserve(s, (size_t)(rows * s->classes * size));
    s->loss_at = reserve(s, (size_t)s->rows * sizeof(double));
    s->gemm_at = reserve(s, largest_gemm(s));
}

/* Blocks of one size, but for the last. */
static int64_t block_rows(const state *s) {
    const int64_t fitting = LOGITS_BYTES / (s->classes * (int64_t)ds_dtype_size(s->dtype));
    const int64_t most = fitting < LEAST_ROWS  ? LEAST_ROWS
                         : fitting > MOST_ROWS ? MOST_ROWS
                                               : fitting;
    const int64_t n = (s->rows + most - 1) / most;
    return (s->rows + n - 1) / n;
}

static ds_status plan(const ds_kernel_args *args, state *s, ds_dtype dtype) {
    const ds_tensor *x = &args->inputs[0], *weight = &args->inputs[1];
    const int threads = args->n_threads;
    s->dtype = dtype;
    s->rows_are_classes = ((const ds_linear_cross_entropy_attrs *)args->node->attrs)->transpose_b;
    s->rows = x->dims[0];
    s->width = x->dims[1];
    s->classes = weight->dims[s->rows_are_classes ? 0 : 1];
    if (s->rows == 0 || s->width == 0 || s->classes == 0)
        return ds_fail(DS_UNSUPPORTED, "nothing to multiply");
    s->copies_x = x->dtype != dtype;
    s->copies_weight = weight->dtype != dtype;
    const int64_t rows = block_rows(s);
    DS_TRY(plan_block(s, &s->blocks[FIRST], rows, false, threads));
    DS_TRY(plan_block(s, &s->blocks[NEXT], s->rows >= 2 * rows ? rows : 0, true, threads));
    DS_TRY(plan_block(s, &s->blocks[LAST], s->rows % rows, true, threads));
    plan_memory(s);
    return DS_OK;
}

static void clear(state *s) {
    for (int i = 0; i < N_BLOCKS; i++) {
        ds_gemm_free(s->blocks[i].logits);
        ds_gemm_free(s->blocks[i].dx);
        ds_gemm_free(s->blocks[i].dweight);
    }
    *s = (state){0};
}

static void release(void *memory) {
    if (memory)
        clear(memory);
    free(memory);
}

static ds_status prepare(const ds_kernel_args *args, void **out, size_t *workspace_bytes) {
    state *s = ds_calloc(1, sizeof *s);
    if (!s)
        return DS_OUT_OF_MEMORY;
    const ds_dtype dtype = args->inputs[0].dtype;
    ds_status status = plan(args, s, dtype == DS_F16 ? DS_F32 : dtype);
    if (status == DS_UNSUPPORTED && dtype == DS_BF16) {
        clear(s);
        status = plan(args, s, DS_F32);
    }
    if (status == DS_UNSUPPORTED) {
        clear(s);
        s->by_reference = true;
        status = DS_OK;
    }
    if (status != DS_OK) {
        release(s);
        return status;
    }
    *out = s;
    *workspace_bytes = s->workspace;
    return DS_OK;
}

/* ---- run ------------------------------------------------------------------------------------- */

/* One row of logits into its gradient; returns its loss. */
static double row_loss(const ds_tensor *logits, int64_t start, int64_t n, int32_t label,
                       float dloss) {
    if (label == DS_IGNORED_LABEL) {
        memset(ds_at(logits, start), 0, (size_t)n * ds_dtype_size(logits->dtype));
        return 0;
    }
    const double lse = ds_cpu_log_sum_exp(logits, start, n);
    float x = NAN;
    if (label >= 0 && label < n)
        ds_cpu_simd()->load(logits->dtype, ds_at(logits, start + label), &x, 1);
    ds_cpu_cross_entropy_grad_row(logits, start, n, label, (float)lse, dloss, logits);
    return lse - (double)x;
}

static void block_losses(const ds_kernel_args *args, int64_t first, int64_t rows) {
    const state *s = args->state;
    char *workspace = args->workspace;
    const ds_tensor logits =
        ds_tensor_of(workspace + s->logits_at, s->dtype, 2, (int64_t[]){rows, s->classes});
    const int32_t *labels = args->inputs[2].data;
    const float dloss = *(const float *)args->inputs[3].data;
    double *loss = (double *)(void *)(workspace + s->loss_at);
#pragma omp parallel for num_threads(args->n_threads) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        loss[first + r] = row_loss(&logits, r * s->classes, s->classes, labels[first + r], dloss);
}

static ds_status run_block(const ds_kernel_args *args, const block *b, const char *x,
                           const char *weight, int64_t first) {
    const state *s = args->state;
    char *workspace = args->workspace, *logits = workspace + s->logits_at;
    const ds_tensor *dx = &args->outputs[1];
    const int64_t row_bytes = s->width * (int64_t)ds_dtype_size(s->dtype);
    x += first * row_bytes;
    DS_TRY(ds_gemm_run(b->logits, x, weight, logits, NULL, NULL, workspace + s->gemm_at));
    block_losses(args, first, b->rows);
    ds_tensor part =
        ds_tensor_of(ds_at(dx, first * s->width), dx->dtype, 2, (int64_t[]){b->rows, s->width});
    ds_tensor made = part;
    if (s->copies_x)
        made.dtype = s->dtype, made.data = workspace + s->dx_at;
    DS_TRY(ds_gemm_run(b->dx, logits, weight, made.data, NULL, NULL, workspace + s->gemm_at));
    if (s->copies_x)
        ds_cpu_copy(&made, &part, args->n_threads);
    const char *left = s->rows_are_classes ? logits : x, *right = s->rows_are_classes ? x : logits;
    return ds_gemm_run(b->dweight, left, right, args->outputs[2].data, NULL, NULL,
                       workspace + s->gemm_at);
}

/* The input in the dtype of the products. */
static const char *converted(const ds_kernel_args *args, int input, bool copies, size_t at) {
    const state *s = args->state;
    ds_tensor to = args->inputs[input];
    if (!copies)
        return to.data;
    to.data = (char *)args->workspace + at;
    to.dtype = s->dtype;
    ds_cpu_copy(&args->inputs[input], &to, args->n_threads);
    return to.data;
}

static ds_status run(const ds_kernel_args *args, ds_stream *stream) {
    const state *s = args->state;
    char *workspace = args->workspace;
    if (s->by_reference)
        return ds_kernel_reference.run(args, stream);
    const char *x = converted(args, 0, s->copies_x, s->x_at);
    const char *weight = converted(args, 1, s->copies_weight, s->weight_at);
    const int64_t step = s->blocks[FIRST].rows;
    for (int64_t first = 0; first < s->rows; first += step) {
        const int kind = first == 0 ? FIRST : s->rows - first >= step ? NEXT : LAST;
        DS_TRY(run_block(args, &s->blocks[kind], x, weight, first));
    }
    const double *loss = (const double *)(const void *)(workspace + s->loss_at);
    double total = 0;
    for (int64_t r = 0; r < s->rows; r++)
        total += loss[r];
    *(float *)args->outputs[0].data = (float)total;
    return DS_OK;
}

const ds_kernel ds_cpu_linear_cross_entropy = {
    .op = &ds_op_linear_cross_entropy, .prepare = prepare, .release = release, .run = run};
