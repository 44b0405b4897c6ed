/* Element-wise ops: unary, binary with broadcasting, select, cast. Gradients are graph again. */
#include <math.h>

#include "graph/ops/ops.h"

/* ---- unary ----------------------------------------------------------------------------------- */

static const char *const unary_names[DS_UNARY_KINDS] = {
    [DS_NEG] = "neg",
    [DS_EXP] = "exp",
    [DS_LOG] = "log",
    [DS_SQRT] = "sqrt",
    [DS_RSQRT] = "rsqrt",
    [DS_SQUARE] = "square",
    [DS_RECIPROCAL] = "reciprocal",
    [DS_TANH] = "tanh",
    [DS_SIGMOID] = "sigmoid",
    [DS_ERF] = "erf",
    [DS_RELU] = "relu",
    [DS_SILU] = "silu",
    [DS_GELU] = "gelu",
    [DS_GELU_TANH] = "gelu_tanh",
    [DS_ABS] = "abs",
    [DS_SIGN] = "sign",
    [DS_SIN] = "sin",
    [DS_COS] = "cos",
    [DS_SCALE] = "scale",
    [DS_OFFSET] = "offset",
    [DS_STEP] = "step",
};

static const float SQRT_2_OVER_PI = 0.7978845608028654f;
static const float SQRT_HALF = 0.7071067811865476f;
static const float INV_SQRT_2PI = 0.3989422804014327f;
static const float GELU_CUBIC = 0.044715f; /* Hendrycks & Gimpel 2016 */

static float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

const char *ds_unary_name(ds_unary kind) {
    return unary_names[kind];
}

float ds_unary_value(ds_unary kind, float x, float alpha) {
    switch (kind) {
    case DS_NEG: return -x;
    case DS_EXP: return expf(x);
    case DS_LOG: return logf(x);
    case DS_SQRT: return sqrtf(x);
    case DS_RSQRT: return 1.0f / sqrtf(x);
    case DS_SQUARE: return x * x;
    case DS_RECIPROCAL: return 1.0f / x;
    case DS_TANH: return tanhf(x);
    case DS_SIGMOID: return sigmoid(x);
    case DS_ERF: return erff(x);
    case DS_RELU: return x > 0 ? x : 0;
    case DS_SILU: return x * sigmoid(x);
    case DS_GELU: return 0.5f * x * (1.0f + erff(x * SQRT_HALF));
    case DS_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x)));
    case DS_ABS: return fabsf(x);
    case DS_SIGN: return (float)((x > 0) - (x < 0));
    case DS_SIN: return sinf(x);
    case DS_COS: return cosf(x);
    case DS_SCALE: return alpha * x;
    case DS_OFFSET: return x + alpha;
    case DS_STEP: return x > 0 ? 1.0f : 0.0f;
    case DS_UNARY_KINDS: break;
    }
    return NAN;
}

static ds_status unary_shape(const ds_node *node, ds_type *results) {
    results[0] = node->inputs[0]->type;
    if (!ds_dtype_is_float(results[0].dtype))
        return ds_fail(DS_INVALID, "wants a float, got %s", ds_dtype_name(results[0].dtype));
    return DS_OK;
}

static ds_node *unary(ds_graph *g, ds_unary kind, ds_node *x) {
    return ds_graph_unary(g, kind, x, 0);
}

