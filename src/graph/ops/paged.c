/* Key-value caches in blocks (Kwon et al. 2023, PagedAttention): a sequence's keys lie in blocks of
 * one shared pool, listed in its row of a table, so that sequences of any length share memory, and
 * blocks can be shared between sequences. Tokens of several sequences go through a model together;
 * each says whose it is and where in its sequence it stands.
 *
 * A cache of i8 holds each head's row as whole numbers −127 … 127 followed by the four bytes of its
 * scale, the largest magnitude / 127: a quarter of f32, and one tensor as any other cache. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "graph/ops/ops.h"

/* ---- writing --------------------------------------------------------------------------------- */

static ds_status write_shape(const ds_node *node, ds_type *results) {
    const ds_type *cache = &node->inputs[0]->type, *x = &node->inputs[1]->type;
    const ds_type *slots = &node->inputs[2]->type;
    const ds_op *op = node->inputs[0]->op;
    if (op != &ds_op_variable && !(op->traits & DS_EFFECT))
        return ds_fail(DS_INVALID, "its target is a %s, not a variable", op->name);
    const bool is_i8 = cache->dtype == DS_I8;
    if (cache->rank != 4 || x->rank != 3 || !ds_dtype_is_float(x->dtype) ||
        (!is_i8 && x->dtype != cache->dtype) || x->dims[1] != cache->dims[2] ||
        x->dims[2] != ds_cache_dim(cache->dtype, cache->dims[3]))
        return ds_fail(DS_INVALID,
                       "wants rows [tokens, heads, dim] for a cache [blocks, "
                       "block_size, heads, dim] of the same dtype, or of i8 and "
                       "dim + %d",
                       DS_CACHE_SCALE);
    if (slots->dtype != DS_I32 || slots->rank != 1 || slots->dims[0] != x->dims[0])
        return ds_fail(DS_INVALID, "slots must be i32[%lld]", (long long)x->dims[0]);
    results[0] = *cache;
    return DS_OK;
}

static void quantise_row(const float *x, int64_t n, int8_t *to) {
    const float scale = ds_quantisation_scale(ds_row_magnitude(x, n), false);
    for (int64_t i = 0; i < n; i++)
        to[i] = ds_quantised(x[i], scale);
    memcpy(to + n, &scale, sizeof scale);
}

static void write_i8(const ds_kernel_args *args) {
    const ds_tensor *cache = &args->outputs[0], *x = &args->inputs[1];
    const int32_t *slots = args->inputs[2].data;
    const int64_t n_slots = cache->dims[0] * cache->dims[1], heads = x->dims[1], dim = x->dims[2];
    for (int64_t t = 0; t < x->dims[0]; t++)
        for (int64_t h = 0; h < heads && slots[t] >= 0 && slots[t] < n_slots; h++)
            quantise_row((const float *)x->data + (t * heads + h) * dim, dim,
                         (int8_t *)cache->data + (slots[t] * heads + h) * cache->dims[3]);
}

static void write_reference(const ds_kernel_args *args) {
    const ds_tensor *cache = &args->outputs[0], *x = &args->inputs[1];
    const int32_t *slots = args->inputs[2].data;
    const int64_t n_slots = cache->dims[0] * cache->dims[1], row = x->dims[1] * x->dims[2];
    if (cache->dtype == DS_I8) {
        write_i8(args);
        return;
    }
    for (int64_t t = 0; t < x->dims[0]; t++)
        if (slots[t] >= 0 && slots[t] < n_slots)
            memcpy((float *)cache->data + slots[t] * row, (const float *)x->data + t * row,
                   (size_t)row * sizeof(float));
}

const ds_op ds_op_paged_write = {
    .name = "paged_write",
    .n_changed = 1,
    .traits = DS_EFFECT,
    .precision = DS_PRECISION_KEEP,
    .shape = write_shape,
    .reference = write_reference,
};

ds_node *ds_graph_paged_write(ds_graph *g, ds_node *cache, ds_node *x, ds_node *slots) {
    if (cache && x && cache->type.dtype != DS_I8)
        x = ds_graph_cast(g, x, cache->type.dtype);
    return ds_graph_add_node(g, &ds_op_paged_write, NULL, (ds_node *[]){cache, x, slots}, 3);
}

/* ---- attention ------------------------------------------------------------------------------- */

static bool is_index(const ds_type *t, int rank, int64_t n) {
    return t->dtype == DS_I32 && t->rank == rank && (rank == 2 || t->dims[0] == n);
}

static ds_status attention_shape(const ds_node *node, ds_type *results) {
    const ds_type *q = &node->inputs[0]->type, *k = &node->inputs[1]->type;
    const ds_type *v = &node->inputs[2]->type;
    if (q->rank != 3 || k->rank != 4 || v->rank != 4 || !ds_dtype_is_float(q->dtype) ||
        (k->dtype == DS_I8) != (v->dtype == DS_I8))
        return ds_fail(DS_INVALID, "wants queries [tokens, heads, dim] and caches [blocks, "
                                   "block_size, kv_heads, dim]");
    if (k->dims[0] != v->dims[0] || k->dims[1] != v->dims[1] || k->dims[2] != v->dims[2] ||
        ds_cache_dim(k->dtype, k->dims[3]) != q->dims[2] || k->dims[2] == 0 ||
        q->dims[1] % k->dims[2] != 0)
        return ds_fail(DS_INVALID,
                       "queries of %lld heads of %lld, keys of %lld of %lld and values "
                       "of %lld do not fit",
                       (long long)q->dims[1], (long long)q->dims[2], (long long)k->dims[2],
                       (long long)k->dims[3], (long long)v->dims[2]);
    if (!is_index(&node->inputs[3]->type, 2, 0) ||
        !is_index(&node->inputs[4]->type, 1, q->dims[0]) ||
        !is_index(&node->inputs[5]->type, 1, q->dims[0]))
        return ds_fail(DS_INVALID, "tables must be i32 [sequences, blocks], owners and positions "
                                   "i32 [tokens]");
    results[0] = *q;
    results[0].dims[2] = ds_cache_dim(v->dtype, v->dims[3]);
    return DS_OK;
}

