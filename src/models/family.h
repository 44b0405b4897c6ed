/* What a family of models gives: functions that build its trunk. One file a family. */
#ifndef DS_MODELS_FAMILY_H
#define DS_MODELS_FAMILY_H

#include "deepseek/models.h"
#include "deepseek/nn.h"

/* Everything that a trunk reads beside its parameters. */
typedef struct ds_model_inputs {
    ds_node *tokens;      /* i32 [batch, n_tokens] */
    ds_node *positions;   /* i32 [n_tokens] or [batch, n_tokens] */
    ds_node *segment_ids; /* BERT: i32 [batch, n_tokens]; else NULL */
    ds_node *lengths;     /* i32 [batch]: keys past it are padding; NULL: none is */
    ds_node *first_keys;  /* i32 [batch, n_tokens]: a query sees none before; NULL: sees all */
    ds_node *slots;       /* i32 [n_tokens]: with a cache in blocks, where keys go; else NULL */
    ds_paged_keys_of paged;
    const ds_paged_cache *cache;
    ds_node *start;   /* i32 [batch]: with a cache, how much is in it; NULL: no cache */
    int64_t capacity; /* of the cache, tokens */
} ds_model_inputs;

typedef struct ds_model_trunk {
    ds_node *hidden;  /* [batch, n_tokens, hidden_size], after the last norm */
    ds_node *balance; /* sum of the layers' load-balancing losses, or NULL */
} ds_model_trunk;

typedef ds_model_trunk ds_model_trunk_builder(ds_graph *g, const ds_model_config *c,
                                              const ds_model_inputs *in);
ds_model_trunk_builder ds_gpt2_trunk, ds_llama_trunk, ds_bert_trunk;

/* Logits of the rows of hidden: [..., vocab_size]. */
typedef ds_node *ds_model_head_builder(ds_graph *g, const ds_model_config *c, ds_node *hidden);
ds_model_head_builder ds_gpt2_head, ds_llama_head, ds_bert_head;

/* BERT: logits [batch, 2] of whether the second sentence follows the first. */
ds_node *ds_bert_next_sentence(ds_graph *g, const ds_model_config *c, ds_node *hidden);

/* DeepSeek's attention in place of Llama's, up to its output projection:
 * x [batch, tokens, hidden_size] → [batch, tokens, heads, v_dim]. */
ds_node *ds_deepseek_attention(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in,
                               int64_t layer, ds_node *x);

/* Whether layers are Llama's or a variant of them: rotary positions, RMS norms, SwiGLU. */
bool ds_model_is_llama_like(const ds_model_config *c);

/* Of one expert, and of all shared ones together. */
static inline int64_t ds_model_expert_width(const ds_model_config *c) {
    return c->experts.intermediate_size > 0 ? c->experts.intermediate_size : c->intermediate_size;
}

static inline int64_t ds_model_shared_width(const ds_model_config *c) {
    const ds_expert_config *e = &c->experts;
    return e->n_shared * (e->shared_size > 0 ? e->shared_size : ds_model_expert_width(c));
}

/* What scores of attention are multiplied by; 0: 1/sqrt(head_dim). DeepSeek's YaRN changes it. */
float ds_model_score_scale(const ds_model_config *c);

/* Causal attention; with a cache, k and v go into "cache/LAYER/k" and "/v" first. */
ds_node *ds_model_attend(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in,
                         int64_t layer, ds_node *q, ds_node *k, ds_node *v);

#endif
