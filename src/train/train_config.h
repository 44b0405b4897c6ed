/* The parts of the training configuration that only its own files share. */
#ifndef DS_TRAIN_TRAIN_CONFIG_H
#define DS_TRAIN_TRAIN_CONFIG_H

#include "base/config.h"
#include "deepseek/config.h"

extern const ds_config_table ds_train_config_table;

/* The presets' names, ended by NULL. */
extern const char *const ds_train_preset_names[];

/* Fills in what follows from other keys (precision, batch sizes, steps) and refuses values that
 * contradict each other. */
ds_status ds_train_config_check(const ds_config *reader, int data_parallel_size,
                                ds_train_config *config);

#endif
