/* How a pass makes a new graph out of an old one: node by node, in order, unreachable ones left
 * out. A rule says what stands for each node; by default a copy of it. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "graph/leaf_index.h"
#include "graph/node.h"
#include "graph/ops/ops.h"

ds_node *ds_graph_copy_node(ds_graph *to, const ds_node *node, ds_node *const *inputs) {
    if (to->status != DS_OK)
        return NULL;
    if (node->op == &ds_op_result)
        return ds_node_result(inputs[0], ds_result_index(node));
    if (node->name) {
        ds_node *known = ds_leaf_index_find(to, node->name);
        if (known)
            return known;
    }
    const ds_phase phase = to->phase;
    const int segment = to->segment;
    char scope[sizeof to->scope];
    memcpy(scope, to->scope, sizeof scope);
    to->phase = node->phase;
    to->segment = node->segment;
    strncpy(to->scope, node->scope, sizeof to->scope - 1);
    ds_node *copy = node->name
                        ? ds_graph_add_leaf(to, node->op, node->name, &node->type, node->init)
                        : ds_graph_add_node(to, node->op, node->attrs, inputs, node->n_inputs);
    if (copy) {
        copy->place = node->place;
        copy->in_host_space = node->in_host_space;
    }
    if (to->n_segments < node->segment)
        to->n_segments = node->segment;
    to->phase = phase;
    to->segment = segment;
    memcpy(to->scope, scope, sizeof scope);
    return copy;
}

void ds_rewrite_map(ds_rewrite *r, const ds_node *from, ds_node *to) {
    r->map[from->id] = to;
}

static int *count_uses(const ds_graph *g, const bool *needed) {
    int *n_uses = ds_calloc(g->n_nodes, sizeof *n_uses);
    if (!n_uses)
        return NULL;
    for (size_t i = 0; i < g->n_nodes; i++)
        for (int k = 0; needed[i] && k < g->nodes[i]->n_inputs; k++)
            n_uses[g->nodes[i]->inputs[k]->id]++;
    for (size_t i = 0; i < g->n_outputs; i++)
        n_uses[g->outputs[i].node->id]++;
    return n_uses;
}

/* What a rule makes belongs where the node was: to its scope, phase and unit of recomputation. */
static ds_node *apply_rule(ds_rewrite *r, ds_graph *to, const ds_node *node,
                           ds_node *const *inputs) {
    to->phase = node->phase;
    to->segment = node->segment;
    snprintf(to->scope, sizeof to->scope, "%s", node->scope);
    ds_node *made = r->rule(r, to, node, inputs);
    to->phase = DS_FORWARD;
    to->segment = 0;
    to->scope[0] = '\0';
    return made;
}

static ds_status rewrite_node(ds_rewrite *r, ds_graph *to, const ds_node *node) {
    ds_node *few[16] = {0}, **inputs = few;
    if (node->n_inputs > 16 && !(inputs = ds_malloc((size_t)node->n_inputs * sizeof *inputs)))
        return DS_OUT_OF_MEMORY;
    for (int k = 0; k < node->n_inputs; k++)
        inputs[k] = r->map[node->inputs[k]->id];
    if (!r->map[node->id]) {
        ds_node *made = NULL;
        if (node->op == &ds_op_result)
            made = ds_node_result(inputs[0], ds_result_index(node));
        else
            made = r->rule ? apply_rule(r, to, node, inputs) : ds_graph_copy_node(to, node, inputs);
        if (!r->map[node->id])
            r->map[node->id] = made;
    }
    if (inputs != few)
        free(inputs);
    return DS_OK;
}

ds_graph *ds_graph_rewrite(const ds_graph *from, ds_rewrite_rule *rule, void *context) {
    ds_graph *to = ds_graph_new();
    bool *needed = ds_graph_reachable(from);
    ds_node **map = ds_calloc(from->n_nodes, sizeof *map);
    int *n_uses = needed ? count_uses(from, needed) : NULL;
    ds_status status = to && map && n_uses ? DS_OK : DS_OUT_OF_MEMORY;
    ds_rewrite r = {.from = from, .map = map, .n_uses = n_uses, .rule = rule, .context = context};
    if (status == DS_OK) {
        to->n_segments = from->n_segments;
        if (!ds_graph_ok(from))
            ds_graph_poison(to, from->status);
    }
    for (size_t i = 0; status == DS_OK && i < from->n_nodes && to->status == DS_OK; i++)
        if (needed[i])
            status = rewrite_node(&r, to, from->nodes[i]);
    for (size_t i = 0; status == DS_OK && i < from->n_outputs && to->status == DS_OK; i++)
        ds_graph_output(to, from->outputs[i].name, map[from->outputs[i].node->id]);
    free(needed);
    free(map);
    free(n_uses);
    if (status != DS_OK) {
        ds_graph_free(to);
        return NULL;
    }
    return to;
}
