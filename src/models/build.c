/* Training, logits and generation graphs of any family, on top of its trunk. */
#include "models/family.h"

#include "graph/ops/ops.h"

static const struct {
    const char *name;
    ds_model_trunk_builder *trunk;
    ds_model_head_builder *head;
    bool is_decoder;
} families[DS_ARCHITECTURES] = {
    [DS_GPT2] = {"gpt2", ds_gpt2_trunk, ds_gpt2_head, true},
    [DS_LLAMA] = {"llama", ds_llama_trunk, ds_llama_head, true},
    [DS_BERT] = {"bert", ds_bert_trunk, ds_bert_head, false},
    [DS_MOE] = {"moe", ds_llama_trunk, ds_llama_head, true},
    [DS_MISTRAL] = {"mistral", ds_llama_trunk, ds_llama_head, true},
    [DS_QWEN2] = {"qwen2", ds_llama_trunk, ds_llama_head, true},
    [DS_QWEN3] = {"qwen3", ds_llama_trunk, ds_llama_head, true},
    [DS_QWEN2_MOE] = {"qwen2-moe", ds_llama_trunk, ds_llama_head, true},
    [DS_QWEN3_MOE] = {"qwen3-moe", ds_llama_trunk, ds_llama_head, true},
    [DS_DEEPSEEK_V2] = {"deepseek-v2", ds_llama_trunk, ds_llama_head, true},
    [DS_DEEPSEEK_V3] = {"deepseek-v3", ds_llama_trunk, ds_llama_head, true},
};

bool ds_model_is_llama_like(const ds_model_config *c) {
    return families[c->architecture].trunk == ds_llama_trunk;
}

const char *ds_architecture_name(ds_architecture architecture) {
    return families[architecture].name;
}

static bool is_sound(ds_graph *g, const ds_model_config *c, int64_t seq_len) {
    if (ds_model_config_check(c) != DS_OK)
        ds_graph_refuse(g, "model", "%s", ds_error());
    else if (seq_len < 1 || seq_len > c->max_seq_len)
        ds_graph_refuse(g, "model", "a sequence of %lld tokens is not in 1 … max_seq_len %lld",
                        (long long)seq_len, (long long)c->max_seq_len);
    return ds_graph_ok(g);
}

/* The same model where it is used, not trained: nothing is dropped. */
static ds_model_config without_dropout(const ds_model_config *c) {
    ds_model_config plain = *c;
    plain.dropout = 0;
    return plain;
}

static ds_node *sequence_input(ds_graph *g, const char *name, int64_t batch, int64_t seq_len) {
    return ds_graph_input(g, name, DS_I32, 2, (int64_t[]){batch, seq_len});
}

static ds_model_inputs whole_sequences(ds_graph *g, const ds_model_config *c, int64_t batch,
                                       int64_t seq_len, ds_packing packing) {
    ds_model_inputs in = {
        .tokens = sequence_input(g, "tokens", batch, seq_len),
        .positions = packing.reset_positions ? sequence_input(g, "positions", batch, seq_len)
                                             : ds_graph_iota(g, seq_len),
    };
    if (packing.mask_documents)
        in.first_keys = sequence_input(g, "first_keys", batch, seq_len);
    if (c->architecture == DS_BERT) {
        in.segment_ids = sequence_input(g, "segment_ids", batch, seq_len);
        in.lengths = ds_graph_input(g, "lengths", DS_I32, 1, (int64_t[]){batch});
    }
    return in;
}

/* Loss of the next-sentence head, in the unit of the token losses: the trainer divides the whole by
 * the predicted tokens of the step, which leaves the mean over the step's samples. */
static ds_node *next_sentence_loss(ds_graph *g, const ds_model_config *c, ds_node *hidden) {
    const int64_t batch = ds_node_dim(hidden, 0);
    ds_node *follows = ds_graph_input(g, "next_sentence", DS_I32, 1, (int64_t[]){batch});
    ds_node *per_sample = ds_graph_input(g, DS_TOKENS_PER_SAMPLE, DS_F32, 0, NULL);
    ds_node *loss = ds_graph_cross_entropy(g, ds_bert_next_sentence(g, c, hidden), follows);
    ds_graph_output(g, "next_sentence_loss", loss);
    return ds_graph_mul(g, loss, per_sample);
}

