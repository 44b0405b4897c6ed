/* A conversation while it is being written. */
#ifndef DS_INFER_CHAT_RENDERING_H
#define DS_INFER_CHAT_RENDERING_H

#include "base/text.h"
#include "infer/chat_template.h"

typedef struct ds_chat_rendering {
    const ds_chat_template *t;
    const ds_chat *chat;
    ds_text text;
    ds_chat_span *contents;
    size_t n, capacity;
    bool failed;
} ds_chat_rendering;

/* The template's own text; "{bos}" and "{eos}" in it are the model's marks, "{today}" is the day.
 */
void ds_chat_put(ds_chat_rendering *r, const char *template_text);
/* A stranger's text; trim: without white space around it. */
void ds_chat_put_content(ds_chat_rendering *r, const char *text, bool trim);
void ds_chat_put_span(ds_chat_rendering *r, const char *text, size_t length);
/* The same for a JSON value. */
void ds_chat_put_json(ds_chat_rendering *r, const json_t *value, int indent);

#endif
