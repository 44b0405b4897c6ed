/* A graph as text, a line a node, or as Graphviz; each value with its size and cost. */
#include <stdio.h>

#include "graph/node.h"
#include "graph/ops/ops.h"

static void print_attributes(const ds_node *node, FILE *out) {
    ds_text text = {0};
    if (node->op->describe)
        node->op->describe(node, &text);
    if (text.length > 0)
        fprintf(out, " {%s}", text.data);
    ds_text_clear(&text);
}

const char *ds_node_cost_text(const ds_node *x, char *out, size_t size) {
    char own[32], flops[32], moved[32];
    const ds_cost cost = ds_node_cost(x);
    int n =
        snprintf(out, size, "%s", ds_format_bytes(own, sizeof own, (double)ds_type_size(&x->type)));
    if (cost.flops > 0)
        n += snprintf(out + n, size - (size_t)n, ", %sFLOP",
                      ds_format_count(flops, sizeof flops, cost.flops));
    if (cost.bytes > 0)
        snprintf(out + n, size - (size_t)n, ", %s moved",
                 ds_format_bytes(moved, sizeof moved, cost.bytes));
    return out;
}

static void print_line(const ds_node *node, FILE *out) {
    char type[96], cost[96];
    fprintf(out, "%%%-5d %-28s = %s", node->id, ds_type_text(&node->type, type, sizeof type),
            node->op->name);
    print_attributes(node, out);
    if (node->name)
        fprintf(out, " \"%s\"", node->name);
    for (int i = 0; i < node->n_inputs; i++)
        fprintf(out, "%s%%%d", i ? ", " : " ", node->inputs[i]->id);
    fprintf(out, "   # %s", ds_node_cost_text(node, cost, sizeof cost));
    if (*node->scope)
        fprintf(out, "  %s", node->scope);
    fprintf(out, "%s%s\n", node->phase == DS_BACKWARD ? "  backward" : "",
            node->in_host_space ? "  host" : "");
}

static void print_dot_node(const ds_node *node, FILE *out) {
    char type[96], cost[96];
    fprintf(out, "  n%d [label=\"%s", node->id, node->op->name);
    print_attributes(node, out);
    fprintf(out, "\\n%s%s%s\\n%s\"%s];\n", node->name ? node->name : "", node->name ? "\\n" : "",
            ds_type_text(&node->type, type, sizeof type),
            ds_node_cost_text(node, cost, sizeof cost),
            node->op == &ds_op_param ? " shape=box" : "");
    for (int i = 0; i < node->n_inputs; i++)
        fprintf(out, "  n%d -> n%d;\n", node->inputs[i]->id, node->id);
}

void ds_graph_print(const ds_graph *g, FILE *out, bool dot) {
    if (dot)
        fprintf(out, "digraph model {\n  rankdir=TB;\n  node [fontname=monospace];\n");
    for (size_t i = 0; i < g->n_nodes; i++)
        dot ? print_dot_node(g->nodes[i], out) : print_line(g->nodes[i], out);
    for (size_t i = 0; i < g->n_outputs; i++) {
        const ds_graph_result *o = &g->outputs[i];
        if (dot)
            fprintf(out, "  out%zu [label=\"%s\" shape=cds]; n%d -> out%zu;\n", i, o->name,
                    o->node->id, i);
        else
            fprintf(out, "output \"%s\" %%%d\n", o->name, o->node->id);
    }
    if (dot)
        fprintf(out, "}\n");
}
