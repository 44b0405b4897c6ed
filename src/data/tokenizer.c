/* The tokenizer as a table of tokens: names, bytes, special ones; and the letters that stand for
 * bytes. A byte-level vocabulary (GPT-2) writes each byte as a visible character: printable Latin-1
 * as itself, the other 68 bytes as U+0100 and up, in order. */
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"

static bool byte_is_visible(int b) {
    return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
}

size_t ds_byte_to_char(unsigned char byte, char out[2]) {
    uint32_t c = byte;
    if (!byte_is_visible(byte)) {
        c = 0x100;
        for (int b = 0; b < byte; b++)
            c += !byte_is_visible(b);
    }
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xc0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3f));
    return 2;
}

int ds_char_to_byte(uint32_t character) {
    if (character < 0x100)
        return byte_is_visible((int)character) ? (int)character : -1;
    uint32_t next = 0x100;
    for (int b = 0; b < 0x100; b++)
        if (!byte_is_visible(b) && next++ == character)
            return b;
    return -1;
}

uint32_t ds_utf8_char(const char *text, size_t *length) {
    const unsigned char *s = (const unsigned char *)text;
    if (s[0] < 0x80) {
        *length = 1;
        return s[0];
    }
    const size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    uint32_t c = s[0] & (0x7fU >> n);
    for (size_t i = 1; i < n; i++)
        c = c << 6 | (s[i] & 0x3f);
    *length = n;
    return c;
}

size_t ds_utf8_length(const char *text, size_t n) {
    size_t length = 1;
    if ((unsigned char)text[0] >= 0x80 && ds_utf8_valid(text, n < 4 ? n : 4) > 0)
        (void)ds_utf8_char(text, &length);
    return length;
}

uint64_t ds_bytes_hash(const char *bytes, size_t n) {
    uint64_t h = n * UINT64_C(0x9e3779b97f4a7c15), part = 0;
    for (; n > 8; bytes += 8, n -= 8) {
        memcpy(&part, bytes, 8);
        h = (h ^ part) * UINT64_C(0xff51afd7ed558ccd);
        h ^= h >> 32;
    }
    part = 0;
    memcpy(&part, bytes, n);
    h = (h ^ part) * UINT64_C(0xff51afd7ed558ccd);
    h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return h ^ h >> 33;
}

int32_t ds_tokenizer_find_name(const ds_tokenizer *tok, const char *name, size_t length) {
    for (size_t at = ds_bytes_hash(name, length) & tok->name_mask;;
         at = (at + 1) & tok->name_mask) {
        const int32_t id = tok->name_slots[at];
        if (id < 0)
            return -1;
        const ds_token *t = &tok->tokens[id];
        if (t->name_length == length && memcmp(t->name, name, length) == 0)
            return id;
    }
}

int64_t ds_tokenizer_vocab_size(const ds_tokenizer *tok) {
    return (int64_t)tok->n;
}

int32_t ds_tokenizer_find(const ds_tokenizer *tok, const char *name) {
    return ds_tokenizer_find_name(tok, name, strlen(name));
}

int32_t ds_tokenizer_bos(const ds_tokenizer *tok) {
    return tok->bos;
}

int32_t ds_tokenizer_eos(const ds_tokenizer *tok) {
    return tok->eos;
}

bool ds_tokenizer_is_special(const ds_tokenizer *tok, int32_t id) {
    return id >= 0 && (size_t)id < tok->n && tok->tokens[id].special;
}

const char *ds_tokenizer_bytes(const ds_tokenizer *tok, int32_t id, size_t *length) {
    if (id < 0 || (size_t)id >= tok->n || !tok->tokens[id].name) {
        *length = 0;
        return NULL;
    }
    *length = tok->tokens[id].bytes_length;
    return tok->tokens[id].bytes;
}

ds_status ds_tokenizer_save(const ds_tokenizer *tok, const char *path) {
    return ds_file_replace(path, tok->json, tok->json_size);
}

void ds_tokenizer_free(ds_tokenizer *tok) {
    if (!tok)
        return;
    ds_scratch_free(tok->idle);
    for (size_t i = 0; i < tok->n_splits; i++)
        pcre2_code_free(tok->splits[i].code);
    for (size_t i = 0; i < tok->n_normalisers; i++)
        pcre2_code_free(tok->normalisers[i].code);
    ds_pair_map_free(&tok->merges);
    ds_piece_trie_free(&tok->pieces);
    free(tok->tokens);
    free(tok->name_slots);
    free(tok->normalisers);
    free(tok->raw.items);
    free(tok->normalised.items);
    free(tok->json);
    ds_arena_free(tok->arena);
    pthread_mutex_destroy(&tok->lock);
    free(tok);
}
