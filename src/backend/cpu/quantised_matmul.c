/* Products with quantised weights. Few rows: every weight is read once, a chunk of rows of W at a
 * time by each thread, and meets all rows of x while it is in a cache (simd/stream.c). Many rows:
 * products of int8 by int8 are ordinary ones (gemm.c) whose sums are scaled afterwards; for other
 * inputs panels of W become floats first, which costs little beside the product. */
#include <stdlib.h>
#include <string.h>

#include <omp.h>

#include "backend/cpu/gemm.h"
#include "backend/cpu/rows.h"
#include "base/alloc.h"

enum {
    MOST_STREAMED = 16,    /* rows of x: more are worth widening weights for */
    CHUNK = 16,            /* rows of W that a thread takes at a time */
    PANEL_BYTES = 1 << 22, /* of W as floats */
    PANEL_SUMS = 1 << 22,  /* bytes of sums at once, if the panel is not narrow then */
    LEAST_PANEL = 256,     /* rows of W */
};

typedef struct state {
    int64_t m, n, k;
    bool is_streamed;
    int64_t x_stride;       /* of prepared rows of x, elements */
    size_t x_at, scales_at; /* prepared x; its rows' scales */
    size_t private_at, private_bytes;
    int64_t panel;        /* rows of W at once */
    ds_dtype dtype;       /* of a panel's product */
    ds_gemm *gemm, *last; /* of a panel; of the last, narrower one */
    size_t panel_at, sums_at, gemm_at;
    size_t workspace;
} state;

static size_t reserve(state *s, int64_t bytes) {
    const size_t at = s->workspace;
    s->workspace += (size_t)ds_round_up(bytes, 64);
    return at;
}

static const ds_quantised_matmul_attrs *attrs_of(const ds_kernel_args *args) {
    return args->node->attrs;
}

static bool is_i4(const ds_kernel_args *args) {
    return args->inputs[1].dtype == DS_I32;
}

/* ---- preparation ----------------------------------------------------------------------------- */

static void plan_stream(const ds_kernel_args *args, state *s) {
    const ds_streams *t = &ds_cpu_simd()->streams;
    const int64_t n_groups = args->inputs[2].dims[1];
    int64_t size = sizeof(float);
    if (attrs_of(args)->int8_input)
        s->x_stride = ds_round_up(s->k, 64), size = 1;
    else
        s->x_stride = is_i4(args) ? t->arranged_size(s->k) : ds_round_up(s->k, 16);
    s->x_at = reserve(s, s->m * s->x_stride * size);
    s->private_bytes =
        (size_t)ds_round_up((s->m * CHUNK + n_groups + s->k) * (int64_t)sizeof(float), 64);
    s->private_at = reserve(s, (int64_t)s->private_bytes * args->n_threads);
}

static ds_status plan_gemm(const ds_kernel_args *args, state *s, int64_t n, ds_gemm **out) {
    const ds_product p = {
        .batch = 1,
        .m = s->m,
        .n = n,
        .k = s->k,
        .a = {.dtype = s->dtype, .row_stride = s->k, .column_stride = 1},
        .b = {.dtype = s->dtype, .row_stride = 1, .column_stride = s->k},
        .c = {.dtype = s->dtype == DS_I8 ? DS_I32 : DS_F32, .row_stride = n, .column_stride = 1}};
    return ds_gemm_new(&p, args->n_threads, out);
}

static ds_status plan_panels(const ds_kernel_args *args, state *s, ds_dtype dtype) {
    const int64_t width = (int64_t)ds_dtype_size(dtype);
    s->dtype = dtype;
    int64_t panel = PANEL_SUMS / (4 * s->m);
    if (dtype != DS_I8)
        panel = ds_least(panel, PANEL_BYTES / (width * s->k));
    panel = panel > LEAST_PANEL ? panel / LEAST_PANEL * LEAST_PANEL : LEAST_PANEL;
    s->panel = ds_least(panel, s->n);
    DS_TRY(plan_gemm(args, s, s->panel, &s->gemm));
    size_t workspace = ds_gemm_workspace(s->gemm);
    if (s->n % s->panel) {
        DS_TRY(plan_gemm(args, s, s->n % s->panel, &s->last));
        const size_t other = ds_gemm_workspace(s->last);
        workspace = other > workspace ? other : workspace;
    }
    s->x_stride = s->k;
    s->x_at = reserve(s, s->m * s->k * width);
    s->panel_at = reserve(s, dtype == DS_I8 ? 0 : s->panel * s->k * width);
    s->sums_at = reserve(s, s->m * s->panel * 4);
    s->gemm_at = reserve(s, (int64_t)workspace);
    const int64_t n_groups = args->inputs[2].dims[1];
    s->private_bytes =
        (size_t)ds_round_up((s->k + n_groups + s->panel) * (int64_t)sizeof(float), 64);
    s->private_at = reserve(s, (int64_t)s->private_bytes * args->n_threads);
    return DS_OK;
}

