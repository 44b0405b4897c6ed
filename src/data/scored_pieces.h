/* Vocabularies that give every token a score: SentencePiece's, and what llama.cpp and llama2.c made
 * of them. All are rewritten as the tokenizer.json that means the same. */
#ifndef DS_DATA_SCORED_PIECES_H
#define DS_DATA_SCORED_PIECES_H

#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

/* What a piece is, numbered as in SentencePiece's files. */
typedef enum ds_piece_kind {
    DS_PIECE_NORMAL = 1,
    DS_PIECE_UNKNOWN,
    DS_PIECE_CONTROL, /* a mark, never read out of a text */
    DS_PIECE_GIVEN,   /* a word that somebody asked for: always one token */
    DS_PIECE_UNUSED,
    DS_PIECE_BYTE, /* "<0x41>" */
} ds_piece_kind;

typedef struct ds_scored_piece {
    const char *bytes; /* borrowed */
    size_t length;
    float score;
    ds_piece_kind kind;
    int32_t id;
} ds_scored_piece;

typedef struct ds_scored_vocab {
    ds_scored_piece *pieces; /* [n], of ids 0, 1, 2, … */
    size_t n, capacity;
    bool is_unigram;               /* else byte-pair encoding: the highest score is merged first */
    bool byte_pieces;              /* characters without a piece are spelt in bytes */
    bool add_prefix;               /* a text begins as if a space stood before it */
    bool trim;                     /* no spaces at the ends, no two in a row */
    const unsigned char *charsmap; /* NULL: none */
    size_t charsmap_size;
    int32_t begin, end; /* marks to be put around a text; -1: none */
} ds_scored_vocab;

/* DS_OUT_OF_MEMORY. */
ds_status ds_scored_add(ds_scored_vocab *vocab, const char *bytes, size_t length, float score,
                        ds_piece_kind kind);

/* Appends the merges that join pieces of kind NORMAL, as items of a JSON list: every way to cut a
 * piece in two, those of the highest score first. The pieces are sorted on the way. */
ds_status ds_scored_put_merges(ds_scored_piece *pieces, size_t n, ds_text *json);

/* Appends the whole tokenizer.json. path is for messages. */
ds_status ds_scored_put_json(ds_scored_vocab *vocab, const char *path, ds_text *json);

/* Appends a JSON list of added tokens, one after the other: first tells whether it is the first. */
void ds_json_put_added(ds_text *json, const char *name, size_t length, int32_t id, bool special,
                       bool first);
/* Appends "post_processor": … with these tokens around a text; -1: none. */
void ds_json_put_marks(ds_text *json, const char *begin, size_t n_begin, const char *end,
                       size_t n_end);

#endif
