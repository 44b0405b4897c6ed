#include "infer/vocab_trie.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

typedef struct word {
    const char *bytes;
    size_t length;
    int32_t id;
} word;

static int by_bytes(const void *a, const void *b) {
    const word *x = a, *y = b;
    const size_t n = x->length < y->length ? x->length : y->length;
    const int order = memcmp(x->bytes, y->bytes, n);
    if (order)
        return order;
    if (x->length != y->length)
        return x->length < y->length ? -1 : 1;
    return x->id - y->id;
}

static word *list_words(const ds_tokenizer *tok, size_t *n, size_t *n_bytes) {
    const int64_t vocab = ds_tokenizer_vocab_size(tok);
    word *words = ds_malloc((size_t)(vocab + 1) * sizeof *words);
    *n = *n_bytes = 0;
    for (int32_t id = 0; words && id < vocab; id++) {
        size_t length = 0;
        const char *bytes = ds_tokenizer_bytes(tok, id, &length);
        if (!bytes || length == 0 || ds_tokenizer_is_special(tok, id))
            continue;
        words[(*n)++] = (word){bytes, length, id};
        *n_bytes += length;
    }
    if (words)
        qsort(words, *n, sizeof *words, by_bytes);
    return words;
}

static size_t common(const word *a, const word *b) {
    size_t n = 0;
    while (n < a->length && n < b->length && a->bytes[n] == b->bytes[n])
        n++;
    return n;
}

/* open: [deepest], the nodes of the path at hand. */
static void build(ds_vocab_trie *t, const word *words, size_t n, int32_t *open) {
    size_t depth = 0;
    for (size_t i = 0; i < n; i++) {
        const word *w = &words[i];
        const size_t shared = i > 0 ? common(&words[i - 1], w) : 0;
        while (depth > shared)
            t->nodes[open[--depth]].skip = (int32_t)t->n_nodes;
        for (; depth < w->length; depth++) {
            open[depth] = (int32_t)t->n_nodes;
            t->nodes[t->n_nodes++] = (ds_trie_node){
                .token = -1, .depth = (uint32_t)depth + 1, .byte = (unsigned char)w->bytes[depth]};
        }
        ds_trie_node *end = &t->nodes[open[depth - 1]];
        t->same[w->id] = end->token;
        end->token = w->id;
        if (w->length == 1)
            t->spells[(unsigned char)w->bytes[0]] = true;
    }
    while (depth > 0)
        t->nodes[open[--depth]].skip = (int32_t)t->n_nodes;
}

static ds_status fill(ds_vocab_trie *t, const word *words, size_t n, size_t n_bytes) {
    for (size_t i = 0; i < n; i++)
        if (words[i].length > t->deepest)
            t->deepest = (uint32_t)words[i].length;
    int32_t *open = ds_malloc(((size_t)t->deepest + 1) * sizeof *open);
    t->nodes = ds_malloc((n_bytes + 1) * sizeof *t->nodes);
    t->same = ds_malloc((size_t)(t->vocab_size + 1) * sizeof *t->same);
    const bool whole = open && t->nodes && t->same;
    for (int64_t i = 0; whole && i < t->vocab_size; i++)
        t->same[i] = -1;
    if (whole)
        build(t, words, n, open);
    free(open);
    if (!whole)
        return DS_OUT_OF_MEMORY;
    ds_trie_node *exact = ds_realloc(t->nodes, (t->n_nodes + 1) * sizeof *exact);
    t->nodes = exact ? exact : t->nodes;
    return DS_OK;
}

ds_status ds_vocab_trie_new(const ds_tokenizer *tok, ds_vocab_trie **out) {
    size_t n = 0, n_bytes = 0;
    ds_vocab_trie *t = ds_calloc(1, sizeof *t);
    word *words = t ? list_words(tok, &n, &n_bytes) : NULL;
    ds_status status = DS_OUT_OF_MEMORY;
    if (words) {
        t->tokenizer = tok;
        t->vocab_size = ds_tokenizer_vocab_size(tok);
        status = fill(t, words, n, n_bytes);
    }
    free(words);
    if (status != DS_OK) {
        ds_vocab_trie_free(t);
        return status;
    }
    *out = t;
    return DS_OK;
}

void ds_vocab_trie_free(ds_vocab_trie *t) {
    if (!t)
        return;
    free(t->nodes);
    free(t->same);
    free(t);
}
