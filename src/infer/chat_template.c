#include "infer/chat_template.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/gguf.h"
#include "base/text.h"
#include "infer/chat_tools.h"
#include "infer/gguf_settings.h"

/* What stands around a message, as ds_chat_put takes it. */
typedef struct turn {
    const char *before, *after;
} turn;

typedef enum system_place {
    SYSTEM_TURN,          /* a turn of its own */
    SYSTEM_IN_FIRST_USER, /* inside the first user turn */
    SYSTEM_IN_LAST_USER,  /* inside the last one */
    SYSTEM_FIRST,         /* all of them, before any turn */
} system_place;

struct ds_chat_family {
    const char *name;
    const char *tells[3]; /* all stand in the Jinja program */
    const char *begin, *default_system;
    const char *preface; /* begins the first system turn */
    turn system, user, assistant;
    const char *generate; /* begins the answer */
    const char *stop;
    system_place place;
    bool trim_user, trim_assistant; /* no white space around a message */
    /* of earlier answers: what stands up to "</think>", and line breaks after it */
    bool drop_thoughts, drop_breaks;
    bool keep_last_thoughts;    /* those after the last question are written again */
    bool system_at_end_only;    /* inside the last user turn, if nothing follows it */
    const ds_tool_style *tools; /* NULL: the template has no place for them */
};

#define CHATML_TURNS                                                                               \
    .system = {"<|im_start|>system\n", "<|im_end|>\n"},                                            \
    .user = {"<|im_start|>user\n", "<|im_end|>\n"},                                                \
    .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},                                      \
    .generate = "<|im_start|>assistant\n"

#define LLAMA3_HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define LLAMA3_TURNS                                                                               \
    .begin = "{bos}", .user = {LLAMA3_HEADER("user"), "<|eot_id|>"},                               \
    .assistant = {LLAMA3_HEADER("assistant"), "<|eot_id|>"},                                       \
    .generate = LLAMA3_HEADER("assistant"), .trim_user = true, .trim_assistant = true

#define DEEPSEEK3_TURNS                                                                            \
    .begin = "{bos}", .system = {"", ""}, .place = SYSTEM_FIRST, .user = {"<｜User｜>", ""},       \
    .assistant = {"<｜Assistant｜>", "<｜end▁of▁sentence｜>"}

