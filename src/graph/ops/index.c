/* Ops that move rows by index: gather and its opposite, and the routing of tokens to experts. */
#include <string.h>

#include "graph/ops/ops.h"

/* ---- gather ---------------------------------------------------------------------------------- */

static ds_status gather_shape(const ds_node *node, ds_type *results) {
    const ds_type *table = &node->inputs[0]->type, *ids = &node->inputs[1]->type;
    if (table->rank < 1 || ids->dtype != DS_I32 || ids->rank + table->rank - 1 > DS_MAX_RANK)
        return ds_fail(DS_INVALID, "wants a table [rows, ...] and ids of i32");
    results[0] = ds_type_of(table->dtype, ids->rank, ids->dims);
    for (int i = 1; i < table->rank; i++)
        results[0].dims[results[0].rank++] = table->dims[i];
    return DS_OK;
}

static void gather_reference(const ds_kernel_args *args) {
    const ds_tensor *table = &args->inputs[0], *ids = &args->inputs[1];
    const size_t size =
        ds_dtype_is_float(table->dtype) ? sizeof(float) : ds_dtype_size(table->dtype);
    const size_t row = (size_t)ds_count(table->dims + 1, table->rank - 1) * size;
    for (int64_t i = 0; i < ds_count(ids->dims, ids->rank); i++) {
        const int64_t id = ((const int32_t *)ids->data)[i];
        char *to = (char *)args->outputs[0].data + (size_t)i * row;
        if (id >= 0 && id < table->dims[0])
            memcpy(to, (const char *)table->data + (size_t)id * row, row);
        else
            memset(to, 0, row);
    }
}

static void gather_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                            ds_node **dinputs) {
    const ds_type *table = &node->inputs[0]->type;
    ds_node *sum = ds_graph_scatter_add(g, dresults[0], node->inputs[1], table->dims[0]);
    dinputs[0] = ds_graph_cast(g, sum, table->dtype);
}

static ds_cost moved_cost(const ds_node *node) {
    return (ds_cost){.bytes = 2 * (double)ds_type_size(&node->type)};
}

const ds_op ds_op_gather = {
    .name = "gather",
    .precision = DS_PRECISION_KEEP, /* rows of the f32 master are read; few are wanted */
    .stored = 1u << 0,
    .shape = gather_shape,
    .gradient = gather_gradient,
    .cost = moved_cost,
    .reference = gather_reference,
};

ds_node *ds_graph_gather(ds_graph *g, ds_node *table, ds_node *ids) {
    return ds_graph_add_node(g, &ds_op_gather, NULL, (ds_node *[]){table, ids}, 2);
}

/* ---- scatter_add: rows of x are added up, to zero or to `onto` ------------------------------- */

static ds_status scatter_shape(const ds_node *node, ds_type *results) {
    const ds_type *x = &node->inputs[0]->type, *ids = &node->inputs[1]->type;
    if (ids->dtype != DS_I32 || x->rank < ids->rank || !ds_dtype_is_float(x->dtype) ||
        memcmp(x->dims, ids->dims, sizeof(int64_t) * (size_t)ids->rank) != 0)
        return ds_fail(DS_INVALID, "x must have the ids' shape followed by a row's");
    const int rank = 1 + x->rank - ids->rank;
    if (rank > DS_MAX_RANK) /* ids of rank 0 */
        return ds_fail(DS_INVALID, "the result's rank %d is not in 0 … %d", rank, DS_MAX_RANK);
    results[0] = (ds_type){DS_F32, 1, {((const ds_scatter_add_attrs *)node->attrs)->n_rows}};
    for (int i = ids->rank; i < x->rank; i++)
        results[0].dims[results[0].rank++] = x->dims[i];
    if (node->n_inputs == 3 && !ds_type_equal(&node->inputs[2]->type, &results[0]))
        return ds_fail(DS_INVALID, "what is added to must be f32 and have the result's shape");
    return DS_OK;
}

