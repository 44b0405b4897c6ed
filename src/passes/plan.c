/* Memory planning. First every value gets a place: what is a view or an in-place result lies where
 * its input does; what is only written into a variable is made there. Then lifetimes are known, and
 * buffers are packed: largest first, each at the lowest offset where it meets no other that lives
 * at the same time (the greedy-by-size rule of Pisarchyk & Lee 2020). */
#include "passes/plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "graph/ops/ops.h"

static ds_value_plan *value_of(const ds_plan *p, const ds_node *x, int result) {
    return &p->values[(size_t)x->id * DS_MAX_RESULTS + (size_t)result];
}

/* The plan of the value that x is, whichever node made it. */
static ds_value_plan *plan_of(const ds_plan *p, const ds_node *x) {
    if (x->op == &ds_op_result)
        return value_of(p, x->inputs[0], ds_result_index(x));
    return value_of(p, x, 0);
}

/* Follows aliases to where the memory is. */
static ds_value_plan *root_of(const ds_plan *p, const ds_node *x) {
    ds_value_plan *v = plan_of(p, x);
    while (v->place == DS_PLACE_ALIAS)
        v = plan_of(p, v->of);
    return v;
}

const ds_value_plan *ds_plan_root(const ds_plan *plan, const ds_node *x, int k) {
    const ds_value_plan *v = k > 0 ? value_of(plan, x, k) : plan_of(plan, x);
    return v->place == DS_PLACE_ALIAS ? root_of(plan, v->of) : v;
}

static int n_results(const ds_node *x) {
    return x->op->n_results > 1 ? x->op->n_results : 1;
}

static bool is_step(const ds_node *x) {
    return !ds_node_has(x, DS_LEAF) && !ds_node_has(x, DS_VIEW) && x->op != &ds_op_result;
}

static ds_status add_buffer(ds_plan *p, size_t size_bytes, int step, bool host, int *out) {
    ds_buffer *buffers =
        ds_grow(p->buffers, &p->buffers_capacity, p->n_buffers + 1, sizeof *buffers);
    if (!buffers)
        return DS_OUT_OF_MEMORY;
    p->buffers = buffers;
    buffers[p->n_buffers] =
        (ds_buffer){.size_bytes = size_bytes, .first = step, .last = step, .in_host_space = host};
    *out = (int)p->n_buffers++;
    return DS_OK;
}

/* ---- what is derived from parameters alone --------------------------------------------------- */

