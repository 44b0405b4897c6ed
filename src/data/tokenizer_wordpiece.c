/* WordPiece (Wu et al. 2016, as BERT uses it): of a word the longest piece that the vocabulary has,
 * then of the rest the longest that may go on in a word ("##ing"), and so on; a word that cannot be
 * put together so is unknown as a whole. */
#include "data/tokenizer.h"

#include <string.h>

#include "base/error.h"

ds_status ds_wordpiece_index(ds_tokenizer *tok) {
    const size_t n_prefix = tok->continuing_length;
    DS_TRY(ds_piece_trie_init(&tok->pieces, 2));
    for (size_t id = 0; id < tok->n; id++) {
        const ds_token *t = &tok->tokens[id];
        if (!t->name || t->special)
            continue;
        DS_TRY(ds_piece_trie_add(&tok->pieces, 0, t->name, t->name_length, (int32_t)id));
        if (t->name_length > n_prefix && memcmp(t->name, tok->continuing, n_prefix) == 0)
            DS_TRY(ds_piece_trie_add(&tok->pieces, 1, t->name + n_prefix, t->name_length - n_prefix,
                                     (int32_t)id));
    }
    return DS_OK;
}

static size_t count_characters(const char *word, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)word[i] & 0xc0) != 0x80;
    return count;
}

/* The longest piece at the beginning of text, -1 for none; *length is what it takes. */
static int32_t longest(const ds_piece_trie *trie, int32_t root, const char *text, size_t n,
                       size_t *length) {
    int32_t found = -1, node = root;
    for (size_t i = 0; i < n; i++) {
        node = ds_piece_trie_step(trie, node, text[i]);
        if (node < 0)
            break;
        if (trie->ids[node] >= 0) {
            found = trie->ids[node];
            *length = i + 1;
        }
    }
    return found;
}

bool ds_wordpiece_encode(const ds_tokenizer *tok, const char *word, size_t n, int32_t *symbols,
                         size_t *count) {
    *count = 0;
    if (n > tok->longest_word && count_characters(word, n) > tok->longest_word)
        return false;
    for (size_t at = 0, length = 0; at < n; at += length) {
        const int32_t id = longest(&tok->pieces, at > 0, word + at, n - at, &length);
        if (id < 0)
            return false;
        symbols[(*count)++] = id;
    }
    return true;
}
