/* Answers in OpenAI's words: the pieces of a stream are the whole text, characters stay whole, stop
 * strings stay hidden, and the ends are right. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "serve/answer.h"

/* One token a byte, so that every character of more bytes comes in pieces. */
static ds_tokenizer *byte_tokenizer(void) {
    static char word[] = "aaaa bbbb cccc";
    char path[] = "/tmp/test_answer_XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    fputs(word, f);
    fclose(f);
    const char *paths[] = {path};
    ds_bpe_train_opts opts = DS_BPE_TRAIN_DEFAULTS;
    opts.vocab_size = 256;
    ds_tokenizer *tok = NULL;
    if (ds_bpe_train(paths, 1, &opts, &tok) != DS_OK)
        fail_msg("%s", ds_error());
    unlink(path);
    return tok;
}

static ds_openai_request parse(ds_openai_kind kind, const char *json) {
    ds_openai_request r;
    ds_openai_error error;
    if (ds_openai_request_parse(kind, &ds_openai_sampling, json, strlen(json), &r, &error) != DS_OK)
        fail_msg("%s", error.message);
    return r;
}

/* Runs text through the choices of an answer, token by token in turn; the bytes for the client are
 * the caller's. */
static char *answer_as(ds_openai_kind kind, const char *json, const char *text, float logprob,
                       const ds_tool_style *tools) {
    ds_tokenizer *tok = byte_tokenizer();
    ds_openai_request r = parse(kind, json);
    ds_openai_answer a;
    int32_t *ids = NULL;
    size_t n = 0;
    bool stopped = false;
    assert_int_equal(ds_tokenizer_encode(tok, text, strlen(text), &ids, &n), DS_OK);
    const int32_t prompt = ds_tokenizer_find(tok, "x");
    const ds_openai_answer_opts opts = {.tokenizer = tok,
                                        .model = "m",
                                        .id = "id-1",
                                        .tools = tools,
                                        .prompt = &prompt,
                                        .n_prompt = 1};
    assert_int_equal(ds_openai_answer_begin(&r, &opts, &a), DS_OK);
    for (size_t i = 0; i < n && !stopped; i++)
        for (int c = 0; c < a.n; c++) {
            const ds_token_logprob top[] = {{ids[i], logprob}, {prompt, -INFINITY}};
            const ds_event event = {.token = ids[i],
                                    .index = (int64_t)i,
                                    .logprob = logprob,
                                    .top = top,
                                    .n_top = r.top_logprobs};
            assert_int_equal(ds_openai_answer_token(&a, c, &event, &stopped), DS_OK);
        }
    for (int c = 0; c < a.n; c++)
        assert_int_equal(ds_openai_answer_finish(&a, c, stopped ? "stop" : "length"), DS_OK);
    char *out = ds_text_take(&a.out);
    ds_openai_answer_clear(&a);
    ds_openai_request_clear(&r);
    ds_tokenizer_free(tok);
    free(ids);
    return out;
}

static char *answer(ds_openai_kind kind, const char *json, const char *text, float logprob) {
    return answer_as(kind, json, text, logprob, NULL);
}

static json_t *first_choice(json_t *object) {
    return json_array_get(json_object_get(object, "choices"), 0);
}

typedef struct stream {
    char text[256], reason[16];
    int n_events, n_with_text;
    bool done;
    json_int_t completion_tokens; /* −1: no usage */
} stream;

/* Reads a stream as a client does; each event must be JSON by itself (so UTF-8 by itself). */
static stream read_stream(char *out, bool chat) {
    stream s = {.completion_tokens = -1};
    for (char *at = out, *end; *at; at = end + 2) {
        end = strstr(at, "\n\n");
        assert_non_null(end);
        assert_memory_equal(at, "data: ", 6);
        *end = '\0';
        s.done = strcmp(at + 6, "[DONE]") == 0;
        if (s.done)
            continue;
        json_t *event = json_loads(at + 6, 0, NULL), *choice = first_choice(event);
        assert_non_null(event);
        s.n_events++;
        json_t *delta = json_object_get(choice, "delta");
        const char *piece = json_string_value(chat ? json_object_get(delta, "content")
                                                   : json_object_get(choice, "text"));
        s.n_with_text += piece && *piece;
        strncat(s.text, piece ? piece : "", sizeof s.text - strlen(s.text) - 1);
        const char *reason = json_string_value(json_object_get(choice, "finish_reason"));
        strncat(s.reason, reason ? reason : "", sizeof s.reason - strlen(s.reason) - 1);
        json_t *usage = json_object_get(event, "usage");
        if (json_is_object(usage))
            s.completion_tokens = json_integer_value(json_object_get(usage, "completion_tokens"));
        json_decref(event);
    }
    return s;
}

