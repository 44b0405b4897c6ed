/* Two-dimensional convolution (in the field's sense: cross-correlation), with zero padding.
 *
 *     y[b, o, i, j] = bias[o] + Σ_{c, u, v} x[b, c, i·stride + u − padding, …] · weight[o, c, u, v]
 *
 * The three ops read the same geometry off different inputs: forward, gradient of the image,
 * gradient of the weight. The bias gradient is a plain sum. */
#include "graph/ops/ops.h"

typedef struct geometry {
    int64_t batch, channels, height, width; /* of the image x */
    int64_t out, kernel[2];                 /* of the weight */
    int64_t y_height, y_width;              /* of the result */
    ds_conv_opts opts;
} geometry;

/* Rows (or columns) of the result along one axis; 0 when the kernel does not fit. */
static int64_t result_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding) {
    const int64_t room = size + 2 * padding - kernel;
    return room < 0 ? 0 : room / stride + 1;
}

static geometry geometry_of(const int64_t *x, const int64_t *weight, ds_conv_opts opts) {
    return (geometry){
        .batch = x[0],
        .channels = x[1],
        .height = x[2],
        .width = x[3],
        .out = weight[0],
        .kernel = {weight[2], weight[3]},
        .y_height = result_size(x[2], weight[2], opts.stride[0], opts.padding[0]),
        .y_width = result_size(x[3], weight[3], opts.stride[1], opts.padding[1]),
        .opts = opts,
    };
}

/* Result place (i, j) under kernel place (u, v) looks at this image element of plane (b, c), or at
 * none: −1, the padding. */
static int64_t image_offset(const geometry *s, int64_t plane, int64_t i, int64_t j, int64_t u,
                            int64_t v) {
    const int64_t row = i * s->opts.stride[0] + u - s->opts.padding[0];
    const int64_t column = j * s->opts.stride[1] + v - s->opts.padding[1];
    if (row < 0 || row >= s->height || column < 0 || column >= s->width)
        return -1;
    return (plane * s->height + row) * s->width + column;
}

static int64_t weight_offset(const geometry *s, int64_t o, int64_t c, int64_t u, int64_t v) {
    return ((o * s->channels + c) * s->kernel[0] + u) * s->kernel[1] + v;
}

static double product_flops(const geometry *s) {
    return 2.0 * (double)s->batch * (double)s->out * (double)s->y_height * (double)s->y_width *
           (double)s->channels * (double)s->kernel[0] * (double)s->kernel[1];
}

static ds_cost cost_of(const ds_node *node, const geometry *s) {
    double bytes = (double)ds_type_size(&node->type);
    for (int i = 0; i < node->n_inputs; i++)
        bytes += (double)ds_type_size(&node->inputs[i]->type);
    return (ds_cost){.flops = product_flops(s), .bytes = bytes};
}

static void describe(const ds_conv_opts *opts, ds_text *out) {
    ds_text_printf(out, "stride %lldx%lld padding %lldx%lld", (long long)opts->stride[0],
                   (long long)opts->stride[1], (long long)opts->padding[0],
                   (long long)opts->padding[1]);
}

/* ---- forward --------------------------------------------------------------------------------- */

static ds_status conv_shape(const ds_node *node, ds_type *results) {
    const ds_conv_opts *opts = node->attrs;
    const ds_type *x = &node->inputs[0]->type, *weight = &node->inputs[1]->type;
    if (x->rank != 4 || weight->rank != 4)
        return ds_fail(DS_INVALID, "wants x [batch, channels, height, width] and weight "
                                   "[out, channels, kh, kw]");
    if (!ds_dtype_is_float(x->dtype) || x->dtype != weight->dtype)
        return ds_fail(DS_INVALID, "x and weight must be floats of one dtype");
    if (x->dims[1] != weight->dims[1])
        return ds_fail(DS_INVALID, "the image has %lld channels, the weight wants %lld",
                       (long long)x->dims[1], (long long)weight->dims[1]);
    for (int i = 0; i < 2; i++) {
        if (opts->stride[i] < 1 || opts->padding[i] < 0)
            return ds_fail(DS_INVALID, "stride must be 1 or more and padding 0 or more");
        if (weight->dims[2 + i] < 1 || x->dims[2 + i] + 2 * opts->padding[i] < weight->dims[2 + i])
            return ds_fail(DS_INVALID,
                           "a kernel of %lld does not fit an image of %lld padded by "
                           "%lld (axis %d)",
                           (long long)weight->dims[2 + i], (long long)x->dims[2 + i],
                           (long long)opts->padding[i], 2 + i);
    }
    if (node->n_inputs > 2) {
        const ds_type *bias = &node->inputs[2]->type;
        if (bias->rank != 1 || bias->dims[0] != weight->dims[0] || !ds_dtype_is_float(bias->dtype))
            return ds_fail(DS_INVALID, "bias must be a float [%lld]", (long long)weight->dims[0]);
    }
    const geometry s = geometry_of(x->dims, weight->dims, *opts);
    results[0] = ds_type_of(x->dtype, 4, (int64_t[]){s.batch, s.out, s.y_height, s.y_width});
    return DS_OK;
}