static void drop_panels(state *s) {
    ds_gemm_free(s->gemm);
    ds_gemm_free(s->last);
    s->gemm = s->last = NULL;
    s->workspace = 0;
}

static void release(void *memory) {
    drop_panels(memory);
    free(memory);
}

static ds_status plan(const ds_kernel_args *args, state *s) {
    const ds_dtype dtype = args->inputs[0].dtype;
    ds_status status = DS_OK;
    if (s->is_streamed)
        plan_stream(args, s);
    else if (attrs_of(args)->int8_input)
        status = plan_panels(args, s, DS_I8);
    else
        status = plan_panels(args, s, dtype);
    if (status == DS_UNSUPPORTED && !attrs_of(args)->int8_input && dtype != DS_F32) {
        drop_panels(s);
        status = plan_panels(args, s, DS_F32);
    }
    if (status == DS_UNSUPPORTED) { /* nothing multiplies these: every row can be streamed */
        drop_panels(s);
        s->is_streamed = true;
        plan_stream(args, s);
        status = DS_OK;
    }
    s->scales_at = reserve(s, s->m * (int64_t)sizeof(float));
    return status;
}

static ds_status prepare(const ds_kernel_args *args, void **out, size_t *workspace_bytes) {
    state *s = ds_calloc(1, sizeof *s);
    if (!s)
        return DS_OUT_OF_MEMORY;
    s->k = ds_columns(&args->inputs[0]);
    s->m = ds_rows(&args->inputs[0]);
    s->n = args->inputs[1].dims[0];
    s->is_streamed = s->m <= MOST_STREAMED || s->n == 0 || s->k == 0;
    const ds_status status = plan(args, s);
    if (status != DS_OK) {
        release(s);
        return status;
    }
    *out = s;
    *workspace_bytes = s->workspace;
    return DS_OK;
}

/* Of the calling thread: k floats at least. */
static float *own_memory(const ds_kernel_args *args) {
    const state *s = args->state;
    return (float *)(void *)((char *)args->workspace + s->private_at +
                             (size_t)omp_get_thread_num() * s->private_bytes);
}

/* ---- x --------------------------------------------------------------------------------------- */

/* Row r of x as its products want it; `buffer` holds k floats. */
static void prepare_row(const ds_kernel_args *args, int64_t r, float *buffer) {
    const state *s = args->state;
    char *memory = (char *)args->workspace + s->x_at;
    float *scales = (float *)(void *)((char *)args->workspace + s->scales_at);
    const float *x = ds_cpu_fetch(&args->inputs[0], r * s->k, 1, s->k, buffer);
    const ds_simd *simd = ds_cpu_simd();
    if (attrs_of(args)->int8_input) {
        int8_t *to = (int8_t *)memory + r * s->x_stride;
        scales[r] = ds_cpu_quantise_row(x, s->k, to);
        memset(to + s->k, 0, (size_t)(s->x_stride - s->k));
    } else if (s->is_streamed && is_i4(args)) {
        simd->streams.arrange_i4(x, s->k, (float *)(void *)memory + r * s->x_stride);
    } else {
        const ds_dtype dtype = s->is_streamed ? DS_F32 : s->dtype;
        simd->store(dtype, x, memory + (size_t)(r * s->x_stride) * ds_dtype_size(dtype), s->k);
    }
}

static void prepare_x(const ds_kernel_args *args) {
    const state *s = args->state;
#pragma omp parallel for num_threads(ds_cpu_threads(s->m * s->k, args->n_threads)) schedule(static)
    for (int64_t r = 0; r < s->m; r++)
        prepare_row(args, r, own_memory(args));
}

/* ---- y --------------------------------------------------------------------------------------- */

