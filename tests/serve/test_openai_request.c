/* Requests as clients send them, and everything that must be refused by name. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "serve/openai_request.h"

static ds_openai_request accept_json(ds_openai_kind kind, const char *json) {
    ds_openai_request r;
    ds_openai_error error;
    if (ds_openai_request_parse(kind, &ds_openai_sampling, json, strlen(json), &r, &error) != DS_OK)
        fail_msg("%s: %s", json, error.message);
    return r;
}

static void test_completion(void **state) {
    (void)state;
    ds_openai_request r = accept_json(
        DS_OPENAI_COMPLETION,
        "{\"model\":\"m\",\"prompt\":\"Once\",\"max_tokens\":7,\"temperature\":0,\"top_p\":0.5,"
        "\"top_k\":-1,\"min_p\":0.25,\"seed\":-3,\"stop\":[\"a\",\"b\"],\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true},\"presence_penalty\":-2,"
        "\"frequency_penalty\":2,\"repetition_penalty\":1.5,\"logit_bias\":{\"12\":-100,\"0\":5},"
        "\"stop_token_ids\":[7,0],\"priority\":-3,\"logprobs\":0,\"n\":1,\"echo\":false,\"suffix\":"
        "null,\"ignore_eos\":false,\"user\":\"u\",\"metadata\":{}}");
    assert_string_equal(r.model, "m");
    assert_string_equal(r.prompt, "Once");
    assert_int_equal(r.max_tokens, 7);
    assert_true(r.sampling.temperature == 0 && r.sampling.top_p == 0.5f);
    assert_int_equal(r.sampling.top_k, 0);
    assert_true(r.sampling.min_p == 0.25f && r.sampling.presence_penalty == -2);
    assert_true(r.sampling.frequency_penalty == 2 && r.sampling.repetition_penalty == 1.5f);
    assert_true(r.has_seed && (int64_t)r.sampling.seed == -3);
    assert_int_equal(r.n_stops, 2);
    assert_string_equal(r.stops[1], "b");
    assert_int_equal(r.n_stop_tokens, 2);
    assert_int_equal(r.stop_tokens[0], 7);
    assert_int_equal(r.priority, -3);
    assert_true(r.stream && r.include_usage && r.logprobs);
    assert_int_equal(r.sampling.n_bias, 2);
    ds_openai_request_clear(&r);
}

static void test_prompts_and_defaults(void **state) {
    (void)state;
    ds_openai_request r = accept_json(DS_OPENAI_COMPLETION, "{\"prompt\":[\"one\"],\"stop\":null}");
    assert_string_equal(r.prompt, "one");
    assert_int_equal(r.max_tokens, 16);
    assert_true(r.sampling.temperature == 1 && r.sampling.top_p == 1 && !r.has_seed && !r.stream);
    assert_null(r.model);
    ds_openai_request_clear(&r);
    r = accept_json(DS_OPENAI_COMPLETION, "{\"prompt\":[5, 0, 2147483647]}");
    assert_null(r.prompt);
    assert_int_equal(r.n_tokens, 3);
    assert_int_equal(r.tokens[2], INT32_MAX);
    ds_openai_request_clear(&r);
    r = accept_json(DS_OPENAI_COMPLETION, "{\"prompt\":[[5, 1]]}");
    assert_int_equal(r.n_tokens, 2);
    ds_openai_request_clear(&r);
    r = accept_json(DS_OPENAI_TOKENIZE, "{\"content\":\"x\",\"temperature\":\"ignored\"}");
    assert_string_equal(r.prompt, "x");
    ds_openai_request_clear(&r);
}

static void test_chat(void **state) {
    (void)state;
    ds_openai_request r = accept_json(
        DS_OPENAI_CHAT,
        "{\"messages\":[{\"role\":\"developer\",\"content\":\"Be \\u00e9\"},{\"role\":\"user\","
        "\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]},"
        "{\"role\":\"assistant\",\"content\":null}],\"max_tokens\":3,"
        "\"max_completion_tokens\":9,\"logprobs\":true,\"tools\":[],\"tool_choice\":\"auto\"}");
    assert_int_equal(r.chat.n_messages, 3);
    assert_string_equal(r.messages[0].role, "system");
    assert_string_equal(r.messages[0].content, "Be é");
    assert_string_equal(r.messages[1].content, "ab");
    assert_string_equal(r.messages[2].content, "");
    assert_int_equal(r.max_tokens, 9);
    assert_true(r.logprobs);
    ds_openai_request_clear(&r);
    r = accept_json(DS_OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
    assert_int_equal(r.max_tokens, 0);
    ds_openai_request_clear(&r);
}

static void test_tools_and_forms(void **state) {
    (void)state;
    const char *tools = "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},"
                        "{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]";
    char json[1024];
    snprintf(
        json, sizeof json,
        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":"
        "null,\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\","
        "\"arguments\":\"{\\\"a\\\":1}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"c1\","
        "\"content\":"
        "\"y\"}],%s,\"n\":4,\"parallel_tool_calls\":false}",
        tools);
    ds_openai_request r = accept_json(DS_OPENAI_CHAT, json);
    assert_int_equal(r.n, 4);
    assert_true(r.one_call && !r.chat.calls && !r.called);
    assert_int_equal(json_array_size(r.chat.tools), 2);
    const json_t *call = json_array_get(r.messages[1].tool_calls, 0);
    assert_string_equal(json_string_value(json_object_get(call, "name")), "f");
    assert_true(json_is_object(json_object_get(call, "arguments")));
    assert_string_equal(r.messages[2].role, "tool");
    assert_string_equal(r.messages[2].tool_call_id, "c1");
    ds_openai_request_clear(&r);
    const char *user = "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]";
    static const struct {
        const char *choice;
        size_t n_tools, n_called;
    } choices[] = {{"\"none\"", 0, 0},
                   {"\"auto\"", 2, 0},
                   {"\"required\"", 2, 2},
                   {"{\"type\":\"function\",\"function\":{\"name\":\"g\"}}", 2, 1}};
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        snprintf(json, sizeof json, "{%s,%s,\"tool_choice\":%s}", user, tools, choices[i].choice);
        r = accept_json(DS_OPENAI_CHAT, json);
        assert_int_equal(json_array_size(r.chat.tools), choices[i].n_tools);
        assert_int_equal(json_array_size(r.called), choices[i].n_called);
        assert_int_equal(r.chat.calls, choices[i].n_called > 0);
        ds_openai_request_clear(&r);
    }
    r = accept_json(DS_OPENAI_COMPLETION,
                    "{\"prompt\":\"x\",\"echo\":true,\"response_format\":{\"type\":\"json_schema\","
                    "\"json_schema\":{\"name\":\"n\",\"strict\":true,\"schema\":{\"const\":1}}}}");
    assert_true(r.echo && json_integer_value(json_object_get(r.schema, "const")) == 1);
    ds_openai_request_clear(&r);
    r = accept_json(DS_OPENAI_COMPLETION, "{\"prompt\":\"x\",\"grammar\":\"root ::= \\\"a\\\"\"}");
    assert_string_equal(r.grammar, "root ::= \"a\"");
    ds_openai_request_clear(&r);
}

typedef struct refusal {
    ds_openai_kind kind;
    const char *json, *param, *text; /* text stands in the message */
} refusal;

