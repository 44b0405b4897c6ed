/* Layer normalisation (Ba et al. 2016) and RMS normalisation (Zhang & Sennrich 2019) over the last
 * axis. The statistics of each row are results too: the backward pass reads them. */
#include <math.h>
#include <string.h>

#include "graph/ops/ops.h"

static ds_status check_vector(const ds_node *node, int input, int64_t n) {
    const ds_type *t = &node->inputs[input]->type;
    if (t->rank == 1 && t->dims[0] == n && t->dtype == DS_F32)
        return DS_OK;
    return ds_fail(DS_INVALID, "input %d must be f32[%lld], one number per column", input,
                   (long long)n);
}

/* y and n_statistics vectors of one number a row. */
static ds_status norm_shape(const ds_node *node, int n_statistics, ds_type *results) {
    const ds_type *x = &node->inputs[0]->type;
    if (x->rank < 1 || !ds_dtype_is_float(x->dtype))
        return ds_fail(DS_INVALID, "wants a float with at least one axis");
    for (int i = 1; i < node->n_inputs; i++)
        DS_TRY(check_vector(node, i, x->dims[x->rank - 1]));
    results[0] = *x;
    for (int i = 1; i <= n_statistics; i++)
        results[i] = (ds_type){DS_F32, 1, {ds_count(x->dims, x->rank - 1)}};
    return DS_OK;
}

static ds_status layer_norm_shape(const ds_node *node, ds_type *results) {
    return norm_shape(node, 2, results);
}

static ds_status rms_norm_shape(const ds_node *node, ds_type *results) {
    return norm_shape(node, 1, results);
}

/* dx like x, then n_vectors gradients of weight (and bias). */
static ds_status grad_shape(const ds_node *node, int n_vectors, ds_type *results) {
    const ds_type *dy = &node->inputs[0]->type, *x = &node->inputs[1]->type;
    if (dy->rank != x->rank || memcmp(dy->dims, x->dims, sizeof(int64_t) * (size_t)x->rank) != 0)
        return ds_fail(DS_INVALID, "dy and x differ in shape");
    results[0] = *x;
    for (int i = 1; i <= n_vectors; i++)
        results[i] = (ds_type){DS_F32, 1, {x->dims[x->rank - 1]}};
    return DS_OK;
}

static ds_status layer_norm_grad_shape(const ds_node *node, ds_type *results) {
    return grad_shape(node, 2, results);
}

static ds_status rms_norm_grad_shape(const ds_node *node, ds_type *results) {
    return grad_shape(node, 1, results);
}

static void layer_norm_reference(const ds_kernel_args *args) {
    const ds_tensor *in = &args->inputs[0];
    const double eps = (double)((const ds_norm_attrs *)args->node->attrs)->eps;
    const int64_t n = in->dims[in->rank - 1], rows = ds_count(in->dims, in->rank - 1);
    const float *weight = args->inputs[1].data;
    const float *bias = args->n_inputs > 2 ? args->inputs[2].data : NULL;
    for (int64_t r = 0; r < rows; r++) {
        const float *x = (const float *)in->data + r * n;
        float *y = (float *)args->outputs[0].data + r * n;
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < n; i++)
            mean += (double)x[i] / (double)n;
        for (int64_t i = 0; i < n; i++)
            variance += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
        const double rstd = 1 / sqrt(variance + eps);
        for (int64_t i = 0; i < n; i++)
            y[i] = (float)(((double)x[i] - mean) * rstd * (double)weight[i] +
                           (bias ? (double)bias[i] : 0));
        ((float *)args->outputs[1].data)[r] = (float)mean;
        ((float *)args->outputs[2].data)[r] = (float)rstd;
    }
}

/* With x̂ = (x − mean) rstd and ŷ = dy·weight: dx = rstd (ŷ − mean(ŷ) − x̂ mean(ŷ x̂)); for the RMS
 * norm mean is 0 and the middle term is absent. */
static void norm_grad_reference(const ds_kernel_args *args) {
    const bool centred = args->node->op == &ds_op_layer_norm_grad;
    const ds_tensor *in = &args->inputs[1];
    const int64_t n = in->dims[in->rank - 1], rows = ds_count(in->dims, in->rank - 1);
    const float *weight = args->inputs[2].data;
    const float *means = centred ? args->inputs[3].data : NULL;
    const float *rstds = args->inputs[centred ? 4 : 3].data;
    float *dweight = args->outputs[1].data, *dbias = centred ? args->outputs[2].data : NULL;
    memset(dweight, 0, (size_t)n * sizeof *dweight);
    if (dbias)
        memset(dbias, 0, (size_t)n * sizeof *dbias);
    for (int64_t r = 0; r < rows; r++) {
        const float *dy = (const float *)args->inputs[0].data + r * n;
        const float *x = (const float *)in->data + r * n;
        float *dx = (float *)args->outputs[0].data + r * n;
        const double mean = means ? (double)means[r] : 0, rstd = (double)rstds[r];
        double sum = 0, sum_x = 0;
        for (int64_t i = 0; i < n; i++) {
            const double x_hat = ((double)x[i] - mean) * rstd, g = (double)dy[i];
            sum += centred ? g * (double)weight[i] / (double)n : 0;
            sum_x += g * (double)weight[i] * x_hat / (double)n;
            dweight[i] += (float)(g * x_hat);
            if (dbias)
                dbias[i] += (float)g;
        }
        for (int64_t i = 0; i < n; i++) {
            const double x_hat = ((double)x[i] - mean) * rstd;
            dx[i] = (float)(rstd * ((double)dy[i] * (double)weight[i] - sum - x_hat * sum_x));
        }
    }
}

