/* Llama (Touvron et al. 2023) and the families whose layers differ from its in a bias, a norm, a
 * window or the way of attending: Mistral, Qwen 2 and 3, and, with experts in place of the MLP,
 * Mixtral (Jiang et al. 2024), Qwen's mixtures and DeepSeek-V2 and V3 (whose attention is in
 * deepseek.c). */
#include "models/family.h"

static const float INIT_STD = 0.02f; /* initializer_range of the published configurations */

static ds_node *heads(ds_graph *g, const ds_model_config *c, const char *name, ds_node *x,
                      int64_t n_heads) {
    ds_node *y =
        ds_nn_linear(g, name, x, n_heads * c->head_dim, c->qkv_bias, DS_INIT_NORMAL(INIT_STD));
    return ds_nn_split_heads(g, y, n_heads);
}

static ds_node *attention(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in,
                          int64_t layer, ds_node *x) {
    const ds_rotary_opts rotary = {.theta = c->rope_theta, .scaling = c->rope_scaling};
    ds_node *q = heads(g, c, "q_proj", x, c->n_heads);
    ds_node *k = heads(g, c, "k_proj", x, c->n_kv_heads);
    ds_node *v = heads(g, c, "v_proj", x, c->n_kv_heads);
    if (c->qk_norm) {
        q = ds_nn_rms_norm(g, "q_norm", q, c->norm_eps);
        k = ds_nn_rms_norm(g, "k_norm", k, c->norm_eps);
    }
    q = ds_graph_rotary(g, q, in->positions, rotary);
    k = ds_graph_rotary(g, k, in->positions, rotary);
    return ds_model_attend(g, c, in, layer, q, k, v);
}

static ds_node *self_attention(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in,
                               int64_t layer, ds_node *x) {
    ds_graph_push(g, "self_attn");
    ds_node *y = c->latent.kv_rank > 0 ? ds_deepseek_attention(g, c, in, layer, x)
                                       : attention(g, c, in, layer, x);
    y = ds_nn_linear(g, "o_proj", ds_nn_join_heads(g, y), c->hidden_size, c->output_bias,
                     DS_INIT_NORMAL(INIT_STD));
    y = ds_graph_dropout(g, y, c->dropout);
    ds_graph_pop(g);
    return y;
}

static ds_moe_opts expert_opts(const ds_model_config *c) {
    const ds_expert_config *e = &c->experts;
    ds_moe_opts opts = {.n_experts = c->n_experts,
                        .experts_per_token = c->experts_per_token,
                        .intermediate_size = ds_model_expert_width(c),
                        .init = DS_INIT_NORMAL(INIT_STD),
                        .by_sigmoid = e->by_sigmoid,
                        .unnormalised = e->unnormalised,
                        .scale = e->scale,
                        .n_groups = e->n_groups,
                        .groups_per_token = e->groups_per_token,
                        .group_best = e->by_sigmoid ? 2 : 1};
    if (c->architecture != DS_MOE)
        opts.gate = "gate_proj", opts.up = "up_proj", opts.down = "down_proj";
    return opts;
}

/* What every token goes through beside its experts; NULL: nothing. */
static ds_node *shared_expert(ds_graph *g, const ds_model_config *c, ds_node *x) {
    const ds_init init = DS_INIT_NORMAL(INIT_STD);
    if (c->experts.n_shared == 0)
        return NULL;
    const bool gated = c->experts.shared_gate; /* Qwen 2 has one, DeepSeek several */
    ds_graph_push(g, gated ? "shared_expert" : "shared_experts");
    ds_node *y = ds_nn_swiglu(g, x, ds_model_shared_width(c), c->mlp_bias, init);
    ds_graph_pop(g);
    if (!gated)
        return y;
    ds_node *gate = ds_nn_linear(g, "shared_expert_gate", x, 1, false, init);
    return ds_graph_mul(g, y, ds_graph_unary(g, DS_SIGMOID, gate, 0));
}

static ds_node *feed_forward(ds_graph *g, const ds_model_config *c, int64_t layer, ds_node *x,
                             ds_node **balance) {
    const bool has_experts = c->n_experts > 0 && layer >= c->experts.n_dense_layers;
    ds_node *y = NULL;
    ds_graph_push(g, c->architecture == DS_MOE ? "block_sparse_moe" : "mlp");
    if (has_experts) {
        ds_node *layer_balance = NULL;
        y = ds_nn_moe(g, x, expert_opts(c), &layer_balance);
        *balance = *balance ? ds_graph_add(g, *balance, layer_balance) : layer_balance;
        ds_node *shared = shared_expert(g, c, x);
        y = shared ? ds_graph_add(g, y, shared) : y;
    } else {
        y = ds_nn_swiglu(g, x, c->intermediate_size, c->mlp_bias, DS_INIT_NORMAL(INIT_STD));
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
        x = ds_graph_add(g, x, self_attention(g, c, in, i, h));
        h = ds_nn_rms_norm(g, "post_attention_layernorm", x, c->norm_eps);
        x = ds_graph_add(g, x, feed_forward(g, c, i, h, &trunk.balance));
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
