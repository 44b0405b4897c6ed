/* Before grouping: a cheap value of the forward pass that the backward pass reads is made again
 * there, where what it is made from waits in memory as long anyway, and need not be kept. For
 * element-wise readers it becomes part of their group: the SiLU of SwiGLU's gate, read by the
 * product forward and by the gradient of the other factor. For a matrix product it is one more pass
 * over memory beside much arithmetic: activations and norms, which gradients of weights read, are
 * a third of what a transformer's layer keeps. */
#include <limits.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "graph/ops/ops.h"
#include "passes/fuse_elementwise.h"

typedef struct readers {
    int last;      /* id */
    bool backward; /* some are of the backward pass */
    bool apart;    /* one of those neither has the value in its group nor is a heavy op */
    bool together; /* all of those have it in their group */
} readers;

typedef struct repeat_pass {
    readers *readers; /* by id of the old graph, as the next two */
    bool *repeated;
    int *waits;      /* until which reader it is there anyway */
    ds_node **again; /* by id of the old graph: the copy for the backward pass, once made */
} repeat_pass;

static void note_reader(readers *r, const ds_node *x, const ds_node *reader) {
    r->last = reader->id;
    if (reader->phase != DS_BACKWARD)
        return;
    const bool joins = ds_can_join_group(reader) && ds_has_shape_of(reader, x);
    r->together = joins && (r->together || !r->backward);
    r->apart = r->apart || (!joins && !ds_node_has(reader, DS_HEAVY));
    r->backward = true;
}

/* What a view of the backward pass describes anew; any other node itself. */
static const ds_node *behind_views(const ds_node *x) {
    while (ds_node_has(x, DS_VIEW) && x->phase == DS_BACKWARD)
        x = x->inputs[0];
    return x;
}

/* By id: who reads it, of what is reachable; whoever reads a view reads what is behind it. */
static ds_status find_readers(const ds_graph *g, readers *all) {
    bool *needed = ds_graph_reachable(g);
    if (!needed)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const ds_node *reader = g->nodes[i];
        if (!needed[i] || (ds_node_has(reader, DS_VIEW) && reader->phase == DS_BACKWARD))
            continue;
        for (int k = 0; k < reader->n_inputs; k++) {
            const ds_node *x = behind_views(reader->inputs[k]);
            note_reader(&all[x->id], x, reader);
        }
    }
    free(needed);
    return DS_OK;
}

/* Norms, of which a gradient of weights reads the result, and what can be part of a group. */
static bool is_cheap(const ds_node *x) {
    return ds_can_join_group(x) || x->op == &ds_op_layer_norm || x->op == &ds_op_rms_norm;
}

static bool is_repeated(const repeat_pass *pass, const ds_node *x) {
    const readers *r = &pass->readers[x->id];
    if (!is_cheap(x) || x->phase != DS_FORWARD || !r->backward || r->apart)
        return false;
    if (r->together && x->op != &ds_op_unary)
        return false; /* kept as it is: its group would grow by all its inputs */
    for (int k = 0; k < x->n_inputs; k++)
        if (pass->waits[x->inputs[k]->id] < r->last)
            return false;
    return true;
}

/* A leaf waits for ever; what is made again is there as long as what it is made from. */
static int waits(const repeat_pass *pass, const ds_node *x) {
    if (ds_node_has(x, DS_LEAF))
        return INT_MAX;
    if (!pass->repeated[x->id])
        return pass->readers[x->id].last;
    int least = INT_MAX;
    for (int k = 0; k < x->n_inputs; k++)
        least = pass->waits[x->inputs[k]->id] < least ? pass->waits[x->inputs[k]->id] : least;
    return least;
}

enum { MOST_INPUTS = 16 };

/* A copy for the backward pass. What it reads and is made again too, it has to itself, so that both
 * can be in one group. */
static ds_node *copy_of(ds_rewrite *r, ds_graph *to, const ds_node *x, const ds_node *reader) {
    const repeat_pass *pass = r->context;
    ds_node *inputs[MOST_INPUTS];
    for (int k = 0; k < x->n_inputs; k++) {
        const ds_node *input = x->inputs[k];
        inputs[k] = pass->repeated[input->id] ? copy_of(r, to, input, reader) : r->map[input->id];
    }
    ds_node *copy = ds_graph_copy_node(to, x, inputs);
    if (copy) {
        copy->phase = reader->phase;
        copy->segment = reader->segment;
    }
    return copy;
}

/* One copy for all that read x itself. */
static ds_node *again(ds_rewrite *r, ds_graph *to, const ds_node *x, const ds_node *reader) {
    const repeat_pass *pass = r->context;
    if (!pass->again[x->id])
        pass->again[x->id] = copy_of(r, to, x, reader);
    return pass->again[x->id];
}

static ds_node *rewrite_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                             ds_node *const *given) {
    const repeat_pass *pass = r->context;
    ds_node *inputs[MOST_INPUTS];
    if (node->phase != DS_BACKWARD || node->n_inputs > MOST_INPUTS)
        return ds_graph_copy_node(to, node, given);
    for (int k = 0; k < node->n_inputs; k++) {
        const ds_node *x = node->inputs[k];
        inputs[k] = pass->repeated[x->id] ? again(r, to, x, node) : given[k];
    }
    return ds_graph_copy_node(to, node, inputs);
}

ds_graph *ds_repeat_cheap(const ds_graph *g) {
    repeat_pass pass = {.readers = ds_calloc(g->n_nodes + 1, sizeof *pass.readers),
                        .repeated = ds_calloc(g->n_nodes + 1, sizeof *pass.repeated),
                        .waits = ds_calloc(g->n_nodes + 1, sizeof *pass.waits),
                        .again = ds_calloc(g->n_nodes + 1, sizeof *pass.again)};
    ds_graph *to = NULL;
    if (pass.readers && pass.repeated && pass.waits && pass.again &&
        find_readers(g, pass.readers) == DS_OK) {
        for (size_t i = 0; i < g->n_nodes; i++) {
            pass.repeated[i] = is_repeated(&pass, g->nodes[i]);
            pass.waits[i] = waits(&pass, g->nodes[i]);
        }
        to = ds_graph_rewrite(g, rewrite_node, &pass);
    }
    free(pass.readers);
    free(pass.repeated);
    free(pass.waits);
    free(pass.again);
    return to;
}
