/* Calls of tools in answers: reading them, and the grammar of one that must come. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "infer/grammar.h"
#include "infer/tool_style.h"

/* ---- marks ----------------------------------------------------------------------------------- */

const char *ds_tools_mark(const ds_tool_style *style, const ds_tokenizer *tok, int32_t id) {
    if (!style || !ds_tokenizer_is_special(tok, id))
        return NULL;
    size_t length = 0;
    const char *bytes = ds_tokenizer_bytes(tok, id, &length);
    for (size_t i = 0; bytes && i < DS_MOST_TOOL_MARKS && style->marks[i]; i++)
        if (strlen(style->marks[i]) == length && memcmp(style->marks[i], bytes, length) == 0)
            return style->marks[i];
    return NULL;
}

/* ---- reading --------------------------------------------------------------------------------- */

ds_status ds_tool_reader_begin(ds_tool_reader *t, const ds_tool_style *style, bool opened) {
    *t = (ds_tool_reader){.style = style, .within = opened, .calls = json_array()};
    return t->calls ? DS_OK : ds_fail(DS_OUT_OF_MEMORY, "out of memory for an answer");
}

void ds_tool_reader_clear(ds_tool_reader *t) {
    ds_text_clear(&t->held);
    json_decref(t->calls);
    *t = (ds_tool_reader){0};
}

static void drop(ds_tool_reader *t, size_t n) {
    memmove(t->held.data, t->held.data + n, t->held.length - n + 1);
    t->held.length -= n;
}

static void release(ds_tool_reader *t, size_t n, ds_text *words) {
    ds_text_append(words, t->held.data, n);
    for (size_t i = 0; i < n; i++)
        t->started = t->started || !strchr(" \t\r\n", t->held.data[i]);
    drop(t, n);
}

/* The longest ending of the held text that begins the mark. */
static size_t possible_beginning(const ds_text *held, const char *mark) {
    size_t n = strlen(mark) - 1;
    n = n < held->length ? n : held->length;
    while (n > 0 && memcmp(held->data + held->length - n, mark, n) != 0)
        n--;
    return n;
}

/* Bytes of the JSON object at the beginning of the text; 0: it is not whole, or none. */
static size_t object_length(const char *text, size_t length) {
    int depth = 0;
    bool in_string = false;
    if (length == 0 || *text != '{')
        return 0;
    for (size_t i = 0; i < length; i++) {
        const char c = text[i];
        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string && (c == '{' || c == '['))
            depth++;
        else if (!in_string && (c == '}' || c == ']') && --depth == 0)
            return i + 1;
    }
    return 0;
}

static bool add_call(ds_tool_reader *t, const char *name, size_t length, json_t *arguments) {
    char *text = json_is_string(arguments) ? NULL : json_dumps(arguments, JSON_ENCODE_ANY);
    json_t *call = json_pack("{s:s%, s:s}", "name", name, length, "arguments",
                             text ? text : json_string_value(arguments));
    free(text);
    return call && json_array_append_new(t->calls, call) == 0;
}

/* An object {"name": …, "arguments": …} of so many bytes. */
static bool add_object(ds_tool_reader *t, size_t length) {
    json_t *object = json_loadb(t->held.data, length, 0, NULL);
    json_t *name = json_object_get(object, "name");
    json_t *arguments = json_object_get(object, t->style->arguments);
    if (!arguments) /* models mix the two words up */
        arguments = json_object_get(object, "arguments");
    if (!arguments)
        arguments = json_object_get(object, "parameters");
    const bool good = json_is_string(name) && json_is_object(arguments) &&
                      add_call(t, json_string_value(name), json_string_length(name), arguments);
    json_decref(object);
    return good;
}

/* Blanks, and what stands around calls. Returns whether the rest may become more of that. */
static bool skip_around(ds_tool_reader *t) {
    for (bool again = true; again && t->held.length > 0;) {
        again = false;
        size_t n = strspn(t->held.data, " \t\r\n");
        for (size_t i = 0; n == 0 && i < DS_MOST_TOOL_MARKS && t->style->skips[i]; i++) {
            const char *mark = t->style->skips[i];
            const size_t length = strlen(mark);
            if (t->held.length >= length && memcmp(t->held.data, mark, length) == 0)
                n = length;
            else if (t->held.length < length && memcmp(t->held.data, mark, t->held.length) == 0)
                return true;
        }
        if (n > 0) {
            drop(t, n);
            again = true;
        }
    }
    return t->held.length == 0;
}

typedef enum step { WAIT, CALL, WORDS } step;