static void mark_derived(const ds_graph *g, const bool *needed, bool *derived) {
    for (size_t i = 0; i < g->n_nodes; i++) {
        const ds_node *x = g->nodes[i];
        if (!needed[i] || ds_node_has(x, DS_EFFECT) || x->op == &ds_op_result || n_results(x) > 1)
            continue;
        bool all = x->n_inputs > 0;
        for (int k = 0; k < x->n_inputs; k++)
            all = all && (x->inputs[k]->op == &ds_op_param || derived[x->inputs[k]->id]);
        derived[i] = all && (ds_node_has(x, DS_DERIVED) || ds_node_has(x, DS_VIEW));
    }
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* An assign of a value that nothing else reads: its maker writes into the variable itself. */
static const ds_node *direct_source(const ds_node *assign, const int *n_uses, const bool *derived) {
    const ds_node *x = assign->inputs[1];
    while (x->op == &ds_op_reshape && n_uses[x->id] == 1)
        x = x->inputs[0];
    const ds_node *maker = x->op == &ds_op_result ? x->inputs[0] : x;
    if (n_uses[x->id] != 1 || ds_node_has(maker, DS_LEAF) || ds_node_has(maker, DS_VIEW) ||
        ds_node_has(maker, DS_EFFECT) || derived[maker->id])
        return NULL;
    return n_uses[assign->inputs[0]->id] == 1 ? x : NULL; /* nothing else reads the variable */
}

static int *count_uses(const ds_graph *g, const bool *needed) {
    int *n_uses = ds_calloc(g->n_nodes, sizeof *n_uses);
    for (size_t i = 0; n_uses && i < g->n_nodes; i++)
        for (int k = 0; needed[i] && k < g->nodes[i]->n_inputs; k++)
            n_uses[g->nodes[i]->inputs[k]->id]++;
    for (size_t i = 0; n_uses && i < g->n_outputs; i++)
        n_uses[g->outputs[i].node->id]++;
    return n_uses;
}

static ds_status list_steps(ds_plan *p, const bool *needed, const int *n_uses,
                            const bool *derived) {
    const ds_graph *g = p->graph;
    p->steps = ds_malloc(g->n_nodes * sizeof *p->steps);
    if (!p->steps)
        return DS_OUT_OF_MEMORY;
    for (int prologue = 1; prologue >= 0; prologue--) {
        for (size_t i = 0; i < g->n_nodes; i++) {
            const ds_node *x = g->nodes[i];
            if (!needed[i] || !is_step(x) || derived[i] != (prologue == 1))
                continue;
            const ds_node *source =
                x->op == &ds_op_assign ? direct_source(x, n_uses, derived) : NULL;
            if (source) { /* no step: the value is made in place */
                *plan_of(p, source) = (ds_value_plan){.place = DS_PLACE_STATE, .of = x->inputs[0]};
                continue;
            }
            p->steps[p->n_steps++] = (int)i;
        }
        if (prologue)
            p->n_prologue = p->n_steps;
    }
    return DS_OK;
}

/* ---- places ---------------------------------------------------------------------------------- */

static void place_leaf(ds_plan *p, const ds_node *x) {
    const bool is_input = x->op == &ds_op_input || x->op == &ds_op_seed;
    *value_of(p, x, 0) =
        (ds_value_plan){.place = is_input ? DS_PLACE_INPUT : DS_PLACE_STATE, .of = x};
}

/* The step after which nothing reads the memory of x, by node id of its root buffer. */
static void note_use(ds_plan *p, const ds_node *x, int step) {
    const ds_value_plan *root = root_of(p, x);
    if ((root->place == DS_PLACE_ARENA || root->place == DS_PLACE_HOST) &&
        p->buffers[root->buffer].last < step)
        p->buffers[root->buffer].last = step;
}

static ds_status place_results(ds_plan *p, const ds_node *x, int step, bool derived) {
    for (int k = 0; k < n_results(x); k++) {
        ds_value_plan *v = value_of(p, x, k);
        if (v->place != DS_PLACE_NONE)
            continue; /* made in a variable */
        if (derived) {
            v->place = DS_PLACE_DERIVED;
            continue;
        }
        if (ds_node_has(x, DS_EFFECT)) {
            *v = (ds_value_plan){.place = DS_PLACE_ALIAS, .of = x->inputs[0]};
            continue;
        }
        const ds_type *type = n_results(x) > 1 ? &x->result_types[k] : &x->type;
        v->place = x->in_host_space ? DS_PLACE_HOST : DS_PLACE_ARENA;
        DS_TRY(add_buffer(p, ds_type_size(type), step, x->in_host_space, &v->buffer));
    }
    return DS_OK;
}

/* Lifetimes with every value in a buffer of its own; step_of gives each needed node's step. */
static ds_status place_values(ds_plan *p, const bool *needed, const bool *derived) {
    const ds_graph *g = p->graph;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const ds_node *x = g->nodes[i];
        if (!needed[i])
            continue;
        if (ds_node_has(x, DS_LEAF))
            place_leaf(p, x);
        else if (ds_node_has(x, DS_VIEW))
            *value_of(p, x, 0) = (ds_value_plan){.place = DS_PLACE_ALIAS, .of = x->inputs[0]};
    }
    for (int s = 0; s < p->n_steps; s++) {
        const ds_node *x = g->nodes[p->steps[s]];
        DS_TRY(place_results(p, x, s, derived[x->id]));
        for (int k = 0; k < x->n_inputs; k++)
            note_use(p, x->inputs[k], s);
    }
    for (size_t i = 0; i < g->n_outputs; i++)
        note_use(p, g->outputs[i].node, p->n_steps);
    return DS_OK;
}

/* ---- in place -------------------------------------------------------------------------------- */

/* x covers its buffer, row-major, so that a result of the same size may be written over it. */
static const ds_node *whole(const ds_node *x) {
    while (x->op == &ds_op_reshape || x->op == &ds_op_stop_gradient)
        x = x->inputs[0];
    return ds_node_has(x, DS_VIEW) ? NULL : x;
}

/* Result v of a step over the input at `root`: the result goes where the input is; or the input is
 * made where the result belongs, in a variable. */
static bool share(ds_plan *p, int step, ds_value_plan *v, const ds_node *input, size_t size_bytes) {
    ds_value_plan *root = root_of(p, input);
    if (root->place != DS_PLACE_ARENA || root == v)
        return false;
    ds_buffer *into = &p->buffers[root->buffer];
    if (into->last != step || into->size_bytes != size_bytes)
        return false;
    if (v->place == DS_PLACE_STATE) {
        into->size_bytes = 0;
        into->last = into->first;
        *root = *v;
        return true;
    }
    ds_buffer *old = &p->buffers[v->buffer];
    into->last = old->last;
    old->size_bytes = 0;
    old->last = old->first;
    *v = (ds_value_plan){.place = DS_PLACE_ALIAS, .of = input};
    return true;
}

/* Some input of x reads the memory of `input` in another order (turned, a part, repeated): elements
 * would be overwritten before they are read. */
static bool is_read_otherwise(const ds_plan *p, const ds_node *x, const ds_node *input) {
    for (int k = 0; k < x->n_inputs; k++)
        if (!whole(x->inputs[k]) && root_of(p, x->inputs[k]) == root_of(p, input))
            return true;
    return false;
}

