/* GGUF models: what a file's architecture is here, and where its tensors go. */
#ifndef DS_MODELS_GGUF_H
#define DS_MODELS_GGUF_H

#include "base/gguf.h"
#include "deepseek/models.h"

/* The shape that the file's values and tensors tell (gguf_config.c). */
ds_status ds_gguf_config(const ds_gguf *file, ds_model_config *out);

#endif
