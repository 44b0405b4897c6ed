/* Checkpoints as folders: which there are below a run's, whether their sums are right, removing and
 * setting aside. What is in them and how they are written is in train/checkpoint.h. */
#ifndef DS_BASE_CHECKPOINT_FOLDER_H
#define DS_BASE_CHECKPOINT_FOLDER_H

#include <limits.h>
#include <stdint.h>
#include "deepseek/status.h"

#define DS_CHECKPOINT_SUMS "MD5SUMS"

/* Checks every sum of MD5SUMS and that all files of a checkpoint are listed. DS_CORRUPT or
 * DS_NOT_FOUND name the file. */
ds_status ds_checkpoint_verify(const char *path);
/* Which sums are worth reading files for. */
typedef enum ds_verify {
    DS_VERIFY_ALL,
    DS_VERIFY_CHANGED, /* those of files that changed since they were last found right */
} ds_verify;

/* As much as can be said of any model's folder: the sum of every file that is there and is listed.
 * DS_OK where there is no MD5SUMS. */
ds_status ds_checkpoint_verify_model(const char *path, ds_verify which);

/* The newest checkpoint below folder that verifies. Each one that does not is reported to the log
 * (base/log.h) and passed over. DS_NOT_FOUND when there is none. */
ds_status ds_checkpoint_find(const char *folder, ds_verify which, char path[PATH_MAX]);

/* The step of the newest checkpoint below folder and its path, verified or not; -1: there is none.
 */
int64_t ds_checkpoint_newest(const char *folder, char path[PATH_MAX]);

/* The step that a checkpoint's folder is named after; -1 for any other name. */
int64_t ds_checkpoint_step(const char *path);

/* Renames the checkpoints below folder of steps after `step` to WHY-step-…, so that they are
 * neither taken for this run's nor removed; each is reported to the log. why: "stale" (of another
 * run) or "damaged". */
ds_status ds_checkpoint_set_aside(const char *folder, int64_t step, const char *why);

/* One of a checkpoint's small files, the caller's to free(). */
ds_status ds_checkpoint_read_file(const char *path, const char *name, char **out);

/* Of the checkpoint of this step and earlier ones removes all but the newest keep_last. Those of
 * later steps are another run's and stay. */
ds_status ds_checkpoint_prune(const char *folder, int keep_last, int64_t step);

#endif
