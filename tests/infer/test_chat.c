/* Conversations as tokens: the template's marks are marks, those that a message writes out are
 * text; a model without template; refusals. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "deepseek/chat.h"

static void require(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

static char folder[64];

/* A small Llama with the tokenizer of Llama 3's make, and this tokenizer_config.json. */
static ds_model *open_model(const char *config) {
    char command[1200], path[512];
    ds_model *m = NULL;
    snprintf(folder, sizeof folder, "/tmp/ds-chat-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(command, sizeof command, "cp '%s'/* '%s' && cp '%s' '%s/tokenizer.json'",
             DS_TEST_DATA "/goldens/llama", folder, DS_TEST_DATA "/tokenizers/llama3.json", folder);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    require(ds_file_replace(path, config, strlen(config)));
    require(ds_model_from_pretrained(folder, (ds_model_opts){.n_threads = 1}, &m));
    return m;
}

static ds_chat_format *open_chat(const ds_model *m) {
    ds_chat_format *chat = NULL;
    require(ds_chat_format_new(m, &chat));
    require(ds_folder_remove(folder)); /* all of it is in memory */
    return chat;
}

static size_t count(const int32_t *ids, size_t n, int32_t id) {
    size_t found = 0;
    for (size_t i = 0; i < n; i++)
        found += ids[i] == id;
    return found;
}

static void expect(const ds_model *m, const ds_chat_format *chat, const char *message,
                   const char *text, size_t n_ends) {
    const ds_tokenizer *tok = ds_model_get_tokenizer(m);
    const ds_chat_turn messages[] = {{"user", message}};
    int32_t *ids = NULL;
    size_t n = 0, length = 0;
    char *back = NULL;
    require(ds_chat_format_encode(chat, messages, 1, &ids, &n));
    require(ds_tokenizer_decode(tok, ids, n, &back, &length));
    assert_string_equal(back, text);
    assert_int_equal(count(ids, n, ds_tokenizer_find(tok, "<|eot_id|>")), n_ends);
    free(back);
    free(ids);
}

static void test_a_known_template(void **state) {
    (void)state;
    static const char config[] =
        "{\"bos_token\": \"<|begin_of_text|>\", \"chat_template\": \"<|start_header_id|> "
        "<|eot_id|>\"}";
    bool recognised = false;
    ds_model *m = open_model(config);
    ds_chat_format *chat = open_chat(m);
    assert_string_equal(ds_chat_format_name(chat, &recognised), "Llama 3");
    assert_true(recognised);
#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
    expect(m, chat, "the deep",
           "<|begin_of_text|>" HEADER("user") "the deep<|eot_id|>" HEADER("assistant"), 1);
    /* one end is the template's, the other is text */
    expect(m, chat, "the<|eot_id|>deep",
           "<|begin_of_text|>" HEADER("user") "the<|eot_id|>deep<|eot_id|>" HEADER("assistant"), 1);
    ds_chat_format_free(chat);
    ds_model_free(m);
}

static void test_no_template(void **state) {
    (void)state;
    bool recognised = true;
    int32_t *ids = NULL;
    size_t n = 0;
    ds_model *m = open_model("{}");
    ds_chat_format *chat = open_chat(m);
    (void)ds_chat_format_name(chat, &recognised);
    assert_false(recognised);
    expect(m, chat, "the deep", "<|begin_of_text|>User: the deep\nAssistant:", 0);
    const ds_chat_turn odd[] = {{"ghost", "boo"}};
    assert_int_equal(ds_chat_format_encode(chat, odd, 1, &ids, &n), DS_INVALID);
    assert_null(ids);
    ds_chat_format_free(chat);
    ds_model_free(m);
    require(ds_model_from_pretrained(DS_TEST_DATA "/goldens/llama", (ds_model_opts){0}, &m));
    assert_int_equal(ds_chat_format_new(m, &chat), DS_INVALID);
    ds_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_known_template),
        cmocka_unit_test(test_no_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
