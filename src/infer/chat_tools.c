/* The notations themselves: what each writes of tools, calls and results. Sources are the templates
 * that the families publish; those of DeepSeek-V3 and R1 write calls and results but have no place
 * for the tools, which are told of here in words of our own. */
#include "infer/chat_tools.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "infer/tool_style.h"

static const ds_chat_message *message_at(const ds_chat_rendering *r, size_t i) {
    return &r->chat->messages[i];
}

static bool is_role(const ds_chat_message *m, const char *role) {
    return strcmp(m->role, role) == 0;
}

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* ---- Qwen 2.5 and 3 -------------------------------------------------------------------------- */

static void put_qwen_tools(ds_chat_rendering *r, const char *before) {
    ds_chat_put(r, before);
    ds_chat_put(r,
                "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
                "You are provided with function signatures within <tools></tools> XML tags:\n"
                "<tools>");
    for (size_t i = 0; i < json_array_size(r->chat->tools); i++) {
        ds_chat_put(r, "\n");
        ds_chat_put_json(r, json_array_get(r->chat->tools, i), 0);
    }
    ds_chat_put(r, "\n</tools>\n\nFor each function call, return a json object with function name "
                   "and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
                   "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>");
}

static void put_qwen2_system(ds_chat_rendering *r, bool has_system) {
    (void)has_system; /* there is always one */
    put_qwen_tools(r, "\n\n");
}

static void put_qwen3_system(ds_chat_rendering *r, bool has_system) {
    put_qwen_tools(r, has_system ? "\n\n" : "");
}

static void put_qwen_call(ds_chat_rendering *r, const json_t *call) {
    ds_chat_put(r, "<tool_call>\n{\"name\": \"");
    ds_chat_put_content(r, text_of(call, "name"), false);
    ds_chat_put(r, "\", \"arguments\": ");
    ds_chat_put_json(r, json_object_get(call, "arguments"), 0);
    ds_chat_put(r, "}\n</tool_call>");
}

static void put_qwen_calls(ds_chat_rendering *r, size_t i, const char *words) {
    json_t *calls = message_at(r, i)->tool_calls;
    for (size_t k = 0; k < json_array_size(calls); k++) {
        ds_chat_put(r, k > 0 || *words ? "\n" : "");
        put_qwen_call(r, json_array_get(calls, k));
    }
}

/* Results that follow each other share a turn. */
static void put_qwen_result(ds_chat_rendering *r, size_t i) {
    const bool first = i == 0 || !is_role(message_at(r, i - 1), "tool");
    const bool last = i + 1 == r->chat->n_messages || !is_role(message_at(r, i + 1), "tool");
    ds_chat_put(r, first ? "<|im_start|>user" : "");
    ds_chat_put(r, "\n<tool_response>\n");
    ds_chat_put_content(r, message_at(r, i)->content, false);
    ds_chat_put(r, "\n</tool_response>");
    ds_chat_put(r, last ? "<|im_end|>\n" : "");
}

const ds_tool_style ds_tools_qwen2 = {.opening = "<tool_call>\n",
                                      .begin = "<tool_call>",
                                      .skips = {"<tool_call>", "</tool_call>"},
                                      .arguments = "arguments",
                                      .put_system = put_qwen2_system,
                                      .call_within = true,
                                      .put_calls = put_qwen_calls,
                                      .put_result = put_qwen_result};

const ds_tool_style ds_tools_qwen3 = {.opening = "<tool_call>\n",
                                      .begin = "<tool_call>",
                                      .skips = {"<tool_call>", "</tool_call>"},
                                      .arguments = "arguments",
                                      .put_system = put_qwen3_system,
                                      .call_within = true,
                                      .put_calls = put_qwen_calls,
                                      .put_result = put_qwen_result};

/* ---- Llama 3.1 and later --------------------------------------------------------------------- */

static void put_llama3_before_system(ds_chat_rendering *r) {
    ds_chat_put(r, "Environment: ipython\n");
}

