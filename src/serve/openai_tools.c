/* What a request says of tools, and of the form that its answer must have. */
#include <string.h>

#include "base/error.h"
#include "serve/openai_reading.h"

/* ---- tools ----------------------------------------------------------------------------------- */

static bool is_name(const json_t *v) {
    const char *s = json_string_value(v);
    const size_t n = json_string_length(v);
    if (!s || n < 1 || n > 64)
        return false;
    return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == n;
}

static ds_status check_tool(const ds_openai_reading *r, json_t *tool, size_t i) {
    const char *type = json_string_value(json_object_get(tool, "type"));
    json_t *function = json_object_get(tool, "function");
    json_t *description = ds_openai_value_of(function, "description");
    json_t *parameters = json_object_get(function, "parameters");
    if (!type || strcmp(type, "function") != 0 || !json_is_object(function))
        return ds_openai_wrong(
            r, "tools", "'tools[%zu]' must be {\"type\": \"function\", \"function\": {…}}", i);
    if (!is_name(json_object_get(function, "name")))
        return ds_openai_wrong(
            r, "tools", "'tools[%zu].function.name' must be 1 to 64 letters, digits, - and _", i);
    if (description && !json_is_string(description))
        return ds_openai_wrong(r, "tools", "'tools[%zu].function.description' must be a string", i);
    if (parameters && !json_is_object(parameters))
        return ds_openai_wrong(
            r, "tools", "'tools[%zu].function.parameters' must be a JSON schema, an object", i);
    return DS_OK;
}

static json_t *find_tool(json_t *tools, const char *name) {
    for (size_t i = 0; name && i < json_array_size(tools); i++) {
        json_t *function = json_object_get(json_array_get(tools, i), "function");
        if (strcmp(json_string_value(json_object_get(function, "name")), name) == 0)
            return json_array_get(tools, i);
    }
    return NULL;
}

static ds_status choose_one(const ds_openai_reading *r, json_t *choice, json_t *tools) {
    const char *name =
        json_string_value(json_object_get(json_object_get(choice, "function"), "name"));
    json_t *tool = find_tool(tools, name);
    if (!tool)
        return ds_openai_wrong(
            r, "tool_choice",
            "'tool_choice' must be \"none\", \"auto\", \"required\", or {\"type\": "
            "\"function\", \"function\": {\"name\": …}} of one of the tools");
    r->out->called = json_pack("[O]", tool);
    return r->out->called ? DS_OK : ds_fail(DS_OUT_OF_MEMORY, "out of memory for a request");
}

static ds_status read_choice(const ds_openai_reading *r, json_t *tools) {
    json_t *choice = ds_openai_value_of(r->root, "tool_choice");
    const char *word = json_string_value(choice);
    r->out->chat.tools = tools;
    if (!choice || (word && strcmp(word, "auto") == 0))
        return DS_OK;
    if (word && strcmp(word, "none") == 0) {
        r->out->chat.tools = NULL;
        return DS_OK;
    }
    if (word && strcmp(word, "required") == 0)
        r->out->called = json_incref(tools);
    else
        DS_TRY(choose_one(r, choice, tools));
    r->out->chat.calls = true;
    return DS_OK;
}

ds_status ds_openai_read_tools(const ds_openai_reading *r) {
    json_t *tools = ds_openai_value_of(r->root, "tools");
    json_t *choice = ds_openai_value_of(r->root, "tool_choice");
    json_t *parallel = ds_openai_value_of(r->root, "parallel_tool_calls");
    const char *word = json_string_value(choice);
    if (parallel && !json_is_boolean(parallel))
        return ds_openai_wrong(r, "parallel_tool_calls",
                               "'parallel_tool_calls' must be true or false, not %s",
                               ds_openai_type_of(parallel));
    r->out->one_call = json_is_false(parallel);
    if (tools && !json_is_array(tools))
        return ds_openai_wrong(r, "tools", "'tools' must be an array, not %s",
                               ds_openai_type_of(tools));
    if (json_array_size(tools) == 0 && choice &&
        !(word && (strcmp(word, "none") == 0 || strcmp(word, "auto") == 0)))
        return ds_openai_wrong(r, "tool_choice", "'tool_choice' needs 'tools'");
    if (json_array_size(tools) == 0)
        return DS_OK;
    if (r->out->kind == DS_OPENAI_COMPLETION)
        return ds_openai_wrong(r, "tools", "'tools' are for /v1/chat/completions");
    if (json_array_size(tools) > DS_OPENAI_MOST_TOOLS)
        return ds_openai_wrong(r, "tools", "'tools' has %zu, but may have %d at most",
                               json_array_size(tools), DS_OPENAI_MOST_TOOLS);
    for (size_t i = 0; i < json_array_size(tools); i++)
        DS_TRY(check_tool(r, json_array_get(tools, i), i));
    return read_choice(r, tools);
}

