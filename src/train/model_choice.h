/* The model that a training configuration asks for: a preset or a folder, with overrides. */
#ifndef DS_TRAIN_MODEL_CHOICE_H
#define DS_TRAIN_MODEL_CHOICE_H

#include "deepseek/config.h"
#include "deepseek/models.h"

/* Checked; *seq_len gets the sequence length of training. */
ds_status ds_train_choose_model(const ds_train_config *config, ds_model_config *out,
                                int64_t *seq_len);

#endif
