/* Chat templates: every family is recognised from its published Jinja program and renders as
 * transformers does (data/goldens/chat_templates.json). */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "infer/chat_template.h"

static const char *string_of(json_t *object, const char *key) {
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

/* Calls as a message has them, the caller's; NULL for none. Arguments may be given as text. */
static json_t *calls_of(json_t *message) {
    json_t *list = json_object_get(message, "tool_calls"), *calls = list ? json_array() : NULL;
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *call = json_array_get(list, i), *function = json_object_get(call, "function");
        json_t *arguments = json_object_get(function, "arguments");
        json_t *object = json_is_string(arguments)
                             ? json_loads(json_string_value(arguments), 0, NULL)
                             : json_incref(arguments);
        json_array_append_new(calls, json_pack("{s:O, s:O, s:o}", "id", json_object_get(call, "id"),
                                               "name", json_object_get(function, "name"),
                                               "arguments", object));
    }
    return calls;
}

/* The day that Llama 3.2 writes stands in the file as {today}. */
static void expect_text(const char *text, const char *expected) {
    char today[32];
    const time_t now = time(NULL);
    struct tm day;
    strftime(today, sizeof today, "%d %b %Y", localtime_r(&now, &day));
    const char *at = strstr(expected, "{today}");
    if (!at) {
        assert_string_equal(text, expected);
        return;
    }
    const size_t before = (size_t)(at - expected);
    assert_memory_equal(text, expected, before);
    assert_memory_equal(text + before, today, strlen(today));
    assert_string_equal(text + before + strlen(today), at + strlen("{today}"));
}

static void check_case(const ds_chat_template *t, json_t *c) {
    json_t *list = json_object_get(c, "messages");
    ds_chat_message messages[16];
    const size_t n = json_array_size(list);
    assert_in_range(n, 1, 16);
    for (size_t i = 0; i < n; i++) {
        json_t *m = json_array_get(list, i);
        messages[i] = (ds_chat_message){.role = string_of(m, "role"),
                                        .content = string_of(m, "content"),
                                        .tool_calls = calls_of(m),
                                        .tool_call_id = string_of(m, "tool_call_id")};
    }
    const ds_chat chat = {
        .messages = messages, .n_messages = n, .tools = json_object_get(c, "tools")};
    ds_chat_text text;
    if (ds_chat_template_render(t, &chat, &text) != DS_OK)
        fail_msg("%s", ds_error());
    expect_text(text.text, string_of(c, "text"));
    assert_int_equal(text.length, strlen(text.text));
    for (size_t i = 0, end = 0; i < text.n_contents; i++) {
        assert_true(text.contents[i].start >= end);
        end = text.contents[i].start + text.contents[i].length;
        assert_true(end <= text.length);
    }
    for (size_t i = 0; i < n; i++)
        json_decref(messages[i].tool_calls);
    ds_chat_text_clear(&text);
}

static void test_families_as_transformers(void **state) {
    (void)state;
    json_t *rows = json_load_file(DS_TEST_DATA "/goldens/chat_templates.json", 0, NULL);
    assert_true(json_array_size(rows) >= 23);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        json_t *row = json_array_get(rows, i), *cases = json_object_get(row, "cases");
        ds_chat_template t = {.family = ds_chat_family_recognise(string_of(row, "chat_template"))};
        print_message("%s\n", string_of(row, "model"));
        assert_non_null(t.family);
        assert_string_equal(ds_chat_family_name(t.family), string_of(row, "family"));
        snprintf(t.bos, sizeof t.bos, "%s", string_of(row, "bos_token"));
        snprintf(t.eos, sizeof t.eos, "%s", string_of(row, "eos_token"));
        assert_true(json_array_size(cases) >= 4);
        for (size_t c = 0; c < json_array_size(cases); c++)
            check_case(&t, json_array_get(cases, c));
    }
    json_decref(rows);
}

