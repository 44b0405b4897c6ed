/* Symmetric int8 quantisation: q = round(x / scale) in −127 … 127, ties to even; −128 is left out
 * so that the range is the same on both sides (Jacob et al. 2018, Wu et al. 2020).
 *
 * A scale of 0 stands for a row (or tensor) of zeros, whose largest magnitude is 0: everything
 * there quantises to 0. A NaN quantises to 0 as an integer, which has no NaN; fake_quantise keeps
 * it, so that training sees it. */
#include <math.h>
#include <string.h>

#include "graph/ops/ops.h"

static const float Q_MAX = 127.0f;

/* scale: f32 of rank 0, or [rows] with rows = x's first axis. */
static ds_status check_scale(const ds_type *x, const ds_type *scale) {
    if (scale->dtype != DS_F32 || scale->rank > 1)
        return ds_fail(DS_INVALID, "scale must be f32 of rank 0 or 1");
    if (scale->rank == 1 && (x->rank < 1 || x->dims[0] != scale->dims[0]))
        return ds_fail(DS_INVALID, "a scale for %lld rows does not fit %lld rows",
                       (long long)scale->dims[0], (long long)(x->rank < 1 ? 0 : x->dims[0]));
    return DS_OK;
}

/* How many elements of x share one element of scale. */
static int64_t group_size(const ds_tensor *x, const ds_tensor *scale) {
    return scale->rank == 0 ? ds_count(x->dims, x->rank) : ds_count(x->dims + 1, x->rank - 1);
}

static int64_t group_count(const ds_tensor *scale) {
    return scale->rank == 0 ? 1 : scale->dims[0];
}

/* x / scale rounded, not yet clamped. */
static float rounded(float x, float scale) {
    return scale == 0 && !isnan(x) ? 0 : nearbyintf(x / scale);
}

static float clamped(float q) {
    return q > Q_MAX ? Q_MAX : q < -Q_MAX ? -Q_MAX : q;
}

int8_t ds_quantised(float x, float scale) {
    const float q = clamped(rounded(x, scale));
    return isnan(q) ? 0 : (int8_t)q;
}

/* ---- quantisation_scale ---------------------------------------------------------------------- */

static ds_status scale_shape(const ds_node *node, ds_type *results) {
    const ds_type *x = &node->inputs[0]->type;
    if (!ds_dtype_is_float(x->dtype) || x->rank < 1)
        return ds_fail(DS_INVALID, "wants floats [rows, …]");
    results[0] = ds_type_of(DS_F32, 1, x->dims);
    return DS_OK;
}

