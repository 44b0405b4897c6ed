#include "serve/answer.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/error.h"

static int append_bytes(const char *bytes, size_t size, void *out) {
    ds_text_append(out, bytes, size);
    return 0;
}

void ds_json_write(ds_text *out, json_t *value) {
    if (!value || json_dump_callback(value, append_bytes, out, JSON_COMPACT) != 0)
        out->poisoned = true;
    json_decref(value);
}

void ds_openai_error_write(ds_text *out, const char *message, const char *type, const char *param,
                           const char *code) {
    ds_json_write(out, json_pack("{s:{s:s, s:s, s:s?, s:s?}}", "error", "message", message, "type",
                                 type, "param", param && *param ? param : NULL, "code",
                                 code && *code ? code : NULL));
}

static ds_status check(const ds_openai_answer *a) {
    return a->out.poisoned || a->content.poisoned
               ? ds_fail(DS_OUT_OF_MEMORY, "out of memory for an answer")
               : DS_OK;
}

/* ---- pieces of JSON -------------------------------------------------------------------------- */

static json_t *usage(const ds_openai_answer *a) {
    return json_pack("{s:I, s:I, s:I}", "prompt_tokens", (json_int_t)a->n_prompt,
                     "completion_tokens", (json_int_t)a->n_tokens, "total_tokens",
                     (json_int_t)(a->n_prompt + a->n_tokens));
}

/* The tokens since the last piece, in the shape of the endpoint; JSON null without logprobs. */
static json_t *take_logprobs(ds_openai_answer *a) {
    json_t *tokens = a->tokens;
    if (!a->logprobs || json_array_size(tokens) == 0)
        return json_null();
    a->tokens = json_array();
    if (a->chat)
        return json_pack("{s:o, s:n}", "content", tokens, "refusal");
    json_t *names = json_array(), *values = json_array(), *offsets = json_array();
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        json_t *t = json_array_get(tokens, i);
        json_array_append(names, json_object_get(t, "token"));
        json_array_append(values, json_object_get(t, "logprob"));
        json_array_append(offsets, json_object_get(t, "offset"));
    }
    json_decref(tokens);
    return json_pack("{s:o, s:o, s:n, s:o}", "tokens", names, "token_logprobs", values,
                     "top_logprobs", "text_offset", offsets);
}

static json_t *take_content(ds_openai_answer *a) {
    json_t *text = json_stringn(a->content.data ? a->content.data : "", a->content.length);
    ds_text_clear(&a->content);
    return text;
}

/* What stands around every object of the API. choices is taken over. */
static json_t *envelope(const ds_openai_answer *a, json_t *choices) {
    const char *object = !a->chat    ? "text_completion"
                         : a->stream ? "chat.completion.chunk"
                                     : "chat.completion";
    return json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", a->id, "object", object, "created",
                     (json_int_t)a->created, "model", a->model, "choices", choices);
}

static void write_event(ds_openai_answer *a, json_t *value) {
    ds_text_puts(&a->out, "data: ");
    ds_json_write(&a->out, value);
    ds_text_puts(&a->out, "\n\n");
}

/* An event of one choice; payload (taken over) is the text of a completion or the delta of a chat.
 */
static void write_choice(ds_openai_answer *a, json_t *payload, const char *reason) {
    json_t *choice = json_pack("{s:i, s:o, s:o, s:s?}", "index", 0, a->chat ? "delta" : "text",
                               payload, "logprobs", take_logprobs(a), "finish_reason", reason);
    json_t *event = envelope(a, json_pack("[o]", choice));
    if (a->include_usage && event)
        json_object_set_new(event, "usage", json_null());
    write_event(a, event);
}

static json_t *piece(ds_openai_answer *a) {
    json_t *text = take_content(a);
    return a->chat ? json_pack("{s:o}", "content", text) : text;
}

/* ---- the answer ------------------------------------------------------------------------------ */

static void choose_stops(const ds_openai_request *r, ds_openai_answer *a) {
    for (size_t i = 0; i < r->n_stops; i++)
        a->filter.stops[a->filter.n_stops++] = r->stops[i];
}

/* Some tokenizers' text depends on whether it is at the beginning: a completion goes on from its
 * prompt, a chat's answer begins anew. */
static ds_status pass_over(ds_openai_answer *a, const int32_t *prompt, int64_t n) {
    const char *text = NULL;
    size_t length = 0;
    for (int64_t i = 0; i < n; i++)
        DS_TRY(ds_detokenizer_push(a->detokenizer, prompt[i], &text, &length));
    return DS_OK;
}