static void write_file(const char *folder, const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void remove_file(const char *folder, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
}

static void test_from_a_folder(void **state) {
    (void)state;
    char folder[] = "/tmp/chat_template_XXXXXX";
    assert_non_null(mkdtemp(folder));
    ds_chat_template t;
    assert_int_equal(ds_chat_template_load(folder, &t), DS_OK); /* nothing there */
    assert_false(t.recognised);
    assert_ptr_equal(t.family, ds_chat_family_plain());
    write_file(folder, "tokenizer_config.json",
               "{\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": \"</s>\", "
               "\"model_max_length\": 1000000000000000019884624838656, \"chat_template\": ["
               "{\"name\": \"tool_use\", \"template\": \"x\"}, {\"name\": \"default\", "
               "\"template\": \"<|im_start|> <|im_end|>\"}]}");
    assert_int_equal(ds_chat_template_load(folder, &t), DS_OK);
    assert_true(t.recognised);
    assert_string_equal(ds_chat_family_name(t.family), "ChatML");
    assert_string_equal(t.bos, "<s>");
    assert_string_equal(t.eos, "</s>");
    write_file(folder, "tokenizer_config.json", "{\"chat_template\": \"{{ messages }}\"}");
    assert_int_equal(ds_chat_template_load(folder, &t), DS_OK);
    assert_false(t.recognised);
    write_file(folder, "tokenizer_config.json", "{}");
    write_file(folder, "chat_template.jinja", "<|start_header_id|> <|eot_id|>");
    assert_int_equal(ds_chat_template_load(folder, &t), DS_OK);
    assert_string_equal(ds_chat_family_name(t.family), "Llama 3");
    write_file(folder, "tokenizer_config.json", "{");
    assert_int_equal(ds_chat_template_load(folder, &t), DS_CORRUPT);
    remove_file(folder, "tokenizer_config.json");
    remove_file(folder, "chat_template.jinja");
    rmdir(folder);
}

static void test_plain_and_refused(void **state) {
    (void)state;
    const ds_chat_template t = {.family = ds_chat_family_plain()};
    const ds_chat_message talk[] = {{.role = "system", .content = "Be kind."},
                                    {.role = "user", .content = " Hi "},
                                    {.role = "assistant", .content = "Yes?"},
                                    {.role = "user", .content = "Go"}};
    ds_chat_text text;
    assert_int_equal(ds_chat_template_render(&t, &(ds_chat){talk, 4, NULL, false}, &text), DS_OK);
    assert_string_equal(text.text, "Be kind.\n\nUser: Hi\nAssistant: Yes?\nUser: Go\nAssistant:");
    assert_int_equal(text.n_contents, 4);
    ds_chat_text_clear(&text);
    assert_string_equal(ds_chat_family_stop(t.family), "\nUser:");
    const ds_chat_message wrong = {.role = "wizard", .content = "x"};
    assert_int_equal(ds_chat_template_render(&t, &(ds_chat){&wrong, 1, NULL, false}, &text),
                     DS_INVALID);
    assert_non_null(strstr(ds_error(), "wizard"));
}

/* Older Mistrals publish no place for the system's words; they go where mistral-common puts them.
 */
static void test_system_within_the_first_user_turn(void **state) {
    (void)state;
    ds_chat_template t = {.family = ds_chat_family_recognise(
                              "'[INST] ' + message['content'] + ' [/INST]' message['content'] + "
                              "eos_token")};
    assert_non_null(t.family);
    snprintf(t.bos, sizeof t.bos, "<s>");
    const ds_chat_message talk[] = {{.role = "system", .content = "Be kind."},
                                    {.role = "user", .content = "Hi"}};
    ds_chat_text text;
    assert_int_equal(ds_chat_template_render(&t, &(ds_chat){talk, 2, NULL, false}, &text), DS_OK);
    assert_string_equal(text.text, "<s>[INST] Be kind.\n\nHi [/INST]");
    ds_chat_text_clear(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families_as_transformers),
        cmocka_unit_test(test_from_a_folder),
        cmocka_unit_test(test_plain_and_refused),
        cmocka_unit_test(test_system_within_the_first_user_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