void ds_model_build_packed(ds_graph *g, const ds_model_config *c, int64_t batch, int64_t seq_len,
                           ds_packing packing) {
    if (!is_sound(g, c, seq_len))
        return;
    if (!families[c->architecture].is_decoder &&
        (packing.reset_positions || packing.mask_documents)) {
        ds_graph_refuse(g, "model", "samples of %s hold one document: there is nothing packed",
                        families[c->architecture].name);
        return;
    }
    const ds_model_inputs in = whole_sequences(g, c, batch, seq_len, packing);
    ds_node *labels = sequence_input(g, "labels", batch, seq_len);
    const ds_model_trunk trunk = families[c->architecture].trunk(g, c, &in);
    ds_node *logits = families[c->architecture].head(g, c, trunk.hidden);
    ds_node *loss = ds_graph_cross_entropy(g, logits, labels);
    if (c->architecture == DS_BERT)
        loss = ds_graph_add(g, loss, next_sentence_loss(g, c, trunk.hidden));
    if (trunk.balance) { /* per token, so that dividing by the tokens leaves the published weight */
        const float weight = c->router_loss_weight * (float)(batch * seq_len) / (float)c->n_layers;
        loss = ds_graph_add(g, loss, ds_graph_scale(g, trunk.balance, weight));
    }
    ds_graph_output(g, "loss", loss);
}

void ds_model_build_training(ds_graph *g, const ds_model_config *c, int64_t batch,
                             int64_t seq_len) {
    ds_model_build_packed(g, c, batch, seq_len, (ds_packing){0});
}

void ds_model_build_logits(ds_graph *g, const ds_model_config *config, int64_t batch,
                           int64_t seq_len) {
    if (!is_sound(g, config, seq_len))
        return;
    const ds_model_config plain = without_dropout(config), *c = &plain;
    const ds_model_inputs in = whole_sequences(g, c, batch, seq_len, (ds_packing){0});
    const ds_model_trunk trunk = families[c->architecture].trunk(g, c, &in);
    ds_graph_output(g, "logits", families[c->architecture].head(g, c, trunk.hidden));
    if (c->architecture == DS_BERT)
        ds_graph_output(g, "next_sentence_logits", ds_bert_next_sentence(g, c, trunk.hidden));
}

void ds_model_build_hidden(ds_graph *g, const ds_model_config *config, int64_t batch,
                           int64_t seq_len) {
    if (!is_sound(g, config, seq_len))
        return;
    const ds_model_config plain = without_dropout(config), *c = &plain;
    ds_model_inputs in = {
        .tokens = sequence_input(g, "tokens", batch, seq_len),
        .positions = ds_graph_iota(g, seq_len),
        .lengths = ds_graph_input(g, "lengths", DS_I32, 1, &batch),
    };
    if (c->architecture == DS_BERT) /* a text is one segment, the first */
        in.segment_ids = ds_graph_fill(g, 0, DS_I32, 2, (int64_t[]){batch, seq_len});
    else
        in.lengths = NULL; /* a causal token sees no padding behind it */
    const ds_model_trunk trunk = families[c->architecture].trunk(g, c, &in);
    ds_graph_output(g, "hidden", ds_graph_cast(g, trunk.hidden, DS_F32));
}

void ds_model_build_step(ds_graph *g, const ds_model_config *config, int64_t batch,
                         int64_t n_tokens, int64_t capacity) {
    if (!is_sound(g, config, n_tokens))
        return;
    const ds_model_config plain = without_dropout(config), *c = &plain;
    if (!families[c->architecture].is_decoder || capacity < n_tokens || capacity > c->max_seq_len) {
        ds_graph_refuse(g, "model", "%s cannot generate %lld tokens with a cache of %lld",
                        families[c->architecture].name, (long long)n_tokens, (long long)capacity);
        return;
    }
    const ds_model_inputs in = {
        .tokens = sequence_input(g, "tokens", batch, n_tokens),
        .positions = sequence_input(g, "positions", batch, n_tokens),
        .lengths = ds_graph_input(g, "lengths", DS_I32, 1, &batch),
        .start = ds_graph_input(g, "start", DS_I32, 1, &batch),
        .capacity = capacity,
    };
    const ds_model_trunk trunk = families[c->architecture].trunk(g, c, &in);
    ds_node *last = ds_graph_slice(g, trunk.hidden, 1, n_tokens - 1, 1);
    last = ds_graph_reshape(g, last, 2, (int64_t[]){batch, c->hidden_size});
    ds_graph_output(g, "logits", families[c->architecture].head(g, c, last));
}

static ds_node *index_input(ds_graph *g, const char *name, int64_t n) {
    return ds_graph_input(g, name, DS_I32, 1, &n);
}

