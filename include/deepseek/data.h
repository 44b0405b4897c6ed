/* The data room: text files to documents, documents to token files, token files to batches.
 *
 *     ds_indexed *corpus;
 *     if (ds_indexed_open("run/bible", &corpus) != DS_OK)
 *         fprintf(stderr, "%s\n", ds_error());
 *     int32_t ids[16];
 *     ds_indexed_read(corpus, 0, 16, ids); // the first 16 tokens of the stream
 *     ds_indexed_close(corpus);
 *
 * and a loader over it:
 *
 *     const ds_loader_source source = {.path = "run/bible", .weight = 1};
 *     const ds_loader_opts opts = {
 *         .sources = &source, .n_sources = 1, .seq_len = 256, .vocab_size = 8192, .seed = 1};
 *     ds_loader *loader;
 *     const ds_batch *batch;
 *     ds_loader_open(&opts, &loader);
 *     ds_loader_next(loader, 8, &batch); // batch->tokens: [8, 256]
 *
 * Terms. A document is one text: a file, or one line of a .jsonl file. An indexed dataset is
 * Megatron-LM's pair of files: PREFIX.bin holds the token ids of all documents end to end (the
 * stream), PREFIX.idx says where each document starts. Both are memory-mapped, never loaded whole.
 */
#ifndef DEEPSEEK_DATA_H
#define DEEPSEEK_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "deepseek/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Text sources ------------------------------------------------------------------------- */

typedef struct ds_text_source ds_text_source;

/* Opens a file or a folder as a sequence of documents:
 *   .txt     one document per file (a name with an unknown ending counts as .txt when it is
 *            given by itself; inside a folder it is passed over)
 *   .jsonl   one document per line: the string under "text"; other keys are ignored
 *   .gz      of either (.txt.gz, .jsonl.gz)
 *   folder   all of these below it, in the byte order of their paths
 * A folder without any such file is DS_NOT_FOUND. Close with ds_text_source_close. */
DS_API ds_status ds_text_source_open(const char *path, ds_text_source **out);

/* The next piece of text: *length bytes at *text, UTF-8 as found in the file (a leading byte order
 * mark is dropped), not zero-terminated by contract. Borrowed: valid until the next call on the
 * source. At the end *text is NULL and *length 0, with DS_OK. Empty documents are passed over.
 * A .txt larger than a few MiB comes in several pieces, cut at a line end where there is one
 * (ds_text_source_continues tells), so memory stays bounded.
 * Fails with DS_INVALID naming "file:line" for a line that is not a JSON object with a string under
 * "text", DS_CORRUPT for damaged gzip data, DS_IO. After a failure the source is at its end. */
DS_API ds_status ds_text_source_next(ds_text_source *source, const char **text, size_t *length);

/* True when the piece last returned is not the end of its document: the next piece goes on with the
 * same document, so no end-of-text token belongs between them. */
DS_API bool ds_text_source_continues(const ds_text_source *source);

/* Bytes consumed so far and in all, as they lie on disk (compressed where they are), for progress.
 * Either pointer may be NULL. */
DS_API void ds_text_source_progress(const ds_text_source *source, int64_t *done_bytes,
                                    int64_t *total_bytes);

/* When the newest of its files was last written, nanoseconds since 1970. */
DS_API int64_t ds_text_source_modified(const ds_text_source *source);

/* NULL is fine. */
DS_API void ds_text_source_close(ds_text_source *source);

/* ---- Indexed datasets: writing ------------------------------------------------------------ */

typedef struct ds_indexed_writer ds_indexed_writer;

/* Begins PREFIX.bin and PREFIX.idx (Megatron-LM's layout, version 1). token_bytes is 2 (ids below
 * 65536) or 4. A ".bin" or ".idx" at the end of prefix is dropped. Nothing at PREFIX changes before
 * ds_indexed_writer_close. Not thread-safe. */
DS_API ds_status ds_indexed_writer_open(const char *prefix, int token_bytes,
                                        ds_indexed_writer **out);

