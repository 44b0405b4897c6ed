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
#include "infer/gguf_settings.h"

/* What stands around a message. "{bos}" and "{eos}" are the model's marks. */
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
    turn system, user, assistant;
    const char *generate; /* begins the answer */
    const char *stop;
    system_place place;
    bool trim_user, trim_assistant; /* no white space around a message */
    /* of earlier answers: what stands up to "</think>", and line breaks after it */
    bool drop_thoughts, drop_breaks;
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
    {.name = "Llama 3.1",
     .tells = {"<|start_header_id|>", "Cutting Knowledge Date"},
     LLAMA3_TURNS,
     .default_system = "",
     .system = {LLAMA3_HEADER("system") "Cutting Knowledge Date: December 2023\n"
                                        "Today Date: 26 Jul 2024\n\n",
                "<|eot_id|>"}},
    {.name = "Llama 3",
     .tells = {"<|start_header_id|>", "<|eot_id|>"},
     LLAMA3_TURNS,
     .system = {LLAMA3_HEADER("system"), "<|eot_id|>"}},
    {.name = "DeepSeek R1",
     .tells = {"<｜User｜>", "'<｜Assistant｜><think>"},
     DEEPSEEK3_TURNS,
     .drop_thoughts = true,
     .generate = "<｜Assistant｜><think>\n"},
    {.name = "DeepSeek V3",
     .tells = {"<｜Assistant｜>", "<｜User｜>"},
     DEEPSEEK3_TURNS,
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
     .drop_breaks = true},
    {.name = "Qwen 2.5",
     .tells = {"<|im_start|>", "You are Qwen, created by Alibaba Cloud. You are a helpful"},
     CHATML_TURNS,
     .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
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
    {.name = "Mistral v3",
     .tells = {"[INST]", "[/INST]", "[AVAILABLE_TOOLS]"},
     .begin = "{bos}",
     .place = SYSTEM_IN_LAST_USER,
     .system = {"", "\n\n"},
     .user = {"[INST] ", "[/INST]"},
     .assistant = {" ", "{eos}"},
     .trim_assistant = true},
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

typedef struct rendering {
    const ds_chat_template *t;
    ds_text text;
    ds_chat_span *contents;
    size_t n, capacity;
    bool failed;
} rendering;

static void put_marks(rendering *r, const char *s) {
    while (s && *s) {
        const char *brace = strchr(s, '{');
        ds_text_append(&r->text, s, brace ? (size_t)(brace - s) : strlen(s));
        if (!brace)
            return;
        const bool is_bos = strncmp(brace, "{bos}", 5) == 0;
        const bool is_mark = is_bos || strncmp(brace, "{eos}", 5) == 0;
        if (is_mark)
            ds_text_puts(&r->text, is_bos ? r->t->bos : r->t->eos);
        else
            ds_text_append(&r->text, brace, 1);
        s = brace + (is_mark ? 5 : 1);
    }
}

/* What Jinja's trim takes away of ASCII. */
static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void put_content(rendering *r, const char *s, size_t length, bool trim) {
    while (trim && length > 0 && is_space(*s))
        s++, length--;
    while (trim && length > 0 && is_space(s[length - 1]))
        length--;
    if (length == 0)
        return;
    ds_chat_span *grown = ds_grow(r->contents, &r->capacity, r->n + 1, sizeof *grown);
    if (!grown) {
        r->failed = true;
        return;
    }
    r->contents = grown;
    r->contents[r->n++] = (ds_chat_span){r->text.length, length};
    ds_text_append(&r->text, s, length);
}

static void put_turn(rendering *r, turn around, const char *content, bool trim) {
    put_marks(r, around.before);
    put_content(r, content, strlen(content), trim);
    put_marks(r, around.after);
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
static size_t system_host(const ds_chat_family *f, const ds_chat_message *messages, size_t n) {
    size_t host = n;
    for (size_t i = 0; i < n; i++)
        if (is_role(&messages[i], "user") && (host == n || f->place == SYSTEM_IN_LAST_USER))
            host = i;
    return host;
}

static void put_systems(rendering *r, const ds_chat_message *messages, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (is_role(&messages[i], "system"))
            put_turn(r, r->t->family->system, messages[i].content, false);
}

static void put_user(rendering *r, const ds_chat_message *messages, size_t n, size_t i) {
    const ds_chat_family *f = r->t->family;
    const bool is_host = (f->place == SYSTEM_IN_FIRST_USER || f->place == SYSTEM_IN_LAST_USER) &&
                         i == system_host(f, messages, n);
    put_marks(r, f->user.before);
    if (is_host)
        put_systems(r, messages, n);
    put_content(r, messages[i].content, strlen(messages[i].content), f->trim_user);
    put_marks(r, f->user.after);
}

static void put_message(rendering *r, const ds_chat_message *messages, size_t n, size_t i) {
    const ds_chat_family *f = r->t->family;
    const char *content = messages[i].content;
    if (is_role(&messages[i], "user"))
        put_user(r, messages, n, i);
    else if (is_role(&messages[i], "assistant"))
        put_turn(r, f->assistant, without_thoughts(f, content), f->trim_assistant);
    else if (f->place == SYSTEM_TURN)
        put_turn(r, f->system, content, f->trim_user);
}

ds_status ds_chat_template_render(const ds_chat_template *t, const ds_chat_message *messages,
                                  size_t n, ds_chat_text *out) {
    const ds_chat_family *f = t->family;
    rendering r = {.t = t};
    for (size_t i = 0; i < n; i++)
        if (!is_role(&messages[i], "system") && !is_role(&messages[i], "user") &&
            !is_role(&messages[i], "assistant"))
            return ds_fail(DS_INVALID, "message %zu: role '%s' is not system, user or assistant", i,
                           messages[i].role);
    put_marks(&r, f->begin);
    if (f->default_system && (n == 0 || !is_role(&messages[0], "system")))
        put_turn(&r, f->system, f->default_system, false);
    if (f->place == SYSTEM_FIRST)
        put_systems(&r, messages, n);
    for (size_t i = 0; i < n; i++)
        put_message(&r, messages, n, i);
    put_marks(&r, f->generate);
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
