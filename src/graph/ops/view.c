/* Views: the same elements described anew (shape, strides, offset), and the two ops that do move
 * elements into row-major order, concat and contiguous. */
#include <string.h>

#include "graph/ops/ops.h"

/* ---- reshape --------------------------------------------------------------------------------- */

static ds_status reshape_shape(const ds_node *node, ds_type *results) {
    const ds_reshape_attrs *a = node->attrs;
    const ds_type *x = &node->inputs[0]->type;
    results[0] = ds_type_of(x->dtype, a->rank, a->dims);
    const int64_t has = ds_count(x->dims, x->rank), wants = ds_count(a->dims, a->rank);
    if (has != wants)
        return ds_fail(DS_INVALID, "%lld elements do not fit a shape of %lld", (long long)has,
                       (long long)wants);
    return DS_OK;
}

static void reshape_like(ds_graph *g, ds_node *node, ds_node *const *dresults, ds_node **dinputs) {
    const ds_type *x = &node->inputs[0]->type;
    dinputs[0] = ds_graph_reshape(g, dresults[0], x->rank, x->dims);
}

/* Walks both shapes, matching groups of axes that hold the same number of elements. Inside a group
 * the input must be row-major in itself; then the result's strides follow from its last one. */
static bool reshape_view(const ds_node *node, const ds_tensor *in, ds_tensor *out) {
    (void)node;
    out->data = in->data;
    int i = in->rank - 1, o = out->rank - 1;
    if (ds_count(in->dims, in->rank) == 0)
        return true;
    while (o >= 0 || i >= 0) {
        int64_t group_in = i >= 0 ? in->dims[i] : 1, group_out = o >= 0 ? out->dims[o] : 1;
        int64_t stride = i >= 0 ? in->strides[i] : 1;
        int first_in = i, first_out = o;
        while (group_in != group_out) {
            if (group_in < group_out) {
                if (--first_in < 0)
                    return false;
                if (in->dims[first_in] != 1) {
                    if (group_in > 1 && in->strides[first_in] != group_in * stride)
                        return false;
                    if (group_in == 1)
                        stride = in->strides[first_in];
                }
                group_in *= in->dims[first_in];
            } else {
                if (--first_out < 0)
                    return false;
                group_out *= out->dims[first_out];
            }
        }
        int64_t step = stride;
        for (int k = o; k >= first_out && k >= 0; k--) {
            out->strides[k] = step;
            step *= out->dims[k];
        }
        i = first_in - 1;
        o = first_out - 1;
    }
    return true;
}

static void describe_shape(const ds_node *node, ds_text *out) {
    (void)node;
    (void)out; /* the result's type says it */
}

const ds_op ds_op_reshape = {
    .name = "reshape",
    .attrs_size = sizeof(ds_reshape_attrs),
    .traits = DS_VIEW,
    .precision = DS_PRECISION_FOLLOW,
    .shape = reshape_shape,
    .gradient = reshape_like,
    .describe = describe_shape,
    .view = reshape_view,
};

ds_node *ds_graph_reshape(ds_graph *g, ds_node *x, int rank, const int64_t *dims) {
    ds_reshape_attrs a = {.rank = rank};
    int64_t known = 1;
    int open = -1;
    if (rank < 0 || rank > DS_MAX_RANK)
        return ds_graph_refuse(g, "reshape", "rank %d is not in 0 … %d", rank, DS_MAX_RANK);
    for (int i = 0; i < rank; i++) {
        a.dims[i] = dims[i];
        if (dims[i] == -1 && open < 0)
            open = i;
        else if (dims[i] < 0)
            return ds_graph_refuse(g, "reshape", "axis %d has size %lld", i, (long long)dims[i]);
        else if (__builtin_mul_overflow(known, dims[i], &known))
            return ds_graph_refuse(g, "reshape", "more elements than can be counted");
    }
    if (open >= 0)
        a.dims[open] = known ? ds_node_count(x) / known : 0;
    if (x && x->type.rank == rank &&
        memcmp(x->type.dims, a.dims, sizeof(int64_t) * (size_t)rank) == 0)
        return x;
    return ds_graph_add_node(g, &ds_op_reshape, &a, &x, 1);
}