#define CHAT "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"
static const char TEXT[] = "Hé 世界 🙂!";

static void test_stream_is_the_whole_text(void **state) {
    (void)state;
    for (int chat = 0; chat < 2; chat++) {
        char *out =
            chat ? answer(DS_OPENAI_CHAT, CHAT ",\"stream\":true}", TEXT, 0)
                 : answer(DS_OPENAI_COMPLETION, "{\"prompt\":\"x\",\"stream\":true}", TEXT, 0);
        const stream s = read_stream(out, chat);
        assert_string_equal(s.text, TEXT);
        assert_string_equal(s.reason, "length");
        assert_int_equal(s.n_with_text, 8); /* characters, not bytes */
        assert_true(s.done);
        assert_int_equal(s.completion_tokens, -1);
        free(out);
    }
}

static void test_stop_across_tokens(void **state) {
    (void)state;
    char *out = answer(DS_OPENAI_CHAT,
                       CHAT ",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
                            "\"stop\":[\"世界\"]}",
                       TEXT, 0);
    const stream s = read_stream(out, true);
    assert_string_equal(s.text, "Hé ");
    assert_string_equal(s.reason, "stop");
    assert_int_equal(s.completion_tokens, 10); /* bytes up to the end of the stop string */
    free(out);
}

static void test_a_cut_character(void **state) {
    (void)state;
    char *out = answer(DS_OPENAI_COMPLETION, "{\"prompt\":\"x\",\"stream\":true}", "a\xf0\x9f", 0);
    const stream s = read_stream(out, false);
    assert_memory_equal(s.text, "a\xef\xbf\xbd", 4);
    free(out);
}

static void test_whole_answers(void **state) {
    (void)state;
    char *out = answer(DS_OPENAI_COMPLETION, "{\"prompt\":\"x\",\"logprobs\":0}", "é!", -1.5f);
    json_t *root = json_loads(out, 0, NULL), *choice = first_choice(root);
    json_t *logprobs = json_object_get(choice, "logprobs");
    assert_string_equal(json_string_value(json_object_get(choice, "text")), "é!");
    assert_int_equal(json_array_size(json_object_get(logprobs, "tokens")), 3);
    json_t *values = json_object_get(logprobs, "token_logprobs");
    assert_true(json_number_value(json_array_get(values, 2)) == -1.5);
    json_t *offsets = json_object_get(logprobs, "text_offset");
    assert_int_equal(json_integer_value(json_array_get(offsets, 2)), 1);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(root, "usage"), "total_tokens")), 4);
    json_decref(root);
    free(out);
    out = answer(DS_OPENAI_CHAT, CHAT ",\"logprobs\":true}", "!", -INFINITY);
    root = json_loads(out, 0, NULL);
    choice = first_choice(root);
    json_t *message = json_object_get(choice, "message");
    assert_string_equal(json_string_value(json_object_get(message, "content")), "!");
    json_t *token =
        json_array_get(json_object_get(json_object_get(choice, "logprobs"), "content"), 0);
    assert_true(json_number_value(json_object_get(token, "logprob")) == -9999);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(token, "bytes"), 0)), '!');
    json_decref(root);
    free(out);
}

static void test_alternatives(void **state) {
    (void)state;
    char *out = answer(DS_OPENAI_CHAT, CHAT ",\"logprobs\":true,\"top_logprobs\":2}", "a", -0.5f);
    json_t *root = json_loads(out, 0, NULL);
    json_t *logprobs = json_object_get(first_choice(root), "logprobs");
    json_t *token = json_array_get(json_object_get(logprobs, "content"), 0);
    json_t *top = json_object_get(token, "top_logprobs");
    assert_int_equal(json_array_size(top), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(top, 0), "token")), "a");
    assert_true(json_number_value(json_object_get(json_array_get(top, 1), "logprob")) == -9999);
    json_decref(root);
    free(out);
    out = answer(DS_OPENAI_COMPLETION, "{\"prompt\":\"x\",\"logprobs\":2}", "a", -0.5f);
    root = json_loads(out, 0, NULL);
    top = json_object_get(json_object_get(first_choice(root), "logprobs"), "top_logprobs");
    assert_true(json_number_value(json_object_get(json_array_get(top, 0), "a")) == -0.5);
    assert_int_equal(json_object_size(json_array_get(top, 0)), 2);
    json_decref(root);
    free(out);
}