float ds_row_magnitude(const float *x, int64_t n) {
    float most = 0;
    for (int64_t i = 0; i < n; i++)
        most = isnan(x[i]) || fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

float ds_quantisation_scale(float most, bool is_stored) {
    const float scale = most / Q_MAX;
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    if (!is_stored || !isfinite(scale) || (bits & 0xFFFF) == 0)
        return scale;
    bits = (bits | 0xFFFF) + 1; /* the next bf16 above */
    float above;
    memcpy(&above, &bits, sizeof above);
    return above;
}

static void scale_reference(const ds_kernel_args *args) {
    const ds_quantisation_scale_attrs *attrs = args->node->attrs;
    const float *x = args->inputs[0].data;
    float *scale = args->outputs[0].data;
    const int64_t rows = args->outputs[0].dims[0];
    const int64_t n = ds_count(args->inputs[0].dims + 1, args->inputs[0].rank - 1);
    for (int64_t r = 0; r < rows; r++)
        scale[r] = ds_quantisation_scale(ds_row_magnitude(x + r * n, n), attrs->is_stored);
}

const ds_op ds_op_quantisation_scale = {
    .name = "quantisation_scale",
    .attrs_size = sizeof(ds_quantisation_scale_attrs),
    .traits = DS_DERIVED,
    .precision = DS_PRECISION_KEEP,
    .shape = scale_shape,
    .reference = scale_reference,
};

ds_node *ds_graph_quantisation_scale(ds_graph *g, ds_node *x, bool is_stored) {
    const ds_quantisation_scale_attrs attrs = {.is_stored = is_stored};
    return ds_graph_add_node(g, &ds_op_quantisation_scale, &attrs, &x, 1);
}

/* ---- quantise -------------------------------------------------------------------------------- */

static ds_status quantise_shape(const ds_node *node, ds_type *results) {
    const ds_type *x = &node->inputs[0]->type;
    if (!ds_dtype_is_float(x->dtype))
        return ds_fail(DS_INVALID, "wants a float, got %s", ds_dtype_name(x->dtype));
    results[0] = *x;
    results[0].dtype = DS_I8;
    return check_scale(x, &node->inputs[1]->type);
}

static void quantise_reference(const ds_kernel_args *args) {
    const float *x = args->inputs[0].data, *scale = args->inputs[1].data;
    int8_t *q = args->outputs[0].data;
    const int64_t n = group_size(&args->inputs[0], &args->inputs[1]);
    for (int64_t r = 0; r < group_count(&args->inputs[1]); r++)
        for (int64_t i = r * n; i < (r + 1) * n; i++)
            q[i] = ds_quantised(x[i], scale[r]);
}

const ds_op ds_op_quantise = {
    .name = "quantise",
    .traits = DS_DERIVED,
    .precision = DS_PRECISION_FOLLOW,
    .keep_f32 = 1u << 1, /* the scale */
    .shape = quantise_shape,
    .reference = quantise_reference,
};

ds_node *ds_graph_quantise(ds_graph *g, ds_node *x, ds_node *scale) {
    return ds_graph_add_node(g, &ds_op_quantise, NULL, (ds_node *[]){x, scale}, 2);
}

/* ---- dequantise ------------------------------------------------------------------------------ */

static ds_status dequantise_shape(const ds_node *node, ds_type *results) {
    const ds_type *q = &node->inputs[0]->type;
    const ds_dtype dtype = ((const ds_cast_attrs *)node->attrs)->dtype;
    if (q->dtype != DS_I8 && q->dtype != DS_I32)
        return ds_fail(DS_INVALID, "wants i8 or i32, got %s", ds_dtype_name(q->dtype));
    if (!ds_dtype_is_float(dtype))
        return ds_fail(DS_INVALID, "the result must be a float, not %s", ds_dtype_name(dtype));
    results[0] = *q;
    results[0].dtype = dtype;
    return check_scale(q, &node->inputs[1]->type);
}

static void dequantise_reference(const ds_kernel_args *args) {
    const ds_tensor *q = &args->inputs[0];
    const float *scale = args->inputs[1].data;
    float *y = args->outputs[0].data;
    const int64_t n = group_size(q, &args->inputs[1]);
    for (int64_t r = 0; r < group_count(&args->inputs[1]); r++)
        for (int64_t i = r * n; i < (r + 1) * n; i++)
            y[i] = scale[r] * (q->dtype == DS_I8 ? (float)((const int8_t *)q->data)[i]
                                                 : (float)((const int32_t *)q->data)[i]);
}

static void dequantise_describe(const ds_node *node, ds_text *out) {
    ds_text_puts(out, ds_dtype_name(node->type.dtype));
}

const ds_op ds_op_dequantise = {
    .name = "dequantise",
    .attrs_size = sizeof(ds_cast_attrs),
    .traits = DS_DERIVED,
    .precision = DS_PRECISION_KEEP,
    .shape = dequantise_shape,
    .reference = dequantise_reference,
    .describe = dequantise_describe,
};

ds_node *ds_graph_dequantise(ds_graph *g, ds_node *q, ds_node *scale, ds_dtype dtype) {
    return ds_graph_add_node(g, &ds_op_dequantise, &(ds_cast_attrs){dtype}, (ds_node *[]){q, scale},
                             2);
}

/* ---- fake_quantise: training sees the rounding that inference will do ------------------------ */

static ds_status fake_shape(const ds_node *node, ds_type *results) {
    const ds_type *x = &node->inputs[0]->type;
    if (!ds_dtype_is_float(x->dtype))
        return ds_fail(DS_INVALID, "wants a float, got %s", ds_dtype_name(x->dtype));
    results[0] = *x;
    return check_scale(x, &node->inputs[1]->type);
}

/* Straight through where x was not clamped. The scale is not trained: no gradient flows to it. */
static void fake_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults, ds_node **dinputs) {
    ds_node *dy = ds_graph_cast(g, dresults[0], node->type.dtype);
    dinputs[0] = ds_graph_add_node(g, &ds_op_fake_quantise_grad, NULL,
                                   (ds_node *[]){dy, node->inputs[0], node->inputs[1]}, 3);
}