static void put_llama3_within_user(ds_chat_rendering *r, size_t i) {
    for (size_t k = 0; k < i; k++)
        if (!is_role(message_at(r, k), "system"))
            return; /* not the first one */
    ds_chat_put(r, "Given the following functions, please respond with a JSON for a function call "
                   "with its proper arguments that best answers the given prompt.\n\n"
                   "Respond in the format {\"name\": function name, \"parameters\": dictionary of "
                   "argument name and its value}.Do not use variables.\n\n");
    for (size_t k = 0; k < json_array_size(r->chat->tools); k++) {
        ds_chat_put_json(r, json_array_get(r->chat->tools, k), 4);
        ds_chat_put(r, "\n\n");
    }
}

static void put_llama3_calls(ds_chat_rendering *r, size_t i, const char *words) {
    const json_t *call = json_array_get(message_at(r, i)->tool_calls, 0);
    (void)words; /* the template leaves them out */
    ds_chat_put(r, "<|start_header_id|>assistant<|end_header_id|>\n\n{\"name\": \"");
    ds_chat_put_content(r, text_of(call, "name"), false);
    ds_chat_put(r, "\", \"parameters\": ");
    ds_chat_put_json(r, json_object_get(call, "arguments"), 0);
    ds_chat_put(r, "}<|eot_id|>");
}

static void put_llama3_result(ds_chat_rendering *r, size_t i) {
    json_t *text = json_string(message_at(r, i)->content);
    ds_chat_put(r, "<|start_header_id|>ipython<|end_header_id|>\n\n");
    if (text)
        ds_chat_put_json(r, text, 0); /* with quotes around it: so the template has it */
    r->failed = r->failed || !text;
    json_decref(text);
    ds_chat_put(r, "<|eot_id|>");
}

const ds_tool_style ds_tools_llama3 = {.opening = "",
                                       .marks = {"<|python_tag|>"},
                                       .skips = {"<|python_tag|>", ";"},
                                       .arguments = "parameters",
                                       .one_call = true,
                                       .put_before_system = put_llama3_before_system,
                                       .put_within_user = put_llama3_within_user,
                                       .put_calls = put_llama3_calls,
                                       .put_result = put_llama3_result};

/* ---- Mistral v0.3 and Nemo ------------------------------------------------------------------- */

/* The function's parts one by one, strings as they are: so the template has it. */
static void put_mistral_tool(ds_chat_rendering *r, json_t *function) {
    const char *key = NULL;
    json_t *value = NULL;
    bool first = true;
    ds_chat_put(r, "{\"type\": \"function\", \"function\": {");
    json_object_foreach(function, key, value) {
        if (strcmp(key, "return") == 0)
            continue;
        ds_chat_put(r, first ? "\"" : ", \"");
        ds_chat_put_content(r, key, false);
        ds_chat_put(r, json_is_string(value) ? "\": \"" : "\": ");
        if (json_is_string(value))
            ds_chat_put_content(r, json_string_value(value), false);
        else
            ds_chat_put_json(r, value, 0);
        ds_chat_put(r, json_is_string(value) ? "\"" : "");
        first = false;
    }
    ds_chat_put(r, "}}");
}

/* Before the last user turn, and any that says the same. */
static void put_mistral_tools(ds_chat_rendering *r, size_t i, const char *begin) {
    size_t last = r->chat->n_messages;
    while (last > 0 && !is_role(message_at(r, last - 1), "user"))
        last--;
    if (last == 0 || strcmp(message_at(r, i)->content, message_at(r, last - 1)->content) != 0)
        return;
    ds_chat_put(r, begin);
    for (size_t k = 0; k < json_array_size(r->chat->tools); k++) {
        ds_chat_put(r, k > 0 ? ", " : "");
        put_mistral_tool(r, json_object_get(json_array_get(r->chat->tools, k), "function"));
    }
    ds_chat_put(r, "][/AVAILABLE_TOOLS]");
}

static void put_mistral3_tools(ds_chat_rendering *r, size_t i) {
    put_mistral_tools(r, i, "[AVAILABLE_TOOLS] [");
}

static void put_nemo_tools(ds_chat_rendering *r, size_t i) {
    put_mistral_tools(r, i, "[AVAILABLE_TOOLS][");
}

/* The template wants ids of nine characters; others lose their beginning. */
static void put_mistral_id(ds_chat_rendering *r, const char *id) {
    enum { LENGTH = 9 };
    const size_t length = id ? strlen(id) : 0;
    ds_chat_put_content(r, length > LENGTH ? id + length - LENGTH : id ? id : "", false);
}

