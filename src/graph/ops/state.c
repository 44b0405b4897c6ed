/* Effects on variables: assign, accumulate, cache_write; and the global norm's sum of squares. */
#include <string.h>

#include "graph/ops/ops.h"

static ds_status check_variable(const ds_node *node) {
    const ds_op *op = node->inputs[0]->op;
    if (op != &ds_op_variable && op != &ds_op_param && !(op->traits & DS_EFFECT))
        return ds_fail(DS_INVALID, "its target is a %s, not a variable", op->name);
    return DS_OK;
}

static ds_status write_shape(const ds_node *node, ds_type *results) {
    DS_TRY(check_variable(node));
    results[0] = node->inputs[0]->type;
    if (!ds_type_equal(&results[0], &node->inputs[1]->type))
        return ds_fail(DS_INVALID, "variable and value differ in shape or dtype");
    return DS_OK;
}

/* Effects: outputs[0] is the variable's own memory (same data as inputs[0]). */
static void assign_reference(const ds_kernel_args *args) {
    const ds_tensor *out = &args->outputs[0];
    const size_t size = ds_dtype_is_float(out->dtype) ? sizeof(float) : ds_dtype_size(out->dtype);
    memcpy(out->data, args->inputs[1].data, (size_t)ds_count(out->dims, out->rank) * size);
}

const ds_op ds_op_assign = {
    .name = "assign",
    .n_changed = 1,
    .traits = DS_EFFECT,
    .precision = DS_PRECISION_KEEP,
    .shape = write_shape,
    .reference = assign_reference,
};

static void accumulate_reference(const ds_kernel_args *args) {
    const ds_tensor *out = &args->outputs[0];
    const int64_t n = ds_count(out->dims, out->rank);
    const float *x = args->inputs[1].data;
    for (int64_t i = 0; i < n; i++)
        ((float *)out->data)[i] += x[i];
}

const ds_op ds_op_accumulate = {
    .name = "accumulate",
    .n_changed = 1,
    .traits = DS_EFFECT,
    .precision = DS_PRECISION_KEEP,
    .shape = write_shape,
    .reference = accumulate_reference,
};

static void add_effect(ds_graph *g, const ds_op *op, ds_node *variable, ds_node *x) {
    if (variable && x)
        x = ds_graph_cast(g, x, variable->type.dtype);
    ds_graph_add_node(g, op, NULL, (ds_node *[]){variable, x}, 2);
}

void ds_graph_assign(ds_graph *g, ds_node *variable, ds_node *x) {
    add_effect(g, &ds_op_assign, variable, x);
}

void ds_graph_accumulate(ds_graph *g, ds_node *variable, ds_node *x) {
    add_effect(g, &ds_op_accumulate, variable, x);
}

static ds_status cache_write_shape(const ds_node *node, ds_type *results) {
    DS_TRY(check_variable(node));
    const ds_type *cache = &node->inputs[0]->type, *x = &node->inputs[1]->type;
    const ds_type *start = &node->inputs[2]->type;
    results[0] = *cache;
    if (cache->rank < 2 || x->rank != cache->rank || x->dtype != cache->dtype)
        return ds_fail(DS_INVALID, "cache and rows differ in rank or dtype");
    for (int i = 0; i < cache->rank; i++)
        if (i != 1 && x->dims[i] != cache->dims[i])
            return ds_fail(DS_INVALID, "cache and rows differ in axis %d", i);
    if (x->dims[1] > cache->dims[1])
        return ds_fail(DS_INVALID, "%lld rows do not fit a cache of %lld", (long long)x->dims[1],
                       (long long)cache->dims[1]);
    if (start->dtype != DS_I32 || start->rank != 1 || start->dims[0] != cache->dims[0])
        return ds_fail(DS_INVALID, "start must be i32[%lld]", (long long)cache->dims[0]);
    return DS_OK;
}

static void cache_write_reference(const ds_kernel_args *args) {
    const ds_tensor *cache = &args->outputs[0], *x = &args->inputs[1];
    const int32_t *start = args->inputs[2].data;
    const size_t size =
        ds_dtype_is_float(cache->dtype) ? sizeof(float) : ds_dtype_size(cache->dtype);
    const size_t row = (size_t)ds_count(cache->dims + 2, cache->rank - 2) * size;
    for (int64_t b = 0; b < x->dims[0]; b++)
        for (int64_t t = 0; t < x->dims[1]; t++) {
            const int64_t at = start[b] + t;
            if (at >= 0 && at < cache->dims[1])
                memcpy((char *)cache->data + (size_t)(b * cache->dims[1] + at) * row,
                       (const char *)x->data + (size_t)(b * x->dims[1] + t) * row, row);
        }
}

const ds_op ds_op_cache_write = {
    .name = "cache_write",
    .n_changed = 1,
    .traits = DS_EFFECT,
    .precision = DS_PRECISION_KEEP,
    .shape = cache_write_shape,
    .reference = cache_write_reference,
};

ds_node *ds_graph_cache_write(ds_graph *g, ds_node *variable, ds_node *x, ds_node *start) {
    if (variable && x)
        x = ds_graph_cast(g, x, variable->type.dtype);
    return ds_graph_add_node(g, &ds_op_cache_write, NULL, (ds_node *[]){variable, x, start}, 3);
}

/* ---- sum of squares -------------------------------------------------------------------------- */

static ds_status squares_shape(const ds_node *node, ds_type *results) {
    results[0] = ds_scalar_type();
    for (int i = 0; i < node->n_inputs; i++)
        if (!ds_dtype_is_float(node->inputs[i]->type.dtype))
            return ds_fail(DS_INVALID, "input %d is not a float", i);
    return DS_OK;
}

static void squares_reference(const ds_kernel_args *args) {
    double sum = 0;
    for (int k = 0; k < args->n_inputs; k++) {
        const float *x = args->inputs[k].data;
        const int64_t n = ds_count(args->inputs[k].dims, args->inputs[k].rank);
        for (int64_t i = 0; i < n; i++)
            sum += (double)x[i] * (double)x[i];
    }
    *(float *)args->outputs[0].data = (float)sum;
}

const ds_op ds_op_sum_of_squares = {
    .name = "sum_of_squares",
    .precision = DS_PRECISION_KEEP,
    .shape = squares_shape,
    .reference = squares_reference,
};

ds_node *ds_graph_sum_of_squares(ds_graph *g, ds_node *const *xs, int n) {
    return ds_graph_add_node(g, &ds_op_sum_of_squares, NULL, xs, n);
}