/* The first row whose telltales fit is taken: special cases stand above general ones. */
static const ds_chat_family families[] = {
    {.name = "Llama 3.2",
     .tells = {"<|start_header_id|>", "Cutting Knowledge Date", "strftime_now"},
     LLAMA3_TURNS,
     .default_system = "",
     .system = {LLAMA3_HEADER("system"), "<|eot_id|>"},
     .preface = "Cutting Knowledge Date: December 2023\nToday Date: {today}\n\n",
     .tools = &ds_tools_llama3},
    {.name = "Llama 3.1",
     .tells = {"<|start_header_id|>", "Cutting Knowledge Date"},
     LLAMA3_TURNS,
     .default_system = "",
     .system = {LLAMA3_HEADER("system"), "<|eot_id|>"},
     .preface = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
     .tools = &ds_tools_llama3},
    {.name = "Llama 3",
     .tells = {"<|start_header_id|>", "<|eot_id|>"},
     LLAMA3_TURNS,
     .system = {LLAMA3_HEADER("system"), "<|eot_id|>"}},
    {.name = "DeepSeek R1",
     .tells = {"<｜User｜>", "'<｜Assistant｜><think>"},
     DEEPSEEK3_TURNS,
     .tools = &ds_tools_deepseek3,
     .drop_thoughts = true,
     .generate = "<｜Assistant｜><think>\n"},
    {.name = "DeepSeek V3",
     .tells = {"<｜Assistant｜>", "<｜User｜>"},
     DEEPSEEK3_TURNS,
     .tools = &ds_tools_deepseek3,
     .drop_thoughts = true,
     .generate = "<｜Assistant｜>"},
    {.name = "DeepSeek V2",
     .tells = {"'User: ' + message['content']", "'Assistant: ' + message['content'] + eos_token"},
     .begin = "{bos}",
     .system = {"", "\n\n"},
     .user = {"User: ", "\n\n"},
     .assistant = {"Assistant: ", "{eos}"},
     .generate = "Assistant:",
     .stop = "\n\nUser:"},
    {.name = "Qwen 3",
     .tells = {"<|im_start|>", "reasoning_content", "</think>"},
     CHATML_TURNS,
     .drop_thoughts = true,
     .drop_breaks = true,
     .keep_last_thoughts = true,
     .tools = &ds_tools_qwen3},
    {.name = "Qwen 2.5",
     .tells = {"<|im_start|>", "You are Qwen, created by Alibaba Cloud. You are a helpful"},
     CHATML_TURNS,
     .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
     .tools = &ds_tools_qwen2},
    {.name = "SmolLM2",
     .tells = {"<|im_start|>", "You are a helpful AI assistant named SmolLM, trained by Hugging "},
     CHATML_TURNS,
     .default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
    {.name = "Qwen 2",
     .tells = {"<|im_start|>system", "You are a helpful assistant.<|im_end|>"},
     CHATML_TURNS,
     .default_system = "You are a helpful assistant."},
    {.name = "Qwen 1.5",
     .tells = {"<|im_start|>system", "You are a helpful assistant<|im_end|>"},
     CHATML_TURNS,
     .default_system = "You are a helpful assistant"},
    {.name = "ChatML", .tells = {"<|im_start|>", "<|im_end|>"}, CHATML_TURNS},
    {.name = "Zephyr",
     .tells = {"<|user|>", "<|system|>", "message['content'] + eos_token"},
     .system = {"<|system|>\n", "{eos}\n"},
     .user = {"<|user|>\n", "{eos}\n"},
     .assistant = {"<|assistant|>\n", "{eos}\n"},
     .generate = "<|assistant|>\n"},
    {.name = "Llama 2",
     .tells = {"[INST]", "<<SYS>>", "bos_token + '[INST] '"},
     .place = SYSTEM_IN_FIRST_USER,
     .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
     .user = {"{bos}[INST] ", " [/INST]"},
     .assistant = {" ", " {eos}"},
     .trim_user = true,
     .trim_assistant = true},
    {.name = "Mistral Nemo",
     .tells = {"\"[INST]\" + ", "[/INST]", "[AVAILABLE_TOOLS]["},
     .begin = "{bos}",
     .place = SYSTEM_IN_LAST_USER,
     .system_at_end_only = true,
     .system = {"", "\n\n"},
     .user = {"[INST]", "[/INST]"},
     .assistant = {"", "{eos}"},
     .tools = &ds_tools_nemo},
    {.name = "Mistral v3",
     .tells = {"[INST]", "[/INST]", "[AVAILABLE_TOOLS]"},
     .begin = "{bos}",
     .place = SYSTEM_IN_LAST_USER,
     .system = {"", "\n\n"},
     .user = {"[INST] ", "[/INST]"},
     .assistant = {" ", "{eos}"},
     .trim_assistant = true,
     .system_at_end_only = true,
     .tools = &ds_tools_mistral3},
    {.name = "Mistral v0.1",
     .tells = {"'[INST] ' + message['content'] + ' [/INST]'", "eos_token + ' '"},
     .begin = "{bos}",
     .place = SYSTEM_IN_FIRST_USER,
     .system = {"", "\n\n"},
     .user = {"[INST] ", " [/INST]"},
     .assistant = {"", "{eos} "}},
    {.name = "Mistral v0.2",
     .tells = {"'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token"},
     .begin = "{bos}",
     .place = SYSTEM_IN_FIRST_USER,
     .system = {"", "\n\n"},
     .user = {"[INST] ", " [/INST]"},
     .assistant = {"", "{eos}"}},
};

static const ds_chat_family plain = {
    .name = "plain",
    .system = {"", "\n\n"},
    .user = {"User: ", "\n"},
    .assistant = {"Assistant: ", "\n"},
    .generate = "Assistant:",
    .stop = "\nUser:",
    .trim_user = true,
    .trim_assistant = true,
};

static bool tells_fit(const ds_chat_family *f, const char *jinja) {
    for (size_t i = 0; i < sizeof f->tells / sizeof *f->tells && f->tells[i]; i++)
        if (!strstr(jinja, f->tells[i]))
            return false;
    return true;
}

const ds_chat_family *ds_chat_family_recognise(const char *jinja) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (tells_fit(&families[i], jinja))
            return &families[i];
    return NULL;
}

const ds_chat_family *ds_chat_family_plain(void) {
    return &plain;
}

const char *ds_chat_family_name(const ds_chat_family *f) {
    return f->name;
}

const ds_tool_style *ds_chat_family_tools(const ds_chat_family *f) {
    return f->tools;
}

const char *ds_chat_family_stop(const ds_chat_family *f) {
    return f->stop;
}

/* ---- reading --------------------------------------------------------------------------------- */

enum { FILE_LIMIT = 16 << 20 };

static void copy_mark(json_t *config, const char *key, char *out, size_t size) {
    json_t *value = json_object_get(config, key);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (json_is_string(value) && json_string_length(value) < size)
        memcpy(out, json_string_value(value), json_string_length(value) + 1);
}