static ds_cost norm_cost(const ds_node *node) {
    const double n = (double)ds_node_count(node);
    return (ds_cost){.flops = 8 * n, .bytes = 2 * (double)ds_type_size(&node->type)};
}

static ds_cost norm_grad_cost(const ds_node *node) {
    const double n = (double)ds_node_count(node);
    return (ds_cost){.flops = 14 * n, .bytes = 3 * (double)ds_type_size(&node->type)};
}

static void layer_norm_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                                ds_node **dinputs) {
    if (!dresults[0])
        return;
    ds_node *grad =
        ds_graph_add_node(g, &ds_op_layer_norm_grad, node->attrs,
                          (ds_node *[]){dresults[0], node->inputs[0], node->inputs[1],
                                        ds_node_result(node, 1), ds_node_result(node, 2)},
                          5);
    for (int i = 0; i < node->n_inputs; i++)
        dinputs[i] = ds_node_result(grad, i);
}

static void rms_norm_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                              ds_node **dinputs) {
    if (!dresults[0])
        return;
    ds_node *grad = ds_graph_add_node(
        g, &ds_op_rms_norm_grad, node->attrs,
        (ds_node *[]){dresults[0], node->inputs[0], node->inputs[1], ds_node_result(node, 1)}, 4);
    for (int i = 0; i < node->n_inputs; i++)
        dinputs[i] = ds_node_result(grad, i);
}

const ds_op ds_op_layer_norm = {
    .name = "layer_norm",
    .attrs_size = sizeof(ds_norm_attrs),
    .n_results = 3,
    .precision = DS_PRECISION_FOLLOW,
    .keep_f32 = 1u << 1 | 1u << 2,
    .shape = layer_norm_shape,
    .gradient = layer_norm_gradient,
    .cost = norm_cost,
    .reference = layer_norm_reference,
};

const ds_op ds_op_layer_norm_grad = {
    .name = "layer_norm_grad",
    .attrs_size = sizeof(ds_norm_attrs),
    .n_results = 3,
    .precision = DS_PRECISION_FOLLOW,
    .keep_f32 = 1u << 2 | 1u << 3 | 1u << 4,
    .shape = layer_norm_grad_shape,
    .cost = norm_grad_cost,
    .reference = norm_grad_reference,
};

static void rms_norm_reference(const ds_kernel_args *args) {
    const ds_tensor *in = &args->inputs[0];
    const double eps = (double)((const ds_norm_attrs *)args->node->attrs)->eps;
    const int64_t n = in->dims[in->rank - 1], rows = ds_count(in->dims, in->rank - 1);
    const float *weight = args->inputs[1].data;
    for (int64_t r = 0; r < rows; r++) {
        const float *x = (const float *)in->data + r * n;
        float *y = (float *)args->outputs[0].data + r * n;
        double square = 0;
        for (int64_t i = 0; i < n; i++)
            square += (double)x[i] * (double)x[i] / (double)n;
        const double rstd = 1 / sqrt(square + eps);
        for (int64_t i = 0; i < n; i++)
            y[i] = (float)((double)x[i] * rstd * (double)weight[i]);
        ((float *)args->outputs[1].data)[r] = (float)rstd;
    }
}

const ds_op ds_op_rms_norm = {
    .name = "rms_norm",
    .attrs_size = sizeof(ds_norm_attrs),
    .n_results = 2,
    .precision = DS_PRECISION_FOLLOW,
    .keep_f32 = 1u << 1,
    .shape = rms_norm_shape,
    .gradient = rms_norm_gradient,
    .cost = norm_cost,
    .reference = rms_norm_reference,
};

const ds_op ds_op_rms_norm_grad = {
    .name = "rms_norm_grad",
    .attrs_size = sizeof(ds_norm_attrs),
    .n_results = 2,
    .precision = DS_PRECISION_FOLLOW,
    .keep_f32 = 1u << 2 | 1u << 3,
    .shape = rms_norm_grad_shape,
    .cost = norm_grad_cost,
    .reference = norm_grad_reference,
};

ds_node *ds_graph_layer_norm(ds_graph *g, ds_node *x, ds_node *weight, ds_node *bias, float eps) {
    return ds_graph_add_node(g, &ds_op_layer_norm, &(ds_norm_attrs){eps},
                             (ds_node *[]){x, weight, bias}, bias ? 3 : 2);
}

ds_node *ds_graph_rms_norm(ds_graph *g, ds_node *x, ds_node *weight, float eps) {
    return ds_graph_add_node(g, &ds_op_rms_norm, &(ds_norm_attrs){eps}, (ds_node *[]){x, weight},
                             2);
}
