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
#include <unistd.h>

#include "infer/chat_template.h"

static const char *string_of(json_t *object, const char *key) {
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

static void check_case(const ds_chat_template *t, json_t *c) {
    json_t *list = json_object_get(c, "messages");
    ds_chat_message messages[16];
    const size_t n = json_array_size(list);
    assert_in_range(n, 1, 16);
    for (size_t i = 0; i < n; i++)
        messages[i] = (ds_chat_message){string_of(json_array_get(list, i), "role"),
                                        string_of(json_array_get(list, i), "content")};
    ds_chat_text text;
    assert_int_equal(ds_chat_template_render(t, messages, n, &text), DS_OK);
    assert_string_equal(text.text, string_of(c, "text"));
    assert_int_equal(text.length, strlen(text.text));
    for (size_t i = 0, end = 0; i < text.n_contents; i++) {
        assert_true(text.contents[i].start >= end);
        end = text.contents[i].start + text.contents[i].length;
        assert_true(end <= text.length);
    }
    ds_chat_text_clear(&text);
}

static void test_families_as_transformers(void **state) {
    (void)state;
    json_t *rows = json_load_file(DS_TEST_DATA "/goldens/chat_templates.json", 0, NULL);
    assert_true(json_array_size(rows) >= 16);
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
    const ds_chat_message talk[] = {
        {"system", "Be kind."}, {"user", " Hi "}, {"assistant", "Yes?"}, {"user", "Go"}};
    ds_chat_text text;
    assert_int_equal(ds_chat_template_render(&t, talk, 4, &text), DS_OK);
    assert_string_equal(text.text, "Be kind.\n\nUser: Hi\nAssistant: Yes?\nUser: Go\nAssistant:");
    assert_int_equal(text.n_contents, 4);
    ds_chat_text_clear(&text);
    assert_string_equal(ds_chat_family_stop(t.family), "\nUser:");
    const ds_chat_message wrong = {"wizard", "x"};
    assert_int_equal(ds_chat_template_render(&t, &wrong, 1, &text), DS_INVALID);
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
    const ds_chat_message talk[] = {{"system", "Be kind."}, {"user", "Hi"}};
    ds_chat_text text;
    assert_int_equal(ds_chat_template_render(&t, talk, 2, &text), DS_OK);
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