/* ---- permute --------------------------------------------------------------------------------- */

static ds_status permute_shape(const ds_node *node, ds_type *results) {
    const ds_permute_attrs *a = node->attrs;
    const ds_type *x = &node->inputs[0]->type;
    results[0] = *x;
    unsigned seen = 0;
    for (int i = 0; i < x->rank; i++) {
        if (a->axes[i] < 0 || a->axes[i] >= x->rank || (seen >> a->axes[i] & 1u))
            return ds_fail(DS_INVALID, "axes are not a permutation of 0 … %d", x->rank - 1);
        seen |= 1u << a->axes[i];
        results[0].dims[i] = x->dims[a->axes[i]];
    }
    return DS_OK;
}

static void permute_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                             ds_node **dinputs) {
    const ds_permute_attrs *a = node->attrs;
    int inverse[DS_MAX_RANK] = {0};
    for (int i = 0; i < node->type.rank; i++)
        inverse[a->axes[i]] = i;
    dinputs[0] = ds_graph_permute(g, dresults[0], inverse);
}

static bool permute_view(const ds_node *node, const ds_tensor *in, ds_tensor *out) {
    const ds_permute_attrs *a = node->attrs;
    out->data = in->data;
    for (int i = 0; i < in->rank; i++)
        out->strides[i] = in->strides[a->axes[i]];
    return true;
}

const ds_op ds_op_permute = {
    .name = "permute",
    .attrs_size = sizeof(ds_permute_attrs),
    .traits = DS_VIEW,
    .precision = DS_PRECISION_FOLLOW,
    .shape = permute_shape,
    .gradient = permute_gradient,
    .view = permute_view,
};

ds_node *ds_graph_permute(ds_graph *g, ds_node *x, const int *axes) {
    ds_permute_attrs a = {{0}};
    for (int i = 0; i < ds_node_rank(x); i++)
        a.axes[i] = axes[i];
    return ds_graph_add_node(g, &ds_op_permute, &a, &x, 1);
}

/* ---- slice ----------------------------------------------------------------------------------- */

static ds_status slice_shape(const ds_node *node, ds_type *results) {
    const ds_slice_attrs *a = node->attrs;
    results[0] = node->inputs[0]->type;
    if (a->axis < 0 || a->axis >= results[0].rank)
        return ds_fail(DS_INVALID, "there is no axis %d", a->axis);
    const int64_t size = results[0].dims[a->axis];
    if (a->start < 0 || a->start > size || a->length < 0 || a->length > size - a->start)
        return ds_fail(DS_INVALID, "%lld elements from %lld leave axis %d of size %lld",
                       (long long)a->length, (long long)a->start, a->axis, (long long)size);
    results[0].dims[a->axis] = a->length;
    return DS_OK;
}

/* Zeros around dy. Slices that tile their input come back together as one concat in autodiff. */
static void slice_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                           ds_node **dinputs) {
    const ds_slice_attrs *a = node->attrs;
    const ds_type *x = &node->inputs[0]->type;
    ds_node *parts[3];
    int n = 0;
    const int64_t before = a->start, after = x->dims[a->axis] - a->start - a->length;
    ds_type zeros = *x;
    if (before > 0) {
        zeros.dims[a->axis] = before;
        parts[n++] = ds_graph_fill(g, 0, x->dtype, x->rank, zeros.dims);
    }
    parts[n++] = dresults[0];
    if (after > 0) {
        zeros.dims[a->axis] = after;
        parts[n++] = ds_graph_fill(g, 0, x->dtype, x->rank, zeros.dims);
    }
    dinputs[0] = ds_graph_concat(g, parts, n, a->axis);
}

