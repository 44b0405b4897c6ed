/* Conversations as the text a chat model was trained on. Models publish a Jinja program for it in
 * tokenizer_config.json ("chat_template"); nearly all of them are a few families of "what stands
 * before and after each role's message". So the program is not run: it is recognised by telltale
 * strings, and a table says what the family writes. */
#ifndef DS_INFER_CHAT_TEMPLATE_H
#define DS_INFER_CHAT_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include "deepseek/status.h"

typedef struct ds_chat_message {
    const char *role; /* "system", "user", "assistant" or "tool" */
    const char *content;
    /* of an assistant: array of {"id": …, "name": …, "arguments": {…}}; NULL: none */
    json_t *tool_calls;
    const char *tool_call_id; /* of a tool: the call that it answers; NULL: not said */
} ds_chat_message;

typedef struct ds_chat {
    const ds_chat_message *messages; /* [n_messages] */
    size_t n_messages;
    json_t *tools; /* array of {"type": "function", "function": {…}}; NULL: none */
    bool calls;    /* the answer begins with a call of one of them */
} ds_chat;

typedef struct ds_chat_family ds_chat_family;

/* A family with the marks of one model. */
typedef struct ds_chat_template {
    const ds_chat_family *family; /* never NULL once loaded */
    bool recognised;       /* false: the model has no template, or one that is unknown here */
    char bos[64], eos[64]; /* texts of the marks; "" for none */
} ds_chat_template;

/* A piece of the rendered text that a stranger wrote: marks in it are no marks. */
typedef struct ds_chat_span {
    size_t start, length;
} ds_chat_span;

typedef struct ds_chat_text {
    char *text; /* zero-terminated */
    size_t length;
    ds_chat_span *contents; /* [n_contents], rising */
    size_t n_contents;
} ds_chat_text;

/* The family whose telltales stand in a Jinja program; NULL for an unknown one. */
const ds_chat_family *ds_chat_family_recognise(const char *jinja);
/* "User: … Assistant:", for models without a template. */
const ds_chat_family *ds_chat_family_plain(void);
const char *ds_chat_family_name(const ds_chat_family *family);
/* What begins the next user turn when a model does not know where its own ends; NULL: it does. */
const char *ds_chat_family_stop(const ds_chat_family *family);

/* Reads chat_template and the marks from tokenizer_config.json (or chat_template.jinja) in the
 * folder. A folder without them gives the plain family. DS_CORRUPT for broken JSON. */
ds_status ds_chat_template_load(const char *folder, ds_chat_template *out);

/* How the family writes of tools; NULL: it has no place for them. */
const struct ds_tool_style *ds_chat_family_tools(const ds_chat_family *family);

/* The conversation, and the beginning of the assistant's answer. DS_INVALID for a role that is
 * none, and for tools where the family has no place for them. */
ds_status ds_chat_template_render(const ds_chat_template *t, const ds_chat *chat,
                                  ds_chat_text *out);
void ds_chat_text_clear(ds_chat_text *text);

#endif