/* n finished sums of a row, from `column` on: bias, activation, residual, and to their place. */
static void finish(const ds_kernel_args *args, float *sums, int64_t row, int64_t column,
                   int64_t n) {
    const ds_matmul_attrs *e = &attrs_of(args)->epilogue;
    const state *s = args->state;
    const ds_simd *simd = ds_cpu_simd();
    if (e->has_bias)
        simd->axpy(1, (const float *)args->inputs[3].data + column, sums, n);
    if (e->has_activation)
        simd->unary(e->activation, 0, sums, sums, n);
    const ds_tensor *residual = &args->inputs[args->n_inputs - 1], *out = &args->outputs[0];
    for (int64_t i = 0; i < n; i += DS_BLOCK) {
        const int64_t at = row * s->n + column + i, length = ds_least(DS_BLOCK, n - i);
        float buffer[DS_BLOCK];
        if (e->has_residual)
            simd->axpy(1, ds_cpu_fetch(residual, at, 1, length, buffer), sums + i, length);
        simd->store(out->dtype, sums + i, ds_at(out, at), length);
    }
}

/* ---- few rows -------------------------------------------------------------------------------- */

/* Products of row j of W with all rows of x; sums[r][CHUNK] at column i. */
static void stream_row(const ds_kernel_args *args, int64_t j, int64_t i, float *sums,
                       float *scale) {
    const state *s = args->state;
    const ds_streams *t = &ds_cpu_simd()->streams;
    const ds_tensor *codes = &args->inputs[1], *scales = &args->inputs[2];
    const int64_t n_groups = scales->dims[1];
    const float *row_scales =
        (const float *)(const void *)((const char *)args->workspace + s->scales_at);
    const char *x = (const char *)args->workspace + s->x_at;
    const void *w = ds_at(codes, j * codes->dims[1]);
    ds_cpu_simd()->load(scales->dtype, ds_at(scales, j * n_groups), scale, n_groups);
    for (int64_t r = 0; r < s->m; r += DS_STREAM_ROWS) {
        const int rows = (int)ds_least(DS_STREAM_ROWS, s->m - r);
        float part[DS_STREAM_ROWS];
        int32_t whole[DS_STREAM_ROWS];
        const float *floats = (const float *)(const void *)x + r * s->x_stride;
        if (attrs_of(args)->int8_input) {
            t->i8(w, (const int8_t *)x + r * s->x_stride, s->x_stride, rows, s->k, whole);
            for (int q = 0; q < rows; q++)
                part[q] = (float)whole[q] * (row_scales[r + q] * scale[0]);
        } else if (is_i4(args)) {
            const ds_stream_i4 row = {.words = w,
                                      .scale = scale,
                                      .words_per_group = (attrs_of(args)->group + 7) / 8,
                                      .n_groups = n_groups,
                                      .k = s->k};
            t->i4(&row, floats, s->x_stride, rows, part);
        } else {
            t->i8_floats(w, floats, s->x_stride, rows, s->k, part);
            for (int q = 0; q < rows; q++)
                part[q] *= scale[0];
        }
        for (int q = 0; q < rows; q++)
            sums[(r + q) * CHUNK + i] = part[q];
    }
}

static void stream(const ds_kernel_args *args) {
    const state *s = args->state;
    const int n_threads = ds_cpu_threads(s->n * s->k, args->n_threads);
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t j = 0; j < s->n; j += CHUNK) {
        float *sums = own_memory(args), *scale = sums + s->m * CHUNK;
        const int64_t n = ds_least(CHUNK, s->n - j);
        for (int64_t i = 0; i < n; i++)
            stream_row(args, j + i, i, sums, scale);
        for (int64_t r = 0; r < s->m; r++)
            finish(args, sums + r * CHUNK, r, j, n);
    }
}

/* ---- many rows ------------------------------------------------------------------------------- */

static int64_t n_groups_of(const ds_kernel_args *args) {
    return args->inputs[2].dims[1];
}

static void scale_groups(const ds_kernel_args *args, int64_t j, float *row, float *scale) {
    const state *s = args->state;
    const ds_tensor *scales = &args->inputs[2];
    const int64_t n_groups = n_groups_of(args), group = attrs_of(args)->group;
    ds_cpu_simd()->load(scales->dtype, ds_at(scales, j * n_groups), scale, n_groups);
    for (int64_t g = 0; g < n_groups; g++)
        for (int64_t i = g * group; i < ds_least(s->k, (g + 1) * group); i++)
            row[i] *= scale[g];
}