#define P    "{\"prompt\":\"x\","
#define C    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
#define TOOL "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"
static const refusal refusals[] = {
    {DS_OPENAI_COMPLETION, "", "", "no valid JSON"},
    {DS_OPENAI_COMPLETION, "{\"prompt\":", "", "line 1"},
    {DS_OPENAI_COMPLETION, "[1]", "", "must be a JSON object, not an array"},
    {DS_OPENAI_COMPLETION, "{\"prompt\":\"\xff\"}", "", "unable to decode byte 0xff"},
    {DS_OPENAI_COMPLETION, "{\"prompt\":\"\\u0000\"}", "", "u0000"},
    {DS_OPENAI_COMPLETION, "{\"prompt\":\"\\ud800\"}", "", "invalid Unicode"},
    {DS_OPENAI_COMPLETION, "{\"prompt\":\"a\",\"prompt\":\"b\"}", "", "duplicate"},
    {DS_OPENAI_COMPLETION, "{}", "prompt", "must be a string or an array of token ids"},
    {DS_OPENAI_COMPLETION, "{\"prompt\":[]}", "prompt", "an empty array"},
    {DS_OPENAI_COMPLETION, "{\"prompt\":{}}", "prompt", "not an object"},
    {DS_OPENAI_COMPLETION, "{\"prompt\":[\"a\",\"b\"]}", "prompt", "2 texts"},
    {DS_OPENAI_COMPLETION, "{\"prompt\":[[1],[2]]}", "prompt", "2 texts"},
    {DS_OPENAI_COMPLETION, "{\"prompt\":[[[1]]]}", "prompt", "must be a string"},
    {DS_OPENAI_COMPLETION, "{\"prompt\":[1,-1]}", "prompt", "no token id"},
    {DS_OPENAI_COMPLETION, "{\"prompt\":[1,2147483648]}", "prompt", "no token id"},
    {DS_OPENAI_COMPLETION, "{\"prompt\":[1,\"a\"]}", "prompt", "no token id"},
    {DS_OPENAI_COMPLETION, P "\"model\":1}", "model", "a string, not a number"},
    {DS_OPENAI_COMPLETION, P "\"max_tokens\":0}", "max_tokens", "from 1"},
    {DS_OPENAI_COMPLETION, P "\"max_tokens\":1.5}", "max_tokens", "not a fraction"},
    {DS_OPENAI_COMPLETION, P "\"max_tokens\":\"5\"}", "max_tokens", "not a string"},
    {DS_OPENAI_COMPLETION, P "\"max_tokens\":99999999999}", "max_tokens", "2147483647"},
    {DS_OPENAI_COMPLETION, P "\"max_tokens\":99999999999999999999}", "", "too big integer"},
    {DS_OPENAI_COMPLETION, P "\"temperature\":1e999}", "", "overflow"},
    {DS_OPENAI_COMPLETION, P "\"temperature\":-0.1}", "temperature", "from 0 to 100"},
    {DS_OPENAI_COMPLETION, P "\"temperature\":true}", "temperature", "not true"},
    {DS_OPENAI_COMPLETION, P "\"top_p\":1.01}", "top_p", "from 0 to 1"},
    {DS_OPENAI_COMPLETION, P "\"top_k\":-2}", "top_k", "from -1"},
    {DS_OPENAI_COMPLETION, P "\"presence_penalty\":2.5}", "presence_penalty", "from -2 to 2"},
    {DS_OPENAI_COMPLETION, P "\"repetition_penalty\":0}", "repetition_penalty", "from 0.01"},
    {DS_OPENAI_COMPLETION, P "\"n\":0}", "n", "from 1 to 128"},
    {DS_OPENAI_COMPLETION, P "\"best_of\":2}", "best_of", "'n'"},
    {DS_OPENAI_COMPLETION, P "\"suffix\":\"y\"}", "suffix", "filling a gap"},
    {DS_OPENAI_COMPLETION, P "\"min_tokens\":2}", "min_tokens", "'logit_bias'"},
    {DS_OPENAI_COMPLETION, P "\"ignore_eos\":true}", "ignore_eos", "can only be false"},
    {DS_OPENAI_CHAT, C "\"chat_template_kwargs\":{\"enable_thinking\":false}}",
     "chat_template_kwargs", "no arguments"},
    {DS_OPENAI_COMPLETION, P "\"grammar\":1}", "grammar", "GBNF"},
    {DS_OPENAI_COMPLETION, P "\"tools\":[{}]}", "tools", "/v1/chat/completions"},
    {DS_OPENAI_COMPLETION, P "\"grammar\":\"x\",\"response_format\":{\"type\":\"json_object\"}}",
     "grammar", "exclude each other"},
    {DS_OPENAI_COMPLETION, P "\"response_format\":{\"type\":\"xml\"}}", "response_format",
     "json_schema"},
    {DS_OPENAI_COMPLETION, P "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}}",
     "response_format", "must be a JSON schema"},
    {DS_OPENAI_COMPLETION, P "\"echo\":true,\"logprobs\":0}", "echo", "not supported"},
    {DS_OPENAI_COMPLETION, P "\"stop\":\"\"}", "stop", "none of them empty"},
    {DS_OPENAI_COMPLETION, P "\"stop\":[\"a\",1]}", "stop", "string"},
    {DS_OPENAI_COMPLETION, P "\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}", "stop", "4 at most"},
    {DS_OPENAI_COMPLETION, P "\"stop_token_ids\":5}", "stop_token_ids", "an array of token ids"},
    {DS_OPENAI_COMPLETION, P "\"stop_token_ids\":[-1]}", "stop_token_ids", "no token id"},
    {DS_OPENAI_COMPLETION, P "\"priority\":1001}", "priority", "from -1000 to 1000"},
    {DS_OPENAI_COMPLETION, P "\"stream\":1}", "stream", "true or false, not a number"},
    {DS_OPENAI_COMPLETION, P "\"stream_options\":{}}", "stream_options", "\"stream\": true"},
    {DS_OPENAI_COMPLETION, P "\"stream\":true,\"stream_options\":{\"include_usage\":1}}",
     "stream_options.include_usage", "true or false"},
    {DS_OPENAI_COMPLETION, P "\"logprobs\":21}", "logprobs", "from 0 to 20"},
    {DS_OPENAI_COMPLETION, P "\"logit_bias\":{\"x\":1}}", "logit_bias", "token ids"},
    {DS_OPENAI_COMPLETION, P "\"logit_bias\":{\"1\":101}}", "logit_bias", "-100 to 100"},
    {DS_OPENAI_COMPLETION, P "\"logit_bias\":{\"99999999999\":1}}", "logit_bias", "token ids"},
    {DS_OPENAI_COMPLETION, P "\"logit_bias\":[]}", "logit_bias", "must be an object"},
    {DS_OPENAI_CHAT, "{\"messages\":[]}", "messages", "one at least"},
    {DS_OPENAI_CHAT, "{\"messages\":\"hi\"}", "messages", "must be an array"},
    {DS_OPENAI_CHAT, "{\"messages\":[1]}", "messages", "messages[0].role"},
    {DS_OPENAI_CHAT, "{\"messages\":[{\"role\":\"wizard\",\"content\":\"x\"}]}", "messages",
     "wizard"},
    {DS_OPENAI_CHAT, C "\"echo\":true}", "echo", "/v1/completions"},
    {DS_OPENAI_CHAT, C "\"logprobs\":1}", "logprobs", "true or false"},
    {DS_OPENAI_CHAT, C "\"functions\":[{}]}", "functions", "'tools'"},
    {DS_OPENAI_CHAT, C "\"tools\":{}}", "tools", "an array"},
    {DS_OPENAI_CHAT, C "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]}",
     "tools", "tools[0].function.name"},
    {DS_OPENAI_CHAT, C "\"tool_choice\":\"required\"}", "tool_choice", "needs 'tools'"},
    {DS_OPENAI_CHAT, C TOOL ",\"tool_choice\":\"some\"}", "tool_choice", "\"required\""},
    {DS_OPENAI_CHAT,
     C TOOL ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}}",
     "tool_choice", "one of the tools"},
    {DS_OPENAI_CHAT, C TOOL ",\"response_format\":{\"type\":\"json_object\"}}", "response_format",
     "exclude each other"},
    {DS_OPENAI_CHAT, C TOOL ",\"parallel_tool_calls\":1}", "parallel_tool_calls", "true or false"},
    {DS_OPENAI_CHAT,
     "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"1\",\"function\":{\"name\":"
     "\"f\","
     "\"arguments\":\"{\"}}]}]}",
     "messages", "tool_calls[0]"},
    {DS_OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":1}]}", "messages",
     "content' must be a string, not a number"},
    {DS_OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
     "messages", "nothing but text"},
    {DS_OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{}]}",
     "tools", "must be {"},
    {DS_OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"top_logprobs\":2}",
     "top_logprobs", "needs"},
};

