/* Inside of a tokenizer: what its files share.
 *
 * A text goes through four steps (tokenizer_encode.c): added tokens are cut out, the rest is
 * normalised, split into words, and each word is merged from bytes or characters to tokens. The
 * tables for all of this are made once, at loading (tokenizer_json.c), and never change. */
#ifndef DS_DATA_TOKENIZER_H
#define DS_DATA_TOKENIZER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/arena.h"
#include "base/text.h"
#include "data/charsmap.h"
#include "data/pair_map.h"
#include "data/piece_trie.h"
#include "deepseek/tokenizer.h"

/* An id past this is taken for damage: the tables are as long as the highest id. */
#define DS_TOKEN_ID_LIMIT (1 << 22)
#define DS_SPLIT_STAGES   16 /* most splits one after the other */

#define DS_MOST_MARKS 8 /* tokens put before a text, and after it */

extern const char ds_gpt2_pattern[];

typedef struct ds_token {
    const char *name; /* as in the vocabulary; NULL in a gap */
    const char *bytes;
    uint32_t name_length, bytes_length;
    float score; /* Unigram */
    bool special;
} ds_token;

/* A token that is looked for in the text before all else. */
typedef struct ds_added {
    const char *content; /* what stands in the text */
    size_t length;
    int32_t id;
    bool special, single_word, lstrip, rstrip;
} ds_added;

typedef struct ds_added_set {
    ds_added *items; /* [n], sorted by content */
    size_t n, capacity;
    bool begins[256]; /* which bytes a content can begin with */
} ds_added_set;

typedef enum ds_normaliser_kind {
    DS_NORMALISE_PREPEND,
    DS_NORMALISE_REPLACE,
    DS_NORMALISE_REGEX, /* matches of code are replaced by `to` */
    DS_NORMALISE_UNICODE,
    DS_NORMALISE_LOWERCASE,
    DS_NORMALISE_STRIP_ACCENTS, /* marks that are characters of their own go */
    DS_NORMALISE_STRIP,         /* white space at the ends goes */
    DS_NORMALISE_BERT,
    DS_NORMALISE_CHARSMAP,
} ds_normaliser_kind;

typedef struct ds_normaliser {
    ds_normaliser_kind kind;
    const char *from, *to;
    size_t from_length, to_length;
    pcre2_code *code;
    int unicode;                                            /* utf8proc's options */
    bool left, right;                                       /* ends to strip */
    bool clean, space_ideographs, strip_accents, lowercase; /* BERT */
    ds_charsmap charsmap;
} ds_normaliser;

typedef enum ds_split_kind {
    DS_SPLIT_REGEX,     /* at the matches of code */
    DS_SPLIT_PREFIX,    /* no split: a space before a text that has none */
    DS_SPLIT_METASPACE, /* spaces become `mark`, which begins a word if split */
    DS_SPLIT_BERT,      /* at white space, which goes, and around each punctuation mark */
    DS_SPLIT_WORDS,     /* where a mark follows something else */
} ds_split_kind;

typedef enum ds_split_keep { DS_KEEP_ALL, DS_KEEP_GAPS, DS_KEEP_MATCHES } ds_split_keep;

typedef enum ds_prepend { DS_PREPEND_NEVER, DS_PREPEND_FIRST, DS_PREPEND_ALWAYS } ds_prepend;

typedef struct ds_split {
    ds_split_kind kind;
    pcre2_code *code;
    ds_split_keep keep;
    const char *mark; /* metaspace */
    size_t mark_length;
    ds_prepend prepend;
    bool cut; /* metaspace: every mark begins a new word */
} ds_split;

typedef enum ds_token_model {
    DS_TOKENS_BPE,
    DS_TOKENS_WORDPIECE,
    DS_TOKENS_UNIGRAM,
} ds_token_model;

/* Tokens that a model expects around a text. */
typedef struct ds_marks {
    int32_t before[DS_MOST_MARKS], after[DS_MOST_MARKS];
    size_t n_before, n_after;
} ds_marks;