/* Name, mark, arguments, one after the other. */
static step read_named(ds_tool_reader *t) {
    const char *mark = t->style->name_end, *end = strstr(t->held.data, mark);
    if (!end) /* a name has no line break, but the mark begins with one */
        return strlen(t->held.data) > 256 ? WORDS : WAIT;
    const size_t name = (size_t)(end - t->held.data), begin = name + strlen(mark);
    const size_t length = object_length(t->held.data + begin, t->held.length - begin);
    if (length == 0)
        return t->held.length > begin && t->held.data[begin] != '{' ? WORDS : WAIT;
    json_t *arguments = json_loadb(t->held.data + begin, length, 0, NULL);
    const bool good = arguments && add_call(t, t->held.data, name, arguments);
    json_decref(arguments);
    if (!good)
        return WORDS;
    drop(t, begin + length);
    return CALL;
}

static step read_call(ds_tool_reader *t) {
    if (skip_around(t))
        return WAIT;
    if (t->style->name_end)
        return read_named(t);
    if (t->held.data[0] != '{')
        return WORDS;
    const size_t length = object_length(t->held.data, t->held.length);
    if (length == 0)
        return WAIT;
    if (!add_object(t, length))
        return WORDS;
    drop(t, length);
    return CALL;
}

/* Looks for the beginning of calls. Returns whether it was found. */
static bool find_begin(ds_tool_reader *t, ds_text *words) {
    const char *begin = t->style->begin;
    if (!begin) { /* all of an answer, from its first character on */
        const size_t blank = strspn(t->held.data, " \t\r\n");
        const char *mark = t->style->marks[0];
        const size_t left = t->held.length - blank;
        const size_t known = mark && left < strlen(mark) ? left : mark ? strlen(mark) : 0;
        if (!t->started && left == 0)
            return false;
        if (!t->started && (t->held.data[blank] == '{' ||
                            (mark && memcmp(t->held.data + blank, mark, known) == 0)))
            return true;
        release(t, t->held.length, words);
        return false;
    }
    const char *at = memmem(t->held.data, t->held.length, begin, strlen(begin));
    release(t,
            at ? (size_t)(at - t->held.data) : t->held.length - possible_beginning(&t->held, begin),
            words);
    return at != NULL;
}

void ds_tool_reader_push(ds_tool_reader *t, const char *text, size_t length, ds_text *words) {
    if (!t->style) {
        ds_text_append(words, text, length);
        return;
    }
    ds_text_append(&t->held, text, length);
    words->poisoned = words->poisoned || t->held.poisoned;
    while (t->held.length > 0 && !t->held.poisoned) {
        if (!t->within) {
            t->within = find_begin(t, words);
            if (!t->within)
                return;
        }
        const step next = read_call(t);
        if (next == WAIT)
            return;
        if (next == WORDS) { /* not a call after all, or words after the last one */
            t->within = false;
            release(t, 1, words);
            while (t->held.length > 0 && (t->held.data[0] & 0xC0) == 0x80)
                release(t, 1, words);
        }
    }
}

void ds_tool_reader_finish(ds_tool_reader *t, ds_text *words) {
    if (t->style && t->held.length > 0 && !t->held.poisoned)
        release(t, t->held.length, words);
}

/* ---- the grammar of a call ------------------------------------------------------------------- */

static ds_status add_tool(const ds_tool_style *style, ds_rules *rules, json_t *tool,
                          int32_t *start) {
    json_t *function = json_object_get(tool, "function");
    json_t *parameters = json_object_get(function, "parameters");
    const char *name = json_string_value(json_object_get(function, "name"));
    json_t *none = json_pack("{s:s, s:{}}", "type", "object", "properties");
    int32_t rule = -1;
    if (!name || !none) {
        json_decref(none);
        return ds_fail(DS_INVALID, "a tool has no name");
    }
    const ds_status status = ds_json_schema_add(rules, parameters ? parameters : none, &rule);
    json_decref(none);
    if (status != DS_OK)
        return ds_fail_within(status, "tool '%.64s'", name);
    const char *end = style->name_end ? "" : "}";
    const int32_t arguments = ds_rules_call(rules, rule, ds_rules_text(rules, end, DS_RULES_END));
    ds_text head = {0};
    if (style->name_end)
        ds_text_printf(&head, "%s%s", name, style->name_end);
    else /* names are of letters, digits, - and _ */
        ds_text_printf(&head, "{\"name\": \"%s\", \"%s\": ", name, style->arguments);
    *start = ds_rules_fork(
        rules, *start, ds_rules_literal(rules, head.data ? head.data : "", head.length, arguments));
    rules->out_of_memory = rules->out_of_memory || head.poisoned;
    ds_text_clear(&head);
    return DS_OK;
}

ds_status ds_tools_grammar(const ds_tool_style *style, ds_model *model, const json_t *tools,
                           ds_grammar **out) {
    ds_rules rules = {0};
    const int32_t whole = ds_rules_new(&rules);
    int32_t start = DS_RULES_NOTHING;
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const ds_status status = add_tool(style, &rules, json_array_get(tools, i), &start);
        if (status != DS_OK) {
            ds_rules_clear(&rules);
            return status;
        }
    }
    ds_rules_define(&rules, whole, start);
    return ds_grammar_from_rules(model, &rules, "tools", out);
}
