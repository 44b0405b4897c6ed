#include "serve/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
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

static ds_status check(const ds_openai_answer *a, const ds_openai_choice *c) {
    return a->out.poisoned || c->content.poisoned
               ? ds_fail(DS_OUT_OF_MEMORY, "out of memory for an answer")
               : DS_OK;
}

/* ---- pieces of JSON -------------------------------------------------------------------------- */

static json_t *usage(const ds_openai_answer *a) {
    int64_t n_tokens = 0;
    for (int i = 0; i < a->n; i++)
        n_tokens += a->choices[i].n_tokens;
    return json_pack("{s:I, s:I, s:I}", "prompt_tokens", (json_int_t)a->n_prompt,
                     "completion_tokens", (json_int_t)n_tokens, "total_tokens",
                     (json_int_t)(a->n_prompt + n_tokens));
}

/* The tokens since the last piece, in the shape of the endpoint; JSON null without logprobs. */
static json_t *take_logprobs(const ds_openai_answer *a, ds_openai_choice *c) {
    json_t *tokens = c->tokens;
    if (!a->logprobs || json_array_size(tokens) == 0)
        return json_null();
    c->tokens = json_array();
    if (a->chat)
        return json_pack("{s:o, s:n}", "content", tokens, "refusal");
    json_t *names = json_array(), *values = json_array(), *offsets = json_array(),
           *tops = json_array();
    bool has_tops = false;
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        json_t *t = json_array_get(tokens, i);
        json_array_append(names, json_object_get(t, "token"));
        json_array_append(values, json_object_get(t, "logprob"));
        json_array_append(offsets, json_object_get(t, "offset"));
        json_array_append(tops, json_object_get(t, "top"));
        has_tops = has_tops || json_object_size(json_object_get(t, "top")) > 0;
    }
    json_decref(tokens);
    if (!has_tops) {
        json_decref(tops);
        tops = json_null();
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", names, "token_logprobs", values,
                     "top_logprobs", tops, "text_offset", offsets);
}

static json_t *take_content(ds_openai_choice *c) {
    json_t *text = json_stringn(c->content.data ? c->content.data : "", c->content.length);
    ds_text_clear(&c->content);
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
static void write_choice(ds_openai_answer *a, int i, json_t *payload, const char *reason) {
    json_t *logprobs = take_logprobs(a, &a->choices[i]);
    json_t *choice = json_pack("{s:i, s:o, s:o, s:s?}", "index", i, a->chat ? "delta" : "text",
                               payload, "logprobs", logprobs, "finish_reason", reason);
    json_t *event = envelope(a, json_pack("[o]", choice));
    if (a->include_usage && event)
        json_object_set_new(event, "usage", json_null());
    write_event(a, event);
}

static json_t *piece(const ds_openai_answer *a, ds_openai_choice *c) {
    json_t *text = take_content(c);
    return a->chat ? json_pack("{s:o}", "content", text) : text;
}

/* The k-th call of the i-th choice. Ids end in nine characters of their own, which is all that some
 * templates take. */
static json_t *call_json(const ds_openai_answer *a, int i, size_t k) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    const json_t *call = json_array_get(a->choices[i].reader.calls, k);
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    char id[] = "call_.........";
    for (const char *s = a->id; *s; s++)
        h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    h = (h ^ ((uint64_t)i << 32 | k)) * 0x100000001b3u;
    h ^= h >> 31;
    for (char *c = id + strlen("call_"); *c; c++, h = h / 62 + h * 0x9E3779B97F4A7C15u)
        *c = letters[h % 62];
    return json_pack("{s:s, s:s, s:{s:O, s:O}}", "id", id, "type", "function", "function", "name",
                     json_object_get(call, "name"), "arguments",
                     json_object_get(call, "arguments"));
}

