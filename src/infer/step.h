/* One pass of tokens of several sequences through a model with a cache in blocks. Programs exist
 * for a few numbers of tokens and are made when first needed; tokens that are missing to the next
 * one belong to nobody. */
#ifndef DS_INFER_STEP_H
#define DS_INFER_STEP_H

#include "infer/model.h"

typedef struct ds_stepper ds_stepper;

typedef struct ds_step_opts {
    int64_t most_tokens, most_rows, most_sequences, blocks_per_sequence;
    ds_paged_cache cache;
    ds_precision precision;
} ds_step_opts;

/* What goes through: arrays of opts.most_tokens, tables [most_sequences, blocks_per_sequence], rows
 * [most_rows]. */
typedef struct ds_step_batch {
    int64_t n_tokens, n_rows;
    int32_t *tokens, *positions, *owners, *slots;
    int32_t *tables;
    int32_t *rows; /* tokens whose logits are wanted */
} ds_step_batch;

ds_status ds_stepper_new(ds_model *model, ds_step_opts opts, ds_stepper **out);
void ds_stepper_free(ds_stepper *stepper);
/* The batch to fill; borrowed, the same every time. */
ds_step_batch *ds_stepper_batch(ds_stepper *stepper);
/* Runs it. *logits: [n_rows, vocab_size], borrowed until the next call; may be written to. */
ds_status ds_stepper_run(ds_stepper *stepper, float **logits);

#endif
