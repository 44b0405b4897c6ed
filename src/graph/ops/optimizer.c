/* Optimizer updates in place: the parameter and its state are read and written once, in one pass.
 *
 * Every update multiplies the gradient by grad_scale first (1 / loss scale, times the clipping
 * coefficient), and does nothing at all when grad_scale is not finite: the graph makes it so when
 * any gradient holds an Inf or NaN, hence one bad step spoils neither parameters nor moments. */
#include <math.h>

#include "graph/ops/ops.h"

/* The first n_changed inputs are the parameter and its state, then come the gradient and scalars.
 * State may be kept in a lower precision than the parameter. */
static ds_status update_shape(const ds_node *node, ds_type *results) {
    const int n_changed = node->op->n_changed;
    const ds_type *p = &node->inputs[0]->type;
    for (int i = 0; i < node->n_inputs; i++) {
        const ds_node *x = node->inputs[i];
        if (i < n_changed && x->op != &ds_op_param && x->op != &ds_op_variable &&
            !(x->op->traits & DS_EFFECT))
            return ds_fail(DS_INVALID, "input %d is a %s, not a parameter or variable", i,
                           x->op->name);
        ds_type wants = i <= n_changed ? *p : ds_scalar_type();
        wants.dtype = i <= n_changed ? x->type.dtype : DS_F32;
        if (!ds_dtype_is_float(x->type.dtype) || !ds_type_equal(&x->type, &wants))
            return ds_fail(DS_INVALID, "input %d must be %s", i,
                           i <= n_changed ? "a float of the parameter's shape" : "f32 of rank 0");
    }
    results[0] = *p;
    return DS_OK;
}

/* Reads everything; writes parameter and state. */
static ds_cost update_cost(const ds_node *node) {
    double bytes = 0;
    for (int i = 0; i < node->n_inputs; i++)
        bytes += (double)ds_type_size(&node->inputs[i]->type) * (i < node->op->n_changed ? 2 : 1);
    const double flops_per_element = 12; /* AdamW's; the others are near it */
    return (ds_cost){.flops = flops_per_element * (double)ds_node_count(node), .bytes = bytes};
}

static void update_describe(const ds_node *node, ds_text *out) {
    const ds_update_attrs *a = node->attrs;
    ds_text_printf(out, "betas %g %g weight decay %g", (double)a->beta1, (double)a->beta2,
                   (double)a->weight_decay);
}

static double scalar(const ds_kernel_args *args, int input) {
    return (double)*(const float *)args->inputs[input].data;
}

static int64_t size_of(const ds_kernel_args *args) {
    return ds_count(args->inputs[0].dims, args->inputs[0].rank);
}

/* AdamW (Loshchilov & Hutter 2019), as torch.optim.AdamW:
 *     m ← β₁m + (1−β₁)g      v ← β₂v + (1−β₂)g²
 *     p ← p(1 − lr·λ) − lr · (m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + ε) */
static void adamw_reference(const ds_kernel_args *args) {
    const ds_update_attrs *a = args->node->attrs;
    float *p = args->inputs[0].data, *m = args->inputs[1].data, *v = args->inputs[2].data;
    const float *grad = args->inputs[3].data;
    const double lr = scalar(args, 4), scale = scalar(args, 5), step = scalar(args, 6);
    if (!isfinite(scale))
        return;
    const double beta1 = (double)a->beta1, beta2 = (double)a->beta2;
    const double m_correction = 1 - pow(beta1, step), v_correction = 1 - pow(beta2, step);
    const double keep = 1 - lr * (double)a->weight_decay;
    for (int64_t i = 0; i < size_of(args); i++) {
        const double g = (double)grad[i] * scale;
        m[i] = (float)(beta1 * (double)m[i] + (1 - beta1) * g);
        v[i] = (float)(beta2 * (double)v[i] + (1 - beta2) * g * g);
        const double denominator = sqrt((double)v[i] / v_correction) + (double)a->eps;
        p[i] = (float)((double)p[i] * keep - lr * ((double)m[i] / m_correction) / denominator);
    }
}

const ds_op ds_op_adamw = {
    .name = "adamw",
    .attrs_size = sizeof(ds_update_attrs),
    .n_changed = 3,
    .traits = DS_EFFECT,
    .precision = DS_PRECISION_KEEP,
    .shape = update_shape,
    .cost = update_cost,
    .reference = adamw_reference,
    .describe = update_describe,
};

/* SGD with momentum, as torch.optim.SGD (no dampening); weight decay is added to the gradient:
 *     g ← g + λp      m ← μm + g      p ← p − lr·m        (μ is beta1) */
static void sgd_reference(const ds_kernel_args *args) {
    const ds_update_attrs *a = args->node->attrs;
    float *p = args->inputs[0].data, *m = args->inputs[1].data;
    const float *grad = args->inputs[2].data;
    const double lr = scalar(args, 3), scale = scalar(args, 4);
    if (!isfinite(scale))
        return;
    for (int64_t i = 0; i < size_of(args); i++) {
        const double g = (double)grad[i] * scale + (double)a->weight_decay * (double)p[i];
        m[i] = (float)((double)a->beta1 * (double)m[i] + g);
        p[i] = (float)((double)p[i] - lr * (double)m[i]);
    }
}

const ds_op ds_op_sgd = {
    .name = "sgd",
    .attrs_size = sizeof(ds_update_attrs),
    .n_changed = 2,
    .traits = DS_EFFECT,
    .precision = DS_PRECISION_KEEP,
    .shape = update_shape,
    .cost = update_cost,
    .reference = sgd_reference,
    .describe = update_describe,
};

/* Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms"):
 *     p ← p(1 − lr·λ) − lr · sign(β₁m + (1−β₁)g)      m ← β₂m + (1−β₂)g */
static void lion_reference(const ds_kernel_args *args) {
    const ds_update_attrs *a = args->node->attrs;
    float *p = args->inputs[0].data, *m = args->inputs[1].data;
    const float *grad = args->inputs[2].data;
    const double lr = scalar(args, 3), scale = scalar(args, 4);
    if (!isfinite(scale))
        return;
    const double beta1 = (double)a->beta1, beta2 = (double)a->beta2;
    const double keep = 1 - lr * (double)a->weight_decay;
    for (int64_t i = 0; i < size_of(args); i++) {
        const double g = (double)grad[i] * scale;
        const double direction = beta1 * (double)m[i] + (1 - beta1) * g;
        p[i] = (float)((double)p[i] * keep - lr * (double)((direction > 0) - (direction < 0)));
        m[i] = (float)(beta2 * (double)m[i] + (1 - beta2) * g);
    }
}

const ds_op ds_op_lion = {
    .name = "lion",
    .attrs_size = sizeof(ds_update_attrs),
    .n_changed = 2,
    .traits = DS_EFFECT,
    .precision = DS_PRECISION_KEEP,
    .shape = update_shape,
    .cost = update_cost,
    .reference = lion_reference,
    .describe = update_describe,
};