static void test_several_choices(void **state) {
    (void)state;
    char *out = answer(DS_OPENAI_COMPLETION, "{\"prompt\":\"x\",\"n\":3,\"echo\":true}", "ab", 0);
    json_t *root = json_loads(out, 0, NULL), *choices = json_object_get(root, "choices");
    assert_int_equal(json_array_size(choices), 3);
    for (int i = 0; i < 3; i++) {
        json_t *c = json_array_get(choices, (size_t)i);
        assert_int_equal(json_integer_value(json_object_get(c, "index")), i);
        assert_string_equal(json_string_value(json_object_get(c, "text")), "xab");
    }
    json_t *usage = json_object_get(root, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 6);
    assert_int_equal(json_integer_value(json_object_get(usage, "prompt_tokens")), 1);
    json_decref(root);
    free(out);
    out = answer(DS_OPENAI_COMPLETION, "{\"prompt\":\"x\",\"n\":2,\"stream\":true}", "ab", 0);
    const stream s = read_stream(out, false);
    assert_string_equal(s.text, "aabb"); /* in turn */
    assert_string_equal(s.reason, "lengthlength");
    assert_true(s.done);
    free(out);
}

/* ---- tools ----------------------------------------------------------------------------------- */

#define TOOLS ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]"

typedef struct reading {
    const ds_tool_style *style;
    bool opened;                        /* the prompt ends in an opening */
    const char *text, *content, *calls; /* calls: name(arguments), with ; between */
} reading;

static const reading readings[] = {
    {&ds_tools_qwen2, false, "Hi", "Hi", ""},
    {&ds_tools_qwen2, false, "a < b <tool", "a < b <tool", ""},
    {&ds_tools_qwen2, false,
     "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\"}}\n</tool_call>",
     "I look.", "f({\"a\": \"}\"})"},
    {&ds_tools_qwen2, false,
     "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>\n"
     "{\"name\":\"g\",\"arguments\":{\"x\":[1]}}\n</tool_call>",
     NULL, "f({});g({\"x\": [1]})"},
    {&ds_tools_qwen2, false, "<tool_call>\nnothing", "nothing", ""},
    {&ds_tools_qwen2, false, "<tool_call>\n{\"name\": \"f\"", "{\"name\": \"f\"", ""},
    {&ds_tools_qwen2, true, "{\"name\": \"f\", \"arguments\": {}}", NULL, "f({})"},
    {&ds_tools_llama3, false, "{\"name\": \"f\", \"parameters\": {\"a\": 1}}", NULL,
     "f({\"a\": 1})"},
    {&ds_tools_llama3, false, "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}", NULL, "f({})"},
    {&ds_tools_llama3, false, "A set {1}", "A set {1}", ""},
    {&ds_tools_llama3, false, "\n  <|  x", "\n  <|  x", ""},
    {&ds_tools_llama3, false, "{\"no\": \"call\"}", "{\"no\": \"call\"}", ""},
    {&ds_tools_mistral3, false,
     "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {}}]",
     NULL, "f({});g({})"},
    {&ds_tools_mistral3, false, "[1, 2]", "[1, 2]", ""},
    {&ds_tools_deepseek3, false,
     "Wait.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": "
     "1}\n```"
     "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```"
     "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     "Wait.", "f({\"a\": 1});g({})"},
    {&ds_tools_deepseek3, true, "f\n```json\n{\"a\": 1}", NULL, "f({\"a\": 1})"},
};

static void write_calls(json_t *calls, char *out, size_t size) {
    *out = '\0';
    for (size_t i = 0; i < json_array_size(calls); i++) {
        json_t *call = json_array_get(calls, i), *f = json_object_get(call, "function");
        const size_t n = strlen(out);
        assert_int_equal(strlen(json_string_value(json_object_get(call, "id"))), 14);
        snprintf(out + n, size - n, "%s%s(%s)", i > 0 ? ";" : "",
                 json_string_value(json_object_get(f, "name")),
                 json_string_value(json_object_get(f, "arguments")));
    }
}

static void check_reading(const reading *k) {
    char calls[256], json[512];
    snprintf(json, sizeof json, "%s%s%s}", CHAT TOOLS,
             k->opened ? ",\"tool_choice\":\"required\"" : "", "");
    char *out = answer_as(DS_OPENAI_CHAT, json, k->text, 0, k->style);
    json_t *root = json_loads(out, 0, NULL), *choice = first_choice(root);
    json_t *message = json_object_get(choice, "message");
    json_t *content = json_object_get(message, "content");
    write_calls(json_object_get(message, "tool_calls"), calls, sizeof calls);
    assert_string_equal(calls, k->calls);
    if (k->content)
        assert_string_equal(json_string_value(content), k->content);
    else
        assert_true(json_is_null(content));
    assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")),
                        *k->calls ? "tool_calls" : "length");
    json_decref(root);
    free(out);
}

static void test_calls_are_read(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof readings / sizeof *readings; i++) {
        print_message("%s\n", readings[i].text);
        check_reading(&readings[i]);
    }
}

