/* Unigram (Kudo 2018): every piece has a log probability; a text is cut into the pieces whose sum
 * is the highest, found by one pass from left to right (Viterbi). A character that no piece covers
 * costs more than the unlikeliest piece, as SentencePiece has it. */
#include "data/tokenizer.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"

#define UNKNOWN_PENALTY 10 /* SentencePiece's */

struct ds_lattice_node {
    float score;   /* of the best way here */
    int32_t start; /* where its last piece begins; -1: there is no way here */
    int32_t id;    /* of that piece; -1: a character without one */
};

/* "<0x41>": pieces for bytes are never read out of a text. */
static bool is_byte_piece(const ds_tokenizer *tok, int32_t id) {
    for (int b = 0; tok->byte_fallback && b < 256; b++)
        if (tok->byte_ids[b] == id)
            return true;
    return false;
}

ds_status ds_unigram_index(ds_tokenizer *tok) {
    DS_TRY(ds_piece_trie_init(&tok->pieces, 1));
    float least = 0;
    for (size_t id = 0; id < tok->n; id++) {
        const ds_token *t = &tok->tokens[id];
        if (!t->name)
            continue;
        least = t->score < least ? t->score : least;
        if (!t->special && (int32_t)id != tok->unknown && !is_byte_piece(tok, (int32_t)id))
            DS_TRY(ds_piece_trie_add(&tok->pieces, 0, t->name, t->name_length, (int32_t)id));
    }
    tok->unknown_score = least - UNKNOWN_PENALTY;
    return DS_OK;
}

static ds_status reserve(ds_lattice *l, size_t n) {
    if (n + 1 > l->capacity) {
        ds_lattice_node *grown = ds_grow(l->nodes, &l->capacity, n + 1, sizeof *grown);
        if (!grown)
            return DS_OUT_OF_MEMORY;
        l->nodes = grown;
    }
    for (size_t i = 0; i <= n; i++)
        l->nodes[i].start = -1;
    l->nodes[0] = (ds_lattice_node){.start = 0, .id = -1};
    return DS_OK;
}

static void offer(ds_lattice_node *to, float score, size_t start, int32_t id) {
    if (to->start < 0 || score > to->score)
        *to = (ds_lattice_node){.score = score, .start = (int32_t)start, .id = id};
}

/* All pieces that begin at `at`, whose character takes `length` bytes. */
static void extend(const ds_tokenizer *tok, ds_lattice_node *nodes, const char *text, size_t n,
                   size_t at, size_t length) {
    const float here = nodes[at].score;
    bool has_single = false;
    int32_t node = 0;
    for (size_t i = at; i < n; i++) {
        node = ds_piece_trie_step(&tok->pieces, node, text[i]);
        if (node < 0)
            break;
        const int32_t id = tok->pieces.ids[node];
        if (id < 0)
            continue;
        offer(&nodes[i + 1], here + tok->tokens[id].score, at, id);
        has_single = has_single || i + 1 == at + length;
    }
    if (!has_single)
        offer(&nodes[at + length], here + tok->unknown_score, at, -1);
}

/* Turns the way back from the end into a way forward: start then says where the next node is. */
static void turn_round(ds_lattice_node *nodes, size_t n) {
    int32_t end = (int32_t)n, id = -1, next = -1;
    for (;;) {
        const int32_t start = nodes[end].start, own = nodes[end].id;
        nodes[end].start = next;
        nodes[end].id = id;
        if (end == 0)
            return;
        next = end;
        id = own;
        end = start;
    }
}

ds_status ds_unigram_encode(const ds_tokenizer *tok, ds_lattice *l, const char *text, size_t n,
                            ds_piece_fn *fn, void *context) {
    DS_TRY(reserve(l, n));
    for (size_t at = 0, length = 0; at < n; at += length) {
        length = ds_utf8_length(text + at, n - at);
        extend(tok, l->nodes, text, n, at, length);
    }
    turn_round(l->nodes, n);
    for (int32_t at = 0; (size_t)at < n;) {
        const int32_t next = l->nodes[at].start;
        DS_TRY(fn(context, text + at, (size_t)(next - at), l->nodes[at].id));
        at = next;
    }
    return DS_OK;
}
