/* Text to ids. Words repeat, so each thread at work keeps a table of the words it met last and
 * their tokens; what is in it costs a hash and a copy. Entries are one cache line: longer words are
 * rare and merged anew. */
#include "data/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

#define CACHE_BITS       14
#define CACHE_WORD_BYTES 30
#define CACHE_WORD_IDS   8
#define UNIGRAM_LIMIT    (1 << 30) /* places in a text are 32 bits */

typedef struct cached_word {
    uint8_t length, n; /* length 0: empty */
    char word[CACHE_WORD_BYTES];
    int32_t ids[CACHE_WORD_IDS];
} cached_word;

struct ds_scratch {
    ds_scratch *next;
    ds_matcher matcher;
    ds_merger merger;
    ds_lattice lattice;
    int32_t *symbols;
    size_t symbol_capacity;
    cached_word *cache; /* [1 << CACHE_BITS] */
};

typedef struct encoding {
    const ds_tokenizer *tok;
    ds_scratch *scratch;
    int32_t *ids;
    size_t n, capacity;
    bool plain; /* special tokens in the text are text */
    bool first; /* nothing of the input was encoded yet */
} encoding;

/* ---- Scratch memory ----------------------------------------------------------------------- */

void ds_scratch_free(ds_scratch *scratch) {
    while (scratch) {
        ds_scratch *next = scratch->next;
        ds_matcher_free(&scratch->matcher);
        ds_merger_free(&scratch->merger);
        free(scratch->lattice.nodes);
        free(scratch->symbols);
        free(scratch->cache);
        free(scratch);
        scratch = next;
    }
}

static ds_scratch *scratch_take(const ds_tokenizer *tok) {
    ds_tokenizer *owner = (ds_tokenizer *)tok; /* the list is not part of what a caller sees */
    pthread_mutex_lock(&owner->lock);
    ds_scratch *s = owner->idle;
    if (s)
        owner->idle = s->next;
    pthread_mutex_unlock(&owner->lock);
    if (s) {
        s->next = NULL;
        return s;
    }
    s = ds_calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->cache = ds_calloc((size_t)1 << CACHE_BITS, sizeof *s->cache);
    if (!s->cache || ds_matcher_init(&s->matcher) != DS_OK) {
        free(s->cache);
        free(s);
        return NULL;
    }
    return s;
}

static void scratch_give(const ds_tokenizer *tok, ds_scratch *s) {
    ds_tokenizer *owner = (ds_tokenizer *)tok;
    pthread_mutex_lock(&owner->lock);
    s->next = owner->idle;
    owner->idle = s;
    pthread_mutex_unlock(&owner->lock);
}

/* ---- One word ----------------------------------------------------------------------------- */

static ds_status put_ids(encoding *e, const int32_t *ids, size_t n) {
    if (e->n + n > e->capacity) {
        int32_t *grown = ds_grow(e->ids, &e->capacity, e->n + n, sizeof *grown);
        if (!grown)
            return DS_OUT_OF_MEMORY;
        e->ids = grown;
    }
    memcpy(e->ids + e->n, ids, n * sizeof *ids);
    e->n += n;
    return DS_OK;
}

static ds_status no_token(const char *bytes, size_t n) {
    char hex[16] = "";
    for (size_t i = 0; i < n && i < 4; i++)
        snprintf(hex + 3 * i, sizeof hex - 3 * i, "%s%02x", i ? " " : "", (unsigned char)bytes[i]);
    return ds_fail(DS_INVALID,
                   "the vocabulary has no token for the bytes %s and none for unknown text", hex);
}

/* The vocabulary's own letters for one character that may not be in it: bytes, or "unknown". */
static ds_status put_foreign(const encoding *e, const char *bytes, size_t n, int32_t *symbols,
                             size_t *count) {
    const ds_tokenizer *tok = e->tok;
    bool all = tok->byte_fallback;
    for (size_t i = 0; i < n; i++)
        all = all && tok->byte_ids[(unsigned char)bytes[i]] >= 0;
    if (all) {
        for (size_t i = 0; i < n; i++)
            symbols[(*count)++] = tok->byte_ids[(unsigned char)bytes[i]];
        return DS_OK;
    }
    if (tok->unknown < 0)
        return no_token(bytes, n);
    if (!(tok->fuse_unknown && *count > 0 && symbols[*count - 1] == tok->unknown))
        symbols[(*count)++] = tok->unknown;
    return DS_OK;
}

