/* Activation offload: values that the backward pass reads long after the forward pass made them
 * wait in the host arena. Each gets a copy out, right after it is made, and a copy back, right
 * before its first reader of the backward pass; both are ops like any other, run where they stand:
 * nothing overlaps them so far. */
#include <stdlib.h>

#include "base/alloc.h"
#include "graph/ops/ops.h"
#include "passes/passes.h"

enum { MIN_BYTES = 1 << 16 }; /* smaller ones are not worth a copy */

typedef struct offload_pass {
    ds_node **waiting; /* by id of the old graph: the copy in host space */
    ds_node **back;    /* by id of the old graph: the copy that came back */
    bool *leaves;      /* by id of the old graph: is offloaded */
} offload_pass;

static bool is_activation(const ds_node *x) {
    return x->phase == DS_FORWARD && x->segment != 0 && !ds_node_has(x, DS_LEAF) &&
           !ds_node_has(x, DS_VIEW) && !ds_node_has(x, DS_EFFECT) && !ds_node_has(x, DS_DERIVED) &&
           ds_type_size(&x->type) >= MIN_BYTES;
}

/* What lies behind views: the value whose memory is read. */
static const ds_node *stored(const ds_node *x) {
    while (ds_node_has(x, DS_VIEW))
        x = x->inputs[0];
    return x;
}

static void choose(const ds_graph *g, bool *leaves) {
    for (size_t i = 0; i < g->n_nodes; i++) {
        const ds_node *reader = g->nodes[i];
        if (reader->phase != DS_BACKWARD || ds_node_has(reader, DS_VIEW))
            continue;
        for (int k = 0; k < reader->n_inputs; k++) {
            const ds_node *x = stored(reader->inputs[k]);
            leaves[x->id] = leaves[x->id] || is_activation(x);
        }
    }
    for (size_t i = 0; i < g->n_outputs; i++)
        leaves[stored(g->outputs[i].node)->id] = false;
}

static ds_node *copy_between(ds_graph *to, ds_node *x, const ds_node *like, ds_phase phase,
                             bool to_host) {
    to->phase = phase;
    snprintf(to->scope, sizeof to->scope, "%s", like->scope);
    ds_node *copy = ds_graph_contiguous(to, x);
    if (copy)
        copy->in_host_space = to_host;
    return copy;
}

/* x as the backward pass reads it: fetched back where it was sent away. */
static ds_node *fetched(ds_rewrite *r, ds_graph *to, const ds_node *x) {
    offload_pass *pass = r->context;
    if (ds_node_has(x, DS_VIEW)) {
        if (!pass->leaves[stored(x)->id])
            return r->map[x->id];
        ds_node *input = fetched(r, to, x->inputs[0]);
        return ds_graph_copy_node(to, x, &input);
    }
    if (!pass->leaves[x->id])
        return r->map[x->id];
    if (!pass->waiting[x->id])
        pass->waiting[x->id] = copy_between(to, r->map[x->id], x, DS_FORWARD, true);
    if (!pass->back[x->id])
        pass->back[x->id] = copy_between(to, pass->waiting[x->id], x, DS_BACKWARD, false);
    return pass->back[x->id];
}

static ds_node *rewrite_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                             ds_node *const *given) {
    offload_pass *pass = r->context;
    if (node->phase != DS_BACKWARD) {
        ds_node *copy = ds_graph_copy_node(to, node, given);
        if (copy && pass->leaves[node->id])
            pass->waiting[node->id] = copy_between(to, copy, node, DS_FORWARD, true);
        for (int k = 1; copy && node->results && k < node->op->n_results; k++) {
            const ds_node *result = node->results[k];
            if (result && pass->leaves[result->id])
                pass->waiting[result->id] =
                    copy_between(to, ds_node_result(copy, k), node, DS_FORWARD, true);
        }
        return copy;
    }
    if (ds_node_has(node, DS_VIEW))
        return ds_graph_copy_node(to, node, given);
    ds_node *few[16] = {0}, **inputs = few;
    if (node->n_inputs > 16 && !(inputs = ds_malloc((size_t)node->n_inputs * sizeof *inputs)))
        return ds_graph_poison(to, DS_OUT_OF_MEMORY);
    for (int i = 0; i < node->n_inputs; i++)
        inputs[i] = fetched(r, to, node->inputs[i]);
    ds_node *copy = ds_graph_copy_node(to, node, inputs);
    if (inputs != few)
        free(inputs);
    return copy;
}

ds_graph *ds_pass_offload(const ds_graph *g) {
    offload_pass pass = {
        .waiting = ds_calloc(g->n_nodes, sizeof *pass.waiting),
        .back = ds_calloc(g->n_nodes, sizeof *pass.back),
        .leaves = ds_calloc(g->n_nodes, sizeof *pass.leaves),
    };
    ds_graph *to = NULL;
    if (pass.waiting && pass.back && pass.leaves) {
        choose(g, pass.leaves);
        to = ds_graph_rewrite(g, rewrite_node, &pass);
    }
    free(pass.waiting);
    free(pass.back);
    free(pass.leaves);
    return to;
}
