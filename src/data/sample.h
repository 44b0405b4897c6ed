/* One training sample out of a span of a token stream: the rows of a batch. A sample is a pure
 * function of (options, seed, global index), so any thread of any rank makes the same one. */
#ifndef DS_DATA_SAMPLE_H
#define DS_DATA_SAMPLE_H

#include "deepseek/data.h"

/* The part of one corpus that a loader uses, cut into blocks. */
typedef struct ds_sample_source {
    ds_indexed *data;
    int64_t begin, end;   /* tokens of the stream */
    int64_t block_tokens; /* from one sample's start to the next one's */
    int64_t samples;      /* per epoch */
    int64_t slack;        /* the blocks of an epoch start 0 … slack tokens after begin */
} ds_sample_source;

/* Rows of a batch that belong to one sample; each [seq_len] unless said. The last three are of
 * masked samples only. */
typedef struct ds_sample_rows {
    int32_t *tokens, *labels, *positions, *documents, *segment_ids;
    int32_t *length;        /* [1] */
    int32_t *next_sentence; /* [1] */
} ds_sample_rows;

/* A 64-bit key for one purpose out of the run's seed and two numbers. */
uint64_t ds_sample_key(uint64_t seed, const char *purpose, uint64_t a, uint64_t b);

/* Fills the rows with the sample of global index g, whose span starts at token `first`. Returns the
 * number of tokens to predict. */
int64_t ds_sample_causal(const ds_loader_opts *opts, const ds_sample_source *source, int64_t first,
                         ds_sample_rows rows);
int64_t ds_sample_masked(const ds_loader_opts *opts, const ds_sample_source *source, int64_t first,
                         int64_t g, ds_sample_rows rows);

#endif