/* dy times the derivative. y is the node itself: reusing it saves recomputing exp and its like. */
static ds_node *unary_slope(ds_graph *g, ds_node *y, ds_node *dy) {
    const ds_unary_attrs *a = y->attrs;
    ds_node *x = y->inputs[0];
    switch (a->kind) {
    case DS_NEG: return unary(g, DS_NEG, dy);
    case DS_EXP: return ds_graph_mul(g, dy, y);
    case DS_LOG: return ds_graph_div(g, dy, x);
    case DS_SQRT: return ds_graph_scale(g, ds_graph_div(g, dy, y), 0.5f);
    case DS_RSQRT: /* −y³/2 */
        return ds_graph_scale(g, ds_graph_mul(g, dy, ds_graph_mul(g, y, unary(g, DS_SQUARE, y))),
                              -0.5f);
    case DS_SQUARE: return ds_graph_scale(g, ds_graph_mul(g, dy, x), 2);
    case DS_RECIPROCAL: return unary(g, DS_NEG, ds_graph_mul(g, dy, unary(g, DS_SQUARE, y)));
    case DS_TANH: /* 1 − y² */
        return ds_graph_sub(g, dy, ds_graph_mul(g, dy, unary(g, DS_SQUARE, y)));
    case DS_SIGMOID: /* y − y² */
        return ds_graph_mul(g, dy, ds_graph_sub(g, y, unary(g, DS_SQUARE, y)));
    case DS_ERF: /* 2/√π exp(−x²) */
        return ds_graph_mul(
            g, dy,
            ds_graph_scale(g, unary(g, DS_EXP, unary(g, DS_NEG, unary(g, DS_SQUARE, x))),
                           1.1283791670955126f));
    case DS_RELU: return ds_graph_mul(g, dy, unary(g, DS_STEP, x));
    case DS_SILU: return ds_graph_binary(g, DS_SILU_GRAD, x, dy);
    case DS_GELU: return ds_graph_binary(g, DS_GELU_GRAD, x, dy);
    case DS_GELU_TANH: return ds_graph_binary(g, DS_GELU_TANH_GRAD, x, dy);
    case DS_ABS: return ds_graph_mul(g, dy, unary(g, DS_SIGN, x));
    case DS_SIN: return ds_graph_mul(g, dy, unary(g, DS_COS, x));
    case DS_COS: return unary(g, DS_NEG, ds_graph_mul(g, dy, unary(g, DS_SIN, x)));
    case DS_SCALE: return ds_graph_scale(g, dy, a->alpha);
    case DS_OFFSET: return dy;
    case DS_SIGN:
    case DS_STEP:
    case DS_UNARY_KINDS: break;
    }
    return NULL; /* flat almost everywhere */
}

static void unary_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                           ds_node **dinputs) {
    dinputs[0] = unary_slope(g, node, dresults[0]);
}

static void unary_reference(const ds_kernel_args *args) {
    const ds_unary_attrs *a = args->node->attrs;
    const float *x = args->inputs[0].data;
    float *y = args->outputs[0].data;
    const int64_t n = ds_count(args->outputs[0].dims, args->outputs[0].rank);
    for (int64_t i = 0; i < n; i++)
        y[i] = ds_unary_value(a->kind, x[i], a->alpha);
}

static void unary_describe(const ds_node *node, ds_text *out) {
    const ds_unary_attrs *a = node->attrs;
    ds_text_puts(out, unary_names[a->kind]);
    if (a->kind == DS_SCALE || a->kind == DS_OFFSET)
        ds_text_printf(out, " %g", (double)a->alpha);
}

const ds_op ds_op_unary = {
    .name = "unary",
    .attrs_size = sizeof(ds_unary_attrs),
    .traits = DS_ELEMENTWISE,
    .shape = unary_shape,
    .gradient = unary_gradient,
    .reference = unary_reference,
    .describe = unary_describe,
};

ds_node *ds_graph_unary(ds_graph *g, ds_unary kind, ds_node *x, float alpha) {
    return ds_graph_add_node(g, &ds_op_unary, &(ds_unary_attrs){kind, alpha}, &x, 1);
}

ds_node *ds_graph_scale(ds_graph *g, ds_node *x, float alpha) {
    return ds_graph_unary(g, DS_SCALE, x, alpha);
}

/* ---- binary ---------------------------------------------------------------------------------- */

static const char *const binary_names[DS_BINARY_KINDS] = {
    [DS_ADD] = "add",
    [DS_SUB] = "sub",
    [DS_MUL] = "mul",
    [DS_DIV] = "div",
    [DS_MAXIMUM] = "maximum",
    [DS_MINIMUM] = "minimum",
    [DS_EQUAL] = "equal",
    [DS_LESS] = "less",
    [DS_SILU_GRAD] = "silu_grad",
    [DS_GELU_GRAD] = "gelu_grad",
    [DS_GELU_TANH_GRAD] = "gelu_tanh_grad",
};

const char *ds_binary_name(ds_binary kind) {
    return binary_names[kind];
}

