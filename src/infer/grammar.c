/* Grammars as their users see them: cursors over a store of states, masks of the tokens that may
 * follow, and memory that stays within its bound: when the store has grown past it, the states at
 * which cursors stand are copied into a fresh one. */
#include "infer/grammar.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "infer/grammar_store.h"
#include "infer/model.h"

struct ds_grammar {
    atomic_int references;
    pthread_mutex_t lock; /* guards what follows */
    ds_rules rules;
    const ds_vocab_trie *trie;
    ds_grammar_store store;
    int32_t *path; /* [deepest + 1]: states along the walk over the trie */
    ds_grammar_cursor *cursors;
};

struct ds_grammar_cursor {
    ds_grammar *grammar;
    int32_t state;
    ds_grammar_cursor *next, *previous; /* of the same grammar */
};

/* ---- making one ------------------------------------------------------------------------------ */

static ds_status prepare(ds_grammar *g, const char *what) {
    DS_TRY(ds_rules_check(&g->rules, g->trie->spells, what));
    g->path = ds_malloc(((size_t)g->trie->deepest + 1) * sizeof *g->path);
    if (!g->path)
        return DS_OUT_OF_MEMORY;
    return ds_grammar_store_init(&g->store, &g->rules, g->trie->spells);
}

ds_status ds_grammar_make(ds_rules *rules, const ds_vocab_trie *trie, const char *what,
                          ds_grammar **out) {
    ds_grammar *g = ds_calloc(1, sizeof *g);
    if (!g) {
        ds_rules_clear(rules);
        return DS_OUT_OF_MEMORY;
    }
    atomic_init(&g->references, 1);
    pthread_mutex_init(&g->lock, NULL);
    g->rules = *rules;
    *rules = (ds_rules){0};
    g->trie = trie;
    const ds_status status = prepare(g, what);
    if (status != DS_OK) {
        ds_grammar_free(g);
        return status;
    }
    *out = g;
    return DS_OK;
}

ds_grammar *ds_grammar_retain(ds_grammar *g) {
    if (g)
        atomic_fetch_add(&g->references, 1);
    return g;
}

void ds_grammar_free(ds_grammar *g) {
    if (!g || atomic_fetch_sub(&g->references, 1) > 1)
        return;
    ds_grammar_store_clear(&g->store);
    ds_rules_clear(&g->rules);
    pthread_mutex_destroy(&g->lock);
    free(g->path);
    free(g);
}

ds_status ds_grammar_from_rules(ds_model *model, ds_rules *rules, const char *what,
                                ds_grammar **out) {
    const ds_vocab_trie *trie = NULL;
    const ds_status status = ds_model_get_trie(model, &trie);
    if (status != DS_OK) {
        ds_rules_clear(rules);
        return status;
    }
    return ds_grammar_make(rules, trie, what, out);
}

ds_status ds_grammar_from_json_schema(ds_model *model, const char *schema, size_t size,
                                      ds_grammar **out) {
    ds_rules rules;
    DS_TRY(ds_json_schema_rules(schema, size, &rules));
    return ds_grammar_from_rules(model, &rules, "schema", out);
}

ds_status ds_grammar_from_gbnf(ds_model *model, const char *text, size_t size, ds_grammar **out) {
    ds_rules rules;
    DS_TRY(ds_gbnf_rules(text, size, &rules));
    return ds_grammar_from_rules(model, &rules, "grammar", out);
}

size_t ds_grammar_bytes(ds_grammar *g) {
    pthread_mutex_lock(&g->lock);
    const size_t bytes = g->store.bytes;
    pthread_mutex_unlock(&g->lock);
    return bytes;
}

/* ---- all under the lock ---------------------------------------------------------------------- */

static ds_status failed(void) {
    return ds_fail(DS_OUT_OF_MEMORY, "out of memory for the states of a grammar");
}

/* Begins the store anew with the states that cursors stand at. */
static ds_status renew(ds_grammar *g) {
    ds_grammar_store fresh;
    DS_TRY(ds_grammar_store_init(&fresh, &g->rules, g->trie->spells));
    for (ds_grammar_cursor *c = g->cursors; c; c = c->next)
        if (ds_grammar_store_copy(&fresh, &g->store, c->state) < 0) {
            ds_grammar_store_clear(&fresh);
            return failed();
        }
    /* the same again: what is there already keeps its number */
    for (ds_grammar_cursor *c = g->cursors; c; c = c->next)
        c->state = ds_grammar_store_copy(&fresh, &g->store, c->state);
    ds_grammar_store_clear(&g->store);
    g->store = fresh;
    return DS_OK;
}

static ds_status fit(ds_grammar *g) {
    return g->store.bytes > DS_GRAMMAR_MOST_BYTES ? renew(g) : DS_OK;
}

static void allow(const ds_vocab_trie *t, int32_t token, uint64_t *mask) {
    for (; token >= 0; token = t->same[token])
        mask[token / 64] |= (uint64_t)1 << token % 64;
}

/* One walk over the vocabulary from the state. */
static ds_status find_tokens(ds_grammar *g, int32_t state, uint64_t *mask) {
    const ds_vocab_trie *t = g->trie;
    g->path[0] = state;
    for (int32_t i = 0; i < (int32_t)t->n_nodes;) {
        const ds_trie_node *n = &t->nodes[i];
        const int32_t next = ds_grammar_store_step(&g->store, g->path[n->depth - 1], n->byte);
        if (next == DS_STATE_FAILED)
            return failed();
        g->path[n->depth] = next;
        if (next >= 0)
            allow(t, n->token, mask);
        i = next >= 0 ? i + 1 : n->skip;
    }
    return DS_OK;
}