void ds_model_build_paged(ds_graph *g, const ds_model_config *config, int64_t n_tokens,
                          int64_t n_rows, int64_t n_sequences, int64_t blocks_per_sequence,
                          const ds_paged_cache *cache) {
    if (!is_sound(g, config, 1))
        return;
    const ds_model_config plain = without_dropout(config), *c = &plain;
    if (!families[c->architecture].is_decoder || n_tokens < 1) {
        ds_graph_refuse(g, "model", "%s cannot generate", families[c->architecture].name);
        return;
    }
    ds_node *positions = index_input(g, "positions", n_tokens);
    const ds_model_inputs in = {
        .tokens =
            ds_graph_reshape(g, index_input(g, "tokens", n_tokens), 2, (int64_t[]){1, n_tokens}),
        .positions = positions,
        .slots = index_input(g, "slots", n_tokens),
        .paged = {.tables = ds_graph_input(g, "tables", DS_I32, 2,
                                           (int64_t[]){n_sequences, blocks_per_sequence}),
                  .owners = index_input(g, "owners", n_tokens),
                  .positions = positions},
        .cache = cache,
    };
    const ds_model_trunk trunk = families[c->architecture].trunk(g, c, &in);
    ds_node *hidden = ds_graph_reshape(g, trunk.hidden, 2, (int64_t[]){n_tokens, c->hidden_size});
    hidden = ds_graph_gather(g, hidden, index_input(g, "rows", n_rows));
    ds_node *logits = families[c->architecture].head(g, c, hidden);
    ds_graph_output(g, "logits", ds_graph_cast(g, logits, DS_F32));
}

size_t ds_model_block_bytes(const ds_model_config *c, const ds_paged_cache *cache) {
    const ds_latent_config *l = &c->latent;
    const int64_t scales =
        cache->dtype == DS_I8 ? 2 * DS_CACHE_SCALE : 0; /* of a key and a value */
    const int64_t of_token = l->kv_rank > 0
                                 ? c->n_heads * (l->plain_dim + l->rotary_dim + l->v_dim + scales)
                                 : c->n_kv_heads * (2 * c->head_dim + scales);
    return (size_t)(c->n_layers * cache->block_size * of_token) * ds_dtype_size(cache->dtype);
}

int64_t ds_model_n_params(const ds_model_config *c) {
    ds_graph *g = ds_graph_new();
    int64_t n = 0;
    if (!g)
        return 0;
    ds_model_build_training(g, c, 1, 1);
    for (size_t i = 0; ds_graph_ok(g) && i < g->n_nodes; i++)
        if (g->nodes[i]->op == &ds_op_param)
            n += ds_node_count(g->nodes[i]);
    ds_graph_free(g);
    return n;
}

/* Multiply-adds of a token in one layer's attention, scores aside. */
static double attention_products(const ds_model_config *c) {
    const ds_latent_config *l = &c->latent;
    const double hidden = (double)c->hidden_size, heads = (double)c->n_heads;
    if (l->kv_rank == 0)
        return hidden * (double)c->head_dim * (2 * heads + 2 * (double)c->n_kv_heads);
    const double q_dim = (double)(l->plain_dim + l->rotary_dim), q_rank = (double)l->q_rank;
    const double q = l->q_rank > 0 ? q_rank * (hidden + heads * q_dim) : hidden * heads * q_dim;
    return q + hidden * (double)(l->kv_rank + l->rotary_dim) +
           (double)l->kv_rank * heads * (double)(l->plain_dim + l->v_dim) +
           heads * (double)l->v_dim * hidden;
}

static double feed_forward_products(const ds_model_config *c) {
    const double hidden = (double)c->hidden_size, inner = (double)c->intermediate_size;
    const double dense = (ds_model_is_llama_like(c) ? 3 : 2) * hidden * inner;
    if (c->n_experts == 0)
        return (double)c->n_layers * dense;
    const double expert = (double)ds_model_expert_width(c);
    const double shared = (double)ds_model_shared_width(c);
    const double mixed = 3 * hidden * (expert * (double)c->experts_per_token + shared) +
                         hidden * (double)c->n_experts;
    const double n_dense = (double)c->experts.n_dense_layers;
    return n_dense * dense + ((double)c->n_layers - n_dense) * mixed;
}

double ds_model_flops_per_token(const ds_model_config *c, int64_t seq_len) {
    const ds_latent_config *l = &c->latent;
    const double key = (double)(l->kv_rank > 0 ? l->plain_dim + l->rotary_dim : c->head_dim);
    const double value = (double)(l->kv_rank > 0 ? l->v_dim : c->head_dim);
    const double scores = (double)c->n_heads * (key + value) * (double)seq_len *
                          (c->architecture == DS_BERT ? 1.0 : 0.5);
    const double head = (double)c->hidden_size * (double)c->vocab_size;
    /* forward 2 flops a multiply-add, backward twice that (Kaplan et al. 2020) */
    return 6 * ((double)c->n_layers * (attention_products(c) + scores) + feed_forward_products(c) +
                head);
}
