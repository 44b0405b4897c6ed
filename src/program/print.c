/* A program as text, a line a step, or as Graphviz: what each step makes, where it lies, from what,
 * and at what cost. The graph of the last stage with its memory plan. */
#include <stdio.h>

#include "base/text.h"
#include "graph/ops/ops.h"
#include "program/program.h"

enum { PLACE_SIZE = 640 }; /* a full name fits */

/* "work+0x1c0", "param \"h.0.weight\"": the memory of result k of x. */
static const char *place_text(const ds_program *p, const ds_node *x, int k, char *out) {
    const ds_value_plan *v = ds_plan_root(&p->plan, x, k);
    const size_t offset = v->place == DS_PLACE_ARENA || v->place == DS_PLACE_HOST
                              ? p->plan.buffers[v->buffer].offset
                              : 0;
    switch (v->place) {
    case DS_PLACE_ARENA: snprintf(out, PLACE_SIZE, "work+0x%zx", offset); break;
    case DS_PLACE_HOST: snprintf(out, PLACE_SIZE, "host+0x%zx", offset); break;
    case DS_PLACE_STATE: snprintf(out, PLACE_SIZE, "%s %s", v->of->op->name, v->of->name); break;
    case DS_PLACE_INPUT: snprintf(out, PLACE_SIZE, "input %s", v->of->name); break;
    case DS_PLACE_DERIVED: snprintf(out, PLACE_SIZE, "derived"); break;
    default: snprintf(out, PLACE_SIZE, "nowhere"); break;
    }
    return out;
}

static void print_attributes(const ds_node *x, FILE *out) {
    ds_text text = {0};
    if (x->op->describe)
        x->op->describe(x, &text);
    if (text.length > 0)
        fprintf(out, " {%s}", text.data);
    ds_text_clear(&text);
}

static int n_results(const ds_node *x) {
    return x->op->n_results > 1 ? x->op->n_results : 1;
}

static void print_step(const ds_program *p, int s, FILE *out) {
    const ds_node *x = p->steps[s].node;
    char type[96], place[PLACE_SIZE], cost[96];
    fprintf(out, "%5d %s", s, x->op->name);
    print_attributes(x, out);
    for (int k = 0; k < n_results(x); k++) {
        const ds_type *t = n_results(x) > 1 ? &x->result_types[k] : &x->type;
        fprintf(out, "%s %s @ %s", k ? "," : "", ds_type_text(t, type, sizeof type),
                place_text(p, x, k, place));
    }
    for (int i = 0; i < x->n_inputs; i++)
        fprintf(out, "%s %s", i ? "," : " <-", place_text(p, x->inputs[i], 0, place));
    fprintf(out, "   # %s", ds_node_cost_text(x, cost, sizeof cost));
    if (*x->scope)
        fprintf(out, "  %s", x->scope);
    fprintf(out, "%s%s\n", x->phase == DS_BACKWARD ? "  backward" : "",
            s < p->plan.n_prologue ? "  kept until a parameter changes" : "");
}

static void print_sizes(const ds_program *p, FILE *out) {
    char working[32], host[32], derived[32], flops[32];
    const ds_memory_report *m = &p->report;
    fprintf(out, "# %zu kernels, %sFLOP; working memory %s, host arena %s, derived %s\n",
            m->n_kernels, ds_format_count(flops, sizeof flops, m->flops),
            ds_format_bytes(working, sizeof working, (double)m->working),
            ds_format_bytes(host, sizeof host, (double)m->host),
            ds_format_bytes(derived, sizeof derived, (double)m->derived));
}

/* What made the memory that x describes: views and further results are not steps. */
static const ds_node *maker_of(const ds_node *x) {
    while (ds_node_has(x, DS_VIEW) || x->op == &ds_op_result)
        x = x->inputs[0];
    return x;
}

static void print_dot_step(const ds_program *p, int s, FILE *out) {
    const ds_node *x = p->steps[s].node;
    char type[96], place[PLACE_SIZE], cost[96];
    fprintf(out, "  n%d [label=\"%d %s", x->id, s, x->op->name);
    print_attributes(x, out);
    fprintf(out, "\\n%s\\n%s\\n%s\"];\n", ds_type_text(&x->type, type, sizeof type),
            place_text(p, x, 0, place), ds_node_cost_text(x, cost, sizeof cost));
    for (int i = 0; i < x->n_inputs; i++) {
        const ds_node *from = maker_of(x->inputs[i]);
        if (ds_node_has(from, DS_LEAF))
            fprintf(out, "  n%d [label=\"%s\" shape=box];\n", from->id,
                    place_text(p, from, 0, place));
        fprintf(out, "  n%d -> n%d;\n", from->id, x->id);
    }
}

void ds_program_print(const ds_program *p, FILE *out, bool dot) {
    if (dot)
        fprintf(out, "digraph program {\n  rankdir=TB;\n  node [fontname=monospace];\n");
    else
        print_sizes(p, out);
    for (int s = 0; s < p->plan.n_steps; s++)
        dot ? print_dot_step(p, s, out) : print_step(p, s, out);
    if (dot)
        fprintf(out, "}\n");
}
