/* Conversations with a model: messages to the tokens that it goes on from.
 *
 *     ds_model *model = NULL;  ds_chat_format *format = NULL;
 *     int32_t *prompt = NULL;  size_t n = 0;
 *     const ds_chat_turn said[] = {{"system", "Be brief."}, {"user", "Why is it so?"}};
 *     if (ds_model_from_pretrained("smollm2.gguf", (ds_model_opts){0}, &model) != DS_OK ||
 *         ds_chat_format_new(model, &format) != DS_OK ||
 *         ds_chat_format_encode(format, said, 2, &prompt, &n) != DS_OK)
 *         fprintf(stderr, "%s\n", ds_error());
 *     free(prompt);
 *     ds_chat_format_free(format);
 *     ds_model_free(model);
 *
 * What stands around a message is the model's own chat template, if its family is known; else
 * "User: … Assistant:" is written. */
#ifndef DEEPSEEK_CHAT_H
#define DEEPSEEK_CHAT_H

#include "deepseek/inference.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ds_chat_turn {
    const char *role; /* "system", "user" or "assistant" */
    const char *content;
} ds_chat_turn;

/* How a model's conversations are written. */
typedef struct ds_chat_format ds_chat_format;

/* The model is borrowed and must outlive it. DS_INVALID for a model without tokenizer, DS_CORRUPT
 * for a broken tokenizer_config.json. */
DS_API ds_status ds_chat_format_new(const ds_model *model, ds_chat_format **out);
DS_API void ds_chat_format_free(ds_chat_format *format); /* NULL is fine */
/* The name of the template's family; *recognised: false when it is a stand-in. Static. */
DS_API const char *ds_chat_format_name(const ds_chat_format *format, bool *recognised);

/* The conversation and the beginning of the assistant's answer as tokens, *ids: [*n], the caller's
 * to free(). Marks of the template that are written out in a message are text there. DS_INVALID for
 * an unknown role. Thread-safe. */
DS_API ds_status ds_chat_format_encode(const ds_chat_format *format, const ds_chat_turn *turns,
                                       size_t n_turns, int32_t **ids, size_t *n);

#ifdef __cplusplus
}
#endif
#endif