static ds_status symbols_of_word(encoding *e, const char *word, size_t n, int32_t *symbols,
                                 size_t *count) {
    const ds_tokenizer *tok = e->tok;
    *count = 0;
    if (tok->byte_level) {
        for (size_t i = 0; i < n; i++) {
            const int32_t id = tok->byte_ids[(unsigned char)word[i]];
            if (id >= 0)
                symbols[(*count)++] = id;
            else if (tok->unknown >= 0)
                symbols[(*count)++] = tok->unknown;
            else
                return no_token(word + i, 1);
        }
        return DS_OK;
    }
    for (size_t i = 0, length = 0; i < n; i += length) {
        length = ds_utf8_length(word + i, n - i);
        const int32_t id = ds_tokenizer_find_name(tok, word + i, length);
        if (id >= 0)
            symbols[(*count)++] = id;
        else
            DS_TRY(put_foreign(e, word + i, length, symbols, count));
    }
    return DS_OK;
}

/* The id of the whole word where the vocabulary has it, or -1. */
static int32_t whole_word(const ds_tokenizer *tok, const char *word, size_t n) {
    if (!tok->byte_level)
        return ds_tokenizer_find_name(tok, word, n);
    char name[512];
    size_t length = 0;
    if (n > sizeof name / 2)
        return -1; /* no vocabulary has a token that long */
    for (size_t i = 0; i < n; i++)
        length += ds_byte_to_char((unsigned char)word[i], name + length);
    return ds_tokenizer_find_name(tok, name, length);
}

static ds_status bpe_word(encoding *e, const char *word, size_t n, size_t *count) {
    ds_scratch *s = e->scratch;
    if (e->tok->ignore_merges) {
        s->symbols[0] = whole_word(e->tok, word, n);
        *count = 1;
        if (s->symbols[0] >= 0)
            return DS_OK;
    }
    DS_TRY(symbols_of_word(e, word, n, s->symbols, count));
    return ds_merge(&e->tok->merges, &s->merger, s->symbols, count);
}

static ds_status wordpiece_word(encoding *e, const char *word, size_t n, size_t *count) {
    if (ds_wordpiece_encode(e->tok, word, n, e->scratch->symbols, count))
        return DS_OK;
    if (e->tok->unknown < 0)
        return no_token(word, n);
    e->scratch->symbols[0] = e->tok->unknown;
    *count = 1;
    return DS_OK;
}

typedef struct piece_sink {
    const encoding *e;
    size_t *count;
} piece_sink;

static ds_status put_piece(void *context, const char *piece, size_t n, int32_t id) {
    const piece_sink *sink = context;
    int32_t *symbols = sink->e->scratch->symbols;
    if (id < 0)
        return put_foreign(sink->e, piece, n, symbols, sink->count);
    symbols[(*sink->count)++] = id;
    return DS_OK;
}

static ds_status unigram_word(encoding *e, const char *word, size_t n, size_t *count) {
    if (n > UNIGRAM_LIMIT)
        return ds_fail(DS_UNSUPPORTED, "a stretch of %zu bytes without a word boundary; at most %d",
                       n, UNIGRAM_LIMIT);
    piece_sink sink = {.e = e, .count = count};
    *count = 0;
    return ds_unigram_encode(e->tok, &e->scratch->lattice, word, n, put_piece, &sink);
}

/* Tokens of a word into the scratch's symbols; none has more than bytes. */
static ds_status tokens_of_word(encoding *e, const char *word, size_t n, size_t *count) {
    static ds_status (*const models[])(encoding *, const char *, size_t, size_t *) = {
        [DS_TOKENS_BPE] = bpe_word,
        [DS_TOKENS_WORDPIECE] = wordpiece_word,
        [DS_TOKENS_UNIGRAM] = unigram_word,
    };
    ds_scratch *s = e->scratch;
    if (n > s->symbol_capacity) {
        int32_t *grown = ds_grow(s->symbols, &s->symbol_capacity, n, sizeof *grown);
        if (!grown)
            return DS_OUT_OF_MEMORY;
        s->symbols = grown;
    }
    return models[e->tok->model](e, word, n, count);
}

static ds_status encode_word(void *context, const char *word, size_t n) {
    encoding *e = context;
    size_t count = 0;
    if (n == 0)
        return DS_OK;
    if (n > CACHE_WORD_BYTES) {
        DS_TRY(tokens_of_word(e, word, n, &count));
        return put_ids(e, e->scratch->symbols, count);
    }
    cached_word *c = &e->scratch->cache[ds_bytes_hash(word, n) >> (64 - CACHE_BITS)];
    if (c->length == n && memcmp(c->word, word, n) == 0)
        return put_ids(e, c->ids, c->n);
    DS_TRY(tokens_of_word(e, word, n, &count));
    if (count <= CACHE_WORD_IDS) {
        c->length = (uint8_t)n;
        c->n = (uint8_t)count;
        memcpy(c->word, word, n);
        memcpy(c->ids, e->scratch->symbols, count * sizeof *c->ids);
    }
    return put_ids(e, e->scratch->symbols, count);
}

