/* Cross-entropy of rows of logits, plain and fused with the projection that makes them. */
#include <math.h>
#include <string.h>

#include "graph/ops/ops.h"

static ds_status check_labels(const ds_type *labels, const ds_type *logits) {
    if (labels->dtype == DS_I32 && labels->rank == logits->rank - 1 &&
        memcmp(labels->dims, logits->dims, sizeof(int64_t) * (size_t)labels->rank) == 0)
        return DS_OK;
    return ds_fail(DS_INVALID, "labels must be i32 with the logits' shape less the last axis");
}

static ds_status cross_entropy_shape(const ds_node *node, ds_type *results) {
    const ds_type *logits = &node->inputs[0]->type;
    if (logits->rank < 1 || !ds_dtype_is_float(logits->dtype) || logits->dims[logits->rank - 1] < 1)
        return ds_fail(DS_INVALID, "logits must be floats with at least one class");
    DS_TRY(check_labels(&node->inputs[1]->type, logits));
    results[0] = ds_scalar_type();
    results[1] = (ds_type){DS_F32, 1, {ds_count(logits->dims, logits->rank - 1)}};
    return DS_OK;
}

static ds_status cross_entropy_grad_shape(const ds_node *node, ds_type *results) {
    results[0] = node->inputs[1]->type;
    if (node->inputs[0]->type.rank != 0)
        return ds_fail(DS_INVALID, "the gradient of the loss must be of rank 0");
    return check_labels(&node->inputs[2]->type, &results[0]);
}

static double log_sum_exp(const float *x, int64_t n) {
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        max = (double)x[i] > max ? (double)x[i] : max;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - max);
    return max + log(sum);
}

/* −log softmax(x)[label]; 0 for an ignored row, NaN for a label that is no class. */
static double row_loss(const float *x, int64_t n, int32_t label, double lse) {
    if (label == DS_IGNORED_LABEL)
        return 0;
    return label >= 0 && label < n ? lse - (double)x[label] : NAN;
}

/* d loss / d logit of one class. */
static float logit_grad(float logit, int64_t at, int32_t label, double lse, double dloss) {
    if (label == DS_IGNORED_LABEL)
        return 0;
    return (float)(dloss * (exp((double)logit - lse) - (at == label ? 1 : 0)));
}

static void cross_entropy_reference(const ds_kernel_args *args) {
    const ds_tensor *logits = &args->inputs[0];
    const int64_t n = logits->dims[logits->rank - 1],
                  rows = ds_count(logits->dims, logits->rank - 1);
    double loss = 0;
    for (int64_t r = 0; r < rows; r++) {
        const float *x = (const float *)logits->data + r * n;
        const double lse = log_sum_exp(x, n);
        ((float *)args->outputs[1].data)[r] = (float)lse;
        loss += row_loss(x, n, ((const int32_t *)args->inputs[1].data)[r], lse);
    }
    *(float *)args->outputs[0].data = (float)loss;
}

static void cross_entropy_grad_reference(const ds_kernel_args *args) {
    const ds_tensor *logits = &args->inputs[1];
    const int64_t n = logits->dims[logits->rank - 1],
                  rows = ds_count(logits->dims, logits->rank - 1);
    const double dloss = (double)*(const float *)args->inputs[0].data;
    for (int64_t at = 0; at < rows * n; at++)
        ((float *)args->outputs[0].data)[at] =
            logit_grad(((const float *)logits->data)[at], at % n,
                       ((const int32_t *)args->inputs[2].data)[at / n],
                       (double)((const float *)args->inputs[3].data)[at / n], dloss);
}

static void cross_entropy_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                                   ds_node **dinputs) {
    if (dresults[0])
        dinputs[0] = ds_graph_add_node(
            g, &ds_op_cross_entropy_grad, NULL,
            (ds_node *[]){dresults[0], node->inputs[0], node->inputs[1], ds_node_result(node, 1)},
            4);
}

static ds_cost cross_entropy_cost(const ds_node *node) {
    const ds_type *logits = &node->inputs[node->op == &ds_op_cross_entropy ? 0 : 1]->type;
    const double n = (double)ds_count(logits->dims, logits->rank);
    const int passes = node->op == &ds_op_cross_entropy ? 1 : 2;
    return (ds_cost){.flops = 4 * n, .bytes = passes * (double)ds_type_size(logits)};
}

const ds_op ds_op_cross_entropy = {
    .name = "cross_entropy",
    .n_results = 2,
    .precision = DS_PRECISION_FOLLOW, /* computes in f32 from logits of any precision */
    .shape = cross_entropy_shape,
    .gradient = cross_entropy_gradient,
    .cost = cross_entropy_cost,
    .reference = cross_entropy_reference,
};

const ds_op ds_op_cross_entropy_grad = {
    .name = "cross_entropy_grad",
    .precision = DS_PRECISION_FOLLOW,
    .keep_f32 = 1u << 0 | 1u << 3,
    .shape = cross_entropy_grad_shape,
    .cost = cross_entropy_cost,
    .reference = cross_entropy_grad_reference,
};

