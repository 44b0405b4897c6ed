/* Before grouping: a cheap value of the forward pass that element-wise ops of the backward pass
 * read is made again for them, where what it is made from waits in memory as long anyway. There it
 * becomes part of a group, and need not be kept: the SiLU of SwiGLU's gate, read by the product
 * forward and by the gradient of the other factor, is an activation less a layer. */
#include <stdlib.h>

#include "base/alloc.h"
#include "graph/ops/ops.h"
#include "passes/fuse_elementwise.h"

typedef struct readers {
    int last;      /* id */
    bool backward; /* some are of the backward pass */
    bool apart;    /* one of those cannot have the value in its group */
} readers;

typedef struct repeat_pass {
    bool *repeated;  /* by id of the old graph */
    ds_node **again; /* by id of the old graph: the copy for the backward pass, once made */
} repeat_pass;

static void note_reader(readers *r, const ds_node *x, const ds_node *reader) {
    r->last = reader->id;
    if (reader->phase != DS_BACKWARD)
        return;
    r->backward = true;
    r->apart = r->apart || !ds_can_join_group(reader) || !ds_has_shape_of(reader, x);
}

/* By id: who reads it, of what is reachable. */
static ds_status find_readers(const ds_graph *g, readers *all) {
    bool *needed = ds_graph_reachable(g);
    if (!needed)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < g->n_nodes; i++)
        for (int k = 0; needed[i] && k < g->nodes[i]->n_inputs; k++)
            note_reader(&all[g->nodes[i]->inputs[k]->id], g->nodes[i]->inputs[k], g->nodes[i]);
    free(needed);
    return DS_OK;
}

static bool is_repeated(const ds_node *x, const readers *all) {
    const readers *r = &all[x->id];
    if (x->op != &ds_op_unary || !ds_can_join_group(x) || x->phase != DS_FORWARD || !r->backward ||
        r->apart)
        return false;
    return ds_node_has(x->inputs[0], DS_LEAF) || all[x->inputs[0]->id].last >= r->last;
}

static ds_node *again(ds_rewrite *r, ds_graph *to, const ds_node *x, const ds_node *reader) {
    repeat_pass *pass = r->context;
    if (!pass->again[x->id]) {
        ds_node *copy = ds_graph_copy_node(to, x, &r->map[x->inputs[0]->id]);
        if (copy) {
            copy->phase = reader->phase;
            copy->segment = reader->segment;
        }
        pass->again[x->id] = copy;
    }
    return pass->again[x->id];
}

static ds_node *rewrite_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                             ds_node *const *given) {
    const repeat_pass *pass = r->context;
    ds_node *inputs[3]; /* the most of any op that joins groups */
    if (node->phase != DS_BACKWARD || !ds_can_join_group(node))
        return ds_graph_copy_node(to, node, given);
    for (int k = 0; k < node->n_inputs; k++) {
        const ds_node *x = node->inputs[k];
        inputs[k] = pass->repeated[x->id] ? again(r, to, x, node) : given[k];
    }
    return ds_graph_copy_node(to, node, inputs);
}

ds_graph *ds_repeat_cheap(const ds_graph *g) {
    readers *all = ds_calloc(g->n_nodes + 1, sizeof *all);
    repeat_pass pass = {.repeated = ds_calloc(g->n_nodes + 1, sizeof *pass.repeated),
                        .again = ds_calloc(g->n_nodes + 1, sizeof *pass.again)};
    ds_graph *to = NULL;
    if (all && pass.repeated && pass.again && find_readers(g, all) == DS_OK) {
        for (size_t i = 0; i < g->n_nodes; i++)
            pass.repeated[i] = is_repeated(g->nodes[i], all);
        to = ds_graph_rewrite(g, rewrite_node, &pass);
    }
    free(all);
    free(pass.repeated);
    free(pass.again);
    return to;
}