int64_t ds_paged_keys(const ds_kernel_args *args, int64_t token, int64_t *first) {
    const ds_attention_opts *a = args->node->attrs;
    const ds_tensor *cache = &args->inputs[1], *tables = &args->inputs[3];
    const int32_t owner = ((const int32_t *)args->inputs[4].data)[token];
    const int64_t position = ((const int32_t *)args->inputs[5].data)[token];
    *first = 0;
    if (owner < 0 || owner >= tables->dims[0] || position < 0 ||
        position >= tables->dims[1] * cache->dims[1])
        return 0;
    const int32_t *table = (const int32_t *)tables->data + owner * tables->dims[1];
    for (int64_t i = 0; i <= position / cache->dims[1]; i++)
        if (table[i] < 0 || table[i] >= cache->dims[0])
            return 0;
    if (a->window > 0 && position + 1 > a->window)
        *first = position + 1 - a->window;
    return position + 1;
}

/* Number i of a head's row. */
static double value_at(const ds_tensor *cache, const int32_t *table, int64_t key, int64_t head,
                       int64_t i) {
    const int64_t size = cache->dims[1];
    const int64_t row = (int64_t)table[key / size] * size + key % size;
    const int64_t at = (row * cache->dims[2] + head) * cache->dims[3];
    if (cache->dtype != DS_I8)
        return (double)((const float *)cache->data)[at + i];
    const int8_t *codes = (const int8_t *)cache->data + at;
    float scale;
    memcpy(&scale, codes + cache->dims[3] - DS_CACHE_SCALE, sizeof scale);
    return (double)(scale * (float)codes[i]);
}

static double score_of(const ds_kernel_args *args, const float *q, const int32_t *table,
                       int64_t key, int64_t head) {
    const ds_attention_opts *a = args->node->attrs;
    double dot = 0;
    for (int64_t i = 0; i < args->inputs[0].dims[2]; i++)
        dot += (double)q[i] * value_at(&args->inputs[1], table, key, head, i);
    return dot * (double)a->scale;
}

/* Two passes over the keys: the largest score, then the sum. */
static void attention_reference(const ds_kernel_args *args) {
    const ds_tensor *q = &args->inputs[0], *v = &args->inputs[2], *tables = &args->inputs[3];
    const int64_t heads = q->dims[1], dim = q->dims[2];
    const int64_t v_dim = args->outputs[0].dims[2];
    const int64_t group = heads / v->dims[2];
    for (int64_t row = 0; row < q->dims[0] * heads; row++) {
        const int64_t token = row / heads, head = row % heads / group;
        int64_t first;
        const int64_t end = ds_paged_keys(args, token, &first);
        float *y = (float *)args->outputs[0].data + row * v_dim;
        memset(y, 0, (size_t)v_dim * sizeof *y);
        if (end == 0)
            continue;
        const int32_t owner = ((const int32_t *)args->inputs[4].data)[token];
        const int32_t *table = (const int32_t *)tables->data + owner * tables->dims[1];
        const float *x = (const float *)q->data + row * dim;
        double most = -INFINITY, total = 0;
        for (int64_t j = first; j < end; j++)
            most = fmax(most, score_of(args, x, table, j, head));
        for (int64_t j = first; j < end; j++) {
            const double weight = exp(score_of(args, x, table, j, head) - most);
            total += weight;
            for (int64_t i = 0; i < v_dim; i++)
                y[i] += (float)(weight * value_at(v, table, j, head, i));
        }
        for (int64_t i = 0; i < v_dim; i++)
            y[i] = (float)((double)y[i] / total);
    }
}

/* As if every sequence filled its table: the true lengths are not known before the run. */
static ds_cost attention_cost(const ds_node *node) {
    const ds_type *q = &node->inputs[0]->type, *k = &node->inputs[1]->type;
    const double keys = (double)node->inputs[3]->type.dims[1] * (double)k->dims[1];
    return (ds_cost){.flops = 4 * keys * (double)ds_node_count(node),
                     .bytes = (double)ds_type_size(q) + (double)ds_type_size(&node->type)};
}

const ds_op ds_op_paged_attention = {
    .name = "paged_attention",
    .attrs_size = sizeof(ds_attention_opts),
    .precision = DS_PRECISION_KEEP,
    .shape = attention_shape,
    .cost = attention_cost,
    .reference = attention_reference,
};

ds_node *ds_graph_paged_attention(ds_graph *g, ds_node *q, ds_node *k_cache, ds_node *v_cache,
                                  ds_paged_keys_of where, ds_attention_opts opts) {
    if (opts.scale == 0 && q)
        opts.scale = 1 / sqrtf((float)ds_node_dim(q, -1));
    ds_node *inputs[] = {q, k_cache, v_cache, where.tables, where.owners, where.positions};
    return ds_graph_add_node(g, &ds_op_paged_attention, &opts, inputs, 6);
}
