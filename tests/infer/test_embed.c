/* Embeddings against transformers: a small sentence encoder with its folder's files, decoders, and
 * MiniLM where DS_MINILM names its folder; batches of unequal lengths; refusals. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "deepseek/embeddings.h"

#define FOLDER DS_TEST_DATA "/embeddings/"
enum { MOST_TEXTS = 64, MOST_WIDTH = 384 };

static void require(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

static ds_model *open_model(const char *path) {
    ds_model *m = NULL;
    require(ds_model_from_pretrained(path, (ds_model_opts){.n_threads = 2}, &m));
    return m;
}

static json_t *read_json(const char *path) {
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    if (!root)
        fail_msg("%s: %s", path, error.text);
    return root;
}

static double cosine(const float *x, const json_t *y, size_t n) {
    double xy = 0, xx = 0, yy = 0;
    for (size_t i = 0; i < n; i++) {
        const double a = (double)x[i], b = json_number_value(json_array_get(y, i));
        xy += a * b;
        xx += a * a;
        yy += b * b;
    }
    return xy / sqrt(xx * yy);
}

static void expect_vector(const float *x, const json_t *y, size_t n, const char *what) {
    assert_int_equal(json_array_size(y), n);
    for (size_t i = 0; i < n; i++) {
        const double want = json_number_value(json_array_get(y, i));
        if (!(fabs((double)x[i] - want) <= 2e-5 * (1 + fabs(want))))
            fail_msg("%s: element %zu is %g, not %g", what, i, (double)x[i], want);
    }
    assert_true(cosine(x, y, n) > 0.9999);
}

/* All texts in one call, so that they share batches, and each alone. */
static void check_encoder(const char *folder, const char *expected) {
    static float vectors[MOST_TEXTS * MOST_WIDTH];
    json_t *cases = read_json(expected);
    ds_model *m = open_model(folder);
    const char *texts[MOST_TEXTS];
    const size_t n = json_array_size(cases), width = (size_t)ds_model_embedding_size(m);
    assert_true(n >= 8 && n <= MOST_TEXTS && width <= MOST_WIDTH);
    for (size_t i = 0; i < n; i++)
        texts[i] = json_string_value(json_object_get(json_array_get(cases, i), "text"));
    require(ds_model_embed(m, texts, n, (ds_embed_opts){.truncate = true}, vectors));
    for (size_t i = 0; i < n; i++)
        expect_vector(vectors + i * width, json_object_get(json_array_get(cases, i), "mean"), width,
                      texts[i]);
    const ds_embed_opts first = {.pooling = DS_POOL_FIRST, .raw = true, .truncate = true};
    require(ds_model_embed(m, texts, n, first, vectors));
    for (size_t i = 0; i < n; i++)
        expect_vector(vectors + i * width, json_object_get(json_array_get(cases, i), "first"),
                      width, texts[i]);
    for (size_t i = 0; i < n; i++) {
        require(ds_model_embed(m, &texts[i], 1, (ds_embed_opts){.truncate = true}, vectors));
        expect_vector(vectors, json_object_get(json_array_get(cases, i), "mean"), width, texts[i]);
    }
    ds_model_free(m);
    json_decref(cases);
}

static void test_an_encoder(void **state) {
    (void)state;
    check_encoder(FOLDER "encoder", FOLDER "encoder.expected.json");
}

static void test_minilm(void **state) {
    (void)state;
    const char *folder = getenv("DS_MINILM");
    if (!folder) {
        print_message("DS_MINILM does not name the folder of all-MiniLM-L6-v2: skipped\n");
        skip();
    }
    check_encoder(folder, FOLDER "minilm.expected.json");
}

