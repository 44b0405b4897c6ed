/* Matrix products: plain, batched, transposed, and grouped (one matrix per block of rows). */
#include "graph/ops/ops.h"

/* ---- matmul ---------------------------------------------------------------------------------- */

typedef struct product {
    int64_t m, n, k;  /* of one matrix product */
    int64_t batch;    /* how many */
    bool b_is_shared; /* b is one matrix for all of a's leading axes */
} product;

static product sizes_of(const ds_node *node) {
    const ds_matmul_attrs *t = node->attrs;
    const ds_type *a = &node->inputs[0]->type, *b = &node->inputs[1]->type;
    return (product){
        .m = a->dims[a->rank - 2 + (t->transpose_a ? 1 : 0)],
        .k = a->dims[a->rank - 1 - (t->transpose_a ? 1 : 0)],
        .n = b->dims[b->rank - 1 - (t->transpose_b ? 1 : 0)],
        .batch = ds_count(a->dims, a->rank - 2),
        .b_is_shared = b->rank == 2,
    };
}

static ds_status matmul_shape(const ds_node *node, ds_type *results) {
    const ds_matmul_attrs *t = node->attrs;
    const ds_type *a = &node->inputs[0]->type, *b = &node->inputs[1]->type;
    if (a->rank < 2 || b->rank < 2)
        return ds_fail(DS_INVALID, "operands need two axes at least");
    if (a->dtype != DS_I8 && !ds_dtype_is_float(a->dtype))
        return ds_fail(DS_INVALID, "no product of %s", ds_dtype_name(a->dtype));
    if (a->dtype != b->dtype && !(ds_dtype_is_float(a->dtype) && ds_dtype_is_float(b->dtype)))
        return ds_fail(DS_INVALID, "no product of %s and %s", ds_dtype_name(a->dtype),
                       ds_dtype_name(b->dtype));
    const product p = sizes_of(node);
    const int64_t wants = b->dims[b->rank - 2 + (t->transpose_b ? 1 : 0)];
    if (p.k != wants)
        return ds_fail(DS_INVALID, "input has %lld columns, weight wants %lld", (long long)p.k,
                       (long long)wants);
    if (b->rank != 2 && b->rank != a->rank)
        return ds_fail(DS_INVALID, "leading axes differ");
    for (int i = 0; b->rank > 2 && i < a->rank - 2; i++)
        if (a->dims[i] != b->dims[i])
            return ds_fail(DS_INVALID, "leading axis %d differs", i);
    if (p.b_is_shared && t->transpose_a && a->rank > 2)
        return ds_fail(DS_INVALID, "a transposed batch cannot share one right matrix");
    results[0] = *a;
    results[0].dims[a->rank - 2] = p.m;
    results[0].dims[a->rank - 1] = p.n;
    results[0].dtype = a->dtype == DS_I8 ? DS_I32 : t->f32_result ? DS_F32 : a->dtype;
    return DS_OK;
}

/* [..., r, c] as one matrix [rows, c]. */
static ds_node *flat(ds_graph *g, ds_node *x) {
    return ds_graph_reshape(g, x, 2, (int64_t[]){-1, ds_node_dim(x, -1)});
}

/* With A' = A or Aᵀ and B' likewise, C = A'B': dA' = dC B'ᵀ, dB' = A'ᵀ dC. */
static void matmul_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                            ds_node **dinputs) {
    const ds_matmul_attrs *t = node->attrs;
    ds_node *a = node->inputs[0], *b = node->inputs[1];
    if (a->type.dtype == DS_I8)
        return;
    ds_node *dc = ds_graph_cast(g, dresults[0], a->type.dtype);
    dinputs[0] = t->transpose_a
                     ? ds_graph_matmul(g, b, dc, (ds_matmul_opts){t->transpose_b, true, false})
                     : ds_graph_matmul(g, dc, b, (ds_matmul_opts){false, !t->transpose_b, false});
    if (b->type.rank == 2 && a->type.rank > 2) { /* rows of all leading axes together; a is plain */
        a = flat(g, a);
        dc = flat(g, dc);
    }
    dinputs[1] = t->transpose_b
                     ? ds_graph_matmul(g, dc, a, (ds_matmul_opts){true, t->transpose_a, false})
                     : ds_graph_matmul(g, a, dc, (ds_matmul_opts){!t->transpose_a, false, false});
    dinputs[0] = ds_graph_cast(g, dinputs[0], node->inputs[0]->type.dtype);
    dinputs[1] = ds_graph_cast(g, dinputs[1], b->type.dtype);
}