ds_node *ds_graph_cross_entropy(ds_graph *g, ds_node *logits, ds_node *labels) {
    return ds_graph_add_node(g, &ds_op_cross_entropy, NULL, (ds_node *[]){logits, labels}, 2);
}

/* ---- fused with the projection -------------------------------------------------------------- */

static ds_status fused_shape(const ds_node *node, ds_type *results) {
    const bool rows_are_classes = ((const ds_linear_cross_entropy_attrs *)node->attrs)->transpose_b;
    const ds_type *x = &node->inputs[0]->type, *w = &node->inputs[1]->type;
    const ds_type *labels = &node->inputs[2]->type;
    if (x->rank != 2 || w->rank != 2 || x->dims[1] != w->dims[rows_are_classes ? 1 : 0])
        return ds_fail(DS_INVALID, "x [rows, width] and the weight do not fit");
    if (labels->rank != 1 || labels->dtype != DS_I32 || labels->dims[0] != x->dims[0])
        return ds_fail(DS_INVALID, "labels must be i32[%lld]", (long long)x->dims[0]);
    if (!ds_type_equal(&node->inputs[3]->type, &(ds_type){.dtype = DS_F32}))
        return ds_fail(DS_INVALID, "the gradient of the loss must be f32 of rank 0");
    results[0] = ds_scalar_type();
    results[1] = *x;
    results[2] = *w;
    results[2].dtype = DS_F32;
    return DS_OK;
}

typedef struct projection {
    int64_t width, classes, row_step, class_step; /* strides of the weight */
    const float *weight;
    float *dweight;
} projection;

static float logit(const projection *p, const float *x, int64_t c) {
    double sum = 0;
    for (int64_t k = 0; k < p->width; k++)
        sum += (double)x[k] * (double)p->weight[c * p->class_step + k * p->row_step];
    return (float)sum;
}

/* Logits are computed anew each time they are needed: no memory to run out of. */
static void fused_row(const projection *p, const float *x, int32_t label, double dloss, float *dx,
                      double *loss) {
    double max = -INFINITY, sum = 0;
    for (int64_t c = 0; c < p->classes; c++)
        max = fmax(max, (double)logit(p, x, c));
    for (int64_t c = 0; c < p->classes; c++)
        sum += exp((double)logit(p, x, c) - max);
    const double lse = max + log(sum);
    if (label != DS_IGNORED_LABEL)
        *loss += label >= 0 && label < p->classes ? lse - (double)logit(p, x, label) : NAN;
    memset(dx, 0, (size_t)p->width * sizeof *dx);
    for (int64_t c = 0; c < p->classes; c++) {
        const float dlogit = logit_grad(logit(p, x, c), c, label, lse, dloss);
        for (int64_t k = 0; k < p->width; k++) {
            const int64_t at = c * p->class_step + k * p->row_step;
            dx[k] += dlogit * p->weight[at];
            p->dweight[at] += dlogit * x[k];
        }
    }
}

static void fused_reference(const ds_kernel_args *args) {
    const bool rows_are_classes =
        ((const ds_linear_cross_entropy_attrs *)args->node->attrs)->transpose_b;
    const int64_t rows = args->inputs[0].dims[0], width = args->inputs[0].dims[1];
    const int64_t classes = args->inputs[1].dims[rows_are_classes ? 0 : 1];
    const projection p = {
        .width = width,
        .classes = classes,
        .row_step = rows_are_classes ? 1 : classes,
        .class_step = rows_are_classes ? width : 1,
        .weight = args->inputs[1].data,
        .dweight = args->outputs[2].data,
    };
    double loss = 0;
    memset(p.dweight, 0, (size_t)(width * classes) * sizeof(float));
    for (int64_t r = 0; r < rows; r++)
        fused_row(&p, (const float *)args->inputs[0].data + r * width,
                  ((const int32_t *)args->inputs[2].data)[r],
                  (double)*(const float *)args->inputs[3].data,
                  (float *)args->outputs[1].data + r * width, &loss);
    *(float *)args->outputs[0].data = (float)loss;
}

static ds_cost fused_cost(const ds_node *node) {
    const ds_type *x = &node->inputs[0]->type, *w = &node->inputs[1]->type;
    const double classes = (double)ds_count(w->dims, 2) / (double)x->dims[1];
    return (ds_cost){
        .flops = 6.0 * (double)ds_count(x->dims, 2) * classes, /* logits, dx, dweight */
        .bytes = 2.0 * (double)ds_type_size(x) + (double)ds_type_size(w) +
                 (double)ds_type_size(&node->result_types[2]),
    };
}

const ds_op ds_op_linear_cross_entropy = {
    .name = "linear_cross_entropy",
    .attrs_size = sizeof(ds_linear_cross_entropy_attrs),
    .n_results = 3,
    .traits = DS_HEAVY,
    .precision = DS_PRECISION_LOW,
    .keep_f32 = 1u << 3,
    .shape = fused_shape,
    .cost = fused_cost,
    .reference = fused_reference,
};