/* A string, or a list of named ones of which "default" is meant. */
static const char *find_jinja(json_t *config) {
    json_t *value = json_object_get(config, "chat_template");
    for (size_t i = 0; i < json_array_size(value); i++) {
        json_t *row = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(row, "name"));
        if (name && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(row, "template"));
    }
    return json_string_value(value);
}

static ds_status read_config(const char *folder, json_t **config) {
    char path[PATH_MAX], *text = NULL;
    size_t size = 0;
    json_error_t error;
    if (ds_gguf_is(folder))
        return ds_gguf_settings(folder, config);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    if (!ds_file_exists(path))
        return DS_OK;
    DS_TRY(ds_file_read(path, FILE_LIMIT, &text, &size));
    /* "model_max_length" is often 1e30, written out */
    *config = json_loadb(text, size, JSON_DECODE_INT_AS_REAL, &error);
    free(text);
    return *config ? DS_OK
                   : ds_fail(DS_CORRUPT, "%s:%d: no valid JSON: %s", path, error.line, error.text);
}

ds_status ds_chat_template_load(const char *folder, ds_chat_template *out) {
    *out = (ds_chat_template){.family = &plain};
    json_t *config = NULL;
    DS_TRY(read_config(folder, &config));
    copy_mark(config, "bos_token", out->bos, sizeof out->bos);
    copy_mark(config, "eos_token", out->eos, sizeof out->eos);
    const char *jinja = find_jinja(config);
    char path[PATH_MAX], *file = NULL;
    size_t size = 0;
    snprintf(path, sizeof path, "%s/chat_template.jinja", folder);
    ds_status status = DS_OK;
    if (!jinja && ds_file_exists(path)) {
        status = ds_file_read(path, FILE_LIMIT, &file, &size);
        jinja = file;
    }
    const ds_chat_family *found = jinja ? ds_chat_family_recognise(jinja) : NULL;
    if (found) {
        out->family = found;
        out->recognised = true;
    }
    free(file);
    json_decref(config);
    return status;
}

/* ---- rendering ------------------------------------------------------------------------------- */

typedef ds_chat_rendering rendering;

static void put_turn(rendering *r, turn around, const char *content, bool trim) {
    ds_chat_put(r, around.before);
    ds_chat_put_content(r, content, trim);
    ds_chat_put(r, around.after);
}

static const char *without_thoughts(const ds_chat_family *f, const char *content) {
    static const char end[] = "</think>";
    if (!f->drop_thoughts || !strstr(content, end))
        return content;
    for (const char *at; (at = strstr(content, end));)
        content = at + sizeof end - 1;
    while (f->drop_breaks && *content == '\n')
        content++;
    return content;
}

static bool is_role(const ds_chat_message *m, const char *role) {
    return strcmp(m->role, role) == 0;
}

/* Which user turn the system's words go into; n: none. */
static size_t system_host(const ds_chat_family *f, const ds_chat *c) {
    size_t host = c->n_messages;
    for (size_t i = 0; i < c->n_messages; i++)
        if (is_role(&c->messages[i], "user") &&
            (host == c->n_messages || f->place == SYSTEM_IN_LAST_USER))
            host = i;
    return f->system_at_end_only && host + 1 != c->n_messages ? c->n_messages : host;
}

static void put_systems(rendering *r) {
    for (size_t i = 0; i < r->chat->n_messages; i++)
        if (is_role(&r->chat->messages[i], "system"))
            put_turn(r, r->t->family->system, r->chat->messages[i].content, false);
}

static void put_user(rendering *r, size_t i) {
    const ds_chat_family *f = r->t->family;
    const bool is_host = (f->place == SYSTEM_IN_FIRST_USER || f->place == SYSTEM_IN_LAST_USER) &&
                         i == system_host(f, r->chat);
    ds_tools_put_before_user(f->tools, r, i);
    ds_chat_put(r, f->user.before);
    if (is_host)
        put_systems(r);
    ds_tools_put_within_user(f->tools, r, i);
    ds_chat_put_content(r, r->chat->messages[i].content, f->trim_user);
    ds_chat_put(r, f->user.after);
}

/* The first system turn, which also tells of the tools; content NULL: there is none given. */
static void put_first_system(rendering *r, const char *content) {
    const ds_chat_family *f = r->t->family;
    ds_chat_put(r, f->system.before);
    ds_tools_put_before_system(f->tools, r);
    ds_chat_put(r, f->preface);
    if (content)
        ds_chat_put_content(r, content, f->trim_user);
    else
        ds_chat_put(r, f->default_system);
    ds_tools_put_system(f->tools, r, content != NULL);
    ds_chat_put(r, f->system.after);
}

