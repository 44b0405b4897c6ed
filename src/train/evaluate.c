/* Looking at the model between steps: validation loss, a sample of text. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/text.h"
#include "train/trainer.h"

/* Losses of validation, summed. */
typedef struct rating {
    double tokens, next_sentence; /* the latter of BERT; else 0 */
    int64_t n_predicted, n_samples;
} rating;

static ds_status add_output(ds_program *p, const char *name, double *sum) {
    float value = 0;
    DS_TRY(ds_program_read(p, name, &value, sizeof value));
    *sum += (double)value;
    return DS_OK;
}

/* BERT's two losses are read apart: the next-sentence one counts nothing in "loss" here. */
static ds_status rate_batch(ds_trainer *t, ds_step_batch *batch, rating *sums) {
    DS_TRY(ds_step_batch_fill(t, t->validation_data, 1, batch));
    DS_TRY(ds_step_batch_write(t, batch, 0, 0, t->evaluate));
    DS_TRY(ds_program_run(t->evaluate));
    sums->n_predicted += batch->n_predicted;
    sums->n_samples += t->micro_batch;
    if (batch->next_sentence)
        DS_TRY(add_output(t->evaluate, "next_sentence_loss", &sums->next_sentence));
    return add_output(t->evaluate, "loss", &sums->tokens);
}

/* Mean over the same first samples each time, so that the numbers can be compared. The perplexity
 * is that of the tokens alone. */
ds_status ds_trainer_evaluate(ds_trainer *t) {
    if (!t->validation_data)
        return DS_OK;
    ds_step_batch batch = {0};
    rating sums = {0};
    DS_TRY(ds_step_batch_new(t, &batch));
    ds_status status = ds_loader_seek(t->validation_data, 0);
    for (int i = 0; i < t->config->training.eval_batches && status == DS_OK; i++)
        status = rate_batch(t, &batch, &sums);
    ds_step_batch_free(&batch);
    DS_TRY(status);
    const double of_tokens =
        sums.n_predicted > 0 ? sums.tokens / (double)sums.n_predicted : (double)NAN;
    t->last_validation_loss = of_tokens + sums.next_sentence / (double)sums.n_samples;
    const ds_metric metric = {"validation/loss", t->last_validation_loss};
    ds_trainer_record(t, &metric, 1);
    ds_trainer_note(t, "step %lld: validation loss %.4f, perplexity %.2f",
                    (long long)t->progress.step, t->last_validation_loss, exp(of_tokens));
    return DS_OK;
}

/* The beginning of a sample of text. */
typedef struct opening {
    int32_t *ids; /* [n], with room for what is written behind */
    size_t n;
    size_t n_hidden; /* leading ones that are no text */
} opening;

enum { SHOWN_TOKENS = 16 }; /* of a document whose start is the prompt */

/* The start of the first validation sample (of training data where there is none). The loader's
 * place stays. */
static ds_status borrow_start(ds_trainer *t, opening *o) {
    ds_loader *loader = t->validation_data ? t->validation_data : t->train_data;
    const int64_t position = ds_loader_position(loader);
    const ds_batch *b = NULL;
    DS_TRY(ds_loader_seek(loader, 0));
    const ds_status status = ds_loader_next(loader, 1, &b);
    if (status == DS_OK) {
        o->n = (size_t)(t->seq_len / 2 < SHOWN_TOKENS ? (t->seq_len + 1) / 2 : SHOWN_TOKENS);
        memcpy(o->ids, b->tokens, o->n * sizeof *o->ids);
    }
    const ds_status back = ds_loader_seek(loader, position);
    return status == DS_OK ? back : status;
}

/* As deepseek-generate does: a mark that texts begin with goes first. Where one mark both begins
 * and ends texts (GPT-2), or none begins them, the one that ends them stands for an empty prompt.
 */
static ds_status open_text(ds_trainer *t, opening *o) {
    const char *prompt = t->config->training.sample_prompt;
    const int32_t bos = ds_tokenizer_bos(t->tokenizer), eos = ds_tokenizer_eos(t->tokenizer);
    const int32_t begin = bos >= 0 ? bos : eos;
    int32_t *ids = NULL;
    size_t n = 0;
    if (prompt)
        DS_TRY(ds_tokenizer_encode(t->tokenizer, prompt, strlen(prompt), &ids, &n));
    const size_t room = n + 1 + SHOWN_TOKENS + (size_t)t->config->training.sample_tokens;
    o->ids = ds_malloc(room * sizeof *o->ids);
    if (!o->ids) {
        free(ids);
        return DS_OUT_OF_MEMORY;
    }
    const bool has_mark = n > 0 && ids[0] == bos; /* written out in the prompt */
    if (begin >= 0 && (n == 0 || (bos >= 0 && bos != eos && !has_mark))) {
        o->ids[0] = begin;
        o->n = o->n_hidden = 1;
    }
    if (n > 0)
        memcpy(o->ids + o->n, ids, n * sizeof *ids);
    o->n += n;
    free(ids);
    return o->n > 0 ? DS_OK : borrow_start(t, o);
}

/* Continues the text in place. */
static ds_status continue_text(ds_trainer *t, opening *o) {
    const int64_t room = t->model.max_seq_len - (int64_t)o->n;
    const int64_t wanted =
        t->config->training.sample_tokens < room ? t->config->training.sample_tokens : room;
    if (!t->generator)
        DS_TRY(ds_generator_new(t->state, &t->model, t->model.max_seq_len, t->precision,
                                &t->generator));
    ds_generator_reset(t->generator);
    DS_TRY(ds_generator_feed(t->generator, o->ids, (int64_t)o->n));
    const ds_sampling sampling = {
        .temperature = 0.8f, .top_k = 40, .seed = (uint64_t)t->config->training.seed};
    const int32_t end = ds_tokenizer_eos(t->tokenizer);
    for (int64_t i = 0; i < wanted; i++) {
        int32_t id = -1;
        DS_TRY(ds_generator_next(t->generator, sampling, &id));
        if (id == end)
            break;
        if (id < ds_tokenizer_vocab_size(t->tokenizer)) /* the model's may be larger, for speed */
            o->ids[o->n++] = id;
    }
    return DS_OK;
}

static ds_status generate(ds_trainer *t, ds_text *out) {
    opening o = {0};
    char *text = NULL;
    size_t length = 0;
    ds_status status = open_text(t, &o);
    if (status == DS_OK)
        status = continue_text(t, &o);
    if (status == DS_OK)
        status =
            ds_tokenizer_decode(t->tokenizer, o.ids + o.n_hidden, o.n - o.n_hidden, &text, &length);
    if (status == DS_OK)
        ds_text_append(out, text, length);
    free(text);
    free(o.ids);
    return status;
}

void ds_trainer_sample(ds_trainer *t) {
    if (!t->tokenizer || t->model.architecture == DS_BERT)
        return;
    ds_text text = {0};
    if (generate(t, &text) != DS_OK) {
        ds_trainer_note(t, "no sample at step %lld: %s", (long long)t->progress.step, ds_error());
    } else {
        const char *shown = text.length > 0 ? text.data : "(nothing: the text ends at once)";
        ds_trainer_note(t, "step %lld writes:\n%s", (long long)t->progress.step, shown);
        if (ds_runlog_text(t->log, t->progress.step, "sample", shown) != DS_OK)
            ds_trainer_note(t, "the record of the run could not be written: %s", ds_error());
    }
    ds_text_clear(&text);
}
