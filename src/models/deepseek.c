/* Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2): keys and values come out of one
 * compressed vector a token, queries, if so configured, out of another; positions are in a part of
 * each head's query and in one key that all heads share. */
#include "models/family.h"

static const float INIT_STD = 0.006f;     /* of DeepSeek-V2 and V3, as published */
static const float RANK_NORM_EPS = 1e-6f; /* norms of compressed vectors, whatever norm_eps is */

/* [batch, tokens, heads, head_dim] of queries before their positions. */
static ds_node *queries(ds_graph *g, const ds_model_config *c, ds_node *x) {
    const ds_latent_config *l = &c->latent;
    const int64_t width = c->n_heads * (l->plain_dim + l->rotary_dim);
    const ds_init init = DS_INIT_NORMAL(INIT_STD);
    if (l->q_rank == 0)
        return ds_nn_split_heads(g, ds_nn_linear(g, "q_proj", x, width, false, init), c->n_heads);
    ds_node *small = ds_nn_linear(g, "q_a_proj", x, l->q_rank, c->qkv_bias, init);
    small = ds_nn_rms_norm(g, "q_a_layernorm", small, RANK_NORM_EPS);
    return ds_nn_split_heads(g, ds_nn_linear(g, "q_b_proj", small, width, false, init), c->n_heads);
}

ds_node *ds_deepseek_attention(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in,
                               int64_t layer, ds_node *x) {
    const ds_latent_config *l = &c->latent;
    const ds_init init = DS_INIT_NORMAL(INIT_STD);
    const ds_rotary_opts rotary = {
        .theta = c->rope_theta, .scaling = c->rope_scaling, .interleaved = true};
    const int64_t batch = ds_node_dim(x, 0), tokens = ds_node_dim(x, 1);

    ds_node *q = queries(g, c, x);
    ds_node *q_plain = ds_graph_slice(g, q, 3, 0, l->plain_dim);
    ds_node *q_turned = ds_graph_slice(g, q, 3, l->plain_dim, l->rotary_dim);
    q_turned = ds_graph_rotary(g, q_turned, in->positions, rotary);
    q = ds_graph_concat(g, (ds_node *[]){q_plain, q_turned}, 2, 3);

    ds_node *small =
        ds_nn_linear(g, "kv_a_proj_with_mqa", x, l->kv_rank + l->rotary_dim, c->qkv_bias, init);
    ds_node *key = ds_graph_slice(g, small, 2, l->kv_rank, l->rotary_dim);
    key = ds_graph_reshape(g, key, 4, (int64_t[]){batch, tokens, 1, l->rotary_dim});
    key = ds_graph_rotary(g, key, in->positions, rotary);
    key = ds_graph_broadcast(g, key, 4, (int64_t[]){batch, tokens, c->n_heads, l->rotary_dim});
    small = ds_nn_rms_norm(g, "kv_a_layernorm", ds_graph_slice(g, small, 2, 0, l->kv_rank),
                           RANK_NORM_EPS);
    ds_node *kv =
        ds_nn_linear(g, "kv_b_proj", small, c->n_heads * (l->plain_dim + l->v_dim), false, init);
    kv = ds_nn_split_heads(g, kv, c->n_heads);
    ds_node *k_plain = ds_graph_slice(g, kv, 3, 0, l->plain_dim);
    ds_node *k = ds_graph_concat(g, (ds_node *[]){k_plain, key}, 2, 3);
    ds_node *v = ds_graph_slice(g, kv, 3, l->plain_dim, l->v_dim);
    return ds_model_attend(g, c, in, layer, q, k, v);
}
