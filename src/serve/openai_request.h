/* What a client asks for, out of the JSON of OpenAI's API: a pure function from bytes to a struct,
 * for strangers' bytes. Numbers are rows of a table with their ranges; nothing is rounded, clamped
 * or passed over that changes the answer: what is not supported is refused by name. */
#ifndef DS_SERVE_OPENAI_REQUEST_H
#define DS_SERVE_OPENAI_REQUEST_H

#include "deepseek/inference.h"
#include "infer/chat_template.h"

enum {
    DS_OPENAI_MOST_STOPS = 4,
    DS_OPENAI_MOST_STOP_TOKENS = 64,
    DS_OPENAI_MOST_BIASES = 1024,
    DS_OPENAI_MOST_CHOICES = 128,
    DS_OPENAI_MOST_TOOLS = 128,
    DS_OPENAI_DEEPEST = 64,   /* arrays and objects within each other */
    DS_COMPLETION_TOKENS = 16 /* of /v1/completions, when max_tokens is not given, as OpenAI's */
};

typedef enum ds_openai_kind {
    DS_OPENAI_COMPLETION, /* /v1/completions */
    DS_OPENAI_CHAT,       /* /v1/chat/completions */
    DS_OPENAI_TOKENIZE,   /* /tokenize: "prompt", "content" or "messages" */
} ds_openai_kind;

typedef struct ds_openai_request {
    ds_openai_kind kind;
    char *model;  /* NULL: not given */
    char *prompt; /* NULL: given as tokens or messages */
    int32_t *tokens;
    size_t n_tokens;
    ds_chat_message *messages; /* "developer" became "system" */
    ds_chat chat;              /* of these messages; without any for a completion */
    int64_t max_tokens;        /* 0: as many as fit */
    ds_sampling sampling;      /* its bias is `bias` */
    ds_logit_bias *bias;
    int n; /* answers */
    bool has_seed, stream, include_usage, logprobs, echo;
    int top_logprobs;    /* beside each token's own */
    bool one_call;       /* of tools */
    json_t *called;      /* the tools of which one must be called; NULL: none must */
    json_t *schema;      /* of the answer; NULL: none */
    const char *grammar; /* of the answer, GBNF; NULL: none */
    char *stops[DS_OPENAI_MOST_STOPS];
    size_t n_stops;
    int32_t *stop_tokens; /* [n_stop_tokens], besides the model's */
    size_t n_stop_tokens;
    int priority; /* as clients know it from vLLM: the lower goes first */
    void *json;   /* owns the strings above */
} ds_openai_request;

typedef struct ds_openai_error {
    char message[480]; /* what is wrong and what would be right; UTF-8 */
    char param[48];    /* the key; "" for none */
} ds_openai_error;

/* defaults: of the sampling. DS_INVALID fills *error; then, and when out of memory, there is
 * nothing to clear. */
ds_status ds_openai_request_parse(ds_openai_kind kind, const ds_sampling *defaults,
                                  const char *body, size_t size, ds_openai_request *out,
                                  ds_openai_error *error);
/* OpenAI's own defaults. */
extern const ds_sampling ds_openai_sampling;
void ds_openai_request_clear(ds_openai_request *request);

#endif