typedef struct ds_scratch ds_scratch;

struct ds_tokenizer {
    ds_token_model model;
    ds_arena *arena; /* all names and contents */
    ds_token *tokens;
    size_t n, token_capacity; /* n: highest id + 1 */
    int32_t *name_slots;      /* [name_mask + 1], ids by the hash of their name; -1: empty */
    size_t name_mask;
    ds_pair_map merges;     /* pair → rank << 32 | id of both joined */
    ds_piece_trie pieces;   /* WordPiece: of beginnings, and of what may go on; Unigram: of all */
    const char *continuing; /* WordPiece: what marks the latter: "##" */
    size_t continuing_length, longest_word; /* longest_word: in characters */
    float unknown_score;                    /* Unigram */
    int32_t byte_ids[256];
    bool byte_level, byte_fallback, fuse_unknown, ignore_merges;
    int32_t unknown, bos, eos;
    ds_marks marks;
    ds_normaliser *normalisers;
    size_t n_normalisers, normaliser_capacity;
    ds_split splits[DS_SPLIT_STAGES];
    size_t n_splits;
    ds_added_set raw, normalised; /* looked for before and after normalising */
    size_t strip_spaces;          /* leading spaces that decoding takes away */
    char *json;                   /* the tokenizer.json; saving writes it back */
    size_t json_size;
    pthread_mutex_t lock;
    ds_scratch *idle; /* scratch memory of finished calls, for the next ones */
};

/* ---- tokenizer.c -------------------------------------------------------------------------- */

/* UTF-8 of the character that stands for a byte in a byte-level vocabulary (2 bytes at most) and
 * the byte for a character, -1 if it stands for none. */
size_t ds_byte_to_char(unsigned char byte, char out[2]);
int ds_char_to_byte(uint32_t character);

/* The id with this name, or -1. */
int32_t ds_tokenizer_find_name(const ds_tokenizer *tok, const char *name, size_t length);

/* Decodes the valid character at text; *length is its bytes. */
uint32_t ds_utf8_char(const char *text, size_t *length);
/* Bytes of the character at text; 1 for a byte that begins none. n > 0. */
size_t ds_utf8_length(const char *text, size_t n);

uint64_t ds_bytes_hash(const char *bytes, size_t n);

/* ---- tokenizer_split.c -------------------------------------------------------------------- */

/* A compiled pattern (UTF, Unicode classes, just-in-time where that works). Free by
 * pcre2_code_free. `what` names the place for the message. */
ds_status ds_pattern_compile(const char *pattern, size_t length, const char *what,
                             pcre2_code **out);

/* What a thread needs to match. */
typedef struct ds_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
} ds_matcher;

ds_status ds_matcher_init(ds_matcher *m);
void ds_matcher_free(ds_matcher *m);

/* The first match at or after *from in valid UTF-8: [*from, *to), never empty. *from = n if none.
 */
ds_status ds_matcher_next(ds_matcher *m, const pcre2_code *code, const char *text, size_t n,
                          size_t *from, size_t *to);

/* Takes a word; a failure ends the splitting. */
typedef ds_status ds_word_fn(void *context, const char *word, size_t n);

/* Splits text by the tokenizer's stages. first: the text begins the input. */
ds_status ds_tokenizer_split(const ds_tokenizer *tok, ds_matcher *m, const char *text, size_t n,
                             bool first, ds_word_fn *fn, void *context);

/* ---- tokenizer_added.c -------------------------------------------------------------------- */

ds_status ds_added_insert(ds_added_set *set, const ds_added *item);
void ds_added_sort(ds_added_set *set);

/* The leftmost, there the longest, added token at or after `from`; NULL if none. [*start, *end) is
 * what it takes of the text, with the spaces it swallows. plain: special ones do not count. */
const ds_added *ds_added_next(const ds_added_set *set, const char *text, size_t n, size_t from,
                              bool plain, size_t *start, size_t *end);

/* ---- tokenizer_encode.c ------------------------------------------------------------------- */

