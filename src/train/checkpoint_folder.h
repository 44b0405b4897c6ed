/* The folder of step-… folders: listing, verifying, pruning. */
#ifndef DS_TRAIN_CHECKPOINT_FOLDER_H
#define DS_TRAIN_CHECKPOINT_FOLDER_H

#include "deepseek/status.h"

#define DS_CHECKPOINT_SUMS "MD5SUMS"

/* Removes all but the newest keep_last whole checkpoints, and what unfinished writing left. */
ds_status ds_checkpoint_prune(const char *folder, int keep_last);

#endif
