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

#include "base/checkpoint_folder.h"
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

/* Reads parameters (and, unless parameters_only, everything else that training needs) into the
 * state. Missing and superfluous tensors, wrong shapes and types are named; then the state is
 * unchanged. */
ds_status ds_checkpoint_load(const char *path, ds_state *state, bool parameters_only);

#endif
