/* A request's JSON while it is being read. */
#ifndef DS_SERVE_OPENAI_READING_H
#define DS_SERVE_OPENAI_READING_H

#include <jansson.h>

#include "serve/openai_request.h"

typedef struct ds_openai_reading {
    json_t *root;
    ds_openai_request *out;
    ds_openai_error *error;
} ds_openai_reading;

/* Refuses: what is wrong with the key, and what would be right. */
ds_status ds_openai_wrong(const ds_openai_reading *r, const char *key, const char *fmt, ...)
    DS_PRINTF(3, 4);
/* "an object", "a number", … */
const char *ds_openai_type_of(const json_t *v);
/* The value under key; NULL where there is none or null, which stands for the default. */
json_t *ds_openai_value_of(json_t *object, const char *key);

/* openai_tools.c: "tools" and "tool_choice"; the calls of an assistant's message and the call that
 * a tool's message answers; "response_format" and "grammar". */
ds_status ds_openai_read_tools(const ds_openai_reading *r);
ds_status ds_openai_read_calls(const ds_openai_reading *r, json_t *message, size_t i,
                               ds_chat_message *out);
ds_status ds_openai_read_form(const ds_openai_reading *r);

#endif
