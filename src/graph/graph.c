/* The graph: adding nodes, scopes, the sticky error. An op's own rules are in ops/. */
#include "graph/node.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/rng.h"
#include "graph/leaf_index.h"
#include "graph/ops/ops.h"

ds_graph *ds_graph_new(void) {
    ds_graph *g = ds_calloc(1, sizeof *g);
    if (g && !(g->arena = ds_arena_new())) {
        free(g);
        g = NULL;
    }
    return g;
}

void ds_graph_free(ds_graph *g) {
    if (!g)
        return;
    ds_leaf_index_free(g);
    ds_arena_free(g->arena);
    free(g->nodes);
    free(g->outputs);
    free(g->effects);
    free(g->message);
    free(g);
}

bool ds_graph_ok(const ds_graph *g) {
    if (g->status != DS_OK)
        ds_fail(g->status, "%s", g->message ? g->message : "out of memory");
    return g->status == DS_OK;
}

ds_node *ds_graph_poison(ds_graph *g, ds_status status) {
    if (g->status == DS_OK) {
        g->status = status == DS_OK ? DS_INTERNAL : status;
        g->message = strdup(ds_error()); /* NULL is understood by ds_graph_ok */
    }
    return NULL;
}

ds_node *ds_graph_refuse(ds_graph *g, const char *op, const char *fmt, ...) {
    if (g->status != DS_OK)
        return NULL;
    va_list ap;
    va_start(ap, fmt);
    ds_vfail(DS_INVALID, fmt, ap);
    va_end(ap);
    ds_fail_within(DS_INVALID, "%s%s%s", g->scope, *g->scope ? ": " : "", op);
    return ds_graph_poison(g, DS_INVALID);
}