static void conv_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults, ds_node **dinputs) {
    ds_node *x = node->inputs[0], *weight = node->inputs[1];
    ds_node *dy = ds_graph_cast(g, dresults[0], x->type.dtype);
    ds_conv_grad_attrs a = {.conv = *(const ds_conv_opts *)node->attrs};
    for (int i = 0; i < 4; i++)
        a.dims[i] = x->type.dims[i];
    dinputs[0] = ds_graph_add_node(g, &ds_op_conv2d_input_grad, &a, (ds_node *[]){dy, weight}, 2);
    for (int i = 0; i < 4; i++)
        a.dims[i] = weight->type.dims[i];
    dinputs[1] = ds_graph_add_node(g, &ds_op_conv2d_weight_grad, &a, (ds_node *[]){dy, x}, 2);
    if (node->n_inputs > 2) {
        ds_node *wide = ds_graph_cast(g, dresults[0], node->inputs[2]->type.dtype);
        dinputs[2] = ds_graph_reduce(g, DS_SUM, wide, 1u << 0 | 1u << 2 | 1u << 3, false);
    }
}

static ds_cost conv_cost(const ds_node *node) {
    const geometry s = geometry_of(node->inputs[0]->type.dims, node->inputs[1]->type.dims,
                                   *(const ds_conv_opts *)node->attrs);
    return cost_of(node, &s);
}

/* One element of the result, without bias. */
static double conv_at(const geometry *s, const float *x, const float *weight, int64_t b, int64_t o,
                      int64_t i, int64_t j) {
    double sum = 0;
    for (int64_t c = 0; c < s->channels; c++)
        for (int64_t u = 0; u < s->kernel[0]; u++)
            for (int64_t v = 0; v < s->kernel[1]; v++) {
                const int64_t at = image_offset(s, b * s->channels + c, i, j, u, v);
                if (at >= 0)
                    sum += (double)x[at] * (double)weight[weight_offset(s, o, c, u, v)];
            }
    return sum;
}

static void conv_reference(const ds_kernel_args *args) {
    const geometry s = geometry_of(args->inputs[0].dims, args->inputs[1].dims,
                                   *(const ds_conv_opts *)args->node->attrs);
    const float *x = args->inputs[0].data, *weight = args->inputs[1].data;
    const float *bias = args->n_inputs > 2 ? args->inputs[2].data : NULL;
    float *y = args->outputs[0].data;
    for (int64_t b = 0; b < s.batch; b++)
        for (int64_t o = 0; o < s.out; o++)
            for (int64_t i = 0; i < s.y_height; i++)
                for (int64_t j = 0; j < s.y_width; j++)
                    *y++ = (float)(conv_at(&s, x, weight, b, o, i, j) +
                                   (bias ? (double)bias[o] : 0.0));
}

static void conv_describe(const ds_node *node, ds_text *out) {
    describe(node->attrs, out);
}

const ds_op ds_op_conv2d = {
    .name = "conv2d",
    .attrs_size = sizeof(ds_conv_opts),
    .traits = DS_HEAVY,
    .precision = DS_PRECISION_LOW,
    .keep_f32 = 1u << 2, /* the bias */
    .shape = conv_shape,
    .gradient = conv_gradient,
    .cost = conv_cost,
    .reference = conv_reference,
    .describe = conv_describe,
};