static void scatter_reference(const ds_kernel_args *args) {
    const ds_tensor *out = &args->outputs[0], *ids = &args->inputs[1];
    const int64_t row = ds_count(out->dims + 1, out->rank - 1);
    const float *x = args->inputs[0].data;
    float *y = out->data;
    if (args->n_inputs == 3)
        memmove(y, args->inputs[2].data, (size_t)(out->dims[0] * row) * sizeof *y);
    else
        memset(y, 0, (size_t)(out->dims[0] * row) * sizeof *y);
    for (int64_t i = 0; i < ds_count(ids->dims, ids->rank); i++) {
        const int64_t id = ((const int32_t *)ids->data)[i];
        for (int64_t k = 0; id >= 0 && id < out->dims[0] && k < row; k++)
            y[id * row + k] += x[i * row + k];
    }
}

static void scatter_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                             ds_node **dinputs) {
    ds_node *rows = ds_graph_gather(g, dresults[0], node->inputs[1]);
    dinputs[0] = ds_graph_cast(g, rows, node->inputs[0]->type.dtype);
    if (node->n_inputs == 3)
        dinputs[2] = dresults[0];
}

const ds_op ds_op_scatter_add = {
    .name = "scatter_add",
    .attrs_size = sizeof(ds_scatter_add_attrs),
    .precision = DS_PRECISION_KEEP,
    .shape = scatter_shape,
    .gradient = scatter_gradient,
    .cost = moved_cost,
    .reference = scatter_reference,
};

ds_node *ds_graph_scatter_add(ds_graph *g, ds_node *x, ds_node *ids, int64_t n_rows) {
    return ds_graph_add_node(g, &ds_op_scatter_add, &(ds_scatter_add_attrs){n_rows},
                             (ds_node *[]){x, ids}, 2);
}

/* ---- routing to experts
 * --------------------------------------------------------------------------- */

static ds_status route_shape(const ds_node *node, ds_type *results) {
    const ds_type *experts = &node->inputs[0]->type;
    const int64_t n = ((const ds_moe_route_attrs *)node->attrs)->n_experts;
    if (experts->dtype != DS_I32 || experts->rank != 2 || n < 1)
        return ds_fail(DS_INVALID, "wants chosen experts as i32 [tokens, k]");
    results[0] = (ds_type){DS_I32, 1, {ds_count(experts->dims, 2)}};
    results[1] = (ds_type){DS_I32, 1, {n + 1}};
    return DS_OK;
}

/* A counting sort by expert, stable in the order of choices. */
static void route_reference(const ds_kernel_args *args) {
    const int64_t n = ds_count(args->inputs[0].dims, 2);
    const int64_t n_experts = args->outputs[1].dims[0] - 1;
    const int32_t *experts = args->inputs[0].data;
    int32_t *order = args->outputs[0].data, *offsets = args->outputs[1].data;
    int32_t place = 0;
    for (int64_t e = 0; e < n_experts; e++) {
        offsets[e] = place;
        for (int64_t i = 0; i < n; i++)
            if (experts[i] == e)
                order[place++] = (int32_t)i;
    }
    offsets[n_experts] = place;
    for (int64_t i = place; i < n; i++)
        order[i] = -1; /* choices of no expert */
}

const ds_op ds_op_moe_route = {
    .name = "moe_route",
    .attrs_size = sizeof(ds_moe_route_attrs),
    .n_results = 2,
    .precision = DS_PRECISION_KEEP,
    .shape = route_shape,
    .reference = route_reference,
};

ds_node *ds_graph_moe_route(ds_graph *g, ds_node *experts, int64_t n_experts, ds_node **offsets) {
    ds_node *order =
        ds_graph_add_node(g, &ds_op_moe_route, &(ds_moe_route_attrs){n_experts}, &experts, 1);
    *offsets = ds_node_result(order, 1);
    return order;
}