void ds_graph_push(ds_graph *g, const char *fmt, ...) {
    const size_t used = strlen(g->scope);
    char part[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(part, sizeof part, fmt, ap);
    va_end(ap);
    const int n = snprintf(g->scope + used, sizeof g->scope - used, "%s%s", used ? "." : "", part);
    if (n < 0 || (size_t)n >= sizeof g->scope - used || g->scope_depth == DS_MAX_SCOPES)
        ds_graph_refuse(g, "push", "name scopes are nested too deep or grow too long");
    else
        g->scope_marks[g->scope_depth++] = used;
}

void ds_graph_pop(ds_graph *g) {
    if (g->scope_depth > 0)
        g->scope[g->scope_marks[--g->scope_depth]] = '\0';
}

void ds_graph_segment_begin(ds_graph *g) {
    g->segment = ++g->n_segments;
}

void ds_graph_segment_end(ds_graph *g) {
    g->segment = 0;
}

static int n_results_of(const ds_op *op) {
    return op->n_results > 1 ? op->n_results : 1;
}

static ds_status append_node(ds_graph *g, ds_node *node) {
    ds_node **nodes = ds_grow(g->nodes, &g->nodes_capacity, g->n_nodes + 1, sizeof *nodes);
    if (!nodes)
        return DS_OUT_OF_MEMORY;
    g->nodes = nodes;
    node->id = (int)g->n_nodes;
    nodes[g->n_nodes++] = node;
    return DS_OK;
}

/* The scope of a node is shared with its predecessor's where it is the same, which it mostly is. */
static const char *scope_text(ds_graph *g) {
    if (g->n_nodes > 0 && strcmp(g->nodes[g->n_nodes - 1]->scope, g->scope) == 0)
        return g->nodes[g->n_nodes - 1]->scope;
    return ds_arena_strdup(g->arena, g->scope);
}

static ds_node *allocate(ds_graph *g, const ds_op *op, const void *attrs, ds_node *const *inputs,
                         int n_inputs) {
    ds_node *node = ds_arena_alloc(g->arena, sizeof *node);
    if (!node)
        return NULL;
    *node = (ds_node){
        .op = op, .graph = g, .n_inputs = n_inputs, .phase = g->phase, .segment = g->segment};
    node->scope = scope_text(g);
    node->inputs = ds_arena_copy(g->arena, inputs, (size_t)n_inputs * sizeof *inputs);
    if (op->attrs_size > 0)
        node->attrs = ds_arena_copy(g->arena, attrs, op->attrs_size);
    if (!node->scope || !node->inputs || (op->attrs_size > 0 && !node->attrs))
        return NULL;
    node->place = ds_mix64(ds_hash_name(node->scope) + g->n_nodes);
    return node;
}

static void describe_inputs(const ds_node *node, ds_text *out) {
    char type[96];
    for (int i = 0; i < node->n_inputs; i++)
        ds_text_printf(out, "%s%s", i ? ", " : "",
                       ds_type_text(&node->inputs[i]->type, type, sizeof type));
}

static ds_node *refuse_shape(ds_graph *g, const ds_node *node, ds_status status) {
    ds_text inputs = {0};
    describe_inputs(node, &inputs);
    ds_fail_within(status, "%s%s%s(%s)", g->scope, *g->scope ? ": " : "", node->op->name,
                   inputs.data ? inputs.data : "");
    ds_text_clear(&inputs);
    return ds_graph_poison(g, status);
}

ds_node *ds_graph_add_node(ds_graph *g, const ds_op *op, const void *attrs, ds_node *const *inputs,
                           int n_inputs) {
    if (g->status != DS_OK)
        return NULL;
    for (int i = 0; i < n_inputs; i++) {
        if (!inputs[i])
            return ds_graph_refuse(g, op->name, "input %d is missing (NULL)", i);
        if (inputs[i]->graph != g)
            return ds_graph_refuse(g, op->name, "input %d belongs to another graph", i);
    }
    ds_node *node = allocate(g, op, attrs, inputs, n_inputs);
    if (!node)
        return ds_graph_poison(g, DS_OUT_OF_MEMORY);
    ds_type results[DS_MAX_RESULTS] = {0};
    const int n_results = n_results_of(op);
    ds_status status = op->shape ? op->shape(node, results) : DS_OK;
    for (int i = 0; i < n_results && status == DS_OK; i++)
        status = ds_type_check(&results[i]);
    if (status != DS_OK)
        return refuse_shape(g, node, status);
    node->type = results[0];
    if (n_results > 1) {
        node->result_types = ds_arena_copy(g->arena, results, (size_t)n_results * sizeof *results);
        node->results = ds_arena_alloc(g->arena, (size_t)n_results * sizeof *node->results);
        if (!node->result_types || !node->results)
            return ds_graph_poison(g, DS_OUT_OF_MEMORY);
    }
    if (append_node(g, node) != DS_OK)
        return ds_graph_poison(g, DS_OUT_OF_MEMORY);
    if (op->traits & DS_EFFECT) {
        ds_node **effects =
            ds_grow(g->effects, &g->effects_capacity, g->n_effects + 1, sizeof *effects);
        if (!effects)
            return ds_graph_poison(g, DS_OUT_OF_MEMORY);
        g->effects = effects;
        effects[g->n_effects++] = node;
    }
    return node;
}

/* ---- result k of a several-result node ------------------------------------------------------- */

typedef struct result_attrs {
    int index;
} result_attrs;

static ds_status result_shape(const ds_node *node, ds_type *results) {
    const result_attrs *a = node->attrs;
    results[0] = node->inputs[0]->result_types[a->index];
    return DS_OK;
}

static void result_describe(const ds_node *node, ds_text *out) {
    ds_text_printf(out, "%d", ((const result_attrs *)node->attrs)->index);
}

const ds_op ds_op_result = {
    .name = "result",
    .attrs_size = sizeof(result_attrs),
    .precision = DS_PRECISION_KEEP,
    .shape = result_shape,
    .describe = result_describe,
};

int ds_result_index(const ds_node *node) {
    return node->op == &ds_op_result ? ((const result_attrs *)node->attrs)->index : 0;
}

ds_node *ds_node_result(ds_node *x, int k) {
    if (!x || k == 0)
        return x;
    if (!x->results[k]) {
        ds_graph *g = x->graph;
        const ds_phase phase = g->phase;
        const int segment = g->segment;
        g->phase =
            x->phase; /* a result belongs where its op does, whenever it is first asked for */
        g->segment = x->segment;
        x->results[k] = ds_graph_add_node(g, &ds_op_result, &(result_attrs){k}, &x, 1);
        g->phase = phase;
        g->segment = segment;
    }
    return x->results[k];
}

/* ---- outputs and small questions ------------------------------------------------------------- */

void ds_graph_output(ds_graph *g, const char *name, ds_node *x) {
    if (g->status != DS_OK)
        return;
    if (!x) {
        ds_graph_refuse(g, "output", "\"%s\" is missing (NULL)", name);
        return;
    }
    ds_graph_result *outputs =
        ds_grow(g->outputs, &g->outputs_capacity, g->n_outputs + 1, sizeof *outputs);
    char *copy = outputs ? ds_arena_strdup(g->arena, name) : NULL;
    if (outputs)
        g->outputs = outputs;
    if (!copy) {
        ds_graph_poison(g, DS_OUT_OF_MEMORY);
        return;
    }
    g->outputs[g->n_outputs++] = (ds_graph_result){copy, x};
}

ds_node *ds_graph_find_leaf(const ds_graph *g, const char *name) {
    return ds_leaf_index_find(g, name);
}

ds_dtype ds_node_dtype(const ds_node *x) {
    return x ? x->type.dtype : DS_F32;
}

int ds_node_rank(const ds_node *x) {
    return x ? x->type.rank : 0;
}

int64_t ds_node_dim(const ds_node *x, int axis) {
    if (!x)
        return 1;
    const int at = axis < 0 ? axis + x->type.rank : axis;
    return at >= 0 && at < x->type.rank ? x->type.dims[at] : 1;
}

int64_t ds_node_count(const ds_node *x) {
    return x ? ds_count(x->type.dims, x->type.rank) : 0;
}

bool ds_node_is(const ds_node *x, const ds_op *op) {
    return x && x->op == op;
}

bool ds_node_has(const ds_node *x, ds_trait trait) {
    return (x->op->traits & (unsigned)trait) != 0;
}

int ds_node_n_tensors(const ds_node *x) {
    const ds_op *op = x->op;
    return op->n_scalars ? (x->n_inputs - op->n_scalars) / (op->n_changed + 1) : 1;
}

int ds_node_n_changed(const ds_node *x) {
    return x->op->n_changed * ds_node_n_tensors(x);
}

ds_cost ds_node_cost(const ds_node *x) {
    if (x->op->traits & (DS_LEAF | DS_VIEW) || x->op == &ds_op_result)
        return (ds_cost){0};
    if (x->op->cost)
        return x->op->cost(x);
    double bytes = 0;
    for (int i = 0; i < x->n_inputs; i++)
        bytes += (double)ds_type_size(&x->inputs[i]->type);
    const int n = n_results_of(x->op);
    for (int i = 0; i < n; i++)
        bytes += (double)ds_type_size(n > 1 ? &x->result_types[i] : &x->type);
    return (ds_cost){.bytes = bytes};
}

size_t ds_type_size(const ds_type *type) {
    return ds_dtype_size(type->dtype) * (size_t)ds_count(type->dims, type->rank);
}

bool ds_type_equal(const ds_type *a, const ds_type *b) {
    return a->dtype == b->dtype && a->rank == b->rank &&
           memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims) == 0;
}