/* ---- messages -------------------------------------------------------------------------------- */

/* {"id", "function": {"name", "arguments": text}} as {"id", "name", "arguments": object}. */
static json_t *read_call(json_t *call) {
    json_error_t error;
    json_t *function = json_object_get(call, "function");
    json_t *name = json_object_get(function, "name");
    const char *id = json_string_value(json_object_get(call, "id"));
    const char *text = json_string_value(json_object_get(function, "arguments"));
    json_t *arguments = text ? json_loads(text, 0, &error) : NULL;
    json_t *out = NULL;
    if (is_name(name) && json_is_object(arguments))
        out =
            json_pack("{s:s, s:O, s:O}", "id", id ? id : "", "name", name, "arguments", arguments);
    json_decref(arguments);
    return out;
}

ds_status ds_openai_read_calls(const ds_openai_reading *r, json_t *message, size_t i,
                               ds_chat_message *out) {
    json_t *list = ds_openai_value_of(message, "tool_calls");
    json_t *id = ds_openai_value_of(message, "tool_call_id");
    if (id && !json_is_string(id))
        return ds_openai_wrong(r, "messages", "'messages[%zu].tool_call_id' must be a string", i);
    out->tool_call_id = json_string_value(id);
    if (!list)
        return DS_OK;
    if (!json_is_array(list) || strcmp(out->role, "assistant") != 0)
        return ds_openai_wrong(r, "messages",
                               "'messages[%zu].tool_calls' must be an array, of an assistant", i);
    json_t *calls = json_array();
    for (size_t k = 0; k < json_array_size(list); k++) {
        json_t *call = read_call(json_array_get(list, k));
        if (!call || json_array_append_new(calls, call) != 0) {
            json_decref(calls);
            return ds_openai_wrong(
                r, "messages",
                "'messages[%zu].tool_calls[%zu]' must be {\"id\": …, \"type\": \"function\", "
                "\"function\": {\"name\": …, \"arguments\": the text of a JSON object}}",
                i, k);
        }
    }
    out->tool_calls = calls; /* the message keeps it */
    return json_object_set_new(message, "tool_calls", calls) == 0
               ? DS_OK
               : ds_fail(DS_OUT_OF_MEMORY, "out of memory for a message");
}

/* ---- the form of the answer ------------------------------------------------------------------ */

static ds_status read_format(const ds_openai_reading *r, json_t *format) {
    const char *type = json_string_value(json_object_get(format, "type"));
    json_t *outer = json_object_get(format, "json_schema");
    if (type && strcmp(type, "text") == 0)
        return DS_OK;
    if (type && strcmp(type, "json_object") == 0) {
        r->out->schema = json_pack("{s:s}", "type", "object");
        return r->out->schema ? DS_OK : ds_fail(DS_OUT_OF_MEMORY, "out of memory for a request");
    }
    if (!type || strcmp(type, "json_schema") != 0)
        return ds_openai_wrong(r, "response_format",
                               "'response_format' must be {\"type\": \"text\"}, {\"type\": "
                               "\"json_object\"} or {\"type\": \"json_schema\", \"json_schema\": "
                               "{\"name\": …, \"schema\": {…}}}");
    json_t *schema = json_object_get(outer, "schema");
    if (!json_is_object(schema) && !json_is_boolean(schema))
        return ds_openai_wrong(r, "response_format",
                               "'response_format.json_schema.schema' must be a JSON schema");
    r->out->schema = json_incref(schema);
    return DS_OK;
}

ds_status ds_openai_read_form(const ds_openai_reading *r) {
    json_t *format = ds_openai_value_of(r->root, "response_format");
    json_t *grammar = ds_openai_value_of(r->root, "grammar");
    if (format)
        DS_TRY(read_format(r, format));
    if (grammar && !json_is_string(grammar))
        return ds_openai_wrong(r, "grammar", "'grammar' must be a string of rules in GBNF, not %s",
                               ds_openai_type_of(grammar));
    r->out->grammar = json_string_value(grammar);
    if (grammar && r->out->schema)
        return ds_openai_wrong(r, "grammar", "'grammar' and 'response_format' exclude each other");
    if ((grammar || r->out->schema) && r->out->chat.tools)
        return ds_openai_wrong(
            r, grammar ? "grammar" : "response_format",
            "'%s' and 'tools' exclude each other: such an answer could call none",
            grammar ? "grammar" : "response_format");
    return DS_OK;
}
