/* Micro-batches of a step, copied out of the loader. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "train/trainer.h"

ds_status ds_step_batch_new(const ds_trainer *t, ds_step_batch *out) {
    const size_t samples = (size_t)(t->max_micro * t->micro_batch);
    const size_t n = samples * (size_t)t->seq_len;
    const bool is_bert = t->model.architecture == DS_BERT;
    *out = (ds_step_batch){.tokens = ds_malloc(n * sizeof(int32_t)),
                           .labels = ds_malloc(n * sizeof(int32_t))};
    bool whole = out->tokens && out->labels;
    if (is_bert) {
        out->segment_ids = ds_malloc(n * sizeof(int32_t));
        out->lengths = ds_malloc(samples * sizeof(int32_t));
        out->next_sentence = ds_malloc(samples * sizeof(int32_t));
        whole = whole && out->segment_ids && out->lengths && out->next_sentence;
    }
    if (t->config->data.reset_positions)
        whole = (out->positions = ds_malloc(n * sizeof(int32_t))) != NULL && whole;
    if (t->config->data.mask_documents)
        whole = (out->first_keys = ds_malloc(n * sizeof(int32_t))) != NULL && whole;
    if (whole)
        return DS_OK;
    ds_step_batch_free(out);
    return DS_OUT_OF_MEMORY;
}

void ds_step_batch_free(ds_step_batch *batch) {
    free(batch->tokens);
    free(batch->labels);
    free(batch->segment_ids);
    free(batch->lengths);
    free(batch->next_sentence);
    free(batch->positions);
    free(batch->first_keys);
    *batch = (ds_step_batch){0};
}

static void copy_rows(int32_t *to, const int32_t *from, int64_t at, int64_t n) {
    if (to && from)
        memcpy(to + at, from, (size_t)n * sizeof *to);
}

/* Where the document of each token begins in its sample. */
static void mark_first_keys(const ds_batch *b, int32_t *first_keys) {
    for (int64_t i = 0; i < b->batch * b->seq_len; i++) {
        const int64_t place = i % b->seq_len;
        const bool begins = place == 0 || b->documents[i] != b->documents[i - 1];
        first_keys[i] = begins ? (int32_t)place : first_keys[i - 1];
    }
}

ds_status ds_step_batch_fill(ds_trainer *t, ds_loader *loader, int n_micro, ds_step_batch *batch) {
    const bool is_shared = loader == t->train_data;
    const int64_t n_ranks = is_shared ? ds_trainer_n_ranks(t) : 1;
    const int64_t rank = is_shared ? ds_trainer_rank(t) : 0;
    batch->n_predicted = 0;
    for (int i = 0; i < n_micro; i++) {
        const ds_batch *b = NULL;
        DS_TRY(ds_loader_next_share(loader, n_ranks * t->micro_batch, rank * t->micro_batch,
                                    t->micro_batch, &b));
        const int64_t first = i * t->micro_batch, n = t->micro_batch * t->seq_len;
        copy_rows(batch->tokens, b->tokens, first * t->seq_len, n);
        copy_rows(batch->labels, b->labels, first * t->seq_len, n);
        copy_rows(batch->segment_ids, b->segment_ids, first * t->seq_len, n);
        copy_rows(batch->lengths, b->lengths, first, t->micro_batch);
        copy_rows(batch->next_sentence, b->next_sentence, first, t->micro_batch);
        copy_rows(batch->positions, b->positions, first * t->seq_len, n);
        if (batch->first_keys)
            mark_first_keys(b, batch->first_keys + first * t->seq_len);
        batch->n_predicted += b->n_predicted;
    }
    return DS_OK;
}

ds_status ds_step_batch_write(const ds_trainer *t, const ds_step_batch *batch, int i,
                              float tokens_per_sample, ds_program *program) {
    const struct {
        const char *input;
        const int32_t *values; /* NULL: the model has no such input */
        int64_t per_sample;
    } inputs[] = {
        {"tokens", batch->tokens, t->seq_len},
        {"labels", batch->labels, t->seq_len},
        {"segment_ids", batch->segment_ids, t->seq_len},
        {"lengths", batch->lengths, 1},
        {"next_sentence", batch->next_sentence, 1},
        {"positions", batch->positions, t->seq_len},
        {"first_keys", batch->first_keys, t->seq_len},
    };
    for (size_t k = 0; k < sizeof inputs / sizeof *inputs; k++) {
        const int64_t n = t->micro_batch * inputs[k].per_sample;
        if (inputs[k].values)
            DS_TRY(ds_program_write(program, inputs[k].input, inputs[k].values + i * n,
                                    (size_t)n * sizeof(int32_t)));
    }
    if (batch->next_sentence)
        return ds_program_write(program, DS_TOKENS_PER_SAMPLE, &tokens_per_sample,
                                sizeof tokens_per_sample);
    return DS_OK;
}
