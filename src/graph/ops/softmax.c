/* Softmax and its logarithm over the last axis. */
#include <math.h>

#include "graph/ops/ops.h"

static ds_status rows_shape(const ds_node *node, ds_type *results) {
    results[0] = node->inputs[0]->type;
    if (results[0].rank < 1 || !ds_dtype_is_float(results[0].dtype))
        return ds_fail(DS_INVALID, "wants a float with at least one axis");
    for (int i = 1; i < node->n_inputs; i++)
        if (!ds_type_equal(&results[0], &node->inputs[i]->type))
            return ds_fail(DS_INVALID, "inputs differ in shape or dtype");
    return DS_OK;
}

static ds_cost rows_cost(const ds_node *node) {
    const double n = (double)ds_node_count(node);
    return (ds_cost){.flops = 5 * n, /* max, subtract, exp, add, scale */
                     .bytes = (double)ds_type_size(&node->type) * (node->n_inputs + 1)};
}

/* max + log Σ exp(x − max), in double. */
static double log_sum_exp(const float *x, int64_t n) {
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        max = (double)x[i] > max ? (double)x[i] : max;
    if (max == -INFINITY)
        return max;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - max);
    return max + log(sum);
}

static int64_t last(const ds_tensor *t) {
    return t->dims[t->rank - 1];
}

static int64_t rows(const ds_tensor *t) {
    return ds_count(t->dims, t->rank - 1);
}

static void softmax_reference(const ds_kernel_args *args) {
    const int64_t n = last(&args->outputs[0]);
    const bool log_form = args->node->op == &ds_op_log_softmax;
    for (int64_t r = 0; r < rows(&args->outputs[0]); r++) {
        const float *x = (const float *)args->inputs[0].data + r * n;
        float *y = (float *)args->outputs[0].data + r * n;
        const double lse = log_sum_exp(x, n);
        for (int64_t i = 0; i < n; i++)
            y[i] = (float)(log_form ? (double)x[i] - lse : exp((double)x[i] - lse));
    }
}

/* inputs: dy, y.  softmax: dx = y (dy − Σ dy·y);  log: dx = dy − exp(y) Σ dy. */
static void softmax_grad_reference(const ds_kernel_args *args) {
    const int64_t n = last(&args->outputs[0]);
    const bool log_form = args->node->op == &ds_op_log_softmax_grad;
    for (int64_t r = 0; r < rows(&args->outputs[0]); r++) {
        const float *dy = (const float *)args->inputs[0].data + r * n;
        const float *y = (const float *)args->inputs[1].data + r * n;
        float *dx = (float *)args->outputs[0].data + r * n;
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += log_form ? (double)dy[i] : (double)dy[i] * (double)y[i];
        for (int64_t i = 0; i < n; i++)
            dx[i] = (float)(log_form ? (double)dy[i] - exp((double)y[i]) * sum
                                     : (double)y[i] * ((double)dy[i] - sum));
    }
}

static void softmax_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                             ds_node **dinputs) {
    dinputs[0] =
        ds_graph_add_node(g, &ds_op_softmax_grad, NULL, (ds_node *[]){dresults[0], node}, 2);
}

static void log_softmax_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                                 ds_node **dinputs) {
    dinputs[0] =
        ds_graph_add_node(g, &ds_op_log_softmax_grad, NULL, (ds_node *[]){dresults[0], node}, 2);
}

const ds_op ds_op_softmax = {
    .name = "softmax",
    .precision = DS_PRECISION_F32,
    .shape = rows_shape,
    .gradient = softmax_gradient,
    .cost = rows_cost,
    .reference = softmax_reference,
};

const ds_op ds_op_softmax_grad = {
    .name = "softmax_grad",
    .precision = DS_PRECISION_F32,
    .shape = rows_shape,
    .cost = rows_cost,
    .reference = softmax_grad_reference,
};

const ds_op ds_op_log_softmax = {
    .name = "log_softmax",
    .precision = DS_PRECISION_F32,
    .shape = rows_shape,
    .gradient = log_softmax_gradient,
    .cost = rows_cost,
    .reference = softmax_reference,
};

const ds_op ds_op_log_softmax_grad = {
    .name = "log_softmax_grad",
    .precision = DS_PRECISION_F32,
    .shape = rows_shape,
    .cost = rows_cost,
    .reference = softmax_grad_reference,
};

ds_node *ds_graph_softmax(ds_graph *g, ds_node *x) {
    return ds_graph_add_node(g, &ds_op_softmax, NULL, &x, 1);
}

ds_node *ds_graph_log_softmax(ds_graph *g, ds_node *x) {
    return ds_graph_add_node(g, &ds_op_log_softmax, NULL, &x, 1);
}
