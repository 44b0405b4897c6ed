#include "data/encode.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

enum { BATCH_PIECES = 64 };            /* encoded at once, one per thread */
#define BATCH_BYTES ((size_t)64 << 20) /* but no more text than this */

typedef struct piece {
    char *text;
    size_t length;
    bool continues; /* the next piece belongs to the same document */
    int32_t *ids;
    size_t n;
    ds_status status;
    char error[512];
} piece;

typedef struct encoder {
    const ds_tokenizer *tok;
    const ds_encode_opts *opts;
    ds_token_sink *sink;
    void *context;
    ds_encode_counts counts;
    size_t n_pieces, batch_bytes;
    piece pieces[BATCH_PIECES];
} encoder;

static void encode_piece(const encoder *e, piece *p) {
    p->status = e->opts->plain
                    ? ds_tokenizer_encode_plain(e->tok, p->text, p->length, &p->ids, &p->n)
                    : ds_tokenizer_encode(e->tok, p->text, p->length, &p->ids, &p->n);
    if (p->status != DS_OK) /* the message belongs to this thread */
        snprintf(p->error, sizeof p->error, "%s", ds_error());
}

static ds_status hand_on(encoder *e, const piece *p) {
    const bool has_mark = !p->continues && e->opts->end_token >= 0;
    e->counts.tokens += (int64_t)p->n + has_mark;
    e->counts.documents += !p->continues;
    DS_TRY(e->sink(e->context, p->ids, p->n, !p->continues && !has_mark));
    return has_mark ? e->sink(e->context, &e->opts->end_token, 1, true) : DS_OK;
}

/* Encodes the pieces gathered, all at once, and hands them on in order. */
static ds_status flush(encoder *e) {
    const int threads = e->opts->threads > 0 ? e->opts->threads : omp_get_max_threads();
    ds_status status = DS_OK;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t i = 0; i < e->n_pieces; i++)
        encode_piece(e, &e->pieces[i]);
    for (size_t i = 0; i < e->n_pieces; i++) {
        piece *p = &e->pieces[i];
        if (status == DS_OK && p->status != DS_OK)
            status = ds_fail(p->status, "%s", p->error);
        if (status == DS_OK)
            status = hand_on(e, p);
        e->counts.text_bytes += (int64_t)p->length;
        free(p->text);
        free(p->ids);
    }
    e->n_pieces = 0;
    e->batch_bytes = 0;
    return status;
}

static ds_status add_piece(encoder *e, const char *text, size_t length, bool continues) {
    piece *p = &e->pieces[e->n_pieces];
    *p = (piece){.length = length, .continues = continues, .text = ds_malloc(length)};
    if (!p->text)
        return DS_OUT_OF_MEMORY;
    memcpy(p->text, text, length);
    e->n_pieces++;
    e->batch_bytes += length;
    return e->n_pieces == BATCH_PIECES || e->batch_bytes >= BATCH_BYTES ? flush(e) : DS_OK;
}

static ds_status encode_path(encoder *e, const char *path) {
    ds_text_source *source = NULL;
    DS_TRY(ds_text_source_open(path, &source));
    ds_status status = DS_OK;
    while (status == DS_OK) {
        const char *text = NULL;
        size_t length = 0;
        int64_t done = 0, total = 0;
        status = ds_text_source_next(source, &text, &length);
        if (status != DS_OK || !text)
            break;
        status = add_piece(e, text, length, ds_text_source_continues(source));
        ds_text_source_progress(source, &done, &total);
        if (e->opts->progress)
            e->opts->progress(e->opts->progress_context, path, done, total);
    }
    ds_text_source_close(source);
    return status;
}

ds_status ds_encode_text(const ds_tokenizer *tok, const char *const *paths, size_t n_paths,
                         const ds_encode_opts *opts, ds_token_sink *sink, void *context,
                         ds_encode_counts *counts) {
    encoder *e = ds_calloc(1, sizeof *e);
    if (!e)
        return DS_OUT_OF_MEMORY;
    *e = (encoder){.tok = tok, .opts = opts, .sink = sink, .context = context};
    ds_status status = DS_OK;
    for (size_t i = 0; i < n_paths && status == DS_OK; i++)
        status = encode_path(e, paths[i]);
    if (status == DS_OK)
        status = flush(e);
    for (size_t i = 0; i < e->n_pieces; i++)
        free(e->pieces[i].text); /* gathered before a failure */
    if (counts)
        *counts = e->counts;
    free(e);
    return status;
}

ds_status ds_encode_to_writer(void *context, const int32_t *ids, size_t n, bool ends_document) {
    DS_TRY(ds_indexed_writer_add_tokens(context, ids, n));
    return ends_document ? ds_indexed_writer_end_document(context) : DS_OK;
}

int ds_encode_token_bytes(const ds_tokenizer *tok) {
    return ds_tokenizer_vocab_size(tok) <= 65536 ? 2 : 4;
}