static void write_new_calls(ds_openai_answer *a, int i) {
    ds_openai_choice *c = &a->choices[i];
    for (; c->n_calls_sent < json_array_size(c->reader.calls); c->n_calls_sent++) {
        json_t *call = call_json(a, i, c->n_calls_sent);
        if (call)
            json_object_set_new(call, "index", json_integer((json_int_t)c->n_calls_sent));
        write_choice(a, i, json_pack("{s:[o]}", "tool_calls", call), NULL);
    }
}

/* ---- the answer ------------------------------------------------------------------------------ */

/* Some tokenizers' text depends on whether it is at the beginning: a completion goes on from its
 * prompt, a chat's answer begins anew. */
static ds_status pass_over(ds_openai_choice *c, const ds_openai_request *r,
                           const ds_openai_answer_opts *o) {
    const char *text = NULL;
    size_t length = 0;
    for (int64_t i = 0; i < o->n_prompt; i++) {
        DS_TRY(ds_detokenizer_push(c->detokenizer, o->prompt[i], &text, &length));
        if (r->echo && !r->prompt)
            ds_text_append(&c->content, text, length);
    }
    if (r->echo && r->prompt)
        ds_text_puts(&c->content, r->prompt);
    return DS_OK;
}

static ds_status begin_choice(ds_openai_answer *a, int i, const ds_openai_request *r,
                              const ds_openai_answer_opts *o) {
    ds_openai_choice *c = &a->choices[i];
    c->detokenizer = ds_detokenizer_new(o->tokenizer);
    c->tokens = json_array();
    DS_TRY(ds_tool_reader_begin(&c->reader, a->tools, r->chat.calls));
    for (size_t k = 0; k < r->n_stops; k++)
        c->filter.stops[c->filter.n_stops++] = r->stops[k];
    if (o->stop && a->chat)
        c->filter.stops[c->filter.n_stops++] = o->stop;
    if (!c->detokenizer || !c->tokens)
        return DS_OUT_OF_MEMORY;
    if (!a->chat)
        DS_TRY(pass_over(c, r, o));
    if (a->chat && a->stream)
        write_choice(a, i, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL);
    return check(a, c);
}

ds_status ds_openai_answer_begin(const ds_openai_request *r, const ds_openai_answer_opts *o,
                                 ds_openai_answer *a) {
    *a = (ds_openai_answer){.model = o->model,
                            .created = (int64_t)time(NULL),
                            .chat = r->kind == DS_OPENAI_CHAT,
                            .stream = r->stream,
                            .include_usage = r->include_usage,
                            .logprobs = r->logprobs,
                            .one_call = r->one_call,
                            .tokenizer = o->tokenizer,
                            .tools = r->chat.tools ? o->tools : NULL,
                            .n_prompt = o->n_prompt,
                            .choices = ds_calloc((size_t)r->n, sizeof *a->choices),
                            .n = r->n};
    snprintf(a->id, sizeof a->id, "%s", o->id);
    ds_status status = a->choices ? DS_OK : DS_OUT_OF_MEMORY;
    for (int i = 0; i < a->n && status == DS_OK; i++)
        status = begin_choice(a, i, r, o);
    if (status != DS_OK)
        ds_openai_answer_clear(a);
    return status;
}

/* A token's text, and its bytes: a part of a character has no text of its own. */
static json_t *token_text(const ds_openai_answer *a, int32_t token, json_t **bytes_out) {
    size_t length = 0;
    const char *bytes = ds_tokenizer_bytes(a->tokenizer, token, &length);
    length = bytes ? length : 0;
    if (bytes_out) {
        *bytes_out = json_array();
        for (size_t i = 0; i < length; i++)
            json_array_append_new(*bytes_out, json_integer((unsigned char)bytes[i]));
    }
    const bool whole = ds_utf8_valid(bytes ? bytes : "", length) == length;
    json_t *text = whole ? json_stringn(bytes ? bytes : "", length) : NULL;
    return text ? text : json_string("\xef\xbf\xbd");
}

