/* GPT-2 (Radford et al. 2019): learned positions, pre-norm, GELU; weights stored [in, out]. */
#include <math.h>

#include "models/family.h"

static ds_node *attention(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in,
                          int64_t layer, ds_node *x, ds_init residual) {
    const int64_t width = c->hidden_size;
    ds_graph_push(g, "attn");
    ds_node *qkv = ds_nn_conv1d(g, "c_attn", x, 3 * width, DS_INIT_NORMAL(0.02f));
    ds_node *part[3];
    for (int i = 0; i < 3; i++)
        part[i] = ds_nn_split_heads(g, ds_graph_slice(g, qkv, 2, i * width, width), c->n_heads);
    ds_node *y = ds_model_attend(g, c, in, layer, part[0], part[1], part[2]);
    y = ds_nn_conv1d(g, "c_proj", ds_nn_join_heads(g, y), width, residual);
    y = ds_graph_dropout(g, y, c->dropout);
    ds_graph_pop(g);
    return y;
}

static ds_node *mlp(ds_graph *g, const ds_model_config *c, ds_node *x, ds_init residual) {
    ds_graph_push(g, "mlp");
    ds_node *h = ds_nn_conv1d(g, "c_fc", x, c->intermediate_size, DS_INIT_NORMAL(0.02f));
    h = ds_graph_unary(g, DS_GELU_TANH, h, 0);
    h = ds_nn_conv1d(g, "c_proj", h, c->hidden_size, residual);
    h = ds_graph_dropout(g, h, c->dropout);
    ds_graph_pop(g);
    return h;
}

ds_model_trunk ds_gpt2_trunk(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in) {
    /* residual projections start smaller by the root of the number of residual additions */
    const ds_init residual = DS_INIT_NORMAL(0.02f / sqrtf(2.0f * (float)c->n_layers));
    ds_graph_push(g, "transformer");
    ds_node *x =
        ds_nn_embedding(g, "wte", in->tokens, c->vocab_size, c->hidden_size, DS_INIT_NORMAL(0.02f));
    x = ds_graph_add(g, x,
                     ds_nn_embedding(g, "wpe", in->positions, c->max_seq_len, c->hidden_size,
                                     DS_INIT_NORMAL(0.01f)));
    x = ds_graph_dropout(g, x, c->dropout);
    for (int64_t i = 0; i < c->n_layers; i++) {
        ds_graph_push(g, "h.%lld", (long long)i);
        ds_graph_segment_begin(g);
        ds_node *h = ds_nn_layer_norm(g, "ln_1", x, c->norm_eps);
        x = ds_graph_add(g, x, attention(g, c, in, i, h, residual));
        h = ds_nn_layer_norm(g, "ln_2", x, c->norm_eps);
        x = ds_graph_add(g, x, mlp(g, c, h, residual));
        ds_graph_segment_end(g);
        ds_graph_pop(g);
    }
    x = ds_nn_layer_norm(g, "ln_f", x, c->norm_eps);
    ds_graph_pop(g);
    return (ds_model_trunk){.hidden = x};
}

ds_node *ds_gpt2_head(ds_graph *g, const ds_model_config *c, ds_node *hidden) {
    if (!c->tie_embeddings)
        return ds_nn_linear(g, "lm_head", hidden, c->vocab_size, false, DS_INIT_NORMAL(0.02f));
    ds_node *table = ds_graph_param_named(g, "transformer.wte.weight");
    return ds_graph_matmul(g, hidden, table, (ds_matmul_opts){.transpose_b = true});
}
