/* The parts of Hugging Face's config.json that have a file of their own. */
#ifndef DS_MODELS_HF_H
#define DS_MODELS_HF_H

#include <jansson.h>

#include "deepseek/models.h"

/* hf_rope.c. After max_seq_len and the latent dimensions are known. */
ds_status ds_hf_read_rope(const json_t *root, const char *path, ds_model_config *c);
void ds_hf_write_rope(json_t *root, const ds_model_config *c);

#endif
