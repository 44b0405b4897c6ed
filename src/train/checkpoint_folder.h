/* The folder of step-… folders: listing, verifying, pruning, setting aside. */
#ifndef DS_TRAIN_CHECKPOINT_FOLDER_H
#define DS_TRAIN_CHECKPOINT_FOLDER_H

#include <stdint.h>
#include "deepseek/status.h"

#define DS_CHECKPOINT_SUMS "MD5SUMS"

/* Of the checkpoint of this step and earlier ones removes all but the newest keep_last. Those of
 * later steps are another run's and stay. */
ds_status ds_checkpoint_prune(const char *folder, int keep_last, int64_t step);

#endif
