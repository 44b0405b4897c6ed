#include "serve/openai_reading.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/text.h"
#include "infer/sampling_keys.h"

typedef ds_openai_reading reading;

ds_status ds_openai_wrong(const reading *r, const char *key, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->error->message, sizeof r->error->message, fmt, ap);
    va_end(ap);
    /* the cut may have gone through a character */
    r->error->message[ds_utf8_valid(r->error->message, strlen(r->error->message))] = '\0';
    snprintf(r->error->param, sizeof r->error->param, "%s", key);
    return ds_fail(DS_INVALID, "%s", r->error->message);
}

const char *ds_openai_type_of(const json_t *v) {
    static const char *const names[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "a string",
        [JSON_INTEGER] = "a number", [JSON_REAL] = "a number",  [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",      [JSON_NULL] = "null"};
    return names[json_typeof(v)];
}

json_t *ds_openai_value_of(json_t *object, const char *key) {
    json_t *v = json_object_get(object, key);
    return json_is_null(v) ? NULL : v;
}

/* ---- numbers and switches -------------------------------------------------------------------- */

typedef enum number_kind { REAL, INT32, INT64, BOOL } number_kind;

typedef struct number_key {
    const char *name;
    number_kind kind;
    double low, high;
    size_t offset;
} number_key;

#define FIELD(field) offsetof(ds_openai_request, field)
#define LARGEST      9007199254740991.0 /* 2^53 − 1: a whole number in every JSON reader */

/* A later row overwrites the field of an earlier one. */
static const number_key number_keys[] = {
    {"top_k", INT32, -1, INT32_MAX, FIELD(sampling.top_k)},
    {"seed", INT64, -LARGEST, LARGEST, FIELD(sampling.seed)},
    {"max_tokens", INT64, 1, INT32_MAX, FIELD(max_tokens)},
    {"max_completion_tokens", INT64, 1, INT32_MAX, FIELD(max_tokens)},
    {"priority", INT32, -1000, 1000, FIELD(priority)},
    {"n", INT32, 1, DS_OPENAI_MOST_CHOICES, FIELD(n)},
    {"stream", BOOL, 0, 1, FIELD(stream)},
    {"echo", BOOL, 0, 1, FIELD(echo)},
};

static ds_status read_number(const reading *r, const number_key *k, json_t *v) {
    char *field = (char *)r->out + k->offset;
    if (k->kind == BOOL) {
        if (!json_is_boolean(v))
            return ds_openai_wrong(r, k->name, "'%s' must be true or false, not %s", k->name,
                                   ds_openai_type_of(v));
        *(bool *)field = json_is_true(v);
        return DS_OK;
    }
    const bool whole = k->kind != REAL;
    if (!(whole ? json_is_integer(v) : json_is_number(v)))
        return ds_openai_wrong(r, k->name, "'%s' must be a %snumber from %.16g to %.16g, not %s",
                               k->name, whole ? "whole " : "", k->low, k->high,
                               json_is_real(v) ? "a fraction" : ds_openai_type_of(v));
    const double x = json_number_value(v);
    if (!(x >= k->low && x <= k->high))
        return ds_openai_wrong(r, k->name,
                               "'%s' is %.16g, but must be a %snumber from %.16g to %.16g", k->name,
                               x, whole ? "whole " : "", k->low, k->high);
    if (k->kind == REAL)
        *(float *)field = (float)x;
    else if (k->kind == INT32)
        *(int *)field = (int)json_integer_value(v);
    else
        *(int64_t *)field = json_integer_value(v);
    return DS_OK;
}

static ds_status read_sampling(const reading *r) {
    for (int i = 0; i < DS_SAMPLING_REALS; i++) {
        const ds_sampling_key *k = &ds_sampling_reals[i];
        const number_key key = {k->name, REAL, k->low, k->high, FIELD(sampling) + k->offset};
        json_t *v = ds_openai_value_of(r->root, k->name);
        if (v)
            DS_TRY(read_number(r, &key, v));
    }
    return DS_OK;
}

static ds_status read_numbers(const reading *r) {
    DS_TRY(read_sampling(r));
    for (size_t i = 0; i < sizeof number_keys / sizeof *number_keys; i++) {
        json_t *v = ds_openai_value_of(r->root, number_keys[i].name);
        if (v)
            DS_TRY(read_number(r, &number_keys[i], v));
    }
    if (r->out->sampling.top_k < 0)
        r->out->sampling.top_k = 0;
    r->out->has_seed = ds_openai_value_of(r->root, "seed") != NULL;
    return DS_OK;
}

/* ---- what is there in OpenAI's API, but not here --------------------------------------------- */

/* Keys that would change the answer, and the one value that asks for nothing. */
static const struct {
    const char *name, *neutral, *advice;
} refused_keys[] = {
    {"best_of", "1", "ask for several answers with 'n', and choose by their 'logprobs'"},
    {"suffix", "\"\"", "filling a gap in a text is not supported"},
    {"functions", "[]", "give 'tools' instead"},
    {"function_call", "\"none\"", "give 'tool_choice' instead"},
    {"min_tokens", "0", "forbid the end token by 'logit_bias' instead"},
    {"ignore_eos", "false", "forbid the end token by 'logit_bias' instead"},
    {"chat_template_kwargs", "{}", "templates take no arguments here"},
};

static ds_status refuse_unsupported(const reading *r) {
    for (size_t i = 0; i < sizeof refused_keys / sizeof *refused_keys; i++) {
        json_t *v = ds_openai_value_of(r->root, refused_keys[i].name);
        json_t *neutral = json_loads(refused_keys[i].neutral, JSON_DECODE_ANY, NULL);
        const bool harmless = !v || (neutral && json_equal(v, neutral));
        json_decref(neutral);
        if (!harmless)
            return ds_openai_wrong(r, refused_keys[i].name, "'%s' can only be %s: %s",
                                   refused_keys[i].name, refused_keys[i].neutral,
                                   refused_keys[i].advice);
    }
    if (r->out->echo && r->out->kind == DS_OPENAI_CHAT)
        return ds_openai_wrong(r, "echo", "'echo' is for /v1/completions");
    if (r->out->echo && r->out->logprobs)
        return ds_openai_wrong(r, "echo",
                               "'echo' with 'logprobs' is not supported: only the answer's tokens "
                               "have them");
    return DS_OK;
}

/* ---- strings and lists ----------------------------------------------------------------------- */

static ds_status read_model(const reading *r) {
    json_t *v = ds_openai_value_of(r->root, "model");
    if (v && !json_is_string(v))
        return ds_openai_wrong(r, "model", "'model' must be a string, not %s",
                               ds_openai_type_of(v));
    r->out->model = (char *)json_string_value(v);
    return DS_OK;
}

static ds_status add_stop(const reading *r, json_t *v) {
    if (!json_is_string(v) || json_string_length(v) == 0)
        return ds_openai_wrong(r, "stop",
                               "'stop' must be a string or up to %d strings, none of them empty",
                               DS_OPENAI_MOST_STOPS);
    r->out->stops[r->out->n_stops++] = (char *)json_string_value(v);
    return DS_OK;
}

static ds_status read_stops(const reading *r) {
    json_t *v = ds_openai_value_of(r->root, "stop");
    if (!v)
        return DS_OK;
    if (!json_is_array(v))
        return add_stop(r, v);
    if (json_array_size(v) > DS_OPENAI_MOST_STOPS)
        return ds_openai_wrong(r, "stop", "'stop' has %zu strings, but may have %d at most",
                               json_array_size(v), DS_OPENAI_MOST_STOPS);
    for (size_t i = 0; i < json_array_size(v); i++)
        DS_TRY(add_stop(r, json_array_get(v, i)));
    return DS_OK;
}

static ds_status read_stream_options(const reading *r) {
    json_t *options = ds_openai_value_of(r->root, "stream_options");
    if (!options)
        return DS_OK;
    if (!json_is_object(options))
        return ds_openai_wrong(r, "stream_options", "'stream_options' must be an object, not %s",
                               ds_openai_type_of(options));
    if (!r->out->stream)
        return ds_openai_wrong(r, "stream_options", "'stream_options' needs \"stream\": true");
    json_t *v = ds_openai_value_of(options, "include_usage");
    if (v && !json_is_boolean(v))
        return ds_openai_wrong(r, "stream_options.include_usage",
                               "'stream_options.include_usage' must be true or false, not %s",
                               ds_openai_type_of(v));
    r->out->include_usage = json_is_true(v);
    return DS_OK;
}

static ds_status read_top_logprobs(const reading *r, const char *key, json_t *v) {
    if (!json_is_integer(v) || json_integer_value(v) < 0 ||
        json_integer_value(v) > DS_MOST_TOP_LOGPROBS)
        return ds_openai_wrong(r, key, "'%s' must be a whole number from 0 to %d", key,
                               DS_MOST_TOP_LOGPROBS);
    r->out->top_logprobs = (int)json_integer_value(v);
    return DS_OK;
}

/* A flag for a chat, with the number of alternatives beside it; for a completion that number. */
static ds_status read_logprobs(const reading *r) {
    json_t *v = ds_openai_value_of(r->root, "logprobs");
    json_t *top = ds_openai_value_of(r->root, "top_logprobs");
    if (v && r->out->kind == DS_OPENAI_CHAT && !json_is_boolean(v))
        return ds_openai_wrong(r, "logprobs", "'logprobs' must be true or false, not %s",
                               ds_openai_type_of(v));
    r->out->logprobs = json_is_true(v) || json_is_integer(v);
    if (v && !json_is_boolean(v))
        DS_TRY(read_top_logprobs(r, "logprobs", v));
    if (!top)
        return DS_OK;
    DS_TRY(read_top_logprobs(r, "top_logprobs", top));
    return r->out->logprobs || r->out->top_logprobs == 0
               ? DS_OK
               : ds_openai_wrong(r, "top_logprobs", "'top_logprobs' needs \"logprobs\": true");
}

/* Keys are token ids in decimal. */
static bool read_token_key(const char *key, int32_t *id) {
    char *end = NULL;
    if (*key < '0' || *key > '9' || strlen(key) > 10)
        return false;
    const long long value = strtoll(key, &end, 10);
    *id = (int32_t)value;
    return *end == '\0' && value <= INT32_MAX;
}

static ds_status read_bias(const reading *r) {
    json_t *object = ds_openai_value_of(r->root, "logit_bias"), *v = NULL;
    const char *key = NULL;
    if (!object)
        return DS_OK;
    const size_t n = json_object_size(object);
    if (!json_is_object(object) || n > DS_OPENAI_MOST_BIASES)
        return ds_openai_wrong(
            r, "logit_bias", "'logit_bias' must be an object of token ids and numbers, %d at most",
            DS_OPENAI_MOST_BIASES);
    r->out->bias = ds_calloc(n, sizeof *r->out->bias);
    if (!r->out->bias)
        return DS_OUT_OF_MEMORY;
    json_object_foreach(object, key, v) {
        ds_logit_bias *b = &r->out->bias[r->out->sampling.n_bias];
        const double x = json_number_value(v);
        if (!read_token_key(key, &b->token) || !json_is_number(v) || !(x >= -100 && x <= 100))
            return ds_openai_wrong(
                r, "logit_bias",
                "'logit_bias' must map token ids (\"123\") to numbers from -100 to 100");
        b->bias = (float)x;
        r->out->sampling.n_bias++;
    }
    r->out->sampling.bias = r->out->bias;
    return DS_OK;
}

/* *ids are the caller's also when it fails. */
static ds_status read_tokens(const reading *r, const char *key, json_t *list, int32_t **ids,
                             size_t *n) {
    *n = json_array_size(list);
    *ids = ds_calloc(*n, sizeof **ids);
    if (!*ids)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < *n; i++) {
        json_t *v = json_array_get(list, i);
        const json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id > INT32_MAX)
            return ds_openai_wrong(r, key, "'%s' at %zu is no token id: give whole numbers from 0",
                                   key, i);
        (*ids)[i] = (int32_t)id;
    }
    return DS_OK;
}

