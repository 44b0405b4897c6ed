/* The parts of Hugging Face's config.json that have a file of their own. */
#ifndef DS_MODELS_HF_H
#define DS_MODELS_HF_H

#include <jansson.h>

#include "deepseek/models.h"

/* hf_rope.c. After max_seq_len and the latent dimensions are known. */
ds_status ds_hf_read_rope(const json_t *root, const char *path, ds_model_config *c);
void ds_hf_write_rope(json_t *root, const ds_model_config *c);

/* hf_quantisation.c */
ds_status ds_hf_read_quantisation(const json_t *root, const char *path, ds_model_config *c);
/* The format of 8 bits with columns kept or scaled apart (passes/passes.h): not one of
 * compressed-tensors', so that readers who do not know of it do not take the rest for the whole. */
#define DS_OUTLIERS_FORMAT "int-quantized-outliers"

#endif