float ds_binary_value(ds_binary kind, float a, float b) {
    switch (kind) {
    case DS_ADD: return a + b;
    case DS_SUB: return a - b;
    case DS_MUL: return a * b;
    case DS_DIV: return a / b;
    case DS_MAXIMUM: return a > b ? a : b;
    case DS_MINIMUM: return a < b ? a : b;
    case DS_EQUAL: return a == b ? 1.0f : 0.0f;
    case DS_LESS: return a < b ? 1.0f : 0.0f;
    case DS_SILU_GRAD: {
        const float s = sigmoid(a);
        return b * s * (1.0f + a * (1.0f - s));
    }
    case DS_GELU_GRAD: {
        const float cdf = 0.5f * (1.0f + erff(a * SQRT_HALF));
        return b * (cdf + a * INV_SQRT_2PI * expf(-0.5f * a * a));
    }
    case DS_GELU_TANH_GRAD: {
        const float t = tanhf(SQRT_2_OVER_PI * (a + GELU_CUBIC * a * a * a));
        const float inner = SQRT_2_OVER_PI * (1.0f + 3.0f * GELU_CUBIC * a * a);
        return b * (0.5f * (1.0f + t) + 0.5f * a * (1.0f - t * t) * inner);
    }
    case DS_BINARY_KINDS: break;
    }
    return NAN;
}

ds_status ds_broadcast_types(const ds_type *a, const ds_type *b, ds_type *out) {
    const int rank = a->rank > b->rank ? a->rank : b->rank;
    out->dtype = a->dtype;
    out->rank = rank;
    for (int i = 0; i < rank; i++) { /* i counts from the last axis */
        const int64_t m = i < a->rank ? a->dims[a->rank - 1 - i] : 1;
        const int64_t n = i < b->rank ? b->dims[b->rank - 1 - i] : 1;
        if (m != n && m != 1 && n != 1)
            return ds_fail(DS_INVALID,
                           "sizes %lld and %lld of axis %d from the end do not broadcast",
                           (long long)m, (long long)n, i + 1);
        out->dims[rank - 1 - i] = m == 1 ? n : m;
    }
    return DS_OK;
}

static ds_status same_shape(const ds_node *node, int first, ds_type *results) {
    results[0] = node->inputs[first]->type;
    for (int i = first + 1; i < node->n_inputs; i++)
        if (!ds_type_equal(&results[0], &node->inputs[i]->type))
            return ds_fail(DS_INVALID, "inputs differ in shape or dtype");
    return DS_OK;
}

static ds_status binary_shape(const ds_node *node, ds_type *results) {
    if (!ds_dtype_is_float(node->inputs[0]->type.dtype))
        return ds_fail(DS_INVALID, "wants floats, got %s",
                       ds_dtype_name(node->inputs[0]->type.dtype));
    return same_shape(node, 0, results);
}

static void binary_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                            ds_node **dinputs) {
    ds_node *a = node->inputs[0], *b = node->inputs[1], *dy = dresults[0];
    switch (((const ds_binary_attrs *)node->attrs)->kind) {
    case DS_ADD:
        dinputs[0] = dy;
        dinputs[1] = dy;
        break;
    case DS_SUB:
        dinputs[0] = dy;
        dinputs[1] = ds_graph_unary(g, DS_NEG, dy, 0);
        break;
    case DS_MUL:
        dinputs[0] = ds_graph_mul(g, dy, b);
        dinputs[1] = ds_graph_mul(g, dy, a);
        break;
    case DS_DIV:
        dinputs[0] = ds_graph_div(g, dy, b);
        dinputs[1] = ds_graph_unary(g, DS_NEG, ds_graph_mul(g, dinputs[0], node), 0);
        break;
    case DS_MAXIMUM: { /* equal: to a */
        ds_node *to_b = ds_graph_binary(g, DS_LESS, a, b);
        dinputs[1] = ds_graph_mul(g, dy, to_b);
        dinputs[0] = ds_graph_sub(g, dy, dinputs[1]);
        break;
    }
    case DS_MINIMUM: {
        ds_node *to_b = ds_graph_binary(g, DS_LESS, b, a);
        dinputs[1] = ds_graph_mul(g, dy, to_b);
        dinputs[0] = ds_graph_sub(g, dy, dinputs[1]);
        break;
    }
    default: break; /* comparisons are flat; derivatives are not differentiated again */
    }
}