static ds_status mask_of(ds_grammar *g, int32_t state, const uint64_t **out) {
    const size_t words = (size_t)(g->trie->vocab_size + 63) / 64;
    uint64_t *mask = g->store.states[state].mask;
    if (!mask) {
        mask = ds_calloc(words + 1, sizeof *mask);
        const ds_status status = mask ? find_tokens(g, state, mask) : DS_OUT_OF_MEMORY;
        if (status != DS_OK) {
            free(mask);
            return status;
        }
        g->store.states[state].mask = mask;
        g->store.bytes += (words + 1) * sizeof *mask;
    }
    *out = mask;
    return DS_OK;
}

static bool can_go_on(const ds_grammar *g, int32_t state) {
    return g->store.states[state].n > 0;
}

static ds_status apply(ds_grammar *g, int32_t state, float *logits, int64_t n, const int32_t *ends,
                       size_t n_ends) {
    const uint64_t *mask = NULL;
    DS_TRY(mask_of(g, state, &mask));
    const bool complete = g->store.states[state].complete;
    enum { MOST_ENDS = 64 };
    float kept[MOST_ENDS];
    const size_t n_kept = n_ends < MOST_ENDS ? n_ends : MOST_ENDS;
    bool any = false;
    for (size_t i = 0; i < n_kept; i++)
        kept[i] = complete && ends[i] >= 0 && ends[i] < n ? logits[ends[i]] : -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        const bool may = i < g->trie->vocab_size && (mask[i / 64] >> i % 64 & 1);
        any = any || may;
        if (!may)
            logits[i] = -INFINITY;
    }
    for (size_t i = 0; i < n_kept; i++)
        if (ends[i] >= 0 && ends[i] < n)
            logits[ends[i]] = kept[i];
    return any || complete ? DS_OK
                           : ds_fail(DS_UNSUPPORTED,
                                     "the grammar is too ambiguous: it can be read in more than "
                                     "%d ways at once",
                                     DS_MOST_CONFIGS);
}

/* ---- cursors --------------------------------------------------------------------------------- */

ds_status ds_grammar_cursor_new(ds_grammar *g, ds_grammar_cursor **out) {
    ds_grammar_cursor *c = ds_calloc(1, sizeof *c);
    if (!c)
        return DS_OUT_OF_MEMORY;
    pthread_mutex_lock(&g->lock);
    ds_status status = fit(g);
    c->state = status == DS_OK ? ds_grammar_store_begin(&g->store) : DS_STATE_FAILED;
    if (status == DS_OK && c->state < 0)
        status = failed();
    if (status == DS_OK) {
        c->grammar = ds_grammar_retain(g);
        c->next = g->cursors;
        if (g->cursors)
            g->cursors->previous = c;
        g->cursors = c;
    }
    pthread_mutex_unlock(&g->lock);
    if (status != DS_OK) {
        free(c);
        return status;
    }
    *out = c;
    return DS_OK;
}

void ds_grammar_cursor_free(ds_grammar_cursor *c) {
    if (!c)
        return;
    ds_grammar *g = c->grammar;
    pthread_mutex_lock(&g->lock);
    *(c->previous ? &c->previous->next : &g->cursors) = c->next;
    if (c->next)
        c->next->previous = c->previous;
    pthread_mutex_unlock(&g->lock);
    ds_grammar_free(g);
    free(c);
}

ds_status ds_grammar_mask(ds_grammar_cursor *c, float *logits, int64_t n, const int32_t *ends,
                          size_t n_ends) {
    ds_grammar *g = c->grammar;
    pthread_mutex_lock(&g->lock);
    ds_status status = fit(g);
    if (status == DS_OK)
        status = apply(g, c->state, logits, n, ends, n_ends);
    pthread_mutex_unlock(&g->lock);
    return status;
}

static ds_status step_over(ds_grammar *g, int32_t token, int32_t *state) {
    size_t length = 0;
    const char *bytes = ds_tokenizer_bytes(g->trie->tokenizer, token, &length);
    int32_t at = *state;
    if (!bytes || length == 0 || ds_tokenizer_is_special(g->trie->tokenizer, token))
        return ds_fail(DS_INVALID, "token %d is no text", token);
    for (size_t i = 0; i < length && at >= 0; i++)
        at = ds_grammar_store_step(&g->store, at, (unsigned char)bytes[i]);
    if (at == DS_STATE_FAILED)
        return failed();
    if (at < 0)
        return ds_fail(DS_INVALID, "token %d may not follow in this grammar", token);
    *state = at;
    return DS_OK;
}

ds_status ds_grammar_accept(ds_grammar_cursor *c, int32_t token) {
    pthread_mutex_lock(&c->grammar->lock);
    const ds_status status = step_over(c->grammar, token, &c->state);
    pthread_mutex_unlock(&c->grammar->lock);
    return status;
}

bool ds_grammar_may_end(ds_grammar_cursor *c) {
    pthread_mutex_lock(&c->grammar->lock);
    const bool may = c->grammar->store.states[c->state].complete;
    pthread_mutex_unlock(&c->grammar->lock);
    return may;
}

bool ds_grammar_must_end(ds_grammar_cursor *c) {
    pthread_mutex_lock(&c->grammar->lock);
    const bool must = !can_go_on(c->grammar, c->state);
    pthread_mutex_unlock(&c->grammar->lock);
    return must;
}
