/* GGUF models: what a file's architecture is here, and where its tensors go. */
#ifndef DS_MODELS_GGUF_H
#define DS_MODELS_GGUF_H

#include "base/gguf.h"
#include "deepseek/models.h"

/* The shape that the file's values and tensors tell (gguf_config.c). */
ds_status ds_gguf_config(const ds_gguf *file, ds_model_config *out);

/* The type in which a parameter is best kept: the file's own if it is a float, f16 for quantised
 * ones, which hold no more digits than it has; F32 for one that the file has not (gguf_load.c). */
ds_dtype ds_gguf_param_dtype(const ds_gguf *file, const ds_model_config *config, const char *name);

#endif