/* The kernel's places tile the image, as when a vision transformer cuts it into patches. */
static bool is_tiling(const ds_node *x, const ds_node *weight, ds_conv_opts opts) {
    if (!x || !weight || !ds_dtype_is_float(x->type.dtype) || x->type.rank != 4 ||
        weight->type.rank != 4 || x->type.dims[1] != weight->type.dims[1] ||
        x->type.dtype != weight->type.dtype || ds_node_count(x) == 0 || ds_node_count(weight) == 0)
        return false;
    for (int i = 0; i < 2; i++)
        if (opts.padding[i] != 0 || opts.stride[i] != weight->type.dims[2 + i] ||
            x->type.dims[2 + i] % opts.stride[i] != 0)
            return false;
    return true;
}

/* Then it is one matrix product: patches [batch · rows · columns, channels · kh · kw] times the
 * weight, and every backend has a fast one, with its gradients. */
static ds_node *patch_product(ds_graph *g, ds_node *x, ds_node *weight, ds_node *bias) {
    const int64_t *image = x->type.dims, *kernel = weight->type.dims;
    const int64_t rows = image[2] / kernel[2], columns = image[3] / kernel[3];
    const int64_t tiles[] = {image[0], image[1], rows, kernel[2], columns, kernel[3]};
    ds_node *patches = ds_graph_reshape(g, x, 6, tiles);
    patches = ds_graph_permute(g, patches, (int[]){0, 2, 4, 1, 3, 5});
    patches = ds_graph_reshape(g, patches, 2, (int64_t[]){image[0] * rows * columns, -1});
    ds_node *matrix = ds_graph_reshape(g, weight, 2, (int64_t[]){kernel[0], -1});
    ds_node *y = ds_graph_matmul(g, patches, matrix, (ds_matmul_opts){.transpose_b = true});
    if (bias)
        y = ds_graph_add(g, y, ds_graph_cast(g, bias, x->type.dtype));
    y = ds_graph_reshape(g, y, 4, (int64_t[]){image[0], rows, columns, kernel[0]});
    return ds_graph_permute(g, y, (int[]){0, 3, 1, 2});
}

ds_node *ds_graph_conv2d(ds_graph *g, ds_node *x, ds_node *weight, ds_node *bias,
                         ds_conv_opts opts) {
    for (int i = 0; i < 2; i++)
        opts.stride[i] = opts.stride[i] == 0 ? 1 : opts.stride[i];
    const bool fits = !bias || (bias->type.rank == 1 && weight && weight->type.rank == 4 &&
                                bias->type.dims[0] == weight->type.dims[0]);
    if (fits && is_tiling(x, weight, opts)) /* what does not fit is refused by the op's own rule */
        return patch_product(g, x, weight, bias);
    return ds_graph_add_node(g, &ds_op_conv2d, &opts, (ds_node *[]){x, weight, bias}, bias ? 3 : 2);
}

/* ---- gradients ------------------------------------------------------------------------------- */

static ds_status grad_shape(const ds_node *node, ds_type *results) {
    const ds_conv_grad_attrs *a = node->attrs;
    const ds_type *dy = &node->inputs[0]->type, *other = &node->inputs[1]->type;
    if (dy->rank != 4 || other->rank != 4 || dy->dtype != other->dtype ||
        !ds_dtype_is_float(dy->dtype))
        return ds_fail(DS_INVALID, "wants two floats of rank 4 and one dtype");
    const bool of_image = node->op == &ds_op_conv2d_input_grad;
    const int64_t *x = of_image ? a->dims : other->dims, *weight = of_image ? other->dims : a->dims;
    const geometry s = geometry_of(x, weight, a->conv);
    if (x[1] != weight[1] || dy->dims[0] != s.batch || dy->dims[1] != s.out ||
        dy->dims[2] != s.y_height || dy->dims[3] != s.y_width)
        return ds_fail(DS_INVALID, "image, weight and result do not belong to one convolution");
    results[0] = ds_type_of(dy->dtype, 4, a->dims);
    return DS_OK;
}

static void grad_describe(const ds_node *node, ds_text *out) {
    describe(&((const ds_conv_grad_attrs *)node->attrs)->conv, out);
}