static void put_mistral_calls(ds_chat_rendering *r, size_t i, const char *begin) {
    json_t *calls = message_at(r, i)->tool_calls;
    ds_chat_put(r, begin);
    for (size_t k = 0; k < json_array_size(calls); k++) {
        const json_t *call = json_array_get(calls, k);
        json_t *name = json_object_get(call, "name");
        ds_chat_put(r, k > 0 ? ", {\"name\": " : "{\"name\": ");
        ds_chat_put_json(r, name, 0);
        ds_chat_put(r, ", \"arguments\": ");
        ds_chat_put_json(r, json_object_get(call, "arguments"), 0);
        ds_chat_put(r, ", \"id\": \"");
        put_mistral_id(r, text_of(call, "id"));
        ds_chat_put(r, "\"}");
    }
    ds_chat_put(r, "]{eos}");
}

static void put_mistral3_calls(ds_chat_rendering *r, size_t i, const char *words) {
    (void)words; /* the template leaves them out */
    put_mistral_calls(r, i, "[TOOL_CALLS] [");
}

static void put_nemo_calls(ds_chat_rendering *r, size_t i, const char *words) {
    (void)words;
    put_mistral_calls(r, i, "[TOOL_CALLS][");
}

static void put_mistral_result(ds_chat_rendering *r, size_t i, const char *begin) {
    ds_chat_put(r, begin);
    ds_chat_put(r, "{\"content\": ");
    ds_chat_put_content(r, message_at(r, i)->content, false);
    ds_chat_put(r, ", \"call_id\": \"");
    put_mistral_id(r, message_at(r, i)->tool_call_id);
    ds_chat_put(r, "\"}[/TOOL_RESULTS]");
}

static void put_mistral3_result(ds_chat_rendering *r, size_t i) {
    put_mistral_result(r, i, "[TOOL_RESULTS] ");
}

static void put_nemo_result(ds_chat_rendering *r, size_t i) {
    put_mistral_result(r, i, "[TOOL_RESULTS]");
}

const ds_tool_style ds_tools_mistral3 = {.opening = "[TOOL_CALLS] [",
                                         .marks = {"[TOOL_CALLS]"},
                                         .begin = "[TOOL_CALLS]",
                                         .skips = {"[TOOL_CALLS]", "[", ",", "]"},
                                         .arguments = "arguments",
                                         .put_before_user = put_mistral3_tools,
                                         .put_calls = put_mistral3_calls,
                                         .put_result = put_mistral3_result};

const ds_tool_style ds_tools_nemo = {.opening = "[TOOL_CALLS][",
                                     .marks = {"[TOOL_CALLS]"},
                                     .begin = "[TOOL_CALLS]",
                                     .skips = {"[TOOL_CALLS]", "[", ",", "]"},
                                     .arguments = "arguments",
                                     .put_before_user = put_nemo_tools,
                                     .put_calls = put_nemo_calls,
                                     .put_result = put_nemo_result};

/* ---- DeepSeek V3 and R1 ---------------------------------------------------------------------- */

#define CALLS_BEGIN  "<｜tool▁calls▁begin｜>"
#define CALLS_END    "<｜tool▁calls▁end｜>"
#define CALL_BEGIN   "<｜tool▁call▁begin｜>"
#define CALL_END     "<｜tool▁call▁end｜>"
#define NAME_FOLLOWS "function<｜tool▁sep｜>"

static void put_deepseek_system(ds_chat_rendering *r, bool has_system) {
    ds_chat_put(r, has_system ? "\n\n" : "");
    ds_chat_put(r, "These functions can be called:\n");
    for (size_t k = 0; k < json_array_size(r->chat->tools); k++) {
        ds_chat_put_json(r, json_array_get(r->chat->tools, k), 0);
        ds_chat_put(r, "\n");
    }
    ds_chat_put(r, "To call one, answer with nothing but this, its name and its arguments as "
                   "JSON:\n" CALLS_BEGIN CALL_BEGIN NAME_FOLLOWS "name\n```json\n"
                   "{\"argument\": \"value\"}\n```" CALL_END CALLS_END "\n");
}

