/* Reverse-mode differentiation: walks the forward graph backwards and lets each op append its own
 * gradient. The result is one graph, forward and backward, whose effects write the gradients. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "graph/ops/ops.h"
#include "passes/passes.h"

/* Slices of one value, waiting until all its users are seen: if they tile it, their gradients are
 * joined by one concat instead of being padded with zeros and added up (a fused q, k, v). */
typedef struct pending_slice {
    ds_node *slice;
    ds_node *dy;
    int next; /* index of the next of the same value, or -1 */
} pending_slice;

typedef struct autodiff {
    ds_graph *g;
    int n_forward;
    bool *wanted;       /* by id: depends on a parameter */
    ds_node **gradient; /* by id: sum so far */
    int *first_slice;   /* by id: index into slices, or -1 */
    pending_slice *slices;
    size_t n_slices, slices_capacity;
} autodiff;

static void add_gradient(autodiff *ad, ds_node *x, ds_node *dx) {
    if (!dx || x->id >= ad->n_forward || !ad->wanted[x->id])
        return;
    if (dx->type.rank != x->type.rank ||
        memcmp(dx->type.dims, x->type.dims, (size_t)x->type.rank * sizeof(int64_t)) != 0) {
        char has[96], wants[96];
        ds_graph_refuse(ad->g, x->op->name, "its gradient has shape %s, the value %s",
                        ds_type_text(&dx->type, has, sizeof has),
                        ds_type_text(&x->type, wants, sizeof wants));
        return;
    }
    dx = ds_graph_cast(ad->g, dx, x->type.dtype);
    ds_node **sum = &ad->gradient[x->id];
    *sum = *sum ? ds_graph_add(ad->g, *sum, dx) : dx;
}

static int by_start(const void *a, const void *b) {
    const ds_slice_attrs *x = (*(ds_node *const *)a)->attrs, *y = (*(ds_node *const *)b)->attrs;
    return (x->start > y->start) - (x->start < y->start);
}

enum { MAX_TILES = 16 };

/* The pending slices of x as one gradient if they tile it; false if they do not. */
static bool join_slices(autodiff *ad, ds_node *x) {
    ds_node *slices[MAX_TILES], *parts[MAX_TILES];
    int n = 0;
    for (int s = ad->first_slice[x->id]; s >= 0; s = ad->slices[s].next) {
        if (n == MAX_TILES)
            return false;
        slices[n++] = ad->slices[s].slice;
    }
    qsort(slices, (size_t)n, sizeof *slices, by_start);
    const int axis = ((const ds_slice_attrs *)slices[0]->attrs)->axis;
    int64_t end = 0;
    for (int i = 0; i < n; i++) {
        const ds_slice_attrs *a = slices[i]->attrs;
        if (a->axis != axis || a->start != end)
            return false;
        end += a->length;
        for (int s = ad->first_slice[x->id]; s >= 0; s = ad->slices[s].next)
            if (ad->slices[s].slice == slices[i])
                parts[i] = ad->slices[s].dy;
    }
    if (end != x->type.dims[axis])
        return false;
    add_gradient(ad, x, ds_graph_concat(ad->g, parts, n, axis));
    return true;
}

static void flush_slices(autodiff *ad, ds_node *x) {
    if (ad->first_slice[x->id] < 0 || join_slices(ad, x))
        return;
    for (int s = ad->first_slice[x->id]; s >= 0; s = ad->slices[s].next) {
        ds_node *dx = NULL;
        ds_op_slice.gradient(ad->g, ad->slices[s].slice, &ad->slices[s].dy, &dx);
        add_gradient(ad, x, dx);
    }
}

static ds_status hold_slice(autodiff *ad, ds_node *slice, ds_node *dy) {
    pending_slice *slices =
        ds_grow(ad->slices, &ad->slices_capacity, ad->n_slices + 1, sizeof *slices);
    if (!slices)
        return DS_OUT_OF_MEMORY;
    ad->slices = slices;
    int *first = &ad->first_slice[slice->inputs[0]->id];
    slices[ad->n_slices] = (pending_slice){slice, dy, *first};
    *first = (int)ad->n_slices++;
    return DS_OK;
}