static geometry input_grad_geometry(const ds_node *node) {
    const ds_conv_grad_attrs *a = node->attrs;
    return geometry_of(a->dims, node->inputs[1]->type.dims, a->conv);
}

static geometry weight_grad_geometry(const ds_node *node) {
    const ds_conv_grad_attrs *a = node->attrs;
    return geometry_of(node->inputs[1]->type.dims, a->dims, a->conv);
}

static ds_cost input_grad_cost(const ds_node *node) {
    const geometry s = input_grad_geometry(node);
    return cost_of(node, &s);
}

static ds_cost weight_grad_cost(const ds_node *node) {
    const geometry s = weight_grad_geometry(node);
    return cost_of(node, &s);
}

/* Σ of dy · weight over the result places that looked at image element (row, column). */
static double input_grad_at(const geometry *s, const float *dy, const float *weight, int64_t b,
                            int64_t c, int64_t row, int64_t column) {
    double sum = 0;
    for (int64_t o = 0; o < s->out; o++)
        for (int64_t u = 0; u < s->kernel[0]; u++)
            for (int64_t v = 0; v < s->kernel[1]; v++) {
                const int64_t down = row + s->opts.padding[0] - u;
                const int64_t right = column + s->opts.padding[1] - v;
                if (down < 0 || down % s->opts.stride[0] || right < 0 || right % s->opts.stride[1])
                    continue;
                const int64_t i = down / s->opts.stride[0], j = right / s->opts.stride[1];
                if (i < s->y_height && j < s->y_width)
                    sum += (double)dy[((b * s->out + o) * s->y_height + i) * s->y_width + j] *
                           (double)weight[weight_offset(s, o, c, u, v)];
            }
    return sum;
}

static void input_grad_reference(const ds_kernel_args *args) {
    const geometry s = input_grad_geometry(args->node);
    float *dx = args->outputs[0].data;
    for (int64_t b = 0; b < s.batch; b++)
        for (int64_t c = 0; c < s.channels; c++)
            for (int64_t row = 0; row < s.height; row++)
                for (int64_t column = 0; column < s.width; column++)
                    *dx++ = (float)input_grad_at(&s, args->inputs[0].data, args->inputs[1].data, b,
                                                 c, row, column);
}

/* Σ of dy · x over all places where weight element (o, c, u, v) was used. */
static double weight_grad_at(const geometry *s, const float *dy, const float *x, int64_t o,
                             int64_t c, int64_t u, int64_t v) {
    double sum = 0;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t i = 0; i < s->y_height; i++)
            for (int64_t j = 0; j < s->y_width; j++) {
                const int64_t at = image_offset(s, b * s->channels + c, i, j, u, v);
                if (at >= 0)
                    sum += (double)dy[((b * s->out + o) * s->y_height + i) * s->y_width + j] *
                           (double)x[at];
            }
    return sum;
}

static void weight_grad_reference(const ds_kernel_args *args) {
    const geometry s = weight_grad_geometry(args->node);
    float *dw = args->outputs[0].data;
    for (int64_t o = 0; o < s.out; o++)
        for (int64_t c = 0; c < s.channels; c++)
            for (int64_t u = 0; u < s.kernel[0]; u++)
                for (int64_t v = 0; v < s.kernel[1]; v++)
                    *dw++ = (float)weight_grad_at(&s, args->inputs[0].data, args->inputs[1].data, o,
                                                  c, u, v);
}

/* dy, weight → dx */
const ds_op ds_op_conv2d_input_grad = {
    .name = "conv2d_input_grad",
    .attrs_size = sizeof(ds_conv_grad_attrs),
    .traits = DS_HEAVY,
    .precision = DS_PRECISION_LOW,
    .shape = grad_shape,
    .cost = input_grad_cost,
    .reference = input_grad_reference,
    .describe = grad_describe,
};

/* dy, x → dweight */
const ds_op ds_op_conv2d_weight_grad = {
    .name = "conv2d_weight_grad",
    .attrs_size = sizeof(ds_conv_grad_attrs),
    .traits = DS_HEAVY,
    .precision = DS_PRECISION_LOW,
    .shape = grad_shape,
    .cost = weight_grad_cost,
    .reference = weight_grad_reference,
    .describe = grad_describe,
};
