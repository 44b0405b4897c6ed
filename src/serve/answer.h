/* An answer in the words of OpenAI's API: tokens in, bytes for the client out. Streaming, each
 * token's text becomes an event (Server-Sent Events) as soon as it is certain; otherwise one JSON
 * object comes at the end. */
#ifndef DS_SERVE_ANSWER_H
#define DS_SERVE_ANSWER_H

#include <jansson.h>

#include "serve/openai_request.h"
#include "serve/stop_filter.h"

typedef struct ds_openai_answer {
    char id[48];
    const char *model; /* borrowed */
    int64_t created;   /* seconds since 1970 */
    bool chat, stream, include_usage, logprobs;
    const ds_tokenizer *tokenizer; /* borrowed */
    ds_detokenizer *detokenizer;
    ds_stop_filter filter;
    int64_t n_prompt, n_tokens, n_characters;
    json_t *tokens;  /* with logprobs: those not sent yet */
    ds_text content; /* certain text not sent yet */
    ds_text out;     /* bytes for the client */
} ds_openai_answer;

/* The request, which is borrowed, must outlive it. id: "chatcmpl-1"; prompt: what the text goes on
 * from, [n_prompt]. A stream's first event is in `out` at once. */
ds_status ds_openai_answer_begin(const ds_openai_request *request, const ds_tokenizer *tokenizer,
                                 const char *model, const char *id, const int32_t *prompt,
                                 int64_t n_prompt, ds_openai_answer *out);
/* *stopped: a stop string was found, the answer is complete but for ds_openai_answer_finish. */
ds_status ds_openai_answer_token(ds_openai_answer *a, int32_t token, float logprob, bool *stopped);
/* reason: "stop" or "length". After it `out` is complete. */
ds_status ds_openai_answer_finish(ds_openai_answer *a, const char *reason);
/* Ends a stream by an error event. */
void ds_openai_answer_fail(ds_openai_answer *a, const char *message, const char *type);
void ds_openai_answer_clear(ds_openai_answer *a);

/* Appends {"error": {…}}. param and code may be NULL or "". */
void ds_openai_error_write(ds_text *out, const char *message, const char *type, const char *param,
                           const char *code);
/* Appends the compact text of a JSON value and releases it; poisons out when it is NULL. */
void ds_json_write(ds_text *out, json_t *value);

#endif
