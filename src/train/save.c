/* Checkpoints of a run: what goes into them beside tensors, and coming back from them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "train/trainer.h"

static const char *checkpoint_folder(const ds_trainer *t, char out[PATH_MAX]) {
    snprintf(out, PATH_MAX, "%s/checkpoints", t->config->checkpoint.directory);
    return out;
}

static ds_status load(ds_trainer *t, const char *path) {
    char *json = NULL, where[PATH_MAX];
    ds_train_progress progress = t->progress;
    DS_TRY(ds_checkpoint_read_file(path, "trainer.json", &json));
    snprintf(where, sizeof where, "%s/trainer.json", path);
    ds_status status = ds_train_progress_parse(where, json, &progress);
    free(json);
    if (status == DS_OK)
        status = ds_checkpoint_load(path, t->state, false);
    if (status == DS_OK)
        status = ds_loader_seek(t->train_data, progress.samples);
    if (status == DS_OK)
        t->progress = progress;
    ds_trainer_follow_batch(t);
    return status;
}

ds_status ds_trainer_resume(ds_trainer *t) {
    const char *wish = t->config->checkpoint.resume;
    char folder[PATH_MAX], path[PATH_MAX];
    if (!wish || strcmp(wish, "never") == 0)
        return DS_OK;
    if (strcmp(wish, "auto") == 0) {
        if (ds_checkpoint_find(checkpoint_folder(t, folder), path) != DS_OK)
            return DS_OK; /* a new run */
    } else {
        snprintf(path, sizeof path, "%s", wish);
        DS_TRY(ds_checkpoint_verify(path));
    }
    DS_TRY(load(t, path));
    snprintf(t->resumed_from, sizeof t->resumed_from, "%s", path);
    return DS_OK;
}

ds_status ds_trainer_rewind(ds_trainer *t) {
    char folder[PATH_MAX], path[PATH_MAX];
    const int64_t samples = t->progress.samples;
    ds_checkpoint_wait(t->checkpoints); /* its failure was, or will be, reported by save */
    DS_TRY(ds_checkpoint_find(checkpoint_folder(t, folder), path));
    DS_TRY(load(t, path));
    t->progress.samples = samples; /* go on behind the data that led here */
    return ds_loader_seek(t->train_data, samples);
}

/* The outcome of the write that is over, if one is. A full disk does not end a run. */
static void report_finished(ds_trainer *t) {
    if (ds_checkpoint_wait(t->checkpoints) != DS_OK)
        ds_trainer_note(t, "the checkpoint failed, the one before it stays: %s", ds_error());
}

ds_status ds_trainer_save(ds_trainer *t, bool wait) {
    report_finished(t);
    t->progress.train_seconds += ds_clock_s() - t->start_s;
    t->start_s = ds_clock_s();
    char *progress = ds_train_progress_json(&t->progress);
    char *config = ds_train_config_dump_yaml(t->config);
    char *model = ds_model_config_json(&t->model);
    char *tokenizer = NULL;
    ds_checkpoint_file files[4];
    size_t n = 0;
    ds_status status = progress && config && model ? DS_OK : DS_OUT_OF_MEMORY;
    if (status == DS_OK && t->tokenizer)
        status = ds_file_read(t->tokenizer_path, (size_t)256 << 20, &tokenizer, NULL);
    if (status == DS_OK) {
        files[n++] = (ds_checkpoint_file){"config.json", model};
        files[n++] = (ds_checkpoint_file){"config.yaml", config};
        files[n++] = (ds_checkpoint_file){"trainer.json", progress};
        if (tokenizer)
            files[n++] = (ds_checkpoint_file){"tokenizer.json", tokenizer};
        status = ds_checkpoint_write(t->checkpoints, t->state, t->progress.step, files, n);
    }
    if (status == DS_OK && wait)
        status = ds_checkpoint_wait(t->checkpoints);
    free(progress);
    free(config);
    free(model);
    free(tokenizer);
    if (status != DS_OK)
        return status;
    const ds_checkpoint_stats s = ds_checkpoint_last(t->checkpoints);
    char took[32];
    ds_trainer_note(
        t, "checkpoint of step %lld %s (training waited %s)", (long long)s.step,
        wait ? "written" : "under way",
        ds_format_duration(took, sizeof took, wait ? s.snapshot_s + s.write_s : s.snapshot_s));
    return DS_OK;
}
