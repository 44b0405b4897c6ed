/* Convolution and its gradients as matrix products with the image's columns: row (c, u, v) of the
 * columns holds what kernel place (u, v) sees of channel c at every place of the result
 * (Chellapilla et al. 2006). An image is taken at a time, so the columns of one exist.
 *
 *     y = W · columns(x)      dcolumns = Wᵀ · dy, added up into dx      dW = Σ dy · columns(x)ᵀ
 *
 * with W [out, channels · kh · kw], y and dy [out, places]. Kernels that tile the image do not come
 * here: ds_graph_conv2d makes them a plain product. */
#include <string.h>

#include "backend/cpu/products.h"

typedef struct geometry {
    int64_t batch, channels, height, width, out;
    int64_t kernel[2], y_height, y_width;
    int64_t depth, places; /* rows and columns of the columns */
    ds_conv_opts opts;
} geometry;

static geometry geometry_of(const ds_tensor *x, const ds_tensor *weight, const ds_tensor *y,
                            const ds_conv_opts *opts) {
    return (geometry){
        .batch = x->dims[0],
        .channels = x->dims[1],
        .height = x->dims[2],
        .width = x->dims[3],
        .out = weight->dims[0],
        .kernel = {weight->dims[2], weight->dims[3]},
        .y_height = y->dims[2],
        .y_width = y->dims[3],
        .depth = weight->dims[1] * weight->dims[2] * weight->dims[3],
        .places = y->dims[2] * y->dims[3],
        .opts = *opts,
    };
}

/* The places [first, end) of one row of the result whose element under kernel column v lies in the
 * image. */
static void visible_places(const geometry *s, int64_t v, int64_t *first, int64_t *end) {
    const int64_t stride = s->opts.stride[1], left = s->opts.padding[1] - v;
    *first = left <= 0 ? 0 : (left + stride - 1) / stride;
    const int64_t last = s->width - 1 + left;
    *end = last < 0 ? 0 : last / stride + 1;
    *end = *end > s->y_width ? s->y_width : *end;
    *first = *first > *end ? *end : *first;
}

/* Row `at` of the columns belongs to this channel and kernel place. */
typedef struct place {
    int64_t channel, u, v;
} place;

static place place_of(const geometry *s, int64_t at) {
    return (place){at / (s->kernel[0] * s->kernel[1]), at / s->kernel[1] % s->kernel[0],
                   at % s->kernel[1]};
}

/* ---- columns --------------------------------------------------------------------------------- */

static void copy_seen(const char *from, int64_t stride, char *to, int64_t n, size_t size) {
    if (stride == 1)
        memcpy(to, from, (size_t)n * size);
    else if (size == sizeof(uint16_t))
        for (int64_t j = 0; j < n; j++)
            ((uint16_t *)(void *)to)[j] = ((const uint16_t *)(const void *)from)[j * stride];
    else
        for (int64_t j = 0; j < n; j++)
            ((uint32_t *)(void *)to)[j] = ((const uint32_t *)(const void *)from)[j * stride];
}

/* One row of the columns of an image [channels, height, width]. */
static void fill_row(const geometry *s, const char *image, int64_t at, char *to, size_t size) {
    const place p = place_of(s, at);
    int64_t first, end;
    visible_places(s, p.v, &first, &end);
    for (int64_t i = 0; i < s->y_height; i++, to += (size_t)s->y_width * size) {
        const int64_t row = i * s->opts.stride[0] + p.u - s->opts.padding[0];
        if (row < 0 || row >= s->height || first == end) {
            memset(to, 0, (size_t)s->y_width * size);
            continue;
        }
        const int64_t column = first * s->opts.stride[1] + p.v - s->opts.padding[1];
        const int64_t from = (p.channel * s->height + row) * s->width + column;
        memset(to, 0, (size_t)first * size);
        copy_seen(image + (size_t)from * size, s->opts.stride[1], to + (size_t)first * size,
                  end - first, size);
        memset(to + (size_t)end * size, 0, (size_t)(s->y_width - end) * size);
    }
}

