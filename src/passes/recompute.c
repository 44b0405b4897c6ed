/* Activation checkpointing (Chen et al. 2016): the backward pass reads copies of a segment's values
 * that are computed again, just before they are needed, from what the segment was given. */
#include <stdlib.h>

#include "base/alloc.h"
#include "graph/ops/ops.h"
#include "passes/passes.h"

typedef struct recompute_pass {
    ds_recompute mode;
    ds_node **again; /* by id of the old graph: the recomputed copy in the new one */
    bool *boundary;  /* by id of the old graph: read by the forward pass outside its segment */
} recompute_pass;

/* Does the backward pass have to make x again? Only values of a segment that are not kept. */
static bool is_dropped(const recompute_pass *pass, const ds_node *x) {
    const ds_node *maker = x->op == &ds_op_result ? x->inputs[0] : x;
    if (x->phase != DS_FORWARD || x->segment == 0 || ds_node_has(x, DS_LEAF) ||
        ds_node_has(x, DS_EFFECT) || pass->boundary[x->id])
        return false;
    return pass->mode == DS_RECOMPUTE_FULL || !ds_node_has(maker, DS_HEAVY);
}

/* The copy of x for the backward pass, made with all it needs, innermost first. */
static ds_node *again(ds_rewrite *r, ds_graph *to, const ds_node *x) {
    recompute_pass *pass = r->context;
    if (!is_dropped(pass, x))
        return r->map[x->id];
    if (pass->again[x->id])
        return pass->again[x->id];
    ds_node *few[16] = {0}, **inputs = few;
    if (x->n_inputs > 16 && !(inputs = ds_malloc((size_t)x->n_inputs * sizeof *inputs)))
        return NULL;
    for (int i = 0; i < x->n_inputs; i++)
        inputs[i] = again(r, to, x->inputs[i]);
    ds_node *copy = ds_graph_copy_node(to, x, inputs);
    if (copy)
        copy->phase = DS_BACKWARD;
    if (inputs != few)
        free(inputs);
    return pass->again[x->id] = copy;
}

static ds_node *rewrite_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                             ds_node *const *given) {
    if (node->phase != DS_BACKWARD)
        return ds_graph_copy_node(to, node, given);
    ds_node *few[16] = {0}, **inputs = few;
    if (node->n_inputs > 16 && !(inputs = ds_malloc((size_t)node->n_inputs * sizeof *inputs)))
        return NULL;
    for (int i = 0; i < node->n_inputs; i++)
        inputs[i] = again(r, to, node->inputs[i]);
    ds_node *copy = ds_graph_copy_node(to, node, inputs);
    if (inputs != few)
        free(inputs);
    return copy;
}

/* What one segment hands to another is kept: without it a layer would be recomputed from the first
 * layer on. */
static void mark_boundaries(const ds_graph *g, bool *boundary) {
    for (size_t i = 0; i < g->n_nodes; i++) {
        const ds_node *node = g->nodes[i];
        if (node->phase != DS_FORWARD || node->op == &ds_op_result)
            continue;
        for (int k = 0; k < node->n_inputs; k++)
            if (node->inputs[k]->segment != node->segment)
                boundary[node->inputs[k]->id] = true;
    }
    for (size_t i = 0; i < g->n_outputs; i++)
        boundary[g->outputs[i].node->id] = true;
}

ds_graph *ds_pass_recompute(const ds_graph *g, ds_recompute recompute) {
    recompute_pass pass = {.mode = recompute};
    if (recompute == DS_RECOMPUTE_NONE)
        return ds_graph_rewrite(g, NULL, NULL);
    pass.again = ds_calloc(g->n_nodes, sizeof *pass.again);
    pass.boundary = ds_calloc(g->n_nodes, sizeof *pass.boundary);
    ds_graph *to = NULL;
    if (pass.again && pass.boundary) {
        mark_boundaries(g, pass.boundary);
        to = ds_graph_rewrite(g, rewrite_node, &pass);
    }
    free(pass.again);
    free(pass.boundary);
    return to;
}