/* JSON has no infinity: −9999 stands for it, as in OpenAI's answers. */
static double finite(float logprob) {
    return logprob > -9999 ? (double)logprob : -9999.0;
}

/* The likeliest tokens: a chat's are objects in an array, a completion's the keys of one object. */
static json_t *top_logprobs(const ds_openai_answer *a, const ds_event *event) {
    json_t *list = a->chat ? json_array() : json_object();
    for (int i = 0; i < event->n_top; i++) {
        json_t *bytes = NULL;
        const double value = finite(event->top[i].logprob);
        json_t *text = token_text(a, event->top[i].token, a->chat ? &bytes : NULL);
        if (a->chat) {
            json_array_append_new(list, json_pack("{s:o, s:f, s:o}", "token", text, "logprob",
                                                  value, "bytes", bytes));
        } else { /* tokens may share a text: the likelier one stays */
            if (!json_object_get(list, json_string_value(text)))
                json_object_set_new(list, json_string_value(text), json_real(value));
            json_decref(text);
        }
    }
    return list;
}

static void note_logprob(const ds_openai_answer *a, ds_openai_choice *c, const ds_event *event) {
    json_t *bytes = NULL, *text = token_text(a, event->token, &bytes);
    const double value = finite(event->logprob);
    json_t *top = top_logprobs(a, event);
    json_array_append_new(c->tokens,
                          a->chat ? json_pack("{s:o, s:f, s:o, s:o}", "token", text, "logprob",
                                              value, "bytes", bytes, "top_logprobs", top)
                                  : json_pack("{s:o, s:f, s:o, s:o, s:I}", "token", text, "logprob",
                                              value, "bytes", bytes, "top", top, "offset",
                                              (json_int_t)c->n_characters));
}

static void count_characters(ds_openai_choice *c, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        c->n_characters += ((unsigned char)text[i] & 0xC0) != 0x80;
}

/* Through the stop strings and the reader of calls to what is certain. */
static void take_text(ds_openai_choice *c, const char *text, size_t length) {
    ds_text passed = {0};
    count_characters(c, text, length);
    ds_stop_filter_push(&c->filter, text, length, &passed);
    if (passed.length > 0)
        ds_tool_reader_push(&c->reader, passed.data, passed.length, &c->content);
    c->content.poisoned = c->content.poisoned || passed.poisoned;
    ds_text_clear(&passed);
}

ds_status ds_openai_answer_token(ds_openai_answer *a, int i, const ds_event *event, bool *stopped) {
    ds_openai_choice *c = &a->choices[i];
    const char *text = NULL, *mark = ds_tools_mark(a->tools, a->tokenizer, event->token);
    size_t length = 0;
    c->n_tokens++;
    if (a->logprobs)
        note_logprob(a, c, event);
    /* models' vocabularies are often padded: what the tokenizer does not know has no text */
    if (event->token < ds_tokenizer_vocab_size(a->tokenizer))
        DS_TRY(ds_detokenizer_push(c->detokenizer, event->token, &text, &length));
    take_text(c, text, length);
    if (mark)
        take_text(c, mark, strlen(mark));
    *stopped = c->filter.stopped || (a->one_call && json_array_size(c->reader.calls) > 0);
    if (a->stream && !*stopped && c->content.length > 0)
        write_choice(a, i, piece(a, c), NULL);
    if (a->stream)
        write_new_calls(a, i);
    return check(a, c);
}

/* Words beside calls: blanks that stood around these are none. */
static json_t *message_content(ds_openai_choice *c) {
    while (c->content.length > 0 && strchr(" \t\r\n", c->content.data[c->content.length - 1]))
        c->content.length--;
    if (c->content.length > 0)
        return take_content(c);
    ds_text_clear(&c->content);
    return json_null();
}

