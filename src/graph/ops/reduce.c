/* Reductions over axes, argmax and top-k of the last axis. */
#include <math.h>

#include "graph/ops/ops.h"

ds_type ds_scalar_type(void) {
    return (ds_type){.dtype = DS_F32, .rank = 0};
}

/* ---- sum, mean, max, min --------------------------------------------------------------------- */

static ds_status reduce_shape(const ds_node *node, ds_type *results) {
    const ds_reduce_attrs *a = node->attrs;
    const ds_type *x = &node->inputs[0]->type;
    if (!ds_dtype_is_float(x->dtype))
        return ds_fail(DS_INVALID, "wants a float, got %s", ds_dtype_name(x->dtype));
    if (x->rank < 32 && a->axes >> x->rank)
        return ds_fail(DS_INVALID, "axes %#x name an axis past rank %d", a->axes, x->rank);
    results[0].dtype = a->f32_result ? DS_F32 : x->dtype;
    for (int i = 0; i < x->rank; i++) {
        const bool gone = a->axes >> i & 1u;
        if (gone && x->dims[i] == 0 && (a->kind == DS_MAX || a->kind == DS_MIN))
            return ds_fail(DS_INVALID, "no largest or smallest of zero elements (axis %d)", i);
        if (!gone || a->keep_dims)
            results[0].dims[results[0].rank++] = gone ? 1 : x->dims[i];
    }
    return DS_OK;
}

static int64_t reduced_count(const ds_node *node) {
    const int64_t n = ds_node_count(node);
    return n ? ds_node_count(node->inputs[0]) / n : 0;
}

/* y, or its gradient, back at the input's shape. */
static ds_node *spread(ds_graph *g, ds_node *node, ds_node *y) {
    const ds_reduce_attrs *a = node->attrs;
    const ds_type *x = &node->inputs[0]->type;
    ds_type kept = *x;
    for (int i = 0; i < x->rank; i++)
        if (a->axes >> i & 1u)
            kept.dims[i] = 1;
    return ds_graph_broadcast(g, ds_graph_reshape(g, y, kept.rank, kept.dims), x->rank, x->dims);
}

static void reduce_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                            ds_node **dinputs) {
    const ds_reduce_attrs *a = node->attrs;
    ds_node *dy = dresults[0];
    if (a->kind == DS_SUM || a->kind == DS_MEAN) {
        const int64_t n = reduced_count(node);
        if (a->kind == DS_MEAN && n > 0)
            dy = ds_graph_scale(g, dy, 1.0f / (float)n);
        dinputs[0] = spread(g, node, dy);
        return;
    }
    /* to the largest elements, shared equally among equals (as PyTorch's amax) */
    ds_node *hit = ds_graph_binary(g, DS_EQUAL, node->inputs[0], spread(g, node, node));
    ds_node *n_hits = ds_graph_reduce(g, DS_SUM, hit, a->axes, a->keep_dims);
    dinputs[0] = ds_graph_mul(g, hit, spread(g, node, ds_graph_div(g, dy, n_hits)));
}

/* Row-major index i over the axes chosen (those reduced, or those that stay), as an offset into x.
 */
static int64_t offset_along(const ds_tensor *x, unsigned axes, int64_t i) {
    int64_t offset = 0, step = 1;
    for (int axis = x->rank - 1; axis >= 0; axis--) {
        if (axes >> axis & 1u) {
            offset += i % x->dims[axis] * step;
            i /= x->dims[axis];
        }
        step *= x->dims[axis];
    }
    return offset;
}

static double reduced(ds_reduction kind, double so_far, double x) {
    switch (kind) {
    case DS_MAX: return x > so_far || isnan(x) ? x : so_far;
    case DS_MIN: return x < so_far || isnan(x) ? x : so_far;
    default: return so_far + x;
    }
}

static void reduce_reference(const ds_kernel_args *args) {
    const ds_reduce_attrs *a = args->node->attrs;
    const ds_tensor *in = &args->inputs[0], *out = &args->outputs[0];
    const int64_t n_out = ds_count(out->dims, out->rank);
    const int64_t n_each = n_out ? ds_count(in->dims, in->rank) / n_out : 0;
    for (int64_t o = 0; o < n_out; o++) {
        const float *x = (const float *)in->data + offset_along(in, ~a->axes, o);
        double sum = a->kind == DS_MAX ? -INFINITY : a->kind == DS_MIN ? INFINITY : 0;
        for (int64_t i = 0; i < n_each; i++)
            sum = reduced(a->kind, sum, (double)x[offset_along(in, a->axes, i)]);
        ((float *)out->data)[o] = (float)(a->kind == DS_MEAN ? sum / (double)n_each : sum);
    }
}

static void reduce_describe(const ds_node *node, ds_text *out) {
    static const char *const names[] = {"sum", "mean", "max", "min"};
    const ds_reduce_attrs *a = node->attrs;
    ds_text_printf(out, "%s over", names[a->kind]);
    for (int i = 0; i < DS_MAX_RANK; i++)
        if (a->axes >> i & 1u)
            ds_text_printf(out, " %d", i);
}

const ds_op ds_op_reduce = {
    .name = "reduce",
    .attrs_size = sizeof(ds_reduce_attrs),
    .precision = DS_PRECISION_F32,
    .shape = reduce_shape,
    .gradient = reduce_gradient,
    .reference = reduce_reference,
    .describe = reduce_describe,
};

