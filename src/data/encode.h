/* Text to token ids, many documents at once: what deepseek-tokenize and a trainer given plain text
 * share. Pieces of text are gathered, encoded in parallel and handed on in their order. */
#ifndef DS_DATA_ENCODE_H
#define DS_DATA_ENCODE_H

#include "deepseek/data.h"
#include "deepseek/tokenizer.h"

typedef struct ds_encode_opts {
    bool plain;        /* special tokens spelled out in the text are ordinary text */
    int32_t end_token; /* goes behind each document; -1: none does */
    int threads;       /* 0: all */
    void (*progress)(void *context, const char *path, int64_t done_bytes, int64_t total_bytes);
    void *progress_context; /* bytes are those of one path, on disk */
} ds_encode_opts;

typedef struct ds_encode_counts {
    int64_t text_bytes, tokens, documents;
} ds_encode_counts;

/* Takes ids [n], n may be 0; they are the last of their document if it ends. */
typedef ds_status ds_token_sink(void *context, const int32_t *ids, size_t n, bool ends_document);

/* Encodes all documents of the paths (whatever ds_text_source_open takes), in order. counts may be
 * NULL. Fails as reading, encoding or the sink do. */
ds_status ds_encode_text(const ds_tokenizer *tok, const char *const *paths, size_t n_paths,
                         const ds_encode_opts *opts, ds_token_sink *sink, void *context,
                         ds_encode_counts *counts);

/* A sink whose context is a ds_indexed_writer. */
ds_token_sink ds_encode_to_writer;

/* Bytes that each token of this vocabulary needs in a token file: 2 or 4. */
int ds_encode_token_bytes(const ds_tokenizer *tok);

#endif