static bool slice_view(const ds_node *node, const ds_tensor *in, ds_tensor *out) {
    const ds_slice_attrs *a = node->attrs;
    memcpy(out->strides, in->strides, sizeof out->strides);
    out->data = in->data;
    if (in->data)
        out->data =
            (char *)in->data + a->start * in->strides[a->axis] * (int64_t)ds_dtype_size(in->dtype);
    return true;
}

static void slice_describe(const ds_node *node, ds_text *out) {
    const ds_slice_attrs *a = node->attrs;
    ds_text_printf(out, "axis %d from %lld", a->axis, (long long)a->start);
}

const ds_op ds_op_slice = {
    .name = "slice",
    .attrs_size = sizeof(ds_slice_attrs),
    .traits = DS_VIEW,
    .precision = DS_PRECISION_FOLLOW,
    .shape = slice_shape,
    .gradient = slice_gradient,
    .describe = slice_describe,
    .view = slice_view,
};

ds_node *ds_graph_slice(ds_graph *g, ds_node *x, int axis, int64_t start, int64_t length) {
    const ds_slice_attrs a = {axis < 0 ? axis + ds_node_rank(x) : axis, start, length};
    return ds_graph_add_node(g, &ds_op_slice, &a, &x, 1);
}

/* ---- broadcast ------------------------------------------------------------------------------- */

static ds_status broadcast_shape(const ds_node *node, ds_type *results) {
    const ds_reshape_attrs *a = node->attrs;
    const ds_type *x = &node->inputs[0]->type, wanted = ds_type_of(x->dtype, a->rank, a->dims);
    DS_TRY(ds_broadcast_types(x, &wanted, &results[0]));
    if (!ds_type_equal(&results[0], &wanted))
        return ds_fail(DS_INVALID, "would have to shrink to fit");
    return DS_OK;
}

static void broadcast_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                               ds_node **dinputs) {
    const ds_type *x = &node->inputs[0]->type, *y = &node->type;
    unsigned axes = 0;
    for (int i = 0; i < y->rank; i++) {
        const int from = i - (y->rank - x->rank);
        if (from < 0 || (x->dims[from] == 1 && y->dims[i] != 1))
            axes |= 1u << i;
    }
    ds_node *sum = ds_graph_reduce(g, DS_SUM, dresults[0], axes, true);
    dinputs[0] = ds_graph_reshape(g, sum, x->rank, x->dims);
}

static bool broadcast_view(const ds_node *node, const ds_tensor *in, ds_tensor *out) {
    (void)node;
    out->data = in->data;
    for (int i = 0; i < out->rank; i++) {
        const int from = i - (out->rank - in->rank);
        const bool repeats = from < 0 || (in->dims[from] == 1 && out->dims[i] != 1);
        out->strides[i] = repeats ? 0 : in->strides[from];
    }
    return true;
}

const ds_op ds_op_broadcast = {
    .name = "broadcast",
    .attrs_size = sizeof(ds_reshape_attrs),
    .traits = DS_VIEW,
    .precision = DS_PRECISION_FOLLOW,
    .shape = broadcast_shape,
    .gradient = broadcast_gradient,
    .describe = describe_shape,
    .view = broadcast_view,
};

ds_node *ds_graph_broadcast(ds_graph *g, ds_node *x, int rank, const int64_t *dims) {
    ds_reshape_attrs a = {.rank = rank};
    if (rank < 0 || rank > DS_MAX_RANK)
        return ds_graph_refuse(g, "broadcast", "rank %d is not in 0 … %d", rank, DS_MAX_RANK);
    memcpy(a.dims, dims, sizeof(int64_t) * (size_t)rank);
    if (x && x->type.rank == rank &&
        memcmp(x->type.dims, a.dims, sizeof(int64_t) * (size_t)rank) == 0)
        return x;
    return ds_graph_add_node(g, &ds_op_broadcast, &a, &x, 1);
}

/* ---- concat, contiguous ---------------------------------------------------------------------- */

