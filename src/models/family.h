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
    ds_node *start;       /* i32 [batch]: with a cache, how much is in it; NULL: no cache */
    int64_t capacity;     /* of the cache, tokens */
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

/* Causal attention; with a cache, k and v go into "cache/LAYER/k" and "/v" first. */
ds_node *ds_model_attend(ds_graph *g, const ds_model_config *c, const ds_model_inputs *in,
                         int64_t layer, ds_node *q, ds_node *k, ds_node *v);

#endif