static void binary_reference(const ds_kernel_args *args) {
    const ds_binary kind = ((const ds_binary_attrs *)args->node->attrs)->kind;
    const float *a = args->inputs[0].data, *b = args->inputs[1].data;
    float *y = args->outputs[0].data;
    const int64_t n = ds_count(args->outputs[0].dims, args->outputs[0].rank);
    for (int64_t i = 0; i < n; i++)
        y[i] = ds_binary_value(kind, a[i], b[i]);
}

static void binary_describe(const ds_node *node, ds_text *out) {
    ds_text_puts(out, binary_names[((const ds_binary_attrs *)node->attrs)->kind]);
}

const ds_op ds_op_binary = {
    .name = "binary",
    .attrs_size = sizeof(ds_binary_attrs),
    .traits = DS_ELEMENTWISE,
    .shape = binary_shape,
    .gradient = binary_gradient,
    .reference = binary_reference,
    .describe = binary_describe,
};

/* Both to one dtype (f32 where they differ) and to one shape, by views. False: poisoned. */
static bool meet(ds_graph *g, const char *op, ds_node **a, ds_node **b) {
    if (g->status != DS_OK || !*a || !*b) {
        ds_graph_refuse(g, op, "an input is missing (NULL)");
        return false;
    }
    if ((*a)->type.dtype != (*b)->type.dtype) {
        *a = ds_graph_cast(g, *a, DS_F32);
        *b = ds_graph_cast(g, *b, DS_F32);
    }
    ds_type type;
    if (!*a || !*b)
        return false;
    if (ds_broadcast_types(&(*a)->type, &(*b)->type, &type) != DS_OK) {
        ds_graph_refuse(g, op, "%s", ds_error());
        return false;
    }
    *a = ds_graph_broadcast(g, *a, type.rank, type.dims);
    *b = ds_graph_broadcast(g, *b, type.rank, type.dims);
    return *a && *b;
}

ds_node *ds_graph_binary(ds_graph *g, ds_binary kind, ds_node *a, ds_node *b) {
    if (!meet(g, binary_names[kind], &a, &b))
        return NULL;
    return ds_graph_add_node(g, &ds_op_binary, &(ds_binary_attrs){kind}, (ds_node *[]){a, b}, 2);
}

ds_node *ds_graph_add(ds_graph *g, ds_node *a, ds_node *b) {
    return ds_graph_binary(g, DS_ADD, a, b);
}

ds_node *ds_graph_sub(ds_graph *g, ds_node *a, ds_node *b) {
    return ds_graph_binary(g, DS_SUB, a, b);
}

ds_node *ds_graph_mul(ds_graph *g, ds_node *a, ds_node *b) {
    return ds_graph_binary(g, DS_MUL, a, b);
}

ds_node *ds_graph_div(ds_graph *g, ds_node *a, ds_node *b) {
    return ds_graph_binary(g, DS_DIV, a, b);
}

/* ---- select ---------------------------------------------------------------------------------- */

static ds_status select_shape(const ds_node *node, ds_type *results) {
    return same_shape(node, 1, results);
}

static ds_node *zeros_like(ds_graph *g, ds_node *x) {
    ds_node *zero = ds_graph_fill(g, 0, x->type.dtype, 0, NULL);
    return ds_graph_broadcast(g, zero, x->type.rank, x->type.dims);
}

static void select_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                            ds_node **dinputs) {
    ds_node *zeros = zeros_like(g, dresults[0]);
    dinputs[1] = ds_graph_select(g, node->inputs[0], dresults[0], zeros);
    dinputs[2] = ds_graph_select(g, node->inputs[0], zeros, dresults[0]);
}

static void select_reference(const ds_kernel_args *args) {
    const float *a = args->inputs[1].data, *b = args->inputs[2].data;
    float *y = args->outputs[0].data;
    const int64_t n = ds_count(args->outputs[0].dims, args->outputs[0].rank);
    const bool is_float = ds_dtype_is_float(args->inputs[0].dtype);
    for (int64_t i = 0; i < n; i++) {
        const bool yes = is_float ? ((const float *)args->inputs[0].data)[i] != 0
                                  : ((const uint8_t *)args->inputs[0].data)[i] != 0;
        y[i] = yes ? a[i] : b[i];
    }
}