/* ---- The whole text ----------------------------------------------------------------------- */

/* Text without added tokens, normalised. */
static ds_status encode_stretch(encoding *e, const char *text, size_t n) {
    while (n > 0) {
        const size_t valid = ds_utf8_valid(text, n);
        if (valid > 0) {
            DS_TRY(ds_tokenizer_split(e->tok, &e->scratch->matcher, text, valid, e->first,
                                      encode_word, e));
            e->first = false;
        }
        size_t bad = 0; /* bytes that are no UTF-8 are a word of their own */
        while (valid + bad < n &&
               (bad == 0 ||
                ds_utf8_valid(text + valid + bad, n - valid - bad < 4 ? n - valid - bad : 4) == 0))
            bad++;
        if (bad > 0)
            DS_TRY(encode_word(e, text + valid, bad));
        text += valid + bad;
        n -= valid + bad;
    }
    return DS_OK;
}

typedef ds_status stretch_fn(encoding *e, const char *text, size_t n);

/* Cuts the tokens of a set out of text; what lies between goes to fn. */
static ds_status encode_around(encoding *e, const ds_added_set *set, const char *text, size_t n,
                               stretch_fn *fn) {
    size_t done = 0;
    while (done < n) {
        size_t start = n, end = n;
        const ds_added *found = ds_added_next(set, text, n, done, e->plain, &start, &end);
        if (start > done)
            DS_TRY(fn(e, text + done, start - done));
        if (found) {
            DS_TRY(put_ids(e, &found->id, 1));
            e->first = false;
        }
        done = end;
    }
    return DS_OK;
}

static ds_status encode_raw_stretch(encoding *e, const char *text, size_t n) {
    if (e->tok->n_normalisers == 0)
        return encode_around(e, &e->tok->normalised, text, n, encode_stretch);
    ds_text normal = {0};
    ds_status status = ds_tokenizer_normalise(e->tok, &e->scratch->matcher, text, n, &normal);
    if (status == DS_OK && normal.length > 0)
        status = encode_around(e, &e->tok->normalised, normal.data, normal.length, encode_stretch);
    ds_text_clear(&normal);
    return status;
}

static ds_status encode(const ds_tokenizer *tok, const char *text, size_t length, bool plain,
                        int32_t **ids, size_t *n) {
    *ids = NULL;
    *n = 0;
    encoding e = {.tok = tok, .plain = plain, .first = true, .capacity = length / 3 + 4};
    e.ids = ds_malloc(e.capacity * sizeof *e.ids);
    e.scratch = e.ids ? scratch_take(tok) : NULL;
    if (!e.scratch) {
        free(e.ids);
        return DS_OUT_OF_MEMORY;
    }
    const ds_status status = encode_around(&e, &tok->raw, text, length, encode_raw_stretch);
    scratch_give(tok, e.scratch);
    if (status != DS_OK) {
        free(e.ids);
        return status;
    }
    *ids = e.ids;
    *n = e.n;
    return DS_OK;
}

ds_status ds_tokenizer_encode(const ds_tokenizer *tok, const char *text, size_t length,
                              int32_t **ids, size_t *n) {
    return encode(tok, text, length, false, ids, n);
}

ds_status ds_tokenizer_encode_plain(const ds_tokenizer *tok, const char *text, size_t length,
                                    int32_t **ids, size_t *n) {
    return encode(tok, text, length, true, ids, n);
}

ds_status ds_tokenizer_encode_marked(const ds_tokenizer *tok, const char *text, size_t length,
                                     size_t most, int32_t **ids, size_t *n) {
    int32_t *bare = NULL;
    size_t n_bare = 0;
    const ds_marks *m = &tok->marks;
    const size_t n_marks = m->n_before + m->n_after;
    *ids = NULL;
    *n = 0;
    if (most > 0 && most < n_marks)
        return ds_fail(DS_INVALID, "%zu tokens do not hold the %zu marks around a text", most,
                       n_marks);
    DS_TRY(encode(tok, text, length, false, &bare, &n_bare));
    if (most > 0 && n_bare > most - n_marks)
        n_bare = most - n_marks;
    int32_t *all = ds_malloc((n_bare + n_marks + 1) * sizeof *all);
    if (all) {
        memcpy(all, m->before, m->n_before * sizeof *all);
        memcpy(all + m->n_before, bare, n_bare * sizeof *all);
        memcpy(all + m->n_before + n_bare, m->after, m->n_after * sizeof *all);
        *ids = all;
        *n = n_bare + n_marks;
    }
    free(bare);
    return all ? DS_OK : DS_OUT_OF_MEMORY;
}