static ds_status read_stop_tokens(const reading *r) {
    json_t *list = ds_openai_value_of(r->root, "stop_token_ids");
    if (!list || (json_is_array(list) && json_array_size(list) == 0))
        return DS_OK;
    if (!json_is_array(list) || json_array_size(list) > DS_OPENAI_MOST_STOP_TOKENS)
        return ds_openai_wrong(r, "stop_token_ids",
                               "'stop_token_ids' must be an array of token ids, %d at most",
                               DS_OPENAI_MOST_STOP_TOKENS);
    return read_tokens(r, "stop_token_ids", list, &r->out->stop_tokens, &r->out->n_stop_tokens);
}

/* ---- the prompt ------------------------------------------------------------------------------ */

/* A string, tokens, or a list of one of these. */
static ds_status read_prompt(const reading *r, json_t *v, bool within) {
    if (json_is_string(v)) {
        r->out->prompt = (char *)json_string_value(v);
        return DS_OK;
    }
    json_t *first = json_array_get(v, 0);
    if (json_is_integer(first))
        return read_tokens(r, "prompt", v, &r->out->tokens, &r->out->n_tokens);
    if (!within && json_array_size(v) == 1)
        return read_prompt(r, first, true);
    if (!within && (json_is_string(first) || json_is_array(first)))
        return ds_openai_wrong(
            r, "prompt", "'prompt' has %zu texts: send one a request, they are computed together",
            json_array_size(v));
    return ds_openai_wrong(r, "prompt", "'prompt' must be a string or an array of token ids%s%s",
                           v ? ", not " : "",
                           v ? json_is_array(v) ? "an empty array" : ds_openai_type_of(v) : "");
}