const ds_op ds_op_select = {
    .name = "select",
    .traits = DS_ELEMENTWISE,
    .keep_f32 = 1,
    .shape = select_shape,
    .gradient = select_gradient,
    .reference = select_reference,
};

ds_node *ds_graph_select(ds_graph *g, ds_node *condition, ds_node *a, ds_node *b) {
    if (!meet(g, "select", &a, &b) || !condition)
        return ds_graph_refuse(g, "select", "an input is missing (NULL)");
    const ds_dtype dtype = condition->type.dtype;
    if (dtype != DS_U8 && !ds_dtype_is_float(dtype))
        return ds_graph_refuse(g, "select", "the condition is %s, not u8 or float",
                               ds_dtype_name(dtype));
    condition = ds_graph_broadcast(g, condition, a->type.rank, a->type.dims);
    return ds_graph_add_node(g, &ds_op_select, NULL, (ds_node *[]){condition, a, b}, 3);
}

/* ---- cast, stop_gradient --------------------------------------------------------------------- */

static ds_status cast_shape(const ds_node *node, ds_type *results) {
    results[0] = node->inputs[0]->type;
    results[0].dtype = ((const ds_cast_attrs *)node->attrs)->dtype;
    return DS_OK;
}

static void cast_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults, ds_node **dinputs) {
    const ds_dtype dtype = node->inputs[0]->type.dtype;
    if (ds_dtype_is_float(dtype))
        dinputs[0] = ds_graph_cast(g, dresults[0], dtype);
}

double ds_tensor_element(const ds_tensor *t, int64_t i) {
    switch (t->dtype) {
    case DS_I8: return ((const int8_t *)t->data)[i];
    case DS_U8: return ((const uint8_t *)t->data)[i];
    case DS_I32: return ((const int32_t *)t->data)[i];
    case DS_I64: return (double)((const int64_t *)t->data)[i];
    default: return (double)((const float *)t->data)[i];
    }
}

static void cast_reference(const ds_kernel_args *args) {
    const ds_tensor *out = &args->outputs[0];
    const int64_t n = ds_count(out->dims, out->rank);
    for (int64_t i = 0; i < n; i++) {
        const double x = ds_tensor_element(&args->inputs[0], i);
        switch (out->dtype) {
        case DS_I8: ((int8_t *)out->data)[i] = (int8_t)x; break;
        case DS_U8: ((uint8_t *)out->data)[i] = (uint8_t)x; break;
        case DS_I32: ((int32_t *)out->data)[i] = (int32_t)x; break;
        case DS_I64: ((int64_t *)out->data)[i] = (int64_t)x; break;
        default: ((float *)out->data)[i] = (float)x; break;
        }
    }
}

static void cast_describe(const ds_node *node, ds_text *out) {
    ds_text_puts(out, ds_dtype_name(node->type.dtype));
}

const ds_op ds_op_cast = {
    .name = "cast",
    .attrs_size = sizeof(ds_cast_attrs),
    .traits = DS_ELEMENTWISE | DS_DERIVED,
    .precision = DS_PRECISION_KEEP,
    .shape = cast_shape,
    .gradient = cast_gradient,
    .reference = cast_reference,
    .describe = cast_describe,
};

ds_node *ds_graph_cast(ds_graph *g, ds_node *x, ds_dtype dtype) {
    if (x && x->type.dtype == dtype)
        return x;
    return ds_graph_add_node(g, &ds_op_cast, &(ds_cast_attrs){dtype}, &x, 1);
}

static ds_status stop_shape(const ds_node *node, ds_type *results) {
    results[0] = node->inputs[0]->type;
    return DS_OK;
}

static bool stop_view(const ds_node *node, const ds_tensor *input, ds_tensor *result) {
    (void)node;
    *result = *input;
    return true;
}

const ds_op ds_op_stop_gradient = {
    .name = "stop_gradient",
    .traits = DS_VIEW,
    .precision = DS_PRECISION_KEEP,
    .shape = stop_shape,
    .view = stop_view,
};

ds_node *ds_graph_stop_gradient(ds_graph *g, ds_node *x) {
    return ds_graph_add_node(g, &ds_op_stop_gradient, NULL, &x, 1);
}
