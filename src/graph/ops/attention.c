/* Scaled dot-product attention without a score matrix (Dao et al. 2022): the result and, per query,
 * the logarithm of the softmax's denominator, from which the backward pass recomputes each weight.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "graph/ops/ops.h"

static ds_status check_qkv(const ds_type *q, const ds_type *k, const ds_type *v) {
    if (q->rank != 4 || k->rank != 4 || v->rank != 4)
        return ds_fail(DS_INVALID, "q, k, v want axes [batch, tokens, heads, head_dim]");
    if (q->dtype != k->dtype || q->dtype != v->dtype || !ds_dtype_is_float(q->dtype))
        return ds_fail(DS_INVALID, "q, k, v must be floats of one dtype");
    if (q->dims[0] != k->dims[0] || k->dims[0] != v->dims[0] || k->dims[1] != v->dims[1] ||
        k->dims[2] != v->dims[2] || q->dims[3] != k->dims[3])
        return ds_fail(DS_INVALID, "batch, keys, heads or head_dim of q, k, v differ");
    if (q->dims[3] < 1)
        return ds_fail(DS_INVALID, "head_dim is 0: there is nothing to compare");
    if (k->dims[2] < 1 || q->dims[2] % k->dims[2] != 0)
        return ds_fail(DS_INVALID, "%lld heads are not a multiple of %lld key-value heads",
                       (long long)q->dims[2], (long long)k->dims[2]);
    return DS_OK;
}

/* Input `input` says how many keys there are, the one behind it which each query sees first. */
static ds_status check_limits(const ds_node *node, int input, const ds_type *q) {
    const int64_t batch = q->dims[0], tokens = q->dims[1];
    if (node->n_inputs <= input)
        return DS_OK;
    const ds_type *t = &node->inputs[input]->type;
    if (t->dtype != DS_I32 || t->rank != 1 || t->dims[0] != batch)
        return ds_fail(DS_INVALID, "key_lengths must be i32[%lld]", (long long)batch);
    if (node->n_inputs <= input + 1)
        return DS_OK;
    t = &node->inputs[input + 1]->type;
    if (t->dtype == DS_I32 && t->rank == 2 && t->dims[0] == batch && t->dims[1] == tokens)
        return DS_OK;
    return ds_fail(DS_INVALID, "first_keys must be i32[%lld, %lld]", (long long)batch,
                   (long long)tokens);
}

static ds_status attention_shape(const ds_node *node, ds_type *results) {
    const ds_type *q = &node->inputs[0]->type, *v = &node->inputs[2]->type;
    DS_TRY(check_qkv(q, &node->inputs[1]->type, v));
    DS_TRY(check_limits(node, 3, q));
    if (((const ds_attention_opts *)node->attrs)->window < 0)
        return ds_fail(DS_INVALID, "the window must be 0 (none) or more keys");
    results[0] = *q;
    results[0].dims[3] = v->dims[3];
    results[1] = (ds_type){DS_F32, 3, {q->dims[0], q->dims[2], q->dims[1]}};
    return DS_OK;
}

static ds_status attention_grad_shape(const ds_node *node, ds_type *results) {
    DS_TRY(check_qkv(&node->inputs[1]->type, &node->inputs[2]->type, &node->inputs[3]->type));
    for (int i = 0; i < 3; i++)
        results[i] = node->inputs[1 + i]->type;
    return check_limits(node, 6, &results[0]);
}

/* ---- reference ------------------------------------------------------------------------------- */

typedef struct problem {
    int64_t batch, tokens, heads, head_dim, keys, kv_heads, v_dim;
    const float *q, *k, *v;
    const int32_t *lengths;    /* [batch]; NULL: all keys */
    const int32_t *first_keys; /* [batch, tokens]; NULL: from the first one on */
    ds_attention_opts opts;
} problem;

static problem problem_of(const ds_kernel_args *args, int first, int lengths) {
    const ds_tensor *q = &args->inputs[first], *k = q + 1, *v = q + 2;
    return (problem){
        .batch = q->dims[0],
        .tokens = q->dims[1],
        .heads = q->dims[2],
        .head_dim = q->dims[3],
        .keys = k->dims[1],
        .kv_heads = k->dims[2],
        .v_dim = v->dims[3],
        .q = q->data,
        .k = k->data,
        .v = v->data,
        .lengths = args->n_inputs > lengths ? args->inputs[lengths].data : NULL,
        .first_keys = args->n_inputs > lengths + 1 ? args->inputs[lengths + 1].data : NULL,
        .opts = *(const ds_attention_opts *)args->node->attrs,
    };
}