static void fill_columns(const geometry *s, const ds_tensor *x, int64_t b, char *columns,
                         int n_threads) {
    const char *image = ds_at(x, b * s->channels * s->height * s->width);
    const size_t size = ds_dtype_size(x->dtype);
#pragma omp parallel for num_threads(ds_cpu_threads(s->depth * s->places, n_threads))              \
    schedule(static)
    for (int64_t i = 0; i < s->depth; i++)
        fill_row(s, image, i, columns + (size_t)(i * s->places) * size, size);
}

/* plane [height, width] += what the rows of its channel hold, row by row. */
static void add_columns(const geometry *s, const float *columns, int64_t channel, float *plane) {
    const int64_t n = s->kernel[0] * s->kernel[1], stride = s->opts.stride[1];
    for (int64_t at = channel * n; at < (channel + 1) * n; at++) {
        const place p = place_of(s, at);
        int64_t first, end;
        visible_places(s, p.v, &first, &end);
        for (int64_t i = 0; i < s->y_height; i++) {
            const int64_t row = i * s->opts.stride[0] + p.u - s->opts.padding[0];
            if (row < 0 || row >= s->height || first == end)
                continue;
            const float *from = columns + at * s->places + i * s->y_width + first;
            float *to = plane + row * s->width + first * stride + p.v - s->opts.padding[1];
            if (stride == 1)
                ds_cpu_simd()->axpy(1, from, to, end - first);
            else
                for (int64_t j = 0; j < end - first; j++)
                    to[j * stride] += from[j];
        }
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Columns of one image, then sums in f32 (of dW, or a plane of dx for each thread), then the
 * threads' memory of the products. */
typedef struct memory {
    char *columns;
    float *sums;
    void *products;
    size_t size;
} memory;

static memory memory_at(const ds_kernel_args *args, const geometry *s) {
    const ds_op *op = args->node->op;
    const size_t column =
        op == &ds_op_conv2d_input_grad ? sizeof(float) : ds_dtype_size(args->inputs[0].dtype);
    const size_t columns = ((size_t)(s->depth * s->places) * column + 63) / 64 * 64;
    size_t sums = 0;
    if (op == &ds_op_conv2d_input_grad)
        sums = (size_t)args->n_threads * (size_t)(s->height * s->width) * sizeof(float);
    if (op == &ds_op_conv2d_weight_grad)
        sums = (size_t)(s->out * s->depth) * sizeof(float);
    sums = (sums + 63) / 64 * 64;
    char *start = args->workspace;
    const size_t products =
        ds_products_workspace(ds_products_tiles(args->inputs[0].dtype), args->n_threads);
    if (!start) /* while preparing */
        return (memory){.size = columns + sums + products};
    return (memory){.columns = start,
                    .sums = (float *)(void *)(start + columns),
                    .products = start + columns + sums};
}

static void multiply(const ds_kernel_args *args, const memory *m, ds_matrix_product product) {
    ds_products_run(ds_products_tiles(args->inputs[0].dtype), &product, 1, args->n_threads,
                    m->products);
}

/* ---- forward --------------------------------------------------------------------------------- */

static geometry forward_geometry(const ds_kernel_args *args) {
    return geometry_of(&args->inputs[0], &args->inputs[1], &args->outputs[0], args->node->attrs);
}

static ds_status run_forward(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *x = &args->inputs[0], *y = &args->outputs[0];
    const geometry s = forward_geometry(args);
    const memory m = memory_at(args, &s);
    for (int64_t b = 0; b < s.batch; b++) {
        fill_columns(&s, x, b, m.columns, args->n_threads);
        multiply(args, &m,
                 (ds_matrix_product){.m = s.out,
                                     .n = s.places,
                                     .k = s.depth,
                                     .a = ds_matrix_of(&args->inputs[1], 0, s.depth),
                                     .b = {m.columns, x->dtype, s.places, 1},
                                     .c = ds_at(y, b * s.out * s.places),
                                     .c_dtype = y->dtype,
                                     .c_stride = s.places,
                                     .bias = args->n_inputs > 2 ? args->inputs[2].data : NULL});
    }
    return DS_OK;
}

/* ---- gradients ------------------------------------------------------------------------------- */

static geometry input_geometry(const ds_kernel_args *args) {
    const ds_conv_grad_attrs *a = args->node->attrs;
    return geometry_of(&args->outputs[0], &args->inputs[1], &args->inputs[0], &a->conv);
}

static geometry weight_geometry(const ds_kernel_args *args) {
    const ds_conv_grad_attrs *a = args->node->attrs;
    return geometry_of(&args->inputs[1], &args->outputs[0], &args->inputs[0], &a->conv);
}

/* Channels go to the threads: each sums its plane in f32. */
static void add_up_image(const ds_kernel_args *args, const geometry *s, const memory *m,
                         int64_t b) {
    const ds_tensor *dx = &args->outputs[0];
    const int64_t size = s->height * s->width;
    const int parts = ds_cpu_threads(s->depth * s->places, args->n_threads);
#pragma omp parallel for num_threads(parts) schedule(static)
    for (int part = 0; part < parts; part++)
        for (int64_t c = s->channels * part / parts; c < s->channels * (part + 1) / parts; c++) {
            float *plane = m->sums + part * size;
            ds_cpu_simd()->fill(0, plane, size);
            add_columns(s, (const float *)(void *)m->columns, c, plane);
            ds_cpu_simd()->store(dx->dtype, plane, ds_at(dx, (b * s->channels + c) * size), size);
        }
}

static ds_status run_input_grad(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const geometry s = input_geometry(args);
    const memory m = memory_at(args, &s);
    for (int64_t b = 0; b < s.batch; b++) {
        const ds_matrix weight = ds_matrix_of(&args->inputs[1], 0, s.depth);
        multiply(
            args, &m,
            (ds_matrix_product){.m = s.depth,
                                .n = s.places,
                                .k = s.out,
                                .a = ds_matrix_turned(weight),
                                .b = ds_matrix_of(&args->inputs[0], b * s.out * s.places, s.places),
                                .c = m.columns,
                                .c_dtype = DS_F32,
                                .c_stride = s.places});
        add_up_image(args, &s, &m, b);
    }
    return DS_OK;
}

static ds_status run_weight_grad(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *x = &args->inputs[1], *dw = &args->outputs[0];
    const geometry s = weight_geometry(args);
    const memory m = memory_at(args, &s);
    memset(m.sums, 0, (size_t)(s.out * s.depth) * sizeof *m.sums);
    for (int64_t b = 0; b < s.batch; b++) {
        fill_columns(&s, x, b, m.columns, args->n_threads);
        multiply(
            args, &m,
            (ds_matrix_product){.m = s.out,
                                .n = s.depth,
                                .k = s.places,
                                .a = ds_matrix_of(&args->inputs[0], b * s.out * s.places, s.places),
                                .b = {m.columns, x->dtype, 1, s.places},
                                .c = m.sums,
                                .c_dtype = DS_F32,
                                .c_stride = s.depth,
                                .accumulates = true});
    }
    ds_cpu_simd()->store(dw->dtype, m.sums, dw->data, s.out * s.depth);
    return DS_OK;
}

/* ---- kernels --------------------------------------------------------------------------------- */

static ds_status prepare(const ds_kernel_args *args, void **state, size_t *workspace_bytes) {
    const ds_op *op = args->node->op;
    const geometry s = op == &ds_op_conv2d              ? forward_geometry(args)
                       : op == &ds_op_conv2d_input_grad ? input_geometry(args)
                                                        : weight_geometry(args);
    *state = NULL;
    *workspace_bytes = memory_at(args, &s).size;
    return DS_OK;
}

static bool has_f32_bias(const ds_node *node) {
    return node->n_inputs < 3 || node->inputs[2]->type.dtype == DS_F32;
}

const ds_kernel ds_cpu_conv2d = {
    .op = &ds_op_conv2d, .accepts = has_f32_bias, .prepare = prepare, .run = run_forward};
const ds_kernel ds_cpu_conv2d_input_grad = {
    .op = &ds_op_conv2d_input_grad, .prepare = prepare, .run = run_input_grad};
const ds_kernel ds_cpu_conv2d_weight_grad = {
    .op = &ds_op_conv2d_weight_grad, .prepare = prepare, .run = run_weight_grad};
