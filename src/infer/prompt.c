#include "infer/prompt.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/gguf.h"
#include "infer/gguf_settings.h"

/* tokenizer_config.json, or what a GGUF file says in its place; NULL: there is none. */
static json_t *read_settings(const char *folder) {
    char path[PATH_MAX], *text = NULL;
    size_t size = 0;
    json_t *settings = NULL;
    if (ds_gguf_is(folder))
        return ds_gguf_settings(folder, &settings) == DS_OK ? settings : NULL;
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    if (!ds_file_exists(path) || ds_file_read(path, (size_t)16 << 20, &text, &size) != DS_OK)
        return NULL;
    settings = json_loadb(text, size, JSON_DECODE_INT_AS_REAL, NULL);
    free(text);
    return settings;
}

/* Whether the settings say that texts begin with a mark: 1, 0, or -1 if they are silent. */
static int add_bos_of(const char *folder) {
    json_t *config = read_settings(folder);
    const json_t *v = json_object_get(config, "add_bos_token");
    const int says = json_is_boolean(v) ? json_is_true(v) : -1;
    json_decref(config);
    return says;
}

ds_status ds_prompt_format_load(const ds_tokenizer *tokenizer, const char *folder,
                                ds_prompt_format *out) {
    *out = (ds_prompt_format){.tokenizer = tokenizer, .begin = -1};
    const int32_t bos = ds_tokenizer_bos(tokenizer);
    const int says = add_bos_of(folder);
    /* where one mark both begins and ends texts (GPT-2), or begins a turn (ChatML), it begins a
     * text only if the folder says so */
    const bool is_own = bos >= 0 && bos != ds_tokenizer_eos(tokenizer) &&
                        bos != ds_tokenizer_find(tokenizer, "<|im_start|>");
    if (says == 1 || (says < 0 && is_own))
        out->begin = bos;
    return ds_chat_template_load(folder, &out->chat);
}

/* ---- a growing list of ids ------------------------------------------------------------------- */

typedef struct id_list {
    int32_t *ids;
    size_t n, capacity;
} id_list;

static ds_status append(id_list *list, const int32_t *ids, size_t n) {
    int32_t *grown = ds_grow(list->ids, &list->capacity, list->n + n + 1, sizeof *grown);
    if (!grown)
        return DS_OUT_OF_MEMORY;
    list->ids = grown;
    for (size_t i = 0; i < n; i++)
        list->ids[list->n++] = ids[i];
    return DS_OK;
}

static ds_status append_text(const ds_prompt_format *f, id_list *list, const char *text,
                             size_t length, bool plain) {
    int32_t *ids = NULL;
    size_t n = 0;
    DS_TRY(plain ? ds_tokenizer_encode_plain(f->tokenizer, text, length, &ids, &n)
                 : ds_tokenizer_encode(f->tokenizer, text, length, &ids, &n));
    const ds_status status = append(list, ids, n);
    free(ids);
    return status;
}

/* ---- conversations --------------------------------------------------------------------------- */

/* Whether a message, read as a prompt would be, holds a mark. */
static ds_status holds_mark(const ds_prompt_format *f, const ds_chat_text *text, bool *out) {
    *out = false;
    for (size_t i = 0; i < text->n_contents && !*out; i++) {
        int32_t *ids = NULL;
        size_t n = 0;
        DS_TRY(ds_tokenizer_encode(f->tokenizer, text->text + text->contents[i].start,
                                   text->contents[i].length, &ids, &n));
        for (size_t k = 0; k < n; k++)
            *out = *out || ds_tokenizer_is_special(f->tokenizer, ids[k]);
        free(ids);
    }
    return DS_OK;
}

/* The template's own text and the messages one by one. Tokens never span their borders then, so
 * this is for messages that try to be more than text only. */
static ds_status encode_apart(const ds_prompt_format *f, const ds_chat_text *text, id_list *list) {
    size_t at = 0;
    for (size_t i = 0; i <= text->n_contents; i++) {
        const ds_chat_span span =
            i < text->n_contents ? text->contents[i] : (ds_chat_span){text->length, 0};
        DS_TRY(append_text(f, list, text->text + at, span.start - at, false));
        DS_TRY(append_text(f, list, text->text + span.start, span.length, true));
        at = span.start + span.length;
    }
    return DS_OK;
}

static ds_status encode_chat(const ds_prompt_format *f, const ds_chat *chat, id_list *list) {
    ds_chat_text text;
    DS_TRY(ds_chat_template_render(&f->chat, chat, &text));
    bool hostile = false;
    ds_status status = holds_mark(f, &text, &hostile);
    if (status == DS_OK && !f->chat.recognised && f->begin >= 0)
        status = append(list, &f->begin, 1); /* other templates write it themselves */
    if (status == DS_OK)
        status = hostile ? encode_apart(f, &text, list)
                         : append_text(f, list, text.text, text.length, false);
    ds_chat_text_clear(&text);
    return status;
}

/* ---- texts ----------------------------------------------------------------------------------- */

static ds_status encode_text(const ds_prompt_format *f, const char *text, id_list *list) {
    int32_t *ids = NULL;
    size_t n = 0;
    DS_TRY(ds_tokenizer_encode(f->tokenizer, text, strlen(text), &ids, &n));
    const bool has_mark = n > 0 && ids[0] == f->begin; /* written out in the prompt */
    /* from nothing a model begins with whatever ends the text before */
    const int32_t begin = n > 0 || f->begin >= 0 ? f->begin : ds_tokenizer_eos(f->tokenizer);
    ds_status status = begin >= 0 && !has_mark ? append(list, &begin, 1) : DS_OK;
    if (status == DS_OK)
        status = append(list, ids, n);
    free(ids);
    return status;
}

static ds_status deliver(ds_status status, id_list *list, int32_t **ids, size_t *n) {
    if (status != DS_OK) {
        free(list->ids);
        return status;
    }
    *ids = list->ids;
    *n = list->n;
    return DS_OK;
}

ds_status ds_prompt_encode_text(const ds_prompt_format *f, const char *text, int32_t **ids,
                                size_t *n) {
    id_list list = {0};
    return deliver(encode_text(f, text, &list), &list, ids, n);
}

ds_status ds_prompt_encode_chat(const ds_prompt_format *f, const ds_chat *chat, int32_t **ids,
                                size_t *n) {
    id_list list = {0};
    return deliver(encode_chat(f, chat, &list), &list, ids, n);
}
