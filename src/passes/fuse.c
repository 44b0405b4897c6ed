/* Joins ops into the forms that backends have one kernel for. Each rule looks at a node whose
 * inputs are already rewritten and whose single-use inputs may be swallowed; what is swallowed is
 * left behind unreachable. */
#include <string.h>

#include "graph/ops/ops.h"
#include "passes/linear_cross_entropy.h"
#include "passes/passes.h"

/* The epilogue of a product, plain or with quantised weights; NULL: x is neither. */
static const ds_matmul_attrs *epilogue_of(const ds_node *x) {
    if (ds_node_is(x, &ds_op_matmul))
        return x->attrs;
    if (ds_node_is(x, &ds_op_quantised_matmul))
        return &((const ds_quantised_matmul_attrs *)x->attrs)->epilogue;
    return NULL;
}

/* The product in `to` that x is, if only the node at hand reads it and no residual is on it yet. */
static ds_node *open_matmul(const ds_rewrite *r, const ds_node *old, ds_node *x) {
    const ds_matmul_attrs *a = epilogue_of(x);
    return a && r->n_uses[old->id] == 1 && x->type.dtype != DS_I32 && !a->has_residual ? x : NULL;
}

static ds_node *with_input(ds_graph *to, const ds_node *matmul, const ds_matmul_attrs *epilogue,
                           ds_node *input) {
    ds_node *inputs[5];
    ds_quantised_matmul_attrs quantised;
    const void *attrs = epilogue;
    if (ds_node_is(matmul, &ds_op_quantised_matmul)) {
        memcpy(&quantised, matmul->attrs, sizeof quantised);
        quantised.epilogue = *epilogue;
        attrs = &quantised;
    }
    for (int i = 0; i < matmul->n_inputs; i++)
        inputs[i] = matmul->inputs[i];
    if (input)
        inputs[matmul->n_inputs] = input;
    return ds_graph_add_node(to, matmul->op, attrs, inputs, matmul->n_inputs + (input ? 1 : 0));
}

/* The [n] vector behind a broadcast over rows, f32 where a cast of one; NULL if it is none. */
static ds_node *bias_of(const ds_node *matmul, ds_node *x) {
    if (!ds_node_is(x, &ds_op_broadcast))
        return NULL;
    ds_node *bias = x->inputs[0];
    if (bias->type.rank != 1 || bias->type.dims[0] != ds_node_dim(matmul, -1))
        return NULL;
    return ds_node_is(bias, &ds_op_cast) && bias->inputs[0]->type.dtype == DS_F32 ? bias->inputs[0]
                                                                                  : bias;
}

/* add(matmul, bias) and add(matmul, residual), in either order. */
static ds_node *fuse_add(ds_rewrite *r, ds_graph *to, const ds_node *node, ds_node *const *inputs) {
    for (int k = 0; k < 2; k++) {
        ds_node *matmul = open_matmul(r, node->inputs[k], inputs[k]), *other = inputs[1 - k];
        if (!matmul)
            continue;
        ds_matmul_attrs attrs = *epilogue_of(matmul);
        ds_node *bias = bias_of(matmul, other);
        if (bias && !attrs.has_bias && !attrs.has_activation && bias->type.dtype == DS_F32) {
            attrs.has_bias = true;
            return with_input(to, matmul, &attrs, bias);
        }
        if (!ds_node_is(other, &ds_op_broadcast) && ds_type_equal(&other->type, &matmul->type)) {
            attrs.has_residual = true;
            return with_input(to, matmul, &attrs, other);
        }
    }
    return NULL;
}

/* add(scatter_add, x): rows are added to x where it lies. The gradient of an embedding that is also
 * the projection to the vocabulary has this form. */
