/* Requests for embeddings as clients send them, what must be refused by name, and the answer. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <openssl/evp.h>
#include <string.h>

#include "base/text.h"
#include "serve/embeddings.h"

static ds_embeddings_request accept_json(const char *json) {
    ds_embeddings_request r;
    ds_openai_error error;
    if (ds_embeddings_request_parse(json, strlen(json), &r, &error) != DS_OK)
        fail_msg("%s: %s", json, error.message);
    return r;
}

static void test_inputs(void **state) {
    (void)state;
    ds_embeddings_request r = accept_json("{\"input\":\"one\",\"model\":\"m\",\"user\":\"u\"}");
    assert_int_equal(r.n, 1);
    assert_string_equal(r.texts[0], "one");
    assert_string_equal(r.model, "m");
    assert_false(r.base64 || r.truncate || r.dimensions);
    ds_embeddings_request_clear(&r);
    r = accept_json("{\"input\":[\"one\",\"two\"],\"encoding_format\":\"base64\",\"dimensions\":7,"
                    "\"truncate\":true}");
    assert_int_equal(r.n, 2);
    assert_string_equal(r.texts[1], "two");
    assert_true(r.base64 && r.truncate && r.dimensions == 7 && !r.model);
    ds_embeddings_request_clear(&r);
    r = accept_json("{\"input\":[3,1,4],\"encoding_format\":null}");
    assert_int_equal(r.n, 1);
    assert_null(r.texts[0]);
    assert_int_equal(r.lists[0].n, 3);
    assert_int_equal(r.lists[0].ids[2], 4);
    ds_embeddings_request_clear(&r);
    r = accept_json("{\"input\":[[3,1],\"two\",[4]]}");
    assert_int_equal(r.n, 3);
    assert_int_equal(r.lists[0].n, 2);
    assert_string_equal(r.texts[1], "two");
    assert_int_equal(r.lists[2].ids[0], 4);
    ds_embeddings_request_clear(&r);
}

static void test_refusals(void **state) {
    (void)state;
    static const char *const wrong[][2] = {
        {"", "JSON"},
        {"[]", "object"},
        {"{}", "'input'"},
        {"{\"input\":null}", "'input'"},
        {"{\"input\":7}", "'input'"},
        {"{\"input\":[]}", "'input'"},
        {"{\"input\":[[]]}", "'input'"},
        {"{\"input\":[\"a\",7]}", "'input'"},
        {"{\"input\":[1,\"a\"]}", "token id"},
        {"{\"input\":[1,2.5]}", "token id"},
        {"{\"input\":[-1]}", "token id"},
        {"{\"input\":[99999999999]}", "token id"},
        {"{\"input\":\"a\",\"model\":3}", "'model'"},
        {"{\"input\":\"a\",\"encoding_format\":\"b\"}", "'encoding_format'"},
        {"{\"input\":\"a\",\"dimensions\":0}", "'dimensions'"},
        {"{\"input\":\"a\",\"dimensions\":1.5}", "'dimensions'"},
        {"{\"input\":\"a\",\"truncate\":1}", "'truncate'"},
        {"{\"input\":\"a\",\"input\":\"b\"}", "JSON"},
        {"{\"input\":\"\\u0000\"}", "JSON"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ds_embeddings_request r;
        ds_openai_error error;
        assert_int_equal(ds_embeddings_request_parse(wrong[i][0], strlen(wrong[i][0]), &r, &error),
                         DS_INVALID);
        if (!strstr(error.message, wrong[i][1]))
            fail_msg("%s: \"%s\" does not say %s", wrong[i][0], error.message, wrong[i][1]);
    }
    ds_text many = {0};
    ds_text_puts(&many, "{\"input\":[");
    for (int i = 0; i <= DS_MOST_EMBEDDINGS; i++)
        ds_text_puts(&many, i ? ",\"a\"" : "\"a\"");
    ds_text_puts(&many, "]}");
    ds_embeddings_request r;
    ds_openai_error error;
    assert_int_equal(ds_embeddings_request_parse(many.data, many.length, &r, &error), DS_INVALID);
    assert_non_null(strstr(error.message, "2048 at most"));
    ds_text_clear(&many);
}

static json_t *answer_of(const char *request, const float *vectors, int64_t size) {
    ds_embeddings_request r = accept_json(request);
    ds_text text = {0};
    ds_embeddings_write(&r, vectors, size, "a \"name\"", 9, &text);
    assert_false(text.poisoned);
    json_t *root = json_loadb(text.data, text.length, 0, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "model")), "a \"name\"");
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(root, "usage"), "total_tokens")), 9);
    ds_text_clear(&text);
    ds_embeddings_request_clear(&r);
    return root;
}

static json_t *embedding_at(json_t *root, size_t i) {
    return json_object_get(json_array_get(json_object_get(root, "data"), i), "embedding");
}

static void test_answers(void **state) {
    (void)state;
    static const float vectors[] = {0.6f, -0.8f, 0, 1.0f / 3, 2.0f / 3, -2.0f / 3};
    json_t *root = answer_of("{\"input\":[\"a\",\"b\"]}", vectors, 3);
    for (size_t i = 0; i < 6; i++) /* nine digits are all of a float */
        assert_true((float)json_number_value(json_array_get(embedding_at(root, i / 3), i % 3)) ==
                    vectors[i]);
    json_decref(root);
    root = answer_of("{\"input\":[\"a\",\"b\"],\"encoding_format\":\"base64\"}", vectors, 3);
    float back[4] = {0};
    const char *text = json_string_value(embedding_at(root, 1));
    assert_int_equal(strlen(text), 16);
    assert_int_equal(EVP_DecodeBlock((unsigned char *)back, (const unsigned char *)text, 16), 12);
    assert_memory_equal(back, vectors + 3, 12);
    json_decref(root);
    root = answer_of("{\"input\":[\"a\",\"b\"],\"dimensions\":2}", vectors, 3);
    const json_t *shorter = embedding_at(root, 1);
    assert_int_equal(json_array_size(shorter), 2);
    assert_true(fabs(json_number_value(json_array_get(shorter, 0)) - 1 / sqrt(5)) < 1e-6);
    json_decref(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inputs),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