/* Appends n tokens as one document, which may be empty. ids: [n]. An id below 0 or too large for
 * token_bytes is DS_INVALID; DS_IO when the disk refuses. After a failure only abandon is of use.
 */
DS_API ds_status ds_indexed_writer_add_document(ds_indexed_writer *writer, const int32_t *ids,
                                                size_t n);

/* The same in pieces: tokens join the open document until it is ended. */
DS_API ds_status ds_indexed_writer_add_tokens(ds_indexed_writer *writer, const int32_t *ids,
                                              size_t n);
DS_API ds_status ds_indexed_writer_end_document(ds_indexed_writer *writer);

/* Tokens and documents added so far. */
DS_API int64_t ds_indexed_writer_tokens(const ds_indexed_writer *writer);
DS_API int64_t ds_indexed_writer_documents(const ds_indexed_writer *writer);

/* Ends an open document, syncs both files and puts them in place of what was at PREFIX. Frees the
 * writer whatever the outcome; on failure the former pair is still there. */
DS_API ds_status ds_indexed_writer_close(ds_indexed_writer *writer);

/* Drops everything added and frees the writer; the former pair stays. NULL is fine. */
DS_API void ds_indexed_writer_abandon(ds_indexed_writer *writer);

/* ---- Indexed datasets: reading ------------------------------------------------------------ */

typedef struct ds_indexed ds_indexed;

/* Maps PREFIX.bin and PREFIX.idx and checks the whole index: magic, version, token type, order and
 * range of all pointers, lengths against the size of the .bin. DS_CORRUPT names the file, the entry
 * and what it should be. Integer token types of 1, 2, 4 and 8 bytes are read. Reading is
 * thread-safe. */
DS_API ds_status ds_indexed_open(const char *prefix, ds_indexed **out);

DS_API const char *ds_indexed_path(const ds_indexed *data); /* the .bin; borrowed */
DS_API int64_t ds_indexed_tokens(const ds_indexed *data);   /* length of the stream */
DS_API int64_t ds_indexed_documents(const ds_indexed *data);
DS_API int ds_indexed_token_bytes(const ds_indexed *data);

/* Document i is tokens [*first, *first + *length) of the stream; DS_INVALID when i is out of range.
 * Either pointer may be NULL. */
DS_API ds_status ds_indexed_document(const ds_indexed *data, int64_t i, int64_t *first,
                                     int64_t *length);

/* The document that holds token t of the stream; t in [0, tokens). O(log documents). */
DS_API int64_t ds_indexed_document_of(const ds_indexed *data, int64_t t);

/* Copies tokens [first, first + count) of the stream to ids [count]. DS_INVALID when the range is
 * not inside the stream. A stored value that does not fit int32 reads as -1. */
DS_API ds_status ds_indexed_read(const ds_indexed *data, int64_t first, int64_t count,
                                 int32_t *ids);

/* Refuses ids outside [0, vocab_size): DS_INVALID with the token's place, its document and its
 * value. Scans the stream once on all threads, at memory or disk speed; the result is kept, so that
 * later calls on the same handle are free. */
DS_API ds_status ds_indexed_check_vocab(ds_indexed *data, int64_t vocab_size);

/* NULL is fine. */
DS_API void ds_indexed_close(ds_indexed *data);

/* ---- Batches -------------------------------------------------------------------------------- */

enum { DS_LABEL_IGNORED = -100 }; /* a label that counts for nothing */

/* One corpus of a mixture. */
typedef struct ds_loader_source {
    const char *path; /* PREFIX of an indexed dataset */
    double weight;    /* share of the samples, relative to the others; above 0 */
} ds_loader_source;

