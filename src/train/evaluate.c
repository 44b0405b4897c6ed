/* Looking at the model between steps: validation loss, a sample of text. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/text.h"
#include "train/trainer.h"

/* Mean over the same first samples each time, so that the numbers can be compared. */
ds_status ds_trainer_evaluate(ds_trainer *t) {
    if (!t->validation_data)
        return DS_OK;
    ds_step_batch batch = {0};
    double loss = 0;
    int64_t n_predicted = 0;
    DS_TRY(ds_step_batch_new(t, &batch));
    ds_status status = ds_loader_seek(t->validation_data, 0);
    for (int i = 0; i < t->config->training.eval_batches && status == DS_OK; i++) {
        float sum = 0;
        status = ds_step_batch_fill(t, t->validation_data, 1, &batch);
        if (status == DS_OK)
            status = ds_step_batch_write(t, &batch, 0, t->evaluate);
        if (status == DS_OK)
            status = ds_program_run(t->evaluate);
        if (status == DS_OK)
            status = ds_program_read(t->evaluate, "loss", &sum, sizeof sum);
        loss += (double)sum;
        n_predicted += batch.n_predicted;
    }
    ds_step_batch_free(&batch);
    DS_TRY(status);
    t->last_validation_loss = n_predicted > 0 ? loss / (double)n_predicted : (double)NAN;
    const ds_metric metric = {"validation/loss", t->last_validation_loss};
    ds_trainer_record(t, &metric, 1);
    ds_trainer_note(t, "step %lld: validation loss %.4f, perplexity %.2f",
                    (long long)t->progress.step, t->last_validation_loss,
                    exp(t->last_validation_loss));
    return DS_OK;
}

static ds_status generate(ds_trainer *t, ds_text *out) {
    const char *prompt = t->config->training.sample_prompt ? t->config->training.sample_prompt : "";
    int32_t *ids = NULL;
    size_t n = 0;
    DS_TRY(ds_tokenizer_encode(t->tokenizer, prompt, strlen(prompt), &ids, &n));
    const int64_t room = t->model.max_seq_len - (int64_t)n;
    const int64_t wanted =
        t->config->training.sample_tokens < room ? t->config->training.sample_tokens : room;
    int32_t *all = n > 0 && wanted > 0 ? ds_realloc(ids, (n + (size_t)wanted) * sizeof *ids) : NULL;
    if (!all) {
        free(ids);
        return n == 0 || wanted <= 0 ? DS_OK : DS_OUT_OF_MEMORY;
    }
    if (!t->generator) {
        const ds_status made = ds_generator_new(t->state, &t->model, t->model.max_seq_len,
                                                t->precision, &t->generator);
        if (made != DS_OK) {
            free(all);
            return made;
        }
    }
    ds_generator_reset(t->generator);
    ds_status status = ds_generator_feed(t->generator, all, (int64_t)n);
    const ds_sampling sampling = {
        .temperature = 0.8f, .top_k = 40, .seed = (uint64_t)t->config->training.seed};
    const int32_t end = ds_tokenizer_eos(t->tokenizer);
    for (int64_t i = 0; i < wanted && status == DS_OK; i++) {
        int32_t id = -1;
        status = ds_generator_next(t->generator, sampling, &id);
        if (status != DS_OK || id == end)
            break;
        all[n++] = id;
    }
    char *text = NULL;
    size_t length = 0;
    if (status == DS_OK)
        status = ds_tokenizer_decode(t->tokenizer, all, n, &text, &length);
    if (status == DS_OK)
        ds_text_append(out, text, length);
    free(text);
    free(all);
    return status;
}

ds_status ds_trainer_sample(ds_trainer *t) {
    if (!t->tokenizer || t->model.architecture == DS_BERT)
        return DS_OK;
    ds_text text = {0};
    const ds_status status = generate(t, &text);
    if (status == DS_OK && text.length > 0) {
        ds_trainer_note(t, "step %lld writes:\n%s", (long long)t->progress.step, text.data);
        if (ds_runlog_text(t->log, t->progress.step, "sample", text.data) != DS_OK)
            ds_trainer_note(t, "the record of the run could not be written: %s", ds_error());
    }
    ds_text_clear(&text);
    return status;
}
