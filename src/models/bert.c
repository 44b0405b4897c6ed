/* BERT (Devlin et al. 2019) with both pre-training heads: post-norm, learned positions, segments,
 * masked tokens and next sentence. Names as in BertForPreTraining. */
#include "models/family.h"

static const float INIT_STD = 0.02f;

static ds_node *linear(ds_graph *g, const char *name, ds_node *x, int64_t n_out) {
    return ds_nn_linear(g, name, x, n_out, true, DS_INIT_NORMAL(INIT_STD));
}

static ds_node *embed(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in) {
    const ds_init init = DS_INIT_NORMAL(INIT_STD);
    ds_graph_push(g, "embeddings");
    ds_node *x =
        ds_nn_embedding(g, "word_embeddings", in->tokens, c->vocab_size, c->hidden_size, init);
    x = ds_graph_add(g, x,
                     ds_nn_embedding(g, "token_type_embeddings", in->segment_ids,
                                     c->type_vocab_size, c->hidden_size, init));
    x = ds_graph_add(g, x,
                     ds_nn_embedding(g, "position_embeddings", in->positions, c->max_seq_len,
                                     c->hidden_size, init));
    x = ds_graph_dropout(g, ds_nn_layer_norm(g, "LayerNorm", x, c->norm_eps), c->dropout);
    ds_graph_pop(g);
    return x;
}

static ds_node *attention(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in,
                          ds_node *x) {
    static const char *const names[] = {"query", "key", "value"};
    ds_node *part[3];
    ds_graph_push(g, "attention");
    ds_graph_push(g, "self");
    for (int i = 0; i < 3; i++)
        part[i] = ds_nn_split_heads(g, linear(g, names[i], x, c->hidden_size), c->n_heads);
    ds_node *y =
        ds_graph_attention(g, part[0], part[1], part[2], in->lengths, (ds_attention_opts){0});
    ds_graph_pop(g);
    ds_graph_push(g, "output");
    y = ds_graph_dropout(g, linear(g, "dense", ds_nn_join_heads(g, y), c->hidden_size), c->dropout);
    y = ds_nn_layer_norm(g, "LayerNorm", ds_graph_add(g, x, y), c->norm_eps);
    ds_graph_pop(g);
    ds_graph_pop(g);
    return y;
}

static ds_node *feed_forward(ds_graph *g, const ds_model_config *c, ds_node *x) {
    ds_graph_push(g, "intermediate");
    ds_node *h = ds_graph_unary(g, DS_GELU, linear(g, "dense", x, c->intermediate_size), 0);
    ds_graph_pop(g);
    ds_graph_push(g, "output");
    h = ds_graph_dropout(g, linear(g, "dense", h, c->hidden_size), c->dropout);
    h = ds_nn_layer_norm(g, "LayerNorm", ds_graph_add(g, x, h), c->norm_eps);
    ds_graph_pop(g);
    return h;
}

ds_model_trunk ds_bert_trunk(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in) {
    ds_graph_push(g, "bert");
    ds_node *x = embed(g, c, in);
    for (int64_t i = 0; i < c->n_layers; i++) {
        ds_graph_push(g, "encoder.layer.%lld", (long long)i);
        ds_graph_segment_begin(g);
        x = feed_forward(g, c, attention(g, c, in, x));
        ds_graph_segment_end(g);
        ds_graph_pop(g);
    }
    ds_graph_pop(g);
    return (ds_model_trunk){.hidden = x};
}

ds_node *ds_bert_head(ds_graph *g, const ds_model_config *c, ds_node *hidden) {
    ds_graph_push(g, "cls.predictions");
    ds_graph_push(g, "transform");
    ds_node *h = ds_graph_unary(g, DS_GELU, linear(g, "dense", hidden, c->hidden_size), 0);
    h = ds_nn_layer_norm(g, "LayerNorm", h, c->norm_eps);
    ds_graph_pop(g);
    ds_node *bias = ds_graph_param(g, "bias", 1, (int64_t[]){c->vocab_size}, DS_INIT_ZEROS);
    ds_graph_pop(g);
    ds_node *table = ds_graph_param_named(g, "bert.embeddings.word_embeddings.weight");
    ds_node *logits = ds_graph_matmul(g, h, table, (ds_matmul_opts){.transpose_b = true});
    return ds_graph_add(g, logits, bias);
}

ds_node *ds_bert_next_sentence(ds_graph *g, const ds_model_config *c, ds_node *hidden) {
    ds_node *first = ds_graph_slice(g, hidden, 1, 0, 1);
    first = ds_graph_reshape(g, first, 2, (int64_t[]){ds_node_dim(hidden, 0), c->hidden_size});
    ds_graph_push(g, "bert.pooler");
    ds_node *pooled = ds_graph_unary(g, DS_TANH, linear(g, "dense", first, c->hidden_size), 0);
    ds_graph_pop(g);
    ds_graph_push(g, "cls");
    ds_node *logits = linear(g, "seq_relationship", pooled, 2);
    ds_graph_pop(g);
    return logits;
}