static void share_with_input(ds_plan *p, ds_backend *backend, int step) {
    const ds_node *x = p->graph->nodes[p->steps[step]];
    ds_value_plan *v = value_of(p, x, 0);
    if ((v->place != DS_PLACE_ARENA && v->place != DS_PLACE_STATE) || ds_node_has(x, DS_EFFECT))
        return;
    const ds_type *type = n_results(x) > 1 ? &x->result_types[0] : &x->type;
    const ds_kernel *kernel = backend->ops->find_kernel(backend, x);
    for (int k = 0; kernel && k < x->n_inputs && k < 32; k++) {
        const ds_node *input = whole(x->inputs[k]);
        if (kernel->in_place >> k & 1u && input && !is_read_otherwise(p, x, input) &&
            share(p, step, v, input, ds_type_size(type)))
            return;
    }
}

/* ---- packing --------------------------------------------------------------------------------- */

typedef struct sort_key {
    size_t size_bytes;
    int first, buffer;
} sort_key;

static int larger_first(const void *a, const void *b) {
    const sort_key *x = a, *y = b;
    if (x->size_bytes != y->size_bytes)
        return x->size_bytes < y->size_bytes ? 1 : -1;
    return x->first != y->first ? x->first - y->first : x->buffer - y->buffer;
}

static size_t aligned(size_t size) {
    return (size + DS_BUFFER_ALIGNMENT - 1) / DS_BUFFER_ALIGNMENT * DS_BUFFER_ALIGNMENT;
}

/* The lowest offset for b among the placed buffers, which are sorted by offset. */
static size_t lowest_gap(const ds_buffer *buffers, const int *placed, size_t n,
                         const ds_buffer *b) {
    size_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        const ds_buffer *other = &buffers[placed[i]];
        if (other->last < b->first || b->last < other->first)
            continue;
        if (other->offset >= offset + b->size_bytes)
            break;
        const size_t end = aligned(other->offset + other->size_bytes);
        offset = end > offset ? end : offset;
    }
    return offset;
}

static ds_status pack(ds_plan *p, bool host, size_t *total) {
    sort_key *order = ds_malloc(p->n_buffers * sizeof *order);
    int *placed = ds_malloc(p->n_buffers * sizeof *placed);
    if (!order || !placed) {
        free(order);
        free(placed);
        return DS_OUT_OF_MEMORY;
    }
    size_t n = 0, n_placed = 0;
    for (size_t i = 0; i < p->n_buffers; i++)
        if (p->buffers[i].in_host_space == host && p->buffers[i].size_bytes > 0)
            order[n++] = (sort_key){p->buffers[i].size_bytes, p->buffers[i].first, (int)i};
    qsort(order, n, sizeof *order, larger_first);
    *total = 0;
    for (size_t i = 0; i < n; i++) {
        ds_buffer *b = &p->buffers[order[i].buffer];
        b->offset = lowest_gap(p->buffers, placed, n_placed, b);
        size_t at = n_placed++;
        for (; at > 0 && p->buffers[placed[at - 1]].offset > b->offset; at--)
            placed[at] = placed[at - 1];
        placed[at] = order[i].buffer;
        if (b->offset + b->size_bytes > *total)
            *total = b->offset + b->size_bytes;
    }
    *total = aligned(*total);
    free(order);
    free(placed);
    return DS_OK;
}

static ds_status make(ds_plan *p, ds_backend *backend, const bool *needed, bool *derived) {
    const ds_graph *g = p->graph;
    mark_derived(g, needed, derived);
    int *n_uses = count_uses(g, needed);
    p->values = ds_calloc(g->n_nodes * DS_MAX_RESULTS, sizeof *p->values);
    ds_status status =
        n_uses && p->values ? list_steps(p, needed, n_uses, derived) : DS_OUT_OF_MEMORY;
    free(n_uses);
    DS_TRY(status);
    DS_TRY(place_values(p, needed, derived));
    for (int s = p->n_prologue; s < p->n_steps; s++)
        share_with_input(p, backend, s);
    DS_TRY(pack(p, false, &p->working_bytes));
    return pack(p, true, &p->host_bytes);
}

ds_status ds_plan_make(const ds_graph *g, ds_backend *backend, ds_plan *out) {
    *out = (ds_plan){.graph = g};
    bool *needed = ds_graph_reachable(g);
    bool *derived = ds_calloc(g->n_nodes, sizeof *derived);
    const ds_status status =
        needed && derived ? make(out, backend, needed, derived) : DS_OUT_OF_MEMORY;
    free(needed);
    free(derived);
    if (status != DS_OK)
        ds_plan_free(out);
    return status;
}

void ds_plan_free(ds_plan *plan) {
    free(plan->values);
    free(plan->buffers);
    free(plan->steps);
    *plan = (ds_plan){0};
}
