/* Causal self-attention of decoders, with or without a key-value cache. */
#include <stdio.h>

#include "models/family.h"

static const ds_init EMPTY = {.kind = DS_FILL, .no_decay = true, .in_parts = true};

static ds_node *cached(ds_graph *g, const ds_model_inputs *in, int64_t layer, const char *which,
                       ds_node *x) {
    char name[64];
    snprintf(name, sizeof name, "cache/%lld/%s", (long long)layer, which);
    const int64_t dims[] = {ds_node_dim(x, 0), in->capacity, ds_node_dim(x, 2), ds_node_dim(x, 3)};
    ds_node *cache = ds_graph_variable(g, name, DS_F32, 4, dims, EMPTY);
    return ds_graph_cache_write(g, cache, x, in->start);
}

/* [1, tokens, heads, dim] without the axis of the batch. */
static ds_node *rows_of(ds_graph *g, ds_node *x) {
    return ds_graph_reshape(g, x, 3,
                            (int64_t[]){ds_node_dim(x, 1), ds_node_dim(x, 2), ds_node_dim(x, 3)});
}

static ds_node *paged(ds_graph *g, const ds_model_inputs *in, int64_t layer, const char *which,
                      ds_node *x) {
    char name[64];
    snprintf(name, sizeof name, "paged/%lld/%s", (long long)layer, which);
    const int64_t dims[] = {in->cache->n_blocks, in->cache->block_size, ds_node_dim(x, 2),
                            ds_node_dim(x, 3)};
    ds_node *cache = ds_graph_variable(g, name, in->cache->dtype, 4, dims, EMPTY);
    return ds_graph_paged_write(g, cache, rows_of(g, x), in->slots);
}

static ds_node *attend_paged(ds_graph *g, const ds_model_inputs *in, int64_t layer, ds_node *q,
                             ds_node *k, ds_node *v, ds_attention_opts opts) {
    k = paged(g, in, layer, "k", k);
    v = paged(g, in, layer, "v", v);
    ds_node *y = ds_graph_paged_attention(g, rows_of(g, q), k, v, in->paged, opts);
    return ds_graph_reshape(
        g, y, 4, (int64_t[]){1, ds_node_dim(y, 0), ds_node_dim(y, 1), ds_node_dim(y, 2)});
}

ds_node *ds_model_attend(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in,
                         int64_t layer, ds_node *q, ds_node *k, ds_node *v) {
    const ds_attention_opts opts = {
        .causal = true, .window = c->sliding_window, .scale = ds_model_score_scale(c)};
    if (in->slots)
        return attend_paged(g, in, layer, q, k, v, opts);
    if (in->start) {
        k = cached(g, in, layer, "k", k);
        v = cached(g, in, layer, "v", v);
    }
    if (in->first_keys)
        return ds_graph_attention_from(g, q, k, v, in->lengths, in->first_keys, opts);
    return ds_graph_attention(g, q, k, v, in->lengths, opts);
}
