/* Answers in the words of OpenAI's API: tokens in, bytes for the client out. A request may ask for
 * several; each is a choice. Streaming, each token's text becomes an event (Server-Sent Events) as
 * soon as it is certain, the choices' events among each other; otherwise one JSON object comes at
 * the end. */
#ifndef DS_SERVE_ANSWER_H
#define DS_SERVE_ANSWER_H

#include <jansson.h>

#include "infer/chat_tools.h"
#include "serve/openai_request.h"
#include "infer/stop_filter.h"

typedef struct ds_openai_choice {
    ds_detokenizer *detokenizer;
    ds_stop_filter filter;
    ds_tool_reader reader;
    int64_t n_tokens, n_characters;
    json_t *tokens;      /* with logprobs: those not sent yet */
    ds_text content;     /* certain text not sent yet */
    size_t n_calls_sent; /* of reader.calls */
    json_t *whole;       /* not streaming: the choice, once it is finished */
    bool finished;
} ds_openai_choice;

typedef struct ds_openai_answer {
    char id[48];
    const char *model; /* borrowed */
    int64_t created;   /* seconds since 1970 */
    bool chat, stream, include_usage, logprobs, one_call;
    const ds_tokenizer *tokenizer; /* borrowed */
    const ds_tool_style *tools;    /* NULL: answers are words */
    int64_t n_prompt;
    ds_openai_choice *choices; /* [n] */
    int n, n_finished;
    ds_text out; /* bytes for the client */
} ds_openai_answer;

/* What an answer is to be, beside its request. */
typedef struct ds_openai_answer_opts {
    const ds_tokenizer *tokenizer; /* borrowed */
    const char *model, *id;        /* model: borrowed; id: "chatcmpl-1" */
    const ds_tool_style *tools;    /* of the model's chat template */
    const char *stop;              /* a stop string of the template; NULL: none; borrowed */
    const int32_t *prompt;         /* what the text goes on from, [n_prompt] */
    int64_t n_prompt;
} ds_openai_answer_opts;

/* The request, which is borrowed, must outlive it. A stream's first event is in `out` at once. */
ds_status ds_openai_answer_begin(const ds_openai_request *request,
                                 const ds_openai_answer_opts *opts, ds_openai_answer *out);
/* A token of the i-th choice. *stopped: a stop string was found, or the one call that was wanted is
 * there; the choice is complete but for ds_openai_answer_finish. */
ds_status ds_openai_answer_token(ds_openai_answer *a, int i, const ds_event *event, bool *stopped);
/* reason: "stop" or "length". After it for all choices `out` is complete. */
ds_status ds_openai_answer_finish(ds_openai_answer *a, int i, const char *reason);
/* Ends a stream by an error event. */
void ds_openai_answer_fail(ds_openai_answer *a, const char *message, const char *type);
void ds_openai_answer_clear(ds_openai_answer *a);

/* Appends {"error": {…}}. param and code may be NULL or "". */
void ds_openai_error_write(ds_text *out, const char *message, const char *type, const char *param,
                           const char *code);
/* Appends the compact text of a JSON value and releases it; poisons out when it is NULL. */
void ds_json_write(ds_text *out, json_t *value);

#endif
