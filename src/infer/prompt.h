/* Texts and conversations as token ids, the way the model was trained to see them. */
#ifndef DS_INFER_PROMPT_H
#define DS_INFER_PROMPT_H

#include "deepseek/tokenizer.h"
#include "infer/chat_template.h"

typedef struct ds_prompt_format {
    const ds_tokenizer *tokenizer; /* borrowed */
    ds_chat_template chat;
    int32_t begin; /* goes before a text; -1: none */
} ds_prompt_format;

/* folder: of the model, for its tokenizer_config.json. */
ds_status ds_prompt_format_load(const ds_tokenizer *tokenizer, const char *folder,
                                ds_prompt_format *out);

/* A text that the model is to continue; marks written out in it are marks. *ids: [*n], the caller's
 * to free(). */
ds_status ds_prompt_encode_text(const ds_prompt_format *format, const char *text, int32_t **ids,
                                size_t *n);
/* A conversation. Marks written out in its messages are text. */
ds_status ds_prompt_encode_chat(const ds_prompt_format *format, const ds_chat *chat, int32_t **ids,
                                size_t *n);

#endif
