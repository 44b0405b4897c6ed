/* A trained model in memory. */
#ifndef DS_INFER_MODEL_H
#define DS_INFER_MODEL_H

#include <limits.h>
#include <pthread.h>

#include "deepseek/inference.h"
#include "infer/embed.h"
#include "infer/sampling_keys.h"
#include "infer/vocab_trie.h"

enum { DS_MOST_END_TOKENS = 16 };

struct ds_model {
    char path[PATH_MAX]; /* what was loaded */
    char name[256];
    ds_model_config config;
    ds_tokenizer *tokenizer; /* NULL: none */
    ds_backend *backend;
    ds_state *state;
    int32_t end_tokens[DS_MOST_END_TOKENS];
    size_t n_end_tokens;
    /* Of generation_config.json; NaN: not told. By ds_sampling_reals. */
    double wanted[DS_SAMPLING_REALS], wanted_top_k;
    bool has_heads;         /* false: a BERT that gives embeddings only */
    pthread_mutex_t in_use; /* by whoever compiles or runs programs over the state */
    ds_embedder *embedder;  /* made by the first call; NULL before */
    pthread_mutex_t trie_lock;
    ds_vocab_trie *trie; /* made when the first grammar asks for it */
};

/* The vocabulary as grammars walk over it; borrowed. DS_INVALID without a tokenizer. Thread-safe.
 */
ds_status ds_model_get_trie(ds_model *model, const ds_vocab_trie **out);

#endif
