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

/* Whether the checkpoint lies in this folder. */
static bool is_in(const char *folder, const char *path) {
    char parent[PATH_MAX], real_parent[PATH_MAX], real_folder[PATH_MAX];
    snprintf(parent, sizeof parent, "%.*s/..", PATH_MAX - 4, path);
    return realpath(parent, real_parent) && realpath(folder, real_folder) &&
           strcmp(real_parent, real_folder) == 0;
}

/* The newest whole checkpoint of the run folder; "" if there is none. The damaged ones that are
 * newer make way for those that this run will write. */
static ds_status find_own(const ds_trainer *t, char path[PATH_MAX]) {
    char folder[PATH_MAX];
    if (ds_checkpoint_find(checkpoint_folder(t, folder), DS_VERIFY_ALL, path) != DS_OK)
        *path = '\0';
    return ds_checkpoint_set_aside(folder, ds_checkpoint_step(path), "damaged");
}

ds_status ds_trainer_resume(ds_trainer *t) {
    const char *wish = t->config->checkpoint.resume;
    char folder[PATH_MAX], path[PATH_MAX];
    checkpoint_folder(t, folder);
    if (!wish || strcmp(wish, "never") == 0)
        return ds_checkpoint_set_aside(folder, -1, "stale");
    if (strcmp(wish, "auto") == 0) {
        DS_TRY(find_own(t, path));
        if (!*path)
            return DS_OK; /* a new run */
    } else {
        snprintf(path, sizeof path, "%s", wish);
        DS_TRY(ds_checkpoint_verify(path));
    }
    DS_TRY(load(t, path));
    snprintf(t->resumed_from, sizeof t->resumed_from, "%s", path);
    /* what this run does not descend from is another run's */
    return ds_checkpoint_set_aside(folder, is_in(folder, path) ? t->progress.step : -1, "stale");
}

static const char CHECKPOINT_FAILED[] =
    "the checkpoint failed, the one before it stays and training goes on: %s";

/* The outcome of the write that is over, if one is. A full disk does not end a run. */
static void report_finished(ds_trainer *t) {
    if (ds_checkpoint_wait(t->checkpoints) != DS_OK)
        ds_trainer_note(t, CHECKPOINT_FAILED, ds_error());
}

static ds_status rewind_alone(ds_trainer *t) {
    char path[PATH_MAX];
    const int64_t samples = t->progress.samples, rewinds = t->progress.rewinds + 1;
    report_finished(t);
    DS_TRY(find_own(t, path));
    if (!*path)
        return ds_fail(DS_NOT_FOUND, "there is no whole checkpoint to go back to");
    DS_TRY(load(t, path));
    t->progress.rewinds = rewinds;
    t->progress.samples = samples; /* go on behind the data that led here */
    DS_TRY(ds_loader_seek(t->train_data, samples));
    /* the record tells one story: without the steps that are undone */
    ds_runlog_close(t->log);
    t->log = NULL;
    return ds_runlog_open(t->config->checkpoint.directory, t->progress.step + 1, &t->log);
}

ds_status ds_trainer_rewind(ds_trainer *t) {
    if (ds_trainer_rank(t) == 0)
        DS_TRY(rewind_alone(t));
    return ds_trainer_share_progress(t);
}

/* Begins the checkpoint of this step, or writes it. */
static ds_status write_checkpoint(ds_trainer *t) {
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
    free(progress);
    free(config);
    free(model);
    free(tokenizer);
    return status;
}

ds_status ds_trainer_save(ds_trainer *t, bool is_last) {
    report_finished(t);
    t->progress.train_seconds += ds_clock_s() - t->start_s;
    t->start_s = ds_clock_s();
    ds_status status = write_checkpoint(t);
    if (status == DS_OK && is_last)
        status = ds_checkpoint_wait(t->checkpoints);
    if (status != DS_OK && is_last)
        return ds_fail_within(status, "the last checkpoint failed, the one before it stays");
    if (status != DS_OK) {
        ds_trainer_note(t, CHECKPOINT_FAILED, ds_error());
        return DS_OK;
    }
    const bool is_written = !ds_checkpoint_busy(t->checkpoints);
    const ds_checkpoint_stats s = ds_checkpoint_last(t->checkpoints);
    char took[32];
    ds_trainer_note(t, "checkpoint of step %lld %s (training waited %s)", (long long)s.step,
                    is_written ? "written" : "under way",
                    ds_format_duration(took, sizeof took,
                                       is_written ? s.snapshot_s + s.write_s : s.snapshot_s));
    return DS_OK;
}
