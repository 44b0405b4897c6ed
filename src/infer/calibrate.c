#include "infer/calibrate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "graph/ops/ops.h"
#include "passes/passes.h"

enum { WINDOW = 256, NAME_SIZE = 512 };

/* ---- which products there are ---------------------------------------------------------------- */

static int count_readers(const ds_graph *g, const ds_node *x) {
    int n = 0;
    for (size_t i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i]->n_inputs; k++)
            n += g->nodes[i]->inputs[k] == x;
    return n;
}

/* Whether what the norm gives can be divided column by column without anyone but products that can
 * be quantised seeing it. */
static bool can_take_factors(const ds_graph *g, const ds_node *norm, const ds_product_side *sides) {
    if (!ds_node_is(norm, &ds_op_rms_norm) && !ds_node_is(norm, &ds_op_layer_norm))
        return false;
    for (int k = 1; k < norm->n_inputs; k++)
        if (norm->inputs[k]->op != &ds_op_param || count_readers(g, norm->inputs[k]) != 1)
            return false;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const ds_node *x = g->nodes[i];
        for (int k = 0; k < x->n_inputs; k++)
            if (x->inputs[k] == norm &&
                (x->op != &ds_op_matmul || k != 0 || !ds_is_product(sides[x->inputs[1]->id])))
                return false;
    }
    for (size_t i = 0; i < g->n_outputs; i++)
        if (g->outputs[i].node == norm)
            return false;
    return true;
}

static ds_status add_product(ds_calibration *c, const ds_node *matmul,
                             const ds_product_side *sides) {
    const ds_node *param = matmul->inputs[1];
    ds_calibrated *p = &c->products[c->n];
    const bool by_columns = sides[param->id] == DS_BY_COLUMNS;
    *p = (ds_calibrated){.param = param,
                         .input = matmul->inputs[0],
                         .side = sides[param->id],
                         .n_out = param->type.dims[by_columns],
                         .n_in = param->type.dims[!by_columns]};
    if (can_take_factors(c->graph, p->input, sides))
        p->norm = p->input;
    p->most = ds_calloc((size_t)p->n_in + 1, sizeof *p->most);
    if (!p->most)
        return DS_OUT_OF_MEMORY;
    c->n++;
    return DS_OK;
}

static ds_status find_products(ds_calibration *c) {
    const ds_graph *g = c->graph;
    ds_product_side *sides = ds_product_parameters(g);
    c->products = ds_calloc(g->n_nodes + 1, sizeof *c->products);
    ds_status status = sides && c->products ? DS_OK : DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < g->n_nodes && status == DS_OK; i++) {
        const ds_node *x = g->nodes[i];
        if (x->op == &ds_op_matmul && ds_is_product(sides[x->inputs[1]->id]))
            status = add_product(c, x, sides);
    }
    free(sides);
    return status;
}

ds_status ds_calibration_new(const ds_model_config *config, ds_calibration **out) {
    ds_calibration *c = ds_calloc(1, sizeof *c);
    if (!c)
        return DS_OUT_OF_MEMORY;
    c->graph = ds_graph_new();
    ds_status status = c->graph ? DS_OK : DS_OUT_OF_MEMORY;
    if (status == DS_OK) {
        ds_model_build_logits(c->graph, config, 1,
                              config->max_seq_len < WINDOW ? config->max_seq_len : WINDOW);
        status = ds_graph_ok(c->graph) ? find_products(c) : c->graph->status;
    }
    if (status != DS_OK) {
        ds_calibration_free(c);
        return status;
    }
    *out = c;
    return DS_OK;
}

void ds_calibration_free(ds_calibration *c) {
    if (!c)
        return;
    for (size_t i = 0; i < c->n; i++)
        free(c->products[i].most);
    free(c->products);
    ds_graph_free(c->graph);
    free(c);
}

const ds_calibrated *ds_calibration_find(const ds_calibration *c, const char *param) {
    for (size_t i = 0; i < c->n; i++)
        if (strcmp(c->products[i].param->name, param) == 0)
            return &c->products[i];
    return NULL;
}

/* ---- what they are given --------------------------------------------------------------------- */

static ds_status take_ranges(ds_calibration *c, ds_program *p, float *most) {
    for (size_t i = 0; i < c->n; i++) {
        ds_calibrated *x = &c->products[i];
        char name[NAME_SIZE];
        snprintf(name, sizeof name, DS_RANGE_PREFIX "%s", x->param->name);
        DS_TRY(ds_program_read(p, name, most, (size_t)x->n_in * sizeof *most));
        for (int64_t k = 0; k < x->n_in; k++) {
            if (!isfinite(most[k]))
                return ds_fail(DS_NUMERIC, "the input of %s is not finite on the calibration text",
                               x->param->name);
            x->most[k] = fmaxf(x->most[k], most[k]);
        }
    }
    return DS_OK;
}

static ds_status read_windows(ds_calibration *c, ds_program *p, int64_t window,
                              const int32_t *tokens, int64_t n) {
    int64_t widest = 1;
    for (size_t i = 0; i < c->n; i++)
        widest = c->products[i].n_in > widest ? c->products[i].n_in : widest;
    float *most = ds_malloc((size_t)widest * sizeof *most);
    ds_status status = most ? DS_OK : DS_OUT_OF_MEMORY;
    for (int64_t at = 0; at + window <= n && status == DS_OK; at += window) {
        status = ds_program_write(p, "tokens", tokens + at, (size_t)window * sizeof *tokens);
        if (status == DS_OK)
            status = ds_program_run(p);
        if (status == DS_OK)
            status = take_ranges(c, p, most);
    }
    free(most);
    return status;
}

ds_status ds_calibration_read(ds_calibration *c, ds_model *model, const int32_t *tokens,
                              int64_t n) {
    const int64_t longest = ds_model_get_config(model)->max_seq_len;
    const int64_t window = longest < WINDOW ? longest : WINDOW;
    ds_program *program = NULL;
    if (n < window)
        return ds_fail(DS_INVALID, "the calibration text has %lld tokens, less than %lld",
                       (long long)n, (long long)window);
    ds_graph *observed = ds_pass_observe(c->graph);
    if (!observed)
        return DS_OUT_OF_MEMORY;
    ds_status status =
        ds_compile(observed, ds_model_get_state(model), (ds_compile_opts){0}, &program);
    if (status == DS_OK)
        status = read_windows(c, program, window, tokens, n);
    ds_program_free(program);
    ds_graph_free(observed);
    return status;
}