static ds_status visit(autodiff *ad, ds_node *node) {
    ds_node *dresults[DS_MAX_RESULTS] = {ad->gradient[node->id]};
    bool any = dresults[0] != NULL;
    for (int k = 1; node->results && k < node->op->n_results; k++) {
        ds_node *result = node->results[k];
        if (result && result->id < ad->n_forward)
            any = (dresults[k] = ad->gradient[result->id]) != NULL || any;
    }
    if (!any || !node->op->gradient)
        return DS_OK;
    if (node->op == &ds_op_slice)
        return hold_slice(ad, node, dresults[0]);
    ds_node *few[16] = {0}, **dinputs = few;
    if (node->n_inputs > 16 && !(dinputs = ds_calloc((size_t)node->n_inputs, sizeof *dinputs)))
        return DS_OUT_OF_MEMORY;
    node->op->gradient(ad->g, node, dresults, dinputs);
    for (int i = 0; i < node->n_inputs; i++)
        add_gradient(ad, node->inputs[i], dinputs[i]);
    if (dinputs != few)
        free(dinputs);
    return DS_OK;
}

static void store_gradient(autodiff *ad, ds_node *param, bool accumulate) {
    char name[600];
    if (!ad->gradient[param->id])
        return;
    snprintf(name, sizeof name, DS_GRADIENT_PREFIX "%s", param->name);
    ds_node *variable =
        ds_graph_variable(ad->g, name, DS_F32, param->type.rank, param->type.dims, DS_INIT_ZEROS);
    if (accumulate)
        ds_graph_accumulate(ad->g, variable, ad->gradient[param->id]);
    else
        ds_graph_assign(ad->g, variable, ad->gradient[param->id]);
}

static ds_node *find_loss(ds_graph *g, const char *name) {
    for (size_t i = 0; i < g->n_outputs; i++)
        if (strcmp(g->outputs[i].name, name) == 0) {
            if (g->outputs[i].node->type.rank == 0 && g->outputs[i].node->type.dtype == DS_F32)
                return g->outputs[i].node;
            return ds_graph_refuse(g, "autodiff", "the loss \"%s\" must be f32 of rank 0", name);
        }
    return ds_graph_refuse(g, "autodiff", "there is no output \"%s\" to differentiate", name);
}

static ds_status allocate(autodiff *ad) {
    const size_t n = ad->g->n_nodes;
    ad->n_forward = (int)n;
    ad->wanted = ds_calloc(n, sizeof *ad->wanted);
    ad->gradient = ds_calloc(n, sizeof *ad->gradient);
    ad->first_slice = ds_malloc(n * sizeof *ad->first_slice);
    if (!ad->wanted || !ad->gradient || !ad->first_slice)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < n; i++) {
        const ds_node *node = ad->g->nodes[i];
        ad->first_slice[i] = -1;
        ad->wanted[i] = node->op == &ds_op_param;
        for (int k = 0; k < node->n_inputs; k++)
            ad->wanted[i] = ad->wanted[i] || ad->wanted[node->inputs[k]->id];
        if (node->op == &ds_op_stop_gradient)
            ad->wanted[i] = false;
    }
    return DS_OK;
}

static ds_status differentiate(autodiff *ad, const char *loss_name, bool accumulate) {
    ds_graph *g = ad->g;
    ds_node *loss = find_loss(g, loss_name);
    DS_TRY(allocate(ad));
    if (!loss)
        return DS_OK; /* the graph is poisoned and says why */
    g->phase = DS_BACKWARD;
    ad->gradient[loss->id] = ds_graph_input(g, DS_LOSS_SEED, DS_F32, 0, NULL);
    for (int i = ad->n_forward - 1; i >= 0 && g->status == DS_OK; i--) {
        ds_node *node = g->nodes[i];
        if (!ad->wanted[i] || node->op == &ds_op_result)
            continue;
        snprintf(g->scope, sizeof g->scope, "%s", node->scope);
        flush_slices(ad, node);
        if (node->op == &ds_op_param)
            store_gradient(ad, node, accumulate);
        else
            DS_TRY(visit(ad, node));
    }
    g->scope[0] = '\0';
    g->phase = DS_FORWARD;
    return DS_OK;
}

ds_graph *ds_pass_autodiff(const ds_graph *from, const char *loss, bool accumulate) {
    autodiff ad = {.g = ds_graph_rewrite(from, NULL, NULL)};
    ds_status status = ad.g ? DS_OK : DS_OUT_OF_MEMORY;
    if (status == DS_OK && ad.g->status == DS_OK)
        status = differentiate(&ad, loss, accumulate);
    free(ad.wanted);
    free(ad.gradient);
    free(ad.first_slice);
    free(ad.slices);
    if (status != DS_OK) {
        ds_graph_free(ad.g);
        return NULL;
    }
    return ad.g;
}
