/* Parameters as a trained model's files have them. The state of such a model keeps its matrices in
 * bf16 or f16, as they were published; a graph describes every parameter as f32. This pass gives
 * each leaf the type that it is kept in. Products and look-ups read it as it is: no copy in another
 * type is ever made, and the precision pass's casts of masters vanish. For any other reader a cast
 * to the type that it had comes in between, which is kept as every cast of a parameter is. */
#include "graph/ops/ops.h"
#include "passes/passes.h"

enum { MOST_INPUTS = 16 }; /* only updates have more, and such parameters are not updated */

typedef struct stored_pass {
    ds_stored_dtype *dtype_of;
    const void *context;
} stored_pass;

static bool reads_stored(const ds_node *node, int input) {
    return input < 32 && (node->op->stored >> input & 1u);
}

static ds_node *stored_leaf(const stored_pass *pass, ds_graph *to, const ds_node *param) {
    ds_type type = param->type;
    type.dtype = pass->dtype_of(param->name, pass->context);
    ds_node *leaf = ds_graph_add_leaf(to, &ds_op_param, param->name, &type, param->init);
    if (leaf)
        leaf->place = param->place;
    return leaf;
}

static bool is_stored(const ds_node *x) {
    return ds_node_is(x, &ds_op_param) && x->type.dtype != DS_F32;
}

static ds_node *rewrite_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                             ds_node *const *given) {
    const stored_pass *pass = r->context;
    if (node->op == &ds_op_param)
        return stored_leaf(pass, to, node);
    if (node->op == &ds_op_cast && is_stored(given[0]))
        return given[0]; /* whoever reads the cast decides */
    ds_node *inputs[MOST_INPUTS];
    if (node->n_inputs > MOST_INPUTS)
        return ds_graph_copy_node(to, node, given);
    for (int i = 0; i < node->n_inputs; i++) {
        inputs[i] = given[i];
        if (is_stored(given[i]) && !reads_stored(node, i))
            inputs[i] = ds_graph_cast(to, given[i], node->inputs[i]->type.dtype);
    }
    ds_node *copy = ds_graph_copy_node(to, node, inputs);
    if (node->op == &ds_op_gather) /* rows are of the table's type */
        copy = ds_graph_cast(to, copy, node->type.dtype);
    return copy;
}

ds_graph *ds_pass_stored(const ds_graph *g, ds_stored_dtype *dtype_of, const void *context) {
    stored_pass pass = {.dtype_of = dtype_of, .context = context};
    ds_graph *to = ds_graph_rewrite(g, rewrite_node, &pass);
    for (size_t i = 0; to && to->status == DS_OK && i < to->n_outputs; i++)
        to->outputs[i].node =
            ds_graph_cast(to, to->outputs[i].node, g->outputs[i].node->type.dtype);
    return to;
}
