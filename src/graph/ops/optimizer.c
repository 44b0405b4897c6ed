/* Optimizer updates in place: the parameter and its state are read and written once, in one pass.
 *
 * Every update multiplies the gradient by grad_scale first (1 / loss scale, times the clipping
 * coefficient), and does nothing at all when grad_scale is not finite: the graph makes it so when
 * any gradient holds an Inf or NaN, hence one bad step spoils neither parameters nor moments. */
#include <math.h>

#include "graph/ops/ops.h"

/* The inputs of one tensor: the parameter and its state, which are changed, then the gradient.
 * State may be kept in a lower precision than the parameter. */
static ds_status check_tensor(const ds_node *node, int tensor, int n_tensors) {
    const ds_type *p = &node->inputs[tensor]->type;
    const int n_changed = node->op->n_changed;
    for (int k = 0; k <= n_changed; k++) {
        const int i = k * n_tensors + tensor;
        const ds_node *x = node->inputs[i];
        if (k < n_changed && x->op != &ds_op_param && x->op != &ds_op_variable &&
            !(x->op->traits & DS_EFFECT))
            return ds_fail(DS_INVALID, "input %d is a %s, not a parameter or variable", i,
                           x->op->name);
        ds_type wants = *p;
        wants.dtype = x->type.dtype;
        if (!ds_dtype_is_float(x->type.dtype) || !ds_type_equal(&x->type, &wants))
            return ds_fail(DS_INVALID, "input %d must be a float of the parameter's shape", i);
    }
    return DS_OK;
}

static ds_status update_shape(const ds_node *node, ds_type *results) {
    const int n = ds_node_n_tensors(node), n_scalars = node->op->n_scalars;
    const ds_type scalar = ds_scalar_type();
    if (n < 1 || node->n_inputs != n * (node->op->n_changed + 1) + n_scalars)
        return ds_fail(DS_INVALID, "%d inputs are not %d for each parameter and %d scalars",
                       node->n_inputs, node->op->n_changed + 1, n_scalars);
    for (int t = 0; t < n; t++)
        DS_TRY(check_tensor(node, t, n));
    for (int i = node->n_inputs - n_scalars; i < node->n_inputs; i++)
        if (!ds_type_equal(&node->inputs[i]->type, &scalar))
            return ds_fail(DS_INVALID, "input %d must be f32 of rank 0", i);
    results[0] = node->inputs[0]->type;
    return DS_OK;
}

/* Reads everything; writes parameter and state. */
static ds_cost update_cost(const ds_node *node) {
    const double flops_per_element = 12; /* AdamW's; the others are near it */
    const int n_tensors = ds_node_n_tensors(node), n_changed = ds_node_n_changed(node);
    double bytes = 0, elements = 0;
    for (int i = 0; i < node->n_inputs; i++)
        bytes += (double)ds_type_size(&node->inputs[i]->type) * (i < n_changed ? 2 : 1);
    for (int t = 0; t < n_tensors; t++)
        elements += (double)ds_node_count(node->inputs[t]);
    return (ds_cost){.flops = flops_per_element * elements, .bytes = bytes};
}

static void update_describe(const ds_node *node, ds_text *out) {
    const ds_update_attrs *a = node->attrs;
    ds_text_printf(out, "%d tensors betas %g %g weight decay %g", ds_node_n_tensors(node),
                   (double)a->beta1, (double)a->beta2, (double)a->weight_decay);
}

static double scalar(const ds_kernel_args *args, int k) {
    const int first = args->n_inputs - args->node->op->n_scalars;
    return (double)*(const float *)args->inputs[first + k].data;
}

/* Input k of one tensor. */
static float *part(const ds_kernel_args *args, int k, int tensor) {
    return args->inputs[k * ds_node_n_tensors(args->node) + tensor].data;
}

static int64_t size_of(const ds_kernel_args *args, int tensor) {
    return ds_count(args->inputs[tensor].dims, args->inputs[tensor].rank);
}

static void for_each_tensor(const ds_kernel_args *args,
                            void (*update)(const ds_kernel_args *args, int tensor)) {
    const int grad_scale = 1; /* the second scalar of them all */
    if (!isfinite(scalar(args, grad_scale)))
        return;
    for (int t = 0; t < ds_node_n_tensors(args->node); t++)
        update(args, t);
}

/* AdamW (Loshchilov & Hutter 2019), as torch.optim.AdamW:
 *     m ← β₁m + (1−β₁)g      v ← β₂v + (1−β₂)g²
 *     p ← p(1 − lr·λ) − lr · (m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + ε) */