void ds_scratch_free(ds_scratch *scratch); /* the whole list */

/* ---- tokenizer_normalise.c ---------------------------------------------------------------- */

/* Appends the normalised text to out. */
ds_status ds_tokenizer_normalise(const ds_tokenizer *tok, ds_matcher *m, const char *text, size_t n,
                                 ds_text *out);

/* ---- tokenizer_bert.c --------------------------------------------------------------------- */

/* Appends text (valid UTF-8) as BERT's basic tokenizer leaves it. */
ds_status ds_bert_normalise(const ds_normaliser *step, const char *text, size_t n, ds_text *out);
/* What a character is to it. */
typedef enum ds_bert_class { DS_BERT_LETTER, DS_BERT_SPACE, DS_BERT_MARK } ds_bert_class;
ds_bert_class ds_bert_class_of(uint32_t character);
/* Lower case of a character: one, or two of them (of "İ"); returns how many. */
size_t ds_lower_case(uint32_t character, uint32_t out[2]);
void ds_text_put_char(ds_text *out, uint32_t character);
bool ds_is_white_space(uint32_t character);

/* ---- tokenizer_wordpiece.c ---------------------------------------------------------------- */

/* Makes tok->pieces of the vocabulary. */
ds_status ds_wordpiece_index(ds_tokenizer *tok);
/* symbols: room for n. False: the word is unknown. */
bool ds_wordpiece_encode(const ds_tokenizer *tok, const char *word, size_t n, int32_t *symbols,
                         size_t *count);

/* ---- tokenizer_unigram.c ------------------------------------------------------------------ */

typedef struct ds_lattice_node ds_lattice_node;
typedef struct ds_lattice {
    ds_lattice_node *nodes; /* one for each place between bytes */
    size_t capacity;
} ds_lattice;

/* Takes a piece of the text; id -1: a character without one. */
typedef ds_status ds_piece_fn(void *context, const char *piece, size_t n, int32_t id);

ds_status ds_unigram_index(ds_tokenizer *tok);
ds_status ds_unigram_encode(const ds_tokenizer *tok, ds_lattice *l, const char *text, size_t n,
                            ds_piece_fn *fn, void *context);

/* ---- tokenizer_merge.c -------------------------------------------------------------------- */

typedef struct ds_merger {
    int32_t *next, *previous; /* [capacity] */
    uint64_t *heap;
    size_t capacity, heap_capacity;
} ds_merger;

void ds_merger_free(ds_merger *m);

/* Merges ids[*n] in place until no pair of neighbours is in the table. O(n log n). */
ds_status ds_merge(const ds_pair_map *merges, ds_merger *m, int32_t *ids, size_t *n);

/* ---- tokenizer_legacy.c ------------------------------------------------------------------- */

/* The text of a tokenizer.json made of GPT-2's two files, or of a llama2.c tokenizer. */
ds_status ds_tokenizer_json_from_gpt2(const char *vocab_path, const char *merges_path,
                                      ds_text *json);
ds_status ds_tokenizer_json_from_llama2c(const char *path, const char *data, size_t size,
                                         ds_text *json);

/* ---- tokenizer_wordlist.c, tokenizer_sentencepiece.c, tokenizer_gguf.c --------------------- */

/* The text of a tokenizer.json made of BERT's vocab.txt (config: tokenizer_config.json's text or
 * NULL), of SentencePiece's .model, of the vocabulary in a GGUF file. */
ds_status ds_tokenizer_json_from_wordlist(const char *path, const char *data, size_t size,
                                          const char *config, ds_text *json);
ds_status ds_tokenizer_json_from_sentencepiece(const char *path, const unsigned char *data,
                                               size_t size, ds_text *json);
struct ds_gguf;
ds_status ds_tokenizer_json_from_gguf(const struct ds_gguf *file, ds_text *json);

/* Appends bytes as a JSON string. They must be UTF-8. */
void ds_json_put_string(ds_text *json, const char *bytes, size_t n);

#endif