static json_t *message_of(const ds_openai_answer *a, int i) {
    ds_openai_choice *c = &a->choices[i];
    const size_t n = json_array_size(c->reader.calls);
    if (n == 0)
        return json_pack("{s:s, s:o, s:n}", "role", "assistant", "content", take_content(c),
                         "refusal");
    json_t *calls = json_array();
    for (size_t k = 0; k < n; k++)
        json_array_append_new(calls, call_json(a, i, k));
    return json_pack("{s:s, s:o, s:n, s:o}", "role", "assistant", "content", message_content(c),
                     "refusal", "tool_calls", calls);
}

static void keep_whole(ds_openai_answer *a, int i, const char *reason) {
    ds_openai_choice *c = &a->choices[i];
    json_t *payload = a->chat ? message_of(a, i) : take_content(c);
    json_t *logprobs = take_logprobs(a, c);
    c->whole = json_pack("{s:i, s:o, s:o, s:s}", "index", i, a->chat ? "message" : "text", payload,
                         "logprobs", logprobs, "finish_reason", reason);
    a->out.poisoned = a->out.poisoned || !c->whole;
}

static void write_whole(ds_openai_answer *a) {
    json_t *list = json_array();
    for (int i = 0; i < a->n; i++) {
        json_array_append_new(list, a->choices[i].whole);
        a->choices[i].whole = NULL;
    }
    json_t *whole = envelope(a, list);
    if (whole)
        json_object_set_new(whole, "usage", usage(a));
    ds_json_write(&a->out, whole);
}

static void end_stream(ds_openai_answer *a) {
    if (a->include_usage) {
        json_t *event = envelope(a, json_array());
        if (event)
            json_object_set_new(event, "usage", usage(a));
        write_event(a, event);
    }
    ds_text_puts(&a->out, "data: [DONE]\n\n");
}

static ds_status take_rest(ds_openai_choice *c) {
    const char *text = NULL;
    size_t length = 0;
    ds_text rest = {0};
    DS_TRY(ds_detokenizer_finish(c->detokenizer, &text, &length));
    ds_stop_filter_push(&c->filter, text, length, &rest);
    ds_stop_filter_finish(&c->filter, &rest);
    if (rest.length > 0)
        ds_tool_reader_push(&c->reader, rest.data, rest.length, &c->content);
    ds_tool_reader_finish(&c->reader, &c->content);
    c->content.poisoned = c->content.poisoned || rest.poisoned;
    ds_text_clear(&rest);
    return DS_OK;
}

ds_status ds_openai_answer_finish(ds_openai_answer *a, int i, const char *reason) {
    ds_openai_choice *c = &a->choices[i];
    DS_TRY(take_rest(c));
    if (json_array_size(c->reader.calls) > 0)
        reason = "tool_calls";
    c->finished = true;
    a->n_finished++;
    if (!a->stream) {
        keep_whole(a, i, reason);
        if (a->n_finished == a->n)
            write_whole(a);
        return check(a, c);
    }
    if (c->content.length > 0 || json_array_size(c->tokens) > 0)
        write_choice(a, i, piece(a, c), NULL);
    write_new_calls(a, i);
    write_choice(a, i, a->chat ? json_object() : json_string(""), reason);
    if (a->n_finished == a->n)
        end_stream(a);
    return check(a, c);
}

void ds_openai_answer_fail(ds_openai_answer *a, const char *message, const char *type) {
    ds_text_puts(&a->out, "data: ");
    ds_openai_error_write(&a->out, message, type, NULL, NULL);
    ds_text_puts(&a->out, "\n\n");
}

void ds_openai_answer_clear(ds_openai_answer *a) {
    for (int i = 0; a->choices && i < a->n; i++) {
        ds_openai_choice *c = &a->choices[i];
        ds_detokenizer_free(c->detokenizer);
        ds_stop_filter_clear(&c->filter);
        ds_tool_reader_clear(&c->reader);
        json_decref(c->tokens);
        json_decref(c->whole);
        ds_text_clear(&c->content);
    }
    free(a->choices);
    ds_text_clear(&a->out);
    *a = (ds_openai_answer){0};
}