static ds_cost matmul_cost(const ds_node *node) {
    const product p = sizes_of(node);
    double bytes = (double)ds_type_size(&node->type);
    for (int i = 0; i < node->n_inputs; i++)
        bytes += (double)ds_type_size(&node->inputs[i]->type);
    return (ds_cost){.flops = 2.0 * (double)p.m * (double)p.n * (double)p.k * (double)p.batch,
                     .bytes = bytes};
}

float ds_epilogue(const ds_matmul_attrs *t, const ds_kernel_args *args, int bias, float sum,
                  int64_t column, int64_t at) {
    if (t->has_bias)
        sum += ((const float *)args->inputs[bias].data)[column];
    if (t->has_activation)
        sum = ds_unary_value(t->activation, sum, 0);
    if (t->has_residual)
        sum += ((const float *)args->inputs[args->n_inputs - 1].data)[at];
    return sum;
}

void ds_epilogue_describe(const ds_matmul_attrs *t, ds_text *out) {
    ds_text_printf(out, "%s%s%s", t->has_bias ? "+bias " : "",
                   t->has_activation ? "+activation " : "", t->has_residual ? "+residual " : "");
}

static void matmul_reference(const ds_kernel_args *args) {
    const ds_matmul_attrs *t = args->node->attrs;
    const product p = sizes_of(args->node);
    const bool is_int = args->inputs[0].dtype == DS_I8;
    for (int64_t s = 0; s < p.batch; s++) {
        const int64_t a0 = s * p.m * p.k, b0 = p.b_is_shared ? 0 : s * p.k * p.n;
        for (int64_t i = 0; i < p.m; i++)
            for (int64_t j = 0; j < p.n; j++) {
                double sum = 0;
                int32_t int_sum = 0;
                for (int64_t k = 0; k < p.k; k++) {
                    const int64_t ai = a0 + (t->transpose_a ? k * p.m + i : i * p.k + k);
                    const int64_t bi = b0 + (t->transpose_b ? j * p.k + k : k * p.n + j);
                    if (is_int)
                        int_sum += ((const int8_t *)args->inputs[0].data)[ai] *
                                   ((const int8_t *)args->inputs[1].data)[bi];
                    else
                        sum += (double)((const float *)args->inputs[0].data)[ai] *
                               (double)((const float *)args->inputs[1].data)[bi];
                }
                const int64_t at = (s * p.m + i) * p.n + j;
                if (is_int)
                    ((int32_t *)args->outputs[0].data)[at] = int_sum;
                else
                    ((float *)args->outputs[0].data)[at] =
                        ds_epilogue(t, args, 2, (float)sum, j, at);
            }
    }
}

static void matmul_describe(const ds_node *node, ds_text *out) {
    const ds_matmul_attrs *t = node->attrs;
    ds_text_printf(out, "%s%s", t->transpose_a ? "aT " : "", t->transpose_b ? "bT " : "");
    ds_epilogue_describe(t, out);
}

const ds_op ds_op_matmul = {
    .name = "matmul",
    .attrs_size = sizeof(ds_matmul_attrs),
    .traits = DS_HEAVY,
    .precision = DS_PRECISION_LOW,
    .keep_f32 = 1u << 2, /* a fused bias */
    .stored = 1u << 1,
    .shape = matmul_shape,
    .gradient = matmul_gradient,
    .cost = matmul_cost,
    .reference = matmul_reference,
    .describe = matmul_describe,
};

ds_node *ds_graph_matmul(ds_graph *g, ds_node *a, ds_node *b, ds_matmul_opts opts) {
    const ds_matmul_attrs attrs = {.transpose_a = opts.transpose_a,
                                   .transpose_b = opts.transpose_b,
                                   .f32_result = opts.f32_result};
    return ds_graph_add_node(g, &ds_op_matmul, &attrs, (ds_node *[]){a, b}, 2);
}

/* ---- grouped matmul -------------------------------------------------------------------------- */

static ds_status grouped_shape(const ds_node *node, ds_type *results) {
    const ds_matmul_attrs *t = node->attrs;
    const ds_type *x = &node->inputs[0]->type, *w = &node->inputs[1]->type;
    const ds_type *offsets = &node->inputs[2]->type;
    if (x->rank != 2 || w->rank != 3 || !ds_dtype_is_float(x->dtype) ||
        !ds_dtype_is_float(w->dtype))
        return ds_fail(DS_INVALID, "wants floats [rows, k] and [experts, k, n]");
    if (offsets->rank != 1 || offsets->dtype != DS_I32 || offsets->dims[0] != w->dims[0] + 1)
        return ds_fail(DS_INVALID, "offsets must be i32[%lld]", (long long)w->dims[0] + 1);
    const int64_t wants = w->dims[t->transpose_b ? 2 : 1];
    if (x->dims[1] != wants)
        return ds_fail(DS_INVALID, "input has %lld columns, weight wants %lld",
                       (long long)x->dims[1], (long long)wants);
    results[0] = *x;
    results[0].dims[1] = w->dims[t->transpose_b ? 1 : 2];
    return DS_OK;
}

