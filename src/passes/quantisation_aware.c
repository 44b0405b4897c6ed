/* Quantisation-aware training (Jacob et al. 2018): the forward pass computes what the quantised
 * model will compute, the backward pass what is differentiable.
 *
 * A product x · W of a parameter becomes two: the quantised product of inference itself, whose
 * value everything after it reads, and a surrogate, the product of x and W rounded to the same
 * steps in floats, through which gradients flow as though rounding were not there (straight
 * through, Bengio et al. 2013). Ranges are observed: the largest magnitude of each row of W and of
 * x, as they are at that moment and as inference takes them, so that a quantised copy of the
 * parameters gives the trained numbers bit for bit. Autodiff reads only the surrogate's operands;
 * its product is never made. */
#include <stdlib.h>

#include "graph/ops/ops.h"
#include "passes/passes.h"

typedef struct aware_pass {
    ds_quantisation kind;
    ds_product_side *sides; /* by id */
} aware_pass;

static ds_node *aware_product(const aware_pass *pass, ds_graph *g, bool by_columns, ds_node *x,
                              ds_node *param) {
    ds_node *w = by_columns ? ds_graph_permute(g, param, (int[]){1, 0}) : param;
    ds_node *scales = ds_graph_quantisation_scale(g, w, true); /* as files have them */
    const int64_t out = w ? w->type.dims[0] : 0, in = w ? w->type.dims[1] : 0;
    ds_node *value = ds_graph_quantised_matmul(
        g, x, ds_graph_quantise(g, w, scales), ds_graph_reshape(g, scales, 2, (int64_t[]){out, 1}),
        (ds_quantised_matmul_opts){.int8_input = pass->kind == DS_QUANTISE_W8A8});
    ds_node *rounded = x;
    if (pass->kind == DS_QUANTISE_W8A8 && x) {
        ds_node *rows = ds_graph_reshape(g, x, 2, (int64_t[]){-1, in});
        ds_node *scale = ds_graph_quantisation_scale(g, rows, false);
        rounded =
            ds_graph_reshape(g, ds_graph_fake_quantise(g, rows, scale), x->type.rank, x->type.dims);
    }
    ds_node *surrogate = ds_graph_matmul(g, rounded, ds_graph_fake_quantise(g, w, scales),
                                         (ds_matmul_opts){.transpose_b = true});
    return ds_graph_straight_through(g, value, surrogate);
}

static ds_node *aware_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                           ds_node *const *inputs) {
    const aware_pass *pass = r->context;
    const bool is_product =
        node->op == &ds_op_matmul && ds_is_product(pass->sides[node->inputs[1]->id]);
    if (!is_product || ((const ds_matmul_attrs *)node->attrs)->f32_result)
        return ds_graph_copy_node(to, node, inputs);
    return aware_product(pass, to, pass->sides[node->inputs[1]->id] == DS_BY_COLUMNS, inputs[0],
                         inputs[1]);
}

ds_graph *ds_pass_quantisation_aware(const ds_graph *g, ds_quantisation kind) {
    aware_pass pass = {.kind = kind, .sides = ds_product_parameters(g)};
    if (!pass.sides)
        return NULL;
    ds_graph *to = ds_graph_rewrite(g, aware_node, &pass);
    free(pass.sides);
    return to;
}

static ds_node *value_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                           ds_node *const *inputs) {
    (void)r;
    return node->op == &ds_op_straight_through ? inputs[0] : ds_graph_copy_node(to, node, inputs);
}

ds_graph *ds_pass_drop_surrogates(const ds_graph *g) {
    return ds_graph_rewrite(g, value_node, NULL);
}