static ds_token_list tokens_of(const json_t *list, int32_t *ids) {
    for (size_t i = 0; i < json_array_size(list); i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return (ds_token_list){ids, json_array_size(list)};
}

static void test_decoders(void **state) {
    (void)state;
    static const char *const names[] = {"llama", "gpt2", "qwen2"};
    json_t *root = read_json(FOLDER "decoders.expected.json");
    for (size_t k = 0; k < 3; k++) {
        char path[512];
        int32_t ids[MOST_TEXTS][32];
        ds_token_list texts[MOST_TEXTS];
        float vectors[MOST_TEXTS * 32];
        snprintf(path, sizeof path, DS_TEST_DATA "/goldens/%s", names[k]);
        ds_model *m = open_model(path);
        const json_t *cases = json_object_get(root, names[k]);
        const size_t n = json_array_size(cases), width = (size_t)ds_model_embedding_size(m);
        assert_true(n == 3 && width <= 32);
        for (size_t i = 0; i < n; i++)
            texts[i] = tokens_of(json_object_get(json_array_get(cases, i), "tokens"), ids[i]);
        require(ds_model_embed_tokens(m, texts, n, (ds_embed_opts){.raw = true}, vectors));
        for (size_t i = 0; i < n; i++)
            expect_vector(vectors + i * width, json_object_get(json_array_get(cases, i), "last"),
                          width, names[k]);
        const ds_embed_opts mean = {.pooling = DS_POOL_MEAN, .raw = true};
        require(ds_model_embed_tokens(m, texts, n, mean, vectors));
        for (size_t i = 0; i < n; i++)
            expect_vector(vectors + i * width, json_object_get(json_array_get(cases, i), "mean"),
                          width, names[k]);
        ds_model_free(m);
    }
    json_decref(root);
}

/* Many texts of all lengths: each is what it is alone, and of length 1. */
static void test_batches_change_nothing(void **state) {
    (void)state;
    enum { N = 150, WIDTH = 32 };
    static int32_t ids[N][48];
    static float together[N * WIDTH], alone[WIDTH];
    ds_token_list texts[N];
    ds_model *m = open_model(FOLDER "encoder");
    assert_int_equal(ds_model_embedding_size(m), WIDTH);
    assert_int_equal(ds_model_embedding_length(m), 48);
    for (size_t i = 0; i < N; i++) {
        texts[i] = (ds_token_list){ids[i], 1 + ds_mix64(i) % 48};
        for (size_t t = 0; t < texts[i].n; t++)
            ids[i][t] = (int32_t)(ds_mix64(i * 100 + t) % 220);
    }
    require(ds_model_embed_tokens(m, texts, N, (ds_embed_opts){0}, together));
    for (size_t i = 0; i < N; i++) {
        double square = 0;
        require(ds_model_embed_tokens(m, &texts[i], 1, (ds_embed_opts){0}, alone));
        for (size_t k = 0; k < WIDTH; k++) {
            assert_true(fabsf(together[i * WIDTH + k] - alone[k]) < 1e-5f);
            square += (double)alone[k] * (double)alone[k];
        }
        assert_true(fabs(square - 1) < 1e-5);
    }
    ds_model_free(m);
}

/* The same model out of a GGUF file, which says to take the first token. */
static void test_gguf(void **state) {
    (void)state;
    const int32_t ids[] = {1, 5, 60, 7};
    const ds_token_list text = {ids, 4};
    float a[32], b[32];
    ds_model *gguf = open_model(DS_TEST_DATA "/gguf/bert.gguf");
    ds_model *folder = open_model(DS_TEST_DATA "/goldens/bert");
    require(ds_model_embed_tokens(gguf, &text, 1, (ds_embed_opts){0}, a));
    require(ds_model_embed_tokens(folder, &text, 1, (ds_embed_opts){.pooling = DS_POOL_FIRST}, b));
    for (int i = 0; i < 32; i++)
        assert_true(fabsf(a[i] - b[i]) < 1e-6f);
    const char *word = "a";
    require(ds_model_embed(gguf, &word, 1, (ds_embed_opts){0}, a)); /* its tokenizer is in it */
    ds_model_free(gguf);
    ds_model_free(folder);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void refuse(ds_model *m, ds_token_list text, const char *says) {
    float out[MOST_WIDTH];
    assert_int_equal(ds_model_embed_tokens(m, &text, 1, (ds_embed_opts){0}, out), DS_INVALID);
    if (!strstr(ds_error(), says))
        fail_msg("\"%s\" does not say %s", ds_error(), says);
}

static void test_unsuitable_texts_are_refused(void **state) {
    (void)state;
    int32_t ids[49] = {0};
    float out[MOST_WIDTH];
    ds_model *m = open_model(FOLDER "encoder");
    refuse(m, (ds_token_list){ids, 0}, "no tokens");
    refuse(m, (ds_token_list){ids, 49}, "takes 48");
    ids[1] = 220;
    refuse(m, (ds_token_list){ids, 2}, "token 220");
    ids[1] = -1;
    refuse(m, (ds_token_list){ids, 2}, "token -1");
    require(ds_model_embed_tokens(m, NULL, 0, (ds_embed_opts){0}, out));
    ds_model_free(m);
    m = open_model(DS_TEST_DATA "/goldens/llama");
    const char *text = "a";
    assert_int_equal(ds_model_embed(m, &text, 1, (ds_embed_opts){0}, out), DS_INVALID);
    assert_non_null(strstr(ds_error(), "tokenizer"));
    ds_model_free(m);
}

/* The encoder's folder with another file in it. */
static void with_file(const char *name, const char *text, ds_status status, const char *says) {
    char folder[] = "/tmp/ds-embed-XXXXXX", command[1200], path[512];
    const int32_t ids[] = {1, 2};
    const ds_token_list list = {ids, 2};
    float out[MOST_WIDTH];
    assert_non_null(mkdtemp(folder));
    snprintf(command, sizeof command, "cp -r '%s'/. '%s'", FOLDER "encoder", folder);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    require(ds_file_replace(path, text, strlen(text)));
    ds_model *m = open_model(folder);
    assert_int_equal(ds_model_embed_tokens(m, &list, 1, (ds_embed_opts){0}, out), status);
    if (status != DS_OK && !strstr(ds_error(), says))
        fail_msg("\"%s\" does not say %s", ds_error(), says);
    ds_model_free(m);
    require(ds_folder_remove(folder));
}

static void test_what_folders_ask_for(void **state) {
    (void)state;
    with_file("1_Pooling/config.json", "{\"pooling_mode\": \"lasttoken\"}", DS_OK, "");
    with_file("1_Pooling/config.json", "{\"pooling_mode\": \"max\"}", DS_UNSUPPORTED, "max");
    with_file("1_Pooling/config.json", "{\"pooling_mode\": \"odd\"}", DS_UNSUPPORTED, "odd");
    with_file("1_Pooling/config.json",
              "{\"pooling_mode_cls_token\": true, \"pooling_mode_mean_tokens\": true}",
              DS_UNSUPPORTED, "several");
    with_file("1_Pooling/config.json", "{", DS_CORRUPT, "JSON");
    with_file("modules.json", "[{\"type\": \"sentence_transformers.models.Dense\"}]",
              DS_UNSUPPORTED, "Dense");
    with_file("modules.json", "[{\"type\": \"x.Pooling\", \"path\": \"../up\"}]", DS_INVALID,
              "outside");
}

/* ---- many threads ---------------------------------------------------------------------------- */

static void *embed_often(void *model) {
    const int32_t ids[] = {3, 1, 4, 1, 5};
    float first[32], again[32];
    for (size_t i = 0; i < 20; i++) {
        const ds_token_list text = {ids, 1 + i % 5};
        if (ds_model_embed_tokens(model, &text, 1, (ds_embed_opts){0}, i < 5 ? first : again) !=
            DS_OK)
            return model;
        if (i % 5 == 4 && i > 5 && memcmp(first, again, sizeof first) != 0)
            return model;
    }
    return NULL;
}

static void test_threads_may_share_a_model(void **state) {
    (void)state;
    pthread_t threads[4];
    ds_model *m = open_model(FOLDER "encoder");
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, embed_often, m), 0);
    for (int i = 0; i < 4; i++) {
        void *failed = NULL;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    ds_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_encoder),
        cmocka_unit_test(test_minilm),
        cmocka_unit_test(test_decoders),
        cmocka_unit_test(test_batches_change_nothing),
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_unsuitable_texts_are_refused),
        cmocka_unit_test(test_what_folders_ask_for),
        cmocka_unit_test(test_threads_may_share_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