static void grouped_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                             ds_node **dinputs) {
    const ds_matmul_attrs *t = node->attrs;
    ds_node *x = node->inputs[0], *w = node->inputs[1], *offsets = node->inputs[2];
    dinputs[0] = ds_graph_grouped_matmul(g, dresults[0], w, offsets,
                                         (ds_matmul_opts){.transpose_b = !t->transpose_b});
    ds_node *left = t->transpose_b ? dresults[0] : x, *right = t->transpose_b ? x : dresults[0];
    dinputs[1] = ds_graph_add_node(g, &ds_op_grouped_matmul_weight, NULL,
                                   (ds_node *[]){left, right, offsets}, 3);
    dinputs[1] = ds_graph_cast(g, dinputs[1], w->type.dtype);
}

static ds_cost grouped_cost(const ds_node *node) {
    const ds_type *x = &node->inputs[0]->type;
    return (ds_cost){
        .flops = 2.0 * (double)x->dims[0] * (double)x->dims[1] * (double)ds_node_dim(node, -1),
        .bytes = (double)(ds_type_size(x) + ds_type_size(&node->inputs[1]->type) +
                          ds_type_size(&node->type)),
    };
}

static void grouped_reference(const ds_kernel_args *args) {
    const ds_matmul_attrs *t = args->node->attrs;
    const int64_t rows = args->inputs[0].dims[0], k = args->inputs[0].dims[1];
    const int64_t n = args->outputs[0].dims[1], experts = args->inputs[1].dims[0];
    const float *x = args->inputs[0].data, *w = args->inputs[1].data;
    const int32_t *offsets = args->inputs[2].data;
    float *y = args->outputs[0].data;
    int64_t expert = 0;
    for (int64_t r = 0; r < rows; r++) {
        while (expert < experts && r >= offsets[expert + 1])
            expert++;
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t i = 0; expert < experts && i < k; i++)
                sum += (double)x[r * k + i] *
                       (double)w[expert * k * n + (t->transpose_b ? j * k + i : i * n + j)];
            y[r * n + j] = (float)sum;
        }
    }
}

const ds_op ds_op_grouped_matmul = {
    .name = "grouped_matmul",
    .attrs_size = sizeof(ds_matmul_attrs),
    .traits = DS_HEAVY,
    .precision = DS_PRECISION_LOW,
    .stored = 1u << 1,
    .shape = grouped_shape,
    .gradient = grouped_gradient,
    .cost = grouped_cost,
    .reference = grouped_reference,
};

ds_node *ds_graph_grouped_matmul(ds_graph *g, ds_node *x, ds_node *w, ds_node *offsets,
                                 ds_matmul_opts opts) {
    if (opts.transpose_a)
        return ds_graph_refuse(g, "grouped_matmul", "rows cannot be transposed");
    const ds_matmul_attrs attrs = {.transpose_b = opts.transpose_b};
    return ds_graph_add_node(g, &ds_op_grouped_matmul, &attrs, (ds_node *[]){x, w, offsets}, 3);
}

/* The gradient of the experts' matrices: left [rows, p], right [rows, q] → [experts, p, q], expert
 * e being the sum over its rows of leftᵀ right. */
static ds_status weight_shape(const ds_node *node, ds_type *results) {
    const ds_type *left = &node->inputs[0]->type, *right = &node->inputs[1]->type;
    results[0] = (ds_type){
        left->dtype, 3, {node->inputs[2]->type.dims[0] - 1, left->dims[1], right->dims[1]}};
    return DS_OK;
}

static void weight_reference(const ds_kernel_args *args) {
    const int64_t p = args->inputs[0].dims[1], q = args->inputs[1].dims[1];
    const float *left = args->inputs[0].data, *right = args->inputs[1].data;
    const int32_t *offsets = args->inputs[2].data;
    float *y = args->outputs[0].data;
    for (int64_t e = 0; e < args->outputs[0].dims[0]; e++)
        for (int64_t i = 0; i < p; i++)
            for (int64_t j = 0; j < q; j++) {
                double sum = 0;
                for (int64_t r = offsets[e]; r < offsets[e + 1]; r++)
                    sum += (double)left[r * p + i] * (double)right[r * q + j];
                y[(e * p + i) * q + j] = (float)sum;
            }
}

const ds_op ds_op_grouped_matmul_weight = {
    .name = "grouped_matmul_weight",
    .traits = DS_HEAVY,
    .precision = DS_PRECISION_LOW,
    .shape = weight_shape,
    .cost = grouped_cost,
    .reference = weight_reference,
};