/* A string, null, or parts of {"type": "text"}; several parts are joined in place. */
static ds_status read_content(const reading *r, json_t *message, size_t i, const char **out) {
    json_t *v = ds_openai_value_of(message, "content");
    if (!v || json_is_string(v)) {
        *out = v ? json_string_value(v) : "";
        return DS_OK;
    }
    if (!json_is_array(v))
        return ds_openai_wrong(r, "messages", "'messages[%zu].content' must be a string, not %s", i,
                               ds_openai_type_of(v));
    ds_text joined = {0};
    for (size_t p = 0; p < json_array_size(v); p++) {
        json_t *part = json_array_get(v, p), *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type || strcmp(type, "text") != 0 || !json_is_string(text)) {
            ds_text_clear(&joined);
            return ds_openai_wrong(
                r, "messages",
                "'messages[%zu].content[%zu]' must be {\"type\": \"text\", \"text\": …}: "
                "nothing but text is read",
                i, p);
        }
        ds_text_puts(&joined, json_string_value(text));
    }
    char *text = ds_text_take(&joined);
    json_t *kept = text ? json_string(text) : NULL;
    free(text);
    if (!kept || json_object_set_new(message, "content", kept) != 0)
        return ds_fail(DS_OUT_OF_MEMORY, "out of memory for a message");
    *out = json_string_value(kept);
    return DS_OK;
}