static void test_refusals(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const refusal *c = &refusals[i];
        ds_openai_request r;
        ds_openai_error error;
        const ds_status status = ds_openai_request_parse(c->kind, &ds_openai_sampling, c->json,
                                                         strlen(c->json), &r, &error);
        if (status != DS_INVALID || !strstr(error.message, c->text) ||
            strcmp(error.param, c->param) != 0)
            fail_msg("%s: status %d, param '%s', message '%s'", c->json, status, error.param,
                     error.message);
        assert_int_equal(ds_utf8_valid(error.message, strlen(error.message)),
                         strlen(error.message));
    }
}

static void test_deep_nesting(void **state) {
    (void)state;
    enum { DEEP = 100000 };
    char *body = malloc(DEEP);
    memset(body, '[', DEEP);
    ds_openai_request r;
    ds_openai_error error;
    assert_int_equal(
        ds_openai_request_parse(DS_OPENAI_CHAT, &ds_openai_sampling, body, DEEP, &r, &error),
        DS_INVALID);
    assert_non_null(strstr(error.message, "deep"));
    free(body);
    /* brackets within a string are no nesting */
    ds_text text = {0};
    ds_text_puts(&text, "{\"prompt\":\"\\\"");
    for (int i = 0; i < 200; i++)
        ds_text_puts(&text, "[{");
    ds_text_puts(&text, "\"}");
    r = accept_json(DS_OPENAI_COMPLETION, text.data);
    ds_openai_request_clear(&r);
    ds_text_clear(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_completion), cmocka_unit_test(test_prompts_and_defaults),
        cmocka_unit_test(test_chat),       cmocka_unit_test(test_tools_and_forms),
        cmocka_unit_test(test_refusals),   cmocka_unit_test(test_deep_nesting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
