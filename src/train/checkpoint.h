/* Checkpoints: folders of plain Hugging Face files that a crash at any byte leaves whole.
 *
 *   RUN/checkpoints/step-00000200/
 *     model.safetensors       parameters, f32, by their Hugging Face names
 *     optimizer.safetensors   every other tensor that training needs to go on
 *     config.json tokenizer.json config.yaml trainer.json
 *     MD5SUMS                 `md5sum -c MD5SUMS` passes
 *
 * Written as step-….part, synced, renamed: a folder without .part is complete. With `async` the
 * tensors are copied at once and written by a thread while training goes on. */
#ifndef DS_TRAIN_CHECKPOINT_H
#define DS_TRAIN_CHECKPOINT_H

#include <limits.h>
#include "deepseek/compile.h"

/* A small file that goes into the checkpoint as it is. */
typedef struct ds_checkpoint_file {
    const char *name;
    const char *contents; /* zero-terminated */
} ds_checkpoint_file;

typedef struct ds_checkpoint_writer ds_checkpoint_writer;

/* folder: where the step-… folders go; made if absent. keep_last: of a new one that is whole and
 * those of earlier steps so many are kept, the older ones are removed; 0 keeps all. */
ds_status ds_checkpoint_writer_new(const char *folder, int keep_last, bool async,
                                   ds_checkpoint_writer **out);
/* Begins (async) or does the writing of the state as of this step. Waits for an earlier one first;
 * its failure is returned by ds_checkpoint_wait, or here when nobody has asked. */
ds_status ds_checkpoint_write(ds_checkpoint_writer *writer, const ds_state *state, int64_t step,
                              const ds_checkpoint_file *files, size_t n_files);
/* Waits for the one under way and returns how it went; DS_OK when there is none. */
ds_status ds_checkpoint_wait(ds_checkpoint_writer *writer);
/* True when one is under way. */
bool ds_checkpoint_busy(ds_checkpoint_writer *writer);
/* What the last finished one took. */
typedef struct ds_checkpoint_stats {
    int64_t step;
    size_t size_bytes;
    double snapshot_s, write_s; /* what training waited for; what the disk took */
} ds_checkpoint_stats;
ds_checkpoint_stats ds_checkpoint_last(const ds_checkpoint_writer *writer);
void ds_checkpoint_writer_free(ds_checkpoint_writer *writer); /* waits */

/* Checks every sum of MD5SUMS and that all files of a checkpoint are listed. DS_CORRUPT or
 * DS_NOT_FOUND name the file. */
ds_status ds_checkpoint_verify(const char *path);
/* As much as can be said of any model's folder: the sum of every file that is there and is listed.
 * DS_OK where there is no MD5SUMS. */
ds_status ds_checkpoint_verify_model(const char *path);

/* The newest checkpoint below folder that verifies. Each one that does not is reported to the log
 * (base/log.h) and passed over. DS_NOT_FOUND when there is none. */
ds_status ds_checkpoint_find(const char *folder, char path[PATH_MAX]);

/* The step of the newest checkpoint below folder and its path, verified or not; -1: there is none.
 */
int64_t ds_checkpoint_newest(const char *folder, char path[PATH_MAX]);

/* The step that a checkpoint's folder is named after; -1 for any other name. */
int64_t ds_checkpoint_step(const char *path);

/* Renames the checkpoints below folder of steps after `step` to WHY-step-…, so that they are
 * neither taken for this run's nor removed; each is reported to the log. why: "stale" (of another
 * run) or "damaged". */
ds_status ds_checkpoint_set_aside(const char *folder, int64_t step, const char *why);

/* Reads parameters (and, unless parameters_only, everything else that training needs) into the
 * state. Missing and superfluous tensors, wrong shapes and types are named; then the state is
 * unchanged. */
ds_status ds_checkpoint_load(const char *path, ds_state *state, bool parameters_only);

/* One of a checkpoint's small files, the caller's to free(). */
ds_status ds_checkpoint_read_file(const char *path, const char *name, char **out);

#endif