static ds_status concat_shape(const ds_node *node, ds_type *results) {
    const int axis = ((const ds_concat_attrs *)node->attrs)->axis;
    results[0] = node->inputs[0]->type;
    if (axis < 0 || axis >= results[0].rank)
        return ds_fail(DS_INVALID, "there is no axis %d", axis);
    int64_t total = 0;
    for (int i = 0; i < node->n_inputs; i++) {
        ds_type part = node->inputs[i]->type;
        if (part.rank != results[0].rank)
            return ds_fail(DS_INVALID, "ranks differ");
        total += part.dims[axis];
        part.dims[axis] = results[0].dims[axis];
        if (!ds_type_equal(&part, &results[0]))
            return ds_fail(DS_INVALID, "input %d differs in dtype, or off axis %d in shape", i,
                           axis);
    }
    results[0].dims[axis] = total;
    return DS_OK;
}

static void concat_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                            ds_node **dinputs) {
    const int axis = ((const ds_concat_attrs *)node->attrs)->axis;
    int64_t start = 0;
    for (int i = 0; i < node->n_inputs; i++) {
        const int64_t length = node->inputs[i]->type.dims[axis];
        dinputs[i] = ds_graph_slice(g, dresults[0], axis, start, length);
        start += length;
    }
}

static size_t stored_size(ds_dtype dtype) {
    return ds_dtype_is_float(dtype) ? sizeof(float) : ds_dtype_size(dtype); /* reference floats */
}

static void concat_reference(const ds_kernel_args *args) {
    const int axis = ((const ds_concat_attrs *)args->node->attrs)->axis;
    const ds_tensor *out = &args->outputs[0];
    const size_t size = stored_size(out->dtype);
    const int64_t outer = ds_count(out->dims, axis);
    const int64_t inner = ds_count(out->dims + axis + 1, out->rank - axis - 1);
    int64_t start = 0;
    for (int i = 0; i < args->n_inputs; i++) {
        const int64_t length = args->inputs[i].dims[axis];
        for (int64_t o = 0; o < outer; o++)
            memcpy((char *)out->data + (size_t)((o * out->dims[axis] + start) * inner) * size,
                   (const char *)args->inputs[i].data + (size_t)(o * length * inner) * size,
                   (size_t)(length * inner) * size);
        start += length;
    }
}

const ds_op ds_op_concat = {
    .name = "concat",
    .attrs_size = sizeof(ds_concat_attrs),
    .precision = DS_PRECISION_FOLLOW,
    .shape = concat_shape,
    .gradient = concat_gradient,
    .reference = concat_reference,
};

ds_node *ds_graph_concat(ds_graph *g, ds_node *const *xs, int n, int axis) {
    if (n == 1 && xs[0])
        return xs[0];
    if (n < 1 || !xs[0])
        return ds_graph_refuse(g, "concat", "nothing to join");
    const ds_concat_attrs a = {axis < 0 ? axis + xs[0]->type.rank : axis};
    return ds_graph_add_node(g, &ds_op_concat, &a, xs, n);
}

static ds_status contiguous_shape(const ds_node *node, ds_type *results) {
    results[0] = node->inputs[0]->type;
    return DS_OK;
}

static void contiguous_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                                ds_node **dinputs) {
    (void)g, (void)node;
    dinputs[0] = dresults[0];
}

static void contiguous_reference(const ds_kernel_args *args) {
    const ds_tensor *out = &args->outputs[0]; /* the caller already made the input row-major */
    memcpy(out->data, args->inputs[0].data,
           (size_t)ds_count(out->dims, out->rank) * stored_size(out->dtype));
}

const ds_op ds_op_contiguous = {
    .name = "contiguous",
    .precision = DS_PRECISION_FOLLOW,
    .shape = contiguous_shape,
    .gradient = contiguous_gradient,
    .reference = contiguous_reference,
};

ds_node *ds_graph_contiguous(ds_graph *g, ds_node *x) {
    return ds_graph_add_node(g, &ds_op_contiguous, NULL, &x, 1);
}