static ds_status read_message(const reading *r, json_t *v, size_t i, ds_chat_message *out) {
    static const char *const roles[][2] = {{"system", "system"},
                                           {"developer", "system"},
                                           {"user", "user"},
                                           {"assistant", "assistant"},
                                           {"tool", "tool"}};
    const char *role = json_string_value(json_object_get(v, "role"));
    for (size_t k = 0; role && k < sizeof roles / sizeof *roles; k++)
        if (strcmp(role, roles[k][0]) == 0)
            out->role = roles[k][1];
    if (!out->role)
        return ds_openai_wrong(
            r, "messages",
            "'messages[%zu].role' must be \"system\", \"user\", \"assistant\" or \"tool\"%s%.40s",
            i, role ? ", not " : "", role ? role : "");
    DS_TRY(read_content(r, v, i, &out->content));
    return ds_openai_read_calls(r, v, i, out);
}

static ds_status read_messages(const reading *r) {
    json_t *list = ds_openai_value_of(r->root, "messages");
    const size_t n = json_array_size(list);
    if (n == 0)
        return ds_openai_wrong(
            r, "messages",
            "'messages' must be an array of {\"role\": …, \"content\": …}, one at least");
    r->out->messages = ds_calloc(n, sizeof *r->out->messages);
    if (!r->out->messages)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < n; i++)
        DS_TRY(read_message(r, json_array_get(list, i), i, &r->out->messages[i]));
    r->out->chat = (ds_chat){.messages = r->out->messages, .n_messages = n};
    return DS_OK;
}