ds_status ds_openai_answer_begin(const ds_openai_request *r, const ds_tokenizer *tokenizer,
                                 const char *model, const char *id, const int32_t *prompt,
                                 int64_t n_prompt, ds_openai_answer *a) {
    *a = (ds_openai_answer){.model = model,
                            .created = (int64_t)time(NULL),
                            .chat = r->kind == DS_OPENAI_CHAT,
                            .stream = r->stream,
                            .include_usage = r->include_usage,
                            .logprobs = r->logprobs,
                            .tokenizer = tokenizer,
                            .detokenizer = ds_detokenizer_new(tokenizer),
                            .n_prompt = n_prompt,
                            .tokens = json_array()};
    snprintf(a->id, sizeof a->id, "%s", id);
    choose_stops(r, a);
    ds_status status = a->detokenizer && a->tokens ? DS_OK : DS_OUT_OF_MEMORY;
    if (status == DS_OK && !a->chat)
        status = pass_over(a, prompt, n_prompt);
    if (status == DS_OK && a->chat && a->stream)
        write_choice(a, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL);
    if (status == DS_OK)
        status = check(a);
    if (status != DS_OK)
        ds_openai_answer_clear(a);
    return status;
}

static void note_logprob(ds_openai_answer *a, int32_t token, float logprob) {
    size_t length = 0;
    const char *bytes = ds_tokenizer_bytes(a->tokenizer, token, &length);
    if (!bytes)
        length = 0;
    /* a part of a character has no text of its own; its bytes tell */
    const bool whole = ds_utf8_valid(bytes ? bytes : "", length) == length;
    json_t *list = json_array();
    for (size_t i = 0; i < length; i++)
        json_array_append_new(list, json_integer((unsigned char)bytes[i]));
    json_t *text = whole ? json_stringn(bytes ? bytes : "", length) : json_string("\xef\xbf\xbd");
    /* JSON has no infinity: −9999 stands for it, as in OpenAI's answers */
    const double value = logprob > -9999 ? (double)logprob : -9999.0;
    json_array_append_new(
        a->tokens, a->chat ? json_pack("{s:o, s:f, s:o, s:[]}", "token", text, "logprob", value,
                                       "bytes", list, "top_logprobs")
                           : json_pack("{s:o, s:f, s:o, s:I}", "token", text, "logprob", value,
                                       "bytes", list, "offset", (json_int_t)a->n_characters));
}

static void count_characters(ds_openai_answer *a, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        a->n_characters += ((unsigned char)text[i] & 0xC0) != 0x80;
}

ds_status ds_openai_answer_token(ds_openai_answer *a, int32_t token, float logprob, bool *stopped) {
    const char *text = NULL;
    size_t length = 0;
    a->n_tokens++;
    if (a->logprobs)
        note_logprob(a, token, logprob);
    DS_TRY(ds_detokenizer_push(a->detokenizer, token, &text, &length));
    count_characters(a, text, length);
    ds_stop_filter_push(&a->filter, text, length, &a->content);
    *stopped = a->filter.stopped;
    if (a->stream && !*stopped && a->content.length > 0)
        write_choice(a, piece(a), NULL);
    return check(a);
}

static void write_whole(ds_openai_answer *a, const char *reason) {
    json_t *text = take_content(a);
    json_t *payload =
        a->chat ? json_pack("{s:s, s:o, s:n}", "role", "assistant", "content", text, "refusal")
                : text;
    json_t *choice = json_pack("{s:i, s:o, s:o, s:s}", "index", 0, a->chat ? "message" : "text",
                               payload, "logprobs", take_logprobs(a), "finish_reason", reason);
    json_t *whole = envelope(a, json_pack("[o]", choice));
    if (whole)
        json_object_set_new(whole, "usage", usage(a));
    ds_json_write(&a->out, whole);
}

ds_status ds_openai_answer_finish(ds_openai_answer *a, const char *reason) {
    const char *text = NULL;
    size_t length = 0;
    DS_TRY(ds_detokenizer_finish(a->detokenizer, &text, &length));
    ds_stop_filter_push(&a->filter, text, length, &a->content);
    ds_stop_filter_finish(&a->filter, &a->content);
    if (!a->stream) {
        write_whole(a, reason);
        return check(a);
    }
    if (a->content.length > 0 || json_array_size(a->tokens) > 0)
        write_choice(a, piece(a), NULL);
    write_choice(a, a->chat ? json_object() : json_string(""), reason);
    if (a->include_usage) {
        json_t *event = envelope(a, json_array());
        if (event)
            json_object_set_new(event, "usage", usage(a));
        write_event(a, event);
    }
    ds_text_puts(&a->out, "data: [DONE]\n\n");
    return check(a);
}

void ds_openai_answer_fail(ds_openai_answer *a, const char *message, const char *type) {
    ds_text_puts(&a->out, "data: ");
    ds_openai_error_write(&a->out, message, type, NULL, NULL);
    ds_text_puts(&a->out, "\n\n");
}

void ds_openai_answer_clear(ds_openai_answer *a) {
    ds_detokenizer_free(a->detokenizer);
    ds_stop_filter_clear(&a->filter);
    json_decref(a->tokens);
    ds_text_clear(&a->content);
    ds_text_clear(&a->out);
    *a = (ds_openai_answer){0};
}
