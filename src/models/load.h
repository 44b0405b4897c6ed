/* Readers of trained models, one file a format. */
#ifndef DS_MODELS_LOAD_H
#define DS_MODELS_LOAD_H

#include "deepseek/models.h"

/* llama2.c's .bin: the file alone says what it is by its name. */
bool ds_llama2c_is(const char *path);
ds_status ds_llama2c_config(const char *path, ds_model_config *out);
ds_status ds_llama2c_load(const char *path, ds_state *state);

#endif
