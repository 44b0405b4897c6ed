/* The logits of a language model are its largest activation: rows × vocabulary. The gradient of
 * −log softmax is known as soon as a row's logits are, so one op can make a block of logits, its
 * loss and both gradients, and throw the block away (Hsu et al. 2024, Liger Kernel; Wijmans et al.
 * 2024, Cut Your Losses). It needs the gradient of the loss beforehand: in training that is an
 * input. */
#include "passes/linear_cross_entropy.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "graph/ops/ops.h"

typedef struct match {
    const ds_node *loss;    /* cross_entropy */
    const ds_node *matmul;  /* x · W */
    const ds_node *dloss;   /* an input */
    const ds_node *dx, *dw; /* the matmuls that read the gradient of the logits; dw NULL: frozen */
    ds_node *fused;         /* in the new graph */
} match;

typedef struct fusion {
    match *matches;
    int n;
} fusion;

/* x behind reshapes that only it is read through. */
static const ds_node *behind_reshapes(const ds_node *x, const int *n_uses) {
    while (x->op == &ds_op_reshape && n_uses[x->id] == 1)
        x = x->inputs[0];
    return x;
}

static bool is_projection(const ds_node *m) {
    const ds_matmul_attrs *a = m->attrs;
    return m->op == &ds_op_matmul && m->n_inputs == 2 && m->inputs[1]->type.rank == 2 &&
           !a->transpose_a && !a->f32_result && ds_dtype_is_float(m->type.dtype);
}

/* Of the nodes that read the gradient of the logits (through reshapes): the matmul with W is dx,
 * the one with x is dw; anything else spoils the match. */
static bool find_gradients(const ds_graph *g, const ds_node *dlogits, match *m) {
    const ds_node *w = m->matmul->inputs[1];
    for (size_t i = (size_t)dlogits->id + 1; i < g->n_nodes; i++) {
        const ds_node *user = g->nodes[i];
        for (int k = 0; k < user->n_inputs; k++) {
            if (user->inputs[k] != dlogits)
                continue;
            if (user->op == &ds_op_reshape) {
                if (!find_gradients(g, user, m))
                    return false;
            } else if (user->op == &ds_op_matmul && user->inputs[1 - k] == w && k == 0) {
                if (m->dx)
                    return false;
                m->dx = user;
            } else if (user->op == &ds_op_matmul && user->n_inputs == 2) {
                const ds_node *x = user->inputs[1 - k], *of = m->matmul->inputs[0];
                while (x->op == &ds_op_reshape)
                    x = x->inputs[0];
                while (of->op == &ds_op_reshape)
                    of = of->inputs[0];
                if (m->dw || x != of)
                    return false;
                m->dw = user;
            } else {
                return false;
            }
        }
    }
    return true;
}

static bool find_match(const ds_graph *g, const ds_node *grad, const int *n_uses, match *out) {
    const ds_node *lse = grad->inputs[3];
    *out = (match){.dloss = grad->inputs[0]};
    if (lse->op != &ds_op_result || grad->inputs[0]->op != &ds_op_input)
        return false;
    out->loss = lse->inputs[0];
    const ds_node *logits = grad->inputs[1];
    if (out->loss->op != &ds_op_cross_entropy || out->loss->inputs[0] != logits ||
        n_uses[logits->id] != 2 || n_uses[lse->id] != 1)
        return false;
    out->matmul =
        logits->op == &ds_op_reshape ? behind_reshapes(logits->inputs[0], n_uses) : logits;
    if (!is_projection(out->matmul) || (out->matmul != logits && n_uses[out->matmul->id] != 1))
        return false;
    return find_gradients(g, grad, out) && out->dx;
}

static ds_node *make_fused(ds_rewrite *r, ds_graph *to, const match *m) {
    const ds_matmul_attrs *t = m->matmul->attrs;
    ds_node *x = r->map[m->matmul->inputs[0]->id], *w = r->map[m->matmul->inputs[1]->id];
    ds_node *labels = r->map[m->loss->inputs[1]->id];
    ds_node *dloss = ds_graph_copy_node(to, m->dloss, NULL);
    ds_node *rows = ds_graph_reshape(to, x, 2, (int64_t[]){-1, ds_node_dim(x, -1)});
    ds_node *flat = ds_graph_reshape(to, labels, 1, (int64_t[]){-1});
    const ds_linear_cross_entropy_attrs attrs = {.transpose_b = t->transpose_b};
    return ds_graph_add_node(to, &ds_op_linear_cross_entropy, &attrs,
                             (ds_node *[]){rows, w, flat, dloss}, 4);
}

static ds_node *rewrite_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                             ds_node *const *inputs) {
    fusion *f = r->context;
    for (int i = 0; i < f->n; i++) {
        match *m = &f->matches[i];
        if (node == m->loss) {
            m->fused = make_fused(r, to, m);
            /* the old lse is read by nothing that stays reachable; any result stands for it */
            for (int k = 1; node->results && k < node->op->n_results; k++)
                if (node->results[k])
                    ds_rewrite_map(r, node->results[k], m->fused);
            return m->fused;
        }
        if (node == m->dx)
            return ds_graph_reshape(to, ds_node_result(m->fused, 1), node->type.rank,
                                    node->type.dims);
        if (node == m->dw)
            return ds_node_result(m->fused, 2);
        if (node->op == &ds_op_cross_entropy_grad && node->inputs[3]->inputs[0] == m->loss)
            return r->map[node->inputs[1]->id]; /* swallowed */
    }
    return ds_graph_copy_node(to, node, inputs);
}

static int *count_uses(const ds_graph *g) {
    int *n_uses = ds_calloc(g->n_nodes, sizeof *n_uses);
    for (size_t i = 0; n_uses && i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i]->n_inputs; k++)
            n_uses[g->nodes[i]->inputs[k]->id]++;
    for (size_t i = 0; n_uses && i < g->n_outputs; i++)
        n_uses[g->outputs[i].node->id]++;
    return n_uses;
}

enum { MAX_MATCHES = 8 }; /* losses of one model */

ds_graph *ds_fuse_linear_cross_entropy(const ds_graph *from) {
    match matches[MAX_MATCHES];
    ds_graph *g = ds_graph_rewrite(from, NULL, NULL); /* unreachable nodes would count as uses */
    int *n_uses = g ? count_uses(g) : NULL;
    fusion f = {.matches = matches};
    for (size_t i = 0; n_uses && i < g->n_nodes && f.n < MAX_MATCHES; i++)
        if (g->nodes[i]->op == &ds_op_cross_entropy_grad &&
            find_match(g, g->nodes[i], n_uses, &matches[f.n]))
            f.n++;
    ds_graph *to = n_uses ? ds_graph_rewrite(g, rewrite_node, &f) : NULL;
    free(n_uses);
    ds_graph_free(g);
    return to;
}