/* Keys [*from, *to) are seen by query t of sample b. */
static void seen_keys(const problem *p, int64_t b, int64_t t, int64_t *from, int64_t *to) {
    int64_t length = p->lengths ? p->lengths[b] : p->keys;
    length = length < 0 ? 0 : length > p->keys ? p->keys : length;
    const int64_t own = length - p->tokens + t; /* the key at the query's own place */
    *to = p->opts.causal && own + 1 < length ? own + 1 : length;
    *from = p->opts.window > 0 && own + 1 - p->opts.window > 0 ? own + 1 - p->opts.window : 0;
    if (p->first_keys && p->first_keys[b * p->tokens + t] > *from)
        *from = p->first_keys[b * p->tokens + t];
    if (*to < *from)
        *to = *from;
}

static const float *key_at(const problem *p, const float *base, int64_t b, int64_t j, int64_t head,
                           int64_t dim) {
    const int64_t kv_head = head / (p->heads / p->kv_heads);
    return base + ((b * p->keys + j) * p->kv_heads + kv_head) * dim;
}

static double score(const problem *p, int64_t b, int64_t t, int64_t h, int64_t j) {
    const float *q = p->q + ((b * p->tokens + t) * p->heads + h) * p->head_dim;
    const float *k = key_at(p, p->k, b, j, h, p->head_dim);
    double dot = 0;
    for (int64_t d = 0; d < p->head_dim; d++)
        dot += (double)q[d] * (double)k[d];
    return dot * (double)p->opts.scale;
}

static void attend(const problem *p, int64_t b, int64_t t, int64_t h, float *out, float *lse) {
    int64_t from, to;
    seen_keys(p, b, t, &from, &to);
    double max = -INFINITY, sum = 0;
    memset(out, 0, (size_t)p->v_dim * sizeof *out);
    for (int64_t j = from; j < to; j++) {
        const double s = score(p, b, t, h, j);
        max = s > max ? s : max;
    }
    for (int64_t j = from; j < to; j++)
        sum += exp(score(p, b, t, h, j) - max);
    *lse = from < to ? (float)(max + log(sum)) : -INFINITY;
    for (int64_t j = from; j < to; j++) {
        const double weight = exp(score(p, b, t, h, j) - max) / sum;
        const float *v = key_at(p, p->v, b, j, h, p->v_dim);
        for (int64_t d = 0; d < p->v_dim; d++)
            out[d] += (float)(weight * (double)v[d]);
    }
}

static void attention_reference(const ds_kernel_args *args) {
    const problem p = problem_of(args, 0, 3);
    for (int64_t b = 0; b < p.batch; b++)
        for (int64_t t = 0; t < p.tokens; t++)
            for (int64_t h = 0; h < p.heads; h++)
                attend(&p, b, t, h,
                       (float *)args->outputs[0].data +
                           ((b * p.tokens + t) * p.heads + h) * p.v_dim,
                       (float *)args->outputs[1].data + (b * p.heads + h) * p.tokens + t);
}

/* With P the weights and D = Σ dout·out: dv += Pᵀ dout, dS = P (dout·v − D), dq += scale dS k,
 * dk += scale dSᵀ q. */
static void attend_grad(const problem *p, const ds_kernel_args *args, int64_t b, int64_t t,
                        int64_t h) {
    const int64_t row = (b * p->tokens + t) * p->heads + h;
    const float *dout = (const float *)args->inputs[0].data + row * p->v_dim;
    const float *out = (const float *)args->inputs[4].data + row * p->v_dim;
    const float lse = ((const float *)args->inputs[5].data)[(b * p->heads + h) * p->tokens + t];
    const float *q = p->q + row * p->head_dim;
    float *dq = (float *)args->outputs[0].data + row * p->head_dim;
    double through = 0;
    for (int64_t d = 0; d < p->v_dim; d++)
        through += (double)dout[d] * (double)out[d];
    int64_t from, to;
    seen_keys(p, b, t, &from, &to);
    for (int64_t j = from; j < to; j++) {
        const float *k = key_at(p, p->k, b, j, h, p->head_dim);
        const float *v = key_at(p, p->v, b, j, h, p->v_dim);
        float *dk = (float *)args->outputs[1].data + (k - p->k);
        float *dv = (float *)args->outputs[2].data + (v - p->v);
        const double weight = exp(score(p, b, t, h, j) - (double)lse);
        double dweight = 0;
        for (int64_t d = 0; d < p->v_dim; d++) {
            dweight += (double)dout[d] * (double)v[d];
            dv[d] += (float)(weight * (double)dout[d]);
        }
        const double ds = weight * (dweight - through) * (double)p->opts.scale;
        for (int64_t d = 0; d < p->head_dim; d++) {
            dq[d] += (float)(ds * (double)k[d]);
            dk[d] += (float)(ds * (double)q[d]);
        }
    }
}

static void attention_grad_reference(const ds_kernel_args *args) {
    const problem p = problem_of(args, 1, 6);
    for (int i = 0; i < 3; i++)
        memset(args->outputs[i].data, 0,
               (size_t)ds_count(args->outputs[i].dims, 4) * sizeof(float));
    for (int64_t b = 0; b < p.batch; b++)
        for (int64_t t = 0; t < p.tokens; t++)
            for (int64_t h = 0; h < p.heads; h++)
                attend_grad(&p, args, b, t, h);
}

