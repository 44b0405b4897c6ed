/* The byte strings of a vocabulary as a trie in one array, in the order of a walk: a node's
 * descendants follow it, and `skip` says where they end. Which tokens may follow is then one pass
 * over the array that jumps over what a grammar refuses. Never changes once made. */
#ifndef DS_INFER_VOCAB_TRIE_H
#define DS_INFER_VOCAB_TRIE_H

#include "deepseek/tokenizer.h"

typedef struct ds_trie_node {
    int32_t token;  /* spelled by the path to here; -1: none */
    int32_t skip;   /* the first node that is no descendant */
    uint32_t depth; /* 1 and more: bytes of the path */
    unsigned char byte;
} ds_trie_node;

typedef struct ds_vocab_trie {
    const ds_tokenizer *tokenizer; /* borrowed */
    ds_trie_node *nodes;           /* [n_nodes] */
    size_t n_nodes;
    int32_t *same; /* [vocab_size]: the next token of the same bytes; -1: none */
    int64_t vocab_size;
    uint32_t deepest;
    bool spells[256]; /* whether a token of this byte alone is there */
} ds_vocab_trie;

/* Marks (special tokens) are no text and are left out. */
ds_status ds_vocab_trie_new(const ds_tokenizer *tokenizer, ds_vocab_trie **out);
void ds_vocab_trie_free(ds_vocab_trie *trie); /* NULL is fine */

#endif