static ds_status read_text(const reading *r) {
    if (r->out->kind == DS_OPENAI_CHAT)
        return read_messages(r);
    if (r->out->kind == DS_OPENAI_TOKENIZE && ds_openai_value_of(r->root, "messages"))
        return read_messages(r);
    json_t *v = ds_openai_value_of(r->root, "prompt");
    if (!v && r->out->kind == DS_OPENAI_TOKENIZE)
        v = ds_openai_value_of(r->root, "content");
    return read_prompt(r, v, false);
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* How deep arrays and objects stand in each other, before a recursive reader sees them. */
static int depth_of(const char *body, size_t size) {
    int depth = 0, deepest = 0;
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        const char c = body[i];
        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string && (c == '{' || c == '['))
            deepest = ++depth > deepest ? depth : deepest;
        else if (!in_string && (c == '}' || c == ']'))
            depth--;
    }
    return deepest;
}

static ds_status read_all(reading *r) {
    DS_TRY(read_model(r));
    DS_TRY(read_text(r));
    if (r->out->kind == DS_OPENAI_TOKENIZE)
        return ds_openai_read_tools(r);
    DS_TRY(read_numbers(r));
    DS_TRY(read_stops(r));
    DS_TRY(read_stop_tokens(r));
    DS_TRY(read_stream_options(r));
    DS_TRY(read_logprobs(r));
    DS_TRY(refuse_unsupported(r));
    DS_TRY(ds_openai_read_tools(r));
    DS_TRY(ds_openai_read_form(r));
    return read_bias(r);
}

const ds_sampling ds_openai_sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};

ds_status ds_openai_request_parse(ds_openai_kind kind, const ds_sampling *defaults,
                                  const char *body, size_t size, ds_openai_request *out,
                                  ds_openai_error *error) {
    *out =
        (ds_openai_request){.kind = kind,
                            .max_tokens = kind == DS_OPENAI_COMPLETION ? DS_COMPLETION_TOKENS : 0,
                            .n = 1,
                            .sampling = *defaults};
    *error = (ds_openai_error){0};
    reading r = {.out = out, .error = error};
    if (depth_of(body, size) > DS_OPENAI_DEEPEST)
        return ds_openai_wrong(&r, "", "arrays and objects stand more than %d deep in each other",
                               DS_OPENAI_DEEPEST);
    json_error_t where;
    r.root = json_loadb(body, size, JSON_REJECT_DUPLICATES, &where);
    if (!r.root)
        return ds_openai_wrong(&r, "", "the body is no valid JSON: line %d, column %d: %s",
                               where.line, where.column, where.text);
    out->json = r.root;
    const ds_status status = json_is_object(r.root)
                                 ? read_all(&r)
                                 : ds_openai_wrong(&r, "", "the body must be a JSON object, not %s",
                                                   ds_openai_type_of(r.root));
    if (status != DS_OK)
        ds_openai_request_clear(out);
    return status;
}

void ds_openai_request_clear(ds_openai_request *request) {
    free(request->tokens);
    free(request->messages);
    free(request->bias);
    free(request->stop_tokens);
    json_decref(request->called);
    json_decref(request->schema);
    json_decref(request->json);
    *request = (ds_openai_request){0};
}