/* ---- the ops --------------------------------------------------------------------------------- */

/* Pairs of query and key that the masks leave in one head; lengths and first keys, known only in a
 * run, are taken to hide nothing. */
static double seen_pairs(const ds_node *node, int64_t tokens, int64_t keys) {
    const problem p = {
        .tokens = tokens, .keys = keys, .opts = *(const ds_attention_opts *)node->attrs};
    double pairs = 0;
    for (int64_t t = 0; t < tokens; t++) {
        int64_t from, to;
        seen_keys(&p, 0, t, &from, &to);
        pairs += (double)(to - from);
    }
    return pairs;
}

/* So many products as wide as a head of q and as a head of v for each pair that is seen. */
static ds_cost cost_of(const ds_node *node, int first, double q_products, double v_products) {
    const ds_type *q = &node->inputs[first]->type, *k = &node->inputs[first + 1]->type;
    const ds_type *v = &node->inputs[first + 2]->type;
    const double pairs =
        (double)q->dims[0] * (double)q->dims[2] * seen_pairs(node, q->dims[1], k->dims[1]);
    double bytes = 0;
    for (int i = 0; i < node->n_inputs; i++)
        bytes += (double)ds_type_size(&node->inputs[i]->type);
    for (int i = 0; i < node->op->n_results; i++)
        bytes += (double)ds_type_size(&node->result_types[i]);
    return (ds_cost){.flops = 2 * pairs *
                              (q_products * (double)q->dims[3] + v_products * (double)v->dims[3]),
                     .bytes = bytes};
}

static ds_cost attention_cost(const ds_node *node) {
    return cost_of(node, 0, 1, 1); /* q·k; P·v */
}

static ds_cost attention_grad_cost(const ds_node *node) {
    return cost_of(node, 1, 3, 2); /* q·k again, dS·k, dSᵀ·q; dout·v, Pᵀ·dout */
}

static void attention_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                               ds_node **dinputs) {
    if (!dresults[0])
        return;
    ds_node *inputs[8] = {dresults[0], node->inputs[0],        node->inputs[1], node->inputs[2],
                          node,        ds_node_result(node, 1)};
    int n = 6;
    for (int i = 3; i < node->n_inputs; i++)
        inputs[n++] = node->inputs[i];
    ds_node *grad = ds_graph_add_node(g, &ds_op_attention_grad, node->attrs, inputs, n);
    for (int i = 0; i < 3; i++)
        dinputs[i] = ds_node_result(grad, i);
}

static void attention_describe(const ds_node *node, ds_text *out) {
    const ds_attention_opts *a = node->attrs;
    ds_text_puts(out, a->causal ? "causal" : "full");
    if (a->window > 0)
        ds_text_printf(out, " window %lld", (long long)a->window);
}

const ds_op ds_op_attention = {
    .name = "attention",
    .attrs_size = sizeof(ds_attention_opts),
    .n_results = 2,
    .traits = DS_HEAVY,
    .precision = DS_PRECISION_LOW,
    .shape = attention_shape,
    .gradient = attention_gradient,
    .cost = attention_cost,
    .reference = attention_reference,
    .describe = attention_describe,
};

const ds_op ds_op_attention_grad = {
    .name = "attention_grad",
    .attrs_size = sizeof(ds_attention_opts),
    .n_results = 3,
    .traits = DS_HEAVY,
    .precision = DS_PRECISION_LOW,
    .keep_f32 = 1u << 5,
    .shape = attention_grad_shape,
    .cost = attention_grad_cost,
    .reference = attention_grad_reference,
    .describe = attention_describe,
};

ds_node *ds_graph_attention(ds_graph *g, ds_node *q, ds_node *k, ds_node *v, ds_node *key_lengths,
                            ds_attention_opts opts) {
    if (opts.scale == 0)
        opts.scale = 1.0f / sqrtf((float)ds_node_dim(q, -1));
    return ds_graph_add_node(g, &ds_op_attention, &opts, (ds_node *[]){q, k, v, key_lengths},
                             key_lengths ? 4 : 3);
}

ds_node *ds_graph_attention_from(ds_graph *g, ds_node *q, ds_node *k, ds_node *v,
                                 ds_node *key_lengths, ds_node *first_keys,
                                 ds_attention_opts opts) {
    if (opts.scale == 0)
        opts.scale = 1.0f / sqrtf((float)ds_node_dim(q, -1));
    if (!key_lengths) /* the inputs' places tell them apart, so none may be left out */
        key_lengths =
            ds_graph_fill(g, (double)ds_node_dim(k, 1), DS_I32, 1, (int64_t[]){ds_node_dim(k, 0)});
    return ds_graph_add_node(g, &ds_op_attention, &opts,
                             (ds_node *[]){q, k, v, key_lengths, first_keys}, 5);
}