/* Row j of W as floats to its place in the panel. A row with one scale comes without it: whole
 * numbers are exact in every float type, and the sums are scaled. */
static void widen_row(const ds_kernel_args *args, int64_t j, void *to, float *buffer) {
    const state *s = args->state;
    const ds_simd *simd = ds_cpu_simd();
    const ds_tensor *codes = &args->inputs[1];
    const void *w = ds_at(codes, j * codes->dims[1]);
    if (is_i4(args))
        simd->streams.widen_i4(w, buffer, s->k);
    else
        simd->dequantise(DS_I8, w, 1, buffer, s->k);
    if (n_groups_of(args) > 1)
        scale_groups(args, j, buffer, buffer + s->k);
    simd->store(s->dtype, buffer, to, s->k);
}

static const void *panel_of(const ds_kernel_args *args, int64_t column, int64_t n) {
    const state *s = args->state;
    char *panel = (char *)args->workspace + s->panel_at;
    if (s->dtype == DS_I8)
        return (const int8_t *)args->inputs[1].data + column * s->k;
#pragma omp parallel for num_threads(args->n_threads) schedule(static)
    for (int64_t j = 0; j < n; j++) {
        widen_row(args, column + j, panel + (size_t)(j * s->k) * ds_dtype_size(s->dtype),
                  own_memory(args));
    }
    return panel;
}

/* Sums of products of whole numbers, or of floats by whole numbers, in place. */
static void scale_sums(const ds_kernel_args *args, int64_t column, int64_t n, float *scale,
                       float *sums, int64_t row) {
    const state *s = args->state;
    const ds_tensor *scales = &args->inputs[2];
    const char *memory = args->workspace;
    const float *row_scales = (const float *)(const void *)(memory + s->scales_at);
    ds_cpu_simd()->load(scales->dtype, ds_at(scales, column), scale, n);
    if (s->dtype != DS_I8) {
        ds_cpu_simd()->binary(DS_MUL, sums, scale, sums, n);
        return;
    }
    for (int64_t j = 0; j < n; j++) {
        int32_t sum;
        memcpy(&sum, sums + j, sizeof sum);
        sums[j] = (float)sum * (row_scales[row] * scale[j]);
    }
}

static ds_status multiply(const ds_kernel_args *args) {
    const state *s = args->state;
    char *memory = args->workspace;
    for (int64_t j = 0; j < s->n; j += s->panel) {
        const int64_t n = ds_least(s->panel, s->n - j);
        const void *w = panel_of(args, j, n);
        DS_TRY(ds_gemm_run(n == s->panel ? s->gemm : s->last, memory + s->x_at, w,
                           memory + s->sums_at, NULL, NULL, memory + s->gemm_at));
#pragma omp parallel for num_threads(ds_cpu_threads(s->m *n, args->n_threads)) schedule(static)
        for (int64_t r = 0; r < s->m; r++) {
            float *sums = (float *)(void *)(memory + s->sums_at) + r * n;
            if (n_groups_of(args) == 1)
                scale_sums(args, j, n, own_memory(args), sums, r);
            finish(args, sums, r, j, n);
        }
    }
    return DS_OK;
}

static ds_status run(const ds_kernel_args *args, ds_stream *queue) {
    const state *s = args->state;
    (void)queue;
    if (s->m == 0 || s->n == 0)
        return DS_OK;
    prepare_x(args);
    if (!s->is_streamed)
        return multiply(args);
    stream(args);
    return DS_OK;
}

/* Words of a group must be whole, bytes one group; a bias comes in f32. */
static bool accepts(const ds_node *node) {
    const ds_quantised_matmul_attrs *t = node->attrs;
    const bool has_one_group = node->inputs[2]->type.dims[1] == 1;
    return (node->inputs[1]->type.dtype == DS_I32 ? has_one_group || t->group % 8 == 0
                                                  : has_one_group) &&
           (!t->epilogue.has_bias || node->inputs[3]->type.dtype == DS_F32);
}

const ds_kernel ds_cpu_quantised_matmul = {.op = &ds_op_quantised_matmul,
                                           .accepts = accepts,
                                           .prepare = prepare,
                                           .release = release,
                                           .run = run};
