/* Mixed precision (Micikevicius et al. 2018): each op says through its precision rule in which type
 * it wants its inputs; this pass inserts the casts. Parameters stay f32: a cast of the master is
 * made where a low-precision op reads one, so gradients of the masters come out in f32. */
#include "graph/ops/ops.h"
#include "passes/passes.h"

typedef struct precision_pass {
    ds_dtype low;
} precision_pass;

static bool is_kept(const ds_node *node, int input) {
    return input < 32 && (node->op->keep_f32 >> input & 1u);
}

static bool is_float(const ds_node *x) {
    return ds_dtype_is_float(x->type.dtype) != 0;
}

/* True when the float inputs that are not exempt differ in dtype. */
static bool differ(const ds_node *node, ds_node *const *inputs) {
    int first = -1;
    for (int i = 0; i < node->n_inputs; i++) {
        if (is_kept(node, i) || !is_float(inputs[i]))
            continue;
        if (first >= 0 && inputs[i]->type.dtype != inputs[first]->type.dtype)
            return true;
        first = first < 0 ? i : first;
    }
    return false;
}

/* x in dtype; of what is repeated, the one original is cast (a bias, not its rows). */
static ds_node *cast_value(ds_graph *to, ds_node *x, ds_dtype dtype) {
    if (!ds_node_is(x, &ds_op_broadcast))
        return ds_graph_cast(to, x, dtype);
    ds_node *original = cast_value(to, x->inputs[0], dtype);
    return ds_graph_broadcast(to, original, x->type.rank, x->type.dims);
}

static void cast_inputs(ds_graph *to, const ds_node *node, ds_node **inputs, ds_dtype dtype) {
    for (int i = 0; i < node->n_inputs; i++)
        if (inputs[i] && is_float(inputs[i]) && !is_kept(node, i))
            inputs[i] = cast_value(to, inputs[i], dtype);
}

/* Effects write into variables whose dtype was chosen by the model. */
static void restore_inputs(ds_graph *to, const ds_node *node, ds_node **inputs) {
    for (int i = 0; i < node->n_inputs; i++)
        inputs[i] = ds_graph_cast(to, inputs[i], node->inputs[i]->type.dtype);
}

static ds_node *lower_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                           ds_node *const *given) {
    const precision_pass *pass = r->context;
    ds_node *inputs[64];
    if (node->n_inputs > 64)
        return ds_graph_copy_node(to, node, given); /* variadic ops take any mixture */
    for (int i = 0; i < node->n_inputs; i++)
        inputs[i] = given[i];
    if (ds_node_has(node, DS_EFFECT))
        restore_inputs(to, node, inputs);
    else if (node->op->precision == DS_PRECISION_LOW)
        cast_inputs(to, node, inputs, pass->low);
    else if (node->op->precision == DS_PRECISION_F32)
        cast_inputs(to, node, inputs, DS_F32);
    else if (node->op->precision == DS_PRECISION_FOLLOW && differ(node, inputs))
        cast_inputs(to, node, inputs, pass->low);
    ds_node *copy = ds_graph_copy_node(to, node, inputs);
    if (node->op == &ds_op_gather && copy && is_float(copy))
        copy = ds_graph_cast(to, copy, pass->low); /* embeddings start the low-precision stream */
    return copy;
}

ds_graph *ds_pass_precision(const ds_graph *g, ds_precision precision) {
    precision_pass pass = {.low = precision == DS_PRECISION_FP16 ? DS_F16 : DS_BF16};
    ds_graph *to = ds_graph_rewrite(g, precision == DS_PRECISION_FULL ? NULL : lower_node, &pass);
    for (size_t i = 0; to && to->status == DS_OK && i < to->n_outputs; i++) {
        ds_node *o = to->outputs[i].node; /* callers read what the model promised */
        const ds_dtype promised = g->outputs[i].node->type.dtype;
        if (o->type.dtype != promised)
            to->outputs[i].node = ds_graph_cast(to, o, promised);
    }
    return to;
}
