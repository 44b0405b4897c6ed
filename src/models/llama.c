/* Llama (Touvron et al. 2023) and, with experts in place of the MLP, Mixtral (Jiang et al. 2024).
 */
#include "models/family.h"

static const float INIT_STD = 0.02f; /* initializer_range of the published configurations */

static ds_node *attention(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in,
                          int64_t layer, ds_node *x) {
    const ds_init init = DS_INIT_NORMAL(INIT_STD);
    const ds_rotary_opts rotary = {.theta = c->rope_theta};
    ds_graph_push(g, "self_attn");
    ds_node *q = ds_nn_linear(g, "q_proj", x, c->n_heads * c->head_dim, false, init);
    ds_node *k = ds_nn_linear(g, "k_proj", x, c->n_kv_heads * c->head_dim, false, init);
    ds_node *v = ds_nn_linear(g, "v_proj", x, c->n_kv_heads * c->head_dim, false, init);
    q = ds_graph_rotary(g, ds_nn_split_heads(g, q, c->n_heads), in->positions, rotary);
    k = ds_graph_rotary(g, ds_nn_split_heads(g, k, c->n_kv_heads), in->positions, rotary);
    v = ds_nn_split_heads(g, v, c->n_kv_heads);
    ds_node *y = ds_nn_join_heads(g, ds_model_attend(g, c, in, layer, q, k, v));
    y = ds_nn_linear(g, "o_proj", y, c->hidden_size, false, init);
    y = ds_graph_dropout(g, y, c->dropout);
    ds_graph_pop(g);
    return y;
}

static ds_node *feed_forward(ds_graph *g, const ds_model_config *c, ds_node *x, ds_node **balance) {
    const ds_init init = DS_INIT_NORMAL(INIT_STD);
    ds_node *y = NULL;
    if (c->architecture == DS_MOE) {
        ds_node *layer_balance = NULL;
        const ds_moe_opts opts = {c->n_experts, c->experts_per_token, c->intermediate_size, init};
        ds_graph_push(g, "block_sparse_moe");
        y = ds_nn_moe(g, x, opts, &layer_balance);
        *balance = *balance ? ds_graph_add(g, *balance, layer_balance) : layer_balance;
    } else {
        ds_graph_push(g, "mlp");
        y = ds_nn_swiglu(g, x, c->intermediate_size, init);
    }
    y = ds_graph_dropout(g, y, c->dropout);
    ds_graph_pop(g);
    return y;
}

ds_model_trunk ds_llama_trunk(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in) {
    ds_model_trunk trunk = {0};
    ds_graph_push(g, "model");
    ds_node *x = ds_nn_embedding(g, "embed_tokens", in->tokens, c->vocab_size, c->hidden_size,
                                 DS_INIT_NORMAL(INIT_STD));
    for (int64_t i = 0; i < c->n_layers; i++) {
        ds_graph_push(g, "layers.%lld", (long long)i);
        ds_graph_segment_begin(g);
        ds_node *h = ds_nn_rms_norm(g, "input_layernorm", x, c->norm_eps);
        x = ds_graph_add(g, x, attention(g, c, in, i, h));
        h = ds_nn_rms_norm(g, "post_attention_layernorm", x, c->norm_eps);
        x = ds_graph_add(g, x, feed_forward(g, c, h, &trunk.balance));
        ds_graph_segment_end(g);
        ds_graph_pop(g);
    }
    trunk.hidden = ds_nn_rms_norm(g, "norm", x, c->norm_eps);
    ds_graph_pop(g);
    return trunk;
}

ds_node *ds_llama_head(ds_graph *g, const ds_model_config *c, ds_node *hidden) {
    if (!c->tie_embeddings)
        return ds_nn_linear(g, "lm_head", hidden, c->vocab_size, false, DS_INIT_NORMAL(INIT_STD));
    ds_node *table = ds_graph_param_named(g, "model.embed_tokens.weight");
    return ds_graph_matmul(g, hidden, table, (ds_matmul_opts){.transpose_b = true});
}
