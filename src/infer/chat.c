/* The template's own text and the messages go through the tokenizer apart: marks are marks in the
 * one and text in the others. */
#include "deepseek/chat.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "infer/chat_template.h"
#include "infer/model.h"

struct ds_chat {
    const ds_tokenizer *tokenizer;
    ds_chat_template chat_template;
};

ds_status ds_chat_new(const ds_model *model, ds_chat **out) {
    if (!model->tokenizer)
        return ds_fail(DS_INVALID, "the model has no tokenizer: put its tokenizer.json beside it");
    ds_chat *chat = ds_calloc(1, sizeof *chat);
    if (!chat)
        return DS_OUT_OF_MEMORY;
    chat->tokenizer = model->tokenizer;
    const ds_status status = ds_chat_template_load(model->path, &chat->chat_template);
    if (status != DS_OK) {
        ds_chat_free(chat);
        return status;
    }
    *out = chat;
    return DS_OK;
}

void ds_chat_free(ds_chat *chat) {
    free(chat);
}

const char *ds_chat_template_name(const ds_chat *chat, bool *recognised) {
    *recognised = chat->chat_template.recognised;
    return ds_chat_family_name(chat->chat_template.family);
}

typedef struct id_list {
    int32_t *ids;
    size_t n, capacity;
} id_list;

static ds_status append(id_list *list, const int32_t *ids, size_t n) {
    int32_t *grown = ds_grow(list->ids, &list->capacity, list->n + n + 1, sizeof *grown);
    if (!grown)
        return DS_OUT_OF_MEMORY;
    list->ids = grown;
    memcpy(list->ids + list->n, ids, n * sizeof *ids);
    list->n += n;
    return DS_OK;
}

static ds_status append_text(const ds_chat *chat, id_list *list, const char *text, size_t length,
                             bool plain) {
    int32_t *ids = NULL;
    size_t n = 0;
    DS_TRY(plain ? ds_tokenizer_encode_plain(chat->tokenizer, text, length, &ids, &n)
                 : ds_tokenizer_encode(chat->tokenizer, text, length, &ids, &n));
    const ds_status status = append(list, ids, n);
    free(ids);
    return status;
}

/* Whether a message, read as the template is, holds a mark. */
static ds_status holds_mark(const ds_chat *chat, const ds_chat_text *text, bool *out) {
    *out = false;
    for (size_t i = 0; i < text->n_contents && !*out; i++) {
        id_list list = {0};
        const ds_chat_span span = text->contents[i];
        const ds_status status =
            append_text(chat, &list, text->text + span.start, span.length, false);
        for (size_t k = 0; k < list.n; k++)
            *out = *out || ds_tokenizer_is_special(chat->tokenizer, list.ids[k]);
        free(list.ids);
        DS_TRY(status);
    }
    return DS_OK;
}

static ds_status append_apart(const ds_chat *chat, const ds_chat_text *text, id_list *list) {
    size_t at = 0;
    for (size_t i = 0; i <= text->n_contents; i++) {
        const ds_chat_span span =
            i < text->n_contents ? text->contents[i] : (ds_chat_span){text->length, 0};
        DS_TRY(append_text(chat, list, text->text + at, span.start - at, false));
        DS_TRY(append_text(chat, list, text->text + span.start, span.length, true));
        at = span.start + span.length;
    }
    return DS_OK;
}

/* Tokens may span the border of a message, as they do in training, unless it tries to be more than
 * text. */
static ds_status append_conversation(const ds_chat *chat, const ds_chat_text *text, id_list *list) {
    const int32_t bos = ds_tokenizer_bos(chat->tokenizer);
    bool hostile = false;
    DS_TRY(holds_mark(chat, text, &hostile));
    if (!chat->chat_template.recognised && bos >= 0 && bos != ds_tokenizer_eos(chat->tokenizer))
        DS_TRY(append(list, &bos, 1)); /* other templates write it themselves */
    return hostile ? append_apart(chat, text, list)
                   : append_text(chat, list, text->text, text->length, false);
}

ds_status ds_chat_encode(const ds_chat *chat, const ds_chat_message *messages, size_t n_messages,
                         int32_t **ids, size_t *n) {
    ds_chat_text text;
    id_list list = {0};
    *ids = NULL;
    *n = 0;
    DS_TRY(ds_chat_template_render(&chat->chat_template, messages, n_messages, &text));
    const ds_status status = append_conversation(chat, &text, &list);
    ds_chat_text_clear(&text);
    if (status != DS_OK) {
        free(list.ids);
        return status;
    }
    *ids = list.ids;
    *n = list.n;
    return DS_OK;
}