static void put_deepseek_calls(ds_chat_rendering *r, size_t i, const char *words) {
    json_t *calls = message_at(r, i)->tool_calls;
    (void)words;
    ds_chat_put(r, CALLS_BEGIN);
    for (size_t k = 0; k < json_array_size(calls); k++) {
        const json_t *call = json_array_get(calls, k);
        ds_chat_put(r, k > 0 ? "\n" CALL_BEGIN NAME_FOLLOWS : CALL_BEGIN NAME_FOLLOWS);
        ds_chat_put_content(r, text_of(call, "name"), false);
        ds_chat_put(r, "\n```json\n");
        ds_chat_put_json(r, json_object_get(call, "arguments"), 0);
        ds_chat_put(r, "\n```" CALL_END);
    }
    ds_chat_put(r, CALLS_END);
}

static void put_deepseek_result(ds_chat_rendering *r, size_t i) {
    const bool first = i == 0 || !is_role(message_at(r, i - 1), "tool");
    const bool last = i + 1 == r->chat->n_messages || !is_role(message_at(r, i + 1), "tool");
    ds_chat_put(r, first ? "<｜tool▁outputs▁begin｜>" : "\n");
    ds_chat_put(r, "<｜tool▁output▁begin｜>");
    ds_chat_put_content(r, message_at(r, i)->content, false);
    ds_chat_put(r, "<｜tool▁output▁end｜>");
    ds_chat_put(r, last ? "<｜tool▁outputs▁end｜>" : "");
}

const ds_tool_style ds_tools_deepseek3 = {
    .opening = CALLS_BEGIN CALL_BEGIN NAME_FOLLOWS,
    .marks = {CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, "<｜tool▁sep｜>"},
    .begin = CALLS_BEGIN,
    .skips = {CALLS_BEGIN, CALL_BEGIN, NAME_FOLLOWS, "```", CALL_END, CALLS_END},
    .name_end = "\n```json\n",
    .call_within = true,
    .answer_within = true,
    .put_system = put_deepseek_system,
    .put_calls = put_deepseek_calls,
    .put_result = put_deepseek_result};

/* ---- by notation ----------------------------------------------------------------------------- */

ds_status ds_tools_check(const ds_tool_style *style, const ds_chat *chat) {
    for (size_t i = 0; i < chat->n_messages; i++) {
        const ds_chat_message *m = &chat->messages[i];
        const bool speaks = is_role(m, "tool") || json_array_size(m->tool_calls) > 0;
        if (speaks && !style)
            return ds_fail(DS_INVALID,
                           "message %zu: the model's chat template has no place for "
                           "tools",
                           i);
        if (style && style->one_call && json_array_size(m->tool_calls) > 1)
            return ds_fail(DS_INVALID,
                           "message %zu: the model's chat template takes one tool call a message, "
                           "not %zu",
                           i, json_array_size(m->tool_calls));
    }
    return !json_array_size(chat->tools) || style
               ? DS_OK
               : ds_fail(DS_INVALID, "the model's chat template has no place for tools");
}

void ds_tools_put_before_system(const ds_tool_style *style, ds_chat_rendering *r) {
    if (style && style->put_before_system && json_array_size(r->chat->tools) > 0)
        style->put_before_system(r);
}

void ds_tools_put_system(const ds_tool_style *style, ds_chat_rendering *r, bool has_system) {
    if (style && style->put_system && json_array_size(r->chat->tools) > 0)
        style->put_system(r, has_system);
}

void ds_tools_put_before_user(const ds_tool_style *style, ds_chat_rendering *r, size_t i) {
    if (style && style->put_before_user && json_array_size(r->chat->tools) > 0)
        style->put_before_user(r, i);
}

void ds_tools_put_within_user(const ds_tool_style *style, ds_chat_rendering *r, size_t i) {
    if (style && style->put_within_user && json_array_size(r->chat->tools) > 0)
        style->put_within_user(r, i);
}

void ds_tools_put_calls(const ds_tool_style *style, ds_chat_rendering *r, size_t i,
                        const char *words) {
    style->put_calls(r, i, words);
}

bool ds_tools_call_within(const ds_tool_style *style) {
    return style->call_within;
}

void ds_tools_put_result(const ds_tool_style *style, ds_chat_rendering *r, size_t i) {
    style->put_result(r, i);
}

bool ds_tools_answer_within(const ds_tool_style *style) {
    return style && style->answer_within;
}

void ds_tools_put_opening(const ds_tool_style *style, ds_chat_rendering *r) {
    ds_chat_put(r, style->opening);
}