/* The thoughts of a message without line breaks around them; their length, 0 for none. */
static size_t find_thoughts(const char *content, const char **begin) {
    const char *end = strstr(content, "</think>");
    *begin = content;
    for (const char *at; end && (at = strstr(*begin, "<think>")) && at < end;)
        *begin = at + strlen("<think>");
    while (end && *begin < end && **begin == '\n')
        ++*begin;
    while (end && end > *begin && end[-1] == '\n')
        end--;
    return end ? (size_t)(end - *begin) : 0;
}

/* Thoughts after the last question stay: between calls of tools the model goes on thinking. */
static void put_thoughts(rendering *r, size_t i) {
    const size_t n = r->chat->n_messages;
    const char *begin = NULL;
    const size_t length = find_thoughts(r->chat->messages[i].content, &begin);
    if (!r->t->family->keep_last_thoughts || (length == 0 && i + 1 < n))
        return;
    for (size_t k = i; k < n; k++)
        if (is_role(&r->chat->messages[k], "user"))
            return;
    ds_chat_put(r, "<think>\n");
    ds_chat_put_span(r, begin, length);
    ds_chat_put(r, "\n</think>\n\n");
}

static void put_assistant(rendering *r, size_t i) {
    const ds_chat_family *f = r->t->family;
    const ds_chat_message *m = &r->chat->messages[i];
    const char *words = without_thoughts(f, m->content);
    const bool calls = json_array_size(m->tool_calls) > 0;
    if (calls && !ds_tools_call_within(f->tools)) {
        ds_tools_put_calls(f->tools, r, i, words);
        return;
    }
    const bool within =
        i > 0 && is_role(&r->chat->messages[i - 1], "tool") && ds_tools_answer_within(f->tools);
    ds_chat_put(r, within ? "" : f->assistant.before);
    put_thoughts(r, i);
    ds_chat_put_content(r, words, f->trim_assistant);
    if (calls)
        ds_tools_put_calls(f->tools, r, i, words);
    ds_chat_put(r, f->assistant.after);
}

static void put_message(rendering *r, size_t i) {
    const ds_chat_family *f = r->t->family;
    const ds_chat_message *m = &r->chat->messages[i];
    if (is_role(m, "user"))
        put_user(r, i);
    else if (is_role(m, "assistant"))
        put_assistant(r, i);
    else if (is_role(m, "tool"))
        ds_tools_put_result(f->tools, r, i);
    else if (f->place == SYSTEM_TURN && i > 0)
        put_turn(r, f->system, m->content, f->trim_user);
}

/* What stands before the first turn. */
static void put_beginning(rendering *r) {
    const ds_chat_family *f = r->t->family;
    const ds_chat *c = r->chat;
    const bool given = c->n_messages > 0 && is_role(&c->messages[0], "system");
    const bool has_tools = json_array_size(c->tools) > 0 && f->tools;
    ds_chat_put(r, f->begin);
    if (f->place == SYSTEM_FIRST) {
        put_systems(r);
        ds_tools_put_system(f->tools, r, given);
    } else if (f->place == SYSTEM_TURN && (given || f->default_system || has_tools)) {
        put_first_system(r, given ? c->messages[0].content : NULL);
    }
}

static ds_status check_roles(const ds_chat *chat) {
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    for (size_t i = 0; i < chat->n_messages; i++) {
        bool known = false;
        for (size_t k = 0; k < sizeof roles / sizeof *roles; k++)
            known = known || is_role(&chat->messages[i], roles[k]);
        if (!known)
            return ds_fail(DS_INVALID,
                           "message %zu: role '%s' is not system, user, assistant or tool", i,
                           chat->messages[i].role);
    }
    return DS_OK;
}

ds_status ds_chat_template_render(const ds_chat_template *t, const ds_chat *chat,
                                  ds_chat_text *out) {
    const ds_chat_family *f = t->family;
    rendering r = {.t = t, .chat = chat};
    DS_TRY(check_roles(chat));
    DS_TRY(ds_tools_check(f->tools, chat));
    put_beginning(&r);
    for (size_t i = 0; i < chat->n_messages; i++)
        put_message(&r, i);
    const bool within = chat->n_messages > 0 &&
                        is_role(&chat->messages[chat->n_messages - 1], "tool") &&
                        ds_tools_answer_within(f->tools);
    ds_chat_put(&r, within ? "" : f->generate);
    if (chat->calls && f->tools)
        ds_tools_put_opening(f->tools, &r);
    *out = (ds_chat_text){.length = r.text.length, .contents = r.contents, .n_contents = r.n};
    out->text = ds_text_take(&r.text);
    if (!out->text || r.failed) {
        ds_chat_text_clear(out);
        return ds_fail(DS_OUT_OF_MEMORY, "out of memory for a conversation");
    }
    return DS_OK;
}

void ds_chat_text_clear(ds_chat_text *text) {
    free(text->text);
    free(text->contents);
    *text = (ds_chat_text){0};
}