static ds_node *fuse_scatter(ds_rewrite *r, ds_graph *to, const ds_node *node,
                             ds_node *const *inputs) {
    for (int k = 0; k < 2; k++) {
        ds_node *scatter = inputs[k], *other = inputs[1 - k];
        if (ds_node_is(scatter, &ds_op_scatter_add) && scatter->n_inputs == 2 &&
            r->n_uses[node->inputs[k]->id] == 1 && ds_type_equal(&scatter->type, &other->type))
            return ds_graph_add_node(to, &ds_op_scatter_add, scatter->attrs,
                                     (ds_node *[]){scatter->inputs[0], scatter->inputs[1], other},
                                     3);
    }
    return NULL;
}

static ds_node *fuse_activation(ds_rewrite *r, ds_graph *to, const ds_node *node,
                                ds_node *const *inputs) {
    const ds_unary kind = ((const ds_unary_attrs *)node->attrs)->kind;
    ds_node *matmul = open_matmul(r, node->inputs[0], inputs[0]);
    if (!matmul || (kind != DS_GELU && kind != DS_GELU_TANH && kind != DS_SILU && kind != DS_RELU))
        return NULL;
    ds_matmul_attrs attrs = *epilogue_of(matmul);
    if (attrs.has_activation)
        return NULL;
    attrs.has_activation = true;
    attrs.activation = kind;
    return with_input(to, matmul, &attrs, NULL);
}

/* A product or sum that is only wanted in f32 is made in f32: its sums are f32 anyway. */
static ds_node *fuse_cast(ds_rewrite *r, ds_graph *to, const ds_node *node,
                          ds_node *const *inputs) {
    ds_node *x = inputs[0];
    if (((const ds_cast_attrs *)node->attrs)->dtype == x->type.dtype)
        return x;
    if (((const ds_cast_attrs *)node->attrs)->dtype != DS_F32 ||
        r->n_uses[node->inputs[0]->id] != 1 || !ds_dtype_is_float(x->type.dtype))
        return NULL;
    const ds_matmul_attrs *epilogue = epilogue_of(x);
    if (epilogue && !epilogue->has_bias && !epilogue->has_activation && !epilogue->has_residual) {
        ds_matmul_attrs attrs = *epilogue;
        attrs.f32_result = true;
        return with_input(to, x, &attrs, NULL);
    }
    if (ds_node_is(x, &ds_op_reduce)) {
        ds_reduce_attrs attrs = *(const ds_reduce_attrs *)x->attrs;
        attrs.f32_result = true;
        return ds_graph_add_node(to, &ds_op_reduce, &attrs, x->inputs, 1);
    }
    if (ds_node_is(x, &ds_op_reshape)) { /* look through: the reshape moves behind the cast */
        ds_node *inner = x->inputs[0];
        if (ds_node_is(inner, &ds_op_reduce)) {
            ds_reduce_attrs attrs = *(const ds_reduce_attrs *)inner->attrs;
            attrs.f32_result = true;
            inner = ds_graph_add_node(to, &ds_op_reduce, &attrs, inner->inputs, 1);
            return ds_graph_reshape(to, inner, x->type.rank, x->type.dims);
        }
    }
    return NULL;
}

static ds_node *fuse_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                          ds_node *const *inputs) {
    ds_node *fused = NULL;
    if (node->op == &ds_op_binary && ((const ds_binary_attrs *)node->attrs)->kind == DS_ADD) {
        fused = fuse_scatter(r, to, node, inputs);
        if (!fused)
            fused = fuse_add(r, to, node, inputs);
    } else if (node->op == &ds_op_unary) {
        fused = fuse_activation(r, to, node, inputs);
    } else if (node->op == &ds_op_cast) {
        fused = fuse_cast(r, to, node, inputs);
    }
    return fused ? fused : ds_graph_copy_node(to, node, inputs);
}

ds_graph *ds_pass_fuse(const ds_graph *g) {
    ds_graph *chunked = ds_fuse_linear_cross_entropy(g);
    ds_graph *fused = chunked ? ds_graph_rewrite(chunked, fuse_node, NULL) : NULL;
    ds_graph_free(chunked);
    return fused;
}
