/* What tokenizer_config.json says of a folder, said of a GGUF file. */
#ifndef DS_INFER_GGUF_SETTINGS_H
#define DS_INFER_GGUF_SETTINGS_H

#include <jansson.h>

#include "deepseek/status.h"

/* An object with "chat_template", "bos_token", "eos_token" and "add_bos_token", of these what the
 * file has. The caller's, to json_decref. */
ds_status ds_gguf_settings(const char *path, json_t **out);

#endif
