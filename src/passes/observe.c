/* For calibration: every product with a parameter of its own tells the largest magnitude that each
 * column of its input had, as the output "range/PARAMETER". */
#include "graph/ops/ops.h"
#include "passes/passes.h"

static ds_node *observe_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                             ds_node *const *inputs) {
    const ds_matmul_attrs *t = node->attrs;
    ds_node *copy = ds_graph_copy_node(to, node, inputs);
    (void)r;
    if (node->op != &ds_op_matmul || t->transpose_a || !ds_node_is(inputs[1], &ds_op_param) ||
        inputs[1]->type.rank != 2)
        return copy;
    ds_node *x = ds_graph_cast(to, inputs[0], DS_F32);
    x = ds_graph_reshape(to, x, 2, (int64_t[]){-1, ds_node_dim(x, -1)});
    x = ds_graph_reduce(to, DS_MAX, ds_graph_unary(to, DS_ABS, x, 0), 1u << 0, false);
    char name[512];
    snprintf(name, sizeof name, DS_RANGE_PREFIX "%s", inputs[1]->name);
    ds_graph_output(to, name, x);
    return copy;
}

ds_graph *ds_pass_observe(const ds_graph *g) {
    return ds_graph_rewrite(g, observe_node, NULL);
}