static void adamw_tensor(const ds_kernel_args *args, int tensor) {
    const ds_update_attrs *a = args->node->attrs;
    float *p = part(args, 0, tensor), *m = part(args, 1, tensor), *v = part(args, 2, tensor);
    const float *grad = part(args, 3, tensor);
    const double lr = scalar(args, 0), scale = scalar(args, 1), step = scalar(args, 2);
    const double beta1 = (double)a->beta1, beta2 = (double)a->beta2;
    const double m_correction = 1 - pow(beta1, step), v_correction = 1 - pow(beta2, step);
    const double keep = 1 - lr * (double)a->weight_decay;
    for (int64_t i = 0; i < size_of(args, tensor); i++) {
        const double g = (double)grad[i] * scale;
        m[i] = (float)(beta1 * (double)m[i] + (1 - beta1) * g);
        v[i] = (float)(beta2 * (double)v[i] + (1 - beta2) * g * g);
        const double denominator = sqrt((double)v[i] / v_correction) + (double)a->eps;
        p[i] = (float)((double)p[i] * keep - lr * ((double)m[i] / m_correction) / denominator);
    }
}

static void adamw_reference(const ds_kernel_args *args) {
    for_each_tensor(args, adamw_tensor);
}

const ds_op ds_op_adamw = {
    .name = "adamw",
    .attrs_size = sizeof(ds_update_attrs),
    .n_changed = 3,
    .n_scalars = 3,
    .traits = DS_EFFECT,
    .precision = DS_PRECISION_KEEP,
    .shape = update_shape,
    .cost = update_cost,
    .reference = adamw_reference,
    .describe = update_describe,
};

/* SGD with momentum, as torch.optim.SGD (no dampening); weight decay is added to the gradient:
 *     g ← g + λp      m ← μm + g      p ← p − lr·m        (μ is beta1) */
static void sgd_tensor(const ds_kernel_args *args, int tensor) {
    const ds_update_attrs *a = args->node->attrs;
    float *p = part(args, 0, tensor), *m = part(args, 1, tensor);
    const float *grad = part(args, 2, tensor);
    const double lr = scalar(args, 0), scale = scalar(args, 1);
    for (int64_t i = 0; i < size_of(args, tensor); i++) {
        const double g = (double)grad[i] * scale + (double)a->weight_decay * (double)p[i];
        m[i] = (float)((double)a->beta1 * (double)m[i] + g);
        p[i] = (float)((double)p[i] - lr * (double)m[i]);
    }
}

static void sgd_reference(const ds_kernel_args *args) {
    for_each_tensor(args, sgd_tensor);
}

const ds_op ds_op_sgd = {
    .name = "sgd",
    .attrs_size = sizeof(ds_update_attrs),
    .n_changed = 2,
    .n_scalars = 2,
    .traits = DS_EFFECT,
    .precision = DS_PRECISION_KEEP,
    .shape = update_shape,
    .cost = update_cost,
    .reference = sgd_reference,
    .describe = update_describe,
};

/* Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms"):
 *     p ← p(1 − lr·λ) − lr · sign(β₁m + (1−β₁)g)      m ← β₂m + (1−β₂)g */
static void lion_tensor(const ds_kernel_args *args, int tensor) {
    const ds_update_attrs *a = args->node->attrs;
    float *p = part(args, 0, tensor), *m = part(args, 1, tensor);
    const float *grad = part(args, 2, tensor);
    const double lr = scalar(args, 0), scale = scalar(args, 1);
    const double beta1 = (double)a->beta1, beta2 = (double)a->beta2;
    const double keep = 1 - lr * (double)a->weight_decay;
    for (int64_t i = 0; i < size_of(args, tensor); i++) {
        const double g = (double)grad[i] * scale;
        const double direction = beta1 * (double)m[i] + (1 - beta1) * g;
        p[i] = (float)((double)p[i] * keep - lr * (double)((direction > 0) - (direction < 0)));
        m[i] = (float)(beta2 * (double)m[i] + (1 - beta2) * g);
    }
}

static void lion_reference(const ds_kernel_args *args) {
    for_each_tensor(args, lion_tensor);
}

const ds_op ds_op_lion = {
    .name = "lion",
    .attrs_size = sizeof(ds_update_attrs),
    .n_changed = 2,
    .n_scalars = 2,
    .traits = DS_EFFECT,
    .precision = DS_PRECISION_KEEP,
    .shape = update_shape,
    .cost = update_cost,
    .reference = lion_reference,
    .describe = update_describe,
};