static void fake_reference(const ds_kernel_args *args) {
    const float *x = args->inputs[0].data, *scale = args->inputs[1].data;
    float *y = args->outputs[0].data;
    const int64_t n = group_size(&args->inputs[0], &args->inputs[1]);
    for (int64_t r = 0; r < group_count(&args->inputs[1]); r++)
        for (int64_t i = r * n; i < (r + 1) * n; i++)
            y[i] = clamped(rounded(x[i], scale[r])) * scale[r];
}

const ds_op ds_op_fake_quantise = {
    .name = "fake_quantise",
    .traits = DS_DERIVED,
    .precision = DS_PRECISION_FOLLOW,
    .keep_f32 = 1u << 1, /* the scale */
    .shape = fake_shape,
    .gradient = fake_gradient,
    .reference = fake_reference,
};

ds_node *ds_graph_fake_quantise(ds_graph *g, ds_node *x, ds_node *scale) {
    return ds_graph_add_node(g, &ds_op_fake_quantise, NULL, (ds_node *[]){x, scale}, 2);
}

static ds_status fake_grad_shape(const ds_node *node, ds_type *results) {
    const ds_type *dy = &node->inputs[0]->type;
    results[0] = *dy;
    if (!ds_type_equal(dy, &node->inputs[1]->type) || !ds_dtype_is_float(dy->dtype))
        return ds_fail(DS_INVALID, "dy and x must be floats of one shape and dtype");
    return check_scale(dy, &node->inputs[2]->type);
}

static void fake_grad_reference(const ds_kernel_args *args) {
    const float *dy = args->inputs[0].data, *x = args->inputs[1].data;
    const float *scale = args->inputs[2].data;
    float *dx = args->outputs[0].data;
    const int64_t n = group_size(&args->inputs[0], &args->inputs[2]);
    for (int64_t r = 0; r < group_count(&args->inputs[2]); r++)
        for (int64_t i = r * n; i < (r + 1) * n; i++)
            dx[i] = fabsf(rounded(x[i], scale[r])) > Q_MAX ? 0 : dy[i];
}

/* dy, x, scale → dx */
const ds_op ds_op_fake_quantise_grad = {
    .name = "fake_quantise_grad",
    .precision = DS_PRECISION_FOLLOW,
    .keep_f32 = 1u << 2, /* the scale */
    .shape = fake_grad_shape,
    .reference = fake_grad_reference,
};

/* ---- straight_through: the value of one, the gradient of another ----------------------------- */

static ds_status through_shape(const ds_node *node, ds_type *results) {
    if (!ds_type_equal(&node->inputs[0]->type, &node->inputs[1]->type))
        return ds_fail(DS_INVALID, "value and surrogate must be of one type");
    results[0] = node->inputs[0]->type;
    return DS_OK;
}

static void through_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                             ds_node **dinputs) {
    (void)g;
    (void)node;
    dinputs[1] = dresults[0];
}

static void through_reference(const ds_kernel_args *args) {
    const ds_tensor *x = &args->inputs[0];
    memcpy(args->outputs[0].data, x->data, (size_t)ds_count(x->dims, x->rank) * sizeof(float));
}

const ds_op ds_op_straight_through = {
    .name = "straight_through",
    .precision = DS_PRECISION_FOLLOW,
    .shape = through_shape,
    .gradient = through_gradient,
    .reference = through_reference,
};

ds_node *ds_graph_straight_through(ds_graph *g, ds_node *value, ds_node *surrogate) {
    return ds_graph_add_node(g, &ds_op_straight_through, NULL, (ds_node *[]){value, surrogate}, 2);
}