typedef struct ds_loader_opts {
    const ds_loader_source *sources; /* [n_sources] */
    size_t n_sources;
    int64_t seq_len;    /* tokens a sample */
    int64_t vocab_size; /* ids at or above it are refused at opening */
    uint64_t seed;
    double validation_fraction; /* of each source's tokens, at the end of its stream, held out */
    bool validation;            /* read what is held out instead of the rest */
    bool masked;                /* masked language modelling with sentence pairs (BERT) */
    double mask_probability;    /* 0: 0.15 */
    int32_t mask_token, cls_token, sep_token; /* of masked */
    int32_t pad_token;    /* of masked: behind pairs that are short; 0 as in BERT's vocabularies */
    bool single_span;     /* masked: [CLS] span [SEP] without pairs */
    bool sequential;      /* samples in the order of the text, not shuffled */
    bool reset_positions; /* positions start at 0 with each document */
    bool no_prefetch;     /* make batches in the calling thread only */
} ds_loader_opts;

/* Samples first_sample … first_sample + batch - 1 of the run; borrowed from the loader until its
 * next call. All arrays row-major. */
typedef struct ds_batch {
    int64_t batch, seq_len;
    int32_t *tokens;        /* [batch, seq_len] */
    int32_t *labels;        /* [batch, seq_len]: the token to predict at each place; -100: none */
    int32_t *segment_ids;   /* masked: [batch, seq_len], 0 first sentence, 1 second; else NULL */
    int32_t *lengths;       /* masked: [batch] tokens that are no padding; else NULL */
    int32_t *next_sentence; /* masked: [batch], 0: the second follows the first; 1: it does not;
                               -100: there are no pairs; else NULL */
    int64_t n_predicted;    /* labels that are not -100 */
    int32_t *positions;     /* [batch, seq_len] */
    int32_t *documents;     /* [batch, seq_len] 0, 1, …: which document of the sample */
    int64_t first_sample;
} ds_batch;

typedef struct ds_loader ds_loader;

/* Opens the sources and serves them as samples in one global order: sample number i of the run
 * follows from i, the seed and the sources alone, whatever the batch sizes and the number of ranks.
 * Sources take turns in proportion to their weights (exact to 1/16384). Each is a sequence of
 * epochs; in an epoch each of its samples comes once, shuffled by a keyed permutation that takes no
 * memory. The loader's whole state is the number of samples consumed.
 *   causal: samples are blocks of seq_len tokens, and the one behind as the last label, end to end
 *     through all documents. Each epoch shifts the blocks so that cuts differ (with 32 samples or
 *     more, unless sequential).
 *   masked: [CLS] A [SEP] B [SEP]. A, and B when it follows A, lie in one document; what is shorter
 *     than seq_len is padded at its end.
 * The part held out is the tail of each stream: validation_fraction of its tokens, at least one
 * sample, begun at the next document start when that keeps half of it. It depends neither on the
 * seed nor on the order.
 * First all ids are compared with vocab_size (a note goes to the log when that takes a while).
 * DS_INVALID for an id, option or weight out of range, or a source with less than one sample;
 * DS_CORRUPT and DS_NOT_FOUND as ds_indexed_open. */
DS_API ds_status ds_loader_open(const ds_loader_opts *opts, ds_loader **out);
/* NULL is fine. */
DS_API void ds_loader_close(ds_loader *loader);
/* Samples in one epoch of all sources. */
DS_API int64_t ds_loader_samples(const ds_loader *loader);
/* The next sample to come is number i of the run. */
DS_API ds_status ds_loader_seek(ds_loader *loader, int64_t i);
DS_API int64_t ds_loader_position(const ds_loader *loader);
/* The next n samples; n may differ from call to call. A thread prepares the batch that follows
 * meanwhile, guessing the same n. */
DS_API ds_status ds_loader_next(ds_loader *loader, int64_t n, const ds_batch **out);
/* One rank's share of the next global_batch samples: [first, first + n) of them; n may be 0. The
 * position moves on by global_batch on every rank. */
DS_API ds_status ds_loader_next_share(ds_loader *loader, int64_t global_batch, int64_t first,
                                      int64_t n, const ds_batch **out);
/* Where sample i of the run lies: its source, that source's epoch, and the first token of its block
 * in the stream. Any pointer may be NULL. */
DS_API void ds_loader_where(const ds_loader *loader, int64_t i, size_t *source, int64_t *epoch,
                            int64_t *first_token);

#ifdef __cplusplus
}
#endif
#endif
