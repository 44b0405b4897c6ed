/* A request's prompt as token ids, the way the model was trained to see it. */
#ifndef DS_SERVE_PROMPT_H
#define DS_SERVE_PROMPT_H

#include "serve/openai_request.h"

typedef struct ds_prompt_format {
    const ds_tokenizer *tokenizer; /* borrowed */
    ds_chat_template chat;
    int32_t begin; /* goes before a text; -1: none */
} ds_prompt_format;

/* folder: of the model, for its tokenizer_config.json. */
ds_status ds_prompt_format_load(const ds_tokenizer *tokenizer, const char *folder,
                                ds_prompt_format *out);

/* *ids: [*n], the caller's to free(). Marks written out in a client's messages are text; in the
 * prompt of a completion they are marks. */
ds_status ds_prompt_encode(const ds_prompt_format *format, const ds_openai_request *request,
                           int32_t **ids, size_t *n);

#endif