ds_type ds_type_of(ds_dtype dtype, int rank, const int64_t *dims) {
    ds_type type = {.dtype = dtype, .rank = rank};
    for (int i = 0; i < rank && i < DS_MAX_RANK; i++)
        type.dims[i] = dims[i];
    return type;
}

ds_status ds_type_check(const ds_type *type) {
    const int64_t most = INT64_MAX / (int64_t)sizeof(int64_t);
    int64_t n = 1;
    if (type->rank < 0 || type->rank > DS_MAX_RANK)
        return ds_fail(DS_INVALID, "rank %d is not in 0 … %d", type->rank, DS_MAX_RANK);
    for (int i = 0; i < type->rank; i++) {
        const int64_t size = type->dims[i] > 0 ? type->dims[i] : 1;
        if (type->dims[i] < 0)
            return ds_fail(DS_INVALID, "axis %d has size %lld", i, (long long)type->dims[i]);
        if (size > most / n)
            return ds_fail(DS_INVALID, "more elements than can be counted (axis %d of size %lld)",
                           i, (long long)type->dims[i]);
        n *= size;
    }
    return DS_OK;
}

const char *ds_type_text(const ds_type *type, char *out, size_t size) {
    int n = snprintf(out, size, "%s[", ds_dtype_name(type->dtype));
    for (int i = 0; i < type->rank && n > 0 && (size_t)n < size; i++)
        n += snprintf(out + n, size - (size_t)n, "%s%lld", i ? "," : "", (long long)type->dims[i]);
    if (n > 0 && (size_t)n < size)
        snprintf(out + n, size - (size_t)n, "]");
    return out;
}

bool *ds_graph_reachable(const ds_graph *g) {
    bool *needed = ds_calloc(g->n_nodes, sizeof *needed);
    if (!needed)
        return NULL;
    for (size_t i = 0; i < g->n_outputs; i++)
        needed[g->outputs[i].node->id] = true;
    for (size_t i = 0; i < g->n_effects; i++)
        needed[g->effects[i]->id] = true;
    for (size_t i = g->n_nodes; i-- > 0;)
        if (needed[i])
            for (int k = 0; k < g->nodes[i]->n_inputs; k++)
                needed[g->nodes[i]->inputs[k]->id] = true;
    return needed;
}