static void test_calls_are_streamed(void **state) {
    (void)state;
    char *out = answer_as(DS_OPENAI_CHAT, CHAT TOOLS ",\"stream\":true}",
                          "Hm <tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>"
                          "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":1}}</tool_call>",
                          0, &ds_tools_qwen2);
    assert_non_null(strstr(out, "\"delta\":{\"tool_calls\":[{\"id\":\"call_"));
    assert_non_null(strstr(out, "\"arguments\":\"{\\\"a\\\": 1}\"},\"index\":1}]"));
    assert_non_null(strstr(out, "\"finish_reason\":\"tool_calls\""));
    assert_null(strstr(out, "<tool_call>"));
    const stream s = read_stream(out, true);
    assert_string_equal(s.text, "Hm ");
    free(out);
    /* of calls that must not be parallel the first is the last */
    out = answer_as(DS_OPENAI_CHAT, CHAT TOOLS ",\"parallel_tool_calls\":false}",
                    "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>"
                    "<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>",
                    0, &ds_tools_qwen2);
    assert_null(strstr(out, "\"g\""));
    assert_non_null(strstr(out, "\"finish_reason\":\"tool_calls\""));
    free(out);
}

/* Models' vocabularies are often padded beyond the tokenizer's: such a token has no text. */
static void test_a_token_without_text(void **state) {
    (void)state;
    ds_tokenizer *tok = byte_tokenizer();
    ds_openai_request r = parse(DS_OPENAI_COMPLETION, "{\"prompt\":\"x\",\"logprobs\":1}");
    ds_openai_answer a;
    bool stopped = false;
    const ds_openai_answer_opts opts = {.tokenizer = tok, .model = "m", .id = "id-1"};
    const ds_token_logprob top = {5001, -1};
    assert_int_equal(ds_openai_answer_begin(&r, &opts, &a), DS_OK);
    const ds_event events[] = {{.token = ds_tokenizer_find(tok, "x")},
                               {.token = 5000, .top = &top, .n_top = 1},
                               {.token = ds_tokenizer_find(tok, "y")}};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(ds_openai_answer_token(&a, 0, &events[i], &stopped), DS_OK);
    assert_int_equal(ds_openai_answer_finish(&a, 0, "stop"), DS_OK);
    assert_non_null(strstr(a.out.data, "\"text\":\"xy\""));
    assert_non_null(strstr(a.out.data, "\"completion_tokens\":3"));
    ds_openai_answer_clear(&a);
    ds_openai_request_clear(&r);
    ds_tokenizer_free(tok);
}

static void test_errors(void **state) {
    (void)state;
    ds_text text = {0};
    ds_openai_error_write(&text, "bad \"x\"", "invalid_request_error", "top_p", NULL);
    assert_string_equal(text.data, "{\"error\":{\"message\":\"bad \\\"x\\\"\",\"type\":"
                                   "\"invalid_request_error\",\"param\":\"top_p\",\"code\":null}}");
    ds_text_clear(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream_is_the_whole_text),
        cmocka_unit_test(test_stop_across_tokens),
        cmocka_unit_test(test_a_cut_character),
        cmocka_unit_test(test_whole_answers),
        cmocka_unit_test(test_alternatives),
        cmocka_unit_test(test_several_choices),
        cmocka_unit_test(test_calls_are_read),
        cmocka_unit_test(test_calls_are_streamed),
        cmocka_unit_test(test_a_token_without_text),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
