/* What programs see of prompt.h: text only, no tools. */
#include "deepseek/chat.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "infer/model.h"
#include "infer/prompt.h"

struct ds_chat_format {
    ds_prompt_format prompt;
};

ds_status ds_chat_format_new(const ds_model *model, ds_chat_format **out) {
    if (!model->tokenizer)
        return ds_fail(DS_INVALID, "the model has no tokenizer: put its tokenizer.json beside it");
    ds_chat_format *format = ds_calloc(1, sizeof *format);
    if (!format)
        return DS_OUT_OF_MEMORY;
    const ds_status status = ds_prompt_format_load(model->tokenizer, model->path, &format->prompt);
    if (status != DS_OK) {
        ds_chat_format_free(format);
        return status;
    }
    *out = format;
    return DS_OK;
}

void ds_chat_format_free(ds_chat_format *format) {
    free(format);
}

const char *ds_chat_format_name(const ds_chat_format *format, bool *recognised) {
    *recognised = format->prompt.chat.recognised;
    return ds_chat_family_name(format->prompt.chat.family);
}

ds_status ds_chat_format_encode(const ds_chat_format *format, const ds_chat_turn *turns,
                                size_t n_turns, int32_t **ids, size_t *n) {
    *ids = NULL;
    *n = 0;
    ds_chat_message *messages = ds_calloc(n_turns + 1, sizeof *messages);
    if (!messages)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < n_turns; i++)
        messages[i] = (ds_chat_message){.role = turns[i].role, .content = turns[i].content};
    const ds_chat chat = {.messages = messages, .n_messages = n_turns};
    const ds_status status = ds_prompt_encode_chat(&format->prompt, &chat, ids, n);
    free(messages);
    return status;
}
