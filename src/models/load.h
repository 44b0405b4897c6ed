/* Readers of trained models, one file a format. */
#ifndef DS_MODELS_LOAD_H
#define DS_MODELS_LOAD_H

#include <stddef.h>
#include "base/gguf.h"
#include "deepseek/models.h"
#include "deepseek/safetensors.h"

/* A config.json's bytes; path is for messages. */
ds_status ds_model_config_parse(const char *text, size_t size, const char *path,
                                ds_model_config *out);

/* The tensor of a parameter that is not one of a stack, under any of the names that it has in
 * published files. DS_NOT_FOUND says what is near. */
ds_status ds_model_find_tensor(const ds_safetensors *file, const ds_model_config *config,
                               const char *param, const ds_safetensor **out);

/* llama2.c's .bin: the file alone says what it is by its name. */
bool ds_llama2c_is(const char *path);
/* The whole file's bytes: the header, and whether what it promises is there. */
ds_status ds_llama2c_parse(const unsigned char *data, size_t size, const char *path,
                           ds_model_config *out);
ds_status ds_llama2c_config(const char *path, ds_model_config *out);
ds_status ds_llama2c_load(const char *path, ds_state *state);

/* Whether the file has all that ds_model_build_logits asks for: a BERT may come without its heads,
 * good for ds_model_build_hidden alone. */
bool ds_model_has_heads(const char *path, const ds_model_config *config);

/* GGUF. With `borrows` what lies in the file as the state wants it stays there: the file must live
 * as long as the state. */
ds_status ds_gguf_model_config(const char *path, ds_model_config *out);
ds_status ds_gguf_model_load(const ds_gguf *file, const ds_model_config *config, bool borrows,
                             ds_state *state);

#endif