ds_node *ds_graph_reduce(ds_graph *g, ds_reduction kind, ds_node *x, unsigned axes,
                         bool keep_dims) {
    if (x && axes == 0)
        return x;
    const ds_reduce_attrs a = {.kind = kind, .axes = axes, .keep_dims = keep_dims};
    return ds_graph_add_node(g, &ds_op_reduce, &a, &x, 1);
}

ds_node *ds_graph_sum_all(ds_graph *g, ds_node *x) {
    return ds_graph_reduce(g, DS_SUM, x, (1u << ds_node_rank(x)) - 1, false);
}

/* ---- argmax, topk ---------------------------------------------------------------------------- */

static ds_status argmax_shape(const ds_node *node, ds_type *results) {
    const ds_type *x = &node->inputs[0]->type;
    if (x->rank < 1 || x->dims[x->rank - 1] < 1)
        return ds_fail(DS_INVALID, "the last axis is missing or empty");
    results[0] = ds_type_of(DS_I32, x->rank - 1, x->dims);
    return DS_OK;
}

static void argmax_reference(const ds_kernel_args *args) {
    const ds_tensor *in = &args->inputs[0];
    const int64_t n = in->dims[in->rank - 1], rows = ds_count(in->dims, in->rank - 1);
    for (int64_t r = 0; r < rows; r++) {
        const float *x = (const float *)in->data + r * n;
        int64_t best = 0;
        for (int64_t i = 1; i < n; i++)
            if (x[i] > x[best])
                best = i;
        ((int32_t *)args->outputs[0].data)[r] = (int32_t)best;
    }
}

const ds_op ds_op_argmax = {
    .name = "argmax",
    .precision = DS_PRECISION_FOLLOW,
    .shape = argmax_shape,
    .reference = argmax_reference,
};

ds_node *ds_graph_argmax(ds_graph *g, ds_node *x) {
    return ds_graph_add_node(g, &ds_op_argmax, NULL, &x, 1);
}

static ds_status topk_shape(const ds_node *node, ds_type *results) {
    const int64_t k = ((const ds_topk_attrs *)node->attrs)->k;
    const ds_type *x = &node->inputs[0]->type;
    if (x->rank < 1 || k < 1 || k > x->dims[x->rank - 1])
        return ds_fail(DS_INVALID, "k = %lld is not in 1 … the size of the last axis",
                       (long long)k);
    results[0] = *x;
    results[0].dims[x->rank - 1] = k;
    results[1] = results[0];
    results[1].dtype = DS_I32;
    return DS_OK;
}

static void topk_reference(const ds_kernel_args *args) {
    const int64_t k = ((const ds_topk_attrs *)args->node->attrs)->k;
    const ds_tensor *in = &args->inputs[0];
    const int64_t n = in->dims[in->rank - 1], rows = ds_count(in->dims, in->rank - 1);
    for (int64_t r = 0; r < rows; r++) {
        const float *x = (const float *)in->data + r * n;
        float *values = (float *)args->outputs[0].data + r * k;
        int32_t *indices = (int32_t *)args->outputs[1].data + r * k;
        int64_t found = 0;
        for (int64_t i = 0; i < n; i++) { /* insertion into a sorted list; earlier wins ties */
            if (found == k && !(x[i] > values[k - 1]))
                continue;
            int64_t at = found < k ? found++ : k - 1;
            for (; at > 0 && x[i] > values[at - 1]; at--) {
                values[at] = values[at - 1];
                indices[at] = indices[at - 1];
            }
            values[at] = x[i];
            indices[at] = (int32_t)i;
        }
    }
}

/* dy goes back to the k places it came from: dx[row, index] += dy. As a scatter into the flat
 * tensor, whose flat ids are row·n + index. */
static void topk_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults, ds_node **dinputs) {
    const ds_type *x = &node->inputs[0]->type;
    const int64_t n = x->dims[x->rank - 1], k = ((const ds_topk_attrs *)node->attrs)->k;
    const int64_t rows = ds_count(x->dims, x->rank - 1);
    if (!dresults[0])
        return;
    ds_node *row = ds_graph_cast(g, ds_graph_iota(g, rows), DS_F32);
    row = ds_graph_reshape(g, ds_graph_scale(g, row, (float)n), 2, (int64_t[]){rows, 1});
    ds_node *index = ds_graph_reshape(g, ds_node_result(node, 1), 2, (int64_t[]){rows, k});
    ds_node *flat = ds_graph_cast(g, ds_graph_add(g, ds_graph_cast(g, index, DS_F32), row), DS_I32);
    ds_node *dy = ds_graph_reshape(g, dresults[0], 3, (int64_t[]){rows, k, 1});
    ds_node *dx = ds_graph_scatter_add(g, dy, flat, rows * n);
    dinputs[0] = ds_graph_cast(g, ds_graph_reshape(g, dx, x->rank, x->dims), x->dtype);
}

const ds_op ds_op_topk = {
    .name = "topk",
    .attrs_size = sizeof(ds_topk_attrs),
    .n_results = 2,
    .precision = DS_PRECISION_F32,
    .shape = topk_shape,
    .gradient = topk_gradient,
    .reference = topk_reference,
};

ds_node *ds_graph_topk(ds_graph *g, ds_node *x, int64_t k, ds_node **indices) {
    ds_node *values = ds_graph_add_node(g, &ds_op_topk, &(ds_topk_attrs){k}, &x, 1);
    *indices = values ? ds_node_result(values, 1) : NULL;
    return values;
}
